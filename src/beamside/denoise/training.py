"""The optimiser's side of training: one batch after another, a schedule, and the average of the weights over time.

AdamW (Loshchilov and Hutter 2019). The rate warms up, stays, and falls along a cosine to zero in the cool-down, which
takes the last `COOL_SHARE` of all steps: so a run need not know its length before the last item has come (Hägele et
al. 2024). What is scored and published is the exponential moving average of the weights.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from beamside.denoise.loss import Tally
from beamside.denoise.networks import Network
from beamside.denoise.precision import autocast

COOL_SHARE = 0.3
LEAST_COOL_STEPS = 50
DETAIL_BLOCK_PX = 16
_WEIGHT_DECAY = 1e-4
_BETAS = (0.9, 0.95)
"""With the usual 0.999 the second moment lags behind gradients that grow, and U-Nets without normalisation blow up."""
_TRUST_POWER = -1 / 3
"""Of a target's spread, for its error. With 0 the frames' noise drowns what is learned from the sums, their partners;
with -1, which is best for that direction, the other one is not learned."""
_LARGEST_GRADIENT = 0.2
"""Healthy norms are 0.04 to 0.1."""
_AVERAGE = 0.998
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Trainer:
    """A network in training, its average, and where it is in its schedule."""

    def __init__(
        self, network: Network, device: str, *, rate: float, warm_up: int, total: int | None, bf16: bool,
        detail: float = 0.0,
    ):  # fmt: skip
        self.network = network.to(device).train()
        for parameter in self.network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.device, self.rate, self.warm_up, self.bf16 = device, rate, warm_up, bf16
        self.optimiser = torch.optim.AdamW(self.network.parameters(), rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY)
        self.detail = detail
        self.steps = 0
        self.cool_from: int | None = None if total is None else total - max(1, round(COOL_SHARE * total))
        self.total: int | None = total
        self.tally = Tally()

    def cool_down(self) -> None:
        """Begin to end: the last steps are those of the cool-down. A run of given length has planned it already."""
        if self.total is None:
            self.cool_from = self.steps
            self.total = self.steps + max(LEAST_COOL_STEPS, round(self.steps * COOL_SHARE / (1 - COOL_SHARE)))

    @property
    def done(self) -> bool:
        """Whether every step of the schedule has been taken."""
        return self.total is not None and self.steps >= self.total

    def present_rate(self) -> float:
        """The learning rate of the next step."""
        rate = self.rate * min(1.0, (self.steps + 1) / self.warm_up)
        if self.cool_from is None or self.total is None or self.steps < self.cool_from:
            return rate
        passed = (self.steps - self.cool_from + 1) / (self.total - self.cool_from + 1)
        return rate * 0.5 * (1 + math.cos(math.pi * passed))

    def step(
        self, inputs: Tensor, targets: Tensor, weight: Tensor | None, lesson: Tensor | None = None,
        levels: Tensor | None = None,
    ) -> None:  # fmt: skip
        """One optimiser step on (B, 1, h, w); the loss is a mean over the pixels that count.

        lesson: what to learn instead of the targets; the loss that is counted is that against the targets.
        levels: (B, 2) spreads of inputs and targets, 1 by default. An error against a noisy target counts less.
        """
        x = inputs.to(self.device, memory_format=torch.channels_last)
        y = targets.to(self.device)
        both = torch.ones(len(x), 2) if levels is None else levels
        level, partner = both.to(self.device)[:, :, None, None, None].unbind(1)
        for group in self.optimiser.param_groups:
            group["lr"] = self.present_rate()
        with autocast(self.device, enabled=self.bf16):
            output = self.network(x / level)
        output = output.float() * level
        if lesson is not None:
            loss = (output - lesson.to(self.device)).square().mean()
        else:
            loss = objective((output - y) * partner**_TRUST_POWER, weight, self.detail)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimiser.step()
        self.steps += 1
        self._follow()
        self.tally.add(output, y, weight)

    @torch.no_grad()
    def _follow(self) -> None:
        """The average forgets faster while it is young."""
        keep = min(_AVERAGE, self.steps / (self.steps + 9))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - keep)

    # state

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Weights, their average, and the optimiser's moments."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            found[f"weights.{name}"] = parameter
            for moment in _MOMENTS:
                if parameter in self.optimiser.state:
                    found[f"{moment}.{name}"] = self.optimiser.state[parameter][moment]
        found |= {f"average.{name}": parameter for name, parameter in self.average.named_parameters()}
        return {name: np.array(tensor.detach().cpu().contiguous().numpy()) for name, tensor in found.items()}

    def values(self) -> dict[str, Any]:
        """Where the schedule stands, and the loss counted so far."""
        tally = [self.tally.squared, self.tally.pixels]
        return {"steps": self.steps, "cool_from": self.cool_from, "total": self.total, "tally": tally}

    def restore(self, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> None:
        """Stand where the state was taken."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(torch.from_numpy(arrays[f"weights.{name}"]))
                if f"step.{name}" in arrays:
                    self.optimiser.state[parameter] = {
                        moment: _like(arrays[f"{moment}.{name}"], parameter, moment) for moment in _MOMENTS
                    }
            for name, parameter in self.average.named_parameters():
                parameter.copy_(torch.from_numpy(arrays[f"average.{name}"]))
        self.steps, self.cool_from, self.total = values["steps"], values["cool_from"], values["total"]
        self.tally = Tally(*values["tally"])


def objective(error: Tensor, weight: Tensor | None, detail: float) -> Tensor:
    """What is minimised, from the error (B, 1, h, w): its mean square, and `detail` times that of its finer part.

    The finer part is what is left beside the means of blocks of 16 pixels. The best estimate minimises both, so it is
    the same; but most of the signal's power is coarse, and a network learns last what weighs least.
    """
    if weight is not None:
        return (error.square() * weight).sum() / weight.sum()
    block = DETAIL_BLOCK_PX
    if not detail or min(error.shape[-2:]) < block:
        return error.square().mean()
    whole = error[..., : error.shape[-2] // block * block, : error.shape[-1] // block * block]
    means = functional.interpolate(functional.avg_pool2d(whole, block), scale_factor=block)
    return (error.square().mean() + detail * (whole - means).square().mean()) / (1 + detail)


def _like(array: NDArray[Any], parameter: Tensor, moment: str) -> Tensor:
    """A moment as the optimiser keeps it: laid out as its parameter, the step count on the CPU."""
    stored = torch.from_numpy(np.array(array))
    return stored if moment == "step" else torch.empty_like(parameter).copy_(stored)
