"""beamside's 2D classes beside RELION's and ASPIRE's: whole processes on the same particles, one scorer for all.

    BEAMSIDE_SHARED=... python benchmarks/classify.py --sets u2k apoferritin --seeds 0 1 2

Particles are made by the reference data's own simulator and scored by its scorer, so nothing of ours judges itself.
Prints a Markdown table and the ratios of wall-clock and processor time, and keeps everything under --out. Time is that
of a whole process from its start to its end, with imports, reading and writing; memory is its largest resident size.
RELION may be run for fewer iterations than it needs (--relion-iterations); its time is then multiplied, and said so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Scores = dict[str, Any]
MAP = ("--map", "models/clean70SRibosome_vol_65p.mrc", "--apix-in", "5")
RELION_NEEDS = 25
"""Iterations of a RELION 2D classification by its own default in the graphical interface."""


@dataclass(frozen=True)
class Set:
    """Particles to classify. simulate: arguments of the simulator; first: use so many of its particles."""

    classes: int
    simulate: tuple[str, ...]
    first: int = 0
    diameter_A: int = 300


_UNIFORM = (*MAP, "--box", "64", "--apix", "5", "--n", "5000", "--views", "uniform", "--seed", "1")
SETS = {
    "u2k": Set(20, _UNIFORM, first=2000),
    "u64": Set(50, _UNIFORM),
    "p64": Set(50, (*MAP, "--box", "64", "--apix", "5", "--n", "5000", "--views", "preferred", "--seed", "2")),
    "pink": Set(50, (*_UNIFORM, "--noise", "pink")),
    "junk": Set(50, (*_UNIFORM, "--junk", "0.2")),
    "snr02": Set(50, (*_UNIFORM, "--snr", "0.02")),
    "snr10": Set(50, (*_UNIFORM, "--snr", "0.1")),
    "u128": Set(50, (*MAP, "--box", "128", "--apix", "2.5", "--n", "5000", "--views", "uniform", "--seed", "1")),
}
REAL = "apoferritin"


@dataclass(frozen=True)
class Row:
    """One program on one set. factor: by which its times were multiplied. note: what a reader must know."""

    program: str
    set: str
    seed: int
    wall_s: float
    cpu_s: float
    memory_MB: float
    factor: float = 1.0
    note: str = ""
    scores: Scores = field(default_factory=dict)
    classes: str = ""


def measured(command: Sequence[str], cwd: Path, log: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds, and MB of a process, children included; an error when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(
            f"{' '.join(command)}\nfailed with {process.returncode}; see {log}:\n{log.read_text()[-2000:]}"
        )
    return wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


class Bench:
    """The folders and settings that every program shares."""

    def __init__(self, args: argparse.Namespace, shared: Path) -> None:
        self.args, self.shared, self.out = args, shared, Path(args.out).resolve()
        self.tools = shared / "bench" / "classify"

    def tool(self, name: str, *arguments: str) -> str:
        """Runs a script of the reference data; its last line of output."""
        command = [sys.executable, "-W", "ignore", str(self.tools / name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.out, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return done.stdout.strip().splitlines()[-1]

    def particles(self, name: str) -> Path:
        """The set's STAR file, made unless it is there; `_truth.star` and `_vol.mrc` lie beside it."""
        if name == REAL:
            return self.shared / "data" / "empiar10146" / "particles.star"
        star = self.out / "data" / f"{name}.star"
        if not star.exists():
            star.parent.mkdir(parents=True, exist_ok=True)
            given = [str(self.shared / "data" / a) if a.endswith(".mrc") else a for a in SETS[name].simulate]
            self.tool("simulate.py", *given, "--out", str(star.with_suffix("")))
            for table in (star, truth_of(star)):
                keep_first(table, SETS[name].first)
        return star

    def beamside(self, name: str, seed: int, extra: Sequence[str] = (), label: str = "beamside") -> Row:
        """One run of ours, scored."""
        star, run = self.particles(name), self.out / f"{name}_{label.replace(' ', '_')}_{seed}"
        shutil.rmtree(run, ignore_errors=True)
        command = [sys.executable, "-m", "beamside", "classify", str(star), str(run), "--quiet"]
        command += ["--classes", str(self.classes(name)), "--seed", str(seed), "--threads", str(self.args.threads)]
        used = measured([*command, *extra], self.out, run.with_suffix(".log"))
        data, classes = newest(run / "result", "data.star"), newest(run / "result", "classes.mrcs")
        return Row(label, name, seed, *used, scores=self.scored(name, data, classes), classes=str(classes))

    def relion(self, name: str, star: Path, note: str = "") -> Row:
        """RELION with the settings of its graphical interface, for --relion-iterations iterations."""
        folder = self.out / f"{name}_relion"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done = self.args.relion_iterations
        diameter_A = 128 if name == REAL else SETS[name].diameter_A
        words = f"--ctf --tau2_fudge 2 --particle_diameter {diameter_A} --K {self.classes(name)} --iter {done}"
        words += " --flatten_solvent --zero_mask --oversampling 1 --psi_step 12 --offset_range 5 --offset_step 2"
        words += f" --norm --scale --pad 2 --pool 30 --preread_images --j {self.args.threads} --random_seed 1"
        words += " --dont_combine_weights_via_disc"
        command = ["relion_refine", "--i", star.name, "--o", str(folder / "run"), *words.split()]
        wall_s, cpu_s, memory_MB = measured(command, star.parent, folder / "relion.log")
        factor = RELION_NEEDS / done
        if factor != 1:
            note = f"{note} time of {done} iterations x {factor:g}; scores after {done}".strip()
        data, classes = newest(folder, "data.star"), newest(folder, "classes.mrcs")
        scores = self.scored(name, data, classes)
        return Row(
            "RELION", name, 0, wall_s * factor, cpu_s * factor, memory_MB, factor, note, scores, classes=str(classes)
        )

    def aspire(self, name: str) -> Row:
        """ASPIRE's neighbour averages; its scorer tells how far the neighbours' views are apart."""
        star, stem = self.particles(name), self.out / f"{name}_aspire"
        command = [sys.executable, "-W", "ignore", str(self.tools / "run_aspire.py"), star.name, str(stem)]
        used = measured([*command, str(self.classes(name))], star.parent, stem.with_suffix(".log"))
        # All neighbours; the averaged ones are beside them, with rotations in a form that the scorer refuses.
        text = self.tool("score_aspire.py", str(truth_of(star)), f"{stem}_nn.npz")
        return Row("ASPIRE", name, 0, *used, note=text)

    def classes(self, name: str) -> int:
        """How many classes a set gets."""
        return int(self.args.classes or (12 if name == REAL else SETS[name].classes))

    def scored(self, name: str, data: Path, classes: Path) -> Scores:
        """The scorer's JSON, with the truth, or with the projections of the atomic model for the real set."""
        if name == REAL:
            return dict(json.loads(self.tool("apoferritin_views.py", str(classes), "--data", str(data))))
        star = self.particles(name)
        truth = ("--truth", str(truth_of(star)), "--vol", str(star.with_name(f"{name}_vol.mrc")))
        return dict(json.loads(self.tool("evaluate.py", *truth, "--result", str(data), "--classes", str(classes))))


