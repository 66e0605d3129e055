"""The training of a denoiser as the run sees it: micrographs in, a few dozen optimiser steps a step, models out.

A round is some hundred steps and ends with the held-out score, the independent pass and the gate. Micrographs may
join between any two steps. When the source has closed, the learning rate cools down and the run ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from beamside.compute.device import chosen
from beamside.compute.heap import give_back
from beamside.compute.lanes import available_threads
from beamside.denoise import apart, blend_fit, blindspot, gate, stored
from beamside.denoise.blur import gaussian_blur
from beamside.denoise.gate import Score, Verified
from beamside.denoise.guards import GUARDS
from beamside.denoise.held_out import Controls, HeldOut, Image, Mask, crops_within
from beamside.denoise.intake import Intake, with_roles
from beamside.denoise.loader import CropLoader
from beamside.denoise.loss import Tally
from beamside.denoise.micrograph import HELD_OUT, TRAIN, Micrograph, Pixels
from beamside.denoise.model_file import UNEQUAL_PAIRS, Card, pack_model, unpack_model
from beamside.denoise.networks import Network, build
from beamside.denoise.options import DenoiseOptions
from beamside.denoise.precision import fast_bf16
from beamside.denoise.training import Trainer
from beamside.denoise.widen import begin_as, factor
from beamside.errors import InputError, OptionError
from beamside.run.engine import Batch, BatchPolicy, Header, Progress, Snapshot, State
from beamside.run.guard import Guard

CHUNK_STEPS = 25
_FIRST_MICROGRAPHS, _MOST_AT_ONCE = 4, 16
_LESSON_SIGMA_PX = 4.0
_BLEND_PIECES, _STEPS_A_BLEND_PIECE = 12, 200
"""At most so many of each micrograph that a blend is fitted to; fewer after a shorter round, but for the last."""
_DETAIL_OF_UNEQUAL = 0.25
"""A frame has hardly any detail above its noise; its coarse part is to be learned first."""


@dataclass(frozen=True)
class Evaluation:
    """One end of a round: the score as the run has it, and as an independent pass has it. fresh is None where the gate
    had no reason to ask: the score was no better than the published one's, or not good enough."""

    steps: int
    score: Score
    independent: Score
    controls: Controls
    fresh: Verified | None


@dataclass(frozen=True)
class Published:
    """The best model so far that has passed the gate: its file's bytes, and its score on held-out set `version`.

    lost: of the `judged` micrographs that were held out then, those on which it loses to the blur (`apart.lost`).
    """

    model: bytes
    steps: int
    loss: float
    version: int
    lost: tuple[str, ...] = ()
    judged: int = 0


