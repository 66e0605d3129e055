"""Position messages: plain ones, encoder samples averaged for each frame, and anything else."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamside.errors import FormatError, OptionError
from beamside.sources.motors import MotorOptions, Motors


def js(**values: Any) -> bytes:
    return json.dumps(values).encode()


def panda(first: int, y: list[float], x: list[float]) -> bytes:
    return js(
        msg_type="data",
        frame_number=0,
        datasets={
            "Y": {"dtype": "float64", "size": len(y), "starting_sample_number": first, "data": y},
            "X": {"dtype": "float64", "size": len(x), "starting_sample_number": first, "data": x},
        },
    )


def test_plain_positions_in_their_own_unit() -> None:
    motors = Motors(MotorOptions())
    places = motors.take(js(msg_type="positions", unit="nm", frame=[4, 5], y=[1.0, None], x=[3, 4]))
    assert places.frames.tolist() == [4, 5]
    assert np.allclose(places.yx_m, [[1e-9, 3e-9], [np.nan, 4e-9]], equal_nan=True)
    assert np.allclose(motors.take(js(msg_type="positions", frame=7, y=1, x=2)).yx_m, [[1e-6, 2e-6]])
    assert not len(motors.take(js(msg_type="start")).frames)
    assert not motors.stopped and not len(motors.take(js(msg_type="stop")).frames) and motors.stopped


@given(st.integers(1, 7), st.integers(1, 12), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_samples_are_averaged_for_each_frame_however_they_are_cut(per: int, frames: int, begin: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(2, frames * per))
    motors = Motors(MotorOptions("mm", "Y", "X", per))
    got: dict[int, list[float]] = {}
    cuts = [0, *sorted(rng.integers(0, frames * per + 1, 3).tolist()), frames * per]
    for start, stop in pairwise(cuts):
        part = samples[:, start:stop].tolist()
        places = motors.take(panda(begin * per + start, *part))
        assert not set(places.frames.tolist()) & set(got)
        got |= dict(zip(places.frames.tolist(), places.yx_m.tolist(), strict=True))
    means = samples.reshape(2, frames, per).mean(2).T * 1e-3
    assert sorted(got) == list(range(begin, begin + frames))
    assert np.allclose([got[frame] for frame in sorted(got)], means)


def test_a_frame_that_lacks_samples_gets_the_mean_of_the_others_at_the_end() -> None:
    motors = Motors(MotorOptions("um", "Y", "X", 4))
    assert motors.take(panda(0, [1, 2, 3], [5, 5, 5])).frames.size == 0
    assert motors.take(panda(4, [0] * 4, [0] * 4)).frames.tolist() == [1]
    places = motors.take(js(msg_type="stop"))
    assert places.frames.tolist() == [0] and np.allclose(places.yx_m, [[2e-6, 5e-6]])


@pytest.mark.parametrize(
    "message",
    [
        b"", b"1", b"\xff", b"[" * 50_000, js(msg_type="other"), js(msg_type="data"), js(msg_type="data", datasets={}),
        js(msg_type="positions", frame=[1, 2], y=[1], x=[1]), js(msg_type="positions", frame=[0.5], y=[1], x=[1]),
        js(msg_type="positions", frame=[-1], y=[1], x=[1]), js(msg_type="positions", frame=["a"], y=[1], x=[1]),
        js(msg_type="positions", frame=[1], y=[[1]], x=[1]),
        js(msg_type="positions", frame=[1], y=[1], x=[1], unit="ell"),
        js(msg_type="positions", frame=None, y=1, x=1), js(msg_type="positions", frame=[10**400], y=[1], x=[1]),
        js(msg_type="data", datasets={"Y": {"starting_sample_number": -1, "data": []}, "X": {}}),
    ],
)  # fmt: skip
def test_other_messages_are_typed_errors(message: bytes) -> None:
    with pytest.raises(FormatError):
        Motors(MotorOptions("um", "Y", "X")).take(message)


@given(st.binary(max_size=60) | st.dictionaries(
    st.sampled_from(["msg_type", "frame", "y", "x", "unit", "datasets"]),
    st.sampled_from(["positions", "data", "stop", 1, -2.5, None, [], [1], {"Y": 1}, {"Y": {"data": [1]}}]),
).map(lambda values: json.dumps(values).encode()))  # fmt: skip
def test_no_message_is_a_crash(message: bytes) -> None:
    with suppress(FormatError):
        Motors(MotorOptions("um", "Y", "X")).take(message)


def test_options_are_checked() -> None:
    with pytest.raises(OptionError):
        MotorOptions(unit="parsec")
    with pytest.raises(OptionError):
        MotorOptions(samples_per_frame=0)
