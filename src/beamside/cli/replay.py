"""`beamside replay RUN/dumps/N`: the engine on the exact inputs and state that a guard, or a person, had kept.

The verb that began the run gives `engine_of(values)`, the engine's class and its options from what run.json holds, and
`source_of(values, header)`, where items come from whose pixels the dump has no room for; there `values["run_dir"]` is
the run's directory, which holds what a live run received.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from beamside.errors import BeamsideError, RunDirectoryError

if TYPE_CHECKING:
    from beamside.run.replay import Dump
    from beamside.run.source import Source

HELP = "run an engine again on the dump that a guard left, and see the finding again"


def configure(parser: argparse.ArgumentParser) -> None:
    """The dump."""
    parser.add_argument("dump", metavar="DUMP", type=Path, help="a folder under RUN/dumps")


def run(args: argparse.Namespace) -> int:
    """Print what the guards say of it; 1 when the finding does not come again.

    Raises:
        RunDirectoryError: the folder is no dump, or of a verb that cannot replay.
    """
    from beamside.cli.main import VERBS
    from beamside.run.replay import read_dump, replay

    dump = read_dump(args.dump)
    module = importlib.import_module(VERBS[dump.verb][0]) if dump.verb in VERBS else None
    if module is None or not hasattr(module, "engine_of"):
        raise RunDirectoryError(
            f"the run was begun by '{dump.verb}', which this version cannot replay.",
            where=str(args.dump),
            remedy="Use the version of beamside that run.json names.",
        )
    engine, options = module.engine_of(dump.options)
    source = _source(dump, module.source_of) if None in dump.batches else None
    try:
        found = replay(dump, engine, options, source)
    finally:
        getattr(source, "close", lambda: None)()
    print(f"{args.dump}: step {dump.step}, {len(dump.records)} batches; {dump.finding or 'dumped on request.'}")
    for finding in found.findings:
        print(finding.sentence())
    if dump.guard is None:
        return 0
    when = "in the state as it was dumped" if not found.further_steps else "after one further step"
    print(f"{dump.guard}: {'reproduced ' + when if found.reproduced else 'not reproduced'}.")
    return 0 if found.reproduced else 1


def _source(dump: Dump, source_of: object) -> Source:
    """The run's source, for batches that are not in the dump."""
    assert callable(source_of)
    try:
        run_dir = dump.folder.absolute().parents[1]
        made: Source = source_of({**dump.options, "run_dir": str(run_dir)}, dump.header)
    except BeamsideError as error:
        raise RunDirectoryError(
            f"some batches are not in the dump, and the run's input cannot be opened: {error.what}",
            where=error.where or str(dump.folder),
            remedy="Bring the input back to its place.",
        ) from error
    return made
