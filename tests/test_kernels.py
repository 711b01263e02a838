"""Kernels are chosen by name, and what cannot be had is said in one line."""

from collections.abc import Iterator

import pytest

import biomamba
from biomamba.ops import backend
from biomamba.ops.backend import NAMES, resolve


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Let the test say what is installed."""
    names: set[str] = set()
    monkeypatch.setattr(backend, "_installed", names.__contains__)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    resolve.cache_clear()
    yield names
    resolve.cache_clear()


@pytest.mark.parametrize(
    "device, there, chosen",
    [
        ("cpu", {"llvm", "triton"}, "llvm"),
        ("cuda", {"llvm", "triton"}, "triton"),
        ("cpu", {"triton"}, "torch"),
        ("cuda", {"llvm"}, "torch"),
        ("mps", {"llvm", "triton"}, "torch"),
    ],
)
def test_auto_takes_what_is_there(device: str, there: set[str], chosen: str, installed: set[str]) -> None:
    installed |= there
    assert resolve("auto", device) == chosen


@pytest.mark.parametrize(
    "name, device, line",
    [
        ("llvm", "cpu", r'llvm is not installed: pip install "biomamba\[fast\]"'),
        ("llvm", "cuda", "llvm works on the CPU only, the tensors are on cuda: give auto"),
        ("triton", "cuda", "triton is not installed: pip install triton"),
        ("triton", "cpu", "triton works on a GPU"),
        ("cython", "cpu", f"got 'cython', expected one of {', '.join(NAMES)}"),
    ],
)
def test_what_cannot_be_had_is_said(name: str, device: str, line: str, installed: set[str]) -> None:
    with pytest.raises(ValueError, match=line):
        resolve(name, device)


def test_a_model_knows_the_names() -> None:
    with pytest.raises(ValueError, match="backend: got 'cython'"):
        biomamba.Model(vocab=3, d_out=3, d_model=8, backend="cython")
