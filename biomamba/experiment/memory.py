"""Memory: what a learner needs at least is compared with what there is, and what was freed is kept in the process."""

import ctypes
import os
from collections.abc import Callable

import torch

from ..model import Model
from ..rules.base import LearningRule
from ..state import nbytes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3), glibc


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep what is freed; where there is no such allocator, do nothing.

    A loop over small chunks frees and takes the same few buffers thousands of times; with glibc's defaults each
    round trip faults their pages in again. The resident size stays at its peak, which does not grow.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(MMAP_THRESHOLD, 32 << 20)  # the largest it takes
    mallopt(TRIM_THRESHOLD, 2**31 - 1)


def check(layer: Callable[[], tuple[Model, LearningRule]], n_layers: int, batch: int) -> None:
    """Raise ValueError where weights with their gradient, state and trace alone are more than the machine has.

    layer: makes the model with one block, and its rule, of which nothing is kept in memory here.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model, rule = layer()
            block = 2 * sum(nbytes(own) for own in model.blocks.parameters())
            rest = 2 * sum(nbytes(own) for own in model.parameters()) - block
            stream = nbytes(model.init_state(1)) + nbytes(rule.init(1))
        asked = rest + n_layers * (block + batch * stream)
    except NotImplementedError:
        return  # a block or rule of a user's that cannot be made without its numbers
    except RuntimeError as error:  # more than an address can hold
        if "overflow" not in str(error):
            raise
        asked = 2**63
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if asked > there:
        raise ValueError(
            f"memory: weights, state and trace need {asked / 1e9:,.0f} GB, the machine has {there / 1e9:,.0f} GB: give "
            "a smaller model.d_model, model.n_layers or stream.batch"
        )
