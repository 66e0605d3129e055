"""What a user can ask of a ptychographic reconstruction, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from beamside.errors import OptionError

Solver = Literal["auto", "epie", "rpie", "dm", "raar", "ml", "lsqml"]
Noise = Literal["auto", "poisson", "gaussian"]
Device = Literal["auto", "cpu", "cuda"]
MOST_MODES = 10


@dataclass(frozen=True)
class StartProbe:
    """A probe to begin with: modes (m, n, n) complex64, centred; sampling and wavelength where its file had them."""

    modes: NDArray[np.complex64]
    origin: str
    pixel_size_m: float | None = None
    wavelength_m: float | None = None


@dataclass(frozen=True)
class PtychoOptions:
    """Options of the reconstruction; the command line's names with units.

    OptionError for a value that is impossible or would be ignored.
    """

    solver: Solver = "auto"
    modes: int | None = None
    """Incoherent probe modes; None: as many as the start probe has, else 1."""
    refine_positions: bool = False
    iterations_after_close: int = 30
    """Refinement iterations once the source has closed; the only number that ends a healthy run."""
    max_iterations: int | None = None
    """Safety cap on all iterations; None: no cap."""
    capacity: int | None = None
    """Frames held in memory; None: as many as fit. Further ones are read again in every iteration."""
    first_frames: int = 200
    """Frames that must be there before the reconstruction begins."""
    noise: Noise = "auto"
    smooth: float | None = None
    """Strength of the object's smoothness prior; None: from the dose; 0: none."""
    probe_start: int = 0
    """Iteration from which the probe is updated."""
    amplitude_limit: float | None = None
    """Largest amplitude that the object may take; None: no limit."""
    phase_limit_rad: float | None = None
    """Largest phase, either way; None: no limit."""
    defocus_m: float | None = None
    """Where a cold start puts the sample relative to the focus; None: found by a sweep."""
    check_geometry: bool = True
    """Compare the geometry with its alternatives on the first frames."""
    seed: int = 0
    device: Device = "auto"
    threads: int | None = None
    probe: StartProbe | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, kinds in (("solver", Solver), ("noise", Noise), ("device", Device)):
            if getattr(self, name) not in get_args(kinds):
                raise OptionError(
                    f"--{name} {getattr(self, name)} does not exist.",
                    remedy=f"Give one of {', '.join(get_args(kinds))}.",
                )
        for name in ("max_iterations", "capacity", "threads"):
            if getattr(self, name) is not None:
                self._at_least(name, 1)
        self._at_least("iterations_after_close", 0)
        self._at_least("first_frames", 1)
        self._at_least("probe_start", 0)
        if self.modes is not None and not 1 <= self.modes <= MOST_MODES:
            raise OptionError(f"--modes is {self.modes}.", remedy=f"Give 1 to {MOST_MODES}.")
        for name in ("amplitude_limit", "phase_limit_rad"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(f"--{_flag(name)} is {value:g}.", remedy="Give a positive limit.")
        if self.smooth is not None and self.smooth < 0:
            raise OptionError(f"--smooth is {self.smooth:g}.", remedy="Give 0 or a positive strength.")
        self._refuse_ignored()

    def _refuse_ignored(self) -> None:
        """An option that the chosen solver would not look at is refused, never ignored."""
        projections = ("dm", "raar")
        if self.solver in projections and self.noise == "poisson":
            raise OptionError(
                f"--solver {self.solver} projects on measured amplitudes and knows no Poisson noise.",
                remedy="Use --solver auto, lsqml or ml for Poisson noise.",
            )
        if self.solver in projections and (self.smooth or 0) > 0:
            raise OptionError(f"--solver {self.solver} takes no --smooth.", remedy="Use --solver auto, rpie or ml.")
        if self.solver in projections and self.refine_positions:
            raise OptionError(
                f"--solver {self.solver} does not refine positions.", remedy="Use --solver auto, rpie or lsqml."
            )
        if self.defocus_m is not None and self.probe is not None:
            raise OptionError("--defocus is for a cold start; --probe gives the probe.", remedy="Give one of the two.")

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise OptionError(
                f"--{_flag(name)} is {getattr(self, name)}.", remedy=f"Give a number of at least {least}."
            )

    def to_json(self) -> dict[str, Any]:
        """All but the start probe, as JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "probe"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], probe: StartProbe | None) -> PtychoOptions:
        """From what `to_json` gave; further values are left alone."""
        names = {f.name for f in fields(cls)} - {"probe"}
        return cls(**{name: values[name] for name in names}, probe=probe)


def _flag(name: str) -> str:
    return name.removesuffix("_m").removesuffix("_rad").replace("_", "-")
