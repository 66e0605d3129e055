"""The guards of a denoiser in training: what they look at, when they trip, and what a person should do then."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from beamside.denoise.apart import LEAST_ERRORS
from beamside.denoise.gate import AGREEMENT, BRIGHTNESS, agree
from beamside.denoise.model_file import PROBE_TOLERANCE
from beamside.run.guard import Finding, Guard, Severity

if TYPE_CHECKING:
    from beamside.denoise.engine import Denoiser

DISPLACED_PX, DRIFTED_PX = 1.0, 6.0
SIGNIFICANT, CERTAIN_PX = 6.0, 18.0
"""Of the correlation's peak over its noise; and of the displacement times that. The peak is about 5 px wide, so noise
moves it by some 5 px over its significance: four times that error makes a displacement."""
DEPENDENT = 0.7
_STEPS_TO_LEARN = 3000
LOST_SHARE = 0.25
_FALLING = 3
_TREND_SHARE = 0.05
_DIVERGED = 4.0


def _finite(engine: Denoiser) -> Finding | None:
    names, engine.intake.unusable = engine.intake.unusable, []
    return FINITE.finding(f"{_named(names, 'micrographs')} set aside.", items=names) if names else None


def _aligned(engine: Denoiser) -> Finding | None:
    found, engine.intake.displaced = engine.intake.displaced, []
    if not found:
        return None
    drifted = [f"{d.key} by {d.length_px:.1f} px" for d in found if d.set_aside]
    moved = [f"{d.key} by ({d.dy_px:+.1f}, {d.dx_px:+.1f}) px" for d in found if not d.set_aside]
    parts = []
    if moved:
        parts.append(
            f"the second image lies displaced (dy, dx): {_named(moved, 'micrographs')} trained on with the second "
            "image moved back by whole pixels."
        )
    if drifted:
        parts.append(f"displaced by more than {DRIFTED_PX:g} px, drifted: {_named(drifted, 'micrographs')} set aside.")
    values = {d.key: [d.dy_px, d.dx_px, d.set_aside] for d in found}
    return ALIGNED.finding(" ".join(parts), displacements_px=values)


def _independent_noise(engine: Denoiser) -> Finding | None:
    names, engine.intake.dependent = engine.intake.dependent, []
    if not names:
        return None
    return NOISE.finding(f"the two images share their noise: {_named(names, 'micrographs')} set aside.", items=names)


def _named(names: list[str], what: str) -> str:
    """ "3 micrographs (a, b, c) were": for the beginning or the middle of a sentence."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} {what if len(names) > 1 else what[:-1]} ({shown}) {'were' if len(names) > 1 else 'was'}"


def _loss(engine: Denoiser) -> Finding | None:
    last = engine.last
    if last is None or agree(last.score.loss, last.independent.loss):
        return None
    return LOSS.finding(
        f"the held-out loss is reported as {last.score.loss:.8f}, an independent pass finds "
        f"{last.independent.loss:.8f}.",
        reported=last.score.loss,
        independent=last.independent.loss,
    )


def _diverged(engine: Denoiser) -> Finding | None:
    last = engine.last
    if last is None or last.score.loss <= _DIVERGED * last.controls.nothing:
        return None
    return DIVERGED.finding(
        f"the held-out loss is {last.score.loss:.4g}; doing nothing gives {last.controls.nothing:.4g}.",
        loss=last.score.loss,
    )


def _roundtrip(engine: Denoiser) -> Finding | None:
    last = engine.last
    if last is None or last.fresh is None:
        return None
    if last.fresh.score is None:
        return ROUNDTRIP.finding(f"a fresh process could not use the saved model: {last.fresh.fault}")
    if agree(last.fresh.score.loss, last.independent.loss):
        return None
    return ROUNDTRIP.finding(
        f"a fresh process that read the saved model finds the loss {last.fresh.score.loss:.8f}, this one "
        f"{last.independent.loss:.8f}.",
        fresh=last.fresh.score.loss,
        here=last.independent.loss,
    )


def _correlation(engine: Denoiser) -> Finding | None:
    last = engine.last
    if last is None or last.steps < engine.options.warm_up_steps:
        return None
    if last.independent.correlation >= -3 / last.independent.pixels**0.5:
        return None
    return CORRELATION.finding(
        f"output and partner correlate by {last.independent.correlation:.4f}.", value=last.independent.correlation
    )


