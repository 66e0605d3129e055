"""Model files on the disk, and the result of a training run."""

from __future__ import annotations

import json
from pathlib import Path

from beamside.denoise.model_file import Card, pack_model, unpack_model
from beamside.denoise.networks import Network
from beamside.denoise.stored import BEST, LAST
from beamside.errors import FormatError, InputError
from beamside.formats.atomic import replacing
from beamside.run.engine import Snapshot

MODEL, LAST_MODEL = "model.safetensors", "last.safetensors"


def write_model(path: Path, network: Network, card: Card) -> None:
    """Write a model file beside and rename it into place."""
    with replacing(path) as file:
        file.write(pack_model(network, card))


def read_model(path: Path) -> tuple[Network, Card]:
    """A network and its card from a model file, or from the newest model of a run directory.

    Raises:
        InputError: there is no such file, or the run has published no model yet.
        FormatError: the file is damaged or no model.
    """
    found = find_model(path)
    try:
        data = found.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror}).", where=str(found), remedy="Check the path.") from error
    return unpack_model(data, where=str(found))


def find_model(path: Path) -> Path:
    """The model file that `path` names: itself, or of a run the result's, or else of the newest snapshot with one.

    Raises:
        InputError: there is none.
        FormatError: it is a run of another verb.
    """
    if path.is_file():
        return path
    _refuse_other_runs(path)
    snapshots = path / "snapshots"
    numbered = [p for p in snapshots.iterdir() if p.name.isdigit()] if snapshots.is_dir() else []
    newest = sorted(numbered, key=lambda p: int(p.name), reverse=True)
    for folder in [path / "result", *newest]:
        if (folder / MODEL).is_file():
            return folder / MODEL
    raise InputError(
        "holds no model.",
        where=str(path),
        remedy="Name a model file, or a run of 'denoise train' that has published one.",
    )


def _refuse_other_runs(path: Path) -> None:
    """FormatError for a run of another verb, which will never publish a model."""
    manifest = path / "run.json"
    try:
        verb = json.loads(manifest.read_text()).get("verb")
    except (OSError, ValueError, AttributeError):
        return
    if verb not in (None, "denoise"):
        raise FormatError(
            f"is a run of '{verb}', which makes no model.",
            where=str(path),
            remedy="Name a run of 'denoise train', a model file, or 'prior'.",
        )


def write_models(snapshot: Snapshot, folder: Path) -> None:
    """The published model of a snapshot as `model.safetensors`, and the last one, once finished, beside it."""
    for name, file_name in ((BEST, MODEL), (LAST, LAST_MODEL)):
        if name in snapshot.arrays:
            with replacing(folder / file_name) as file:
                file.write(snapshot.arrays[name].tobytes())
