"""`beamside status RUN`: what a run is doing and whether to trust it; reads, never writes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamside.run.ledger import Event
    from beamside.run.lock import Holder

HELP = "what a run is doing, how far it is, and whether to trust it"

_VERDICTS = {
    "trusted": "trusted: no guard has tripped and there is enough data",
    "provisional": "provisional: too little data to be trusted yet",
    "suspect": "suspect: do not use it before you have read the findings",
}

_TURNS = {
    "begun": "killed; 'beamside resume' goes on with it",
    "resumed": "killed; 'beamside resume' goes on with it",
    "interrupted": "interrupted; 'beamside resume' goes on with it",
    "failed": "failed",
    "stopped": "stopped by a guard",
    "finished": "finished",
}
"""Event -> the state of a run that nobody holds and in which it was the last turn."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The run directory, and the form of the answer."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="directory of the run")
    parser.add_argument("--json", action="store_true", help="for programs: the same as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the status.

    Raises:
        RunDirectoryError: there is no run.
    """
    status = gather(args.run_dir)
    print(json.dumps(status, indent=1) if args.json else words(status))
    return 0


def gather(run_dir: Path) -> dict[str, Any]:
    """The status as plain JSON values."""
    from beamside.run import ledger as ledgers
    from beamside.run import lock
    from beamside.run.encode import public_json
    from beamside.run.store import Store

    store = Store(run_dir)
    holder = lock.holder(run_dir)
    with ledgers.Ledger(run_dir / ledgers.NAME, read_only=True) as ledger:
        events = ledger.events()
        status = {
            "run": str(run_dir),
            "verb": store.manifest.get("verb"),
            "state": _state(holder, events),
            "holder": None if holder is None else holder.words(),
            "items": ledger.items(),
            "items_in_use": ledger.in_batches(),
            "batches": len(ledger.batches()),
            "snapshots": len(store.snapshots()),
            "metrics": ledger.latest_metrics(),
            "findings": [
                {"step": step, "guard": finding.guard, "severity": finding.severity, "sentence": finding.sentence()}
                for step, finding in ledger.findings()
            ],
        }
    latest = store.latest_snapshot()
    status["snapshot"] = None if latest is None else str(store.snapshots()[-1])
    status["verdict"] = None if latest is None else latest["verdict"]
    status["provisional"] = "" if latest is None else latest["provisional"]
    status["coverage"] = None if latest is None else latest["coverage"]
    status["result"] = str(store.result) if store.result.is_dir() else None
    plain: dict[str, Any] = json.loads(public_json(status))
    return plain


def words(status: dict[str, Any]) -> str:
    """The status for a person."""
    held = f", {status['holder']}" if status["holder"] else ""
    lines = [
        f"{status['run']} ({status['verb']}): {status['state']}{held}",
        f"items: {status['items']} arrived, {status['items_in_use']} in use; "
        f"batches: {status['batches']}; snapshots: {status['snapshots']}",
    ]
    if status["metrics"]:
        lines.append("latest: " + ", ".join(f"{name} {_number(v)}" for name, v in status["metrics"].items()))
    if status["verdict"] is None:
        lines.append("verdict: none yet, nothing has been published")
    else:
        why = f" ({status['provisional']})" if status["provisional"] else ""
        lines.append(f"verdict: {_VERDICTS[status['verdict']]}{why}")
    lines += [f"  {sentence}" for sentence in _said_once(status["findings"])]
    if status["snapshot"]:
        lines.append(f"newest snapshot: {status['snapshot']}")
    if status["result"]:
        lines.append(f"result: {status['result']}")
    return "\n".join(lines)


def _said_once(findings: Sequence[dict[str, Any]]) -> list[str]:
    """Each guard's first finding, and how often it has tripped."""
    first: dict[str, dict[str, Any]] = {}
    count: dict[str, int] = {}
    for finding in findings:
        first.setdefault(finding["guard"], finding)
        count[finding["guard"]] = count.get(finding["guard"], 0) + 1
    return [
        f"{finding['sentence']} (step {finding['step']}" + (f", {count[guard]} times)" if count[guard] > 1 else ")")
        for guard, finding in first.items()
    ]


def _state(holder: Holder | None, events: Sequence[Event]) -> str:
    """What the run does, for people; one that nobody holds and that left no last word was killed."""
    if holder is not None:
        return "running"
    last = next((event for event in reversed(events) if event.kind in _TURNS), None)
    kind = "begun" if last is None else last.kind
    return f"failed ({last.text})" if last is not None and kind == "failed" else _TURNS[kind]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
