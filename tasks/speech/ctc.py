"""Connectionist temporal classification (Graves et al. 2006) for a learner that may not wait for the utterance's end.

    loss = -log sum over alignments of prod_t p_t(symbol_t)         d loss / d logit_t(k) = p_t(k) - gamma_t(k)

gamma_t(k) is the posterior of symbol k at frame t under all alignments that spell the transcription. With gamma known
and held, the frames may be streamed in chunks of any length:

    -sum_t sum_k gamma_t(k) log p_t(k)                               has the gradient of CTC while the weights are held

Shapes: f frames, k symbols, 0 the blank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def posteriors(log_p: Tensor, target: Sequence[int]) -> Tensor:
    """Return gamma (f, k) of log probabilities (f, k) and the symbols spelled; 0 where no alignment fits f frames.

    torch gives d loss / d logits = p - gamma, whatever logits the log probabilities were made from.
    """
    log_p = log_p.detach().double().requires_grad_()
    loss = F.ctc_loss(
        log_p[:, None],
        torch.tensor([list(target)]),
        torch.tensor([len(log_p)]),
        torch.tensor([len(target)]),
        reduction="sum",
        zero_infinity=True,
    )
    if not float(loss.detach()):  # what does not fit in the frames, which torch calls 0
        return torch.zeros_like(log_p)
    (gradient,) = torch.autograd.grad(loss, log_p)
    return (log_p.detach().exp() - gradient).clamp(min=0)


def greedy(predicted: Sequence[int], before: int = 0) -> list[int]:
    """Return the symbols that frames of likeliest symbols spell: repeats are one, blanks none.

    before: the frame before the first, so that a stream may be decoded piece by piece.
    """
    spelled = []
    for symbol in predicted:
        if symbol not in (before, 0):
            spelled.append(symbol)
        before = symbol
    return spelled
