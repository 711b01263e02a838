"""A run of text goes on writing, and a learner serves lines: sampling, tokenizers, `sample` and `serve`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import biomamba
from biomamba import sampling
from biomamba.cli.main import main
from biomamba.cli.serve import answers
from biomamba.tasks.language import Language
from biomamba.tasks.tokens import Tokenizer

OUT = torch.tensor([2.0, 0.0, 1.0, -1.0])
TEXT = "the cat sat on the mat. " * 400


def test_shares_are_those_of_the_nucleus() -> None:
    plain = sampling.shares(OUT, 1.0, 1.0)
    torch.testing.assert_close(plain, OUT.double().softmax(0))
    torch.testing.assert_close(sampling.shares(OUT, 2.0, 1.0), (OUT.double() / 2).softmax(0))
    assert sampling.shares(OUT, 0.0, 1.0).tolist() == [1, 0, 0, 0]
    assert sampling.shares(OUT, 1.0, 1e-9).tolist() == [1, 0, 0, 0]
    two = sampling.shares(OUT, 1.0, 0.7)  # 0.64 and 0.24 hold it
    assert two.nonzero().flatten().tolist() == [0, 2] and two[0] / two[2] == pytest.approx(float(plain[0] / plain[2]))
    drawn = torch.Generator().manual_seed(0)
    counts = np.bincount([sampling.draw(OUT, 1.0, 1.0, drawn) for _ in range(4000)], minlength=4) / 4000
    assert np.abs(counts - plain.numpy()).max() < 0.03
    for temperature, top_p in ((-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.1)):
        with pytest.raises(ValueError, match=r"^(temperature|top_p): got"):
            sampling.check(temperature, top_p)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short run of the language config, n-gram tables included."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT)
    argv = ["train", "--config", "language", "--task.path", str(folder / "text.txt"), "--model.ngram_bits", "8"]
    argv += ["--model.d_model", "16", "--stream.batch", "2", "--stream.steps", "1600", "--run.baselines", "false"]
    assert main([*argv, "--run.dir", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_goes_on_with_its_text(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = ["sample", str(run), "--prompt", "the cat sat", "--count", "40", "--temperature", "0"]
    capsys.readouterr()
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert told.startswith("the cat sat on the mat. the cat sat on the mat")
    assert main(argv) == 0 and capsys.readouterr().out == told  # the run itself has learned nothing
    drawn = [argv[0], argv[1], *argv[2:6], "--temperature", "6", "--seed"]
    assert main([*drawn, "1"]) == 0
    one = capsys.readouterr().out
    assert main([*drawn, "1"]) == 0 and capsys.readouterr().out == one
    assert main([*drawn, "2"]) == 0 and capsys.readouterr().out != one
    learned = ["--learn", "true", "--save", str(tmp_path / "kept")]
    assert main(["sample", str(run), "--prompt", "a dog! " * 30, "--count", "14", "--temperature", "0", *learned]) == 0
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "kept"), "--prompt", "a dog", "--count", "6", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "a dog! a do\n"  # which it learned from its prompt
    assert main(["sample", str(run), "--prompt", "a dog", "--count", "6", "--temperature", "0"]) == 0
    assert capsys.readouterr().out != "a dog! a do\n"  # the control


def test_what_cannot_be_sampled_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(run), "--top_p", "2"]) == 2
    assert "top_p: got 2.0, expected a share above 0 and at most 1" in capsys.readouterr().err
    assert main(["sample", str(run), "--cuont", "2"]) == 2
    assert "expected biomamba sample RUN" in capsys.readouterr().err
    assert main(["sample", str(tmp_path)]) == 2
    with pytest.raises(ValueError, match=r"^prompt: got 0 tokens .* expected a prompt of at least one token$"):
        biomamba.load(run).sample([], 3)
    with pytest.raises(ValueError, match=r"^prompt: got 1 tokens .* expected a model of tokens$"):
        biomamba.classifier(inputs=1).sample([0], 3)


def tokenizer(folder: Path, lowercase: bool = False) -> Path:
    """Write a small byte-level tokenizer.json, learned from the text."""
    library = pytest.importorskip("tokenizers", reason="tokenizers is not installed: pip install tokenizers")
    own = library.Tokenizer(library.models.BPE())
    own.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = library.decoders.ByteLevel()
    if lowercase:
        own.normalizer = library.normalizers.Lowercase()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    own.train_from_iterator([TEXT], trainer)
    folder.mkdir(exist_ok=True)
    own.save(str(folder / "tokenizer.json"))
    return folder


def test_tokens_hold_every_byte_once(tmp_path: Path) -> None:
    text = TEXT[:500] + "Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n \N{CHECK MARK}\n\n  x"
    own = Tokenizer(tokenizer(tmp_path / "own"))
    found = own.encode(text)
    assert found.sizes is not None and found.sizes.sum() == len(text.encode()) and len(found.ids) < len(text)
    assert own.decode(found.ids.tolist()) == text
    (tmp_path / "text.txt").write_text(text * 4)
    task = Language(path=(str(tmp_path / "text.txt"),), tokenizer=str(tmp_path / "own"))
    chunks = list(task.stream("all", batch=1, length=7, seed=0))
    first = int(own.encode(text * 4).sizes[0])
    assert sum(int(chunk.info["bytes"].sum()) for chunk in chunks) == len((text * 4).encode()) - first
    meter = task.meters()["bits_per_byte"]
    for chunk in chunks:
        meter.update(torch.zeros(*chunk.y.shape, task.spec.d_out), chunk)
    tokens = sum(chunk.y.numel() for chunk in chunks)
    bits = tokens * np.log2(task.spec.d_out) / (len((text * 4).encode()) - first)
    assert meter.get() == pytest.approx(bits, rel=1e-9)
    counter = task.baseline("all", batch=1, seed=0)["order5_counter"]
    plain = Language(path=(str(tmp_path / "text.txt"),)).baseline("all", batch=1, seed=0)["order5_counter"]
    assert set(counter) == {"bits_per_byte"}  # over the same text but for its end
    assert counter["bits_per_byte"]["all"] == pytest.approx(plain["bits_per_byte"]["all"], rel=0.05)


def test_numbers_of_tokens_may_have_gaps_but_not_large_ones(tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "own") / "tokenizer.json"
    told, own = json.loads(path.read_text()), Tokenizer(path)
    often = own.own.id_to_token(int(np.bincount(own.encode(TEXT[:500]).ids).argmax()))
    (tmp_path / "text.txt").write_text(TEXT[:500])
    for last, fits in ((300, True), (10**6, False)):
        told["model"]["vocab"][often] = last
        path.write_text(json.dumps(told))
        if fits:
            task = Language(path=(str(tmp_path / "text.txt"),), tokenizer=str(path))
            chunk = next(task.stream("all", batch=1, length=140, seed=0))
            assert task.spec.d_out == 301 and bool((chunk.y < task.spec.d_out).all())
            assert chunk.y.max() == 300
        else:
            with pytest.raises(ValueError, match="with ids up to 1,000,000"):
                Tokenizer(path)


def test_a_tokenizer_on_which_its_library_panics_is_refused(tmp_path: Path) -> None:
    """A prefix that is longer than the words it is cut from: Rust ends what it does by what is no Exception."""
    path = tokenizer(tmp_path / "own") / "tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["continuing_subword_prefix"] = "##"
    told["model"]["merges"].insert(0, ["a", ""])
    told["model"]["vocab"][""] = len(told["model"]["vocab"])
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        Tokenizer(path)


@pytest.mark.parametrize("at", [0, 9, 300])
def test_a_tokenizer_of_other_bytes_is_refused(at: int, tmp_path: Path) -> None:
    path = tokenizer(tmp_path / "own") / "tokenizer.json"
    data = bytearray(path.read_bytes())
    data[at] = 0xBC
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        Tokenizer(path)


def test_a_run_of_tokens_learns_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    argv = ["train", "--config", "language", "--task.path", str(tmp_path / "text.txt"), "--model.ngram_bits", "8"]
    argv += ["--task.tokenizer", str(tokenizer(tmp_path / "own")), "--model.d_model", "16", "--stream.batch", "1"]
    assert main([*argv, "--run.dir", str(tmp_path / "run"), "--run.baselines", "false"]) == 0
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())["scores"]
    assert scores["bits_per_byte"]["last_tenth"] < 0.5
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "run"), "--prompt", "the cat", "--count", "12", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.startswith("the cat sat on the mat. ")
    begin = ["--run.dir", str(tmp_path / "other"), "--run.baselines", "false", "--model.from", str(tmp_path / "run")]
    assert main([*argv[:7], *begin]) == 2  # bytes
    assert "expected d_out 256, vocab 256" in capsys.readouterr().err
    held = json.loads((tokenizer(tmp_path / "turned") / "tokenizer.json").read_text())
    vocab = held["model"]["vocab"]
    held["model"]["vocab"] = {token: len(vocab) - 1 - number for token, number in vocab.items()}
    (tmp_path / "turned" / "tokenizer.json").write_text(json.dumps(held))
    assert main([*argv[:8], str(tmp_path / "turned"), *begin]) == 2  # as many tokens, others
    assert "has other tokens than" in capsys.readouterr().err
    assert main([*argv[:9], *begin, "--stream.steps", "16"]) == 0  # the control


def test_a_tokenizer_that_loses_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"do not give the text back as it was, so bits per byte would not be of this"):
        Tokenizer(tokenizer(tmp_path / "low", lowercase=True)).encode("The Cat")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is no tokenizer"):
        Tokenizer(tmp_path / "bad")
    with pytest.raises(FileNotFoundError, match=r"expected a folder with a tokenizer.json in task.tokenizer"):
        Tokenizer(tmp_path / "none")


@pytest.fixture(scope="module")
def valve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short run of a table in large units, whose class is the sign of its second column's deviation."""
    folder = tmp_path_factory.mktemp("valve")
    rows = [f"{5 + i % 3},{1000 + 50 * (-1) ** i},{'open' if i % 2 else 'shut'}" for i in range(900)]
    (folder / "valve.csv").write_text("\n".join(["a,b,state", *rows]) + "\n")
    argv = ["train", "--config", "arrays", "--task.path", str(folder / "valve.csv"), "--model.d_model", "16"]
    argv += ["--run.baselines", "false", "--stream.split", "train", "--run.dir", str(folder / "run")]
    assert main(argv) == 0
    return folder / "run"


