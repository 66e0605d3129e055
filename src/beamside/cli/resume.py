"""`beamside resume RUN`: hands a run back to the verb that began it."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from beamside.errors import RunDirectoryError

HELP = "go on with a run that was interrupted or killed"


def configure(parser: argparse.ArgumentParser) -> None:
    """The run directory; the options are those with which the run began."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="directory of the run")


def run(args: argparse.Namespace) -> int:
    """Call `resume(run_dir)` of the verb named in run.json.

    Raises:
        RunDirectoryError: there is no run, or it names a verb that cannot resume.
    """
    from beamside.cli.main import VERBS
    from beamside.run.store import MANIFEST, Store

    verb = Store(args.run_dir).manifest.get("verb")
    module = importlib.import_module(VERBS[verb][0]) if verb in VERBS else None
    resume = getattr(module, "resume", None)
    if resume is None:
        raise RunDirectoryError(
            f"the run was begun by '{verb}', which this version cannot resume.",
            where=str(args.run_dir / MANIFEST),
            remedy="Use the version of beamside that the file names.",
        )
    return int(resume(args.run_dir))
