"""The engine: streamed as at once, resumed to the bit, safe when a solver is not, and what every option does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from beamside.errors import InputError, OptionError
from beamside.ptycho.engine import SETTLED, Ptychography
from beamside.ptycho.options import PtychoOptions, StartProbe
from beamside.ptycho.safety import Safety
from beamside.ptycho.solvers.accelerated import Accelerated
from beamside.ptycho.solvers.base import Pass
from beamside.ptycho.workshop import Workshop
from beamside.run.engine import Engine, State
from tests.ptycho import scene

slow = pytest.mark.slow


def copied(state: State) -> State:
    """What a checkpoint gives back: arrays of their own, values as JSON keeps them."""
    import json

    return State({k: np.array(v) for k, v in state.arrays.items()}, json.loads(json.dumps(state.values)))


def test_it_is_an_engine() -> None:
    made = scene.scan()
    assert isinstance(Ptychography.fresh(scene.options(made), scene.header(made)), Engine)


# ---- streamed and at once


def orders(count: int) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(4)
    later = range(60, count, 30)
    return {
        "in order": np.split(np.arange(count), later),
        "backwards": np.split(np.arange(count)[::-1], later),
        "shuffled, uneven": np.split(rng.permutation(count), [60, 65, 150, 151]),
    }


@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=slow) for s in (2, 3, 4, 5))])
def test_streamed_ends_where_all_at_once_does(seed: int) -> None:
    """Gauntlet row 23: within 2 % of the error in each pair, whatever the order and the pieces; mostly it is better,
    because the frames that were there first have been worked on for longer."""
    made = scene.scan(seed=seed)
    chosen = scene.options(made, iterations_after_close=30)
    whole = scene.run_error(made, scene.run(made, chosen))
    for order, parts in orders(200).items():
        assert scene.run_error(made, scene.stream(made, chosen, parts, steps=4)) < 1.02 * whole, order


def test_the_gain_of_a_large_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calm as the frames of an open run come of age, full again once it has closed, and calm at the end."""
    monkeypatch.setattr(Accelerated, "calm", lambda *told: 0.25)
    gains: list[float] = []
    original = Accelerated.iterate

    def iterate(self: Accelerated, shop: Workshop, task: Pass) -> float:
        gains.append(task.gain)
        return original(self, shop, task)

    monkeypatch.setattr(Accelerated, "iterate", iterate)
    made = scene.scan(80)
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    engine.ingest(scene.batch(made, np.arange(60)))
    while engine.opening.pending:
        engine.step()
    gains.clear()
    while engine.iteration < 24:
        engine.step()
    engine.ingest(scene.batch(made, np.arange(60, 80)))
    engine.step()
    engine.step()
    engine.close()
    scene.settle(engine)
    assert gains[0] == 1 and gains[10] == pytest.approx(0.5) and gains[20:24] == [0.25] * 4
    assert gains[24:26] == pytest.approx([0.25**0.9, 0.25**0.95]), "a quarter of the frames were new"
    assert gains[26:35] == [1.0] * 9 and gains[35] < 1 and gains[-1] == pytest.approx(0.15 * 0.25)


def test_a_broad_scan_gets_more_iterations_before_the_closing_ones() -> None:
    iterations = []
    for step_px in (4.0, 60.0):
        made = scene.scan(60, step_px=step_px)
        engine = Ptychography.fresh(scene.options(made, iterations_after_close=2), scene.header(made))
        engine.ingest(scene.batch(made))
        engine.close()
        scene.settle(engine)
        iterations.append(engine.iteration)
    assert iterations == [12, 22]


def test_a_dual_wave_is_made_when_its_frame_becomes_active() -> None:
    """Gauntlet row 23: RAAR streamed ends as RAAR at once, and no frame has a wave before it has come."""
    made = scene.scan()
    chosen = scene.options(made, solver="raar", iterations_after_close=30)
    engine = Ptychography.fresh(chosen, scene.header(made))
    engine.ingest(scene.batch(made, np.arange(80)))
    for _ in range(4):
        engine.step()
    engine.ingest(scene.batch(made, np.arange(80, 200)))
    begun = engine.solver.state()["begun"]
    assert begun[:80].all() and not begun[80:].any()
    engine.step()
    assert engine.solver.state()["begun"].all()
    engine.close()
    scene.settle(engine)
    whole = scene.run(made, chosen)
    assert scene.run_error(made, engine) < 1.1 * scene.run_error(made, whole)


