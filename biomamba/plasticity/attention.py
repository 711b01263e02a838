"""Attention by spike-timing-dependent plasticity: a score is what STDP makes of when a query and a key fire.

    t_i = T_max (1 - P_i / d)                                 P_i spikes among the d features of token i: many, early
    score_ij = offset + A exp(-|dt| / tau)      if dt < 0     dt = t_Q,i - t_K,j: the query fires before the key
               offset - A exp(-|dt| / tau)      otherwise     tokens that fire together too
    out_i = sum over j of score_ij V_j

The Spiking STDP Transformer (S2TDPT, Mondal and Kumar 2025, arXiv 2511.14691), with two attentions to lay beside it.
A score depends on how many features spike, not on which, so that of two tokens only the counts are compared.
Constants as a third party gives them; t and tau are in one unit, that of a trial.

Shapes: ... any leading axes (streams, steps, heads), i queries, j keys, d features of a head. q, k, v hold 0 and 1.
"""

import torch
from torch import Tensor

from .stdp import double_exponential


def first_spike_time(spikes: Tensor, *, T_max: float = 1.0) -> Tensor:
    """Return the time (..., i) of the first spike of every token's features (..., i, d), 0 to T_max (for silence)."""
    return T_max * (1 - spikes.mean(-1))


def stdp_scores(t_query: Tensor, t_key: Tensor, *, A: float = 0.9, tau: float = 0.5, offset: float = 0.9) -> Tensor:
    """Return the scores (..., i, j) of spike times (..., i) and (..., j).

    That is the window of STDP with the query as the presynaptic spike: t_post - t_pre is t_key - t_query. Where both
    are equal the window has its jump; the score is the lower one there, and has no gradient.
    """
    after = t_key.unsqueeze(-2) - t_query.unsqueeze(-1)
    window = double_exponential(after, A_plus=A, A_minus=A, tau_plus=tau, tau_minus=tau)
    return offset + window.masked_fill(after == 0, -A)


def stdp_attention(
    q: Tensor, k: Tensor, v: Tensor, *, A: float = 0.9, tau: float = 0.5, T_max: float = 1.0, offset: float = 0.9
) -> Tensor:
    """Return the values (..., i, d) that tokens attend to by their spike times: no product of q and k, no softmax."""
    times = first_spike_time(q, T_max=T_max), first_spike_time(k, T_max=T_max)
    out: Tensor = stdp_scores(*times, A=A, tau=tau, offset=offset) @ v
    return out


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return (q k^T) v / sqrt(d), no softmax: the spiking self-attention of Spikformer (Zhou et al. 2023)."""
    out: Tensor = (q @ k.mT * q.shape[-1] ** -0.5) @ v
    return out


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017)."""
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v
