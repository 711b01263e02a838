"""Arithmetic coding comes back, costs what the probabilities ask for, and a text compressed by a learner comes back."""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomamba.cli.main import main
from biomamba.coder import TOTAL, Decoder, Encoder, shares
from biomamba.experiment import compress as compressing
from biomamba.experiment import schedule
from biomamba.experiment.compress import compress, decompress
from biomamba.experiment.parse import parse

TINY = ["--model.d_model", "4", "--model.d_state", "2", "--model.headdim", "4", "--model.ngram_bits", "6"]
TINY += ["--stream.length", "5", "--stream.batch", "3", "--run.threads", "1"]
TEXT = b"what came before comes again, " * 12 + bytes(range(256))


def settings(*words: str) -> object:
    return parse([*TINY, *words]).config


# the coder


@given(st.integers(1, 40), st.integers(0, 300), st.integers(0, 2**32 - 1), st.floats(0.01, 30))
def test_symbols_come_back_at_the_price_of_their_probabilities(n: int, count: int, seed: int, sharp: float) -> None:
    rng = np.random.default_rng(seed)
    p = np.exp(sharp * rng.standard_normal((count, n)))
    p /= p.sum(-1, keepdims=True)
    symbols, begins = rng.integers(0, n, count), shares(p)
    encoder = Encoder()
    for symbol, every in zip(symbols, begins, strict=True):
        encoder.write(int(every[symbol]), int(every[symbol + 1]))
    code = encoder.finish()
    decoder = Decoder(code)
    assert [decoder.read(every) for every in begins] == symbols.tolist()
    price = sum(math.log2(TOTAL / (every[s + 1] - every[s])) for s, every in zip(symbols, begins, strict=True))
    assert price - 1 <= 8 * len(code) <= price + 10 + 1e-3 * count


def test_every_symbol_has_a_share_and_they_fill_the_whole() -> None:
    begins = shares(np.array([[1.0, 0.0, 0.0], [1e-30, 1.0, 1e-30]]))
    assert begins[:, 0].tolist() == [0, 0] and begins[:, -1].tolist() == [TOTAL, TOTAL]
    assert (np.diff(begins) >= 1).all()


def test_a_decoder_with_other_shares_reads_something_else() -> None:
    """The control: it is the shares that tell the symbols."""
    rng = np.random.default_rng(0)
    p, symbols = rng.random((200, 5)), rng.integers(0, 5, 200)
    encoder = Encoder()
    for symbol, every in zip(symbols, shares(p), strict=True):
        encoder.write(int(every[symbol]), int(every[symbol + 1]))
    decoder = Decoder(encoder.finish())
    assert [decoder.read(every) for every in shares(p[::-1])] != symbols.tolist()


# texts


def with_header(made: bytes | bytearray, **changed: object) -> bytes:
    facts, code = compressing.opened(bytes(made))
    header = zlib.compress(json.dumps(facts | changed).encode())
    return compressing.MAGIC + len(header).to_bytes(4, "big") + header + code


def back(made: bytes) -> bytes:
    return decompress(made)


@pytest.mark.parametrize("size", [1, 2, 3, 14, 31, len(TEXT)])
@pytest.mark.parametrize("rule", ["rtrl", "bptt"])
def test_a_text_comes_back(size: int, rule: str) -> None:
    data = TEXT[:size]
    made = compress(data, settings("--rule.name", rule))  # type: ignore[arg-type]
    assert back(made) == data


SCHEDULES = {
    "linear": ["--optim.lr_end", "0.0001"],
    "cosine": ["--optim.schedule", "cosine", "--optim.warmup", "40"],
    "inverse_sqrt": ["--optim.schedule", "inverse_sqrt", "--optim.groups", "{head.weight: 0.5}"],
}


