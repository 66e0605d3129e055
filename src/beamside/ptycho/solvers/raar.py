"""RAAR, the relaxed difference map."""

from __future__ import annotations

from beamside.ptycho.solvers.dual import Dual


class Raar(Dual):
    """Luke, Inverse Problems 21 (2005) 37, with the overlap as the set that is relaxed towards."""

    beta = 0.9
