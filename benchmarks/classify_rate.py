"""How many particles a second a full pass sees, beside the products alone that it cannot do without.

    python benchmarks/classify_rate.py [--boxes 64 128] [--classes 50] [--threads 2] [--device cuda]

A pass is the search of every particle among all classes, shifts and rotations, its responsibilities, the sums, and the
averages that follow. The products are the two of the search (components by columns, orders by rotations) as one large
matrix product each would do them on this machine: what is lost besides them is ours. Passes of the stages of a first
round without a volume are timed in turns with the products, on particles of the built-in map.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from beamside.classify.engine import Classifier
from beamside.classify.options import ClassifyOptions
from beamside.classify.search import rotations
from beamside.compute.lanes import available_threads
from beamside.run.engine import Batch, Header
from beamside.simulate.particles import Recipe, Session
from beamside.simulate.volumes import load_volume

FIELD_A = 320.0
ROUNDS = 3


def engine_of(box_px: int, count: int, classes: int, threads: int, device: str) -> Classifier:
    """A classification of simulated particles that has begun its first round."""
    pixel_size_A = FIELD_A / box_px
    volume, _ = load_volume("walk", box_px, pixel_size_A, 0.0)
    made = Session(volume, Recipe(box_px, pixel_size_A, count, snr=0.05, shift_px=0.03 * box_px, seed=1))
    optics = made.truth.optics
    images = made.images(np.arange(count))
    columns = {
        "defocus_u_A": optics.defocus_u_A,
        "defocus_v_A": optics.defocus_v_A,
        "defocus_angle_deg": optics.defocus_angle_deg,
        "phase_shift_deg": np.zeros(count),
        "voltage_kV": np.full(count, made.recipe.voltage_kV),
        "cs_mm": np.full(count, made.recipe.cs_mm),
        "amplitude_contrast": np.full(count, made.recipe.amplitude_contrast),
        "bfactor_A2": np.zeros(count),
        "ctf_scale": np.ones(count),
        "has_ctf": np.ones(count, dtype=bool),
        "optics_group": np.ones(count, dtype=np.int64),
        "micrograph": np.array(["m"] * count),
    }
    chosen = ClassifyOptions(
        classes=classes, first_batch=count, start="classes", mask_diameter_A=0.85 * FIELD_A, threads=threads,
        device=device,
    )  # fmt: skip
    header = Header("particles", {"box_px": box_px, "pixel_size_A": pixel_size_A, "has_ctf": True})
    engine = Classifier.fresh(chosen, header)
    keys = tuple(f"{row + 1:06d}@s.mrcs" for row in range(count))
    engine.ingest(Batch(keys, columns, lambda index: images[index]))
    return engine


def products_s(engine: Classifier, count: int, threads: int) -> float:
    """Seconds of the two products alone for `count` particles, each thread on its own half."""
    assert engine.model is not None
    frame = engine.model.frame
    components = sum(frame.encoder.subspace.sizes)
    columns = len(frame.shifts.phases) * engine.classes
    orders, quarters = frame.orders, rotations(frame.orders).even[0].shape[0]
    part = 256
    left = torch.randn(part, 2 * components // orders)
    right = torch.randn(2 * components // orders, columns)
    table, values = torch.randn(quarters, orders // 2), torch.randn(orders // 2, 4096)

    def work(_: int) -> None:
        # One order after another; the second product in pieces that stay in cache.
        for _ in range(count // threads // part):
            for _ in range(2 * orders):
                left @ right
            for _ in range(4 * part * columns // 4096):
                table @ values

    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(work, range(threads)))
        return time.perf_counter() - began


def stages(engine: Classifier, count: int, threads: int) -> list[str]:
    """One line of the table for each stage of the first round."""
    lines = []
    while engine.tasks:
        task = engine.tasks[0]
        engine.step()
        if task.kind != "stage" or task.stage is None or engine.model is None:
            continue
        model, rows = engine.model, engine.population.rows
        took, alone = [], []
        for _ in range(ROUNDS):
            began, cpu = time.perf_counter(), time.process_time()
            model.full_pass(rows, engine.known, 1.0)
            took.append((time.perf_counter() - began, time.process_time() - cpu))
            alone.append(products_s(engine, count, threads))
        wall_s, cpu_s = min(took)
        shifts = len(model.frame.shifts.phases)
        lines.append(
            f"| {engine.box_px} | {task.stage.name} | {task.stage.last_ring} | {shifts} | {count / wall_s:,.0f} "
            f"| {count / cpu_s:,.0f} | {min(alone) / wall_s:.0%} |"
        )
        print(lines[-1], flush=True)
        # The passes themselves are not wanted, only the next stage's frame.
        while engine.tasks and engine.tasks[0].kind == "pass":
            engine.tasks.popleft()
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--boxes", nargs="+", type=int, default=[64, 128], help="box sizes, px (64 128)")
    add("--classes", type=int, default=50, metavar="K", help="classes (50)")
    add("--particles", type=int, default=4096, metavar="N", help="particles (4096)")
    add("--threads", type=int, default=None, help="threads (all processors)")
    add("--device", default="cpu", help="of the search: auto, cpu or cuda (cpu); the products are the processor's")
    args = parser.parse_args()
    threads = available_threads(args.threads)
    print("| box px | stage | finest ring | shifts | particles/s | particles/CPU-s | products alone |")
    print("|---|---|---|---|---|---|---|")
    for box_px in args.boxes:
        engine = engine_of(box_px, args.particles, args.classes, threads, args.device)
        stages(engine, args.particles, threads)


if __name__ == "__main__":
    main()
