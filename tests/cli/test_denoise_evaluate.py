"""`beamside denoise evaluate`: halves, truths, pictures and the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from beamside.cli.denoise_evaluate import cases_of, lost_sentences
from beamside.cli.main import main
from beamside.denoise.report import lost_to_blur
from beamside.simulate.micrograph_files import write_micrographs
from beamside.simulate.micrographs import Recipe, Session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated micrographs with their truth."""
    out = tmp_path_factory.mktemp("data") / "session"
    recipe = Recipe(size_px=256, pixel_size_A=2.5, count=2, structures=("ring", "small"), contrast=1.0, seed=7)
    write_micrographs(out, Session(recipe))
    return out


def evaluate(*arguments: object) -> int:
    threads = torch.get_num_threads()
    try:
        return main(["denoise", "evaluate", "--model", "prior", "--threads", "1", *map(str, arguments)])
    finally:
        torch.set_num_threads(threads)


def test_halves_and_truth(session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = session.with_name("session_truth")
    assert evaluate(session, "--truth", truth, "--out", tmp_path / "e") == 0
    report = json.loads((tmp_path / "e" / "report.json").read_text())
    assert [entry["name"] for entry in report["micrographs"]] == ["mic0000", "mic0001"]
    for entry in report["micrographs"]:
        snr = {who: entry["truth"][who]["snr_db"] for who in ("model", "blur", "nothing")}
        assert snr["model"] > snr["blur"] > snr["nothing"]
        assert entry["halves"]["model"]["correlation"] > entry["halves"]["nothing"]["correlation"]
        assert entry["seam"]["largest_difference_sd"] < 0.02 and abs(entry["brightness"]["offset_sd"]) < 0.05
        assert -1 <= entry["patches"]["lowest"] <= entry["patches"]["highest"] <= 1
        assert (tmp_path / "e" / f"{entry['name']}.png").read_bytes()[:4] == b"\x89PNG"
    mean = report["run"]["truth.model.snr_db"]
    assert mean["worst"] <= mean["mean"]
    said = capsys.readouterr().out
    assert "SNR against truth" in said and report["lost_to_blur"]["truth"] == []
    assert ("No better than" in said) == bool(report["lost_to_blur"]["halves"])


def test_a_sum_alone(session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(session / "mic0001_full.mrc", "--out", tmp_path / "e") == 0
    assert "neither halves nor a truth" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "e" / "report.json").read_text())["micrographs"]
    assert "truth" not in entry and "halves" not in entry and "brightness" in entry


def test_matching(session: Path) -> None:
    truths = session.with_name("session_truth")
    by_folder = cases_of([session], [truths])
    assert [case.truth for case in by_folder] == [truths / f"mic000{n}_clean.mrc" for n in (0, 1)]
    assert all(len(case.inputs) == 2 for case in by_folder)
    (single,) = cases_of([session / "mic0000_full.mrc"], [truths / "mic0000_clean.mrc"])
    assert single.name == "mic0000" and single.truth is not None


def test_a_truth_of_nothing_is_refused(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = session.with_name("session_truth") / "mic0001_clean.mrc"
    assert evaluate(session / "mic0000_full.mrc", "--truth", truth) == 2
    assert "belongs to no micrograph" in capsys.readouterr().err


def test_micrographs_on_which_a_blur_is_as_good_are_named() -> None:
    def against(model: float, blur: float) -> dict[str, dict[str, float]]:
        return {"model": {"mse": model, "partner_loss": model}, "blur": {"mse": blur, "partner_loss": blur}}

    entries = [
        {"name": "a", "truth": against(1.0, 2.0), "halves": against(1.1, 1.1)},
        {"name": "b", "truth": against(2.0, 1.0)},
        {"name": "c"},
    ]
    lost = lost_to_blur(entries)
    assert lost == {"truth": ["b"], "halves": ["a"]} and lost_to_blur(entries[2:]) == {}
    assert lost_sentences(lost, entries) == [
        "No better than the best blur against the truth on 1 of 2: b",
        "No better than the best blur against the other half on 1 of 1: a",
    ]
    assert lost_sentences({"truth": []}, entries) == []
