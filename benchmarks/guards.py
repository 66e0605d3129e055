"""What the guards cost, in processor seconds, of real runs of every engine at their defaults and of real length.

    python benchmarks/guards.py [--engine classify ptycho denoise] [--minutes 20] [--out FOLDER]

Two figures an engine, each over the time in `step` and `ingest` that is neither:

- guards: the checks themselves, at every step (`run_guards`). One over the bound of 2 % is named with its own share.
- with evidence: what is computed only so that a guard can look at it is added. Pixels looked through for NaN (in
  classify all that `ingest` does, reading included), the displacement of halves, the comparison of geometries, how
  much an arrival changed the object, the margin by which a volume explains particles better than free classes, the
  second pass over held-out images, and the fresh process that reads a saved model (its own time, without the import
  of torch: it is forked from this process before a run begins).

The loop, its files and its pictures are not counted. Processor time, of this process and of those it waited for, so
that what else the machine does makes no difference.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from beamside.cli.main import main as beamside
from beamside.denoise import witness
from beamside.run import keeper
from beamside.run.engine import Engine
from beamside.run.guard import Finding, Guard

BOUND = 0.02
HEAD = (
    "| engine | steps | step and ingest, s | guards, s | share | dearest guard | its share | evidence, s "
    "| share with evidence | dearest evidence | its share |"
)
EVIDENCE = {
    "classify": (("classify.engine", "Classifier.ingest"), ("classify.survey", "Survey._gain")),
    "ptycho": (
        ("ptycho.frames", "FrameStore._judge"),
        ("ptycho.frames", "FrameStore._add_roots"),
        ("ptycho.opening", "as_given"),
        ("ptycho.opening", "compare"),
        ("ptycho.engine", "well_lit"),
        ("ptycho.engine", "_change"),
    ),
    "denoise": (
        ("denoise.intake", "shared_noise"),
        ("denoise.intake", "displacement"),
        ("denoise.gate", "independent"),
        ("denoise.gate", "in_fresh_process"),
    ),
}
"""Functions whose only use is that a guard can look at their result, or (the margin) that decide and are looked at."""


def processor_s() -> float:
    """Of this process, its children that have ended, and the one that is kept to read models, with its children."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept, ticks = witness.present(), 0
    if kept is not None:
        fields = Path(f"/proc/{kept.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = sum(int(field) for field in fields[11:15])
    return time.process_time() + ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class Spent:
    """Seconds, and how many steps there were."""

    engine: float = 0.0
    guards: float = 0.0
    steps: int = 0
    each: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    evidence: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    within: int = 0

    @property
    def gathered(self) -> float:
        return sum(self.evidence.values())

    @property
    def work(self) -> float:
        """What is neither guard nor evidence."""
        return self.engine - self.gathered


def counted(spent: Spent, function: Callable[..., Any], *, step: bool) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = processor_s()
        try:
            return function(*args, **kwargs)
        finally:
            spent.engine += processor_s() - began
            spent.steps += step

    return call


def evident(spent: Spent, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        began, spent.within = processor_s(), spent.within + 1
        try:
            return function(*args, **kwargs)
        finally:
            spent.within -= 1
            if not spent.within:
                spent.evidence[name] += processor_s() - began

    return call


def watched(spent: Spent) -> Callable[[Iterable[Guard], str, Any], list[Finding]]:
    """`run_guards` with a clock for each guard."""

    def run_guards(guards: Iterable[Guard], boundary: str, subject: Any) -> list[Finding]:
        found = []
        began = processor_s()
        for guard in guards:
            if guard.boundary == boundary:
                before = processor_s()
                found.append(guard.check(subject))
                spent.each[guard.name] += processor_s() - before
        spent.guards += processor_s() - began
        return [finding for finding in found if finding is not None]

    return run_guards


def measure(name: str, engine: type[Engine], arguments: list[str]) -> Spent:
    """One run under the clock."""
    spent = Spent()
    with ExitStack() as patches:
        for owner, attribute, made in (
            (engine, "step", counted(spent, engine.step, step=True)),
            (engine, "ingest", counted(spent, engine.ingest, step=False)),
            (keeper, "run_guards", watched(spent)),
        ):
            patches.enter_context(patch.object(owner, attribute, made))
        for module, path in EVIDENCE[name]:
            owner: Any = importlib.import_module(f"beamside.{module}")
            *outer, attribute = path.split(".")
            for part in outer:
                owner = getattr(owner, part)
            patches.enter_context(patch.object(owner, attribute, evident(spent, path, getattr(owner, attribute))))
        if beamside(arguments):
            raise SystemExit(f"{' '.join(arguments)} failed")
    return spent


def classify(folder: Path, minutes: float) -> Spent:
    from beamside.classify.engine import Classifier
    from beamside.simulate.particles import Recipe, Session
    from beamside.simulate.session_files import write_once
    from beamside.simulate.volumes import load_volume

    volume, _ = load_volume("walk", 64, 4.0, 0.0)
    write_once(folder / "session", Session(volume, Recipe(64, 4.0, 5000, snr=0.05, seed=1)), volume)
    star = folder / "session" / "particles.star"
    return measure("classify", Classifier, ["classify", str(star), str(folder / "run"), *QUIET])


def ptycho(folder: Path, minutes: float) -> Spent:
    from beamside.ptycho.engine import Ptychography
    from beamside.simulate.scan import Scan, ScanRecipe
    from beamside.simulate.scan_files import write_scan

    write_scan(folder / "scan.cxi", Scan(ScanRecipe(frames=4000, frame_px=128)))
    return measure("ptycho", Ptychography, ["ptycho", str(folder / "scan.cxi"), str(folder / "run"), *QUIET])


def denoise(folder: Path, minutes: float) -> Spent:
    from beamside.denoise.engine import Denoiser
    from beamside.simulate.micrograph_files import write_micrographs
    from beamside.simulate.micrographs import Recipe, Session

    write_micrographs(folder / "in", Session(Recipe(size_px=1024, count=16)))
    words = ["denoise", "train", str(folder / "in"), str(folder / "run"), "--init", "none", *QUIET]
    return measure("denoise", Denoiser, [*words, "--max-minutes", f"{minutes:g}"])


QUIET = ("--quiet", "--threads", "1")
ENGINES = {"classify": classify, "ptycho": ptycho, "denoise": denoise}


def dearest(seconds: dict[str, float], of: float) -> str:
    name = max(seconds, key=lambda each: seconds[each])
    return f"`{name}` | {seconds[name] / of:.3%}"


def row(name: str, spent: Spent) -> str:
    work = spent.work
    return (
        f"| {name} | {spent.steps} | {work:.2f} | {spent.guards:.4f} | {spent.guards / work:.3%} "
        f"| {dearest(spent.each, work)} | {spent.gathered:.2f} | {(spent.guards + spent.gathered) / work:.2%} "
        f"| {dearest(spent.evidence, work)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="*", choices=sorted(ENGINES), default=sorted(ENGINES))
    parser.add_argument("--minutes", type=float, default=20.0, help="of the training (20, its default)")
    parser.add_argument("--out", type=Path, help="keep the runs in this folder (default: they are thrown away)")
    args = parser.parse_args()
    rows, over = [HEAD, "|" + " --- |" * 11], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.engine:
            folder = (args.out or Path(scratch)) / name
            folder.mkdir(parents=True)
            spent = ENGINES[name](folder, args.minutes)
            rows.append(row(name, spent))
            shares = {**spent.each, "all guards": spent.guards, "guards with evidence": spent.guards + spent.gathered}
            over += [f"{name}: {what} {s / spent.work:.2%}" for what, s in shares.items() if s > BOUND * spent.work]
    print("\n".join(rows))
    print(f"Over {BOUND:.0%}: {', '.join(over) or 'none'}.")


if __name__ == "__main__":
    main()
