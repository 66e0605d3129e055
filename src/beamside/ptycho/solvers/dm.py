"""The difference map, plain."""

from __future__ import annotations

from beamside.ptycho.solvers.dual import Dual


class DifferenceMap(Dual):
    """Thibault et al. (2009) with beta 1. On noisy counts it does not settle; RAAR does."""

    beta = 1.0
