"""Hashed n-grams: the hash is its definition, rows learn autograd's gradient, nothing is lost between chunks."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import biomamba
from biomamba import checkpoint
from biomamba.metrics import labelled_cross_entropy
from biomamba.ngram import NGrams, Tables
from biomamba.ops.rows import BUCKETS, find, hashed, hashed_naive, learn_, read
from biomamba.rules import RULES
from biomamba.tasks.language import Language
from sizes import SummedLoss, chunks, random_model

ORDERS = {"ngrams": (2, 3), "ngram_logits": (1, 2, 4)}


def text(t: int, batch: int = 3, period: int = 7) -> tuple[Tensor, Tensor]:
    """Return x, y (b, t): a stream that repeats itself but for some noise."""
    x = torch.randint(7, (batch, period)).repeat(1, t // period + 2)[:, : t + 1]
    noise = torch.rand(x.shape) < 0.1
    x = torch.where(noise, torch.randint(7, x.shape), x)
    return x[:, :-1], x[:, 1:]


# contexts


@pytest.mark.parametrize("orders", [(1,), (2, 3), (1, 4, 9)])
def test_a_key_is_the_hash_of_the_last_inputs_of_its_own_sequence(orders: tuple[int, ...]) -> None:
    longest, rows = max(orders), 1 << 4
    x, reset = torch.randint(300, (3, 20)), torch.rand(3, 20) < 0.2
    context = torch.randint(300, (3, longest - 1)) + 1
    W, visits, lengths = torch.zeros(rows * len(orders), 1), torch.zeros(rows * len(orders)), torch.tensor(orders)
    given = (
        W,
        visits.long(),
        visits,
        torch.ones(len(orders), BUCKETS),
        torch.cat([context, x + 1], 1),
        reset,
        lengths,
        20,
    )
    found, _ = read(*given)
    assert torch.equal(found, read(*given, "torch")[0])
    for i in range(3):
        for s in range(20):
            tokens, past = [], [*(context[i] - 1).tolist(), *x[i].tolist()]
            for back in range(longest):  # the last input first; -1 where it is of an earlier sequence
                began = bool(reset[i, max(0, s - back + 1) : s + 1].any()) if back else False
                tokens.append(-1 if began else past[longest - 1 + s - back])
            wanted = [hashed_naive([token + 1 for token in tokens[:order]]) for order in orders]
            assert found[i, s].tolist() == wanted


def test_hashes_spread_evenly() -> None:
    """A chi-squared of the rows that all pairs of bytes fall into, within five standard deviations of chance."""
    rows = 1 << 8
    pairs = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    found = hashed(pairs + 1, None, torch.tensor([2]), 1)[:, -1, 0] & (rows - 1)
    counts = torch.bincount(found, minlength=rows).double()
    mean = len(pairs) / rows
    assert abs(float(((counts - mean) ** 2 / mean).sum()) - (rows - 1)) < 5 * math.sqrt(2 * rows)


@pytest.mark.parametrize("length", [1, 3, 10])
def test_contexts_go_on_from_chunk_to_chunk(length: int) -> None:
    model = random_model("diagonal", **ORDERS)
    x, reset = torch.randint(11, (3, 30)), torch.rand(3, 30) < 0.1
    whole, context = model.read(x, None, reset), None
    assert whole is not None
    for s in range(0, 30, length):
        at = slice(s, s + length)
        part = model.read(x[:, at], context, reset[:, at])
        assert part is not None
        assert torch.equal(part.logit_keys, whole.logit_keys[:, at])
        assert torch.equal(part.embedding_keys, whole.embedding_keys[:, at])
        context = part.context_at(reset[:, at], length)
    blind = model.read(x[:, 15:], None, reset[:, 15:])
    assert blind is not None and not torch.equal(blind.logit_keys, whole.logit_keys[:, 15:])  # control


# rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stored", [torch.float16, None], ids=["float16", "own"])
@pytest.mark.parametrize("rows", [2, 64])  # of a table: contexts take each other's, or hardly ever
@pytest.mark.parametrize("b, t, k, c", [(1, 1, 1, 1), (1, 16, 5, 96), (3, 7, 4, 37), (2, 3, 9, 256)])
def test_rows_are_their_torch_twin(
    b: int,
    t: int,
    k: int,
    c: int,
    rows: int,
    dtype: torch.dtype,
    stored: torch.dtype | None,
    threads: int,
    nan_memory: None,
) -> None:
    if stored and dtype == torch.float64:
        pytest.skip("float16 beside float64 is computed by torch alone")
    many, own = rows * k, [torch.arange(1, k + 1), torch.tensor([0.5, 0.1, 0.01], dtype=dtype)]
    fast = [torch.randn(many, c, dtype=dtype).to(stored or dtype), torch.randint(-2, 2, (many,))]  # some have no key
    fast += [*torch.rand(2, many, dtype=dtype), 1 + torch.rand(k, BUCKETS, dtype=dtype)]
    fast[3] = (fast[3] * 600).floor() * (torch.rand(many) < 0.5)  # visits
    slow, before = [each.clone() for each in fast], [each.clone() for each in fast]
    close: Any = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    rounded: Any = {"rtol": 4e-3, "atol": 8e-3} if stored else close  # a row once, or its product and its sum
    for _ in range(3):
        tokens, g = 1 + torch.randint(8, (b, k - 1 + t)), torch.randn(b, t, c, dtype=dtype)
        given = [tokens, torch.rand(b, t) < 0.1, own[0], t]
        (keys, out), (slow_keys, slow_out) = (
            read(W, key, visits, scale, *given, backend)
            for (W, key, _, visits, scale), backend in ((fast, "auto"), (slow, "torch"))
        )
        assert torch.equal(keys, slow_keys)
        torch.testing.assert_close(out, slow_out, **rounded if stored else close)
        learn_(*fast, keys, g, own[1])
        learn_(*slow, keys, g, own[1], "torch")
        for name, a, e in zip("WkAvs", fast, slow, strict=True):
            torch.testing.assert_close(a, e, **rounded if name in "Ws" else close)
        assert all(not torch.equal(a, e) for a, e in zip(fast[2:4], before[2:4], strict=True))  # control
    assert (fast[1] != 0).sum() > (before[1] != 0).sum() or b * t == 1 or rows == 2


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_context_takes_the_first_of_two_rows_that_nobody_has_and_shares_one_else(backend: str) -> None:
    tables = Tables((1,), 3, 4, rate=0.5, floor=0.0, scale_rate=0.0)
    a, b, c, d = (torch.full((1, 1, 1), own) for own in (1, 5, 9, 2))  # a, b and c have the same place, 1
    g = torch.ones(1, 1, 3)
    for keys in (a, b, b, d):
        tables.learn(keys, g, backend)
    assert tables.key.tolist() == [5, 1, 2, 0] and tables.visits.tolist() == [2, 1, 1, 0]
    tables.learn(c, -g, backend)  # shares the row at its place, which stays a's
    assert tables.key.tolist() == [5, 1, 2, 0] and tables.visits.tolist() == [2, 2, 1, 0]
    mine = tables.W[0].clone()
    tables.learn(torch.cat([a, c], 1), g.repeat(1, 2, 1), backend)
    assert tables.visits.tolist() == [2, 4, 1, 0] and torch.equal(tables.W[0], mine)  # control: b's is b's alone


# learning


def test_rows_get_the_gradient_of_a_table_on_the_graph(float64: None) -> None:
    """dL/dW of tables that are parameters, read by torch's own embedding, is what reaches the rows that were read."""
    model = random_model("mamba2", n_layers=2, **ORDERS)
    tables: Any = model.ngrams
    x, y = text(12)
    dense = [torch.randn(own.W.shape, requires_grad=True) for own in (tables.before, tables.behind)]
    reading = model.read(x)
    assert reading is not None
    keys = reading.embedding_keys, reading.logit_keys
    rows = [find(own.key, k) for own, k in zip((tables.before, tables.behind), keys, strict=True)]
    embedding, logits = (F.embedding(r, W).sum(2) for r, W in zip(rows, dense, strict=True))

    def loss(embedding: Tensor, logits: Tensor) -> Tensor:
        out, _, _ = model(x, model.init_state(3), reading=reading._replace(embedding=embedding, logits=logits))
        return F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="sum")

    wanted = torch.autograd.grad(loss(embedding, logits), dense)
    leaves = [embedding.detach().requires_grad_(), logits.detach().requires_grad_()]
    for r, g, dW in zip(rows, torch.autograd.grad(loss(*leaves), leaves), wanted, strict=True):
        found = torch.zeros_like(dW).index_add_(0, r.flatten(), g.unsqueeze(2).expand(*r.shape, -1).flatten(0, 2))
        torch.testing.assert_close(found, dW, rtol=1e-9, atol=1e-12)
        assert dW.any()


