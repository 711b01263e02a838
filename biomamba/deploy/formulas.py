"""Functions whose gradient torch takes apart into many operations, written with few.

Numbers are torch's, up to rounding. Drives ask for sigmoid(x) and silu'(x) too: a runtime that finds equal operations
works out once what is written alike.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..blocks.conv import dsilu

aten = torch.ops.aten
RARE = torch._decomp.get_decompositions(
    [aten.softplus_backward, aten.nll_loss_forward, aten.nll_loss_backward, aten.embedding_dense_backward]
)  # torch's own formulas, for options that ours leave out


class Formulas(TorchFunctionMode):
    """Has functions be those of here while it is entered."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ours where there is one."""
        return OURS.get(func, func)(*args, **(kwargs or {}))


class _RMSNorm(torch.autograd.Function):
    """y = x / r, r = sqrt(mean(x^2) + eps);   dL/dx = (g - y mean(g y)) / r."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        root = ((x * x).mean(-1, keepdim=True) + eps).sqrt()
        y = x / root
        ctx.save_for_backward(y, root)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, root = ctx.saved_tensors
        return (grad - y * (grad * y).mean(-1, keepdim=True)) / root, None


def rms_norm(
    input: Tensor,  # noqa: A002 - torch's name
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Return torch.nn.functional.rms_norm's value."""
    if len(normalized_shape) != 1:
        return torch.rms_norm(input, normalized_shape, weight, eps)
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    y: Tensor = _RMSNorm.apply(input, eps)  # type: ignore[no-untyped-call]
    return y if weight is None else y * weight


def isfinite(x: Tensor) -> Tensor:
    """Return where numbers are finite."""
    return x.abs() < torch.inf


OURS: dict[Any, Callable[..., Any]] = {F.rms_norm: rms_norm, torch.isfinite: isfinite}


def _rare(operation: Any, *given: Any) -> Any:
    return RARE[operation.default](*given)


def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return grad silu'(x)."""
    return grad * dsilu(x)


def softplus_backward(grad: Tensor, x: Tensor, beta: float, threshold: float) -> Tensor:
    """Return grad sigmoid(x), and grad where softplus is the identity."""
    if beta != 1:
        return cast(Tensor, _rare(aten.softplus_backward, grad, x, beta, threshold))
    return grad * torch.where(x > threshold, 1.0, x.sigmoid())


def nll_loss_forward(
    logs: Tensor, y: Tensor, weight: Tensor | None, reduction: int, ignore: int
) -> tuple[Tensor, Tensor]:
    """Return -logs[y], summed up or not, of the labels that are not ignored; and how many these are."""
    if weight is not None or logs.ndim != 2:
        return cast(tuple[Tensor, Tensor], _rare(aten.nll_loss_forward, logs, y, weight, reduction, ignore))
    none = y == ignore
    found = -logs.gather(1, torch.where(none, 0, y).unsqueeze(1)).squeeze(1)
    found, count = torch.where(none, 0.0, found), (~none).sum().to(logs.dtype)
    if reduction == 0:
        return found, logs.new_zeros(())
    return found.sum() / count if reduction == 1 else found.sum(), count


def nll_loss_backward(
    grad: Tensor, logs: Tensor, y: Tensor, weight: Tensor | None, reduction: int, ignore: int, count: Tensor
) -> Tensor:
    """Return -grad at the labels."""
    if weight is not None or logs.ndim != 2:
        return cast(Tensor, _rare(aten.nll_loss_backward, grad, logs, y, weight, reduction, ignore, count))
    at = torch.tensor([*range(logs.shape[1])], device=y.device) == y.unsqueeze(1)
    if 0 <= ignore < logs.shape[1]:
        at = at & (y != ignore).unsqueeze(1)
    grad = grad / count if reduction == 1 else grad
    return torch.where(at, -(grad.unsqueeze(1) if reduction == 0 else grad), 0.0)


def log_softmax_backward(grad: Tensor, logs: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Return the gradient to what log_softmax was taken of."""
    return grad - logs.exp() * grad.sum(dim, keepdim=True)


def embedding_backward(grad: Tensor, tokens: Tensor, rows: int, padding: int, scaled: bool) -> Tensor:
    """Return the gradient of an embedding's rows."""
    if padding != -1 or scaled:
        return cast(Tensor, _rare(aten.embedding_dense_backward, grad, tokens, rows, padding, scaled))
    return grad.new_zeros(rows, grad.shape[-1]).index_put([tokens], grad, accumulate=True)


def split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    """Return the parts."""
    return [x.narrow(dim, at, min(size, x.shape[dim] - at)) for at in range(0, x.shape[dim], size)]


TABLE: dict[Any, Callable[..., Any]] = {
    aten.silu_backward.default: silu_backward,
    aten.softplus_backward.default: softplus_backward,
    aten.nll_loss_forward.default: nll_loss_forward,
    aten.nll_loss_backward.default: nll_loss_backward,
    aten._log_softmax_backward_data.default: log_softmax_backward,
    aten.embedding_dense_backward.default: embedding_backward,
    aten.split.Tensor: split,
}
