"""What this installation runs on: versions, device, free disk."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from beamside.run.origin import installed

_LIBRARIES = ("numpy", "scipy", "torch", "safetensors", "h5py", "mrcfile", "matplotlib", "tifffile", "pyzmq")
LEAST_FREE_BYTES = 1 << 30


def versions() -> dict[str, str]:
    """beamside, Python, and the libraries that engines and formats use."""
    from beamside import __version__

    found = {"beamside": __version__, "python": platform.python_version(), "system": platform.platform()}
    return found | installed(_LIBRARIES)


def device() -> str:
    """Processor threads, and the accelerator that torch sees."""
    import torch

    threads = len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        return f"CPU, {threads} threads; no CUDA device"
    free, total = torch.cuda.mem_get_info()
    return f"CPU, {threads} threads; {torch.cuda.get_device_name()}, {free >> 20:,} of {total >> 20:,} MiB free"


def free_bytes(folder: Path) -> int:
    """Free space of the disk that holds `folder`."""
    return shutil.disk_usage(folder).free
