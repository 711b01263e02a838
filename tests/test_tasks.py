"""The laws of every task's streams: what they hold, that it can be repeated, and that no label is in the input."""

import gzip
import json
import math
import socket
import sys
from collections.abc import Iterator
from itertools import islice
from os import environ
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from biomamba.stream import Chunk, Task
from biomamba.tasks import TASKS
from biomamba.tasks.arrays.task import Arrays
from biomamba.tasks.byte_counter import bits
from biomamba.tasks.delay import BLOCK, RECALL, STORE, Delay
from biomamba.tasks.ecg.task import Ecg
from biomamba.tasks.eeg.task import Eeg
from biomamba.tasks.language import Language
from biomamba.tasks.recordings.task import Recordings
from biomamba.tasks.speech.task import Speech
from biomamba.tasks.speech.task_ctc import SpeechCTC
from sizes import joined, same

ALL = [Delay(), Language(max_bytes=60_001)]
BATCH, STEPS = 3, 15_000  # within the 20,000 steps that three streams over 60,001 bytes have, and beyond three blocks


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach the network."""

    def refuse(*args: object) -> None:
        raise AssertionError("a task tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def take(task: Task, steps: int, *, length: int, start: int = 0, seed: int = 0, split: str = "all") -> Chunk:
    """Return `steps` steps of BATCH streams from `start` on, whose chunks were `length` long."""
    stream = task.stream(split, batch=BATCH, length=length, seed=seed, start=start)
    chunk = joined(islice(stream, math.ceil(steps / length)))
    return chunk.between(0, steps)


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    """Return the text of an error, which must be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


# every task


def test_registry_builds_tasks_by_name() -> None:
    built = {name: type(make()) for name, make in TASKS.items()}
    spoken = {"speech": Speech, "speech_ctc": SpeechCTC}
    assert built == {
        "arrays": Arrays,
        "delay": Delay,
        "ecg": Ecg,
        "eeg": Eeg,
        "language": Language,
        "recordings": Recordings,
        **spoken,
    }
    assert TASKS["delay"](delay=6) == Delay(6)


@pytest.mark.parametrize("task", ALL, ids=type)
@pytest.mark.parametrize("length", [1, 7])
def test_shapes(task: Task, length: int) -> None:
    chunk = next(task.stream("all", batch=BATCH, length=length, seed=0))
    assert [field.shape for field in chunk[:4]] == [(BATCH, length)] * 4
    assert [field.dtype for field in chunk[:4]] == [torch.int64, torch.int64, torch.bool, torch.bool]
    long = take(task, 5000, length=100)
    assert task.spec.vocab is not None
    assert ((long.x >= 0) & (long.x < task.spec.vocab)).all()
    assert ((long.y >= 0) & (long.y < task.spec.d_out)).all()


