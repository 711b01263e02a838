"""Draw from the outputs of a model of tokens: temperature and nucleus (Holtzman et al. 2020).

p_i = softmax(out / temperature)          of these the likeliest, up to a share top_p in all
"""

import torch
from torch import Tensor


def check(temperature: float, top_p: float) -> None:
    """Raise ValueError for a temperature below 0 and a share outside (0, 1]."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature}, expected 0 (the likeliest) or more, such as 0.8")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}, expected a share above 0 and at most 1, such as 0.95")


def shares(out: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return the probabilities (d_out,) that a token is drawn with, of out (d_out,)."""
    if temperature == 0:
        return torch.nn.functional.one_hot(out.argmax(), len(out)).double()
    p = torch.softmax(out.double() / temperature, 0)
    if top_p < 1:
        sorted_p, order = p.sort(descending=True)
        behind = sorted_p.cumsum(0) - sorted_p >= top_p  # the likeliest is always drawn from
        p[order[behind]] = 0
    return p / p.sum()


def draw(out: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Return a token drawn from out (d_out,)."""
    return int(torch.multinomial(shares(out, temperature, top_p).cpu(), 1, generator=generator))
