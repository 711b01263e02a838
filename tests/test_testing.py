"""Every registered task, block and rule keeps the laws of `biomamba.testing`, and each law can be broken."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import biomamba
from biomamba import Benchmark, Chunk, Spec, StatefulStream
from biomamba.blocks import BLOCKS as REGISTRY
from biomamba.blocks import Diagonal
from biomamba.metrics import Accuracy, labelled_cross_entropy
from biomamba.rules import RTRL, RULES
from biomamba.state import tree_map
from biomamba.tasks import TASKS
from biomamba.testing import check_block, check_rule, check_task
from sizes import BLOCKS, EVERY

SIMULATED: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {  # options of the task, and of the check
    "arrays": [({"kind": kind}, {}) for kind in ("class", "value", "none")],
    "delay": [({}, {"steps": 200})],
    "ecg": [({"decimate": 12}, {}), ({"decimate": 12, "label_delay": 1}, {"steps": 400})],
    "eeg": [({}, {"steps": 200}), ({"contrast": "imagery", "decimate": 8}, {"steps": 400})],
    "language": [({"max_bytes": 20_001}, {})],
    "recordings": [({}, {"steps": 200}), ({"hold_out": "time", "rate": 20.0, "warm": 0.5}, {"steps": 100})],
    "speech": [({}, {}), ({"loss_at": "end", "augment": 0.5}, {"steps": 200})],
    "speech_ctc": [({}, {"steps": 400, "lengths": (1, 8)})],
}
APPROXIMATE = {"mamba": ("in_proj.weight",)}  # the half of it that passes through the convolution
NEARLY = {"uoro": 1e-3}  # the floor under its scales lets through that much


@pytest.mark.parametrize(
    "name, options, asked", [(name, *case) for name, cases in SIMULATED.items() for case in cases], ids=str
)
def test_every_task_keeps_the_laws(name: str, options: dict[str, Any], asked: dict[str, Any]) -> None:
    simulate = {"simulate": True} if name not in ("arrays", "delay", "language", "recordings") else {}
    check_task(biomamba.make_task(name, **simulate, **options), **asked)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_block_keeps_the_laws(name: str) -> None:
    check_block(REGISTRY[name], approximate=APPROXIMATE.get(name, ()), **EVERY[name])


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_the_laws(name: str) -> None:
    check_rule(RULES[name], rtol=NEARLY.get(name, 1e-9))


def test_none_is_left_out() -> None:
    assert SIMULATED.keys() == TASKS.keys() and EVERY.keys() == {*REGISTRY}


def test_checks_leave_torch_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_block(Diagonal, d_state=4)
    check_rule(RTRL)
    assert torch.get_default_dtype() == torch.float32 and torch.equal(torch.get_rng_state(), before)


# a task of one's own, in little: say what came two steps before


class Echo:
    """What the loops ask, and no more."""

    spec = Spec(vocab=4, d_out=4)

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        x = torch.randint(4, (batch, 500), generator=torch.Generator().manual_seed(seed))
        y, mask = x.roll(2, 1), torch.arange(500).expand(batch, 500) % 3 > 0
        for at in range(start, 500, length):
            yield Chunk(x, y, mask, torch.zeros_like(mask), {"copy": x}).between(at, at + length)

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        return labelled_cross_entropy(out, chunk)

    def meters(self) -> dict[str, Any]:
        return {"accuracy": Accuracy()}


def test_a_task_of_four_members_is_enough() -> None:
    check_task(Echo())
    model = biomamba.Model(vocab=4, d_out=4, d_model=8, block="diagonal", d_state=2)
    optimizer = torch.optim.Adam(model.parameters())
    stream = Echo().stream("all", batch=2, length=10, seed=0)
    last = [*biomamba.online(stream, biomamba.Learner(Echo(), model, RTRL(model.blocks), optimizer))][-1]
    assert last.state.steps == 500 and 0 < last.scores["accuracy"] < 1
    bench = Benchmark.of(Echo())
    assert (bench.source, bench.held_out, [*bench.splits]) == ("Echo", "all", ["all"])
    assert bench.steps("all", batch=2) is None and bench.baseline("all", batch=2, seed=0) == bench.parts("all") == {}
    assert Benchmark.of(bench) is bench


class ResetsByChunk(Echo):
    def stream(self, split: str, **asked: Any) -> Iterator[Chunk]:
        for chunk in super().stream(split, **asked):
            yield chunk._replace(reset=torch.arange(chunk.x.shape[1]).expand(chunk.x.shape) == 0)


class Unseeded(Echo):
    def stream(self, split: str, *, seed: int, **asked: Any) -> Iterator[Chunk]:
        return super().stream(split, seed=int(torch.randint(10**9, ())), **asked)


class NeverLate(Echo):
    def stream(self, split: str, *, start: int = 0, **asked: Any) -> Iterator[Chunk]:
        return super().stream(split, **asked)


class Changed(Echo):
    """Its chunks are changed by a function."""

    def __init__(self, change: Callable[[Chunk], Chunk]) -> None:
        self.change = change

    def stream(self, split: str, **asked: Any) -> Iterator[Chunk]:
        return map(self.change, super().stream(split, **asked))


class Lost(Echo):
    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        return labelled_cross_entropy(out, chunk) / chunk.mask.sum()


class Unmasked(Echo):
    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        return F.cross_entropy(out.flatten(0, 1), chunk.y.flatten())


class Whole(Echo):
    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        return labelled_cross_entropy(out, chunk).square()  # no sum of the losses of single steps


class Later(Echo):
    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        weights = torch.arange(1.0, out.shape[1] + 1)  # of a step in its chunk: alone it is the first
        each = F.cross_entropy(out.flatten(0, 1), chunk.y.flatten(), reduction="none").view(chunk.mask.shape)
        return (each * weights * chunk.mask).sum()


class Cut(Echo):
    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        return labelled_cross_entropy(out.detach(), chunk)


class Forgetting(Accuracy):
    def state_dict(self) -> dict[str, Any]:
        return {"total": 0.0, "count": 0}


class Unwritable(Accuracy):
    def state_dict(self) -> dict[str, Any]:
        return {"total": torch.zeros(()), "count": 0}


class LastChunk(Accuracy):
    def update(self, out: Tensor, chunk: Chunk) -> None:
        self.total, self.count = 0.0, 0
        super().update(out, chunk)


class Meddling(Accuracy):
    def update(self, out: Tensor, chunk: Chunk) -> None:
        out *= 2


class Scored(Echo):
    """Its meter is another."""

    def __init__(self, *meters: Any) -> None:
        self.given = meters

    def meters(self) -> dict[str, Any]:
        return {"accuracy": self.given[0]() if isinstance(self.given[0], type) else self.given[0]}


class Told(Echo):
    """What it shows depends on what the model said; `keeps` says whether that is in its state."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps

    def stream(self, split: str, **asked: Any) -> Iterator[Chunk]:
        return Listening(super().stream(split, **asked), self.keeps)


