"""The order of work: resolution stages, each with its passes and temperatures.

Resolution is measured in cycles a particle diameter, so the same numbers fit every box, pixel and particle. Early
passes are hot (responsibilities spread over several classes) and see 9 cycles; a later stage, on recentred particles
with few shifts left to try, cools down; the last stages open the band to the resolution limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

HOT, WARM, TEPID, COLD = 4.0, 3.0, 2.0, 1.0
_EARLY_CYCLES, _LATE_CYCLES = 9.5, 14.5
_CREATE_PASSES, _CLOSING_PASSES = 18, 10
"""Passes over all particles that a first round and the closing one cost."""
_VOLUME_CYCLES = (6.0, 7.5, 9.5, 12.0)
DOUBTFUL = 0.4
"""Share of the particles, the worst explained, that are looked for once more around their picks."""
_SEARCH_PART, _REFINE_PART = 0.45, 0.17
_SEARCH_SHARE, _ANNEAL_SHARE = 1 / 6, 1 / 4
_SLOWLY, _REFINED_SLOWLY = 6, 3
"""Times as many steps where no volume explains the particles: hot ones, and those of the full band."""
_FEW = 5000
"""Particles up to which it is worth while; of more a step tells more, and costs more."""


@dataclass(frozen=True)
class Stage:
    """Passes over the particles in one frame.

    last_ring: finest ring; step_px, reach_px: the shift grid; temperatures fall evenly from `hot` to `cold` over the
    first four fifths of `passes`. share: part of the particles that a pass sees; its sums move the present ones by a
    step (stepwise EM), so several updates cost one pass over all.
    views: directions from which a volume is seen; 0 for free classes. smallest, largest: particles of the first and of
    the last batch of a stage of views, growing evenly in between; 0 for all particles each time. doubtful: look only
    for this part of the particles, those that the volume explains worst, around their picks; the volume stays.
    """

    name: str
    last_ring: int
    step_px: float
    reach_px: float
    passes: int
    hot: float
    cold: float
    share: float = 1.0
    views: int = 0
    smallest: int = 0
    largest: int = 0
    doubtful: float = 0.0

    def temperature(self, done: int) -> float:
        """Of the pass after `done` passes."""
        return self.hot + (self.cold - self.hot) * min(1.0, done / max(1.0, 0.8 * self.passes))

    def sizes(self, count: int) -> list[int]:
        """Particles of each batch, of `count` particles."""
        last = max(1, self.passes - 1)
        growth = self.largest / self.smallest
        return [min(count, round(self.smallest * growth ** (done / last))) for done in range(self.passes)]


@dataclass(frozen=True)
class Band:
    """What the stages are cut from: box and particle in pixels, and the finest ring allowed."""

    box_px: int
    diameter_px: float
    last_ring: int

    def ring(self, cycles: float) -> int:
        """The ring with so many cycles a particle diameter, within the limits."""
        wanted = round(cycles * self.box_px / self.diameter_px)
        return max(min(4, self.last_ring), min(self.last_ring, wanted))

    def step_px(self, ring: int, periods: float) -> float:
        """A shift step as a share of the ring's period, in quarter pixels."""
        return max(0.25, round(4 * periods * self.box_px / ring) / 4)

    def local(self, name: str, cycles: float, periods: float, passes: int, hot: float, share: float = 1.0) -> Stage:
        """A stage for centred particles: two steps of shift to every side."""
        ring = self.ring(cycles)
        step = self.step_px(ring, periods)
        return Stage(name, ring, step, 2 * step, passes, hot, COLD, share)

    def views(
        self, name: str, cycles: float, passes: int, hot: float, sizes: tuple[int, int] = (0, 0), steps: float = 1.5
    ) -> Stage:
        """A stage of views, with shifts of so many steps to every side.

        Directions lie as far apart as the resolution is at the particle's rim, 2 / cycles.
        """
        ring = self.ring(cycles)
        step = self.step_px(ring, 0.35)
        seen = ring * self.diameter_px / self.box_px
        count = max(24, round(math.pi * seen**2))
        return Stage(name, ring, step, steps * step, passes, hot, COLD, 1.0, count, *sizes)

    def doubtful(self, share: float) -> Stage:
        """One look for the particles that the volume explains worst: everywhere, in fine steps, from their picks."""
        stage = self.views("doubtful particles", _VOLUME_CYCLES[2], 1, COLD)
        return replace(stage, reach_px=self.reach_px, doubtful=share)

    @property
    def reach_px(self) -> float:
        """How far from the centre a new particle is looked for: a ninth of the box, less for particles that fill it."""
        free = 0.5 * (self.box_px - self.diameter_px) + 0.08 * self.box_px
        return max(2.0, min(0.11 * self.box_px, free))


