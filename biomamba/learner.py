"""The learner: a model, what teaches it, and where it is in its streams.

    report = learner.update(chunk)          predicts, then learns; report.out was made before anything was learned
    prediction = learner.predict(x)         the same in two halves, one step at a time: the answer may come
    learner.learn(prediction.id, y)         at once, later, in any order, or never

Shapes: b streams, t new steps per update; with a window of w steps, w >= t, the model reads up to w steps.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import sampling, saved
from . import threads as threading
from .fused import Fused
from .loop_state import LoopState
from .rows import Prediction
from .saved import Snapshot
from .state import copy
from .stream import Chunk
from .update import finite, pass_over
from .updater import Report, Updater, append, release

__all__ = ["Learned", "Learner", "Report"]
PIECE = 32  # steps that nobody answered in time are passed over together


@dataclass(frozen=True)
class Learned:
    """Whether an answer was learned from; as a truth value, just that."""

    learned: bool
    reason: str = ""  # why not
    loss: float | None = None  # of the step under the weights that learned from it

    def __bool__(self) -> bool:
        """Say whether it was learned from."""
        return self.learned


class Learner(Updater):
    """A task, a model, the rule and the optimiser that teach it, and the state that goes from update to update.

    **Answers that come late.** `predict` moves the live state at once. State and trace stand before the oldest step
    that may still be answered, and the inputs from there on are held. An answer to step s gives the gradient of the
    loss of step s alone, through all steps from there to s and, by the trace, through everything before:

        dL_s/dtheta  =  dL_s/dtheta |_(h held)  +  dL_s/dh . Z        under today's weights, at the oldest open step

    With weights held, answers in any order sum to the gradient of `online()`, for every parameter that the rule holds
    exact (docs/exact.md); what it drops between chunks, such as the encoder's share of the past, is kept back to the
    oldest open step, or over the window where that is longer. With learning on, answers that always come n steps late,
    with `horizon` n + 1, leave the weights of a learner that runs n steps behind its stream. A step that was answered,
    or is `horizon` steps old, is closed: once no older one is open, state and trace move over it, and its input is let
    go. What predictions are made from, the live state, is replayed under today's weights after each answer.
    """

    def predict(self, x: Any, id: Hashable = None, reset: bool = False) -> Prediction:  # noqa: A002 - the issue of a ticket
        """Predict one step of one stream, and move the live state on.

        x: a dict by name of input, an array or a tensor of d_in numbers, or a token; see `rows` for what is missing.
        Of several steps at once, (t, d_in) or t tokens, prediction and ticket are the last one's.
        id: the ticket that an answer will be given with, text or a whole number (default: the number of the step).
        reset: a new sequence begins here. A learner of several streams begins a new one, which it has from then on.
        Raises ValueError for an id that is open, ValueError or TypeError for what is no row; nothing has changed then.
        """
        state = self._one_stream()
        if id is not None and not isinstance(id, str | int):
            raise TypeError(f"id: got {type(id).__name__}, expected text or a whole number: give str(id)")
        if id in state.waiting:
            raise ValueError(f"id: got {id!r}, which waits for its answer already: give another")
        row = self.rows.encode(x)
        step = state.base + state.x.shape[1] + row.shape[1] - 1
        ticket = id
        if id is None:
            ticket = next(number for number in count(step) if number not in state.waiting)
        out, held, resets, live = self._read(state, row, reset)
        state.x, state.reset, state.live = held, resets, live
        state.waiting[ticket] = step
        state.steps += row.shape[1]
        self._close(state)
        return Prediction(ticket, *self.rows.decode(out), out)

    def learn(self, id: Hashable, y: Any) -> Learned:  # noqa: A002 - as in predict
        """Learn the answer to a step that was predicted; say whether that was possible, and if not, why.

        id: the ticket, or the prediction itself. y: a class, or values in the units of the data.
        An answer that comes too late, a second one, and one to a step that never was, change nothing. An answer whose
        outputs or gradient are not finite changes no weight.
        Raises ValueError or TypeError for what is no answer; nothing has changed then. FloatingPointError as `update`.
        """
        ticket = id.id if isinstance(id, Prediction) else id
        state = self.state
        if state is None or not isinstance(ticket, Hashable) or ticket not in state.waiting:
            reason = f"it was answered, is more than {self.horizon} steps old, or was not predicted"
            return Learned(False, f"no open step {ticket!r}: {reason}")
        y = self._like(self.rows.target(y))
        if self.frozen:
            del state.waiting[ticket]
            self._close(state)
            return Learned(False, "frozen: learning is off until unfreeze()")
        self._close(state, least=1)  # under the weights that it was closed under
        at = state.waiting[ticket] - state.base
        none = torch.zeros_like(state.reset[:, at : at + 1])
        chunk = Chunk(state.x[:, at : at + 1], y, ~none, state.reset[:, at : at + 1])
        others = (other for name, other in state.waiting.items() if name != ticket)
        advance = min(at + 1, self._closed(state, next(others, None)))
        usual = self._length == 1 and at + 1 == (self.window or 1)
        output, learned = self._pass(state, state.x[:, : at + 1], state.reset[:, : at + 1], chunk, advance, usual)
        if not bool(output.forward_finite):
            return Learned(False, "not finite: outputs, loss or learning signals; nothing has changed")
        del state.waiting[ticket]
        release(state, state.x, state.reset, advance)
        reason = "" if learned else "not finite: the gradient or the weights after it; the weights are as they were"
        return Learned(learned, reason, float(output.loss))

    def predict_one(self, x: Any) -> Any:
        """Return what `predict` would say of a row, and change nothing (river's protocol)."""
        return self._peek(x)[0]

    def predict_proba_one(self, x: Any) -> dict[Hashable, float]:
        """Return the probabilities that `predict` would give the classes, and change nothing (river's protocol)."""
        return self._peek(x)[1]

    def learn_one(self, x: Any, y: Any) -> None:
        """Read a row and learn its answer at once (river's protocol)."""
        self.learn(self.predict(x).id, y)

    def sample(
        self, prompt: Sequence[int], count: int, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[int]:
        """Return an iterator of `count` tokens that go on from a prompt; it reads the prompt, then what it says.

        Unless frozen, it learns from both, a token at a time. temperature: 0 says the likeliest token. top_p: draws
        from the likeliest tokens that hold this share. See `sampling`.
        Raises ValueError for an empty prompt, a model of real values, and numbers out of range.
        """
        sampling.check(temperature, top_p)
        if self.rows.vocab is None or not len(prompt):
            wanted = "a model of tokens" if len(prompt) else "a prompt of at least one token"
            raise ValueError(
                f"prompt: got {len(prompt)} tokens for a model of {self.rows.vocab} tokens, expected {wanted}"
            )
        generator = torch.Generator().manual_seed(seed)
        return self._say(list(prompt), count, temperature, top_p, generator)

    def _say(
        self, prompt: list[int], count: int, temperature: float, top_p: float, generator: torch.Generator
    ) -> Iterator[int]:
        """Read the prompt, and yield what is drawn after it."""
        token = prompt[0]
        for given in [*prompt[1:], *[None] * count]:
            said = self.predict(token)
            token = sampling.draw(said.out, temperature, top_p, generator) if given is None else given
            self.learn(said.id, token)
            if given is None:
                yield token

    def settle(self) -> None:
        """Give up the answers to all open steps: state and trace move behind them, as if none had ever come."""
        if self.state is not None and self.state.waiting:
            self.state.waiting.clear()
            self._close(self.state, least=1)

    def freeze(self) -> None:
        """Stop learning: weights and optimiser stay as they are; state and trace go on."""
        self.frozen = True

    def unfreeze(self) -> None:
        """Go on learning."""
        self.frozen = False

    def snapshot(self) -> Snapshot:
        """Return all that `rollback` needs to bring the learner back here."""
        return saved.snapshot(self)

    def rollback(self, snapshot: Snapshot) -> None:
        """Bring weights, optimiser, state, trace, units and open steps back to a snapshot, to the bit."""
        saved.rollback(self, snapshot)

    def save(self, folder: str | Path) -> None:
        """Write all of the learner into a folder, from which `biomamba.load` goes on to the bit.

        It is one file, learner.safetensors, which takes the place of an older one only when it is whole on the disk.
        Raises ValueError or TypeError for parts that are no plain values: a block or an optimiser of one's own without
        a name, classes that are neither text nor numbers.
        """
        saved.write(self, Path(folder))

    def _one_stream(self) -> LoopState:
        """Return the state of the one stream that is predicted step by step, begun where there is none."""
        if self.state is None or len(self.state.x) != 1:
            none = torch.zeros(1, 1, dtype=torch.bool, device=self.model.head.weight.device)
            x = self._like(torch.zeros(1, 1, *(() if self.rows.vocab else (self.rows.d_in,))))
            x = x.long() if self.rows.vocab else x
            self.state, self._length = LoopState.begin(Chunk(x, x, none, none), self.task, self.model, self.rule), 0
        if not self._length:
            self._length, self._count = 1, threading.resolve(self.threads, self.state.nbytes(self.window or 1))
        return self.state

    def _read(self, state: LoopState, row: Tensor, reset: bool = False) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Return out (d_out,) of a row, the inputs and resets held with it, and the live state behind it.

        Raises FloatingPointError where that is not finite.
        """
        x, begins = self._like(row), torch.zeros(1, row.shape[1], dtype=torch.bool, device=state.reset.device)
        begins[:, 0] = reset
        held, resets = append(state.x, x), append(state.reset, begins)
        given, before = resets if bool(resets.any()) else None, state.model_state
        reading = self.model.read(held, state.context, given)
        if state.live is None:
            x = held
        else:
            given, before = begins if reset else None, state.live
            reading = reading and reading.last(row.shape[1])
        with threading.using(self._count), torch.no_grad():
            out, after = self._output(x, before, given, reading)
        if not bool(finite([out])):
            raise FloatingPointError("the prediction is not finite: the weights have grown too large: roll back")
        return out[0, -1], held, resets, copy(after)

    def _peek(self, x: Any) -> tuple[Any, dict[Hashable, float]]:
        """Return what would be said of a row."""
        return self.rows.decode(self._read(self._one_stream(), self.rows.encode(x, keep=False))[0])

    def _close(self, state: LoopState, least: int = PIECE) -> None:
        """Give up the steps that are too old to be answered, and pass over those behind, where there are `least`."""
        oldest = state.base + state.x.shape[1] - self.horizon
        while state.waiting and next(iter(state.waiting.values())) < oldest:
            del state.waiting[next(iter(state.waiting))]
        advance = self._closed(state, next(iter(state.waiting.values()), None))
        if advance >= least:
            x, reset = state.x[:, :advance], state.reset[:, :advance]
            resets = reset if bool(reset.any()) else None
            reading = self.model.read(x, state.context, resets)
            with threading.using(self._count):
                given = x, resets, state.model_state, state.trace, reading
                if isinstance(self._plain, Fused) and self._plain.takes(x):
                    state.model_state = self._plain.pass_over(*given)
                else:
                    state.model_state, state.trace = pass_over(self.model, self.rule, *given)
            state.context = reading and reading.context_at(resets, advance)
            release(state, state.x, state.reset, advance)

    def _closed(self, state: LoopState, first: int | None) -> int:
        """Return how many of the steps held need be held no longer where `first` is the oldest that is open."""
        behind = state.x.shape[1] if first is None else first - state.base
        return max(0, behind - (self.window or 1) + 1)
