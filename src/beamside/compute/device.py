"""Which device computes: one rule for all engines, and what is asked of a GPU before it may."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from beamside.errors import OptionError

NAMES = ("auto", "cpu", "cuda")
DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd")
"""What drivers leave in /dev: Nvidia's, its small boards', that of Linux under Windows, AMD's."""
_TOLERANCE, _LEAST = 1e-3, 1e-12
_REMEDY = "Give --device cpu, and look at the GPU's driver and the installed torch."


def chosen(asked: str) -> str:
    """cpu or cuda for --device auto, cpu or cuda; auto takes a GPU where there is one.

    On a GPU products and convolutions are from here on those of float32: cuDNN's default (TF32, 10 bits) puts a
    model's loss further from that of a fresh process on the processor than the gate of `denoise` allows.

    Raises:
        OptionError: an unknown name, or no GPU where one is asked for.
    """
    if asked not in NAMES:
        raise OptionError(f"--device {asked} is not known.", remedy="Give auto, cpu or cuda.")
    if asked == "cpu" or (asked == "auto" and not _may_have_one()):
        return "cpu"
    import torch

    if asked == "auto" and not torch.cuda.is_available():
        return "cpu"
    if not torch.cuda.is_available():
        raise OptionError("--device cuda: no CUDA device is to be seen.", remedy="Give auto or cpu.")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return "cuda"


def _may_have_one() -> bool:
    """False where no driver of a GPU is: that need not be asked of torch, which takes seconds to import."""
    return sys.platform != "linux" or "torch" in sys.modules or any(Path(node).exists() for node in DRIVERS)


def require_agreement(device: str, what: str, expected: Sequence[Any], found: Callable[[], Sequence[Any]]) -> None:
    """A small computation gives on `device` what it gives on the processor, before anything else is done there.

    what: names it, for the message. expected: the processor's tensors. found: computes them on the device. Integers
    must be equal, others agree to a thousandth of the largest.

    Raises:
        OptionError: they do not, or it cannot be done there.
    """
    try:
        there = [tensor.cpu() for tensor in found()]
    except RuntimeError as error:  # a driver or a build of torch that does not go with this GPU
        raise OptionError(f"--device {device}: {what} fails there ({error}).", remedy=_REMEDY) from error
    for ours, other in zip(there, expected, strict=True):
        apart = _apart(ours, other)
        if not apart < _TOLERANCE:
            raise OptionError(
                f"--device {device}: {what} gives values that are {apart:.2g} apart from the processor's.",
                remedy=_REMEDY,
            )


def _apart(found: Any, expected: Any) -> float:
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if bool((found == expected).all()) else float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(_LEAST))
