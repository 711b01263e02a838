"""Warm starts: a run begins where another, a saved learner or official weights are, `evaluate` keeps what it made."""

from pathlib import Path

import pytest
import torch
import yaml

import biomamba
from biomamba import checkpoint
from biomamba.cli.main import main

TINY = ["--config", "delay", "--config", str(Path(__file__).parent / "tiny.yaml"), "--run.baselines", "false"]


def train(folder: Path, *words: str) -> int:
    return main(["train", *TINY, "--run.dir", str(folder), *words])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that has learned a little."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    assert train(folder, "--model.d_model", "12", "--optim.lr", "0.01", "--stream.steps", "400") == 0
    return folder


def test_a_run_begins_where_another_ended_in_its_sizes(learned: Path, tmp_path: Path) -> None:
    biomamba.load(learned).save(tmp_path / "saved")
    for source in (learned, tmp_path / "saved"):
        folder = tmp_path / f"from-{source.name}"
        words = ("--model.from", str(source), "--optim.lr", "1e-12", "--run.seed", "5")
        assert train(folder, *words) == 0
        ours, _ = checkpoint.load(folder / "model.safetensors")
        theirs, _ = checkpoint.load(learned / "model.safetensors")
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-7) for name in theirs)
        sizes = yaml.safe_load((folder / "config.yaml").read_text())["model"]
        assert (sizes["d_model"], sizes["d_state"], sizes["headdim"], sizes["from"]) == (12, 4, 4, str(source))
    assert train(tmp_path / "anew", "--run.seed", "5", "--model.d_model", "12") == 0  # control
    theirs, _ = checkpoint.load(learned / "model.safetensors")
    anew, _ = checkpoint.load(tmp_path / "anew" / "model.safetensors")
    assert not torch.allclose(anew["head.weight"], theirs["head.weight"], atol=1e-3)
    (tmp_path / "saved" / "learner.safetensors").unlink()
    (tmp_path / "saved").rmdir()  # a run keeps weights of its own: nothing of it needs what it began from
    assert main(["evaluate", str(tmp_path / "from-saved"), "--steps", "20"]) == 0
    assert biomamba.load(tmp_path / "from-saved").model.arguments["d_model"] == 12


def test_official_weights_begin_a_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: it writes official weights")
    from transformers import Mamba2Config, Mamba2ForCausalLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 4, "num_heads": 4, "head_dim": 4, "n_groups": 1}
    for vocab in (256, 300, 512):
        torch.manual_seed(0)
        official = Mamba2ForCausalLM(Mamba2Config(vocab_size=vocab, tie_word_embeddings=False, **sizes))
        official.save_pretrained(tmp_path / f"official-{vocab}")
    text = ["--config", "language", "--task.path", str(Path(__file__).parents[1] / "LICENSE"), "--stream.steps", "64"]
    text += ["--run.baselines", "false", "--optim.lr", "1e-12", "--model.from"]
    assert main(["train", *text, str(tmp_path / "official-256"), "--run.dir", str(tmp_path / "run")]) == 0
    ours, _ = checkpoint.load(tmp_path / "run" / "model.safetensors")
    theirs = biomamba.load_pretrained(tmp_path / "official-256").state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-7) for name in theirs)
    assert main(["train", *text, str(tmp_path / "official-300"), "--run.dir", str(tmp_path / "padded")]) == 0
    padded, _ = checkpoint.load(tmp_path / "padded" / "model.safetensors")
    whole = biomamba.load_pretrained(tmp_path / "official-300").state_dict()
    assert torch.allclose(padded["head.weight"], whole["head.weight"][:256], atol=1e-7)
    assert main(["train", *text, str(tmp_path / "official-512"), "--run.dir", str(tmp_path / "other")]) == 2


def test_what_does_not_fit_is_one_line(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, words, said in [
        (tmp_path / "nothing", TINY, "expected a finished run, a saved learner or official weights"),
        (learned, ["--config", "arrays"], "has d_out 8, vocab 21, expected d_out 2, d_in 2"),
        (learned, [*TINY, "--task.symbols", "4"], "expected"),
    ]:
        code = main(["train", *words, "--model.from", str(source), "--run.dir", str(tmp_path / "run")])
        error = capsys.readouterr().err
        assert code == 2 and said in error and error.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_evaluate_keeps_what_it_adapted(learned: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(learned), "--steps", "40", "--save", str(tmp_path / "kept")]) == 0
    kept = biomamba.load(tmp_path / "kept")
    assert kept.state is not None and kept.state.steps == 40 and kept.streams == 2
    weights, _ = checkpoint.load(learned / "model.safetensors")
    assert kept.drift() > 0 and not torch.equal(kept.model.head.weight, weights["head.weight"])
    before = kept.state.updates
    for report in biomamba.online(kept.task.stream("all", batch=2, length=1, seed=0), kept):
        if report.state.steps == 60:
            break
    assert report.state.updates > before and report.state.skipped == 0


def test_evaluate_keeps_one_learner_a_person(tmp_path: Path) -> None:
    pytest.importorskip("neurokit2", reason="neurokit2 is not installed: it simulates the beats")
    run, words = tmp_path / "run", ["--config", "ecg", "--task.simulate", "true", "--run.baselines", "false"]
    words += ["--run.held_out", "false", "--stream.batch", "3", "--stream.steps", "256", "--task.decimate", "60"]
    assert main(["train", *words, "--run.dir", str(run)]) == 0
    kept = tmp_path / "kept"
    assert main(["evaluate", str(run), "--each", "--steps", "64", "--save", str(kept)]) == 0
    people = sorted(path.name for path in kept.iterdir())
    assert people == [f"simulated-test-{i}" for i in range(3)]
    learners = [biomamba.load(kept / name) for name in people]
    assert len({float(own.model.head.weight.detach().sum()) for own in learners}) == 3
    assert {own.state.steps for own in learners if own.state is not None} == {64}
    assert learners[0].rows.classes == ["N", "S", "V", "F", "Q"]
