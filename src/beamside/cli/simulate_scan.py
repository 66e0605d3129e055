"""`beamside simulate scan OUT.cxi`: a ptychographic scan with a known truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from beamside.cli.numbers import accept_exponents


def configure(instruments: Any) -> None:
    """Add the instrument to the subparsers of `simulate`."""
    scan = instruments.add_parser(
        "scan",
        help="a ptychographic scan as a CXI file",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    accept_exponents(scan)
    add = scan.add_argument
    add("out", type=Path, metavar="OUT.cxi", help="file to write; the truth is OUT_truth.npz beside it")
    add("--n", type=int, default=1000, help="how many frames")
    add("--frame", type=int, default=128, metavar="PX", help="side of a frame")
    add("--pattern", choices=["raster", "fermat", "spiral"], default="fermat", help="scan pattern")
    add("--step", type=float, default=6.0, metavar="PX", help="distance of neighbouring positions")
    add("--jitter", type=float, default=0.5, metavar="PX", help="known deviations from the pattern")
    add("--position-error", type=float, default=0.0, metavar="PX", help="unknown deviations, rms an axis")
    add("--photons", type=float, default=1e5, help="mean counts of a frame")
    add("--modes", type=int, default=1, help="incoherent probe modes")
    add("--lost", type=float, default=0.0, metavar="SHARE", help="share of frames that never arrive")
    add("--propagation", choices=["far", "near"], default="far", help="far or near field")
    add("--energy", type=float, default=9.0, metavar="KEV", help="photon energy")
    add("--distance", type=float, default=2.0, metavar="M", help="from the sample to the detector")
    add("--detector-pixel", type=float, default=75e-6, metavar="M", help="side of the detector's pixels")
    add("--source", type=float, default=None, metavar="M", help="near field: from the source to the sample")
    add("--defocus", type=float, default=None, metavar="M", help="far field: from the focus to the sample (0.6e-3)")
    add("--seed", type=int, default=1, help="the same seed gives the same scan")


def run(args: argparse.Namespace) -> int:
    """Simulate, write, and say what was written."""
    from beamside.simulate.scan import Scan, ScanRecipe
    from beamside.simulate.scan_files import truth_path, write_scan

    recipe = ScanRecipe(
        frames=args.n,
        frame_px=args.frame,
        pattern=args.pattern,
        step_px=args.step,
        jitter_px=args.jitter,
        position_error_px=args.position_error,
        photons=args.photons,
        modes=args.modes,
        lost=args.lost,
        propagation=args.propagation,
        energy_keV=args.energy,
        distance_m=args.distance,
        detector_pixel_m=args.detector_pixel,
        source_m=args.source,
        defocus_m=args.defocus,
        seed=args.seed,
    )
    scan = Scan(recipe)
    write_scan(args.out, scan)
    size = " x ".join(map(str, scan.object.shape))
    made = f"{recipe.frames} frames of {recipe.frame_px} px, object {size} px of {recipe.pixel_m * 1e9:.4g} nm"
    print(f"{made} in {args.out}; truth in {truth_path(args.out)}")
    return 0