def test_frames_outside_of_the_canvas_make_it_grow() -> None:
    made = scene.scan()
    inner = np.argsort(np.hypot(*(made.positions_px - made.positions_px.mean(0)).T))
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    engine.ingest(scene.batch(made, np.sort(inner[:60])))
    for _ in range(5):
        engine.step()
    shape, origin, seen = engine.canvas.shape, engine.canvas.origin.copy(), engine.canvas.object.copy()
    engine.ingest(scene.batch(made, np.sort(inner[60:])))
    row, col = origin - engine.canvas.origin
    assert engine.canvas.shape > shape
    assert np.array_equal(engine.canvas.object[row : row + shape[0], col : col + shape[1]], seen)
    engine.close()
    scene.settle(engine)
    assert scene.run_error(made, engine) < 0.05


def test_an_open_run_rests_when_nothing_comes_and_goes_on_when_something_does() -> None:
    made = scene.scan(100)
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    assert engine.step().idle, "no frame, nothing to do"
    engine.ingest(scene.batch(made, np.arange(60)))
    progress = scene.settle(engine)
    assert progress.idle and progress.round_ended and not progress.finished and engine.iteration == SETTLED
    engine.ingest(scene.batch(made, np.arange(60, 100)))
    assert not engine.step().idle and engine.iteration == SETTLED + 1
    engine.close()
    assert scene.settle(engine).finished


# ---- resumed


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("changed", [
    {}, {"solver": "ml"}, {"solver": "raar"}, {"modes": 2, "refine_positions": True},
], ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()) or "auto")  # fmt: skip
def test_resumed_is_uninterrupted_bit_for_bit(lanes: int, changed: dict[str, Any]) -> None:
    """Stopped after five different steps and gone on from the state alone, through a growing canvas."""
    made = scene.scan(120)
    chosen = scene.options(made, threads=lanes, iterations_after_close=5, **changed)
    parts = [scene.batch(made, part) for part in np.array_split(np.arange(120), 3)]

    def go(stop_at: set[int]) -> Ptychography:
        engine = Ptychography.fresh(chosen, scene.header(made))
        steps = 0
        for number in range(4):
            if number < 3:
                engine.ingest(parts[number])
            else:
                engine.close()
            for _ in range(6 if number < 3 else 999):
                progress = engine.step()
                steps += 1
                if steps in stop_at:
                    state = copied(engine.state())
                    engine.shop.shut()
                    engine = Ptychography.resume(chosen, scene.header(made), state, parts[: number + 1])
                if progress.finished:
                    return engine
        raise AssertionError("it never finished")

    whole, cut = go(set()), go({1, 4, 6, 13, 25})
    assert scene.same_bits(whole, cut)
    whole.shop.shut()
    cut.shop.shut()


def test_a_resumed_run_has_the_lanes_it_had() -> None:
    """The order of sums belongs to the run: another number of threads on resuming changes no bit."""
    made = scene.scan(80)
    engine = Ptychography.fresh(scene.options(made, threads=2), scene.header(made))
    batch = scene.batch(made)
    engine.ingest(batch)
    engine.step()
    again = Ptychography.resume(scene.options(made, threads=1), scene.header(made), copied(engine.state()), [batch])
    assert again.lanes == 2
    engine.shop.shut()
    again.shop.shut()


# ---- a solver that runs away


def wild(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool], gain: float) -> None:
    """The default solver with an absurd gain in some of its iterations."""
    original = Accelerated.iterate

    def iterate(self: Accelerated, shop: Workshop, task: Pass) -> float:
        values = {**vars(task), "gain": gain * task.gain if when(task.number) else task.gain}
        return original(self, shop, Pass(**values))

    monkeypatch.setattr(Accelerated, "iterate", iterate)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("gain", [20.0, pytest.param(1e6, marks=slow), pytest.param(1e30, marks=slow), float("nan")])
