"""The guards on what a command line asks for, against what the data allow. The verbs and engines answer them."""

from __future__ import annotations

from beamside.run.guard import Severity
from beamside.sources.guards import owned

GUARDS = owned(
    (
        "ctf.present", "options", "particles without defocus, voltage, Cs or amplitude contrast",
        "any, without --no-ctf",
        "images with and without a CTF cannot be averaged together", Severity.REFUSE,
        "CTF correction is asked for, and some stacks carry no CTF.",
        "Estimate the CTF first, or run with --no-ctf.",
    ),
    (
        "warmstart.explicit", "options", "a file that a reconstruction starts from", "not named on this command line",
        "an option inherited from an earlier command line starts from the wrong place", Severity.REFUSE,
        "Class averages, a probe or weights are read only where they are named now, and recorded with their checksum.",
        "Name the file with the option that takes it.",
    ),
    (
        "warmstart.fits", "options", "shape, pixel size and wavelength of a start probe against the scan's",
        "another shape; a pixel size or wavelength that differs", "a probe is a wave on the pixels of its own scan",
        Severity.REFUSE, "A probe of another scan starts the reconstruction from the wrong wave.",
        "Give the probe of this instrument's settings, or leave --probe out.",
    ),
    (
        "capacity.declared", "options", "size of one item, and of all, against what the engine declares",
        "does not fit",
        "memory is declared before the first item", Severity.REFUSE,
        "What does not fit is refused before the first item, or evicted by a stated policy with a visible count.",
        "Bin the data to the size that the error names, or give more memory.",
    ),
)  # fmt: skip
