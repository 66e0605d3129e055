"""The measured Siemens star: R and processor time of beamside and, where it is installed, of Pty-Chi.

    BEAMSIDE_SHARED=... python benchmarks/ptycho_star.py

Whole processes in turns, on one thread, imports, reading and writing included; both begin from the probe that comes
with the data. R is the reference scorer's, over a hundred of the frames.
"""

from __future__ import annotations

import argparse
import bz2
import importlib.util
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ptycho import reference, timed

EPOCHS = 20
"""Of Pty-Chi's LSQML, as in the figures that it was first compared by."""


def prepared(shared: Path, folder: Path) -> tuple[Path, Path]:
    """The scan and the start probe as files.

    Unpacked beforehand: bzip2 is how the reference data are kept, and costs a second that belongs to nobody.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed = (shared / "data" / "ptycho" / "siemens-star-small.npz.bz2").read_bytes()
    z = np.load(io.BytesIO(bz2.decompress(packed)))
    size = z["data"].shape[-1]
    source, start = folder / "star.npz", folder / "start.npy"
    np.savez(source, **{name: z[name] for name in z.files})
    np.save(start, z["probe"].reshape(-1, size, size)[:1].astype(np.complex64))
    return source, start


def ours(source: Path, start: Path, folder: Path) -> tuple[float, dict[str, Any]]:
    """Processor seconds and the result of `beamside ptycho`."""
    beamside, run = str(Path(sys.executable).with_name("beamside")), folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = [beamside, "ptycho", str(source), str(run), "--threads", "1", "--quiet", "--dc", "corner", "--probe"]
    cpu, _ = timed([*command, str(start)], folder / "ours.log")
    return cpu, dict(np.load(run / "result" / "object.npz"))


def theirs(source: Path, start: Path, folder: Path) -> tuple[float, dict[str, Any]]:
    """Likewise of Pty-Chi, by this file in a process of its own."""
    out = folder / "ptychi.npz"
    cpu, _ = timed([sys.executable, __file__, "--ptychi", str(source), str(start), str(out)], folder / "ptychi.log")
    return cpu, dict(np.load(out))


def ptychi(source: Path, start: Path, out: Path) -> None:
    """Pty-Chi's LSQML, by default batches of 100, as its documentation begins: from an empty object."""
    import ptychi.api as api
    import torch
    from ptychi.api.task import PtychographyTask
    from ptychi.utils import get_suggested_object_size

    torch.set_num_threads(1)
    z = np.load(source)
    counts, corners = z["data"][0], z["scan"].reshape(-1, 2)
    size = counts.shape[-1]
    # The data's corner is DC; Pty-Chi wants it in the middle, and positions about the object's centre.
    counts, middle = np.fft.fftshift(counts, axes=(1, 2)).astype(np.float32), (corners.max(0) + corners.min(0)) / 2
    about = corners - middle
    probe = np.load(start)
    probe = probe * np.sqrt(counts.sum((1, 2)).mean() / (np.abs(probe) ** 2).sum())
    options = api.LSQMLOptions()
    options.reconstructor_options.default_device = api.Devices.CPU
    options.reconstructor_options.num_epochs = EPOCHS
    options.reconstructor_options.batch_size = 100
    options.reconstructor_options.random_seed = 1
    # Neither is stored with the data, and positions are in pixels anyway.
    options.object_options.pixel_size_m = options.data_options.wavelength_m = 1e-9
    task = PtychographyTask(
        options, diffraction_data=counts, probe_data=probe[None].astype(np.complex64),
        object_data=np.ones((1, *get_suggested_object_size(about, (size, size), extra=32)), np.complex64),
        probe_position_x_px=about[:, 1], probe_position_y_px=about[:, 0],
    )  # fmt: skip
    task.run()
    found, modes = (task.get_data_to_cpu(name, as_numpy=True)[0] for name in ("object", "probe"))
    origin = task.object.pos_origin_coords.cpu().numpy()
    np.savez(out, object=found, probe=modes, offset=middle - origin + (size - 1) / 2, positions_px=corners)


def star(shared: Path, folder: Path, turns: int = 1, *, peers: bool = True) -> str:
    """Runs in turns, in words."""
    judge = reference(shared, "evaluate")
    source, start = prepared(shared, folder)
    centred = np.fft.fftshift(np.load(source)["data"][0], axes=(1, 2))
    every = np.linspace(0, len(centred) - 1, 100).astype(int)
    programs = {"beamside": ours}
    if peers and importlib.util.find_spec("ptychi") is not None:
        programs[f"Pty-Chi LSQML {EPOCHS}"] = theirs
    times: dict[str, list[float]] = {name: [] for name in programs}
    rs = {}
    for _ in range(turns):
        for name, program in programs.items():
            cpu, z = program(source, start, folder)
            times[name].append(cpu)
            rs[name] = judge.r_factor(z["object"], z["offset"], z["probe"], z["positions_px"], centred, every)
    lines = [
        f"Siemens star, measured: {name}: R {rs[name]:.4f} in {np.mean(t):.1f} CPU-s ({min(t):.1f} to {max(t):.1f}), "
        f"{np.mean(t) / np.mean(times['beamside']):.1f} x beamside's"
        for name, t in times.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=2, help="runs of each program")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "star")
    parser.add_argument("--ptychi", nargs=3, type=Path, metavar=("SCAN", "PROBE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ptychi:
        ptychi(*args.ptychi)
    else:
        print(star(Path(os.environ["BEAMSIDE_SHARED"]), args.out, args.turns))


if __name__ == "__main__":
    main()
