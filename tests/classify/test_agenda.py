"""The tasks ahead, and the share of the work that is done."""

from __future__ import annotations

import itertools

import pytest

from beamside.classify import plan
from beamside.classify.agenda import Agenda
from beamside.classify.effort import Scale, effort
from beamside.classify.options import ClassifyOptions
from beamside.classify.plan import Task
from beamside.classify.schedule import Band

BAND = Band(64, 48.0, 20)
SCALE = Scale(5000, 50, 2000, 64, 48.0)
ROUNDS = {
    "volume": plan.survey_round(ClassifyOptions(), BAND, "round 1", 5000),
    "free": plan.free_round(ClassifyOptions(), BAND, "round 1", 5000, again=False),
    "free, then a second search": plan.free_round(ClassifyOptions(), BAND, "round 1", 5000, again=True),
    "later": plan.later_round(BAND, "round 2", held=True),
    "closing": plan.closing_round(ClassifyOptions(), BAND, 5000, held=False),
}


def costs(task: Task) -> float:
    return effort(task, SCALE)


@pytest.mark.parametrize("tasks", ROUNDS.values(), ids=list(ROUNDS))
def test_the_shares_of_the_tasks_add_to_the_whole(tasks: list[Task]) -> None:
    agenda = Agenda()
    agenda.begin(tasks, costs, after=3.0)
    told = [0.0]
    while agenda:
        agenda.take()
        told.append(agenda.tell())
    shares = [costs(task) / (sum(map(costs, tasks)) + 3.0) for task in tasks]
    steps = [b - a for a, b in itertools.pairwise(told)]
    assert steps[:-1] == pytest.approx(shares[:-1]) and told[-1] == 1.0 and min(shares) > 0


def test_one_more_task_takes_nothing_back_and_another_plan_may() -> None:
    agenda = Agenda()
    tasks = ROUNDS["volume"]
    agenda.begin(tasks, costs)
    for _ in range(len(tasks) - 2):
        agenda.take()
    before = agenda.tell()
    agenda.insert(tasks[-4], costs)
    assert agenda[0] is tasks[-4] and agenda.tell() == before
    agenda.replace(ROUNDS["free, then a second search"], costs)
    assert 0 < agenda.tell() < before
    agenda.skip_past("weigh")
    assert agenda[0] == next(
        task for before, task in itertools.pairwise(ROUNDS["free, then a second search"]) if before.kind == "weigh"
    )


def test_a_search_costs_what_it_compares() -> None:
    """Particles x references x shifts: what is looked for, against how much, in how many places."""
    looks = {task.label: task for task in ROUNDS["volume"] if task.kind == "look"}
    first, last, directions, near = (
        looks[f"round 1, {name}"]
        for name in ("volume 1 of 90", "doubtful particles 1 of 1", "directions 1 of 3", "directions 2 of 3")
    )
    assert costs(first) < 0.05 * costs(directions) < 0.1 * costs(last) and costs(near) < costs(directions)
    twice = Scale(2 * SCALE.particles, SCALE.classes, SCALE.training, SCALE.box_px, SCALE.diameter_px)
    assert effort(last, twice) == pytest.approx(2 * costs(last))
    free = next(task for task in ROUNDS["free"] if task.kind == "pass")
    more = Scale(SCALE.particles, 2 * SCALE.classes, SCALE.training, SCALE.box_px, SCALE.diameter_px)
    assert effort(free, more) == pytest.approx(2 * costs(free), rel=0.1)
    held = next(task for task in plan.held_tasks(BAND, "") if task.kind == "pass")
    assert effort(held, more) == costs(held), "held particles do not look at other classes"


def test_a_box_with_more_pixels_costs_more_to_read_and_no_more_to_search() -> None:
    """The same particle, twice as finely sampled."""
    fine = Band(128, 96.0, 40)
    larger = Scale(SCALE.particles, SCALE.classes, SCALE.training, 128, 96.0)
    for task, same in zip(ROUNDS["volume"], plan.survey_round(ClassifyOptions(), fine, "round 1", 5000), strict=True):
        if task.kind == "look":
            assert effort(same, larger) == pytest.approx(costs(task), rel=0.2)
        elif task.kind == "views":
            assert effort(same, larger) > 1.5 * costs(task)
