"""Hashed n-grams beside the blocks: tables of what a stream has shown to follow its last inputs, learned online.

    r_k = hash(x_{t-k+1} .. x_t)            for each order k
    add_t = sum_k s_{k,v} W_k[r_k]          v: how often the row was learned from, in powers of two

W_k[r_k] is the row that the context owns: of two it takes the first that nobody has; where both are another's, it
shares one. So memory is bounded, and while a table is not full hardly two contexts share a row.

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
from .ops.rows import BUCKETS, learn_, read

OF_ROWS = ("W", "key", "A", "visits")  # what is kept of each row


class Reading(NamedTuple):
    """What the tables say of a chunk, and by which keys they were read."""

    tokens: Tensor  # (b, K-1+t) the inputs plus 1, 0 where there is no context
    embedding_keys: Tensor  # (b, t, o) of contexts, by which the tables before the blocks find their rows
    logit_keys: Tensor  # (b, t, o) of those behind
    embedding: Tensor  # (b, t, d) added to the encoder's output
    logits: Tensor  # (b, t, d_out) added to the head's

    def leaves(self) -> "Reading":
        """Return the same, what was read as leaves that want a gradient."""
        embedding, logits = (own.detach().requires_grad_() for own in (self.embedding, self.logits))
        return self._replace(embedding=embedding, logits=logits)

    def of(self, rows: slice) -> "Reading":
        """Return what is said of some streams alone."""
        return Reading(*(own[rows] for own in self))

    def last(self, steps: int) -> "Reading":
        """Return what is said of the last steps alone."""
        before = self.tokens.shape[1] - self.embedding_keys.shape[1]
        return Reading(self.tokens[:, -before - steps :], *(own[:, -steps:] for own in self[1:]))

    def context_at(self, reset: Tensor | None, steps: int) -> Tensor:
        """Return the context (b, K-1) of what follows the first `steps` steps."""
        longest = self.tokens.shape[1] - self.embedding_keys.shape[1] + 1
        context = self.tokens[:, steps : steps + longest - 1]
        if reset is not None and steps:
            mask = tap_mask(reset[:, :steps], longest)
            assert mask is not None
            context = context * mask[:, -1, 1:]
        return context


class Tables(nn.Module):
    """A table for each order: rows of c numbers, how often each was learned from, and the orders' scales.

    Rows are kept in float16, whatever the model's precision, and computed with in float32 or float64.
    """

    W: Tensor  # (o rows, c)
    key: Tensor  # (o rows,) int64, of the context that owns the row
    A: Tensor  # (o rows,)
    visits: Tensor  # (o rows,)
    scale: Tensor  # (o, BUCKETS)
    lengths: Tensor  # (o,) int64, of the contexts
    rates: Tensor  # (3,) of rows, their floor, of scales

    def __init__(
        self, orders: Sequence[int], width: int, rows: int, rate: float, floor: float, scale_rate: float
    ) -> None:
        """Begin with rows of zeros, which take no memory before they are learned.

        orders: lengths of the contexts, this input included. rows: of each table, a power of two. rate: of Adagrad;
        floor: what is added to the accumulator; scale_rate: of the scales.
        """
        super().__init__()
        self.orders = tuple(sorted(orders))
        many = len(self.orders) * rows
        self.W = torch.zeros(many, width, dtype=torch.float16)
        own = {
            "key": torch.zeros(many, dtype=torch.int64),
            "A": torch.zeros(many),
            "visits": torch.zeros(many),
            "scale": torch.ones(len(self.orders), BUCKETS),
            "lengths": torch.tensor(self.orders, dtype=torch.int64),
            "rates": torch.tensor([rate, floor, scale_rate]),
        }
        for name, tensor in own.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def nbytes(self) -> int:
        """The bytes that the tables take once every row was learned."""
        return sum(own.nbytes for own in (self.W, self.key, self.A, self.visits))

    def read(self, tokens: Tensor, reset: Tensor | None, steps: int, backend: str) -> tuple[Tensor, Tensor]:
        """Return the keys of the last `steps` of tokens (b, K-1+t), and the scaled sum (b, t, c) of their rows."""
        if not self.orders:
            return tokens.new_empty(len(tokens), steps, 0), self.A.new_zeros(len(tokens), steps, self.W.shape[1])
        return read(self.W, self.key, self.visits, self.scale, tokens, reset, self.lengths, steps, backend)

    def learn(self, keys: Tensor, g: Tensor, backend: str) -> None:
        """Learn from the errors g (b, t, c) of the steps that read by the keys (b, t, o)."""
        if self.orders:
            learn_(self.W, self.key, self.A, self.visits, self.scale, keys, g, self.rates, backend)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "Tables":
        """Move the tables where the model goes; rows stay in their own precision."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        self.W = self.W.to(self.A.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put the rows that were learned, and where they lie."""
        (met,) = torch.nonzero(self.visits, as_tuple=True)
        learned = {"row": met, "scale": self.scale} | {name: getattr(self, name)[met] for name in OF_ROWS}
        destination.update({prefix + name: tensor for name, tensor in learned.items()})

    def _load_from_state_dict(self, state: Mapping[str, Tensor], prefix: str, *given: Any) -> None:
        """Take learned rows; all others are zero."""
        met = state[f"{prefix}row"].to(self.W.device)
        for name in OF_ROWS:
            own = getattr(self, name)
            setattr(self, name, torch.zeros_like(own).index_copy_(0, met, state[prefix + name].to(own)))
        self.scale = state[f"{prefix}scale"].to(self.scale)


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
            before, embedding = self.before.read(tokens, reset, x.shape[1], backend)
            behind, logits = self.behind.read(tokens, reset, x.shape[1], backend)
            return Reading(tokens, before, behind, embedding, logits)

    def learn(self, reading: Reading, embedding: Tensor, logits: Tensor, backend: str) -> None:
        """Learn from gradients to what was read: the embedding (b, w, d), the last steps' logits (b, t, d_out)."""
        self.before.learn(reading.embedding_keys, embedding, backend)
        self.behind.learn(reading.logit_keys[:, -logits.shape[1] :], logits, backend)
