"""Hashed n-grams beside the blocks: tables of what a stream has shown to follow its last inputs, learned online.

    r_k = hash(x_{t-k+1} .. x_t)            for each order k
    add_t = sum_k s_{k,v} W_k[r_k]          v: how often the row was learned from, in powers of two

One set of tables gives rows that are added to the encoder's output, another rows that are added to the logits. Rows
and scales s learn from the error g_t = dL/dadd_t alone, by Adagrad with one accumulator a row:

    A_k[r] += |g|^2,   W_k[r] -= rate g / sqrt(A_k[r] + floor) / sqrt(1 + orders met before),   s_{k,v} -= g . W_k[r]

The gradient of rows of logits is exact without a trace: no state lies between a row and the loss of its step. Rows
added to the encoder's output lie before the blocks, so they get the share of the chunk or the window, as every encoder
does. Inputs of an earlier sequence are no context. Source: mixing of contexts, Mahoney 2005 (PAQ8); Adagrad, Duchi et
al. 2011.
Shapes: b streams, t steps, o orders, K the longest order, c numbers of a row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .ops.conv import tap_mask
from .ops.rows import contract, gather, scatter_

BUCKETS = 10  # of visits: none, 1, 2 to 3, 4 to 7, ..., 256 and more
PRIME, MIX = 1099511628211, -4658895280553007687  # of FNV-1a, and of splitmix64's finaliser


class Reading(NamedTuple):
    """What the tables say of a chunk, and where they were read."""

    tokens: Tensor  # (b, K-1+t) the inputs plus 1, 0 where there is no context
    embedding_rows: Tensor  # (b, t, o) of the tables before the blocks
    logit_rows: Tensor  # (b, t, o) of those behind
    embedding: Tensor  # (b, t, d) added to the encoder's output
    logits: Tensor  # (b, t, d_out) added to the head's

    def leaves(self) -> "Reading":
        """Return the same, what was read as leaves that want a gradient."""
        embedding, logits = (own.detach().requires_grad_() for own in (self.embedding, self.logits))
        return self._replace(embedding=embedding, logits=logits)

    def last(self) -> "Reading":
        """Return what is said of the last step alone."""
        longest = self.tokens.shape[1] - self.embedding_rows.shape[1] + 1
        return Reading(self.tokens[:, -longest:], *(own[:, -1:] for own in self[1:]))

    def context_at(self, reset: Tensor | None, steps: int) -> Tensor:
        """Return the context (b, K-1) of what follows the first `steps` steps."""
        longest = self.tokens.shape[1] - self.embedding_rows.shape[1] + 1
        context = self.tokens[:, steps : steps + longest - 1]
        if reset is not None and steps:
            mask = tap_mask(reset[:, :steps], longest)
            assert mask is not None
            context = context * mask[:, -1, 1:]
        return context


class Tables(nn.Module):
    """A table for each order: rows of c numbers, how often each was learned from, and the orders' scales.

    Rows are kept in bfloat16, whatever the model's precision, and computed with in float32 or float64.
    """

    W: Tensor  # (o rows, c)
    A: Tensor  # (o rows,)
    visits: Tensor  # (o rows,)
    scale: Tensor  # (o, BUCKETS)

    def __init__(
        self, orders: Sequence[int], width: int, rows: int, rate: float, floor: float, scale_rate: float
    ) -> None:
        """Begin with rows of zeros, which take no memory before they are learned.

        orders: lengths of the contexts, this input included. rows: of each table, a power of two. rate: of Adagrad;
        floor: what is added to the accumulator; scale_rate: of the scales.
        """
        super().__init__()
        self.orders, self.rows = tuple(sorted(orders)), rows
        self.rate, self.floor, self.scale_rate = rate, floor, scale_rate
        many = len(self.orders) * rows
        self.W = torch.zeros(many, width, dtype=torch.bfloat16)
        for name, sizes in {"A": (many,), "visits": (many,), "scale": (len(self.orders), BUCKETS)}.items():
            self.register_buffer(name, torch.zeros(sizes), persistent=False)
        self.scale.fill_(1)

    @property
    def nbytes(self) -> int:
        """The bytes that the tables take once every row was learned."""
        return self.W.nbytes + self.A.nbytes + self.visits.nbytes

    def read(self, rows: Tensor, backend: str) -> Tensor:
        """Return the scaled sum of the rows (b, t, o) of each step (b, t, c)."""
        return gather(self.W, rows, self._scales(rows), backend)

    @torch.no_grad()
    def learn(self, rows: Tensor, g: Tensor, backend: str) -> None:
        """Learn from the errors g (b, t, c) of the steps that read the rows (b, t, o)."""
        rows, g = rows.contiguous(), g.contiguous()
        flat, visits = rows.flatten(), self.visits[rows]
        met = visits > 0
        if self.scale_rate:
            slopes = contract(self.W, rows, g, backend) * met  # of the rows as they were read
            self.scale.view(-1).index_add_(0, self._cells(visits).flatten(), slopes.flatten(), alpha=-self.scale_rate)
            self.scale.clamp_(min=0.05)
        pace = self.rate / (1 + met.sum(-1, keepdim=True)).sqrt()
        self.A.index_add_(0, flat, (g * g).sum(-1, keepdim=True).expand(rows.shape).flatten())
        scatter_(self.W, rows, pace * (self.A[rows] + self.floor).rsqrt(), g, backend)
        self.visits.index_add_(0, flat, torch.ones_like(flat, dtype=self.visits.dtype))

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "Tables":
        """Move the tables where the model goes; rows stay in their own precision."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        self.W = self.W.to(self.A.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put the rows that were learned, and where they lie."""
        (met,) = torch.nonzero(self.visits, as_tuple=True)
        learned = {"row": met, "W": self.W[met], "A": self.A[met], "visits": self.visits[met], "scale": self.scale}
        destination.update({prefix + name: tensor for name, tensor in learned.items()})

    def _load_from_state_dict(self, state: Mapping[str, Tensor], prefix: str, *given: Any) -> None:
        """Take learned rows; all others are zero."""
        met = state[f"{prefix}row"].to(self.W.device)
        for name in ("W", "A", "visits"):
            own = getattr(self, name)
            setattr(self, name, torch.zeros_like(own).index_copy_(0, met, state[prefix + name].to(own)))
        self.scale = state[f"{prefix}scale"].to(self.scale)

    def _scales(self, rows: Tensor) -> Tensor:
        """Return the scale of each row (b, t, o)."""
        return self.scale.view(-1)[self._cells(self.visits[rows])]

    def _cells(self, visits: Tensor) -> Tensor:
        """Return where the scales of rows with so many visits (b, t, o) lie."""
        bucket = torch.frexp(visits).exponent.clamp(max=BUCKETS - 1)  # 0 of 0, 1 of 1, 2 of 2 and 3, ...
        return bucket + BUCKETS * torch.arange(len(self.orders), device=visits.device)


