"""Opening a file that someone else wrote."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from beamside.errors import FormatError


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A plain file to read. Errors of the system, also inside the block, become FormatError.

    A pipe or a device is refused before it is opened: it could block for ever, or never end.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FormatError("is no plain file.", where=str(path), remedy="Give a file, not a folder, pipe or device.")
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror}).", where=str(path), remedy="Check the path.") from error
