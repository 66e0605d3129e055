"""`beamside stop RUN`: asks a live run, from another terminal, to finish."""

from __future__ import annotations

import argparse
from pathlib import Path

from beamside.errors import RunDirectoryError

HELP = "ask a live run to use what has arrived, finish, and write its result"


def configure(parser: argparse.ArgumentParser) -> None:
    """The run directory."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="directory of the run")


def run(args: argparse.Namespace) -> int:
    """Leave the request in the run's inbox; the run reads it between two steps.

    Raises:
        RunDirectoryError: there is no run, or no process holds it.
    """
    from beamside.run import ledger as ledgers
    from beamside.run import lock
    from beamside.run.store import Store

    store = Store(args.run_dir)
    holder = lock.holder(args.run_dir)
    if holder is None and store.result.is_dir():
        raise RunDirectoryError(
            "this run has finished already.", where=str(args.run_dir), remedy=f"Its result is in {store.result}."
        )
    if holder is None:
        raise RunDirectoryError(
            "no process runs this.",
            where=str(args.run_dir),
            remedy=f"See 'beamside status {args.run_dir}'; 'beamside resume {args.run_dir}' goes on with it.",
        )
    with ledgers.Ledger(args.run_dir / ledgers.NAME) as ledger:
        ledger.ask(ledgers.Request.STOP)
    print(f"Asked {holder.words()} to finish with what has arrived. It writes {args.run_dir / 'result'} and ends.")
    return 0
