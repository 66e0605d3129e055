"""One picture of a reconstruction: amplitude, phase and probe with their scales, under the run's verdict.

Drawn on a plain canvas: a plotting library takes longer to load than a short run's pictures to draw.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beamside.optics.units import round_length
from beamside.ptycho.panels import Panel, panels, phase_strip, powers, probe_panel
from beamside.run.engine import Snapshot
from beamside.run.guard import Verdict

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_WIDTH_PX, _HEAD_PX, _LINE_PX, _GAP_PX, _FOOT_PX = 1200, 52, 17, 12, 40
_PROBE_PX, _TILE_PX, _STRIP_PX, _STRIP_TALL_PX = 230, 51, 110, 9
_OBJECT_PX = (_WIDTH_PX - 4 * _GAP_PX - _PROBE_PX) // 2
_CHARACTER_PX = 6.2
_MOST_FINDINGS, _MOST_TILES = 4, 4
_BANNER = {Verdict.TRUSTED: "#d9ead3", Verdict.PROVISIONAL: "#fff2cc", Verdict.SUSPECT: "#f4cccc"}
_GREY = "#4d4d4d"


def write_picture(path: Path, snapshot: Snapshot, judgement: Mapping[str, Any] | None = None) -> None:
    """Write a PNG of object and probe. What no photon has reached is drawn in blue, what hardly any has, in pale grey.

    judgement: `verdict` and `findings` as snapshot.json and verdict.json hold them.
    """
    from PIL import Image, ImageDraw

    verdict, lines = banner(snapshot, judgement or {})
    amplitude, phase, step = panels(snapshot)
    modes = np.asarray(snapshot.arrays["probe"])
    tall_px = max(1, round(_OBJECT_PX * amplitude.image.shape[0] / amplitude.image.shape[1]))
    top = _HEAD_PX + _LINE_PX * len(lines) + 8
    page = Image.new("RGB", (_WIDTH_PX, top + max(tall_px + _FOOT_PX, _probe_tall_px(len(modes)))), "white")
    pen = ImageDraw.Draw(page)
    pen.text((_GAP_PX, 16), headline(snapshot), "black", _font(15, bold=True), "lm")
    pen.text((_GAP_PX, 36), subline(snapshot), _GREY, _font(11), "lm")
    pen.rectangle((_GAP_PX, _HEAD_PX - 6, _WIDTH_PX - _GAP_PX, top - 10), _BANNER[verdict])
    for number, line in enumerate(lines):
        pen.text((2 * _GAP_PX, _HEAD_PX + 4 + _LINE_PX * number), line, "black", _font(11, bold=number == 0), "lm")
    for place, (panel, title, unit) in enumerate(
        ((amplitude, "amplitude", ""), (phase, "phase (ramp removed)", " rad"))
    ):
        left = _GAP_PX + place * (_OBJECT_PX + _GAP_PX)
        page.paste(_resized(panel.image, _OBJECT_PX, tall_px), (left, top))
        _caption(page, pen, (left, top + tall_px + 12), panel, title, unit)
    field_m = amplitude.image.shape[1] * step * float(snapshot.notes["pixel_size_m"][1])
    _scale_bar(pen, snapshot, field_m, top + tall_px + 30)
    _probe(page, pen, modes, (_WIDTH_PX - _GAP_PX - _PROBE_PX, top))
    page.save(path, compress_level=3)


def _caption(page: Image, pen: ImageDraw, at: tuple[int, int], panel: Panel, title: str, unit: str) -> None:
    """Title on the left; the grey scale with the values at its ends on the right."""
    left, middle = at
    pen.text((left, middle), title, "black", _font(11), "lm")
    high = f"{panel.high:.3g}{unit}"
    right = left + _OBJECT_PX - math.ceil(_font(11).getlength(high)) - 6
    pen.text((left + _OBJECT_PX, middle), high, "black", _font(11), "rm")
    pen.text((right - _STRIP_PX - 6, middle), f"{panel.low:.3g}", "black", _font(11), "rm")
    greys = np.repeat(np.linspace(0, 255, _STRIP_PX).astype(np.uint8)[None, :, None], 3, axis=2)
    _strip(page, pen, greys, (right - _STRIP_PX, middle))


def _strip(page: Image, pen: ImageDraw, colours: NDArray[np.uint8], at: tuple[int, int]) -> None:
    """A row of colours (1, w, 3), framed; `at` its left end and middle."""
    left, top = at[0], at[1] - _STRIP_TALL_PX // 2
    page.paste(_resized(colours, colours.shape[1], _STRIP_TALL_PX), (left, top))
    pen.rectangle((left - 1, top - 1, left + colours.shape[1], top + _STRIP_TALL_PX), outline=_GREY)


def _scale_bar(pen: ImageDraw, snapshot: Snapshot, field_m: float, middle: int) -> None:
    bar_m = round_length(field_m / 4)
    right = _GAP_PX + round(_OBJECT_PX * bar_m / field_m)
    pen.rectangle((_GAP_PX, middle - 2, right, middle + 2), "black")
    pen.text((right + 6, middle), bar_text(snapshot, bar_m), "black", _font(11), "lm")


def _probe_tall_px(modes: int) -> int:
    return _PROBE_PX + 58 + (_TILE_PX + 26 if modes > 1 else 0)


def _probe(page: Image, pen: ImageDraw, modes: NDArray[Any], at: tuple[int, int]) -> None:
    """The strongest mode, what its colours mean, and the further modes small, with their shares of the power."""
    left, top = at
    shares = powers(modes)
    order = np.argsort(-shares, kind="stable")
    first = probe_panel(modes[order[0]])
    page.paste(_resized(first.image, _PROBE_PX, _PROBE_PX), at)
    size, below = modes.shape[-1], top + _PROBE_PX
    of = f", mode of {shares[order[0]]:.0%}" if len(modes) > 1 else ""
    pen.text((left, below + 12), f"probe, {size} px{of}; brightness:", "black", _font(11), "lm")
    pen.text((left, below + 29), f"amplitude 0 to {first.high:.3g} (photons^1/2)", "black", _font(11), "lm")
    pen.text((left, below + 46), "hue: phase  -pi", "black", _font(11), "lm")
    strip = left + math.ceil(_font(11).getlength("hue: phase  -pi")) + 7
    _strip(page, pen, phase_strip(_STRIP_PX - 20), (strip, below + 46))
    pen.text((strip + _STRIP_PX - 14, below + 46), "pi", "black", _font(11), "lm")
    for place, mode in enumerate(order[1 : 1 + _MOST_TILES]):
        corner = (left + place * (_TILE_PX + 8), below + 60)
        page.paste(_resized(probe_panel(modes[mode]).image, _TILE_PX, _TILE_PX), corner)
        pen.text((corner[0], corner[1] + _TILE_PX + 9), f"{shares[mode]:.1%}", "black", _font(11), "lm")


def _resized(image: NDArray[np.uint8], wide_px: int, tall_px: int) -> Image:
    """Means where it shrinks; where it grows, pixels stay pixels."""
    from PIL import Image

    shrinks = image.shape[1] > wide_px
    filtering = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
    return Image.fromarray(image).resize((wide_px, tall_px), filtering)


@lru_cache
def _font(size_px: int, *, bold: bool = False) -> FreeTypeFont:
    """The face of the other engines' pictures, which comes with their library; that itself is not loaded."""
    from PIL import ImageFont

    found = find_spec("matplotlib")
    assert found is not None and found.origin is not None
    faces = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(faces / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size_px)