class NGrams(nn.Module):
    """The tables of a model of tokens: those before its blocks, and those behind."""

    def __init__(
        self,
        before: Sequence[int],
        behind: Sequence[int],
        d_model: int,
        d_out: int,
        bits: int,
        rates: tuple[float, float],
    ) -> None:
        """Begin with tables of 2^bits rows for each order.

        before: orders of the rows that are added to the encoder's output (d_model). behind: of those that are added to
        the logits (d_out). rates: of the two.
        """
        super().__init__()
        for name, orders in (("ngrams", before), ("ngram_logits", behind)):
            if any(order < 1 for order in orders) or len(set(orders)) < len(orders):
                raise ValueError(
                    f"{name}: got {list(orders)}, expected different lengths of 1 and more, such as [2, 3, 4]"
                )
        self.longest = max(*before, *behind, 1)
        self.before = Tables(before, d_model, 1 << bits, rates[0], 1e-10, 0.0)
        self.behind = Tables(behind, d_out, 1 << bits, rates[1], 1.0, 0.005)

    @property
    def nbytes(self) -> int:
        """The bytes that all tables take once every row was learned."""
        return self.before.nbytes + self.behind.nbytes

    def read(self, x: Tensor, context: Tensor | None, reset: Tensor | None, backend: str) -> Reading:
        """Return what the tables say of inputs x (b, t), with those before them as `Reading.context_at` gives them.

        context (b, K-1): None where streams begin with x.
        """
        tokens = x.long() + 1
        context = tokens.new_zeros(len(x), self.longest - 1) if context is None else context
        tokens = torch.cat([context, tokens], dim=1)
        with torch.no_grad():
            before, behind = (
                hashed(tokens, reset, own.orders, self.longest, own.rows) for own in (self.before, self.behind)
            )
            embedding, logits = self.before.read(before, backend), self.behind.read(behind, backend)
            return Reading(tokens, before, behind, embedding, logits)

    def learn(self, reading: Reading, embedding: Tensor, logits: Tensor, backend: str) -> None:
        """Learn from gradients to what was read: the embedding (b, w, d), the last steps' logits (b, t, d_out)."""
        if self.before.orders:
            self.before.learn(reading.embedding_rows, embedding, backend)
        if self.behind.orders:
            self.behind.learn(reading.logit_rows[:, -logits.shape[1] :], logits, backend)


def hashed(tokens: Tensor, reset: Tensor | None, orders: Sequence[int], longest: int, rows: int) -> Tensor:
    """Return the row of each order at each step (b, t, o), in a table of all orders' rows.

    tokens (b, K-1+t), reset (b, t). Whole numbers of 64 bits, which wrap: the same on every machine.
    """
    seen = tokens.unfold(1, longest, 1)  # (b, t, K), this step last
    mask = tap_mask(reset, longest)
    if mask is not None:
        seen = seen * mask
    h, kept = torch.zeros_like(seen[..., 0]), list[Tensor]()
    for k in range(1, longest + 1):
        h = (h + seen[..., longest - k]) * PRIME
        if k in orders:
            kept.append(h)
    if not kept:
        return tokens.new_zeros(*h.shape, 0)
    whole = torch.stack(kept, -1)
    whole = (whole ^ ((whole >> 29) & (2**35 - 1))) * MIX
    whole = (whole ^ ((whole >> 32) & (2**32 - 1))) & (rows - 1)
    return whole + rows * torch.arange(len(kept), device=tokens.device)


def hashed_naive(tokens: Sequence[int], rows: int) -> int:
    """Return the row of a context within its order's table, the last input first: the definition."""
    h = 0
    for token in tokens:
        h = (h + token + 1) * PRIME % 2**64
    h = (h ^ h >> 29) * (MIX % 2**64) % 2**64
    return (h ^ h >> 32) % rows
