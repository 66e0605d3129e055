"""The catalogue of guards, docs/guards.md, made from the code that runs them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

from beamside.run.guard import Guard

ENGINES = ("classify", "ptycho", "denoise")
_OWNERS = (
    ("Every run", "beamside.run.guards"),
    ("Particles and micrographs, wherever they come from", "beamside.sources.guards"),
    ("Ptychographic scans, in files and on sockets", "beamside.sources.scan_guards"),
    ("Joining and choosing particles", "beamside.doctor.guards"),
    ("What a command line asks for", "beamside.doctor.option_guards"),
    *((f"Engine `{name}`", f"beamside.{name}.guards") for name in ENGINES),
)
_HEAD = """# Guards

A guard is a named check at a boundary where data changes hands. `stop` ends the run with a dump that `beamside replay`
runs again; `suspect` marks every snapshot from then on; `note` is said once and costs nothing; `refuse` is an error
before anything is written. Guards of the boundaries ingest, step and publish look at an engine in every run; the others
are looked for by the code that reads or writes there.

This page is made from the code by `beamside doctor --guards`; a test holds the two together.
"""


def groups() -> Iterator[tuple[str, tuple[Guard, ...]]]:
    """Owners of guards and their guards, engines that are installed last."""
    for title, module in _OWNERS:
        package = module.rpartition(".")[0]
        if importlib.util.find_spec(package) is not None and importlib.util.find_spec(module) is not None:
            yield title, tuple(importlib.import_module(module).GUARDS)


def page() -> str:
    """The catalogue as Markdown."""
    return _HEAD + "".join(f"\n## {title}\n" + "".join(map(_entry, guards)) for title, guards in groups())


def _entry(guard: Guard) -> str:
    rows = {
        "boundary": guard.boundary,
        "statistic": guard.statistic,
        "bound": guard.bound,
        "where the bound comes from": guard.bound_origin,
        "answer": str(guard.severity),
        "what to do": guard.remedy,
    }
    listed = "".join(f"- {name}: {text}\n" for name, text in rows.items())
    return f"\n### {guard.name}\n\n{guard.explanation}\n\n{listed}"
