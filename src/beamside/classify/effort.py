"""What the tasks of a classification cost beside each other, so that progress is a share of the work and not a count.

The unit is about a second of a processor core, of which there are two; work that one of them does alone counts half as
much again. Only ratios matter. A search costs in proportion to particles x references x shifts x coefficients of a
vector, whatever the box, since bands are measured in cycles a particle diameter; encoding in proportion to the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from beamside.classify.abinitio import PASSES
from beamside.classify.plan import Task
from beamside.classify.schedule import Stage

_MATCH = 1.0e-9
"""One particle against one reference in one shift, a coefficient."""
_NEAR = 0.8
"""Of a look around where particles were found: most of what is left are sums."""
_SOLVE, _SOLVE_MORE = 0.045, 4e-4
"""A volume from its sums, and what each coefficient adds."""
_AVERAGE = 0.03
"""Averages from their sums."""
_PIXEL = 1.5e-8
"""Reading and encoding one particle, a pixel of its box."""
_TRAIN = 0.8e-6
"""One particle of those that train the compression, a coefficient."""
_RESTORE = 3e-8
"""Laying one particle into its average, a pixel."""
_SHOW = 1.5
"""Publishing what a round leaves, pictures above all."""
_ONCE = 0.3
"""Of a task whatever its size."""
_WEIGH = 2e-6
"""One particle against one class, where a volume is weighed or divided."""
_COEFFICIENTS = 1.3
"""Of a vector that holds c cycles a particle diameter, in units of c^2."""
_HELD_CLASSES = 16
"""A particle that is held to its class costs as much as a search of so many: sums and averages are left."""


@dataclass(frozen=True)
class Scale:
    """What efforts depend on besides the task: how many particles it sees, and against how many classes."""

    particles: int
    classes: int
    training: int
    box_px: int
    diameter_px: float


def effort(task: Task, scale: Scale) -> float:
    """Of one task."""
    count, stage = scale.particles, task.stage
    if task.kind == "mask":
        return _ONCE
    if task.kind == "show":
        return _SHOW
    if task.kind in ("finish", "meet"):
        return _ONCE + count * _RESTORE * scale.box_px**2
    if stage is None:
        return _ONCE + count * scale.classes * _WEIGH
    size = _COEFFICIENTS * (stage.last_ring * scale.diameter_px / scale.box_px) ** 2
    one, solve = _MATCH * size * _shifts(stage), _SOLVE + _SOLVE_MORE * size
    if task.kind in ("stage", "views", "averages"):
        training = min(count, scale.training)
        return (training + count * (stage.doubtful or 1.0)) * _PIXEL * scale.box_px**2 + training * _TRAIN * size
    if task.kind == "pass":
        classes = min(_HELD_CLASSES, scale.classes) if task.held else scale.classes
        return _AVERAGE + count * stage.share * classes * one
    if task.kind == "start":
        return PASSES * (scale.classes * stage.views * one + solve)
    if stage.doubtful:
        return count * stage.doubtful * stage.views * one
    if stage.largest:
        last = count if task.done + 1 == stage.passes else 0
        return (stage.sizes(count)[task.done] + last) * stage.views * one + solve
    return count * stage.views * one * (_NEAR if task.done else 1.0) + solve


def _shifts(stage: Stage) -> float:
    """How many shifts the grid of the stage has."""
    return 1 + math.pi * (stage.reach_px / stage.step_px) ** 2
