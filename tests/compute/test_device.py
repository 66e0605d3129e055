"""One rule for --device, and what is asked of a GPU before it computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from beamside.compute.device import chosen, require_agreement
from beamside.errors import OptionError


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """The process-wide switches as they were."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


@pytest.mark.parametrize("there", [False, True])
def test_auto_takes_a_gpu_where_there_is_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert chosen("auto") == ("cuda" if there else "cpu")
    assert chosen("cpu") == "cpu"


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match="no CUDA device"):
        chosen("cuda")
    for name in ("abacus", "cuda:7"):
        with pytest.raises(OptionError, match="not known"):
            chosen(name)


def test_a_gpu_computes_in_whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortened products would put a loss further off than the gate of denoise allows, so nothing would pass it."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen("cpu")
    assert torch.backends.cudnn.allow_tf32, "the processor's choice is none of its business"
    chosen("auto")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


REAL, WHOLE = torch.tensor([1.0, -4.0]), torch.tensor([3, 5])


@pytest.mark.parametrize(
    ("real", "whole", "agrees"),
    [
        (REAL, WHOLE, True),
        (REAL + 1e-5, WHOLE, True),
        (REAL * 1.01, WHOLE, False),
        (REAL * float("nan"), WHOLE, False),
        (REAL, WHOLE + 1, False),
        (REAL * 0, WHOLE, False),
    ],
)
def test_values_must_agree(real: torch.Tensor, whole: torch.Tensor, agrees: bool) -> None:
    if agrees:
        require_agreement("cuda", "a test", (REAL, WHOLE), lambda: (real, whole))
        return
    with pytest.raises(OptionError, match=r"--device cuda: a test gives values .* Give --device cpu"):
        require_agreement("cuda", "a test", (REAL, WHOLE), lambda: (real, whole))


def test_a_gpu_that_fails_is_refused() -> None:
    def fails() -> list[torch.Tensor]:
        raise RuntimeError("no kernel image is available")

    with pytest.raises(OptionError, match=r"a test fails there \(no kernel image"):
        require_agreement("cuda", "a test", (REAL,), fails)
