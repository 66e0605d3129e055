"""The gallery: what it says, and that its pixels are the class averages in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamside.classify.picture import banner, bar_A, caption, columns, enlarged, headline, subline, tile, write_gallery
from beamside.run.engine import Snapshot
from beamside.run.guard import Verdict


def snapshot(counts: list[int], box_px: int = 16, provisional: str = "") -> Snapshot:
    """Class k is a ramp along x where k is even, along y where it is odd."""
    ramp = np.tile(np.arange(box_px, dtype=np.float32), (box_px, 1))
    images = np.stack([ramp if k % 2 == 0 else ramp.T for k in range(len(counts))])
    number = np.arange(1, len(counts) + 1)
    shares = np.array(counts) / max(1, sum(counts))
    resolution = np.where(np.array(counts) > 0, 12.5, np.inf)
    classes = {"class_number": number, "particles": np.array(counts), "share": shares, "resolution_A": resolution}
    notes: dict[str, Any] = {"round": 2, "passes": 40, "mask_diameter_A": 130.0, "pixel_size_A": 3.0}
    return Snapshot({"class_averages": images}, {"classes": classes}, 1.0, provisional, notes)


def pixels(path: Path) -> np.ndarray[Any, Any]:
    from matplotlib.image import imread

    return np.asarray(imread(path))[..., :3]


@pytest.mark.parametrize("count", [1, 5, 50])
def test_tiles_are_sorted_by_occupancy(count: int, tmp_path: Path) -> None:
    counts = list(range(1, count + 1))
    write_gallery(tmp_path / "g.png", snapshot(counts))
    sheet = pixels(tmp_path / "g.png")
    # The class with most particles is the last; the first tile begins 8 px from the left, under the head of 62 px.
    first = sheet[62 : 62 + 140, 8 : 8 + 140, 0]
    along_x, along_y = np.ptp(first.mean(0)), np.ptp(first.mean(1))
    assert (along_x > 0.9) == (count % 2 == 1)
    assert (along_y > 0.9) == (count % 2 == 0)


def test_words() -> None:
    shown = snapshot([3, 0, 9])
    assert headline(shown) == "2 of 3 classes, 12 particles"
    assert caption(shown, 0) == "1: 3 (25.0 %)\n12.5 A"
    assert caption(shown, 1) == "2: 0 (0.0 %)"
    assert "mask 130 A" in subline(shown) and f"bar {bar_A(shown):g} A" in subline(shown)


def test_the_bar_is_as_long_as_it_says(tmp_path: Path) -> None:
    shown = snapshot([3])
    write_gallery(tmp_path / "g.png", shown)
    first = pixels(tmp_path / "g.png")[62 : 62 + 140, 8 : 8 + 140, 0]
    side_A = shown.arrays["class_averages"].shape[-1] * shown.notes["pixel_size_A"]
    white = int((first[132, :120] == 1).sum())
    assert abs(white / 140 * side_A - bar_A(shown)) < side_A / 140 and side_A / 5 <= bar_A(shown) <= side_A / 2


def test_banner_says_the_verdict_with_its_findings() -> None:
    finding = {"severity": "suspect", "saw": "one class holds 61 % of all.", "remedy": "Look at it."}
    note = {"severity": "note", "saw": "small thing.", "remedy": ""}
    assert banner(snapshot([1]), {}, 80) == (Verdict.TRUSTED, [])
    assert banner(snapshot([1]), {"verdict": "trusted", "findings": [note]}, 80) == (Verdict.TRUSTED, ["TRUSTED"])
    early = banner(snapshot([1], provisional="few particles."), {}, 80)
    assert early == (Verdict.PROVISIONAL, ["PROVISIONAL: few particles"])
    verdict, lines = banner(snapshot([1]), {"verdict": "suspect", "findings": [finding] * 6}, 80)
    assert verdict is Verdict.SUSPECT and lines[0] == "SUSPECT"
    assert lines[1] == "- one class holds 61 % of all. Look at it."
    assert lines[-1] == "- and 2 more findings" and len(lines) == 6


def test_banner_moves_the_tiles_down(tmp_path: Path) -> None:
    write_gallery(tmp_path / "plain.png", snapshot([4, 2]))
    write_gallery(tmp_path / "judged.png", snapshot([4, 2]), {"verdict": "suspect", "findings": []})
    plain, judged = pixels(tmp_path / "plain.png"), pixels(tmp_path / "judged.png")
    assert judged.shape[0] > plain.shape[0]
    reddish = (judged[..., 0] - judged[..., 2] > 0.1).sum(1)
    assert reddish.max() > 500


def test_enlarging_and_shrinking_keep_the_picture() -> None:
    ramp = np.tile(np.arange(20.0), (20, 1))
    assert np.allclose(enlarged(ramp[None])[0, 0, 10:-10], np.linspace(0, 19, 140)[10:-10], atol=0.6)
    assert np.allclose(enlarged(np.ones((2, 300, 300))), 1)
    assert tile(np.full((4, 4), 2.0)).tolist() == np.full((4, 4), 0.5).tolist()
    assert tile(ramp).min() == 0 and tile(ramp).max() == 1


def test_columns() -> None:
    assert [columns(n) for n in (1, 12, 50, 900)] == [2, 5, 9, 20]
