"""beamside's ptychography beside Pty-Chi and cdtools: whole processes on the same scans, one scorer for all.

    BEAMSIDE_SHARED=... python benchmarks/ptycho.py --cases 1e5 1e3 modes cold --seeds 7 8 9

Scans are made by the reference data's own generator and scored by its scorer, so nothing of ours judges itself; all
programs begin from the same probe, object and positions. Time is processor time of a whole process, imports, reading
and writing included, on one thread. `--rate` measures frames x iterations a processor second in this process, in turns
with two FFTs a frame and nothing else, which is the roof. `--real` is the measured Siemens star (`ptycho_star.py`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """generate: arguments of the generator; ours: of `beamside ptycho`; modes: of the start; peers: with arguments."""

    generate: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    modes: int = 1
    warm: bool = True
    peers: tuple[tuple[str, tuple[str, ...]], ...] = ()


# Of Pty-Chi's ePIE the step is alpha, .1 unless given, and objects' updates of a batch add up: batches of 100 diverge
# (NRMSE .73 to .99), single frames crawl (.069 after 20 iterations), batches of 10 at alpha .5 reach .044.
_EPIE = ("ptychi", ("EPIE", "20", "--batch", "10", "--alpha", "0.5"))
_PEERS = (("ptychi", ("LSQML", "20")), _EPIE, ("cdtools", ("12",)))
_JOINT = ("ptychi", ("LSQML", "40", "--modes", "2", "--pos"))
CASES = {
    "1e5": Case(peers=_PEERS),
    # No longer than to an NRMSE of .036.
    "soon": Case(ours=("--iterations-after-close", "3", "--max-iterations", "6")),
    "1e3": Case(("--photons", "1e3"), peers=(("ptychi", ("LSQML", "20")),)),
    "modes": Case(("--modes", "2", "--pos-error", "1"), ("--modes", "2", "--refine-positions"), 2, peers=(_JOINT,)),
    "cold": Case(warm=False),
    "256": Case(("--N", "256", "--n", "400"), peers=(("ptychi", ("LSQML", "20")),)),
}
HEAD = "| case | program | runs | NRMSE mean | worst | FRC mean | CPU-s mean | ratio of CPU-s to ours |"


def reference(shared: Path, name: str) -> ModuleType:
    """A module of the reference benchmark."""
    folder = shared / "bench" / "ptycho"
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FailedError(Exception):
    """A program ended with an error."""


def timed(command: Sequence[str], log: Path) -> tuple[float, str]:
    """Processor seconds of a process and its children, and what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    text = log.read_text()
    if status:
        raise FailedError(f"{' '.join(command)} failed:\n{text[-2000:]}")
    return usage.ru_utime + usage.ru_stime, text


def ours(case: Case, scan: Path, out: Path, common: ModuleType) -> dict[str, Any]:
    """`beamside ptycho` and its score."""
    run, beamside = out / "run", str(Path(sys.executable).with_name("beamside"))
    command = [beamside, "ptycho", str(scan), str(run), "--threads", "1", "--quiet", *case.ours]
    loaded = common.load(str(scan))
    if case.warm:
        np.save(out / "start.npy", common.modes_init(_three(loaded["probe_init"]), case.modes))
        command += ["--probe", str(out / "start.npy")]
    cpu, _ = timed(command, out / "ours.log")
    timed([beamside, "export", str(run), "--to", "npz", str(out / "ours.npz")], out / "export.log")
    z = np.load(out / "ours.npz")
    score = common.ev.score(loaded, z["object"], z["offset"], z["probe"], z["positions_px"])
    return {"program": "beamside", "cpu": cpu, "nrmse": score["nrmse"], "frc": score["frc_mean"]}


def peer(name: str, arguments: Sequence[str], scan: Path, out: Path, shared: Path) -> dict[str, Any] | None:
    """A peer by the reference benchmark's own runner; None where it is not installed."""
    if importlib.util.find_spec(name) is None:
        return None
    runner = shared / "bench" / "ptycho" / f"run_{name}.py"
    extra = ("--threads", "1") if name == "ptychi" else ()
    label = f"{name} {' '.join(arguments)}"
    try:
        cpu, text = timed([sys.executable, str(runner), str(scan), *arguments, *extra], out / f"{name}.log")
    except FailedError as error:
        print(f"{label} does not run here: {error}", file=sys.stderr)
        return None
    found = json.loads([line for line in text.splitlines() if line.startswith("{")][-1])
    return {"program": label, "cpu": cpu, "nrmse": found["nrmse"], "frc": found["frc_mean"]}