class Listening(StatefulStream):
    def __init__(self, chunks: Iterator[Chunk], keeps: bool) -> None:
        super().__init__(chunks)
        self.keeps, self.said = keeps, torch.zeros(())

    def __next__(self) -> Chunk:
        chunk = super().__next__()
        return chunk._replace(info={"said": self.said.expand(chunk.x.shape).clone()})

    def observe(self, out: Tensor, chunk: Chunk) -> None:
        self.said = out[0, -1, 0]

    def state_dict(self) -> dict[str, Tensor]:
        return {"said": self.said} if self.keeps else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.said = state.get("said", self.said)


class Elsewhere(Echo, Benchmark):
    @property
    def held_out(self) -> Any:
        return "test"


class Boasting(Echo, Benchmark):
    def baseline(self, split: str, **asked: Any) -> dict[str, dict[str, dict[str, float]]]:
        return {"best": {"glory": {"all": 1.0, "last_tenth": 1.0}}}


class Shortsighted(Echo, Benchmark):
    @property
    def horizon(self) -> int:
        return 0


BROKEN: dict[str, tuple[Any, str]] = {
    "resets": (ResetsByChunk(), "reset depends on the length of the chunks"),
    "seed": (Unseeded(), "two streams of the same seed differ in x"),
    "start": (NeverLate(), "started at step 28 with the state saved there, x is another"),
    "vocab": (Changed(lambda chunk: chunk._replace(x=chunk.x + 1)), "x holds tokens outside 0 to 3, the vocabulary"),
    "float": (Changed(lambda chunk: chunk._replace(x=chunk.x.float())), "x is torch.float32, expected torch.int64"),
    "mask": (Changed(lambda chunk: chunk._replace(mask=chunk.mask.long())), "mask is not .* of bool"),
    "y": (Changed(lambda chunk: chunk._replace(y=chunk.y[:, 0])), "y is .*, expected"),
    "info": (Changed(lambda chunk: chunk._replace(info={"a": chunk.x[0]})), r"info\['a'\] is .*, expected"),
    "labels": (Changed(lambda chunk: chunk._replace(mask=chunk.mask & False)), "none of 64 steps has a label"),
    "square": (Whole(), "weights its steps otherwise in a chunk than each alone"),
    "weights": (Later(), "weights its steps otherwise in a chunk than each alone"),
    "nothing": (Lost(), "loss without a label is nan, expected a finite number"),
    "unmasked": (Unmasked(), "the loss depends on predictions where mask is false"),
    "graph": (Cut(), "loss has no graph to the predictions"),
    "saved": (Scored(Forgetting), "meter accuracy is .* scored in pieces, saved between them"),
    "json": (Scored(Unwritable), "the state of the meters is no JSON"),
    "pieces": (Scored(LastChunk), "meter accuracy is .* scored in pieces"),
    "shared": (Scored(Accuracy()), "meter accuracy of a second set knows what the first was shown"),
    "meddling": (Scored(Meddling), "a meter changed the predictions"),
    "forgets": (Told(False), "started at step 28 with the state saved there, info.said is another"),
    "held_out": (Elsewhere(), "held_out: is test, expected one of all"),
    "horizon": (Shortsighted(), "horizon: is 0, expected None or 1 step or more"),
    "baseline": (Boasting(), "best has scores that no meter has: glory"),
}


