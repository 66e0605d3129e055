"""What an import costs, and which names are public."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import beamside
from beamside.cli.main import VERBS
from beamside.compute import device

HEAVY = ("torch", "scipy", "matplotlib", "pandas", "h5py", "mrcfile", "fastapi", "zmq", "numba", "tifffile")
VERB_HELP = ("numpy", *HEAVY)


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after `code`."""
    program = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize(
    "code", ["import beamside", "from beamside.cli.main import main; main(['--help'])", "import beamside.cli.main"]
)
def test_help_and_package_load_nothing_heavy(code: str) -> None:
    loaded = loaded_by(code)
    assert "beamside" in loaded
    assert loaded.isdisjoint(VERB_HELP)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_a_verb_loads_nothing_heavy(verb: str) -> None:
    assert loaded_by(f"from beamside.cli.main import main; main(['{verb}', '--help'])").isdisjoint(HEAVY)


def test_status_loads_nothing_heavy() -> None:
    code = "import beamside.run.loop, beamside.run.session, beamside.cli.progress, safetensors.numpy"
    assert loaded_by(code).isdisjoint(HEAVY)


@pytest.mark.skipif(
    any(Path(node).exists() for node in device.DRIVERS), reason="a GPU is here, which torch is asked of"
)
def test_a_ptychographic_run_on_the_processor_needs_no_torch(tmp_path: Path) -> None:
    """Its import takes two seconds, and a scan of 500 frames ten."""
    scan, run = str(tmp_path / "scan.cxi"), str(tmp_path / "run")
    runs = ["simulate", "scan", scan, "--n", "40", "--frame", "64"], ["ptycho", scan, run, "--max-iterations", "2"]
    loaded = loaded_by(f"from beamside.cli.main import main; [main(argv) for argv in {runs}]")
    assert (tmp_path / "run" / "result" / "ptycho.cxi").is_file()
    assert "numba" in loaded and "torch" not in loaded


def test_public_names() -> None:
    assert sorted(beamside.__all__) == [
        "BeamsideError",
        "CapacityError",
        "FormatError",
        "GuardStop",
        "InputError",
        "OptionError",
        "RunDirectoryError",
        "__version__",
    ]
    assert all(hasattr(beamside, name) for name in beamside.__all__)
