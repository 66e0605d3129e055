"""bfloat16 where the processor multiplies it natively; elsewhere it is slower than float32."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def fast_bf16(device: str = "cpu") -> bool:
    """Whether convolutions in bfloat16 are faster than in float32 on this device."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    found = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(ask()) for ask in found if ask is not None)


def autocast(device: str, *, enabled: bool) -> AbstractContextManager[None]:
    """Convolutions in bfloat16 inside; weights, sums and losses stay float32."""
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=enabled)
