"""The engine by itself: resumed exactly, fed in pieces, on patches, on one micrograph, on single images."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.denoise import blindspot, gate
from beamside.denoise.engine import Denoiser
from beamside.denoise.gate import Verified, independent
from beamside.denoise.held_out import Example, HeldOut
from beamside.denoise.micrograph import HELD_OUT, TRAIN
from beamside.denoise.model_file import unpack_model
from beamside.denoise.normalise import robust_scale
from beamside.denoise.stored import BEST
from beamside.errors import InputError, OptionError
from beamside.run.encode import exact_json, pack, unpack
from beamside.run.engine import Batch, Header, State
from tests.denoise.scene import PIXEL_A, halves, options, truth


def header(pairs: str = "halves", tile_px: int = 0) -> Header:
    return Header("micrographs", {"pairs": pairs, "pixel_size_A": PIXEL_A, "tile_px": tile_px})


def batch(numbers: Sequence[int], images: dict[int, NDArray[np.float32]] | None = None, tile_px: int = 0) -> Batch:
    """Micrographs by number, two the same for tests of single images."""
    made = images or {number: halves(number) for number in numbers}

    def load(rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.stack([made[numbers[int(row)]] for row in rows])

    columns = {"tile_px": np.full(len(numbers), tile_px), "load_bytes": np.full(len(numbers), 9 * 192 * 192)}
    return Batch(tuple(f"mic{number}" for number in numbers), columns, load)


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh process is tested by the guards; here its answer is made in this one."""

    def here(model: bytes, examples: Sequence[Example], threads: int) -> Verified:
        return Verified(independent(unpack_model(model, where="here")[0], examples))

    monkeypatch.setattr(gate, "in_fresh_process", here)


def finish(engine: Denoiser) -> Denoiser:
    while not engine.finished:
        engine.step()
    return engine


def stored(engine: Denoiser) -> State:
    """The state as it comes back from the disk."""
    state = engine.state()
    return State(unpack(pack(state.arrays)), json.loads(exact_json(state.values)))


@pytest.mark.parametrize(("network", "steps_before"), [("seed3", 1), ("seed3", 3), ("fast", 3)])
def test_a_resumed_training_is_the_same_bit_for_bit(network: str, steps_before: int) -> None:
    chosen = options(network=network, learning_rate=2e-3, steps=50, lesson_steps=20)
    first = Denoiser.fresh(chosen, header())
    first.ingest(batch([0, 1, 2, 3]))
    for _ in range(steps_before):
        first.step()
    state = stored(first)
    again = Denoiser.resume(chosen, header(), state, [batch([0, 1, 2, 3])])
    for engine in (first, again):
        engine.ingest(batch([4]))
        engine.close()
        finish(engine)
    one, two = first.state(), again.state()
    assert pack(one.arrays) == pack(two.arrays) and exact_json(one.values) == exact_json(two.values)


def unequal(number: int) -> NDArray[np.float32]:
    """A frame and the sum of many others."""
    frame, rest = 100 + 5 * truth(number), 100 + 5 * truth(number)
    rng = np.random.default_rng([number, 2])
    return np.stack([image + 5 * s * rng.standard_normal(image.shape) for image, s in ((frame, 3.0), (rest, 0.5))])


