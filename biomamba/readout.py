"""A readout learned by recursive least squares (Plackett 1950; on a reservoir, Jaeger 2003): no gradient is taken.

    P_t = (f P_{t-1}^-1 + Phi_t^T Phi_t)^-1              W_t = W_{t-1} + (Y_t - Phi_t W_{t-1}^T)^T Phi_t P_t

after n labelled steps, whatever their chunks, W is the regularised least-squares solution,

    argmin_W  sum_s f^(n-s) |Y_s - Phi_s W^T|^2  +  ridge f^n |W - W_0|^2

where Phi (streams, d) is what the head sees at a step, Y its targets: values, or classes as 1 among 0s. All else in the
model stays as it is. Cost d^2 a stream and step; P is (d, d), float64 as it must be: rounding grows along a stream.
Shapes: b streams, t new steps, d model width.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from .model import Model
from .rules.base import LearningRule
from .state import where
from .stream import Chunk, Task
from .update import UpdateInput, UpdateOutput, finite, loss_of


class RLS(Optimizer):
    """Recursive least squares of one matrix, a model's head; `learn` takes the place of `step`.

    Its state is P (d, d), and the weight in float64.
    """

    def __init__(self, params: Iterable[Any], forgetting: float = 1.0, ridge: float = 1.0) -> None:
        """Take the head's weight.

        forgetting: f, the weight of a step beside the labelled one after it; 0.999 forgets within some 1,000 of them.
        ridge: the weight of the distance to where the head began.
        Raises ValueError for another number of parameters, and for numbers out of range.
        """
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting: got {forgetting}, expected a share above 0, at most 1: give 1, or 0.999")
        if not 0 < ridge < float("inf"):
            raise ValueError(f"ridge: got {ridge}, expected a number above 0, finite: give 1")
        super().__init__(params, {"forgetting": forgetting, "ridge": ridge})
        held = [parameter for group in self.param_groups for parameter in group["params"]]
        if len(held) != 1 or held[0].ndim != 2:
            raise ValueError(
                f"params: got {len(held)}, expected one matrix, as the head alone learns by least squares: give "
                "RLS(model.head.parameters())"
            )

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Raise TypeError: least squares take no gradient."""
        raise TypeError("RLS: has no step by a gradient, expected features and targets: call learn(features, targets)")

    @torch.no_grad()
    def learn(self, features: Tensor, targets: Tensor, mask: Tensor) -> bool:
        """Learn the labelled steps of features (b, t, d) and targets (b, t, d_out), mask (b, t), in their order.

        Say whether the weight is finite after it; where not, all is as it was.
        """
        group = self.param_groups[0]
        weight, own = group["params"][0], self.state[group["params"][0]]
        if not own:
            P = torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device) / group["ridge"]
            own |= {"P": P, "weight": weight.detach().double()}
        P, W = own["P"], own["weight"]
        for s in range(features.shape[1]):
            Phi, Y = features[mask[:, s], s].double(), targets[mask[:, s], s].double()
            if len(Phi):
                P = P / group["forgetting"]
                reached = P @ Phi.T
                gain = torch.linalg.solve(torch.eye(len(Phi)).to(P) + Phi @ reached, reached.T)  # (b, d)
                W = W + (Y - Phi @ W.T).T @ gain
                P = P - gain.T @ reached.T
                P = (P + P.T) / 2
        if not bool(finite([W, P])):
            return False
        own |= {"P": P, "weight": W}
        weight.copy_(W)
        return True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, which stays float64 (torch would bring it to the weight's precision)."""
        super().load_state_dict(state_dict)
        weight = self.param_groups[0]["params"][0]
        for saved in state_dict["state"].values():
            self.state[weight] = {name: own.to(weight.device).clone() for name, own in saved.items()}


def check_readout(model: Model, elsewhere: bool) -> None:
    """Raise ValueError where a head cannot learn by least squares; elsewhere: in a graph, or on several ranks."""
    if elsewhere:
        raise ValueError("optimizer: got RLS, which no graph and no other rank knows: leave compile and torchrun out")
    if model.ngrams is not None:
        raise ValueError("optimizer: got RLS with n-gram tables, which learn from gradients: give ngrams=()")
    if model.head.weight is getattr(model.encoder, "weight", None):
        raise ValueError("optimizer: got RLS with a tied head, which is the encoder too: give tied=False")


def update_readout(
    model: Model, task: Task, rule: LearningRule, rls: RLS, inputs: UpdateInput, advance: int, labelled: bool
) -> UpdateOutput:
    """Return the pass of a chunk, the head having learned from it where it is labelled and all is finite.

    As `update.update`, of which the rule's traces move too, though nothing is learned by them.
    """
    chunk, new = inputs.chunk, inputs.chunk.x.shape[1]
    with torch.no_grad():
        parts, _, tapes = model.body(inputs.x, inputs.state, inputs.reset)
        features = parts[-1][:, -new:]
        out = model.head(features)
        loss, spikes = loss_of(task, out, chunk), model.spikes(tapes, new).mean()
        forward_finite = finite([out, loss])
        trace = rule.advance_traces(tapes, inputs.trace, advance, forward_finite)
        state = where(forward_finite, model.state_at(tapes, advance), inputs.state)
        output = UpdateOutput(out, loss, spikes, forward_finite, state, trace)
        if not labelled:
            return output
        targets = _targets(chunk, out)
        missed = (out - targets)[chunk.mask]
        norm = torch.linalg.vector_norm(missed.T @ features[chunk.mask])  # of the squared error's gradient
        learned = bool(forward_finite) and rls.learn(features, targets, chunk.mask)
        return output._replace(norm=norm, gradient_finite=torch.tensor(learned, device=out.device))


def _targets(chunk: Chunk, out: Tensor) -> Tensor:
    """Return what out (b, t, d_out) should have been. Raises ValueError for labels that are no classes or values."""
    y, d_out = chunk.y, out.shape[-1]
    if y.is_floating_point() and y.shape == out.shape:
        return y
    if y.is_floating_point() or y.ndim != 2:
        sizes = tuple(y.shape)
        raise ValueError(f"y: got {sizes}, expected a class or {d_out} values a step, as RLS learns these: give adam")
    if bool((y[chunk.mask] >= d_out).any()):
        raise ValueError(f"y: got class {int(y.max())}, expected 0 to {d_out - 1}: give Model(d_out=...) for more")
    return F.one_hot(y.clamp(0, d_out - 1), d_out).to(out)
