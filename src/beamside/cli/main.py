"""`beamside`: one module a verb, loaded only when that verb is asked for.

A verb's module gives three things: `HELP`, one line; `configure(parser)`, which adds its arguments (the run
directory, if it has one, is stored as `run_dir`); and `run(args)`, which does the work and returns the exit status.
It imports heavy libraries inside `run`. A verb that makes runs also gives `resume(run_dir)`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from beamside import __version__
from beamside.errors import BeamsideError, GuardStop

REFUSED, STOPPED, CRASHED, INTERRUPTED = 2, 3, 1, 130

VERBS = {
    "classify": ("beamside.cli.classify", "2D classes of cryo-EM particles, from a file or live from a folder"),
    "ptycho": ("beamside.cli.ptycho", "the complex object and the probe of a ptychographic scan, from a file or live"),
    "denoise": (
        "beamside.cli.denoise",
        "train a denoiser on the halves as they arrive; apply, evaluate, import, export",
    ),
    "simulate": ("beamside.cli.simulate", "make data with a known truth, at once or as a session that grows"),
    "publish": ("beamside.cli.publish", "replay a ptychographic scan over sockets, as if it were live"),
    "export": ("beamside.cli.export", "a run's result in another form"),
    "inspect": (
        "beamside.cli.inspect",
        "what is odd about a particle set or a run, and what a new run would make of it",
    ),
    "merge": ("beamside.cli.merge", "join particle sets of several sessions; results of earlier searches stay behind"),
    "select": ("beamside.cli.select", "the particles of chosen classes, for a next run or another program"),
    "replay": ("beamside.cli.replay", "run an engine again on the dump that a guard left, and see the finding again"),
    "doctor": ("beamside.cli.doctor", "versions, device, disk, and a self-check of every engine against known truth"),
    "status": ("beamside.cli.status", "what a run is doing, how far it is, and whether to trust it"),
    "resume": ("beamside.cli.resume", "go on with a run that was interrupted or killed"),
    "stop": ("beamside.cli.stop", "ask a live run to use what has arrived, finish, and write its result"),
}
"""name -> (module, one line of help); the module's HELP is that same line."""


_WRITERS = ("classify", "ptycho", "denoise", "resume")
"""Verbs that hold the run directory they name."""
_HOLDERS = (*_WRITERS, "stop")
"""Verbs whose crash is the run's; the others only read a run, or none."""


class Verb(Protocol):
    """What the module of a verb gives."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit status."""
        ...


def load(name: str) -> Verb:
    """The module of a verb."""
    return cast(Verb, importlib.import_module(VERBS[name][0]))


def parser_for(chosen: str | None) -> argparse.ArgumentParser:
    """The command line; only the chosen verb has its arguments, so that no other module is loaded."""
    parser = argparse.ArgumentParser(
        prog="beamside",
        description="What a running microscope sees, reconstructed while it acquires, and whether to trust it.",
    )
    parser.add_argument("--version", action="version", version=f"beamside {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (_, help_line) in VERBS.items():
        verb = verbs.add_parser(name, help=help_line, description=help_line)
        if name == chosen:
            load(name).configure(verb)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status.

    0 done; 1 unexpected failure; 2 refused, with one paragraph on stderr; 3 a guard stopped the run; 130 interrupted.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    chosen = given[0] if given and given[0] in VERBS else None
    args = parser_for(chosen).parse_args(given)
    try:
        _refuse_a_second_process(args)
        return load(args.verb).run(args)
    except GuardStop as error:
        print(f"beamside: {error.paragraph()}", file=sys.stderr)
        return STOPPED
    except BeamsideError as error:
        print(f"beamside: {error.paragraph()}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("beamside: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has had enough (`| head`); what Python flushes at its end must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CRASHED
    except Exception as error:
        run_dir = getattr(args, "run_dir", None) if args.verb in _HOLDERS else None
        begun = run_dir is not None and (Path(run_dir) / "run.json").is_file()
        if isinstance(error, OSError) and not begun:
            from beamside.cli import places

            if (words := places.told(error)) is not None:
                print(f"beamside: {words}", file=sys.stderr)
                return REFUSED
        return _crashed(error, run_dir)


def _refuse_a_second_process(args: argparse.Namespace) -> None:
    """Two processes in one run directory: the second ends before it has loaded anything heavy."""
    run_dir = getattr(args, "run_dir", None)
    if args.verb in _WRITERS and run_dir is not None:
        from beamside.run import lock

        lock.refuse_if_held(Path(run_dir))


def _crashed(error: Exception, run_dir: Path | None) -> int:
    import traceback

    text = "".join(traceback.format_exception(error))
    head = f"beamside: unexpected {type(error).__name__}: {error}"
    if run_dir is not None and Path(run_dir).is_dir():
        place = Path(run_dir) / "crash.txt"
        with suppress(OSError):  # on a full disk the details go to the terminal
            place.write_text(text)
            print(f"{head}\nThe details are in {place}. Go on by: beamside resume {run_dir}", file=sys.stderr)
            return CRASHED
    print(f"{text}{head}", file=sys.stderr)
    return CRASHED