@pytest.mark.parametrize("at", [0, 7, 19])
def test_one_wild_iteration_is_taken_back(monkeypatch: pytest.MonkeyPatch, at: int, gain: float) -> None:
    made = scene.scan(120)
    calm = scene.run_error(made, scene.run(made, scene.options(made)))
    wild(monkeypatch, lambda number: number == at, gain)
    engine = scene.run(made, scene.options(made))
    assert np.isfinite(engine.canvas.object).all() and np.isfinite(engine.shop.probe).all()
    assert at == 19 or engine.safety.rollbacks[0] - at in (0, 1, 2)
    assert not engine.safety.lost and scene.run_error(made, engine) < 2.0 * calm


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("gain", [8.0, 1e8, float("nan")])
def test_a_solver_that_is_always_wild_recovers_or_says_so(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """With a gain that shorter steps can tame the run goes on; else the guard stops it. NaN is never returned."""
    made = scene.scan(120)
    wild(monkeypatch, lambda number: True, gain)
    engine = scene.run(made, scene.options(made, iterations_after_close=20))
    snapshot = engine.snapshot()
    assert all(np.isfinite(snapshot.arrays[name]).all() for name in snapshot.arrays)
    stops = [g.check(engine) for g in engine.guards if g.name in ("solver.diverged", "object.finite")]
    said = [finding for finding in stops if finding is not None]
    if gain == 8.0:
        assert not said and engine.safety.rollbacks and scene.run_error(made, engine) < 0.1
    else:
        assert [f.guard for f in said] == ["solver.diverged"] and "taken back" in said[0].saw


def test_what_is_gone_back_to_is_what_went_well() -> None:
    """An iteration whose harm shows only in the next one is taken back too."""
    made = scene.scan(80)
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    engine.ingest(scene.batch(made))
    for _ in range(6):
        engine.step()
    before = engine.canvas.object.copy()
    engine.canvas.object *= np.float32(1.001)
    safety, misfit = engine.safety, engine.errors[-1]
    assert safety.judge(engine, misfit, 80), "spoiled, but nobody can know yet"
    engine.canvas.object *= 100
    assert not safety.judge(engine, 50 * misfit, 80)
    assert np.array_equal(engine.canvas.object, before) and safety.caution == 0.5
    assert isinstance(safety, Safety) and safety.good is not None and safety.proved is None


# ---- options


def changed_result(changed: dict[str, Any], base: dict[str, Any] | None = None) -> tuple[Any, Any]:
    made = scene.scan(100)
    standard = {"iterations_after_close": 3, "first_frames": 50, **(base or {})}
    first = scene.run(made, scene.options(made, **standard))
    second = scene.run(made, scene.options(made, **{**standard, **changed}))
    return first, second


@pytest.mark.parametrize(
    "changed",
    [
        {"max_iterations": 8}, {"iterations_after_close": 5}, {"probe_start": 4}, {"amplitude_limit": 0.9},
        {"phase_limit_rad": 0.5}, {"smooth": 0.05}, {"seed": 7}, {"noise": "gaussian"}, {"modes": 2},
        *({"solver": name} for name in ("epie", "rpie", "dm", "raar", "ml", "lsqml")),
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()),
)  # fmt: skip
def test_an_option_changes_the_result(changed: dict[str, Any]) -> None:
    first, second = changed_result(changed)
    assert not np.array_equal(first.canvas.object, second.canvas.object)
    assert np.isfinite(second.canvas.object).all() and np.isfinite(second.shop.probe).all()


def test_the_cap_and_the_closing_iterations_are_separate() -> None:
    """The cap and the closing iterations do what they say; how often to publish is the loop's (gauntlet row 25)."""
    first, capped = changed_result({"max_iterations": 4})
    assert (first.iteration, capped.iteration) == (13, 4) and capped.finished
    _, none = changed_result({"iterations_after_close": 0})
    assert none.iteration == 10 and none.finished


def test_limits_hold() -> None:
    _, amplitude = changed_result({"amplitude_limit": 0.9})
    assert np.abs(amplitude.canvas.object).max() <= 0.9 + 1e-5
    _, phase = changed_result({"phase_limit_rad": 0.3})
    assert np.abs(np.angle(phase.canvas.object)).max() <= 0.3 + 1e-4


def test_the_probe_stays_until_its_start() -> None:
    made = scene.scan(100)
    engine = Ptychography.fresh(scene.options(made, probe_start=3), scene.header(made))
    engine.ingest(scene.batch(made))
    engine.step()
    start = engine.shop.probe.copy()
    for _ in range(3):
        engine.step()
        assert np.array_equal(engine.shop.probe, start)
    engine.step()
    assert not np.array_equal(engine.shop.probe, start)


def test_positions_move_only_when_asked() -> None:
    first, second = changed_result({"refine_positions": True}, {"iterations_after_close": 8})
    assert np.array_equal(first.positions_px, scene.batch(scene.scan(100)).columns["position_m"] / first.optics.pixel_m)
    assert np.abs(second.positions_px - first.positions_px).max() > 1e-3


def test_smoothness_smooths() -> None:
    def roughness(engine: Ptychography) -> float:
        obj = engine.canvas.object[40:-40, 40:-40]
        return float(np.abs(np.diff(obj, n=2, axis=0)).mean())

    rough, smooth = changed_result({"smooth": 0.05}, {"smooth": 0.0})
    assert roughness(smooth) < 0.9 * roughness(rough)


def test_first_frames_capacity_and_threads() -> None:
    made = scene.scan(100)
    policy = Ptychography.fresh(scene.options(made, first_frames=70), scene.header(made)).policy
    assert policy.size(69, begun=False, closed=False) == 0 and policy.size(70, begun=False, closed=False) == 70
    assert policy.size(3, begun=True, closed=False) == 3
    small = Ptychography.fresh(scene.options(made, first_frames=700), scene.header(made)).policy
    assert small.size(100, begun=False, closed=False) == 100, "a scan shorter than that begins with what it has"
    engine = Ptychography.fresh(scene.options(made, capacity=30), scene.header(made))
    engine.ingest(scene.batch(made))
    assert (engine.store.held, engine.store.beyond) == (30, 70)
    engine = Ptychography.fresh(scene.options(made, threads=2), scene.header(made))
    assert engine.lanes == 2
    engine.shop.shut()


def test_defocus_and_the_look_at_the_geometry_change_the_start() -> None:
    made = scene.scan(100)
    given = scene.run(made, scene.options(iterations_after_close=1, defocus_m=1e-3))
    other = scene.run(made, scene.options(iterations_after_close=1, defocus_m=0.5e-3))
    assert given.opening.trials == [] and not np.array_equal(given.canvas.object, other.canvas.object)
    looked = scene.run(made, scene.options(made, iterations_after_close=1, check_geometry=True))
    assert looked.opening.geometry and given.opening.geometry == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"solver": "magic"}, {"noise": "white"}, {"device": "tpu"}, {"modes": 0}, {"modes": 11}, {"max_iterations": 0},
        {"iterations_after_close": -1}, {"first_frames": 0}, {"capacity": 0}, {"threads": 0}, {"probe_start": -1},
        {"amplitude_limit": 0.0}, {"phase_limit_rad": -1.0}, {"smooth": -0.1},
        {"solver": "dm", "noise": "poisson"}, {"solver": "raar", "smooth": 0.1},
        {"solver": "raar", "refine_positions": True},
        {"defocus_m": 1e-3, "probe": StartProbe(np.ones((1, 4, 4), np.complex64), "x")},
    ],
    ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items() if k != "probe"),
)  # fmt: skip
def test_what_is_impossible_or_would_be_ignored_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        PtychoOptions(**wrong)
    assert caught.value.remedy.endswith(".") and "--" in caught.value.what


