"""Who may import whom (the design's table), and how long a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = sorted((SOURCE / "beamside").rglob("*.py"))
MOST_LINES = 450

ENGINES = ("classify", "ptycho", "denoise")
_ENGINE_MAY = {"errors", "run.engine", "run.guard", "optics", "compute"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "run": {"errors"},
    "formats": {"errors"},
    "optics": {"errors"},
    "compute": {"errors"},
    "sources": {"errors", "run", "formats", "optics"},
    "simulate": {"errors", "formats", "optics", "compute"},
    "live": {"errors", "run.store", "run.ledger", "formats"},
    # The doctor looks at everything from outside and nothing but the command line looks at it.
    "doctor": {"errors", "run", "formats", "optics", "sources", "simulate", *ENGINES},
    **dict.fromkeys(ENGINES, _ENGINE_MAY),
}
"""room -> what it may import besides itself; `cli` may import everything."""
EXCEPTIONS: dict[tuple[str, str], set[str]] = {
    ("run", "origin"): {"__version__"},
    ("doctor", "machine"): {"__version__"},
    **{(engine, module): {"formats"} for engine in ENGINES for module in ("export", "picture")},
}
"""(room, module) -> what it may import beyond its room."""
OPEN = {"cli", "__init__", "__main__"}


def name_of(path: Path) -> str:
    """`run.loop` for src/beamside/run/loop.py."""
    return ".".join(path.relative_to(SOURCE / "beamside").with_suffix("").parts)


def house_imports(text: str, module: str) -> set[str]:
    """The modules of the house that a file imports, without `beamside.`, imports inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide where they lead"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("beamside.") for name in names if name.split(".")[0] == "beamside"}
    return found


def breaches(text: str, module: str) -> set[str]:
    """What a module imports and may not."""
    room, *inner = module.split(".")
    if room in OPEN:
        return set()
    allowed = MAY_IMPORT[room] | {room} | EXCEPTIONS.get((room, ".".join(inner)), set())
    return {
        name
        for name in house_imports(text, module)
        if not any(name == may or name.startswith(f"{may}.") for may in allowed)
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_design(path: Path) -> None:
    assert breaches(path.read_text(), name_of(path)) == set()


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("run.loop", "from beamside.formats import mrc"),
        ("run.loop", "def f():\n    import beamside.classify.engine"),
        ("formats.star", "from beamside.run.source import Record"),
        ("optics.ctf", "from beamside import formats"),
        ("classify.engine", "from beamside.run import loop"),
        ("classify.engine", "from beamside.formats.mrc import read"),
        ("classify.engine", "from beamside.ptycho import geometry"),
        ("sources.folder", "from beamside.classify import options"),
        ("live.server", "from beamside.run.loop import run"),
    ],
)
def test_a_breach_is_found(module: str, text: str) -> None:
    assert len(breaches(text, module)) == 1


def test_what_is_allowed_is_no_breach() -> None:
    assert breaches("from beamside.formats.mrc import write", "classify.export") == set()
    assert breaches("from beamside.run.engine import Batch\nimport numpy", "classify.engine") == set()
    assert breaches("from beamside.classify import engine", "cli.classify") == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_file_is_too_long(path: Path) -> None:
    assert path.read_text().count("\n") <= MOST_LINES