def rows_of(name: str, seeds: Sequence[int], shared: Path, folder: Path, *, peers: bool) -> list[dict[str, Any]]:
    """All programs on all seeds of one case."""
    case, common, found = CASES[name], reference(shared, "common"), []
    for seed in seeds:
        out = folder / f"{name}-{seed}"
        out.mkdir(parents=True, exist_ok=True)
        scan = out / "scan.cxi"
        if not scan.exists():
            generator = shared / "bench" / "ptycho" / "generate.py"
            timed([sys.executable, str(generator), str(scan), *case.generate, "--seed", str(seed)], out / "scan.log")
        found.append(ours(case, scan, out, common))
        for program, arguments in case.peers if peers else ():
            row = peer(program, arguments, scan, out, shared)
            if row is not None:
                found.append(row)
    return [row | {"case": name} for row in found]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and worst over seeds, and how many times our processor time each program took."""
    lines = [HEAD, "|" + " --- |" * 8]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["program"]), []).append(row)
    base = {case: np.mean([r["cpu"] for r in g]) for (case, program), g in groups.items() if program == "beamside"}
    for (case, program), group in groups.items():
        error = [r["nrmse"] for r in group]
        cpu, frc = np.mean([r["cpu"] for r in group]), np.mean([r["frc"] for r in group])
        lines.append(
            f"| {case} | {program} | {len(group)} | {np.mean(error):.4f} | {max(error):.4f} | {frc:.3f} | {cpu:.1f} "
            f"| {cpu / base[case]:.1f} |"
        )
    return "\n".join(lines)


def rate(size: int, frames: int, turns: int = 8) -> str:
    """Frames x iterations a processor second of the default solver, in turns with two FFTs a frame."""
    import torch

    from beamside.ptycho.canvas import Canvas
    from beamside.ptycho.frames import FrameStore
    from beamside.ptycho.solvers import Pass, solver
    from beamside.ptycho.workshop import Detector, Likelihood, Workshop
    from beamside.run.engine import Batch

    torch.set_num_threads(1)  # of a second one the time would not be counted
    rng = np.random.default_rng(0)
    counts = rng.poisson(5.0, (frames, size, size)).astype(np.uint16)
    at = rng.uniform(0, 5.5 * np.sqrt(frames), (frames, 2))
    store, canvas = FrameStore(size, frames), Canvas()
    store.append(Batch(tuple(map(str, range(frames))), {"position_m": at}, lambda rows: counts[rows]))
    canvas.cover(at, size)
    shop = Workshop(store, canvas, Detector(np.ones((size, size), np.float32), np.inf), 1)
    shop.set_probe((rng.standard_normal((1, size, size)) + 0j).astype(np.complex64))
    shop.place(at)
    method, all_frames = solver("auto"), np.arange(frames)
    blocks = {b: torch.zeros((b, size, size), dtype=torch.complex64) for b in (2, 4, 8, 16)}

    def iteration(number: int) -> float:
        began = time.thread_time()
        method.iterate(shop, Pass(all_frames, number, 0, Likelihood(True, 0.02), gain=1e-3))
        return (time.thread_time() - began) / frames

    def two_ffts(block: torch.Tensor) -> float:
        began, passes = time.thread_time(), frames // len(block)
        for _ in range(passes):
            torch.fft.ifft2(torch.fft.fft2(block), norm="forward")
        return (time.thread_time() - began) / (passes * len(block))

    iteration(0)
    pairs = [(iteration(k), min(two_ffts(b) for b in blocks.values())) for k in range(1, turns + 1)]
    share = np.median([roof / mine for mine, roof in pairs])
    mine, roof = (np.median([p[k] for p in pairs]) for k in (0, 1))
    return (
        f"{size}^2: {1 / mine:,.0f} frames x iterations a CPU-second, {share:.0%} of two FFTs alone ({1 / roof:,.0f})"
    )


def _three(probe: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return probe if probe.ndim == 3 else probe[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=sorted(CASES), default=["1e5", "1e3", "modes", "cold"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[7, 8, 9])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / f"ptycho-{time.strftime('%H%M%S')}")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--rate", action="store_true", help="measure the rate against the roof")
    parser.add_argument("--real", action="store_true", help="run the measured Siemens star")
    args = parser.parse_args()
    shared = Path(os.environ["BEAMSIDE_SHARED"])
    if args.rate:
        print(rate(128, 1000))
        print(rate(256, 400))
    if args.real:
        from ptycho_star import star

        print(star(shared, args.out / "real", peers=not args.no_peers))
    rows: list[dict[str, Any]] = []
    for name in args.cases:
        rows += rows_of(name, args.seeds, shared, args.out, peers=not args.no_peers)
        print(table(rows), flush=True)
    if rows:
        (args.out / "ptycho.json").write_text(json.dumps(rows, indent=1))
        (args.out / "ptycho.md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