def test_a_row_learns_by_adagrad_and_scales_by_their_slope(float64: None) -> None:
    tables = Tables((1, 2), 5, 4, rate=0.5, floor=0.1, scale_rate=0.01)
    tables.W = torch.zeros(8, 5)  # float64, to see more digits than bfloat16 has
    keys, g = torch.tensor([[[1, 6], [1, 7]]]), torch.randn(1, 2, 5)  # of rows 1, 6 and 7
    tables.learn(keys, g, "torch")
    A = (g[0, 0] ** 2).sum() + (g[0, 1] ** 2).sum()
    torch.testing.assert_close(tables.W[1], -0.5 * (g[0, 0] + g[0, 1]) / (2 * (A + 0.1)).sqrt())
    torch.testing.assert_close(tables.W[7], -0.5 * g[0, 1] / ((g[0, 1] ** 2).sum() + 0.1).sqrt())
    assert tables.visits.tolist() == [0, 2, 0, 0, 0, 0, 1, 1]
    assert torch.equal(tables.scale, torch.ones(2, BUCKETS))  # nothing was met before
    before, again = tables.W.clone(), torch.randn(1, 2, 5)
    tables.learn(keys, again, "torch")
    torch.testing.assert_close(tables.scale[0, 2], 1 - 0.01 * (again[0] @ before[1]).sum())  # 2 to 3 visits
    torch.testing.assert_close(tables.scale[1, 1], 1 - 0.01 * (again[0, 0] @ before[6] + again[0, 1] @ before[7]))
    found, _ = tables.read(torch.tensor([[0, 1, 2, 1]]), None, 3, "torch")
    tables.learn(found, torch.randn(1, 3, 5), "torch")
    found, said = tables.read(torch.tensor([[0, 1, 2, 1]]), None, 3, "torch")
    rows, wanted = find(tables.key, found), torch.zeros(3, 5)
    for s, q in torch.cartesian_prod(torch.arange(3), torch.arange(2)).tolist():
        row = int(rows[0, s, q])
        wanted[s] += tables.scale[q, int(tables.visits[row]).bit_length()] * tables.W[row]
    torch.testing.assert_close(said[0], wanted)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_row_moves_by_at_most_the_rate_however_many_steps_read_it(backend: str) -> None:
    for many in (1, 16, 400):
        tables = Tables((1,), 8, 4, rate=0.5, floor=0.0, scale_rate=0.0)
        tables.W = tables.W.float()
        g = torch.ones(1, many, 8)  # all steps pull the same way
        tables.learn(torch.full((1, many, 1), 2), g, backend)
        torch.testing.assert_close(tables.W[2].norm(), torch.tensor(0.5))
        assert tables.visits[2] == many and tables.W[2].norm() < 0.5 * math.sqrt(many) + 1e-6