@pytest.mark.parametrize("task, broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_task_is_told_which_law(task: Any, broken: str) -> None:
    with pytest.raises(AssertionError, match=broken) as error:
        check_task(task, lengths=(7,) if broken.startswith("started") else (1, 7))
    assert "\n" not in str(error.value)


def test_a_stream_that_is_told_keeps_the_laws() -> None:
    check_task(Told(True), lengths=(7,))  # which chunks there are is what it is told of


def test_the_default_of_info_is_not_written_into() -> None:
    def write(chunk: Chunk) -> Chunk:
        bare = Chunk(chunk.x, chunk.y, chunk.mask, chunk.reset)
        bare.info["x"] = chunk.x
        return bare._replace(info={})

    try:
        with pytest.raises(AssertionError, match=r"wrote into the default of Chunk\.info"):
            check_task(Changed(write))
    finally:
        Chunk._field_defaults["info"].clear()


# blocks


class Deaf(Diagonal):
    def chunk(self, x: Tensor, state: Any, reset: Any = None, local: bool = False) -> Any:
        return super().chunk(x, state, None, local)


class Prophet(Diagonal):
    def chunk(self, x: Tensor, state: Any, reset: Any = None, local: bool = False) -> Any:
        y, after, tape = super().chunk(x, state, reset, local)
        return y + x.mean(1, keepdim=True), after, tape


class Late(Diagonal):
    def state_at(self, tape: Any, advance: int) -> Any:
        return super().state_at(tape, max(0, advance - 1))


class Loud(Diagonal):
    def drives(self, tape: Any) -> Any:
        return {name: drive._replace(post=2 * drive.post) for name, drive in super().drives(tape).items()}


class Silent(Diagonal):
    def __init__(self, d_model: int, **options: Any) -> None:
        super().__init__(d_model, **options)
        del self.influences["B"]

    def effective(self) -> dict[str, Tensor]:
        return {name: own for name, own in super().effective().items() if name != "B"}

    def drives(self, tape: Any) -> Any:
        return {name: own for name, own in super().drives(tape).items() if name != "B"}


class Nameless(Diagonal):
    def effective(self) -> dict[str, Tensor]:
        return {name: own for name, own in super().effective().items() if name != "B"}


class Begun(Diagonal):
    def init_state(self, batch: int) -> Any:
        return tree_map(lambda tensor: tensor + 1, super().init_state(batch))


BAD_BLOCKS = {
    Deaf: "Deaf.chunk: in two parts|what was before a reset is remembered",
    Prophet: "Prophet.chunk: is not 9 calls of step",
    Late: "Late.chunk: is not 9 calls of step|state_at",
    Loud: "Loud.drives: the trace of .* is not dh/d",
    Silent: "Silent.effective: misses B, which reaches the state",
    Nameless: "Nameless.effective: names other than influences does",
    Begun: "Begun.init_state: ssm is not 0",
}


@pytest.mark.parametrize("block, broken", BAD_BLOCKS.items(), ids=lambda own: getattr(own, "__name__", ""))
def test_a_broken_block_is_told_which_law(block: Any, broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_block(block, d_state=4)


def test_what_is_approximate_must_be_declared() -> None:
    with pytest.raises(AssertionError, match=r"the trace of in_proj\.weight is not dh/din_proj\.weight by autograd"):
        check_block(REGISTRY["mamba"], **BLOCKS["mamba"])


# rules


class Hidden(RTRL):
    """Remembers what is not in the trace."""

    chunks = 0

    def backward(self, loss: Tensor, tapes: Any, trace: Any, *asked: Any) -> Any:
        self.chunks += 1
        return super().backward(loss * self.chunks, tapes, trace, *asked)


class Begins(RTRL):
    def init(self, batch: int) -> Any:
        return tree_map(lambda tensor: tensor + 1, super().init(batch))


class Whole(RTRL):
    """Moves as far as the tapes go, whatever it is told."""

    def backward(self, loss: Tensor, tapes: Any, trace: Any, *asked: Any) -> Any:
        return super().backward(loss, tapes, trace)


class Mixed(RTRL):
    def backward(self, loss: Tensor, tapes: Any, trace: Any, *asked: Any) -> Any:
        moved = super().backward(loss, tapes, trace, *asked)
        return tree_map(lambda tensor: tensor.mean(0, keepdim=True).expand_as(tensor).clone(), moved)


class Endless(RTRL):
    def backward(self, loss: Tensor, tapes: Any, trace: Any, *asked: Any) -> Any:
        return super().backward(loss, [tape._replace(reset=None) for tape in tapes], trace, *asked)


class Rounding(RTRL):
    def backward(self, loss: Tensor, tapes: Any, trace: Any, *asked: Any) -> Any:
        return tree_map(torch.Tensor.float, super().backward(loss, tapes, trace, *asked))


class One(RTRL):
    def init(self, batch: int) -> Any:
        return super().init(1)


BAD_RULES = {
    Hidden: "resumed from state and trace by a rule made anew, it goes on otherwise",
    Begins: "with nothing past the gradient is not autograd's",
    Whole: "the trace 0 of 8 steps on is not that of those steps alone",
    Mixed: "the trace of a stream depends on another stream",
    Endless: "the gradient depends on what was before a reset",
    Rounding: "the trace after a chunk is of another form than init gives",
    One: "expected 3 streams on its axis 0",
}


@pytest.mark.parametrize("rule, broken", BAD_RULES.items(), ids=lambda own: getattr(own, "__name__", ""))
def test_a_broken_rule_is_told_which_law(rule: Any, broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_rule(rule)