def _brightness(engine: Denoiser) -> Finding | None:
    last = engine.last
    if last is None or abs(last.independent.brightness) < BRIGHTNESS:
        return None
    if last.independent.loss >= last.controls.blur and not engine.finished:
        # A network that has not learned the signal yet has not learned the mean either.
        return None
    return BRIGHT.finding(
        f"the output's mean is {last.independent.brightness:+.3f} standard deviations off its partner's.",
        value=last.independent.brightness,
    )


def _trend(engine: Denoiser) -> Finding | None:
    losses = engine.losses
    if len(losses) <= _FALLING or engine.last is None:
        return None
    recent = losses[-_FALLING - 1 :]
    rising = all(late > early for early, late in pairwise(recent))
    best, now = min(losses), losses[-1]
    gained = max(engine.last.controls.blur - best, 0.0)
    if not rising or now - best <= max(_TREND_SHARE * gained, AGREEMENT * best):
        return None
    return TREND.finding(
        f"the held-out loss has risen {_FALLING} times in a row, from {recent[0]:.5f} to {now:.5f}; the best was "
        f"{best:.5f}.",
        losses=recent,
    )


def _learned(engine: Denoiser) -> Finding | None:
    steps = engine.trainer.steps
    if engine.published is not None or not (engine.finished or steps >= _STEPS_TO_LEARN):
        return None
    return LEARNED.finding(f"no model has passed the gate after {steps} optimiser steps: {engine.objection}.")


def _lost(engine: Denoiser) -> tuple[list[str], float]:
    """Held-out micrographs on which the model that a finished run has published loses, and their share."""
    held = engine.published
    if held is None or not engine.finished or not held.judged:
        return [], 0.0
    return list(held.lost), len(held.lost) / held.judged


def _each(engine: Denoiser) -> Finding | None:
    names, share = _lost(engine)
    if not names or share > LOST_SHARE:
        return None
    return EACH.finding(f"the model is worse than the best blur on {_among(names, engine)}.", items=names)


def _most(engine: Denoiser) -> Finding | None:
    names, share = _lost(engine)
    if share <= LOST_SHARE:
        return None
    return MOST.finding(f"the model is worse than the best blur on {_among(names, engine)}.", items=names)


def _among(names: list[str], engine: Denoiser) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} of {engine.published.judged if engine.published else 0} micrographs held out ({shown})"


def _floor(engine: Denoiser) -> Finding | None:
    if not engine.floor_reached:
        return None
    return FLOOR.finding(
        f"the loss {engine.floor_reached[0]:.5f} is under the noise's own variance {engine.floor_reached[1]:.5f}."
    )


def _elsewhere(_: Any) -> Finding | None:
    """For checks that the code of their boundary makes itself and raises as errors."""
    return None