class Labelled(SummedLoss):
    """A loss of the same shapes for any labels, as graphs want."""

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        return labelled_cross_entropy(out, chunk)


def bits(model: biomamba.Model, x: Tensor, y: Tensor, length: int = 4, lr: float = 1e-3, **options: Any) -> float:
    """Return the prequential cross entropy of a model that learns the stream once."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    learner = biomamba.Learner(Labelled(), model, RULES["rtrl"](model.blocks), optimizer, **options)  # type: ignore[arg-type]
    *_, last = biomamba.online(chunks(x, y, length), learner)
    return last.scores["loss"]


@pytest.mark.parametrize("orders", [{"ngrams": (2, 3)}, {"ngram_logits": (2, 3)}], ids=["ngrams", "ngram_logits"])
def test_what_followed_a_context_is_learned_in_one_pass(orders: dict[str, Any]) -> None:
    x, y = text(400)
    plain, with_rows = (bits(random_model("diagonal", **own), x, y) for own in ({}, orders))
    assert with_rows < 0.8 * plain
    blind = bits(random_model("diagonal", **orders), x, torch.randint(7, y.shape))  # control: nothing follows
    assert blind > 0.95 * math.log(7)


class Reduced(SummedLoss):
    """A loss that reduces the losses of single steps in one of many ways."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def loss(self, out: Tensor, chunk: biomamba.Chunk) -> Tensor:
        whole, count = labelled_cross_entropy(out, chunk), chunk.mask.sum().clamp(min=1)
        return {"mean": whole / count, "sum": whole, "batchmean": whole / len(out), "odd": 7 * whole / len(out) ** 2}[
            self.kind
        ]


