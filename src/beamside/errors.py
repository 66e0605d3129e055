"""The typed errors of beamside: each names the place, what was seen there, and what to do."""

from __future__ import annotations


class BeamsideError(Exception):
    """What went wrong, where (file, row, offset, option), and the remedy.

    Printed by the command line as one paragraph; never as a traceback.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.paragraph())

    def paragraph(self) -> str:
        """The error as one paragraph for a person."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head} {self.remedy}".rstrip() if self.remedy else head


class FormatError(BeamsideError):
    """A file is not what its format says it is."""


class InputError(BeamsideError):
    """The input is readable, but cannot be used as it stands."""


class OptionError(BeamsideError):
    """An option is unknown, impossible, or would change nothing."""


class CapacityError(BeamsideError):
    """The items do not fit the declared memory."""


class RunDirectoryError(BeamsideError):
    """The run directory is held by another process, absent, or damaged."""


class GuardStop(BeamsideError):
    """A guard of severity `stop` has tripped; the run ends and keeps a dump."""
