"""When a file in a watched folder may be read: once it has kept its size and its times for a while.

Polling, since network mounts send no notifications; and the age is counted on this process's clock from the moment
a state of the file was first seen, so neither a server's clock nor a step of ours matters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Signature = tuple[int, int, int]


def signature(path: str | os.PathLike[str]) -> Signature | None:
    """Size, modification time (ns) and inode; None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


@dataclass
class _Sight:
    signature: Signature | None
    since: float


class Settling:
    """Remembers for every file since when it has looked as it looks now."""

    def __init__(self, settle_s: float, clock: Callable[[], float]) -> None:
        self.settle_s, self.clock = settle_s, clock
        self._sights: dict[Path, _Sight] = {}

    def look(self, path: Path) -> Signature | None:
        """The file's present signature, remembered with the time at which it was first seen."""
        now = signature(path)
        sight = self._sights.get(path)
        if sight is None or sight.signature != now:
            self._sights[path] = _Sight(now, self.clock())
        return now

    def settled(self, path: Path) -> bool:
        """Look again, and say whether the file has been as it is for `settle_s`."""
        return self.look(path) is not None and self.age_s(path) >= self.settle_s

    def age_s(self, path: Path) -> float:
        """Since when the file has looked as it did at the last look."""
        sight = self._sights.get(path)
        return self.clock() - sight.since if sight else 0.0


def walk(folder: Path, suffixes: tuple[str, ...], is_private: Callable[[list[str]], bool]) -> Iterator[Path]:
    """Files under `folder` with those suffixes, hidden ones apart, in a stable order; linked folders once.

    is_private: given the names in a folder, whether to leave out all of it.
    """
    seen: set[tuple[int, int]] = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        with suppress(FileNotFoundError):
            here = os.stat(base)
            if (here.st_dev, here.st_ino) in seen or is_private(files):
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(suffixes) and not name.startswith("."):
                yield Path(base, name)
