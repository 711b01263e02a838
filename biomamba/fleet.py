"""Many learners of one architecture at once, each with its own weights: one graph takes a page of them a step.

    fleet.step(ids, x, y)  ->  for each page with a member among ids: the pure update, batched over the page's slots

A member is what a `Learner` of one stream is, but for the rounding of batched products. Only what learns is its own:
weights that want no gradient are shared. Shapes: m members asked, t steps, p slots of a page.
"""

from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .batched import PageInput, Slot, page_step
from .checks import check_mask, check_tensor, counted
from .graphs import check_compiler
from .learner import Learner
from .loop_state import LoopState
from .pages import Pages
from .partial import Train, partial
from .pure import Memory, PureUpdate
from .rows import Rows
from .state import flat, leaves, nbytes
from .stream import Chunk, Meter


class FleetReport(NamedTuple):
    """What one step saw and did, members in the order of the ids given."""

    out: Tensor  # (m, t, d_out) predictions, made before anything was learned
    loss: Tensor  # (m,) nats; 0 where no step is labelled
    norm: Tensor  # (m,) of the gradient before clipping
    finite: Tensor  # (m,) bool: out, loss and learning signals are; where not, the member is as it was
    learned: Tensor  # (m,) bool


@dataclass
class Member:
    """Where a member lies, and what it keeps beside tensors."""

    page: int
    slot: int
    meters: dict[str, Meter]  # as they came: `step` scores nothing
    rows: Rows