def create_stages(band: Band, iterations: int | None) -> list[Stage]:
    """A first round from nothing: find centres and views, anneal, refine; it costs `iterations` passes over all."""
    total = iterations or _CREATE_PASSES
    refine = max(1, round(_REFINE_PART * total))
    search = max(1, round(_SEARCH_PART * total))
    anneal = max(1, total - search - refine)
    ring = band.ring(_EARLY_CYCLES)
    step = band.step_px(ring, 0.375)
    reach = max(band.reach_px, step)
    return [
        Stage("search", ring, step, reach, round(search / _SEARCH_SHARE), HOT, WARM, _SEARCH_SHARE),
        band.local("anneal", _EARLY_CYCLES, 0.28, round(anneal / _ANNEAL_SHARE), WARM, _ANNEAL_SHARE),
        *_fine(band, refine),
    ]


def slow_stages(band: Band, particles: int) -> list[Stage]:
    """As from nothing, but cooled down slowly: free classes of views that differ little find each other late."""
    share = min(1.0, _FEW / max(1, particles))
    slowly, refined = (max(1.0, share * times) for times in (_SLOWLY, _REFINED_SLOWLY))
    search, anneal, refine, poses = create_stages(band, None)
    hot = [replace(stage, passes=round(slowly * stage.passes)) for stage in (search, anneal)]
    return [*hot, replace(refine, passes=round(refined * refine.passes)), poses]


def view_stages(band: Band, iterations: int | None) -> list[Stage]:
    """A volume from nothing: coarse and in small batches, then finer, then all particles."""
    part = (iterations or _CREATE_PASSES) / _CREATE_PASSES
    coarse = band.views("volume", _VOLUME_CYCLES[0], max(6, round(90 * part)), TEPID, (100, 1000))
    wide = band.reach_px / 1.5
    return [
        replace(coarse, step_px=wide, reach_px=band.reach_px),
        replace(
            band.views("volume", _VOLUME_CYCLES[1], max(2, round(7 * part)), 1.5, (1000, 2000)), reach_px=band.reach_px
        ),
        band.views("volume", _VOLUME_CYCLES[2], 1, COLD),
        band.doubtful(DOUBTFUL),
        band.views("directions", _VOLUME_CYCLES[3], max(1, round(3 * part)), COLD, steps=1.0),
    ]


def averaged_views(band: Band) -> list[Stage]:
    """A volume from class averages, then from all particles, which are looked for everywhere again.

    Free classes have given many of them a wrong centre.
    """
    start = band.views("volume", _VOLUME_CYCLES[2], 2, COLD, steps=1.0)
    fine = band.views("directions", _VOLUME_CYCLES[3], 3, COLD, steps=1.0)
    return [start, band.doubtful(1.0), replace(fine, passes=2), band.doubtful(0.5), fine]


def meeting_views(band: Band) -> list[Stage]:
    """Where new particles look from, given the volume: wide and coarse, then fine."""
    coarse, fine = band.views("new", _VOLUME_CYCLES[1], 1, COLD), band.views("new", _VOLUME_CYCLES[3], 1, COLD)
    step = coarse.step_px
    return [replace(coarse, reach_px=max(step, band.reach_px)), fine]


def closing_views(band: Band, iterations: int | None) -> list[Stage]:
    """The volume of the first particles becomes that of all, after the last have come."""
    looks = max(1, round((iterations or _CLOSING_PASSES) * 0.3))
    return [
        replace(band.views("volume", _VOLUME_CYCLES[1], 2 * looks + 1, 1.5, (1000, 2000)), reach_px=band.reach_px),
        band.views("volume", _VOLUME_CYCLES[2], 1, COLD),
        band.doubtful(DOUBTFUL),
        band.views("directions", _VOLUME_CYCLES[3], looks, COLD, steps=1.0),
    ]


def held_stages(band: Band) -> list[Stage]:
    """Averages of classes whose particles are known by their directions."""
    return _fine(band, 2)


def update_stages(band: Band, iterations: int | None) -> list[Stage]:
    """A first round on given class averages: find centres, refine."""
    total = iterations or _CLOSING_PASSES // 2
    ring = band.ring(_EARLY_CYCLES)
    step = band.step_px(ring, 0.375)
    search = max(1, total // 2)
    return [
        Stage("search", ring, step, max(band.reach_px, step), search, COLD, COLD),
        *_fine(band, max(1, total - search)),
    ]


def closing_stages(band: Band, iterations: int | None, *, anneal: bool) -> list[Stage]:
    """The last full passes once the source has closed, over all particles: warm again if wanted, then refine."""
    total = iterations or _CLOSING_PASSES
    refine = max(1, total // 4)
    hot = TEPID if anneal else COLD
    return [band.local("close", _EARLY_CYCLES, 0.28, max(1, total - refine), hot), *_fine(band, refine)]


def _fine(band: Band, passes: int) -> list[Stage]:
    """The full band, and a last pass for fine shifts."""
    return [
        band.local("refine", _LATE_CYCLES, 0.19, passes, COLD),
        band.local("poses", _LATE_CYCLES, 0.1, 1, COLD),
    ]
