"""Places that cannot be read or written, in a person's words: their owner can help, and no traceback would."""

from __future__ import annotations

import errno
import os
import re

_NAME_ANOTHER = "Name another place."
_REMEDIES = {
    errno.EROFS: "Name a place on a disk that can be written to.",
    errno.EACCES: "Ask its owner for permission, or name another place.",
    errno.EPERM: "Ask its owner for permission, or name another place.",
    errno.ENOSPC: "Free some space on that disk, or name another place.",
    errno.EDQUOT: "Free some of your quota on that disk, or name another place.",
    errno.EIO: "The disk or its connection fails: look at it.",
    errno.ENOENT: "Make the folder that is missing, or check the spelling.",
    errno.ENOTDIR: "A part of that path is a file, not a folder: check the spelling.",
    errno.EISDIR: "Name a file, not a folder.",
    errno.EEXIST: _NAME_ANOTHER,
    errno.ENOTEMPTY: _NAME_ANOTHER,
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.ELOOP: "Symbolic links go round in a circle there.",
}
_HIDDEN = re.compile(r"^\.(.+)\.\d+\.(part|body)$")
"""Names under which something unfinished lies beside its place."""


def told(error: OSError) -> str | None:
    """One paragraph; None for an error that says nothing about a place."""
    if error.errno not in _REMEDIES:
        return None
    why = f"{error.strerror or os.strerror(error.errno)}. {_REMEDIES[error.errno]}"
    if error.filename is None:
        return f"{why}" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else None
    folder, name = os.path.split(os.fsdecode(error.filename))
    meant = _HIDDEN.sub(r"\1", name)
    return f"{os.path.join(folder, meant)}: {why}"
