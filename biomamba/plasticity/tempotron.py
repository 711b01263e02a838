"""The Tempotron and the gradient rule it was found with, which knows the largest potential of a trial and its time.

    dw_j = sum over wrong trials of +-u_j(t_max),  t_max = argmax_t sum_j w_j u_j(t)       Guetig and Sompolinsky (2006)

u_j(t): what input j alone would make of the potential with a weight of 1; + where the neuron should have fired, - where
it should not. No reset: a spike ends the trial, as the original shunts what comes after it. The baseline of what
`associative` learns by STDP.

Shapes: w (i, j), u (b, t, j), labels (b, i), b trials of t steps, i neurons of j inputs.
"""

import torch
from torch import Tensor


@torch.no_grad()
def fires(w: Tensor, u: Tensor, *, threshold: float = 1.0) -> Tensor:
    """Return which trials make the neurons fire, (b, i): the largest potential reaches the threshold."""
    return (u @ w.T).amax(1) >= threshold


@torch.no_grad()
def change(w: Tensor, u: Tensor, labels: Tensor, *, threshold: float = 1.0) -> Tensor:
    """Return the change (i, j) that all wrong trials make together, for a learning rate of 1; labels True: fire.

    The negative gradient of the sum of |u(t_max) - threshold| over wrong trials.
    """
    largest, when = (u @ w.T).max(1)
    error = labels.to(u.dtype) - (largest >= threshold).to(u.dtype)
    trials = torch.arange(len(u), device=u.device).unsqueeze(-1)
    return torch.einsum("bi,bij->ij", error, u[trials, when])
