"""The scores of beats: sensitivity and predictivity by class, kappa, j and jk; accuracy is never given alone.

    j = Se_S + P_S + Se_V + P_V          jk = kappa / 2 + j / 8          (Mar et al. 2011)

Se is the sensitivity of a class, P its positive predictivity. In j and jk one that is undefined counts 0. Where R peaks
are detected, a beat that was missed counts as said to be none, and what is no beat as what was said of it.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from biomamba.metrics import Confusion, CrossEntropy, Derived, Total
from biomamba.stream import Chunk, Meter

from .files import CLASSES, RATE

N, S, V, F, Q = range(len(CLASSES))


class ScoredLoss(CrossEntropy):
    """Mean cross entropy of the scored beats, nats, whatever the loss weighs."""

    def update(self, out: Tensor, chunk: Chunk) -> None:
        """Add the scored beats of `out` (b, t, 5)."""
        true = chunk.info["score"]
        super().update(out, chunk._replace(y=true, mask=(true >= 0) & (true < len(CLASSES))))


def decisions(out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Return the classes said (m,) and true (m,) of the scored beats."""
    true = chunk.info["score"]
    scored = true >= 0
    return out[scored].argmax(-1), true[scored]


def with_missed(out: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Return the same, and for each beat that was missed the class after the last, and its own."""
    said, true = decisions(out, chunk)
    counts = chunk.info["missed"].flatten(0, 1).sum(0)
    missed = torch.arange(len(counts)).repeat_interleave(counts).to(true)
    return torch.cat([said, torch.full_like(missed, len(counts))]), torch.cat([true, missed])


def j(counts: Confusion) -> float:
    """Return Se_S + P_S + Se_V + P_V, 0 to 4."""
    parts = [score(which) for which in (S, V) for score in (counts.sensitivity, counts.predictivity)]
    return sum(0.0 if math.isnan(part) else part for part in parts)


def jk(counts: Confusion) -> float:
    """Return kappa / 2 + j / 8, 1 at most."""
    return counts.kappa() / 2 + j(counts) / 8


def meters(detected: bool = False) -> dict[str, Meter]:
    """Return fresh meters of the scored beats, and of what was left out; detected: R peaks may be missed or extra."""
    counts = Confusion([*CLASSES, "none"], with_missed) if detected else Confusion(CLASSES, decisions)
    scores: dict[str, Callable[[], float]] = {
        "macro_f1": partial(counts.macro_f1, (N, S, V)),
        "jk": partial(jk, counts),
        "S_sensitivity": partial(counts.sensitivity, S),
        "S_predictivity": partial(counts.predictivity, S),
        "V_sensitivity": partial(counts.sensitivity, V),
        "V_predictivity": partial(counts.predictivity, V),
        "j": partial(j, counts),
        "kappa": counts.kappa,
        "N_f1": partial(counts.f1, N),
        "S_f1": partial(counts.f1, S),
        "V_f1": partial(counts.f1, V),
        "F_f1": partial(counts.f1, F),
        "balanced_accuracy": counts.balanced_accuracy,
    }
    derived: dict[str, Meter] = {name: Derived(score) for name, score in scores.items()}
    own: dict[str, Meter] = {"accuracy": counts, "loss": ScoredLoss()}
    left_out = {"skipped_seconds": Total("skipped", RATE), "lost_beats": Total("lost"), "unused_beats": Total("unused")}
    return derived | own | left_out
