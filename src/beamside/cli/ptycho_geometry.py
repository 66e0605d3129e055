"""`beamside ptycho check-geometry SCAN`: which orientation, axis signs, place of DC and defocus fit the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from beamside.errors import InputError

if TYPE_CHECKING:
    from beamside.ptycho.advice import Given
    from beamside.ptycho.options import PtychoOptions
    from beamside.ptycho.orientation import Candidate
    from beamside.sources.scan_options import ScanOptions

_FRAMES = 300


def check(path: Path, scan_options: ScanOptions, options: PtychoOptions) -> int:
    """Print the table; 0 when the geometry as given is the best or its equal, else 1."""
    from beamside.compute.lanes import available_threads
    from beamside.ptycho.advice import Given
    from beamside.ptycho.foresight import UNDOUBTED, Told, turns
    from beamside.ptycho.frames import FrameStore
    from beamside.ptycho.noise import choose_likelihood
    from beamside.ptycho.optics import optics_of
    from beamside.ptycho.orientation import compare, dc_offset_px
    from beamside.ptycho.start import flat_probe, pupil_probe, sweep
    from beamside.sources.scans import ScanFile

    source = ScanFile(path, scan_options)
    try:
        records = source.poll()
        header = source.header()
        if header is None:
            raise InputError("holds no scan.", where=str(path))
        optics = optics_of(header.fields)
        batch = source.batch(records)
        positions = batch.columns["position_m"] / optics.pixel_m
        near = _nearest(positions)
        store = FrameStore(optics.size, len(near))
        store.append(source.batch([records[i] for i in near]))
    finally:
        source.close()
    positions = positions[near]
    lanes = available_threads(options.threads)
    noise = choose_likelihood(options.noise, "auto", store)
    offset = dc_offset_px(store.mean_pattern)
    print(
        f"{path}: {len(records)} frames of {optics.size} px, object pixel {optics.pixel_m * 1e9:.2f} nm; "
        f"{len(near)} used"
    )
    print(f"The pattern's weight lies {offset[0]:+.1f} rows and {offset[1]:+.1f} columns from where DC is taken to be.")
    probe = None if options.probe is None else options.probe.modes
    z, signed = options.defocus_m, options.probe is not None or options.defocus_m is not None
    if optics.near and probe is None:
        probe, signed = flat_probe(store.mean_pattern), True
    if not signed:
        z = sweep(store, positions, optics, noise, seed=options.seed, lanes=lanes)[0].defocus_m
        print(f"Defocus of the best start without a probe in the geometry as given: {z * 1e3:+.3f} mm.")
    table = compare(
        store, positions, optics, noise, probe, defocus_m=z, signed=signed, with_dc=not optics.near,
        seed=options.seed, lanes=lanes,
    )  # fmt: skip
    given = Given.of(header.fields)
    _print(table, given)
    told = Told(store, positions, optics, noise, options.seed, lanes)
    start = pupil_probe(store.mean_pattern, optics, z or 0.0) if probe is None else probe
    if _as_given(table).noisy and not optics.near and told.sigma(start, 1) < UNDOUBTED:
        return _foreseen(turns(told, probe, defocus_m=z, signed=signed), given, signed=signed)
    return _verdict(table, given, signed=signed)


def _nearest(positions: object) -> list[int]:
    import numpy as np

    at = np.asarray(positions)
    distance = np.hypot(*(at - np.median(at, axis=0)).T)
    return [int(i) for i in np.sort(np.argsort(distance, kind="stable")[:_FRAMES])]


def _print(table: list[Candidate], given: Given) -> None:
    from beamside.ptycho import advice

    best = table[0].misfit
    print(
        f"{'misfit':>10} {'of best':>8}  {'DC':>6}  {'defocus, mm':>11}  {'to be given':42}  frames relative to these"
    )
    for c in table:
        z = "given" if c.defocus_m is None else f"{c.defocus_m * 1e3:+.3f}"
        place = "moved" if c.dc_moved else "as is"
        say = advice.axes_option(c, given) if c.with_probe else f"--orientation {advice.orientation_option(c, given)}"
        print(f"{c.misfit:10.1f} {c.misfit / best:8.2f}  {place:>6}  {z:>11}  {say:42}  {c.name}")


def _verdict(table: list[Candidate], given: Given, *, signed: bool) -> int:
    from beamside.ptycho import advice

    best = table[0]
    if not best.clearly_beats(_as_given(table)):
        print("The geometry as given fits as well as any.")
        _say_twins(signed=signed)
        return 0
    print(f"The frames fit clearly better with {best.name}: {advice.sentence(best, given, signed=signed)}.")
    return 1


def _as_given(table: list[Candidate]) -> Candidate:
    return min((c for c in table if c.orientation == 0 and not c.dc_moved), key=lambda c: c.misfit)


def _foreseen(table: list[Candidate], given: Given, *, signed: bool) -> int:
    """What frames left out say, where misfits are mostly counting noise."""
    from beamside.ptycho import advice
    from beamside.ptycho.foresight import KNOWN, better

    now, best = next(c for c in table if not c.orientation), better(table)
    print("Most of each misfit is counting noise. Frames left out are foreseen from the others, in units of chance:")
    for c in table:
        print(f"{c.sigma:10.1f}  {c.name}")
    if best is not None:
        print(f"They are foreseen clearly better with {best.name}: {advice.sentence(best, given, signed=signed)}.")
        return 1
    if now.sigma < KNOWN:
        print("That is nothing in any geometry: these frames do not say which is right.")
        return 1
    print("The geometry as given is the best.")
    _say_twins(signed=signed)
    return 0


def _say_twins(*, signed: bool) -> None:
    if not signed:
        print(
            "Frames turned by 180 degrees fit as well, with the conjugate object and the opposite defocus: the "
            "data alone do not tell these twins apart; a start probe or a --defocus of known sign does."
        )