def serve(folder: Path, lines: list[Any], *more: str) -> list[dict[str, Any]]:
    """Return the answers of a process to lines, each sent when the last was answered."""
    command, said = [sys.executable, "-m", "biomamba", "serve", str(folder), *more], list[dict[str, Any]]()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        for line in lines:
            print(line if isinstance(line, str) else json.dumps(line), file=process.stdin, flush=True)
            said.append(json.loads(process.stdout.readline()))
        process.stdin.close()
        assert process.wait() == 0 and process.stdout.read() == ""
    return said


def test_a_run_serves_rows_in_the_units_of_its_table(valve: Path, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "x": {"a": 5 + i % 3, "b": 1000 + 50 * (-1) ** i}} for i in range(8)]
    late = [{"id": f"r{i}", "y": "open" if i % 2 else "shut"} for i in (3, 0, 7, 3)]
    bad = ["nonsense", {"x": [1]}, {"y": "open"}, {"id": "r1", "y": "ajar"}]
    said = serve(valve, [*rows, *late, *bad], "--save", str(tmp_path))
    assert [one["id"] for one in said[:8]] == [f"r{i}" for i in range(8)]
    assert [one["prediction"] for one in said[2:8]] == ["shut", "open"] * 3  # numbers as in the file are understood
    assert set(said[0]["probabilities"]) == {"open", "shut"}
    assert [one["learned"] for one in said[8:12]] == [True, True, True, False] and "was answered" in said[11]["reason"]
    assert all("error" in one and "\n" not in one["error"] for one in said[12:])
    assert said[12]["error"].startswith("got ") and "expected JSON" in said[12]["error"]
    kept = biomamba.load(tmp_path)
    assert kept.predict_one({"a": 5, "b": 1050}) in ("open", "shut")  # names and units were kept with it
    held = serve(valve, [rows[0], {"id": "r0", "y": "open"}], "--learn", "false")
    assert held[1]["learned"] is False and held[1]["reason"].startswith("frozen")


