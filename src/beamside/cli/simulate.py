"""`beamside simulate particles`: data with a known truth, at once or as a session that grows."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from beamside.cli import simulate_micrographs, simulate_scan
from beamside.errors import OptionError

HELP = "make data with a known truth, at once or as a session that grows"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    instruments = parser.add_subparsers(dest="instrument", required=True, metavar="INSTRUMENT")
    simulate_scan.configure(instruments)
    simulate_micrographs.configure(instruments)
    particles = instruments.add_parser(
        "particles",
        help="single particles as RELION stacks and STAR files",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = particles.add_argument
    add("out", type=Path, metavar="OUT", help="folder for the particles; the truth is written beside it")
    add("--map", default="walk", metavar="FILE|NAME", help="an MRC map, or one made by code: walk, ring")
    add("--apix-in", type=float, default=0.0, metavar="A", help="pixel size of the map; 0: what its header says")
    add("--box", type=int, default=64, metavar="PX", help="box of the particles")
    add("--pixel-size", type=float, default=5.0, metavar="A", help="pixel size of the particles")
    add("--n", type=int, default=5000, help="how many particles")
    add("--snr", type=float, default=0.05, help="signal-to-noise ratio")
    add("--shift", type=float, default=5.0, metavar="PX", help="shifts are uniform up to this, either way on both axes")
    add("--views", choices=["uniform", "preferred"], default="uniform", help="viewing directions")
    add("--noise", choices=["white", "pink"], default="white", help="colour of the noise")
    add("--junk", type=float, default=0.0, metavar="SHARE", help="share of particles that are noise alone")
    add("--defocus", type=float, nargs=2, default=[0.8, 2.5], metavar=("LOW", "HIGH"), help="range, in micrometres")
    add("--astigmatism", type=float, default=300.0, metavar="A", help="largest difference between the two defoci")
    add("--bfactor", type=float, default=0.0, metavar="A2", help="envelope of the CTF")
    add("--voltage", type=float, default=300.0, metavar="KV", help="acceleration voltage")
    add("--cs", type=float, default=2.7, metavar="MM", help="spherical aberration")
    add("--amplitude-contrast", type=float, default=0.1, metavar="SHARE", help="amplitude contrast")
    add("--micrographs", type=int, default=50, help="over how many micrographs the particles are spread")
    add("--seed", type=int, default=1, help="the same seed gives the same particles")
    add("--live", action="store_true", help="write one stack and one STAR file a micrograph, one after the other")
    add("--rate", type=float, default=0.0, metavar="N", help="with --live: particles a second; 0: without waiting")


def run(args: argparse.Namespace) -> int:
    """Simulate, write, and say what was written."""
    if args.instrument == "scan":
        return simulate_scan.run(args)
    if args.instrument == "micrographs":
        return simulate_micrographs.run(args)
    from beamside.simulate.particles import Recipe, Session
    from beamside.simulate.session_files import write_live, write_once
    from beamside.simulate.volumes import load_volume

    if args.rate and not args.live:
        raise OptionError("--rate changes nothing without --live.", remedy="Add --live, or leave --rate out.")
    if args.rate < 0:
        raise OptionError("--rate must not be negative.", remedy="Give particles a second.")
    recipe = Recipe(
        box_px=args.box,
        pixel_size_A=args.pixel_size,
        count=args.n,
        snr=args.snr,
        shift_px=args.shift,
        views=args.views,
        noise=args.noise,
        junk=args.junk,
        defocus_um=(args.defocus[0], args.defocus[1]),
        astigmatism_A=args.astigmatism,
        bfactor_A2=args.bfactor,
        voltage_kV=args.voltage,
        cs_mm=args.cs,
        amplitude_contrast=args.amplitude_contrast,
        micrographs=args.micrographs,
        seed=args.seed,
    )
    volume, actual_A = load_volume(args.map, recipe.box_px, recipe.pixel_size_A, args.apix_in)
    session = Session(volume, dataclasses.replace(recipe, pixel_size_A=actual_A))
    if args.live:
        write_live(args.out, session, volume, args.rate, say=lambda text: print(text, file=sys.stderr, flush=True))
    else:
        write_once(args.out, session, volume)
    made = f"{recipe.count} particles of {recipe.box_px} px at {actual_A:g} A"
    print(f"{made} in {args.out}; truth in {args.out}_truth.star")
    return 0
