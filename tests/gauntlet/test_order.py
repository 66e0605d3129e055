"""Items that come twice, in another order, or not at all, in real runs of every engine.

What arrives before a batch is cut gives the same result bit for bit, whatever its order (docs/decisions/0072). Where
reordering crosses the border of two batches, the result is as good.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from beamside.denoise import gate, verify
from beamside.denoise.held_out import Example
from beamside.formats.star import StarTable, read_star, write_star
from beamside.run.ledger import Ledger
from beamside.simulate.scan import Scan
from beamside.simulate.stream import Replay, StreamOptions, send
from beamside.sources.live_scan import LiveScan
from beamside.sources.particles import ParticleFolder
from tests.denoise.scene import write_session as write_pairs
from tests.gauntlet import denoise_drive, drive, ptycho_drive
from tests.ptycho import scene

Capture = pytest.CaptureFixture[str]
FRAMES = 120
WATCH = ("--watch", "--idle-close", "2s", "--settle", "0.1s")


def keys_of(run: Path) -> list[str]:
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.items() == ledger.in_batches()
        return [record.key for record in ledger.records()]


def write_rows(star: Path, source: Path, rows: list[int], stack: str = "particles.mrcs") -> None:
    """Those rows of the first table of a session, in that order."""
    tables = read_star(source)
    columns = {label: [values[row] for row in rows] for label, values in tables["particles"].columns.items()}
    columns["rlnImageName"] = [name.partition("@")[0] + "@" + stack for name in columns["rlnImageName"]]
    write_star(star, [tables["optics"], StarTable(columns, name="particles")])


def spoiled(count: int, lost: set[int], seed: int) -> list[int]:
    """Rows of a table in any order, 5 % of them twice, without those that were lost."""
    chance = np.random.default_rng(seed)
    there = [row for row in range(count) if row not in lost]
    twice = chance.choice(there, count // 20, replace=False).tolist()
    return [int(row) for row in chance.permutation([*there, *twice])]


def test_particles_of_a_growing_folder(
    star: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables come while the run watches; what one of them lacks is named, and it is all that is missing."""
    defaults = ParticleFolder.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "patience_s", 1.0)
    lost = {17, 101}
    rows, folder = spoiled(240, lost, seed=1), star.parent
    hidden = shutil.move(star, tmp_path / "whole.star")
    parts = np.array_split(np.array(rows), 6)

    def microscope() -> None:
        for number in (4, 0, 5, 2, 1, 3):
            write_rows(folder / f"part{number}.star", hidden, parts[number].tolist())
            threading.Event().wait(0.15)
        write_rows(folder / "part6.star", hidden, sorted(lost), "lost.mrcs")

    writer = threading.Thread(target=microscope)
    writer.start()
    ran = drive.run(capsys, folder, tmp_path / "run", *WATCH, "--first-batch", 238)
    writer.join()
    assert ran.status == 0, ran.said
    assert keys_of(ran.folder) == [f"{row + 1:06d}@particles.mrcs" for row in range(240) if row not in lost]
    assert any("part6.star" in said and "lost.mrcs is not there" in said for said in ran.named("input.settled"))
    for number in range(7):
        (folder / f"part{number}.star").unlink()
    write_rows(star, hidden, [row for row in range(240) if row not in lost])
    ordered = drive.run(capsys, star, tmp_path / "ordered", "--first-batch", 238)
    assert ordered.status == 0 and drive.result_bytes(ran.folder) == drive.result_bytes(ordered.folder)


def test_a_table_in_any_order_is_the_same_table(star: Path, tmp_path: Path, capsys: Capture) -> None:
    """The order of rows decides nothing, and 5 % of them twice weigh once."""
    whole = drive.run(capsys, star, tmp_path / "whole")
    original = shutil.copy(star, tmp_path / "original.star")
    write_rows(star, original, spoiled(240, set(), seed=2))
    mixed = drive.run(capsys, star, tmp_path / "mixed")
    assert whole.status == mixed.status == 0
    assert mixed.named("input.repeated") and keys_of(mixed.folder) == keys_of(whole.folder)
    assert drive.result_bytes(mixed.folder) == drive.result_bytes(whole.folder)


def free_ports(count: int) -> list[str]:
    zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
    sockets = [zmq.Context.instance().socket(zmq.PULL) for _ in range(count)]
    found = [f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}" for socket in sockets]
    for socket in sockets:
        socket.close(linger=0)
    return found