def test_options_survive_run_json() -> None:
    chosen = scene.options(solver="ml", smooth=0.01, capacity=9, phase_limit_rad=2.0)
    assert PtychoOptions.from_json(chosen.to_json(), None) == chosen


# ---- what is there to see


def test_the_snapshot_says_what_it_is() -> None:
    made = scene.scan(100)
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    engine.ingest(scene.batch(made, np.arange(60)))
    while engine.iteration == 0:
        engine.step()
    early = engine.snapshot()
    assert "iterations so far" in early.provisional and early.coverage == pytest.approx(0.6)
    engine.close()
    scene.settle(engine)
    snapshot = engine.snapshot()
    assert snapshot.provisional == "" and snapshot.notes["iterations"] == engine.iteration
    obj, coverage = snapshot.arrays["object"], snapshot.arrays["coverage"]
    assert obj.shape == coverage.shape and coverage.min() == 0 and np.isfinite(obj).all()
    assert obj.shape[0] >= 64 + np.ptp(made.recorded_px[:60, 0]), "the whole canvas, not the commanded range"
    light = np.zeros(obj.shape)
    for row, col in np.round(made.recorded_px[:60] - snapshot.notes["offset_px"]).astype(int):
        light[row : row + 64, col : col + 64] += (np.abs(engine.shop.probe) ** 2).sum(0)
    assert np.corrcoef(light.ravel(), coverage.ravel())[0, 1] > 0.99
    before = obj.copy()
    engine.canvas.object[:] = 0
    assert np.array_equal(obj, before), "a snapshot is immutable"


def test_closing_without_a_usable_frame_is_an_error() -> None:
    made = scene.scan(100)
    engine = Ptychography.fresh(scene.options(made), scene.header(made))
    engine.ingest(scene.batch(made, pixels=np.zeros((100, 64, 64), np.uint16)))
    assert len(engine.set_aside) == 100
    with pytest.raises(InputError, match="no usable frame"):
        engine.close()