FINITE = Guard(
    "input.finite", "ingest", "NaN, infinite, constant or too small images", "any", "no loss exists for them",
    Severity.NOTE, "Such micrographs are set aside and named; the run goes on.", "Export them again.", _finite,
)  # fmt: skip
ALIGNED = Guard(
    "pairs.aligned", "ingest", "displacement between the two images of a pair, by cross-correlation",
    f"{DISPLACED_PX:g} px, where that is more than noise can feign; over {DRIFTED_PX:g} px the micrograph is set aside",
    "noise feigned 1 to 3 px in simulated aligned halves whose peak was 6 to 8 times the noise; a real session showed "
    "1 to 4 px, and 11 px for its drifted micrograph",
    Severity.SUSPECT, "The network learns to blur by the displacement.",
    "Align the frames before summing the halves; look at micrographs that were set aside.", _aligned,
)  # fmt: skip
NOISE = Guard(
    "pairs.independent", "ingest", "correlation of the finest detail of the two images", f"{DEPENDENT:g}",
    "a copy gives 1, independent noise 0; signal up to Nyquist gave up to 0.4 in simulations at 5 and 10 A a pixel",
    Severity.SUSPECT,
    "A network that can predict its target's noise learns to do nothing.",
    "Give halves of different frames, not copies.", _independent_noise,
)  # fmt: skip
LOSS = Guard(
    "loss.independent", "step", "held-out loss, as added up and by an independent pass", f"{AGREEMENT:g} relative",
    "sums in float64 differ by far less", Severity.STOP,
    "The reported loss is not the loss, so the best model is unknown.",
    "Report this with the dump: the accounting is wrong.", _loss,
)  # fmt: skip
DIVERGED = Guard(
    "loss.diverged", "step", "held-out loss over that of doing nothing", f"{_DIVERGED:g}",
    "an output of zeros gives 0.5; only a network that has blown up gives more than 1", Severity.STOP,
    "Training has blown up.", "Give a smaller --learning-rate.", _diverged,
)  # fmt: skip
ROUNDTRIP = Guard(
    "weights.roundtrip", "step", "held-out loss of the saved model in a fresh process", f"{AGREEMENT:g} relative",
    "the same arithmetic on the same weights", Severity.STOP,
    "The saved weights are not the trained ones: another layout, or damage.",
    "Report this with the dump; do not use the saved model.", _roundtrip,
)  # fmt: skip
CORRELATION = Guard(
    "output.correlation", "step", "correlation of output and partner on held-out data",
    "0, less its 3-sigma error, after warm-up",
    "a denoised image correlates with every other image of the same signal", Severity.STOP,
    "The output is inverted.", "Check the contrast of the input and the network's sign.", _correlation,
)  # fmt: skip
BRIGHT = Guard(
    "output.brightness", "step", "mean of output less mean of partner, in standard deviations of a half",
    f"{BRIGHTNESS:g}", "an ancestor shipped -0.32; chosen well under that", Severity.SUSPECT,
    "The output has a systematic offset; such a model is not published.", "Train longer, or from another seed.",
    _brightness,
)  # fmt: skip
TREND = Guard(
    "score.trend", "step", "held-out loss of successive rounds",
    f"{_FALLING} rises in a row by more than {_TREND_SHARE:.0%} of what was gained over a blur",
    "chosen: one rise or two are chance", Severity.SUSPECT,
    "The score on data that training never saw gets worse: it learns its training set's noise, or diverges.",
    "Give more micrographs; the best model so far is kept.", _trend,
)  # fmt: skip
LEARNED = Guard(
    "model.learned", "publish", "whether a model has passed the gate", f"{_STEPS_TO_LEARN} optimiser steps, or the end",
    "chosen; small runs that learned have passed within some hundred", Severity.SUSPECT,
    "Nothing was learned that beats doing nothing and a blur.",
    "Look at the pairs; train longer or on more micrographs.", _learned,
)  # fmt: skip
EACH = Guard(
    "score.each", "publish", "held-out micrographs on which the published model's loss is above the best blur's",
    f"any, by {LEAST_ERRORS:g} standard errors over its crops, up to {LOST_SHARE:.0%} of them",
    "the standard error of crops of one micrograph; a healthy run has none",
    Severity.NOTE, "Over all micrographs the model is better than a blur; on these it is not.",
    "Look whether their two images belong together, and what is in them that the others have not.", _each,
)  # fmt: skip
MOST = Guard(
    "score.most", "publish", "share of held-out micrographs on which the published model loses to the best blur",
    f"{LOST_SHARE:.0%}, each by {LEAST_ERRORS:g} standard errors over its crops",
    "chosen: so many are no exceptions; the mean that the gate asks for is then carried by the others",
    Severity.SUSPECT, "The session holds micrographs of a kind that the model has not learned.",
    "Train these apart, or for longer; look whether the two images of each belong together.", _most,
)  # fmt: skip
FLOOR = Guard(
    "loss.floor", "step", "loss of hidden pixels against the variance of the noise", "the noise's variance",
    "no honest prediction of independent noise is better than its variance", Severity.NOTE,
    "Single images: from here on the network learns the noise, so training ends.",
    "Give halves or movies if there are any.", _floor,
)  # fmt: skip
MATCH = Guard(
    "pairs.match", "files", "sizes and counts of the two images of a pair", "equal", "they are one micrograph",
    Severity.REFUSE, "Input and target do not belong together.", "Export the pair again, or leave it out.", _elsewhere,
)  # fmt: skip
CANARY = Guard(
    "weights.canary", "files", "answer of loaded weights to the stored probe",
    f"{PROBE_TOLERANCE:g} standard deviations", "another order of sums gives 1e-6, another layout about 1",
    Severity.REFUSE, "The weights were put into another order.", "Use another copy of the model.", _elsewhere,
)  # fmt: skip
CHECKSUM = Guard(
    "files.checksum", "files", "SHA-256 of a model file's content", "equal", "written with the file",
    Severity.REFUSE, "The file is damaged or cut.", "Use another copy of the model.", _elsewhere,
)  # fmt: skip
CAPACITY = Guard(
    "capacity.declared", "ingest", "memory of one pair and its crops", "--memory", "the user's budget",
    Severity.REFUSE, "A micrograph does not fit the declared memory.", "Give more --memory.", _elsewhere,
)  # fmt: skip

GUARDS = (
    FINITE, ALIGNED, NOISE, DIVERGED, LOSS, ROUNDTRIP, CORRELATION, BRIGHT, TREND, LEARNED, EACH, MOST, FLOOR,
    MATCH, CANARY, CHECKSUM, CAPACITY,
)  # fmt: skip
