"""A residual stack of blocks between an encoder and a head.

    x = encode(input);   x = x + block(norm(x)) for each block;   out = head(norm_f(x))

The pre-norms carry no weight: in_proj absorbs the scale, so nothing inside a residual branch is upstream of
its block's state. The learning signal comes back by the transposed weights, or, with feedback="random", from the output
straight to each part l by a fixed random matrix (direct feedback alignment, Noekland 2016; Lillicrap et al. 2016):

    dL/dy_l = dL/dout F_l,   F_l (d_out, d) with entries N(0, 1 / d_out)

Shapes: b streams, t steps, d model width.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import BLOCKS, Block, Tape
from .blocks.lowrank import adapt
from .checks import Form, check_finite, check_mask, check_sizes, check_tensor, check_tree, dtype_name, form
from .ngram import NGrams, Reading
from .ops.backend import NAMES
from .state import BlockState, Tree
from .stream import Spec

EPS = 1e-5  # of the norms, as in the official models
FEEDBACK = ("symmetric", "random")


class Model(nn.Module):
    """A language model or a real-valued sequence model, read one chunk at a time.

    Either `vocab` (tokens, an embedding) or `d_in` (real values, a linear encoder) must be given. Every
    other keyword goes to the block: d_state, headdim, expand, d_conv, dt_min, dt_max, ...
    """

    random_feedback: (
        Tensor  # (n_layers + 2, d_out, d): of the encoder, the blocks and norm_f; with random feedback only
    )

    def __init__(
        self,
        *,
        vocab: int | None = None,
        d_in: int | None = None,
        d_out: int,
        d_model: int = 64,
        n_layers: int = 1,
        block: str | type[Block] = "mamba2",
        tied: bool = False,
        backend: str = "auto",
        threshold: float | None = None,
        steepness: float = 10.0,
        spike_rate: float | None = None,
        spike_weight: float = 1.0,
        feedback: str = "symmetric",
        timescales: tuple[float, float] | None = None,
        encoder_bias: float = 1.0,
        ngrams: Sequence[int] = (),
        ngram_logits: Sequence[int] = (),
        ngram_bits: int = 15,
        ngram_rates: tuple[float, float] = (5.0, 3.0),
        lora: int | None = None,
        **options: Any,
    ) -> None:
        """Draw initial weights.

        block: mamba2, mamba or diagonal, the name of an installed package's, or a class of your own.
        tied: the head uses the embedding's weights. backend: what does the work, see `ops.backend`.
        threshold: makes the blocks spike, see `ops.spike`; steepness: of their surrogate derivative; spike_rate: the
        share of spikes that `penalty` draws each block to, by spike_weight.
        feedback: symmetric or random, how the learning signal reaches the parts below the head.
        timescales: shortest and longest time constant of the states at first, in steps, log-uniform over the channels
        (delta from 1 / longest to 1 / shortest, A = -1); None: what dt_min, dt_max, A_min and A_max say.
        encoder_bias: of the initial bias of a linear encoder, in units of torch's own. The norm before the first block
        leaves the direction of its output alone; beside a large bias the size of an input is part of that direction.
        ngrams, ngram_logits: lengths of the contexts whose rows are added to the encoder's output and to the logits,
        of tokens only; ngram_bits: of the number of rows of each; ngram_rates: of the two. See `ngram`.
        lora: rank of the additions by which alone in_proj and out_proj learn, see `blocks.lowrank`; None: they learn
        whole.
        Raises ValueError for an unknown block or backend, for both or neither of vocab and d_in, and for a tied head
        that does not fit, and for sizes below 1; TypeError for an option the block does not have, and for sizes that
        are no whole numbers.
        """
        super().__init__()
        given = {name: own for name, own in locals().items() if name not in ("self", "options", "__class__")}
        self.arguments = given | options  # what a saved learner makes it with again
        if (vocab is None) == (d_in is None):
            raise ValueError(f"give either vocab (tokens) or d_in (real values): got vocab={vocab}, d_in={d_in}")
        if backend not in NAMES:
            raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(NAMES)}")
        if feedback not in FEEDBACK:
            raise ValueError(f"feedback: got {feedback!r}, expected one of {', '.join(FEEDBACK)}")
        check_finite(threshold=threshold, steepness=steepness, spike_rate=spike_rate, spike_weight=spike_weight)
        check_finite(encoder_bias=encoder_bias)
        if spike_rate is not None and threshold is None:
            raise ValueError(
                f"spike_rate: got {spike_rate} for blocks that do not spike: give threshold too, such as 1"
            )
        if isinstance(block, str) and block not in BLOCKS:
            raise ValueError(f"block: got {block!r}, expected one of {', '.join(BLOCKS)}, or a class of your own")
        make = BLOCKS[block] if isinstance(block, str) else block
        if tied and vocab != d_out:
            raise ValueError(f"a tied head needs d_out equal to vocab: got d_out={d_out}, vocab={vocab}")
        check_sizes(**({"d_in": d_in} if vocab is None else {"vocab": vocab}))
        check_sizes(d_out=d_out, d_model=d_model, n_layers=n_layers)
        if timescales is not None:
            shortest, longest = timescales
            if not 1 <= shortest <= longest < math.inf:
                raise ValueError(
                    f"timescales: got {shortest} and {longest}, expected steps, 1 <= shortest <= longest: give 10 200"
                )
            if "A_min" not in inspect.signature(make).parameters:
                raise ValueError(
                    f"timescales: got {shortest} {longest}, but the rates of {make.__name__} depend on the input: "
                    "give dt_min and dt_max"
                )
            options |= {"dt_min": 1 / longest, "dt_max": 1 / shortest, "A_min": 1.0, "A_max": 1.0}
        self.encoder = nn.Linear(d_in, d_model) if d_in is not None else nn.Embedding(vocab or 0, d_model)
        self.blocks = nn.ModuleList(make(d_model, **options) for _ in range(n_layers))
        self.norm_f = nn.RMSNorm(d_model, eps=EPS)
        self.head = nn.Linear(d_model, d_out, bias=False)
        if isinstance(self.encoder, nn.Linear):
            self.encoder.bias.data *= encoder_bias
        elif encoder_bias != 1:
            raise ValueError(f"encoder_bias: got {encoder_bias} for tokens, expected a model of real values: give d_in")
        self._initialise(tied)
        for each in self._blocks():
            each.backend, each.steepness = backend, float(steepness)
            each.threshold = None if threshold is None else float(threshold)
        self.feedback, self.spike_rate, self.spike_weight = feedback, spike_rate, spike_weight
        self._form: tuple[torch.dtype, torch.device, Form] | None = None
        self.ngrams = None
        if ngrams or ngram_logits:
            if vocab is None:
                raise ValueError(
                    f"ngrams: got {[*ngrams, *ngram_logits]} for real values (d_in={d_in}), expected tokens: give vocab"
                )
            self.ngrams = NGrams(ngrams, ngram_logits, d_model, d_out, ngram_bits, ngram_rates)
        if lora is not None:
            check_sizes(lora=lora)
            for each in self._blocks():
                adapt(each, lora)
        if feedback == "random":  # drawn last: the weights are those of symmetric feedback
            parts = n_layers + 2  # the encoder, the blocks, norm_f
            self.register_buffer("random_feedback", torch.randn(parts, d_out, d_model) / d_out**0.5)

    def _initialise(self, tied: bool) -> None:
        """Scale out_proj by depth and a tied embedding as the official models do.

        An untied embedding stays N(0, 1): it sees only the current chunk's gradient, and a small one is
        scrambled by an adaptive optimiser before the blocks have learned what to store.
        """
        if tied and isinstance(self.encoder, nn.Embedding):
            nn.init.normal_(self.encoder.weight, std=0.02)
            self.head.weight = self.encoder.weight
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("out_proj.weight"):
                parameter.data /= len(self.blocks) ** 0.5

    @property
    def spec(self) -> Spec:
        """What it takes and gives."""
        if isinstance(self.encoder, nn.Embedding):
            return Spec(self.head.out_features, vocab=self.encoder.num_embeddings)
        return Spec(self.head.out_features, d_in=self.encoder.in_features)

    def _blocks(self) -> list[Block]:
        """Return the blocks under their own type, which ModuleList hides."""
        return cast(list[Block], list(self.blocks))

    def init_state(self, batch: int) -> list[BlockState]:
        """Return the state of `batch` streams that have seen nothing."""
        return [block.init_state(batch) for block in self._blocks()]

    def forward(
        self,
        x: Tensor,
        state: Sequence[BlockState],
        reset: Tensor | None = None,
        local: bool = False,
        reading: Reading | None = None,
    ) -> tuple[Tensor, list[BlockState], list[Tape]]:
        """Return out (b, t, d_out), the state after the chunk, and one tape per block.

        x is (b, t) tokens or (b, t, d_in) values; reset (b, t) bool marks steps that begin a new sequence
        (None: none does, which is faster). local: for rules that are, see `Block.chunk`. reading: what `read` gives;
        None where streams begin with x, and for models without n-grams.
        Raises ValueError or TypeError where x is not what the encoder reads, and where state or reset are not of its
        streams and steps.
        """
        self.check_input(x)
        self.check_state(state, len(x))
        if reset is not None:
            check_mask("reset", reset, *x.shape[:2])
        if reading is None and self.ngrams is not None:
            reading = self.read(x, None, reset)
        parts, after, tapes = self.body(x, state, reset, local, reading)
        out = self._fed_back(self.head(self._held(parts[-1])), parts)
        return out if reading is None else out + reading.logits, after, tapes

    def body(
        self,
        x: Tensor,
        state: Sequence[BlockState],
        reset: Tensor | None = None,
        local: bool = False,
        reading: Reading | None = None,
    ) -> tuple[list[Tensor], list[BlockState], list[Tape]]:
        """Return what all parts below the head give (b, t, d), the last of which it sees, and states and tapes.

        Arguments as in `forward`, which checks them.
        """
        x = self._encoded(x)
        if reading is not None:
            x = x + reading.embedding
        parts, after, tapes = [x], [], []
        for block, before in zip(self._blocks(), state, strict=True):
            x = self._held(x)
            y, block_state, tape = block.chunk(F.rms_norm(x, x.shape[-1:], eps=EPS), before, reset, local)
            x = x + y
            parts.append(y)
            after.append(block_state)
            tapes.append(tape)
        parts.append(self.norm_f(self._held(x)))
        return parts, after, tapes

    def read(self, x: Tensor, context: Tensor | None = None, reset: Tensor | None = None) -> Reading | None:
        """Return what the n-gram tables say of x (b, t) after a context (b, K-1); None without tables."""
        return None if self.ngrams is None else self.ngrams.read(x, context, reset, self._blocks()[0].backend)

    def check_context(self, context: Tensor | None, streams: int) -> None:
        """Raise ValueError unless a context is what `read` takes for so many streams."""
        wanted = None if self.ngrams is None else (streams, self.ngrams.longest - 1)
        if context is not None and tuple(context.shape) != wanted:
            raise ValueError(
                f"context: got {tuple(context.shape)}, expected {wanted}: give reading.context_at(...), or None"
            )

    def learn_rows(self, reading: Reading, embedding: Tensor, logits: Tensor) -> None:
        """Have the n-gram tables learn from the gradients to what was read, summed over steps: see `NGrams.learn`."""
        if self.ngrams is not None:
            self.ngrams.learn(reading, embedding, logits, self._blocks()[0].backend)

    def check_input(self, x: Any) -> None:
        """Raise ValueError or TypeError unless x is (b, t) tokens, or (b, t, d_in) values in the weights' precision."""
        check_tensor("x", x)
        of_tokens = isinstance(self.encoder, nn.Embedding)
        if of_tokens and x.dtype not in (torch.int64, torch.int32):
            raise TypeError(
                f"x: got {dtype_name(x.dtype)}, expected tokens, int64: give x.long(), or Model(d_in=...) for values"
            )
        if not of_tokens and not x.is_floating_point():
            raise TypeError(
                f"x: got {dtype_name(x.dtype)}, expected real values: give x.float(), or Model(vocab=...) for tokens"
            )
        if not of_tokens and x.dtype != self.encoder.weight.dtype:
            dtype = dtype_name(self.encoder.weight.dtype)
            raise TypeError(f"x: got {dtype_name(x.dtype)}, expected {dtype} as the weights: give x.to(torch.{dtype})")
        axes, given = (
            "(streams, steps)" if of_tokens else f"(streams, steps, {self.encoder.in_features})",
            tuple(x.shape),
        )
        if x.ndim != (2 if of_tokens else 3) or not (of_tokens or x.shape[-1] == self.encoder.in_features):
            raise ValueError(f"x: got {given}, expected {axes}: give x.view(...), or a model of other inputs")
        if not x.numel():
            raise ValueError(
                f"x: got {given}, expected {axes}, at least one of each: give a chunk that holds something"
            )

    def check_state(self, state: Tree, streams: int) -> None:
        """Raise ValueError or TypeError unless a state is of the form that `init_state(streams)` gives."""
        like = self.head.weight
        if self._form is None or self._form[:2] != (like.dtype, like.device):  # the first time, or moved since
            self._form = like.dtype, like.device, form(self.init_state(1))
        check_tree("state", state, self._form[2], len(self.blocks), streams, "model.init_state({})")

    def _encoded(self, x: Tensor) -> Tensor:
        """Return what the encoder makes of x."""
        try:
            return cast(Tensor, self.encoder(x))
        except IndexError as error:  # an embedding's own check, which costs nothing where all is well
            self.check_tokens(x)
            raise error

    def check_tokens(self, x: Tensor) -> None:
        """Raise ValueError where a token is outside the vocabulary."""
        if isinstance(self.encoder, nn.Embedding) and x.numel():
            low, high = (x.item(),) * 2 if x.numel() == 1 else (bound.item() for bound in torch.aminmax(x))
            if low < 0 or high >= self.encoder.num_embeddings:
                raise ValueError(
                    f"x: tokens from {low} to {high}, expected 0 to {self.encoder.num_embeddings - 1}: "
                    f"give Model(vocab={high + 1}), or other tokens"
                )

    def _held(self, x: Tensor) -> Tensor:
        """Return x, under random feedback with no way back for the gradient."""
        return x.detach() if self.feedback == "random" else x

    def _fed_back(self, out: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Return out (b, t, d_out), which under random feedback depends on each part (b, t, d) by its own matrix.

        The value is the same: what is added is 0, and has the derivative F_l to part l.
        """
        if self.feedback != "random":
            return out
        for y, F_l in zip(parts, self.random_feedback, strict=True):
            out = out + (y - y.detach()) @ F_l.T
        return out

    def check_graphs(self, what: str) -> None:
        """Raise ValueError where torch makes no graph of a block, which `what` needs."""
        for block in self._blocks():
            if not block.graphs:
                raise ValueError(
                    f"{what}: {type(block).__name__} has complex states, of which torch makes no graph: do without, or "
                    "give another block"
                )

    def spikes(self, tapes: Sequence[Tape], new: int) -> Tensor:
        """Return the share of ones that each out_proj received in the last `new` steps (l,), on the graph.

        nan where the blocks do not spike.
        """
        if self._blocks()[0].threshold is None:
            return tapes[0].h.new_full((len(tapes),), torch.nan)
        each = zip(self._blocks(), tapes, strict=True)
        return torch.stack([block.activate(tape.pre_activation[:, -new:]).mean() for block, tape in each])

    def penalty(self, spikes: Tensor) -> Tensor | None:
        """Return spike_weight sum_l (share_l - spike_rate)^2 of shares as `spikes` gives them; None without a rate."""
        if self.spike_rate is None:
            return None
        return self.spike_weight * (spikes - self.spike_rate).square().sum()

    def state_at(self, tapes: Sequence[Tape], advance: int) -> Tree:
        """Return the state `advance` steps after the tapes' start."""
        return [block.state_at(tape, advance) for block, tape in zip(self._blocks(), tapes, strict=True)]