def test_images_of_unequal_noise_are_shown_at_their_own_spread_and_a_resume_is_exact() -> None:
    chosen = options(steps=40, first_round_steps=20)
    images = {number: unequal(number).astype(np.float32) for number in range(4)}
    first = Denoiser.fresh(chosen, header())
    first.ingest(batch([0, 1, 2, 3], images))
    for found in first.micrographs:
        own = [robust_scale(image).spread / found.scale.spread for image in images[int(found.key[-1])]]
        assert found.unequal and found.levels == pytest.approx(own)
    for example in first.held_out.examples:
        assert float(example.input.std()) == pytest.approx(example.level, rel=0.2)
    seen, network_step = [], first.trainer.step

    def noted(inputs: Tensor, *others: Any) -> None:
        seen.append((inputs.std((1, 2, 3)) / others[-1][:, 0]).tolist())
        network_step(inputs, *others)

    first.trainer.step = noted  # type: ignore[method-assign]
    first.step()
    np.testing.assert_allclose(seen, 1.0, atol=0.25)
    first.step()
    assert first.rounds == 1
    state = stored(first)
    again = Denoiser.resume(chosen, header(), state, [batch([0, 1, 2, 3], images)])
    for engine in (first, again):
        engine.close()
        finish(engine)
    one, two = first.state(), again.state()
    assert pack(one.arrays) == pack(two.arrays) and exact_json(one.values) == exact_json(two.values)
    assert first.published is not None
    network, card = unpack_model(first.published.model, where="here")
    assert card.pairs == "unequal" and network.by_own_spread
    plain = copy.deepcopy(network)
    plain.blend = None
    examples = first.held_out.examples
    assert independent(network, examples).loss == pytest.approx(first.published.loss, rel=1e-6)
    assert network.blend is not None and first.published.loss < independent(plain, examples).loss
    assert gate.agree(gate.evaluate(network, examples).loss, first.published.loss)


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    engine = Denoiser.fresh(options(steps=None), header())
    engine.ingest(batch([0, 1, 2, 3]))
    rates = []
    trainer = engine.trainer
    for _ in range(4):
        rates.append(trainer.present_rate())
        engine.step()
    assert rates[0] == pytest.approx(1e-3) and rates[1] == rates[2] == pytest.approx(1e-2)
    engine.close()
    assert trainer.total == trainer.steps + 50
    before = trainer.present_rate()
    finish(engine)
    assert trainer.present_rate() < 0.01 * before and trainer.done


def test_what_is_held_out_is_never_trained_on() -> None:
    engine = Denoiser.fresh(options(), header())
    engine.ingest(batch([0, 1, 2, 3]))
    roles = {found.key: found.role for found in engine.micrographs}
    assert sorted(roles.values()) == [HELD_OUT, TRAIN, TRAIN, TRAIN]
    assert set(engine.loader.members) == {key for key, role in roles.items() if role == TRAIN}


def test_a_lone_micrograph_is_cut_in_two() -> None:
    engine = Denoiser.fresh(options(crop_px=32), header())
    seen = []
    original = engine.loader._prepare
    engine.ingest(batch([0]))
    train, held = engine.micrographs
    assert (train.role, train.top, train.bottom) == (TRAIN, 0, 144)
    assert (held.role, held.top, held.bottom) == (HELD_OUT, 144, 192)
    engine.close()
    finish(engine)
    seen.append(original)
    assert engine.last is None or engine.held_out.examples


def test_it_learns_and_the_published_model_beats_the_blur_against_the_truth() -> None:
    engine = Denoiser.fresh(options(steps=80), header())
    engine.ingest(batch([0, 1, 2, 3, 4, 5]))
    engine.close()
    finish(engine)
    assert engine.published is not None and engine.last is not None
    network, card = unpack_model(engine.snapshot().arrays[BEST].tobytes(), where="here")
    assert (
        card.pairs == "halves"
        and card.pixel_size_A == PIXEL_A
        and card.score["loss"] == pytest.approx(engine.published.loss, rel=1e-6)
    )
    unseen, clean = halves(50), truth(50)
    scale = engine.micrographs[0].scale
    with torch.inference_mode():
        found = network(torch.from_numpy(scale.normalise(unseen[0]))[None, None])[0, 0].numpy()
    assert np.corrcoef(found.ravel(), clean.ravel())[0, 1] > 1.3 * np.corrcoef(unseen[0].ravel(), clean.ravel())[0, 1]


