"""Shared by all tests: float64 where a law says so, fixed seeds, and the number of threads."""

import os
from collections.abc import Iterator

import pytest

SHARED = "PYTEST_XDIST_WORKER" in os.environ  # several processes of tests share the processor
if SHARED:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads read it when they are loaded

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # triton asks when it is imported: run its kernels without a GPU
if SHARED and "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)  # tests at more threads ask for them


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Compute in float64, where laws hold to 1e-9."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def all_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have our kernels take every thread that torch allows, however small the work; put torch's number back after."""
    before = torch.get_num_threads()
    try:
        from biomamba.ops.llvm import operator
    except ImportError:
        pass  # no kernels of ours: torch alone has threads
    else:
        monkeypatch.setattr(operator, "GRAIN", 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest, all_threads: None) -> int:
    """Compute on so many threads."""
    torch.set_num_threads(request.param)
    return int(request.param)


@pytest.fixture
def nan_memory() -> Iterator[None]:
    """Fill new memory with NaN: whatever is computed from it is NaN too."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(9).isnan().all(), "the tests say nothing if memory is not filled"
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