class Fleet:
    """Learners of one architecture, each with its own weights, averages, state, trace and stream."""

    def __init__(
        self,
        learner: Learner,
        page: int = 16,
        compile: bool | None = None,  # noqa: A002 - torch's own word
        limit: int | None = None,
        folder: str | Path | None = None,
        train: Train | None = None,
        rank: int = 4,
    ) -> None:
        """Take the learner whose architecture, rule, optimiser and weights every new member has; it stays as it is.

        page: members that one graph takes together; 16 of d_model 32 fit a processor's cache.
        compile: make one graph for each kind of step, at its second call, which takes half a minute to two (None: where
        a compiler is there). limit: bytes of members in memory, above which pages not used for the longest time go to
        the disk, into `folder` (default: a temporary one). Threads are torch's own.
        Raises ValueError for what `PureUpdate` refuses, for a learner with a window or a max_drift or that is frozen,
        and for compile where nothing can be compiled.
        """
        _check(learner)
        self.task, self.clip = learner.task, learner.clip
        memo = {id(learner.task): learner.task}
        parts = learner.model, learner.rule, learner.optimizer
        self._model, self._rule, self._optimizer = (
            deepcopy(parts, memo) if train is None else partial(*parts, train, rank)
        )
        self._rows, self._horizon = deepcopy(learner.rows), learner.horizon
        own = self.task, self._model, self._rule, self._optimizer, self.clip
        self._updates = {resets: PureUpdate(*own, resets) for resets in (False, True)}
        self.lr = self._updates[True].lr  # a caller may change it from step to step
        whole = self._updates[True].memory(1)
        learning = self._updates[True].learning
        self._shared = {name: weight for name, weight in whole.weights.items() if name not in learning}
        self.pages = Pages(self._slot(whole, [0, 0, 0]), page, limit, folder)
        self.members: dict[Hashable, Member] = {}
        self._kinds: dict[Any, tuple[Callable[..., Sequence[Tensor]], bool]] = {}  # and whether it is compiled
        self._compile = _can_compile() if compile is None else compile
        if compile:
            check_compiler()
        self._plan: tuple[tuple[Hashable, ...], list[int], Tensor] | None = None  # of the ids asked last

    def __len__(self) -> int:
        """Return how many members there are."""
        return len(self.members)

    def __contains__(self, id: Hashable) -> bool:  # noqa: A002 - as in Learner
        """Say whether there is such a member."""
        return id in self.members

    @property
    def nbytes(self) -> int:
        """The bytes that one member takes."""
        return nbytes(self.pages.blank)

    def add(self, id: Hashable, learner: Learner | None = None) -> None:  # noqa: A002
        """Take a member in: one of the fleet's own weights, or what a learner of the same architecture has become.

        The learner stays as it is, and is not asked again. Raises ValueError for an id that is there already, and for a
        learner of another architecture, of several streams, or with open steps.
        """
        if id in self.members:
            raise ValueError(f"id: got {id!r}, which is in the fleet already: remove it before, or give another")
        if learner is None:
            slot, meters, rows = self.pages.blank, self.task.meters(), deepcopy(self._rows)
        else:
            slot, meters, rows = self._of(learner)
        page, at = self.pages.take()
        self.pages.write(page, at, slot)
        self.members[id] = Member(page, at, meters, rows)
        self._plan = None

    def remove(self, id: Hashable) -> None:  # noqa: A002
        """Let a member go; `learner` before gives what it has become."""
        member = self._member(id)
        del self.members[id]
        self.pages.free(member.page, member.slot)
        self._plan = None

    def learner(self, id: Hashable) -> Learner:  # noqa: A002
        """Return what a member has become as a learner of its own, to be saved for example; the member stays."""
        member = self._member(id)
        memory, counts = self.pages.read(member.page, member.slot)
        model, rule, optimizer = deepcopy((self._model, self._rule, self._optimizer))
        update = PureUpdate(self.task, model, rule, optimizer, self.clip)
        state, trace = update.restore(memory)
        for group, factor in zip(optimizer.param_groups, update.factors, strict=True):
            group["lr"] = self.lr * factor
        rows = deepcopy(member.rows)
        own = Learner(self.task, model, rule, optimizer, clip=self.clip, horizon=self._horizon, rows=rows)
        x = torch.zeros(1, 0, dtype=torch.int64) if rows.vocab else model.head.weight.new_zeros(1, 0, rows.d_in)
        meters = self.task.meters()
        for name, meter in member.meters.items():
            meters[name].load_state_dict(meter.state_dict())
        none = torch.zeros(1, 0, dtype=torch.bool, device=model.head.weight.device)
        steps, updates, skipped = counts.tolist()
        loop = LoopState(state, trace, x.to(none.device), none, meters, None, steps, updates, skipped, base=steps)
        own.resume(loop)
        return own

    def step(
        self,
        ids: Sequence[Hashable],
        x: Tensor,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        info: dict[str, Tensor] | None = None,
    ) -> FleetReport:
        """Predict, and learn where a step is labelled, for each of the ids; other members stay as they are.

        x (m, t) tokens or (m, t, d_in); y (m, t, ...), None where nothing is labelled; mask (m, t) bool, default: all
        steps where y is given; reset (m, t) bool, default: none; info: by name (m, t, ...), for a loss that reads it.
        Raises ValueError or TypeError for ids twice or not in the fleet, and for tensors that the model does not read;
        no member has changed then.
        """
        chunk, labelled = self._checked(ids, x, y, mask, reset, info)
        pages, order = self._planned(ids)
        size, lr = self.pages.size, self._model.head.weight.new_tensor(self.lr)
        active = torch.zeros(len(pages) * size, dtype=torch.bool, device=lr.device).index_fill_(0, order, True)

        def spread(own: Tensor) -> Tensor:
            return own.new_zeros(len(active), *own.shape[1:]).index_copy_(0, order, own).unsqueeze(1)

        chunk, found = chunk.map(spread), list[Sequence[Tensor]]()
        resets = bool(chunk.reset.any())
        parts = [chunk.map(lambda own, at=i * size: own[at : at + size]) for i in range(len(pages))]  # type: ignore[misc]
        for i, (number, part) in enumerate(zip(pages, parts, strict=True)):
            page = self.pages.page(number)
            given = PageInput(page, self._shared, part, lr, active[i * size : (i + 1) * size])
            found.append(self._run(given, resets, labelled, first=i == 0)(*flat(given)))
        out, *others = (torch.cat(own)[order] for own in zip(*found, strict=True))
        return FleetReport(out[:, 0], *others)

    def _run(self, given: PageInput, resets: bool, labelled: bool, first: bool) -> Callable[..., Sequence[Tensor]]:
        """Return what moves a page; of a kind of chunk seen before, compiled at the second step."""
        like = tuple((path, own.shape, own.dtype) for path, own in leaves(given.chunk))
        kind = like, resets, labelled
        known = self._kinds.get(kind)
        if known is None or (first and self._compile and not known[1]):
            compiled = known is not None
            known = self._kinds[kind] = page_step(self._updates[resets], labelled, given, compiled), compiled
        return known[0]

    def _checked(
        self,
        ids: Sequence[Hashable],
        x: Tensor,
        y: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
        info: dict[str, Tensor] | None,
    ) -> tuple[Chunk, bool]:
        """Return the chunk of all members, and whether a step is labelled. Raises for what cannot be read."""
        self._model.check_input(x)
        self._model.check_tokens(x)
        m, t = x.shape[:2]
        if len(ids) != m:
            raise ValueError(f"ids: got {len(ids)}, expected {m}, as x has streams: give one for each")
        if len(set(ids)) != m:
            raise ValueError("ids: got one twice, expected each once: give its steps one after the other")
        for id in ids:  # noqa: A001
            self._member(id)
        none = torch.zeros(m, t, dtype=torch.bool, device=x.device)
        if mask is not None and y is None:
            raise ValueError("y: got None with a mask, expected the labels of the steps it marks: give y, or no mask")
        mask = ~none if mask is None and y is not None else none if mask is None else mask
        reset = none if reset is None else reset
        check_mask("mask", mask, m, t)
        check_mask("reset", reset, m, t)
        labels, highest = none if y is None else y, self._model.head.out_features - 1
        for name, own in {"y": labels, **(info or {})}.items():
            check_tensor(name, own)
            if own.shape[:2] != (m, t):
                raise ValueError(f"{name}: got {tuple(own.shape)}, expected {(m, t)} and more axes, or none")
        if not labels.is_floating_point() and labels.shape == mask.shape and bool(mask.any()):
            low, high = (int(bound) for bound in torch.aminmax(labels[mask]))
            if low < 0 or high > highest:
                raise ValueError(f"y: labels from {low} to {high}, expected 0 to {highest}: give other labels")
        return Chunk(x, labels, mask, reset, info or {}), bool(mask.any())

    def _planned(self, ids: Sequence[Hashable]) -> tuple[list[int], Tensor]:
        """Return the pages that members lie in, and where each is among the slots of these."""
        if self._plan is None or self._plan[0] != tuple(ids):
            own = [self.members[each] for each in ids]
            pages = sorted({member.page for member in own})
            at = {number: i * self.pages.size for i, number in enumerate(pages)}
            order = torch.tensor(
                [at[member.page] + member.slot for member in own], device=self._model.head.weight.device
            )
            self._plan = tuple(ids), pages, order
        return self._plan[1], self._plan[2]

    def _member(self, id: Hashable) -> Member:  # noqa: A002
        if id not in self.members:
            raise ValueError(
                f"id: got {id!r}, expected one of the {counted(len(self), 'member')}: fleet.add({id!r}) first"
            )
        return self.members[id]

    def _slot(self, memory: Memory, counts: Sequence[int]) -> Slot:
        """Return what lies in a slot: of the weights only those that learn."""
        weights = {name: memory.weights[name] for name in self._updates[True].learning}
        device = self._model.head.weight.device
        return Slot(memory._replace(weights=weights), torch.tensor(counts, dtype=torch.int64, device=device))

    def _of(self, learner: Learner) -> tuple[Slot, dict[str, Meter], Rows]:
        """Return what a learner has become. Raises ValueError where it is not one of this fleet's."""
        _check(learner)
        update = PureUpdate(learner.task, learner.model, learner.rule, learner.optimizer, learner.clip)
        state = learner.state
        if learner.streams not in (None, 1) or (state is not None and state.x.shape[1]):
            raise ValueError(
                "learner: has open steps or several streams, expected one stream, all answered: "
                "learner.settle() gives the open ones up"
            )
        past = (None, None) if state is None else (state.model_state, state.trace)
        memory = update.memory(1, *past)
        if _form(memory) != _form(self._updates[True].memory(1)) or update.formulas != self._updates[True].formulas:
            raise ValueError("learner: of another model, rule or optimiser, expected those of this fleet")
        for name, weight in self._shared.items():
            if not torch.equal(weight, memory.weights[name]):
                raise ValueError(f"learner: weight {name} does not learn and is another, expected the fleet's own")
        counts = [0, 0, 0] if state is None else [state.steps, state.updates, state.skipped]
        meters = self.task.meters()
        for name, meter in ({} if state is None else state.meters).items():
            meters[name].load_state_dict(meter.state_dict())
        return self._slot(memory, counts), meters, deepcopy(learner.rows)


def _form(memory: Memory) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(path, own.shape, own.dtype) for path, own in leaves(memory)]


def _check(learner: Learner) -> None:
    """Raise ValueError for a learner that does what no member does."""
    if learner.window is not None or learner.max_drift is not None or learner.frozen:
        raise ValueError("learner: has a window or a max_drift, or is frozen, which no member does: give one without")


def _can_compile() -> bool:
    try:
        check_compiler()
    except ValueError:
        return False
    return True