def live_run(capsys: Capture, folder: Path, replay: Replay, options: StreamOptions) -> drive.Ran:
    """`beamside ptycho tcp://...`, in one batch when the stream has ended."""
    ports = free_ports(2)
    sender = threading.Thread(target=send, args=(*ports, replay, options), kwargs={"wait_s": 60})
    sender.start()
    more = ("--first-frames", FRAMES, "--no-geometry-check", "--max-iterations", 10)
    ran = ptycho_drive.run(capsys, ports[0], folder, "--positions", ports[1], *more)  # type: ignore[arg-type]
    sender.join()
    return ran


def replay_of(made: Scan, frames: list[int]) -> Replay:
    recipe, rows = made.recipe, np.array(frames)
    config = {
        "wavelength": recipe.wavelength_m * 1e10, "detector_distance": recipe.distance_m,
        "x_pixel_size": recipe.detector_pixel_m, "beam_center_x": recipe.frame_px // 2,
        "beam_center_y": recipe.frame_px // 2, "nimages": FRAMES,
    }  # fmt: skip
    counts = made.frames(np.arange(FRAMES))
    return Replay(rows, (made.recorded_px * recipe.pixel_m)[rows], lambda wanted: counts[rows[wanted]], config)


def test_frames_of_a_live_stream(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames doubled, shuffled and lost on the way, and positions too: those that came give what they give in order."""
    pytest.importorskip("lz4.block", reason="the extra 'live' is not installed")
    defaults = LiveScan.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "patience_s", 1.0)
    made = scene.scan(FRAMES)
    accidents = StreamOptions(duplicate=0.05, reorder=FRAMES, drop=0.01, drop_positions=0.01, seed=5)
    mixed = live_run(capsys, tmp_path / "mixed", replay_of(made, list(range(FRAMES))), accidents)
    came = [int(key.split()[1]) for key in keys_of(mixed.folder)]
    assert mixed.status == 0 and came == sorted(set(came)) and FRAMES - 6 <= len(came) < FRAMES, mixed.said
    with Ledger(mixed.folder / "ledger.sqlite", read_only=True) as ledger:
        named = [n for _, f in ledger.findings() if f.guard != "input.repeated" for n in f.values.get("frames", ())]
    assert sorted(named) == sorted(set(range(FRAMES)) - set(came)), mixed.findings
    assert mixed.named("input.repeated")
    ordered = live_run(capsys, tmp_path / "ordered", replay_of(made, came), StreamOptions())
    assert ordered.status == 0 and keys_of(ordered.folder) == keys_of(mixed.folder)
    assert ptycho_drive.result(ordered.folder) == ptycho_drive.result(mixed.folder)


def test_reordering_across_batches_costs_a_scan_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces differ here, so the object does; it is as near to the truth."""
    made, engines = scene.scan(FRAMES), ptycho_drive.caught(monkeypatch)
    for name, order in (("ordered", np.arange(FRAMES)), ("mixed", np.random.default_rng(3).permutation(FRAMES))):
        parts = [*np.array_split(order, 4), order[:6]]
        source = ptycho_drive.Pieces(made, parts)
        outcome, found = ptycho_drive.run_pieces(tmp_path / name, source, scene.options(made))
        assert outcome.items == FRAMES and [f for f in found if f[1] != "note"] == []
    ordered, mixed = (scene.run_error(made, engine) for engine in engines)
    assert mixed < 1.1 * ordered, (mixed, ordered)


def verified_here(model: bytes, examples: Sequence[Example], threads: int) -> gate.Verified:
    """What the fresh process computes, without the seconds in which it starts."""
    found = json.loads(verify.answer(verify.message(model, examples, threads)))
    return gate.Verified(gate.Score(**found))


def test_micrographs_of_a_folder(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of one is missing; a list names them in another order, and one of them twice."""
    monkeypatch.setattr(gate, "in_fresh_process", verified_here)
    there = write_pairs(tmp_path / "in", 5)
    (there / "mic003_ODD.mrc").unlink()
    whole = denoise_drive.train(capsys, there, tmp_path / "whole", "--steps", 60)
    lines = [f"{there}/mic{n:03d}_EVN.mrc,{there}/mic{n:03d}_ODD.mrc\n" for n in (4, 0, 2, 4, 1)]
    (there / "pairs.csv").write_text("first,second\n" + "".join(lines))
    mixed = denoise_drive.train(capsys, there / "pairs.csv", tmp_path / "mixed", "--steps", 60)
    for ran in (whole, mixed):
        assert ran.status == 0, ran.said
        assert [Path(key).name for key in keys_of(ran.folder)] == [f"mic{n:03d}_EVN.mrc" for n in (0, 1, 2, 4)]
    (sentence,) = whole.named("pairs.match")
    assert "the odd half of mic003_EVN.mrc is missing" in sentence
    models = denoise_drive.result_bytes(mixed.folder)
    assert "model.safetensors" in models and models == denoise_drive.result_bytes(whole.folder)