def truth_of(star: Path) -> Path:
    """The table of true poses beside a simulated set."""
    return star.with_name(f"{star.stem}_truth.star")


def keep_first(table: Path, count: int) -> None:
    """Cut a STAR file behind its first `count` particles; 0 keeps all."""
    lines = table.read_text().splitlines()
    rows = [number for number, line in enumerate(lines) if "@" in line]
    if count and len(rows) > count:
        table.write_text("\n".join(lines[: rows[count]]) + "\n\n")


def newest(folder: Path, ending: str) -> Path:
    """The last iteration's file."""
    found = sorted(folder.glob(f"run_it*_{ending}"))
    if not found:
        raise SystemExit(f"{folder} holds no run_it*_{ending}")
    return found[-1]


SIMULATED = {
    "purity15": "purity 15",
    "purity30": "purity 30",
    "frc_area": "FRC area",
    "view_median": "view angle",
    "n_used": "classes used",
}
APOFERRITIN = {
    "best": "best class",
    "over_half": "classes >= .5",
    "weighted": "weighted mean",
    "largest": "largest class",
    "over_2_percent": "classes > 2 %",
}


def table(rows: Sequence[Row], wanted: dict[str, str]) -> str:
    """Markdown."""
    head = ["set", "program", "seed", *wanted.values(), "wall s", "CPU s", "MB", "note"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        scores = [str(row.scores.get(name, "")) for name in wanted]
        used = [f"{row.wall_s:.1f}", f"{row.cpu_s:.1f}", f"{row.memory_MB:.0f}"]
        lines.append(f"| {' | '.join([row.set, row.program, str(row.seed), *scores, *used, row.note])} |")
    return "\n".join(lines)


def spread(rows: Sequence[Row], wanted: dict[str, str]) -> list[str]:
    """For each set and program with several seeds, mean and worst of the scores and of the time."""
    lines = []
    for key in dict.fromkeys((row.set, row.program) for row in rows):
        own = [row for row in rows if (row.set, row.program) == key]
        if len(own) < 2:
            continue
        parts = []
        for name, title in wanted.items():
            values = [float(row.scores[name]) for row in own]
            worst = max(values) if name in ("view_median", "largest") else min(values)
            parts.append(f"{title} {sum(values) / len(values):.3f} ({worst:g})")
        seconds = [row.wall_s for row in own]
        parts.append(f"wall {sum(seconds) / len(seconds):.1f} s ({max(seconds):.1f})")
        lines.append(f"- {' '.join(key)}, {len(own)} seeds, mean (worst): {', '.join(parts)}")
    return lines


def ratios(rows: Sequence[Row]) -> list[str]:
    """How much longer a peer takes than we do, on the mean of our seeds."""
    lines = []
    for peer in rows:
        own = [row for row in rows if row.set == peer.set and row.program == "beamside"]
        if peer.program.startswith("beamside") or not own:
            continue
        wall = peer.wall_s / (sum(row.wall_s for row in own) / len(own))
        cpu = peer.cpu_s / (sum(row.cpu_s for row in own) / len(own))
        how = f" ({peer.note})" if peer.factor != 1 else ""
        lines.append(
            f"- {peer.set}: {peer.program} takes {wall:.1f} times the wall and {cpu:.1f} times the CPU time{how}"
        )
    return lines


def side_by_side(rows: Sequence[Row], path: Path) -> None:
    """Class averages of each row by occupancy, one strip a program."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from beamside.formats.mrc import read_map
    from beamside.formats.star import read_star

    strips = []
    for row in rows:
        images, _ = read_map(row.classes)
        data = row.classes.replace("classes.mrcs", "data.star")
        number = read_star(data)["particles"].ints("rlnClassNumber")
        counts = np.bincount(number, minlength=len(images) + 1)[1:]
        strips.append((row.program, images, counts, np.argsort(-counts, kind="stable")[:20]))
    across = max(len(order) for *_, order in strips)
    tall = 1.7 * len(strips)
    figure = Figure(figsize=(1.1 * across, tall), dpi=100)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(strips), across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (program, images, counts, order) in zip(grid, strips, strict=True):
        for axes, k in zip(line, order, strict=False):
            low, high = np.percentile(images[k], [0.5, 99.5])
            axes.imshow(images[k], cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axes.set_title(f"{100 * counts[k] / counts.sum():.1f} %", fontsize=7)
        line[0].text(0.0, 1.3, program, fontsize=9, weight="bold", transform=line[0].transAxes)
    figure.subplots_adjust(0.01, 0.02, 0.99, 1 - 0.5 / tall, 0.05, 0.55)
    figure.savefig(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sets", nargs="+", choices=[*SETS, REAL], default=["u2k", REAL], help="what to classify (u2k apoferritin)")
    add("--seeds", nargs="+", type=int, default=[0], help="seeds of our runs (0)")
    add("--classes", type=int, default=0, metavar="K", help="classes (each set's own: 20 or 50, apoferritin 12)")
    add("--threads", type=int, default=2, help="threads of every program (2)")
    add("--relion-iterations", type=int, default=2, metavar="N", help="iterations that RELION is run for (2)")
    add("--no-peers", action="store_true", help="run ours alone")
    add("--out", type=Path, default=Path(__file__).parent / "out", help="folder for data, runs and the table")
    return parser.parse_args()


def main() -> None:
    """Run what was asked for and print it."""
    args = arguments()
    shared = os.environ.get("BEAMSIDE_SHARED")
    if not shared:
        raise SystemExit("BEAMSIDE_SHARED must name the folder of reference data (data/ and bench/).")
    bench = Bench(args, Path(shared).resolve())
    bench.out.mkdir(parents=True, exist_ok=True)
    rows, remarks = run(bench)
    simulated = [row for row in rows if row.set != REAL]
    real = [row for row in rows if row.set == REAL]
    text = [table(part, w) for part, w in ((simulated, SIMULATED), (real, APOFERRITIN)) if part]
    text += spread(simulated, SIMULATED) + spread(real, APOFERRITIN) + ratios(rows) + [f"- {r}" for r in remarks]
    (bench.out / "classify.md").write_text("\n\n".join(text) + "\n")
    (bench.out / "classify.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print("\n\n".join(text))


def run(bench: Bench) -> tuple[list[Row], list[str]]:
    """All rows, and what could not be done."""
    peers = not bench.args.no_peers
    remarks = []
    if peers and not shutil.which("relion_refine"):
        remarks.append("RELION is not installed (apt install relion); its rows are absent")
    if peers and not importlib.util.find_spec("aspire"):
        remarks.append("ASPIRE is not installed (pip install aspire, after torch); its rows are absent")
    rows: list[Row] = []
    for name in bench.args.sets:
        own = [bench.beamside(name, seed) for seed in bench.args.seeds]
        if name == REAL:
            own += [bench.beamside(name, s, ["--mask-diameter", "130"], "beamside 130 A") for s in bench.args.seeds]
        if peers and shutil.which("relion_refine"):
            star = bench.particles(name)
            if name == REAL:
                own.append(bench.relion(name, star.with_name("particles_1000.star"), "on 1,000 of the particles;"))
            else:
                own.append(bench.relion(name, star))
        if peers and name != REAL and importlib.util.find_spec("aspire"):
            own.append(bench.aspire(name))
        shown = {row.program: row for row in reversed(own) if row.classes}
        side_by_side(list(reversed(shown.values())), bench.out / f"{name}.png")
        rows += own
    return rows, remarks


if __name__ == "__main__":
    main()