@pytest.mark.parametrize("task", ALL, ids=type)
@pytest.mark.parametrize("length", [1, 7, 64, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("start", [0, 1, 2 * BLOCK])
def test_chunks_end_to_end_depend_neither_on_length_nor_on_start(task: Task, length: int, start: int) -> None:
    whole = take(task, STEPS, length=STEPS)
    steps = STEPS - start
    assert same(take(task, steps, length=length, start=start), whole.between(start))
    shifted = whole.between(start + 1)
    assert not same(take(task, steps - 1, length=length, start=start), shifted)  # control: one step off is noticed


@pytest.mark.parametrize("task", ALL, ids=type)
def test_streams_repeat_and_do_not_repeat_one_another(task: Task) -> None:
    one = take(task, 1000, length=10)
    assert same(one, take(task, 1000, length=10))
    assert not torch.equal(one.x[0], one.x[1])
    assert not torch.equal(take(task, 1000, length=10, split="valid").x, one.x)


@pytest.mark.parametrize("task", ALL, ids=type)
def test_reset_is_at_the_first_step_alone(task: Task) -> None:
    reset = take(task, STEPS, length=64).reset
    assert reset[:, 0].all()
    assert not reset[:, 1:].any()


@pytest.mark.parametrize("task", ALL, ids=type)
def test_nothing_labelled_has_loss_zero_with_a_graph(task: Task) -> None:
    chunk = take(task, 5, length=5)._replace(mask=torch.zeros(BATCH, 5, dtype=torch.bool))
    out = torch.randn(BATCH, 5, task.spec.d_out, requires_grad=True)
    loss = task.loss(out, chunk)
    loss.backward()
    assert loss.item() == 0
    assert out.grad is not None
    assert not out.grad.any()


@pytest.mark.parametrize("task", ALL, ids=type)
def test_unknown_split_is_an_error_at_once(task: Task) -> None:
    with pytest.raises(ValueError, match="split is 'test', expected one of train, valid, all") as error:
        task.stream("test", batch=1, length=1, seed=0)
    message(error)


# delay


def test_delay_differs_by_seed_and_split() -> None:
    streams = [
        take(Delay(), 500, length=50, seed=seed, split=split) for seed in (0, 1) for split in ("train", "valid", "all")
    ]
    assert len({tuple(stream.x.flatten().tolist()) for stream in streams}) == 6


def test_delay_stream_does_not_depend_on_batch() -> None:
    few, many = (joined(islice(Delay().stream("all", batch=b, length=100, seed=3), 20)) for b in (2, 5))
    assert same(few, many.map(lambda field: field[:2]))
    assert not torch.equal(few.x, many.x[2:4])  # control


def test_delay_may_start_anywhere() -> None:
    """The first 512 cycles, drawn at once, end near step 3584: to start there or beside it is like anywhere else."""
    whole = next(Delay(2).stream("all", batch=1, length=2 * BLOCK, seed=0))
    for start in range(3384, 3784):
        part = next(Delay(2).stream("all", batch=1, length=BLOCK, seed=0, start=start))
        assert same(part, whole.between(start, start + BLOCK))


@pytest.mark.parametrize("delay", [2, 5, 20])
def test_delay_cycles(delay: int) -> None:
    """Every recall asks for the last store, delay // 2 to delay steps before it; 0 to 9 noise steps follow it."""
    chunk = take(Delay(delay), STEPS, length=STEPS)
    waits, gaps, symbols = [], [], []
    for x, y, mask in zip(chunk.x, chunk.y, chunk.mask, strict=True):
        events = (x >= STORE).nonzero()[:, 0]
        stores, recalls = events[0::2], events[1::2]
        stores = stores[: len(recalls)]  # the last may wait for its recall still
        assert (x[recalls] == RECALL).all()
        assert (x[stores] < STORE + 8).all()
        assert torch.equal(y[recalls], x[stores] - STORE)
        assert torch.equal(mask.nonzero()[:, 0], recalls)
        waits += (recalls - stores).tolist()
        gaps += (stores[1:] - recalls[:-1] - 1).tolist()
        symbols += y[recalls].tolist()
    assert set(waits) == set(range(delay // 2, delay + 1))
    assert set(gaps) == set(range(10))
    assert np.bincount(symbols, minlength=8) / len(symbols) == pytest.approx(np.full(8, 1 / 8), abs=0.03)
    assert set(chunk.x.unique().tolist()) == {0, 1, 2, 3, *range(8, 16), 20}


def test_delay_label_is_not_in_the_input() -> None:
    """From the recall back to delay // 2 - 1 steps before it the input is noise, and it says nothing of the symbol."""
    chunk = take(Delay(20), STEPS, length=STEPS)
    streams, steps = chunk.mask[:, 10:].nonzero(as_tuple=True)
    labels = chunk.y[streams, steps + 10]
    assert (chunk.x[streams, steps + 10] == RECALL).all()
    assert len(labels.unique()) == 8
    for back in range(1, 10):
        noise = chunk.x[streams, steps + 10 - back]
        assert (noise < 4).all()
        means = torch.stack([noise[labels == symbol].double().mean() for symbol in range(8)])
        assert (means - 1.5).abs().max() < 0.35  # some 250 draws a symbol, standard error 0.07
    assert (chunk.x[streams, steps] >= STORE).any()  # control: ten steps before it the store may be


def test_delay_loss_is_the_sum_over_recalls_divided_by_streams() -> None:
    chunk = take(Delay(), 200, length=200)
    recalls = int(chunk.mask.sum())
    assert recalls > 0
    loss = Delay().loss(torch.zeros(BATCH, 200, 8), chunk)
    assert loss.item() == pytest.approx(recalls * math.log(8) / BATCH)


def test_delay_meters_and_baseline() -> None:
    chunk = take(Delay(), 2000, length=2000)
    meters = Delay().meters()
    for meter in meters.values():
        meter.update(10.0 * torch.nn.functional.one_hot(chunk.y, 8), chunk)
    assert meters["accuracy"].get() == 1
    assert meters["loss"].get() == pytest.approx(math.log(1 + 7 * math.exp(-10)), rel=1e-3)
    chance = Delay().baseline("all", batch=2, seed=0)["chance"]
    assert chance["accuracy"] == {"all": 0.125, "last_tenth": 0.125}
    assert chance["loss"] == {"all": math.log(8), "last_tenth": math.log(8)}
    assert chance.keys() == meters.keys()


def test_delay_names_itself_and_refuses_what_it_cannot_do() -> None:
    assert Delay(30).source == "simulated: store-recall, delay 30"
    assert Delay().steps("all", batch=4) is None
    with pytest.raises(ValueError, match="delay is 1, expected at least 2"):
        Delay(1)


# language


def write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_language_streams_are_contiguous_parts_and_targets_the_next_byte(tmp_path: Path, batch: int) -> None:
    data = np.random.default_rng(0).integers(256, size=1000).astype(np.uint8).tobytes()  # no UTF-8 at all
    task = Language(paths=(write(tmp_path / "a.bin", data),))
    n = task.steps("all", batch=batch)
    assert n == 999 // batch
    chunk = joined(task.stream("all", batch=batch, length=64, seed=0))
    assert chunk.x.shape == (batch, n)
    assert chunk.mask.all()
    assert bytes(chunk.x.flatten().tolist()) == data[: batch * n]
    assert bytes(chunk.y.flatten().tolist()) == data[1 : batch * n + 1]
    assert torch.equal(chunk.x[:, 1:], chunk.y[:, :-1])
    assert (chunk.x == chunk.y).double().mean() < 0.05  # control: the target is not the input


def test_language_last_chunk_is_shorter_and_start_may_be_the_end(tmp_path: Path) -> None:
    task = Language(paths=(write(tmp_path / "a.txt", bytes(range(24))),))
    assert [c.x.shape[1] for c in task.stream("all", batch=1, length=10, seed=0)] == [10, 10, 3]
    assert list(task.stream("all", batch=1, length=10, seed=0, start=23)) == []


def test_language_splits_are_the_first_nine_tenths_and_the_rest(tmp_path: Path) -> None:
    task = Language(paths=(write(tmp_path / "a.txt", bytes(range(200))),))
    chunks = {split: next(task.stream(split, batch=1, length=10, seed=0)) for split in ("all", "train", "valid")}
    assert [chunks[split].x[0, 0].item() for split in ("all", "train", "valid")] == [0, 0, 180]
    assert [task.steps(split, batch=1) for split in ("all", "train", "valid")] == [199, 179, 19]


def test_language_default_is_the_documentation_of_python() -> None:
    task = Language()
    assert task.source.startswith("documentation of Python 3.")
    assert task.steps("all", batch=1) > 300_000
    assert Language(max_bytes=1000).source.endswith(", 1,000 bytes")


def test_language_reads_folders_in_sorted_order_and_no_further_than_asked(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c/d.txt", "a.md"):
        write(tmp_path / "text" / name, name.encode())
    whole = Language(paths=(str(tmp_path / "text"),))
    text = bytes(next(whole.stream("all", batch=1, length=16, seed=0)).x[0].tolist())
    assert text == b"a.txtb.txtc/d.txt"[:16]
    assert whole.source == "file text/a.txt and 2 more, 17 bytes"
    assert Language(paths=whole.paths, max_bytes=5).source == "file text/a.txt, 5 bytes"
    assert Language(paths=whole.paths, max_bytes=6).source == "file text/a.txt and 1 more, 6 bytes"


def test_language_finds_a_corpus_under_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "warpeace" / "input.txt", b"Well, Prince")
    monkeypatch.setenv("BIOMAMBA_DATA", str(tmp_path))
    assert Language(corpus="warpeace").source == "file warpeace/input.txt, 12 bytes"
    with pytest.raises(FileNotFoundError, match="expected a folder wikitext2 in it: export BIOMAMBA_DATA=") as error:
        Language(corpus="wikitext2").steps("all", batch=1)
    assert str(tmp_path) in message(error)
    monkeypatch.delenv("BIOMAMBA_DATA")
    with pytest.raises(FileNotFoundError, match="BIOMAMBA_DATA, which is not set: export") as error:
        Language(corpus="warpeace").steps("all", batch=1)
    message(error)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"paths": ("a",), "corpus": "warpeace"}, "paths and corpus are given, expected at most one"),
        ({"corpus": "warpeace", "dataset": "a"}, "corpus and dataset are given, expected at most one"),
        ({"corpus": "enwik8"}, "corpus is 'enwik8', expected one of tinyshakespeare, warpeace, wikitext2"),
        ({"max_bytes": 1}, "max_bytes is 1, expected at least 2"),
    ],
)
def test_language_refuses_arguments_no_text_can_satisfy(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        TASKS["language"](**arguments)
    message(error)


def test_language_says_what_is_wrong_with_files(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for path, kind, said in [
        (str(tmp_path / "lost.txt"), FileNotFoundError, "no file or folder .*lost.txt: expected a text file"),
        (str(tmp_path / "nothing"), FileNotFoundError, r"nothing holds no \*.txt, expected at least one"),
        (write(tmp_path / "empty.txt", b""), ValueError, "empty.txt is empty, expected text"),
    ]:
        with pytest.raises(kind, match=said) as error:
            Language(paths=(path,)).stream("all", batch=1, length=1, seed=0)
        message(error)


def test_language_too_short_a_text_is_an_error_before_the_first_chunk(tmp_path: Path) -> None:
    task = Language(paths=(write(tmp_path / "a.txt", b"0123456789"),))
    with pytest.raises(ValueError, match="10 bytes: split all is too short, expected at least 11 bytes") as error:
        task.stream("all", batch=10, length=1, seed=0)
    message(error)
    with pytest.raises(ValueError, match="2 streams of 4 steps, expected at least one chunk of 5: lower") as error:
        task.stream("all", batch=2, length=5, seed=0)
    message(error)
    assert len(list(task.stream("all", batch=2, length=4, seed=0))) == 1  # control: one step less is enough


def test_language_loss_and_meters_of_a_uniform_guess() -> None:
    task = Language(max_bytes=1000)
    chunk = next(task.stream("all", batch=2, length=50, seed=0))
    out = torch.zeros(2, 50, 256)
    assert task.loss(out, chunk).item() == pytest.approx(math.log(256))
    half = chunk._replace(mask=torch.arange(50).expand(2, 50) < 25)
    assert task.loss(out, half).item() == pytest.approx(math.log(256))  # a mean: it does not grow with the labels
    meters = task.meters()
    for meter in meters.values():
        meter.update(out, chunk)
    assert meters["bits_per_byte"].get() == pytest.approx(8)
    assert meters["loss"].get() == pytest.approx(math.log(256))
    assert task.baseline("all", batch=2, seed=0, steps=5)["order5_counter"].keys() == meters.keys()


def test_language_baseline_counts_the_bytes_the_streams_predict(tmp_path: Path) -> None:
    data = b"abcd" * 50 + np.random.default_rng(0).integers(256, size=300).astype(np.uint8).tobytes()
    task = Language(paths=(write(tmp_path / "a.txt", data),))
    each = bits(data)
    for steps, total in [(None, 498), (100, 300), (10_000, 498)]:  # 3 streams of 499 // 3 = 166 steps
        score = task.baseline("all", batch=3, seed=0, steps=steps)["order5_counter"]
        assert score["bits_per_byte"]["all"] == pytest.approx(each[1 : total + 1].mean())
        assert score["bits_per_byte"]["last_tenth"] == pytest.approx(each[total * 9 // 10 + 1 : total + 1].mean())
        assert score["loss"]["all"] == pytest.approx(score["bits_per_byte"]["all"] * math.log(2))
    assert each[100:200].mean() < 0.5 < 7 < each[200:].mean()  # control: which bytes are counted matters


def folder_of_rows(folder: Path, column: str = "text") -> str:
    """Write a dataset of 100 rows of two words each and return its folder."""
    rows = "".join(json.dumps({column: f"row {i:03d}", "id": i}) + "\n" for i in range(100))
    write(folder / "data.jsonl", rows.encode())
    return str(folder)


def test_language_streams_a_local_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    pytest.importorskip("datasets")
    name = folder_of_rows(tmp_path / "rows")
    text = "\n".join(f"row {i:03d}" for i in range(100)).encode()
    task = Language(dataset=name)
    assert task.source == f"dataset {name}, 799 bytes"
    chunk = joined(task.stream("all", batch=2, length=100, seed=0))
    assert bytes(chunk.x.flatten().tolist()) == text[:798]
    assert Language(dataset=name, max_bytes=20).source == f"dataset {name}, 20 bytes"
    with pytest.raises(ValueError, match="has no text in column 'body', expected one of: text, id") as error:
        Language(dataset=name, column="body").steps("all", batch=1)
    message(error)
    file = tmp_path / "rows" / "data.jsonl"
    for damaged in (file.read_bytes()[:50] + b"{{", b"\xff" * 40):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"^dataset {name} cannot be read .*: restore it") as error:
            Language(dataset=name).steps("all", batch=1)
        message(error)
    for first, number in ((b" null\n", 1), (b"\xef\xbb\xbfnull {}\n", 1), (b'{"text": "null"}\nnull\n', 2)):
        whole = first + b'{"text": "a"}\n'  # a null that is the first ended the process, without a word
        for bad, data in ((file, whole), (file.with_suffix(".jsonl.gz"), gzip.compress(whole))):
            file.unlink(missing_ok=True)
            bad.write_bytes(data)
            with pytest.raises(ValueError, match=f"{bad.name}, line {number}: got null, expected an object"):
                Language(dataset=name).steps("all", batch=1)
            bad.unlink()


def test_language_takes_no_more_rows_of_a_dataset_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def load_dataset(name: str, split: str, streaming: bool) -> Iterator[dict[str, str]]:
        assert (name, split, streaming) == ("endless", "train", True)
        for row in range(100):
            taken.append(row)
            yield {"text": "four"}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert Language(dataset="endless", max_bytes=14).source == "dataset endless, 14 bytes"
    assert taken == [0, 1, 2]  # "four\nfour\nfour"
    taken.clear()
    assert Language(dataset="endless", max_bytes=15).source == "dataset endless, 15 bytes"
    assert taken == [0, 1, 2, 3]  # the newline is there only with a row after it


def test_language_without_datasets_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "biomamba\[lm\]"') as error:
        Language(dataset="anything").steps("all", batch=1)
    message(error)


# the byte counter


def test_counter_by_hand() -> None:
    """The five predictions of b"aabaa" at order 1, from p_(-1) = 1/256.

    a  nothing counted yet                                                      1/256
    a  "" -> a 1, T 1:       (1 + 1/256) / 2 = 257/512;  "a" is new             257/512
    b  "" -> a 2, T 1:       (0 + 1/256) / 3 = 1/768;    "a" -> a 1, T 1:       (0 + 1/768) / 2 = 1/1536
    a  "" -> a 2, b 1, T 2:  (2 + 2/256) / 5 = 257/640;  "b" is new             257/640
    a  "" -> a 3, b 1, T 2:  (3 + 2/256) / 6 = 385/768;  "a" -> a 1, b 1, T 2:  (1 + 2 385/768) / 4 = 769/1536
    """
    by_hand = [1 / 256, 257 / 512, 1 / 1536, 257 / 640, 769 / 1536]
    assert 2.0 ** -bits(b"aabaa", order=1) == pytest.approx(by_hand, rel=1e-12)
    assert 2.0 ** -bits(b"aab", order=0)[2] == pytest.approx(1 / 768, rel=1e-12)


def test_counter_gives_probabilities_and_does_not_look_ahead() -> None:
    past = b"the cat sat on the mat; the c"
    each = [bits(past + bytes([c])) for c in range(256)]
    assert sum(2.0 ** -one[-1] for one in each) == pytest.approx(1, rel=1e-12)
    assert all(np.array_equal(one[:-1], bits(past)) for one in each)
    assert each[ord("a")][-1] < 2 < each[ord("z")][-1]  # control: it has learnt something


@pytest.mark.skipif("BIOMAMBA_DATA" not in environ, reason="BIOMAMBA_DATA is not set: it names the folder of corpora")
def test_counter_on_tinyshakespeare() -> None:
    """The figures published with the corpus: bits per byte of the whole and of the last tenth."""
    score = Language(corpus="tinyshakespeare").baseline("all", batch=1, seed=0)["order5_counter"]["bits_per_byte"]
    assert (round(score["all"], 3), round(score["last_tenth"], 3)) == (2.289, 2.179)
