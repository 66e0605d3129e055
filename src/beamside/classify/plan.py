"""The tasks of a round, in order: which frames are entered, and what is done in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from beamside.classify.abinitio import LEAST_CLASSES, STARTS
from beamside.classify.options import ClassifyOptions
from beamside.classify.schedule import (
    Band,
    Stage,
    averaged_views,
    closing_stages,
    closing_views,
    create_stages,
    held_stages,
    meeting_views,
    slow_stages,
    update_stages,
    view_stages,
)
from beamside.classify.survey import LEAST_PARTICLES

_TWICE = 3000
"""Of so few particles one volume in six ends half right."""


@dataclass(frozen=True)
class Task:
    """One step to do: enter a stage's frame, a pass of it, meet new particles, or finish."""

    kind: str
    label: str
    stage: Stage | None = None
    done: int = 0
    new: bool = False
    """Of views: only particles that have no class yet, and the volume stays as it is."""
    held: bool = False
    """Of passes: particles stay in the classes that their directions give."""
    maybe: bool = False
    """Done only if something proves good that nobody knows yet."""


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


def stage_tasks(stages: Sequence[Stage], name: str, *, held: bool = False) -> list[Task]:
    """Passes over free or held classes."""
    tasks = []
    for stage in stages:
        tasks.append(Task("stage", f"{name}, {stage.name}: encoding", stage))
        tasks += [
            Task("pass", f"{name}, {stage.name} {i + 1} of {stage.passes}", stage, i, held=held)
            for i in range(stage.passes)
        ]
    return tasks


def second_search(band: Band, name: str) -> list[Task]:
    """A volume from the class averages there are, then from the particles."""
    start, everywhere, *fine = averaged_views(band)
    first, *looks = look_tasks([start, everywhere], name)
    starts = [Task("start", f"{name}, volume of the averages {i + 1} of {STARTS}", start, i) for i in range(STARTS)]
    weighed = Task("weigh", f"{name}, weighing the volume")
    after = [replace(task, maybe=True) for task in view_tasks(fine, name)]
    return [replace(first, kind="averages"), *starts, *looks, weighed, *after]


def held_tasks(band: Band, name: str) -> list[Task]:
    """Averages of classes whose particles are known by their directions."""
    return stage_tasks(held_stages(band), name, held=True)


def may_survey(options: ClassifyOptions, classes: int, particles: int) -> bool:
    """Whether a first round looks for one volume behind all particles."""
    if options.start != "auto":
        return options.start == "volume"
    alike = options.mode == "create" and not options.mirror and classes > 1
    return alike and particles >= LEAST_PARTICLES


def starts_twice(options: ClassifyOptions, particles: int) -> bool:
    """Whether two volumes are made from nothing, of which the likelier one goes on."""
    return options.iterations is None and particles < _TWICE


def may_search_again(classes: int, refused: int) -> bool:
    """Whether a volume is looked for from the averages of free classes, after so many were refused."""
    return refused < 2 and classes >= LEAST_CLASSES


def survey_round(options: ClassifyOptions, band: Band, name: str, particles: int) -> list[Task]:
    """A first round that looks for a volume, as it goes if the volume is believed."""
    coarse, finer, *fine = view_stages(band, options.iterations)
    begun = look_tasks([coarse, finer], name)
    twice = starts_twice(options, particles)
    if twice or options.iterations is None:
        again = look_tasks([coarse, finer], f"{name}, another start")
        better = Task("better", f"{name}, the better of both volumes", finer, finer.passes - 1)
        more = [Task("keep", f"{name}, a volume to compare with"), *again, better]
        # Two more where many particles look like noise, one where there are few, else none.
        sure = [replace(task, maybe=not twice) for task in more]
        sift = Task("sift", f"{name}, particles like noise")
        begun = [*begun, sift, *(replace(task, maybe=True) for task in more), *sure]
    return [*begun, *view_tasks(fine, name), *held_tasks(band, name)]


def free_round(
    options: ClassifyOptions, band: Band, name: str, particles: int, *, again: bool, refused: bool = False
) -> list[Task]:
    """A first round of free classes, or of given ones; `again`: a volume is looked for from their averages.

    Counted is what is done if that one is refused as others were.
    """
    if options.mode == "update":
        return stage_tasks(update_stages(band, options.iterations), name)
    stages = create_stages(band, options.iterations)
    if again:
        last = last_resort(options, band, name, particles)
        return [*stage_tasks(stages[:2], name), *second_search(band, name), *last]
    slowly = refused and options.iterations is None
    return stage_tasks(slow_stages(band, particles) if slowly else stages, name)


def last_resort(options: ClassifyOptions, band: Band, name: str, particles: int) -> list[Task]:
    """How free classes go on once a volume of their averages is refused: heated and cooled down again, slowly.

    With a number of passes to keep to they are refined and no more.
    """
    slowly = options.iterations is None
    return stage_tasks(slow_stages(band, particles) if slowly else create_stages(band, options.iterations)[2:], name)


def later_round(band: Band, name: str, *, held: bool) -> list[Task]:
    """A later round: new particles only; held: a volume tells their directions."""
    found = view_tasks(meeting_views(band), name, new=True) if held else []
    adding = [Task("meet", f"{name}, adding {done} of 2", done=done) for done in (1, 2)]
    return [*found, Task("meet", f"{name}, finding new particles"), *adding]


def closing_round(
    options: ClassifyOptions, band: Band, particles: int, *, held: bool, refused: bool = False
) -> list[Task]:
    """The last passes over all particles; slow ones where volumes were `refused`."""
    if held:
        return [*view_tasks(closing_views(band, options.iterations), "closing"), *held_tasks(band, "closing")]
    if refused and options.iterations is None:
        return stage_tasks(slow_stages(band, particles)[1:], "closing")
    stages = closing_stages(band, options.iterations, anneal=options.mode == "create")
    return stage_tasks(stages, "closing")
