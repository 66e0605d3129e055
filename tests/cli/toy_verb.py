"""A verb that can resume."""

from pathlib import Path


def resume(run_dir: Path) -> int:
    print(f"resumed {run_dir}")
    return 0