class Denoiser:
    """Training of a denoiser; fulfils `run.engine.Engine`."""

    guards: Sequence[Guard] = GUARDS

    def __init__(self, options: DenoiseOptions, header: Header) -> None:
        self.options, self.header = options, header
        self.policy = BatchPolicy(_FIRST_MICROGRAPHS, 1, _MOST_AT_ONCE)
        self.pairs, tile_px = str(header.fields["pairs"]), int(header.fields["tile_px"])
        self.threads = available_threads(options.threads)
        torch.set_num_threads(self.threads)
        self.device = chosen(options.device)
        self.trainer, self.stride = self._trainer()
        self.crop_px = tile_px or options.crop_px
        if self.crop_px % self.stride:
            raise OptionError(
                f"crops of {self.crop_px} px do not fit the network {options.network}, which takes multiples of "
                f"{self.stride}.",
                remedy="Give another --network for these patches.",
            )
        single = self.pairs == "single"
        self.pixels = Pixels()
        self.micrographs: list[Micrograph] = []
        self.intake = Intake(single, self.crop_px)
        crops, crops_bytes = crops_within(options.memory_bytes, single=single)
        self.held_out = HeldOut(crops)
        self.loader = CropLoader(self.pixels, self.crop_px, options.memory_bytes - crops_bytes, options.seed)
        self.mask: Mask | None = self._mask if single else None
        self.masking = np.random.default_rng([options.seed, 4])
        # A first model is scored at once, so that it can be used while the training goes on from it.
        self.rounds, self.round_ends_at = 0, options.first_round_steps if options.initial is None else 0
        self.round_steps = float(options.first_round_steps)
        self.last: Evaluation | None = None
        self.losses: list[float] = []
        self.losses_version = 0
        self.published: Published | None = None
        self.objection = "no round has ended yet"
        self.floor = 0.0
        self.floor_reached: tuple[float, float] | None = None
        self.train_loss = 0.0
        self.closed = self.finished = False

    @classmethod
    def fresh(cls, options: DenoiseOptions, header: Header) -> Self:
        """A new training."""
        return cls(options, header)

    @classmethod
    def resume(cls, options: DenoiseOptions, header: Header, state: State, batches: Sequence[Batch]) -> Self:
        """As it was when `state` was taken."""
        engine = cls(options, header)
        stored.restore(engine, state, batches)
        return engine

    def state(self) -> State:
        """Weights, optimiser, average, generators, where the loader stands, the published model, the scores."""
        return stored.state_of(self)

    def _trainer(self) -> tuple[Trainer, int]:
        options = self.options
        generator_state = torch.get_rng_state()
        torch.manual_seed(options.seed)
        network = build(options.network)
        torch.set_rng_state(generator_state)
        if options.initial is not None:
            given, _ = unpack_model(options.initial, where="--init")
            if not factor(given, network):
                raise OptionError(
                    f"--init is a model of the network {given.name}, but {network.name} is to be trained.",
                    remedy=f"Give --network {given.name}, or another model.",
                )
            begin_as(network, given, torch.Generator().manual_seed(options.seed))
        bf16 = fast_bf16(self.device)
        made = Trainer(
            network, self.device, rate=options.learning_rate, warm_up=options.warm_up_steps, total=options.steps,
            bf16=bf16, detail=options.detail,
        )  # fmt: skip
        return made, network.stride

    # items

    def ingest(self, batch: Batch) -> None:
        """Look at each new micrograph once; those held out give their crops, the others join the training."""
        self.pixels.add(batch)
        found = []
        for row, key in enumerate(batch.keys):
            seen = self.intake.look(batch, row, self.pixels.read(key))
            found += [] if seen is None else [seen]
        self.admit(with_roles(found, some_held_out=bool(self.micrographs)))
        give_back()

    def admit(self, micrographs: Sequence[Micrograph]) -> None:
        """Micrographs with their roles become active."""
        self.micrographs += micrographs
        training = [m for m in micrographs if m.role == TRAIN]
        for member in training:
            self.loader.crops_of(member)
        self.loader.join(training)
        self.add_held_out(micrographs)

    def add_held_out(self, micrographs: Sequence[Micrograph]) -> None:
        """Crops of those that are held out."""
        for member in (m for m in micrographs if m.role == HELD_OUT):
            self.held_out.add(member, self.pixels.read(member.key), self.stride, self.mask)
        if self.mask is not None and self.held_out.examples:
            self.floor = blindspot.noise_floor([example.target for example in self.held_out.examples])

    def close(self) -> None:
        """Begin the cool-down.

        Raises:
            InputError: nothing can be trained on.
        """
        self.closed = True
        if not len(self.loader):
            raise InputError(
                "no usable micrograph has come, so nothing was trained.",
                remedy="Look at the findings above for micrographs that were set aside.",
            )
        self.trainer.cool_down()

    def _mask(self, image: Image, number: int) -> tuple[Image, Image]:
        return blindspot.hide(image, np.random.default_rng([self.options.seed, 5, number]))

    # steps

    def step(self) -> Progress:
        """Some optimiser steps, or the end of a round."""
        if not len(self.loader):
            return Progress("waiting for usable micrographs", 0.0, round_ended=False, idle=True, ready=True)
        trainer = self.trainer
        if trainer.steps < self.round_ends_at and not trainer.done:
            self._train()
            return self._progress(f"round {self.rounds + 1}, training, step {trainer.steps}", ended=False)
        self._end_round()
        self.finished = trainer.done or self.floor_reached is not None
        if self.finished:
            self.loader.close()
        return self._progress(f"round {self.rounds} scored at step {trainer.steps}", ended=True)

    def _train(self) -> None:
        trainer = self.trainer
        trainer.detail = self.options.detail * (_DETAIL_OF_UNEQUAL if self._mostly_unequal() else 1)
        end = min(trainer.steps + CHUNK_STEPS, self.round_ends_at)
        while trainer.steps < end and not trainer.done:
            inputs, targets, weight = self._batch()
            trainer.step(inputs, targets, weight, self._lesson(inputs), self.loader.levels)
        self.train_loss = trainer.tally.mean

    def _batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, 1, c, c) inputs, targets, and for single images which pixels count."""
        pairs = self.loader.draw(self.options.batch)
        if self.mask is None:
            return pairs[:, :1], pairs[:, 1:], None
        images = pairs[:, 0].numpy()
        hidden, weight = zip(*(blindspot.hide(image, self.masking) for image in images), strict=True)
        stacked = (torch.from_numpy(np.stack(part))[:, None] for part in (hidden, weight))
        inputs, counted = stacked
        return inputs, pairs[:, :1], counted

    def _lesson(self, inputs: Tensor) -> Tensor | None:
        """For the first steps of a new network: the best Gaussian blur of its input.

        The partner's noise says so little about the signal that a new network may settle on saying nothing; a blur is
        a lesson without noise, and what comes after it begins where the control ends.
        """
        if self.options.initial is not None or self.trainer.steps >= self.options.lesson_steps:
            return None
        sigma = self.held_out.controls.blur_sigma_px if self.held_out.examples else _LESSON_SIGMA_PX
        return torch.stack([gaussian_blur(image[0], sigma)[None] for image in inputs])

    def _mostly_unequal(self) -> bool:
        unequal = [member.unequal for member in self.loader.members.values()]
        return 2 * sum(unequal) > len(unequal)

    def _progress(self, label: str, *, ended: bool) -> Progress:
        trainer = self.trainer
        done = trainer.steps / trainer.total if trainer.total else trainer.steps / max(1, self.round_ends_at)
        metrics = {"train_loss": self.train_loss, "rate": trainer.present_rate(), "optimiser_steps": trainer.steps}
        if ended and self.last is not None:
            metrics |= {"held_out_loss": self.last.score.loss, "blur_loss": self.last.controls.blur}
        return Progress(
            label, min(1.0, done), round_ended=ended, idle=False, finished=self.finished, ready=True, metrics=metrics
        )  # fmt: skip

    # the end of a round

    def _end_round(self) -> None:
        self.rounds += 1
        self.round_steps = min(self.round_steps * self.options.round_growth, self.options.longest_round_steps)
        self.round_ends_at = self.trainer.steps + round(self.round_steps)
        counted, self.trainer.tally = self.trainer.tally, Tally()
        if self.mask is not None and blindspot.below_floor(counted, self.floor):
            self.floor_reached = counted.mean, self.floor
        if not self.held_out.examples:
            self.objection = "no micrograph is large enough to be held out"
            return
        self.last = self.evaluation()
        if self.losses_version != self.held_out.version:
            self.losses, self.losses_version = [], self.held_out.version
        self.losses.append(self.last.score.loss)

    def evaluation(self) -> Evaluation:
        """Score the averaged weights, and let the model through the gate if it is better than the published one."""
        examples, network, controls = self.held_out.examples, self.trainer.average, self.held_out.controls
        self._blend(network)
        losses: dict[int, float] = {}
        score, fresh, model = gate.evaluate(network, examples, losses), None, b""
        reasons = gate.objections(score, controls)
        if not reasons and score.loss < self._published_loss():
            model = pack_model(network, self.card(score))
            fresh = gate.in_fresh_process(model, examples, self.threads)
        if fresh is not None and fresh.score is not None and gate.agree(score.loss, fresh.score.loss):
            # Another pass here would only repeat what that process has found from the saved bytes.
            again = fresh.score
        else:
            again = gate.independent(network, examples)
        if not gate.agree(score.loss, again.loss):
            reasons.append("its loss does not stand up to an independent pass")
        if reasons:
            self.objection = "; ".join(reasons)
        result = Evaluation(self.trainer.steps, score, again, controls, fresh)
        if not reasons and _confirmed(result):
            keys = [example.key for example in examples]
            lost = apart.lost(keys, [losses[number] for number in range(len(keys))], self.held_out.blur_each)
            self.published = Published(
                model, self.trainer.steps, again.loss, self.held_out.version, tuple(lost), len(set(keys))
            )
        return result

    def _blend(self, network: Network) -> None:
        """Give it a blend, fitted to unequal training pairs, for either image of a pair if its held-out loss falls."""
        network.blend = None
        training = [m for m in self.micrographs if m.role == TRAIN]
        if not any(m.unequal for m in training):
            return
        pieces_each = _BLEND_PIECES
        if not self.trainer.done:
            pieces_each = min(pieces_each, max(1, round(self.round_steps) // _STEPS_A_BLEND_PIECE))
        kinds = blend_fit.fitted(blend_fit.looks_at(network, training, self.pixels, pieces_each))
        taken = []
        for quieter, weights in kinds.items():
            examples = [e for e in self.held_out.examples if e.level != 1 and (e.level < 1) == quieter]
            helps = blend_fit.helps(network, weights, examples)
            taken.append(weights if helps else blend_fit.without_image(weights))
        network.blend = blend_fit.joined(taken) if taken else None

    def _published_loss(self) -> float:
        """Of the published model on the present held-out set, which may have grown since."""
        held = self.published
        if held is None:
            return float("inf")
        if held.version != self.held_out.version:
            network, _ = unpack_model(held.model, where="the published model")
            loss = gate.independent(network.to(self.device), self.held_out.examples).loss
            held = self.published = replace(held, loss=loss, version=self.held_out.version)
        return held.loss

    def card(self, score: Score) -> Card:
        """What goes into the file of a model with this score."""
        pixel_A = float(self.header.fields["pixel_size_A"])
        provenance = {
            "options": self.options.to_json(),
            "optimiser_steps": self.trainer.steps,
            "micrographs": len({m.key for m in self.micrographs if m.role == TRAIN}),
            "held_out": sorted({m.key for m in self.micrographs if m.role == HELD_OUT}),
            "bf16": self.trainer.bf16,
        }
        figures = gate.figures(score, self.held_out.controls)
        pairs = UNEQUAL_PAIRS if self._mostly_unequal() else self.pairs
        return Card(self.options.network, pixel_A or None, pairs, figures, provenance)

    def snapshot(self) -> Snapshot:
        """The published model's bytes, the last one's once finished, and what the scores are."""
        return stored.snapshot_of(self)


def _confirmed(result: Evaluation) -> bool:
    fresh = result.fresh
    if fresh is None or fresh.score is None or not gate.agree(fresh.score.loss, result.independent.loss):
        return False
    return not gate.objections(fresh.score, result.controls)
