"""What a user can ask of the training of a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from beamside.denoise.networks import NAMES
from beamside.errors import OptionError

LEAST_MEMORY_BYTES = 16 * 2**20

_RATES = {"fast": 2e-3, "quality": 1.5e-3, "seed3": 4e-3, "deep12": 1e-3}
_WARM_SHARE = 0.5


def default_rate(network: str, *, warm: bool) -> float:
    """The learning rate after warm-up; a network that begins with a trained model takes smaller steps."""
    return _RATES[network] * (_WARM_SHARE if warm else 1.0)


@dataclass(frozen=True)
class DenoiseOptions:
    """Options of the training; OptionError for a value that is impossible.

    steps: optimiser steps in all; None: until the source closes, and a cool-down after it.
    memory_bytes: what the loader and the held-out crops may take beside the network.
    initial: the bytes of a model file to begin with; recorded in the run by path and checksum.
    """

    network: str = "fast"
    steps: int | None = None
    memory_bytes: int = 256 * 2**20
    crop_px: int = 128
    batch: int = 8
    learning_rate: float = 2e-3
    detail: float = 4.0
    """Weight of the error's finer part in what is minimised; see `training.objective`. 0: plain mean square."""
    warm_up_steps: int = 100
    lesson_steps: int = 100
    """Steps in which a new network learns to blur, before it learns from the partners."""
    first_round_steps: int = 100
    round_growth: float = 2.0
    longest_round_steps: int = 1500
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    initial: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.network not in NAMES:
            raise OptionError(f"there is no network '{self.network}'.", remedy=f"Give one of {', '.join(NAMES)}.")
        for name, least in (("steps", 10), ("batch", 1), ("crop_px", 32), ("threads", 1), ("first_round_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"--{name.replace('_', '-')} is {value}.", remedy=f"Give {least} or more.")
        if self.memory_bytes < LEAST_MEMORY_BYTES:
            raise OptionError(
                f"--memory is {self.memory_bytes / 2**20:g} MB.",
                remedy=f"Give {LEAST_MEMORY_BYTES // 2**20}MB or more.",
            )
        if not self.detail >= 0:
            raise OptionError(f"--detail is {self.detail:g}.", remedy="Give 0 or more.")
        if not self.learning_rate > 0:
            raise OptionError(f"the learning rate is {self.learning_rate:g}.", remedy="Give a positive one.")

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json, without the bytes of a first model."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "initial"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], initial: bytes | None) -> DenoiseOptions:
        """The options of an earlier process."""
        known = {f.name for f in fields(cls)} - {"initial"}
        return cls(**{k: v for k, v in values.items() if k in known}, initial=initial)