@pytest.mark.parametrize("kind", ["sum", "batchmean", "odd"])
def test_rows_learn_the_same_however_the_loss_is_reduced(kind: str, float64: None) -> None:
    x, y = text(40)
    tables = []
    for own in ("mean", kind):
        model: Any = random_model("diagonal", **ORDERS)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        learner = biomamba.Learner(Reduced(own), model, RULES["rtrl"](model.blocks), optimizer)  # type: ignore[arg-type]
        known = torch.arange(40) % 3 > 0
        stream = [c._replace(mask=c.mask & known[4 * i : 4 * i + 4]) for i, c in enumerate(chunks(x, y, 4))]
        for _ in biomamba.online(stream[:1] if kind == "odd" else stream, learner):
            pass  # sevenfold errors leave other rows, which give other errors: of "odd" the first are compared
        tables.append((model.ngrams.behind, model.ngrams.before))
        assert learner.reduction.kinds == ({own} if own != "odd" else set())
    scale = {"odd": 7.0}.get(kind, 1.0)  # a step alone has it too
    for one, other in zip(*tables, strict=True):
        torch.testing.assert_close(other.A, one.A * scale**2, rtol=1e-3, atol=1e-9)
        assert one.A.any()


@pytest.mark.parametrize("window", [None, 8])
def test_a_graph_learns_what_the_eager_loop_does(window: int | None) -> None:
    x, y = text(60)
    models = [random_model("diagonal", **ORDERS) for _ in range(2)]
    losses = [bits(model, x, y, window=window, compile=fuse) for model, fuse in zip(models, (False, True), strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)


def test_nothing_is_learned_without_a_label_or_where_an_update_fails() -> None:
    model, (x, y) = random_model("diagonal", **ORDERS), text(40)
    tables: Any = model.ngrams
    learner = biomamba.Learner(
        SummedLoss(),  # type: ignore[arg-type]
        model,
        RULES["rtrl"](model.blocks),
        torch.optim.SGD(model.parameters(), lr=0.1),
    )
    unlabelled = [chunk._replace(mask=chunk.mask & False) for chunk in chunks(x, y, 4)]
    for _ in biomamba.online(unlabelled, learner):
        assert not tables.before.visits.any() and not tables.behind.W.any()
    learner.optimizer.param_groups[0]["lr"] = math.inf
    for report in biomamba.online(chunks(x, y, 4)[:3], learner):
        assert report.state.skipped > 0 and not tables.before.visits.any() and not tables.behind.W.any()
    learner.optimizer.param_groups[0]["lr"] = 0.1
    *_, report = biomamba.online(chunks(x, y, 4), learner)
    assert tables.before.visits.sum() == 2 * x.numel() and tables.behind.W.any()  # control: both orders of every step


def test_an_interrupted_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    x, y = text(80)

    def fresh() -> tuple[biomamba.Model, Any, Any]:
        model = random_model("mamba2", **ORDERS)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        return model, optimizer, RULES["rtrl"](model.blocks)

    def learn(parts: list[biomamba.Chunk], model: Any, optimizer: Any, rule: Any, state: Any = None) -> Any:
        learner = biomamba.Learner(SummedLoss(), model, rule, optimizer)  # type: ignore[arg-type]
        *_, report = biomamba.online(parts, learner, state)
        return report.state

    every, straight, broken, again = chunks(x, y, 4), fresh(), fresh(), fresh()
    learn(every, *straight)
    tensors, facts = checkpoint.collect(broken[0], broken[1], learn(every[:9], *broken))
    checkpoint.save(tmp_path / "saved", tensors, facts)
    tensors, facts = checkpoint.load(tmp_path / "saved")
    task: Any = SummedLoss()
    state = checkpoint.restore(tensors, facts, task, again[0], again[2], again[1])
    assert state is not None and state.context is not None and state.context.any()
    learn(every[9:], *again, state=state)
    ours, theirs = straight[0].state_dict(), again[0].state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_scores_with_learning_off_do_not_depend_on_the_length() -> None:
    model, (x, y) = random_model("mamba2", **ORDERS), text(60)
    bits(model, x, y, lr=1e-2)
    task: Any = SummedLoss()
    scores = []
    for length in (1, 7, 60):
        *_, report = biomamba.evaluate(chunks(x, y, length), task, model)
        scores.append(report.scores["loss"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5) == pytest.approx(scores[2], rel=1e-5)


# what is given


def test_tables_take_the_memory_of_what_was_learned_and_say_the_most() -> None:
    tables = NGrams((2,), (1, 2), 6, 7, bits=10, rates=(1.0, 1.0))
    assert tables.nbytes == 1024 * ((6 * 2 + 16) + 2 * (7 * 2 + 16))
    assert all(len(tables.state_dict()[f"{name}.W"]) == 0 for name in ("before", "behind"))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"d_in": 3, "ngrams": (2,)}, r"ngrams: got \[2\] for real values"),
        ({"vocab": 5, "ngrams": (2, 2)}, r"ngrams: got \[2, 2\], expected different lengths"),
        ({"vocab": 5, "ngram_logits": (0, 1)}, r"ngram_logits: got \[0, 1\], expected different lengths of 1 and more"),
    ],
)
def test_orders_that_make_no_sense_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        biomamba.Model(d_out=5, d_model=4, block="diagonal", **options)
    assert "\n" not in str(error.value)


def test_a_context_of_other_streams_is_one_line() -> None:
    model, (x, y) = random_model("diagonal", **ORDERS), text(8)
    rule, optimizer = RULES["rtrl"](model.blocks), torch.optim.SGD(model.parameters(), lr=0.1)
    learner = biomamba.Learner(SummedLoss(), model, rule, optimizer)  # type: ignore[arg-type]
    *_, report = biomamba.online(chunks(x, y, 4), learner)
    report.state.context = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"context: got \(2, 3\), expected \(3, 3\)"):
        learner.resume(report.state)


def test_the_default_text_is_read_with_rows() -> None:
    task = Language(max_bytes=2001)
    model = biomamba.Model(vocab=256, d_out=256, d_model=8, block="diagonal", d_state=2, **ORDERS)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    learner = biomamba.Learner(task, model, RULES["rtrl"](model.blocks), optimizer)
    *_, report = biomamba.online(task.stream("all", batch=1, length=16, seed=0), learner)
    assert report.scores["bits_per_byte"] < 6  # 8 is chance
