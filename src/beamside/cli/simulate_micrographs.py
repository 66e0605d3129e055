"""`beamside simulate micrographs`: halves with independent noise, and their truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from beamside.errors import OptionError

DETECTORS = ("counting", "ideal", "integrating")


def configure(instruments: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the instrument with its options."""
    parser = instruments.add_parser(
        "micrographs",
        help="micrographs of molecules in ice, as even and odd halves, sums and movies",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder for the micrographs; the truth is written to OUT_truth")
    add("--count", type=int, default=8, help="how many micrographs")
    add("--size", type=int, default=1024, metavar="PX", help="side of a micrograph")
    add("--pixel-size", type=float, default=1.3, metavar="A", help="pixel size")
    add(
        "--structures",
        nargs="+",
        default=["walk", "shell"],
        metavar="NAME",
        help="molecules made by code: walk, ring, shell, barrel, small, rod",
    )
    add("--coverage", type=float, default=0.35, metavar="SHARE", help="share of the area under molecules")
    add("--contrast", type=float, default=0.6, metavar="FACTOR", help="factor on the molecules' potential")
    add("--defocus", type=float, nargs=2, default=[0.8, 2.2], metavar=("LOW", "HIGH"), help="range, in micrometres")
    add("--astigmatism", type=float, default=300.0, metavar="A", help="largest difference between the two defoci")
    add("--dose", type=float, default=40.0, metavar="E/A2", help="electrons per square Angstrom")
    add("--detector", choices=DETECTORS, default="counting", help="its MTF and DQE")
    add("--ice", type=float, default=0.02, metavar="RAD", help="rms phase of the ice, the same in both halves")
    add("--blur", type=float, default=0.35, metavar="PX", help="sigma of the blur that interpolation leaves")
    add("--illumination", type=float, default=0.03, metavar="SHARE", help="largest slope of the beam over the image")
    add("--gold", type=int, default=0, metavar="N", help="gold beads on a micrograph")
    add("--contamination", type=int, default=0, metavar="N", help="crystals of contamination on a micrograph")
    add("--carbon", action="store_true", help="the carbon edge of a hole crosses each micrograph")
    add(
        "--shift",
        type=float,
        nargs=2,
        default=[0.0, 0.0],
        metavar=("DY", "DX"),
        help="displacement of the odd half, in pixels",
    )
    add("--frames", type=int, default=0, metavar="N", help="write movies of so many frames too, in OUT_movies")
    add("--voltage", type=float, default=300.0, metavar="KV", help="acceleration voltage")
    add("--cs", type=float, default=2.7, metavar="MM", help="spherical aberration")
    add("--amplitude-contrast", type=float, default=0.07, metavar="SHARE", help="amplitude contrast")
    add("--bfactor", type=float, default=60.0, metavar="A2", help="envelope of the CTF")
    add("--seed", type=int, default=1, help="the same seed gives the same micrographs")
    add("--live", action="store_true", help="write the micrographs one after the other, as a session does")
    add("--every", type=float, default=0.0, metavar="S", help="with --live: seconds from one micrograph to the next")


def run(args: argparse.Namespace) -> int:
    """Simulate, write, and say what was written.

    Raises:
        OptionError: an impossible recipe, or --every without --live.
        InputError: OUT or OUT_truth is not empty.
    """
    from beamside.simulate.micrograph_files import truth_folder, write_micrographs
    from beamside.simulate.micrographs import Recipe, Session

    if args.every and not args.live:
        raise OptionError("--every changes nothing without --live.", remedy="Add --live, or leave --every out.")
    if args.every < 0:
        raise OptionError("--every must not be negative.", remedy="Give seconds.")
    recipe = Recipe(
        size_px=args.size,
        pixel_size_A=args.pixel_size,
        count=args.count,
        structures=tuple(args.structures),
        coverage=args.coverage,
        defocus_um=(args.defocus[0], args.defocus[1]),
        astigmatism_A=args.astigmatism,
        dose_per_A2=args.dose,
        detector=args.detector,
        contrast=args.contrast,
        ice_rad=args.ice,
        blur_px=args.blur,
        illumination=args.illumination,
        gold=args.gold,
        contamination=args.contamination,
        carbon=args.carbon,
        shift_px=(args.shift[0], args.shift[1]),
        frames=args.frames,
        voltage_kV=args.voltage,
        cs_mm=args.cs,
        amplitude_contrast=args.amplitude_contrast,
        bfactor_A2=args.bfactor,
        seed=args.seed,
    )

    def say(text: str) -> None:
        if args.live:
            print(text, file=sys.stderr, flush=True)

    write_micrographs(args.out, Session(recipe), every_s=args.every, say=say)
    made = f"{recipe.count} micrographs of {recipe.size_px} px at {recipe.pixel_size_A:g} A"
    print(f"{made} in {args.out}; truth in {truth_folder(args.out)}")
    return 0
