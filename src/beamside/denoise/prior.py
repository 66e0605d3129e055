"""The model that ships with the package, trained by scripts/train_prior.py on simulated micrographs."""

from __future__ import annotations

from pathlib import Path

PRIOR = Path(__file__).parent / "priors" / "fast.safetensors"