def test_a_last_model_with_a_higher_loss_than_the_published_one_is_not_published() -> None:
    engine = Denoiser.fresh(options(), header())
    engine.ingest(batch([0, 1, 2, 3]))
    engine.close()
    finish(engine)
    assert engine.published is not None and engine.last is not None and engine.trainer.done
    better = replace(engine.published, loss=engine.last.independent.loss * (1 - 1e-4), steps=-1)
    engine.published = better
    engine.evaluation()
    assert engine.published == better
    engine.published = replace(better, loss=engine.last.independent.loss * (1 + 1e-4))
    engine.evaluation()
    assert engine.published.steps == engine.trainer.steps


def test_patches_are_trained_on_as_patches() -> None:
    images = {n: np.concatenate([halves(10 * n + k, 64) for k in range(8)], axis=1) for n in range(3)}
    engine = Denoiser.fresh(options(steps=20), header("patches", 64))
    engine.ingest(batch([0, 1, 2], images, tile_px=64))
    engine.close()
    finish(engine)
    assert engine.crop_px == 64 and {e.input.shape for e in engine.held_out.examples} == {(64, 64)}


def test_patches_of_another_grid_than_the_networks_are_refused() -> None:
    with pytest.raises(OptionError, match="50 px"):
        Denoiser.fresh(options(network="fast"), header("patches", 50))


def single(number: int) -> NDArray[np.float32]:
    image = halves(number)[0]
    return np.stack([image, image])


def test_single_images_are_learned_from_by_a_blind_spot() -> None:
    engine = Denoiser.fresh(options(steps=60), header("single"))
    engine.ingest(batch([0, 1, 2, 3], {n: single(n) for n in range(4)}))
    engine.close()
    finish(engine)
    assert engine.last is not None and engine.held_out.examples[0].weight is not None
    assert engine.floor == pytest.approx(0.9, abs=0.1) and engine.floor_reached is None
    assert engine.last.score.loss < 0.6 * engine.last.controls.nothing


def test_single_images_stop_where_only_noise_is_left_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A floor above what can be reached at once stands for a mask through which the noise leaks."""
    monkeypatch.setattr(blindspot, "noise_floor", lambda images: 50.0)
    engine = Denoiser.fresh(options(steps=200), header("single"))
    engine.ingest(batch([0, 1, 2, 3], {n: single(n) for n in range(4)}))
    finish(engine)
    assert engine.trainer.steps == 30 and engine.floor_reached is not None
    (found,) = [guard.check(engine) for guard in Denoiser.guards if guard.name == "loss.floor"]
    assert found is not None and "50" in found.saw


def test_without_a_usable_micrograph_it_says_so() -> None:
    engine = Denoiser.fresh(options(), header())
    bad = {0: np.full((2, 192, 192), np.nan, np.float32)}
    engine.ingest(batch([0], bad))
    assert engine.step().idle
    with pytest.raises(InputError, match="no usable micrograph"):
        engine.close()


def test_a_grown_held_out_set_scores_the_published_model_again() -> None:
    engine = Denoiser.fresh(options(steps=None), header())
    engine.ingest(batch([0, 1, 2, 3]))
    while engine.published is None:
        engine.step()
    before = engine.published
    later = [f"mic{n}" for n in range(200) if n > 3]
    numbers = [int(key[3:]) for key in later if __import__("beamside").denoise.micrograph.is_held_out(key)][:1]
    engine.ingest(batch(numbers))
    while engine.losses_version == before.version:
        engine.step()
    assert engine.published.version == engine.held_out.version > before.version
    network, _ = unpack_model(engine.published.model, where="here")
    assert engine.published.loss == pytest.approx(independent(network, engine.held_out.examples).loss, rel=1e-9)
    engine.loader.close()


def test_held_out_crops_are_limited(tmp_path: Path) -> None:
    held = HeldOut()
    engine = Denoiser.fresh(options(), header())
    engine.ingest(batch(list(range(4))))
    member = next(found for found in engine.micrographs if found.role == HELD_OUT)
    for _ in range(60):
        held.add(member, engine.pixels.read(member.key), 16, None)
    assert len(held.examples) == 48