def test_a_bad_line_changes_nothing() -> None:
    learner = biomamba.regressor(inputs=2)
    good: list[Any] = [{"x": [i % 2, 1.0], "y": 3.0 + i % 2} for i in range(10)]

    def lines(*more: str) -> Iterator[str]:
        for line in good:
            yield from more
            yield json.dumps(line)

    bad = ["{", "[]", "null", "[" * 10_000, '{"x": ["a", 2]}', '{"x": [1, 2, 3]}', '{"id": [1], "x": [1, 2]}']
    bad += ['{"y": 1}', '{"id": 9e99, "y": 1}', '{"x": [1, 2], "z": 3}']
    bad += ['{"x": [1, 9%s]}' % ("0" * length) for length in (400, 5000)]  # no float, and more than Python reads
    clean = [one for one in answers(biomamba.regressor(inputs=2), lines()) if "error" not in one]
    dirty = list(answers(learner, lines(*bad)))
    assert [one for one in dirty if "prediction" in one] == [one for one in clean if "prediction" in one]
    assert sum("error" in one or one.get("learned") is False for one in dirty) == 10 * len(bad)


def test_a_run_of_standard_input_is_served_without_reading_it_again(tmp_path: Path) -> None:
    rows = "".join(f"{i % 2},{10 + i % 2}\n" for i in range(60))
    argv = ["train", "--config", "arrays", "--task.path", "-", "--task.kind", "value", "--stream.steps", "60"]
    argv += ["--model.d_model", "8", "--run.baselines", "false", "--run.dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "biomamba", *argv], input=rows, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = serve(tmp_path / "run", [{"x": [i % 2]} for i in range(3)])
    assert len({one["id"] for one in said}) == 3 and all(isinstance(one["prediction"], float) for one in said)
