"""`beamside denoise evaluate`: what a model does to micrographs, beside the best blur and doing nothing."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamside.cli.denoise_apply import Model, use_threads
from beamside.cli.denoise_jobs import pair_name, read_image, refuse_movie
from beamside.compute.device import chosen
from beamside.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ENDINGS = ("_full", "_sum", "_clean", "_truth")
_SEAM_TILE_PX = 256
_AGAINST = {"truth": "against the truth", "halves": "against the other half"}


def configure(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action with its options."""
    parser = actions.add_parser(
        "evaluate",
        help="score a model on micrographs, by their halves or their truth, beside the best blur",
        description="Score a model. Sums become what 'apply' makes of them, and are compared with --truth. Halves are "
        "denoised each alone by the network alone, since their partners have the ice too, and compared.",
    )
    add = parser.add_argument
    add("micrographs", nargs="+", type=Path, metavar="MICROGRAPHS", help="halves or sums: files, or folders of them")
    add("--model", required=True, metavar="RUN|FILE|prior", help="a training run, a model file, or the one built in")
    add(
        "--truth",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILES",
        help="noise-free images, or a folder of them, called as the micrographs, with _clean or _truth behind the name",
    )
    add("--out", type=Path, default=Path("denoise-evaluation"), help="folder for report.json and pictures")
    add("--pixel-size", type=float, metavar="A", help="where the files do not say, or are wrong")
    add("--keep-ice", action="store_true", help="compare sums as 'apply --keep-ice' makes them")
    add("--threads", type=int, metavar="N", help="processor threads (all available)")
    add("--device", default="auto", help="auto, cpu or cuda")


@dataclass(frozen=True)
class Case:
    """One micrograph: its halves or its sum, and its truth if there is one."""

    name: str
    inputs: tuple[Path, ...]
    truth: Path | None


def run(args: argparse.Namespace) -> int:
    """Evaluate, write, print; 0.

    Raises:
        InputError: nothing to evaluate, or a truth that belongs to no micrograph.
        OptionError: an impossible option.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    use_threads(args.threads)
    device = chosen(args.device)
    model = Model(args.model, device)
    if not model.refresh():
        raise InputError("has published no model yet.", where=args.model, remedy="Wait for one.")
    cases = cases_of(args.micrographs, args.truth)
    args.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for case in cases:
        entries.append(_one(case, model, device, args))
        print(_sentence(entries[-1]), flush=True)
    from beamside.denoise.report import lost_to_blur, over_run

    lost = lost_to_blur(entries)
    whole = {"model": args.model, "card": _plain(model.card), "micrographs": entries, "run": over_run(entries)}
    whole["lost_to_blur"] = lost
    report = args.out / "report.json"
    report.write_text(json.dumps(whole, indent=1) + "\n")
    print(_table(whole["run"]))
    for sentence in lost_sentences(lost, entries):
        print(sentence)
    print(f"Report: {report}")
    return 0


def _plain(card: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(card)


def cases_of(inputs: Sequence[Path], truths: Sequence[Path]) -> list[Case]:
    """Halves by their names, else sums; a sum beside its halves is left to them. Truths are matched by name."""
    from beamside.sources import pairing

    found = pairing.pair_up(_files(inputs))
    by_name = {_key(path): path for path in _files(truths, "_clean")}
    pairs = [c for c in found if c.second is not None]
    taken = {pair_name(c.first) for c in pairs}
    cases = [Case(pair_name(c.first), c.files, by_name.pop(pair_name(c.first), None)) for c in pairs]
    for candidate in found:
        name = _key(candidate.first)
        single = candidate.second is None and not candidate.missing
        # Truths and masks of a simulation may lie beside its halves.
        of_a_pair = any(name == pair or name.startswith(f"{pair}_") for pair in taken)
        if single and not of_a_pair and candidate.first not in truths:
            cases.append(Case(name, candidate.files, by_name.pop(name, None)))
    if not cases:
        raise InputError("hold no micrographs.", where="MICROGRAPHS", remedy="Give halves or sums, MRC or TIFF.")
    if by_name and not all(path.is_dir() for path in truths):
        raise InputError(
            "belongs to no micrograph that was given.",
            where=str(next(iter(by_name.values()))),
            remedy="Call it as the micrograph, with _clean behind the name.",
        )
    return cases


def _files(inputs: Sequence[Path], preferred: str = "") -> list[Path]:
    """Images among `inputs` and in folders; of a folder that has names ending in `preferred`, those alone."""
    from beamside.sources import pairing
    from beamside.sources.settling import walk

    files = []
    for path in inputs:
        if not path.exists():
            raise InputError("there is no such file or folder.", where=str(path), remedy="Check the spelling.")
        inside = list(walk(path, pairing.IMAGE_SUFFIXES, lambda names: "run.json" in names)) if path.is_dir() else []
        chosen = [p for p in inside if preferred and p.stem.endswith(preferred)]
        files += (chosen or inside) if path.is_dir() else [path]
    return files


def _key(path: Path) -> str:
    """The micrograph's name without what tells a sum or a truth."""
    ending = next((e for e in _ENDINGS if path.stem.endswith(e)), "")
    return path.stem.removesuffix(ending)


