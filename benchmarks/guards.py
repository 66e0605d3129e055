"""What the guards cost: time in `run_guards` over time in `step` and `ingest`, of real runs of every engine.

    python benchmarks/guards.py [--engine classify ptycho denoise] [--out FOLDER]

Each engine runs once from the command line on simulated data; the loop, its files and its pictures are not counted. A
guard over the bound of 2 % of its engine's time is named with its own share.

Some of what a guard looks at is computed once in a run or once in a round: the comparison of geometries, the second
pass over held-out images, the fresh process that reads a saved model. That is counted apart, as evidence: it costs
seconds, not a share of each step, so its share falls with the length of the run.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beamside.cli.main import main as beamside
from beamside.run import keeper
from beamside.run.engine import Engine
from beamside.run.guard import Finding, Guard

BOUND = 0.02
HEAD = "| engine | steps | step and ingest, s | guards, s | share | dearest guard | its share | evidence, s |"
EVIDENCE = (
    ("beamside.ptycho.opening", "compare"),
    ("beamside.denoise.gate", "independent"),
    ("beamside.denoise.gate", "in_fresh_process"),
)
"""Functions whose only use is that a guard can look at their result."""


@dataclass
class Spent:
    """Seconds, and how many steps there were."""

    engine: float = 0.0
    guards: float = 0.0
    evidence: float = 0.0
    steps: int = 0
    each: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def counted(spent: Spent, function: Callable[..., Any], *, step: bool) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.engine += time.perf_counter() - began
            spent.steps += step

    return call


def evident(spent: Spent, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.evidence += time.perf_counter() - began

    return call


def watched(spent: Spent) -> Callable[[Iterable[Guard], str, Any], list[Finding]]:
    """`run_guards` with a clock for each guard."""

    def run_guards(guards: Iterable[Guard], boundary: str, subject: Any) -> list[Finding]:
        found = []
        began = time.perf_counter()
        for guard in guards:
            if guard.boundary == boundary:
                before = time.perf_counter()
                found.append(guard.check(subject))
                spent.each[guard.name] += time.perf_counter() - before
        spent.guards += time.perf_counter() - began
        return [finding for finding in found if finding is not None]

    return run_guards


def measure(engine: type[Engine], arguments: list[str]) -> Spent:
    """One run under the clock."""
    spent = Spent()
    kept = engine.step, engine.ingest, keeper.run_guards
    engine.step, engine.ingest = counted(spent, kept[0], step=True), counted(spent, kept[1], step=False)  # type: ignore[method-assign]
    keeper.run_guards = watched(spent)
    modules = [(importlib.import_module(module), name) for module, name in EVIDENCE]
    originals = [getattr(module, name) for module, name in modules]
    for (module, name), original in zip(modules, originals, strict=True):
        setattr(module, name, evident(spent, original))
    try:
        if beamside(arguments):
            raise SystemExit(f"{' '.join(arguments)} failed")
    finally:
        engine.step, engine.ingest, keeper.run_guards = kept  # type: ignore[method-assign]
        for (module, name), original in zip(modules, originals, strict=True):
            setattr(module, name, original)
    spent.engine -= spent.evidence
    return spent


def classify(folder: Path) -> Spent:
    from beamside.classify.engine import Classifier
    from beamside.simulate.particles import Recipe, Session
    from beamside.simulate.session_files import write_once
    from beamside.simulate.volumes import load_volume

    volume, _ = load_volume("walk", 64, 4.0, 0.0)
    write_once(folder / "session", Session(volume, Recipe(64, 4.0, 2000, snr=0.2, seed=1)), volume)
    options = [
        "--classes",
        "20",
        "--first-batch",
        "1000",
        "--batch-size",
        "500",
        "--iterations",
        "8",
        "--quiet",
        "--threads",
        "1",
    ]
    return measure(Classifier, ["classify", str(folder / "session" / "particles.star"), str(folder / "run"), *options])


def ptycho(folder: Path) -> Spent:
    from beamside.ptycho.engine import Ptychography
    from beamside.simulate.scan import Scan, ScanRecipe
    from beamside.simulate.scan_files import write_scan

    write_scan(folder / "scan.cxi", Scan(ScanRecipe(frames=500, frame_px=128)))
    return measure(Ptychography, ["ptycho", str(folder / "scan.cxi"), str(folder / "run"), "--quiet", "--threads", "1"])


def denoise(folder: Path) -> Spent:
    from beamside.denoise.engine import Denoiser
    from beamside.simulate.micrograph_files import write_micrographs
    from beamside.simulate.micrographs import Recipe, Session

    write_micrographs(folder / "in", Session(Recipe(size_px=512, count=6)))
    options = ["--steps", "200", "--crop", "64", "--batch", "4", "--quiet", "--threads", "1"]
    return measure(Denoiser, ["denoise", "train", str(folder / "in"), str(folder / "run"), *options])


ENGINES = {"classify": classify, "ptycho": ptycho, "denoise": denoise}


def row(name: str, spent: Spent) -> str:
    dearest = max(spent.each, key=lambda guard: spent.each[guard])
    share, own = spent.guards / spent.engine, spent.each[dearest] / spent.engine
    return (
        f"| {name} | {spent.steps} | {spent.engine:.2f} | {spent.guards:.4f} | {share:.3%} | `{dearest}` | {own:.3%} |"
        f" {spent.evidence:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="*", choices=sorted(ENGINES), default=sorted(ENGINES))
    parser.add_argument("--out", type=Path, help="keep the runs in this folder (default: they are thrown away)")
    args = parser.parse_args()
    rows, over = [HEAD, "|" + " --- |" * 8], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.engine:
            folder = (args.out or Path(scratch)) / name
            folder.mkdir(parents=True)
            spent = ENGINES[name](folder)
            rows.append(row(name, spent))
            over += [f"{name}: {guard}" for guard, s in spent.each.items() if s > BOUND * spent.engine]
            over += [f"{name}: all guards together"] if spent.guards > BOUND * spent.engine else []
    print("\n".join(rows))
    print(f"Over {BOUND:.0%}: {', '.join(over) or 'none'}.")


if __name__ == "__main__":
    main()
