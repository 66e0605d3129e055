"""The tasks of a round, in order: which frames are entered, and what is done in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from beamside.classify.abinitio import STARTS
from beamside.classify.schedule import Band, Stage, averaged_views, held_stages


@dataclass(frozen=True)
class Task:
    """One step to do: enter a stage's frame, a pass of it, meet new particles, or finish."""

    kind: str
    label: str
    stage: Stage | None = None
    done: int = 0
    new: bool = False
    """Of views: only particles that have no class yet, and the volume stays as it is."""


def look_tasks(stages: Sequence[Stage], name: str, *, new: bool = False) -> list[Task]:
    """Stages of views."""
    tasks = []
    for stage in stages:
        tasks.append(Task("views", f"{name}, {stage.name}: encoding", stage, new=new))
        tasks += [
            Task("look", f"{name}, {stage.name} {i + 1} of {stage.passes}", stage, i, new) for i in range(stage.passes)
        ]
    return tasks


def view_tasks(stages: Sequence[Stage], name: str, *, new: bool = False) -> list[Task]:
    """Stages of views, then the classes that their directions give."""
    return [*look_tasks(stages, name, new=new), Task("divide", f"{name}, directions into classes", new=new)]


def stage_tasks(stages: Sequence[Stage], name: str) -> list[Task]:
    """Passes over free or held classes."""
    tasks = []
    for stage in stages:
        tasks.append(Task("stage", f"{name}, {stage.name}: encoding", stage))
        tasks += [
            Task("pass", f"{name}, {stage.name} {i + 1} of {stage.passes}", stage, i) for i in range(stage.passes)
        ]
    return tasks


def second_search(band: Band, name: str) -> list[Task]:
    """A volume from the class averages there are, then from the particles."""
    start, everywhere, *fine = averaged_views(band)
    first, *looks = look_tasks([start, everywhere], name)
    starts = [Task("start", f"{name}, volume of the averages {i + 1} of {STARTS}", done=i) for i in range(STARTS)]
    weighed = Task("weigh", f"{name}, weighing the volume")
    return [replace(first, kind="averages"), *starts, *looks, weighed, *view_tasks(fine, name)]


def meeting(name: str, found: Sequence[Task]) -> list[Task]:
    """A later round: new particles only; `found`: what tells their directions."""
    adding = [Task("meet", f"{name}, adding {done} of 2", done=done) for done in (1, 2)]
    return [*found, Task("meet", f"{name}, finding new particles"), *adding]


def held_tasks(band: Band, name: str) -> list[Task]:
    """Averages of classes whose particles are known by their directions."""
    return stage_tasks(held_stages(band), name)