def _one(case: Case, model: Model, device: str, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one micrograph, and its picture."""
    import numpy as np

    from beamside.denoise import report
    from beamside.denoise.ice import remove_ice
    from beamside.denoise.normalise import robust_scale
    from beamside.denoise.report_picture import write_pictures
    from beamside.denoise.tiling import denoise, halves_scale, sum_scale, tiles
    from beamside.sources.movies import image_info

    for path in case.inputs:
        refuse_movie(path)
    images = [read_image(path) for path in case.inputs]
    px = args.pixel_size or image_info(case.inputs[0]).pixel_size_A
    where = str(case.inputs[0])
    single = model.card.pairs == "single"
    total = images[0] if len(images) == 1 else images[0] + images[1]
    own = len(images) == 2 and not single
    scale = halves_scale(*images, where=where) if own else sum_scale(total, model.card.pairs, where=where)
    scale = model.own_units(scale)
    result = denoise(model.network, total, scale=scale, device=device)
    plan = tiles((total.shape[0], total.shape[1]), _SEAM_TILE_PX, model.network.stride)
    tiled = denoise(model.network, total, scale=scale, device=device, tile_px=_SEAM_TILE_PX)
    if not args.keep_ice:
        remove_ice(result, px)
        remove_ice(tiled, px)
    total = np.where(np.isfinite(total), total, np.float32(np.nanmean(total)))
    entry: dict[str, Any] = {"name": case.name, "pixel_size_A": px, "files": [str(path) for path in case.inputs]}
    entry["brightness"] = report.brightness(result, total)
    entry["seam"] = report.seam(result, tiled, [tile.rows[0] for tile in plan if tile.rows[0]])
    panels: dict[str, NDArray[np.float32]] = {"input": total}
    curves: dict[str, NDArray[np.float64]] = {}
    if len(images) == 2:
        half = robust_scale(*images, where=where)
        even, odd = (np.where(np.isfinite(i), i, np.float32(half.mean)) for i in images)
        first, second = (denoise(model.network, i, scale=model.own_units(half), device=device) for i in (even, odd))
        entry["halves"] = report.between_halves((first, second), (even, odd), half.spread, px)
        entry["patches"] = report.patches(first, odd)
        curves["halves, model"] = report.ring_correlation(first, second)
        curves["halves, nothing"] = report.ring_correlation(even, odd)
        panels["best blur"] = report.blurred(total, entry["halves"]["blur_sigma_px"])
    truth = None
    if case.truth is not None:
        truth = read_image(case.truth)
        if truth.shape != total.shape:
            raise InputError(f"is {truth.shape}, the micrograph {total.shape}.", where=str(case.truth))
        entry["truth"] = report.against_truth(result, total, truth, px)
        panels["best blur"] = report.blurred(total, entry["truth"]["blur_sigma_px"])
        flat = report.without_background(truth)
        curves["truth, model"] = report.ring_correlation(report.without_background(result), flat)
        curves["truth, nothing"] = report.ring_correlation(report.without_background(total), flat)
    panels["model"] = result
    if truth is not None:
        panels["truth"] = truth
    panels["taken away"] = total - result
    write_pictures(args.out / f"{case.name}.png", panels, curves, px)
    return entry


def lost_sentences(lost: Mapping[str, Sequence[str]], entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """On which micrographs a model is no better than a blur; nothing where there are none."""
    found = []
    for group, names in lost.items():
        count = sum(group in entry for entry in entries)
        if names:
            found.append(
                f"No better than the best blur {_AGAINST[group]} on {len(names)} of {count}: {', '.join(names)}"
            )
    return found


def _sentence(entry: Mapping[str, Any]) -> str:
    parts = [str(entry["name"])]
    if "truth" in entry:
        snr = [f"{who} {entry['truth'][who]['snr_db']:.2f}" for who in ("model", "blur", "nothing")]
        parts.append(f"SNR against truth, dB: {', '.join(snr)}")
    if "halves" in entry:
        loss = [f"{who} {entry['halves'][who]['partner_loss']:.5f}" for who in ("model", "blur", "nothing")]
        parts.append(f"loss against the other half: {', '.join(loss)}")
    if len(parts) == 1:
        parts.append("has neither halves nor a truth: brightness and seams only")
    return "; ".join(parts)


def _table(run: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"{name:32s} mean {values['mean']:9.4f}  worst {values['worst']:9.4f}" for name, values in run.items()]
    return "\n".join(lines)
