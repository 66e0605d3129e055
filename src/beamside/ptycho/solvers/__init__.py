"""The solvers, one module each; `solver(name)` makes one."""

from __future__ import annotations

from beamside.ptycho.solvers.accelerated import Accelerated
from beamside.ptycho.solvers.base import Pass, Solver
from beamside.ptycho.solvers.conjugate import ConjugateGradient
from beamside.ptycho.solvers.dm import DifferenceMap
from beamside.ptycho.solvers.lsqml import LeastSquares
from beamside.ptycho.solvers.pie import Epie, Rpie
from beamside.ptycho.solvers.raar import Raar

__all__ = ["ON_GPU", "Pass", "Solver", "solver"]

_SOLVERS: dict[str, type[Solver]] = {
    "auto": Accelerated,
    "epie": Epie,
    "rpie": Rpie,
    "dm": DifferenceMap,
    "raar": Raar,
    "ml": ConjugateGradient,
    "lsqml": LeastSquares,
}
ON_GPU = ("auto", "epie", "rpie")
"""Those that use nothing but the methods of `TorchWorkshop`."""


def solver(name: str) -> Solver:
    """A new solver of that name."""
    return _SOLVERS[name]()
