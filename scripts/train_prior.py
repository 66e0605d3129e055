"""Train the prior that ships with beamside (src/beamside/denoise/priors/fast.safetensors) on simulated micrographs.

The network `fast` learns from molecules that `simulate.structures.random_structure` draws and from the built-in ones,
at pixel sizes of 0.7 to 6 A, of several defoci, doses, detectors, voltages and contrasts, with and without gold, carbon
and contamination. Simulation knows the truth, so the target is the expected image, which makes the gradient quieter
than a second noisy half would: without the ice that both halves share, or with a part of it (--ice). Inputs are full
sums and single halves, normalised as `beamside denoise` normalises (`denoise.normalise`).

    python scripts/train_prior.py OUT.safetensors [--micrographs 480] [--minutes 22] [--threads 1] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from beamside import __version__
from beamside.denoise.export import write_model
from beamside.denoise.model_file import Card
from beamside.denoise.networks import Network, build
from beamside.denoise.normalise import robust_scale
from beamside.simulate.micrographs import DETECTORS, Micrograph, Recipe, Session
from beamside.simulate.structures import BUILT_IN, random_structure

SIZE_PX, CROP_PX, BATCH = 512, 256, 8
PEAK_RATE, WARM_UP_STEPS, WEIGHT_DECAY = 3e-3, 60, 1e-4
AVERAGE = 0.995
LEAST_VARIANCE = 0.01
FULL_SHARE = 0.6


def draw_recipe(rng: np.random.Generator, number: int, seed: int) -> Recipe:
    """What micrograph `number` is like; structures are chosen by `draw_session`."""
    defocus_um = float(rng.uniform(0.5, 3.0))
    return Recipe(
        size_px=SIZE_PX,
        pixel_size_A=float(np.exp(rng.uniform(math.log(0.7), math.log(6.0)))),
        count=1,
        coverage=float(rng.uniform(0.05, 0.5)),
        defocus_um=(defocus_um, defocus_um),
        dose_per_A2=float(rng.uniform(20, 60)),
        detector=str(rng.choice(list(DETECTORS))),
        contrast=float(np.exp(rng.uniform(math.log(0.15), math.log(1.2)))),
        ice_rad=float(rng.uniform(0.008, 0.025)),
        blur_px=float(rng.uniform(0.0, 0.5)),
        gold=int(rng.integers(1, 4)) if rng.uniform() < 0.08 else 0,
        contamination=int(rng.integers(1, 3)) if rng.uniform() < 0.12 else 0,
        carbon=bool(rng.uniform() < 0.08),
        voltage_kV=float(rng.choice([200.0, 300.0])),
        amplitude_contrast=float(rng.uniform(0.05, 0.12)),
        bfactor_A2=float(rng.uniform(20, 120)),
        seed=seed * 100_000 + number,
    )


def simulated(number: int, seed: int) -> Micrograph:
    """Micrograph `number` of the training set."""
    rng = np.random.default_rng([seed, number])
    recipe = draw_recipe(rng, number, seed)
    structures = [random_structure(rng) for _ in range(int(rng.integers(1, 4)))]
    if rng.uniform() < 0.4:
        structures.append(BUILT_IN[str(rng.choice(list(BUILT_IN)))]())
    return Session(recipe, structures).micrograph(0)


def pairs_of(micrograph: Micrograph, ice: float) -> NDArray[np.float16]:
    """(3, 2, H, W): input and target of the mean of the halves and of each half, normalised by the halves' scale."""
    scale = robust_scale(micrograph.even, micrograph.odd)
    target = scale.normalise(0.5 * ((1 - ice) * micrograph.clean + ice * micrograph.signal))
    images = (0.5 * micrograph.full, micrograph.even, micrograph.odd)
    parts = [[scale.normalise(image), target] for image in images]
    return np.asarray(parts, dtype=np.float16)


def training_set(count: int, seed: int, ice: float, cache: Path) -> list[NDArray[np.float16]]:
    """Made once and kept in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        path = cache / f"{seed}_{ice:g}_{number:04d}.npy"
        if not path.exists():
            partial = path.with_suffix(".part.npy")
            np.save(partial, pairs_of(simulated(number, seed), ice))
            partial.rename(path)
        found.append(np.load(path, mmap_mode="r"))
        if number % 20 == 19:
            print(f"{number + 1} of {count} micrographs", flush=True)
    return found


def draw_batch(data: list[NDArray[np.float16]], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops, turned and mirrored: inputs and targets (BATCH, 1, CROP_PX, CROP_PX)."""
    crops = []
    for _ in range(BATCH):
        arrays = data[int(rng.integers(len(data)))]
        which = 0 if rng.uniform() < FULL_SHARE else int(rng.integers(1, 3))
        y, x = rng.integers(0, SIZE_PX - CROP_PX + 1, 2)
        crop = np.rot90(arrays[which, :, y : y + CROP_PX, x : x + CROP_PX], int(rng.integers(4)), (1, 2))
        crops.append(np.ascontiguousarray(crop[:, :, :: 1 if rng.uniform() < 0.5 else -1], dtype=np.float32))
    both = torch.from_numpy(np.stack(crops))
    return both[:, :1].contiguous(memory_format=torch.channels_last), both[:, 1:]


def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared error as a share of the target's variance, so that faint and bright micrographs count alike."""
    error = functional.mse_loss(output, target, reduction="none").mean((1, 2, 3))
    return (error / (target.var((1, 2, 3)) + LEAST_VARIANCE)).mean()


def train(network: Network, data: list[NDArray[np.float16]], minutes: float, seed: int) -> dict[str, Any]:
    """AdamW, warm-up and cosine over the time given; `network` is left with the moving average of its weights."""
    rng = np.random.default_rng([seed, 1])
    network.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY)
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    begun, step, sums = time.monotonic(), 0, 0.0
    while (share := (time.monotonic() - begun) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * share))
        inputs, targets = draw_batch(data, rng)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(inputs)
        loss = loss_of(output.float(), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        kept = min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                average[name].lerp_(tensor, 1 - kept)
        sums += loss.item()
        if step % 50 == 0:
            print(f"step {step}, {100 * share:.0f} %: loss {sums / 50:.4f}", flush=True)
            sums = 0.0
    network.load_state_dict(average)
    return {"steps": step, "minutes": minutes}


def main() -> None:
    """Simulate, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--micrographs", type=int, default=480)
    parser.add_argument("--minutes", type=float, default=22)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ice", type=float, default=0.0, help="share of the ice that the target keeps (0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("prior-set"), help="folder for the simulated set")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data = training_set(args.micrographs, args.seed, args.ice, args.cache)
    network = build("fast")
    facts = train(network, data, args.minutes, args.seed)
    facts |= {"program": f"beamside {__version__}", "script": "scripts/train_prior.py", "micrographs": args.micrographs}
    facts |= {"pixel_size_A": [0.7, 6.0], "seed": args.seed, "target": "simulated truth", "ice": args.ice}
    card = Card("fast", pixel_size_A=None, pairs="given", provenance=facts)
    write_model(args.out, network.eval(), card)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
