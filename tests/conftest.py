"""Shared by all tests: float64 by default where a law says so, one thread, fixed seeds."""

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # triton asks when it is imported: run its kernels without a GPU
torch.set_num_threads(1)  # the laws are small: a second thread slows them down


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
