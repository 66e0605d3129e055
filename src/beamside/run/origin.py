"""What a run was begun with, as run.json holds it, and what has changed of that since.

A resumed run repeats what it did only with the same software and the same inputs. Other software may compute the rest
with other rounding, or be unable to read the checkpoint; another input is another run.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from beamside.errors import InputError, RunDirectoryError
from beamside.run import atomic
from beamside.run.guard import Finding
from beamside.run.guards import SOFTWARE

_PACKAGES = ("numpy", "scipy", "torch", "numba", "safetensors")


def describe_input(path: Path) -> dict[str, Any]:
    """An input for run.json: a file with its size in bytes and SHA-256, a folder by its name (it may still grow)."""
    if path.is_dir():
        return {"path": str(path.absolute()), "folder": True}
    return {"path": str(path.absolute()), "bytes": path.stat().st_size, "sha256": atomic.sha256(path)}


def versions() -> dict[str, str]:
    """Of everything that decides the last bit of a result; `code` is a checksum of this package's own modules."""
    from beamside import __version__

    found = {"beamside": __version__, "code": _code(), "python": platform.python_version()}
    return found | installed(_PACKAGES)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package, or "absent"."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@cache
def _code() -> str:
    package = Path(__file__).parents[1]
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def software_changes(manifest: Mapping[str, Any]) -> str:
    """What differs between the software that began a run and this one, in words; empty where nothing does."""
    then, now = manifest.get("versions", {}), versions()
    changes = [
        f"{name} {then.get(name, '(not recorded)')} is now {now[name]}" for name in now if then.get(name) != now[name]
    ]
    return ", ".join(changes)


def software_findings(manifest: Mapping[str, Any]) -> tuple[Finding, ...]:
    """A note where a run goes on with other software than it began with."""
    changes = software_changes(manifest)
    return (SOFTWARE.finding(f"The run goes on with other software than it began with: {changes}."),) if changes else ()


@contextmanager
def readable(manifest: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Around what reads the files of an earlier process.

    Raises:
        RunDirectoryError: they lack what this version needs, and another version wrote them.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        changes = software_changes(manifest)
        if not changes:
            raise
        raise RunDirectoryError(
            f"this version cannot read what another one wrote ({type(error).__name__}: {error}): {changes}.",
            where=str(folder),
            remedy="Resume with the software that run.json names, or start a new run.",
        ) from error


def has_changed(given: Mapping[str, Any]) -> bool:
    """Whether a file that is there differs from what `describe_input` said of it; folders may grow."""
    path = Path(given["path"])
    if given.get("folder"):
        return False
    return path.stat().st_size != given.get("bytes") or atomic.sha256(path) != given.get("sha256")


def require_same_inputs(manifest: Mapping[str, Any]) -> None:
    """Every file that the run began with is what it was; a file that is watched may have grown.

    Raises:
        InputError: one is gone or has changed.
    """
    options = manifest.get("options", {})
    growing = {options.get("scan")} if options.get("watch") else set()
    for given in manifest.get("inputs", ()):
        path = Path(given["path"])
        if given.get("folder") or str(path.resolve()) in growing:
            continue
        if not path.is_file():
            raise InputError("is gone, and the run began with it.", where=str(path), remedy=_REMEDY)
        if has_changed(given):
            raise InputError("has changed since the run began with it.", where=str(path), remedy=_REMEDY)


_REMEDY = "Restore that file, or start a new run."