def banner(snapshot: Snapshot, judgement: Mapping[str, Any]) -> tuple[Verdict, list[str]]:
    """The verdict, and what the banner says, in lines."""
    verdict = Verdict(judgement.get("verdict") or ("provisional" if snapshot.provisional else "trusted"))
    first = str(verdict).upper() + (f": {snapshot.provisional}" if snapshot.provisional else "")
    findings = [f for f in judgement.get("findings", ()) if f["severity"] != "note"]
    texts = [first.rstrip(".")] + [f"- {f['saw']} {f['remedy']}".rstrip() for f in findings[:_MOST_FINDINGS]]
    if len(findings) > _MOST_FINDINGS:
        texts.append(f"- and {len(findings) - _MOST_FINDINGS} more findings")
    width = math.floor((_WIDTH_PX - 4 * _GAP_PX) / _CHARACTER_PX)
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_on_hyphens=False)
    return verdict, [line for text in texts for line in wrapper.wrap(text)]


def headline(snapshot: Snapshot) -> str:
    """Frames, probe modes and canvas."""
    arrays = snapshot.arrays
    modes, height, width = len(arrays["probe"]), *arrays["object"].shape
    noun = "mode" if modes == 1 else "modes"
    return f"{len(arrays['positions_px']):,} frames, {modes} probe {noun}, object {height} x {width} px"


def subline(snapshot: Snapshot) -> str:
    """Pixel, covered share, solver."""
    share = float((np.asarray(snapshot.arrays["coverage"]) > 0).mean())
    pixel = length_text(float(snapshot.notes["pixel_size_m"][0]))
    if snapshot.notes.get("nominal_lengths"):
        pixel = "of unknown size"
    text = f"pixel {pixel}; {share:.0%} of the canvas seen (rest: blue)"
    further = [snapshot.notes.get("solver"), "sign of the phase not known" if snapshot.notes.get("twin") else ""]
    return "; ".join([text, *(str(part) for part in further if part)])


def bar_text(snapshot: Snapshot, bar_m: float) -> str:
    """The scale bar's length; in pixels where the scan does not say what a pixel is."""
    if snapshot.notes.get("nominal_lengths"):
        return f"{bar_m / float(snapshot.notes['pixel_size_m'][1]):.3g} px"
    return length_text(bar_m)


def length_text(length_m: float) -> str:
    """A length with three digits, in the unit that suits it."""
    for unit, size in (("m", 1.0), ("mm", 1e-3), ("um", 1e-6), ("nm", 1e-9)):
        if length_m >= 0.9995 * size:
            return f"{length_m / size:.3g} {unit}"
    return f"{length_m / 1e-12:.3g} pm"
