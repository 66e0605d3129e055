"""beamside's denoiser beside topaz, the best Gaussian blur and an oracle Wiener filter, in one call.

Simulated micrographs (bench/denoise/simulate.py of the reference data, scored by its metrics.py): SNR and FRC against
the truth, core-seconds a megapixel, peak memory. With --train also networks trained here, for each seed, from nothing
(--init none) and from the prior. With --real the ten EMPIAR-10146 pairs of the reference data: loss against the
independent partner on micrographs left out of the training.

    BEAMSIDE_SHARED=... python benchmarks/denoise.py [--train fast quality] [--minutes 20] [--seeds 0 1 2] [--real]

topaz: pip install --no-deps topaz-em. Without it its rows are absent.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIGURES = {"snr_db": "SNR dB", "frc_200_40": "FRC 200-40", "frc_40_20": "40-20", "frc_20_10": "20-10"}
LEFT_OUT = ("May08_03.43.44", "May08_04.33.57", "May08_05.31.00")
BLURS = ("4", "5", "6", "7", "8")
TOPAZ = "topaz:unet"
REAL_PIXEL_A = 1.5
Image = NDArray[np.float32]
Method = Callable[..., Image]
"""(image, scale of the pair or None) -> denoised image."""


@dataclass
class Row:
    """One method over all test micrographs: means, and the lowest SNR."""

    method: str
    scores: dict[str, float] = field(default_factory=dict)
    worst_db: float = 0.0
    core_s_per_Mpx: float = 0.0
    peak_MB: float = 0.0


class Bench:
    """Folders and settings that all methods share."""

    def __init__(self, args: argparse.Namespace, shared: Path) -> None:
        self.args, self.shared, self.out = args, shared, Path(args.out).resolve()
        self.out.mkdir(parents=True, exist_ok=True)

    def simulated(self, prefix: str, count: int, seed: int) -> list[Path]:
        """The sums of a simulated set, made unless it is there."""
        folder = self.out / "sim"
        found = sorted(folder.glob(f"{prefix}_{self.args.size}_*_full.mrc"))
        if len(found) < count:
            command = [
                sys.executable,
                "-B",
                str(self.shared / "bench" / "denoise" / "simulate.py"),
                "--snr-scale",
                "0.6",
            ]
            command += ["--out", str(folder), "--prefix", prefix, "--count", str(count), "--seed", str(seed)]
            subprocess.run([*command, "--n", str(self.args.size)], check=True, stdout=subprocess.DEVNULL)
            found = sorted(folder.glob(f"{prefix}_{self.args.size}_*_full.mrc"))
        return found[:count]

    def ours(self, label: str, model: str, tests: Sequence[Path]) -> Row:
        """A model of ours, each micrograph in a fresh process."""
        return self.row(label, [run_worker(["ours", model, str(path)], self.args.threads) for path in tests])

    def peer(self, label: str, method: str, tests: Sequence[Path]) -> Row:
        """A method of the reference data's run_method.py."""
        results = []
        for path in tests:
            stem = path.name.removesuffix("_full.mrc")
            script = self.shared / "bench" / "denoise" / "run_method.py"
            command = [sys.executable, "-B", "-W", "ignore", str(script), method, stem, "--sim", str(path.parent)]
            command += ["--threads", str(self.args.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            results.append({**found, **found["vs_particles"]})
        return self.row(label, results)

    def row(self, label: str, results: Sequence[dict[str, Any]]) -> Row:
        """Means over micrographs."""
        scores = {name: float(np.mean([r[name] for r in results])) for name in FIGURES}
        cost = float(np.mean([r["core_s_per_Mpx"] for r in results]))
        peak = max(float(r["peak_MB"]) for r in results)
        row = Row(label, scores, min(r["snr_db"] for r in results), cost, peak)
        print(f"{label}: {scores['snr_db']:.2f} dB, {cost:.2f} core-s/Mpx, {peak:.0f} MB", file=sys.stderr, flush=True)
        return row

    def trained(self, network: str, init: str, seed: int, training: Path) -> str:
        """A run of `beamside denoise train`; its folder."""
        run = self.out / f"run_{network}_{init}_{seed}"
        if not (run / "result" / "model.safetensors").exists():
            shutil.rmtree(run, ignore_errors=True)
            self.train([str(training)], run, ["--network", network, "--init", init, "--seed", str(seed)])
        return str(run)

    def train(self, inputs: Sequence[str], run: Path, extra: Sequence[str]) -> None:
        """One call of the command."""
        command = [sys.executable, "-m", "beamside", "denoise", "train", *inputs, str(run), "--quiet", *extra]
        command += ["--max-minutes", str(self.args.minutes), "--threads", str(self.args.threads)]
        subprocess.run(command, check=True)


def run_worker(arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """This script again as a process of its own, so that its memory is its own."""
    command = [sys.executable, "-B", __file__, "--worker", *arguments, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def module(path: Path) -> Any:
    """A script of the reference data as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def denoiser(named: str) -> Method:
    """Ours: the network of a run, a file, or the prior; halves on the scale that they share."""
    from beamside.denoise.export import read_model
    from beamside.denoise.prior import PRIOR
    from beamside.denoise.tiling import denoise, sum_scale

    network, card = read_model(PRIOR if named == "prior" else Path(named))
    return lambda image, scale=None: denoise(network, image, scale=scale or sum_scale(image, card.pairs))


def work(arguments: Sequence[str], threads: int, shared: Path) -> dict[str, Any]:
    """What a process of its own does: denoise one micrograph, and score it where it has a truth."""
    import torch

    from beamside.denoise.ice import remove_ice
    from beamside.formats.mrc import read_map

    torch.set_num_threads(threads)
    _, model, name = arguments
    pixels, info = read_map(name)
    image = pixels.reshape(pixels.shape[-2:])
    run = denoiser(model)
    begun = time.process_time()
    result = run(image)
    remove_ice(result, info.voxel_size_A[0])
    cost = (time.process_time() - begun) / (image.size / 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found: dict[str, Any] = {"core_s_per_Mpx": cost, "peak_MB": peak}
    truth = Path(name.replace("_full.mrc", "_clean.mrc"))
    if truth.exists() and str(truth) != name:
        clean = read_map(truth)[0].reshape(image.shape)
        found |= module(shared / "bench" / "denoise" / "metrics.py").score(result, clean, info.voxel_size_A[0])
    return found


def large_memory(bench: Bench, model: str) -> dict[str, Any]:
    """Cost and peak memory at 4096^2."""
    from beamside.formats.mrc import write_stack

    path = bench.out / "large.mrc"
    if not path.exists():
        write_stack(path, np.random.default_rng(0).normal(70, 9, (1, 4096, 4096)).astype(np.float32), 1.3)
    return run_worker(["ours", model, str(path)], bench.args.threads)


def topaz_denoiser(bench: Bench) -> Method | None:
    """The peer's general model in this process, or None where it is not installed."""
    if importlib.util.find_spec("topaz") is None:
        return None
    compat = module(bench.shared / "bench" / "denoise" / "topaz_compat.py")
    compat.install()
    import topaz.denoise as td
    from topaz.denoising.models import load_model

    compat.fix_weights_loading()

    class Loaded(td.Denoise):  # type: ignore[misc]
        def __init__(self) -> None:
            self.model, self.device, self.dims, self.use_cuda = load_model("unet"), "cpu", 2, False

    peer = Loaded()
    return lambda image, scale=None: np.asarray(td.denoise_image(image, [peer], patch_size=1024, padding=500))


def real(bench: Bench) -> str:
    """Train on seven real pairs, score on three left out: loss of either image, denoised, against the other, and FRC.

    The networks alone: what they keep of the ice is in the other image too, so here it is signal.
    The blur is the best of 21 for each image, chosen with the partner that scores it, which no model is.
    """
    from beamside.formats.mrc import read_map

    data, folder = bench.shared / "data" / "empiar10146", bench.out / "empiar10146"
    names = sorted(path.stem for path in (data / "avg").glob("*.mrc"))
    script = [sys.executable, "-B", str(data / "make_rest.py"), str(folder), *names]
    subprocess.run(script, check=True, cwd=data)
    frames = sorted((folder / "framez").glob("*.mrc"))
    used = [path for path in frames if not path.name.startswith(LEFT_OUT)]
    listing = folder / "pairs.csv"
    listing.write_text("rest,frame\n" + "".join(f"{folder / 'rest' / p.name},{p}\n" for p in used))
    run = bench.out / "run_real"
    if not (run / "result" / "model.safetensors").exists():
        shutil.rmtree(run, ignore_errors=True)
        bench.train([str(listing)], run, ["--init", "prior"])
    methods: dict[str, Method] = {"beamside, trained": denoiser(str(run))}
    methods["beamside, prior"] = denoiser("prior")
    topaz = topaz_denoiser(bench)
    if topaz is not None:
        methods["topaz unet"] = topaz
    found: dict[str, list[list[float]]] = {}
    for path in (p for p in frames if p.name.startswith(LEFT_OUT)):
        frame, rest = (read_map(p)[0] for p in (path, folder / "rest" / path.name))
        pair = aligned(frame.reshape(frame.shape[-2:]), rest.reshape(rest.shape[-2:]))
        for name, figures in against_each_other(pair, methods).items():
            found.setdefault(name, []).append(figures)
    head = [
        "real, left out",
        "frame -> rest",
        "rest -> frame",
        *(f"FRC {band}" for band in ("200-40", "40-20", "20-10")),
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, rows in found.items():
        means = [float(mean) for mean in np.mean(rows, axis=0)]
        shown = [f"{mean:.5f}" for mean in means[:2]] + [f"{mean:.3f}" for mean in means[2:]]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def against_each_other(pair: tuple[Image, Image], methods: Mapping[str, Method]) -> dict[str, list[float]]:
    """By method: the loss of each image, denoised alone, against the other; and FRC bands between the two results."""
    from beamside.denoise import report
    from beamside.denoise.normalise import robust_scale

    shared = robust_scale(*pair)
    made = {name: (method(pair[0], shared), method(pair[1], shared)) for name, method in methods.items()}
    made["best blur"] = (report.best_blur(pair[0], pair[1])[0], report.best_blur(pair[1], pair[0])[0])
    made["nothing"] = pair
    found = {}
    for name, (first, second) in made.items():
        losses = [
            report.partner_loss(image, partner, robust_scale(partner, sloping=False).spread)
            for image, partner in ((first, pair[1]), (second, pair[0]))
        ]
        curve = report.ring_correlation(report.without_background(first), report.without_background(second))
        bands = report.band_means(curve, REAL_PIXEL_A)
        found[name] = losses + [float(value or 0.0) for value in bands.values()]
    return found


def aligned(first: Image, second: Image) -> tuple[Image, Image]:
    """Both cut to what they share once the second is moved back by whole pixels: the frame was recorded elsewhere."""
    from beamside.denoise.alignment import displacement
    from beamside.denoise.normalise import robust_scale

    found = displacement(first, second, robust_scale(first, second))
    cuts = []
    for shift, size in zip((round(found.dy_px), round(found.dx_px)), first.shape, strict=True):
        cuts.append((slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size - max(0, -shift))))
    (rows_1, rows_2), (columns_1, columns_2) = cuts
    return np.array(first[rows_1, columns_1]), np.array(second[rows_2, columns_2])


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = ["method", *FIGURES.values(), "worst dB", "core-s/Mpx", "peak MB"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        scores = [f"{row.scores[name]:.2f}" for name in FIGURES]
        used = [f"{row.worst_db:.2f}", f"{row.core_s_per_Mpx:.2f}", f"{row.peak_MB:.0f}"]
        lines.append(f"| {' | '.join([row.method, *scores, *used])} |")
    return "\n".join(lines)


def ratios(rows: Sequence[Row]) -> list[str]:
    """Each of ours against topaz."""
    peer = next((row for row in rows if row.method.startswith("topaz")), None)
    if peer is None:
        return ["- topaz is not installed (pip install --no-deps topaz-em); its rows are absent"]
    lines = []
    for row in rows:
        if row.method.startswith("beamside"):
            gain = row.scores["snr_db"] - peer.scores["snr_db"]
            times, share = peer.core_s_per_Mpx / row.core_s_per_Mpx, peer.peak_MB / row.peak_MB
            lines.append(f"- {row.method}: {gain:+.2f} dB, {times:.0f} times faster, 1/{share:.1f} of topaz's memory")
    return lines


def simulated_part(bench: Bench) -> tuple[list[Row], list[str]]:
    """All rows on simulated micrographs, and remarks."""
    tests = bench.simulated("test", bench.args.tests, 101)
    rows = [bench.ours("beamside prior", "prior", tests)]
    if bench.args.train:
        bench.simulated("train", bench.args.micrographs, 1)
        training = bench.out / "train"
        training.mkdir(exist_ok=True)
        for half in sorted((bench.out / "sim").glob("train_*_even.mrc")) + sorted(
            (bench.out / "sim").glob("train_*_odd.mrc")
        ):
            link = training / half.name
            if not link.exists():
                link.symlink_to(half)
        for network in bench.args.train:
            for init in ("none", "prior") if network == "fast" else ("none",):
                for seed in bench.args.seeds:
                    run = bench.trained(network, init, seed, training)
                    rows.append(bench.ours(f"beamside {network}, --init {init}, seed {seed}", run, tests))
    blurs = [bench.peer(f"blur of {sigma} px", f"gauss:{sigma}", tests) for sigma in BLURS]
    rows.append(max(blurs, key=lambda row: row.scores["snr_db"]))
    rows.append(bench.peer("oracle Wiener", "wiener", tests))
    if not bench.args.no_peers and importlib.util.find_spec("topaz"):
        rows.append(bench.peer("topaz unet", TOPAZ, tests))
    large = large_memory(bench, "prior")
    remark = f"- 4096 x 4096 px, network fast: {large['core_s_per_Mpx']:.2f} core-s/Mpx, peak {large['peak_MB']:.0f} MB"
    return rows, [remark, *ratios(rows)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", nargs="+", default=[], choices=("fast", "quality", "seed3", "deep12"), help="networks to train")
    add("--minutes", type=float, default=20, help="of training, for each network, start and seed (20)")
    add("--seeds", nargs="+", type=int, default=[0], help="seeds of the training (0)")
    add("--micrographs", type=int, default=24, help="pairs to train on (24)")
    add("--tests", type=int, default=4, help="micrographs to score on (4)")
    add("--size", type=int, default=1024, help="their side in pixels (1024)")
    add("--threads", type=int, default=2, help="threads of every program (2)")
    add("--real", action="store_true", help="the real pairs too")
    add("--no-peers", action="store_true", help="without topaz")
    add("--out", type=Path, default=Path(__file__).parent / "out" / "denoise", help="folder for data, runs and table")
    add("--worker", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run what was asked for and print it."""
    args = arguments()
    named = os.environ.get("BEAMSIDE_SHARED")
    if not named:
        raise SystemExit("BEAMSIDE_SHARED must name the folder of reference data (data/ and bench/).")
    shared = Path(named).resolve()
    if args.worker:
        print(json.dumps(work(args.worker, args.threads, shared)))
        return
    bench = Bench(args, shared)
    rows, remarks = simulated_part(bench)
    text = [table(rows), "\n".join(remarks)]
    if args.real:
        text.append(real(bench))
    (bench.out / "denoise.md").write_text("\n\n".join(text) + "\n")
    (bench.out / "denoise.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
