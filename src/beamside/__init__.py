"""beamside: what a running microscope sees, reconstructed while it acquires."""

from beamside.errors import (
    BeamsideError,
    CapacityError,
    FormatError,
    GuardStop,
    InputError,
    OptionError,
    RunDirectoryError,
)

__version__ = "0.1.0"

__all__ = [
    "BeamsideError",
    "CapacityError",
    "FormatError",
    "GuardStop",
    "InputError",
    "OptionError",
    "RunDirectoryError",
    "__version__",
]
