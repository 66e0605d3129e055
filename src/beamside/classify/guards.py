"""The guards of a 2D classification: what they look at, when they trip, and what a person should do then."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from beamside.run.guard import Finding, Guard, Severity

if TYPE_CHECKING:
    from torch import Tensor

    from beamside.classify.engine import Classifier

_LARGEST_SHARE, _LARGEST_OF_FEW = 0.5, 3.0
"""Of all particles, and in shares of an equal part: with four classes one may well hold half."""
_ALL_SHARE = 0.95
_SPREAD = 1e-4
_LEAST_FOR_COLLAPSE = 4


def _reference_power(engine: Classifier) -> Tensor | None:
    """(K,) squared norm of the averages."""
    averages = None if engine.model is None or not engine.passes else engine.model.averages.values
    return None if averages is None else averages.abs().square().sum((1, 2))


def _score_spread(engine: Classifier) -> float | None:
    """Median difference between the best and the second score."""
    rows = engine.population.rows
    assigned = rows[(engine.known.weight[rows, 0] > 0) & (engine.known.score[rows, 0] != 0)]
    # Particles that are held to a class are compared with no other; their directions were.
    score = engine.known.score if engine.survey.cells is None else engine.survey.sightings.score
    if not engine.passes or not len(assigned) or score.shape[1] < 2:
        return None
    return float((score[assigned, 0] - score[assigned, 1]).abs().median())


def _nonzero_references(engine: Classifier) -> Finding | None:
    power = _reference_power(engine)
    if power is None or not (empty := (power <= 0).nonzero()[:, 0].tolist()):
        return None
    if len(empty) < len(power):
        return None
    return REFERENCES.finding(f"all {len(empty)} class averages are zero after initialisation.", classes=empty)


def _prepared_references(engine: Classifier) -> Finding | None:
    power, weight = _reference_power(engine), engine.class_weight
    if power is None or weight is None:
        return None
    lost = ((power <= 0) & (weight > 1)).nonzero()[:, 0].tolist()
    if not lost:
        return None
    return PREPARED.finding(
        f"class averages {[k + 1 for k in lost]} are zero although particles belong to them.", classes=lost
    )


def _spread(engine: Classifier) -> Finding | None:
    spread = _score_spread(engine)
    if spread is None or engine.classes < 2 or spread > _SPREAD:
        return None
    return SPREAD.finding(
        f"the best two classes of a particle differ by {spread:.2g} in log-likelihood (median): the scores are flat.",
        spread=spread,
    )


def _collapse(engine: Classifier) -> Finding | None:
    history = engine.entropies
    weight = engine.class_weight
    if weight is None or engine.classes < _LEAST_FOR_COLLAPSE or weight.sum() <= 0:
        return None
    share = float(weight.max() / weight.sum())
    if _ALL_SHARE >= share > max(_LARGEST_SHARE, _LARGEST_OF_FEW / engine.classes):
        return COLLAPSE.finding(_held(weight), share=share)
    if len(history) > 1 and history[-1] < 0.5 * history[-2]:
        return COLLAPSE.finding(
            f"the occupancy's entropy fell from {history[-2]:.2f} to {history[-1]:.2f} in one step "
            f"(of at most {math.log(engine.classes):.2f}).",
            before=history[-2],
            after=history[-1],
        )
    return None


def _collapsed(engine: Classifier) -> Finding | None:
    weight = engine.class_weight
    if weight is None or engine.classes < _LEAST_FOR_COLLAPSE or weight.sum() <= 0:
        return None
    share = float(weight.max() / weight.sum())
    return COLLAPSED.finding(_held(weight), share=share) if share > _ALL_SHARE else None


def _held(weight: Tensor) -> str:
    share = float(weight.max() / weight.sum())
    return f"class {int(weight.argmax()) + 1} holds {share:.0%} of {float(weight.sum()):.0f} particles."


def _finite(engine: Classifier) -> Finding | None:
    if not engine.set_aside:
        return None
    names, engine.set_aside = engine.set_aside, []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return FINITE.finding(f"{len(names)} images are not finite or all one value and were set aside: {shown}.")


def _resolution(engine: Classifier) -> Finding | None:
    note, engine.limit_note = engine.limit_note, ""
    return RESOLUTION.finding(note) if note else None


def _mask(engine: Classifier) -> Finding | None:
    note, engine.mask_note = engine.mask_note, ""
    return MASK.finding(note) if note else None


def _volume(engine: Classifier) -> Finding | None:
    note, engine.survey.note = engine.survey.note, ""
    return VOLUME.finding(note) if note else None


def _reseeded(engine: Classifier) -> Finding | None:
    classes, engine.reseeded = engine.reseeded, []
    if not classes:
        return None
    return RESEEDED.finding(f"classes {[k + 1 for k in classes]} lost their particles and were seeded anew.")


REFERENCES = Guard(
    "refs.nonzero", "step", "power of the class averages", "all of them 0", "an empty average scores every image alike",
    Severity.STOP, "Every class average is zero, so no particle can be told from another.",
    "Look at the input images: a mask, a contrast or a normalisation has removed the signal.", _nonzero_references,
)  # fmt: skip
PREPARED = Guard(
    "refs.prepared", "step", "power of averages whose class holds particles", "0", "sums of particles are never empty",
    Severity.STOP, "An average was lost between the sums and the search.",
    "Report this with the dump: the state contradicts itself.", _prepared_references,
)  # fmt: skip
SPREAD = Guard(
    "scores.spread", "step", "median difference between a particle's best and second-best score", f"{_SPREAD:g} nats",
    "rounding of float32 scores: flat ones differ by less", Severity.STOP,
    "When all classes score the same, assignments are noise.",
    "Check that the images carry signal and that CTF and mask are right.", _spread,
)  # fmt: skip
COLLAPSE = Guard(
    "classes.collapse", "step", "largest share of particles; entropy of occupancy",
    "share over 0.5 (over 3/K with fewer than 6 classes), or half the entropy lost in one step",
    "half of all particles is no view of its own; with 4 classes healthy runs reach 57 %",
    Severity.SUSPECT, "One class is taking all particles.",
    "Use a tighter mask, fewer classes, or a coarser --max-resolution; look at the averages before using them.",
    _collapse,
)  # fmt: skip
COLLAPSED = Guard(
    "classes.collapse", "step", "largest share of particles", f"over {_ALL_SHARE:g}", "nothing is left to tell apart",
    Severity.STOP, "One class has taken all particles.",
    "Look at the input images and at CTF and mask; a table of the other classes would be empty.", _collapsed,
)  # fmt: skip
FINITE = Guard(
    "input.finite", "ingest", "NaN, infinite or constant images", "any", "no likelihood exists for them",
    Severity.NOTE, "Such images are set aside and named; the run goes on.",
    "Extract these particles again; they carry no class in the result.", _finite,
)  # fmt: skip
RESOLUTION = Guard(
    "options.resolution", "ingest", "finest resolution asked for", "2 pixels + 0.5 A", "Nyquist, as Xmipp has it",
    Severity.NOTE, "Rings beyond the corner of the band are not filled.",
    "Nothing to do; give a coarser --max-resolution to silence this.", _resolution,
)  # fmt: skip
MASK = Guard(
    "mask.diameter", "step", "radial profile of the particles", "no edge found", "docs/decisions/0021-diameter.md",
    Severity.NOTE, "The particle's size could not be measured, so a wide mask is used.",
    "Give --mask-diameter if neighbours lie inside the box.", _mask,
)  # fmt: skip
VOLUME = Guard(
    "start.volume", "step", "log-likelihood of a volume over that of free classes made from it",
    "log(views / classes + 1) + parameters / (2 particles)", "what more hypotheses and parameters gain from noise",
    Severity.NOTE, "No single volume explains these particles, so their classes start without one.",
    "Several structures, few particles, or high symmetry do this; --start volume insists.", _volume,
)  # fmt: skip
RESEEDED = Guard(
    "classes.reseeded", "step", "share of particles of a class", "under 2 % of the mean while annealing",
    "a class that small cannot grow again", Severity.NOTE, "A class that dies is seeded from the most crowded one.",
    "Nothing to do; if it happens in every round, ask for fewer classes.", _reseeded,
)  # fmt: skip

GUARDS = (REFERENCES, PREPARED, SPREAD, COLLAPSE, COLLAPSED, FINITE, RESOLUTION, MASK, VOLUME, RESEEDED)