@pytest.mark.parametrize("words", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_is_followed_over_the_text(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rates, config = [], settings(*words)
    build: Callable[..., object] = compressing.build_learner

    def watched(*given: object) -> object:
        learner = build(*given)
        update, groups = learner.update, learner.optimizer.param_groups  # type: ignore[attr-defined]
        learner.update = lambda chunk: rates.append(groups[0]["lr"]) or update(chunk)  # type: ignore[attr-defined,func-returns-value]
        return learner

    monkeypatch.setattr(compressing, "build_learner", watched)
    made = compress(TEXT, config)  # type: ignore[arg-type]
    steps = -(-len(TEXT) // 3)
    assert rates == [schedule.rate(config.optim, at, steps, 5) for at in range(0, steps, 5)]  # type: ignore[attr-defined]
    assert len(set(rates)) > 30
    assert back(made) == TEXT


def test_the_size_is_the_prequential_score(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = []
    build: Callable[..., object] = compressing.build_learner

    def watched(*given: object) -> object:
        learner = build(*given)
        update = learner.update  # type: ignore[attr-defined]

        def reporting(chunk: object) -> object:
            reports.append(report := update(chunk))
            return report

        learner.update = reporting  # type: ignore[attr-defined]
        return learner

    monkeypatch.setattr(compressing, "build_learner", watched)
    data = TEXT * 4
    made = compress(data, settings())  # type: ignore[arg-type]
    bits = sum(
        -report.out.log_softmax(-1).gather(-1, report.chunk.y[..., None])[..., 0][report.chunk.mask].sum().item()
        for report in reports
    ) / math.log(2)
    code = 8 * len(compressing.opened(made)[1])
    assert bits <= code <= 1.005 * bits + 16
    assert code < 0.9 * 8 * len(data)  # control: something was learned
    assert len(made) - code / 8 < 400  # what the file says of itself


@pytest.mark.parametrize("damage", ["flip", "cut", "magic", "header", "size"])
def test_a_damaged_file_is_one_line(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bytearray(compress(TEXT[:90], settings()))  # type: ignore[arg-type]
    if damage == "flip":
        made[-9] ^= 4
    elif damage == "cut":
        del made[-20:]
    elif damage == "magic":
        made[0] ^= 1
    elif damage == "header":
        made[40] ^= 0x80
    else:
        made[:] = with_header(made, bytes=99_999_999_999)
    (tmp_path / "file").write_bytes(made)
    assert main(["decompress", str(tmp_path / "file"), "-o", str(tmp_path / "text")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"biomamba: {tmp_path}/file") and said.strip().count("\n") == 0
    assert not (tmp_path / "text").exists()


def test_another_machine_is_told_before_anything_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = compress(TEXT[:40], settings())  # type: ignore[arg-type]
    facts, _ = compressing.opened(made)
    (tmp_path / "file").write_bytes(with_header(made, machine=facts["machine"] | {"torch": "9.9"}))
    assert main(["decompress", str(tmp_path / "file"), "-o", str(tmp_path / "text")]) == 2
    assert "torch: the file was made with 9.9, here is" in capsys.readouterr().err


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, made, again = tmp_path / "a.txt", tmp_path / "a.bm", tmp_path / "b.txt"
    text.write_bytes(TEXT)
    assert main(["compress", str(text), "-o", str(made), *TINY]) == 0
    assert f"{made}: {made.stat().st_size:,} bytes of {len(TEXT):,}" in capsys.readouterr().out
    assert main(["decompress", str(made), "-o", str(again)]) == 0
    assert again.read_bytes() == TEXT
    assert json.loads(json.dumps(compressing.opened(made.read_bytes())[0]))["config"]["model.d_model"] == 4
    for words, said in (
        (["compress", str(text)], "got no file to write"),
        (["compress", str(tmp_path / "none"), "-o", str(made)], "No such file"),
        (["compress", str(text), "-o", str(made), *TINY, "--rule.window", "9"], "rule.window: got 9, expected null"),
        (["compress", str(text), "-o", str(made), *TINY, "--optim.average", "0.9"], "optim.average: got 0.9, expected"),
        (
            ["compress", str(text), "-o", str(made), *TINY, "--optim.warmup", "999"],
            "optim.warmup: got 999 steps, expec",
        ),
        (["compress", str(text), "-o", str(made), *TINY, "--task.name", "delay"], "expected a task of bytes"),
        (["decompress", str(made), "-o", str(again), "--x"], "decompress: got --x"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
