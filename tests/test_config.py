"""Configs: every one runs, and every mistake is one line that names the key."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

import biomamba
from biomamba import threads
from biomamba.blocks import BLOCKS
from biomamba.cli.compare import Compare
from biomamba.cli.main import main
from biomamba.experiment import build, config
from biomamba.experiment.parse import parse as parse_words
from biomamba.rules import RULES
from biomamba.tasks import TASKS

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
DELAY = next(path for path in CONFIGS if path.stem == "delay")


def parse(*words, path=DELAY, command=None):
    return parse_words(["--config", str(path), *words], command)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("block", [name for name in BLOCKS if BLOCKS[name].diagonal])
def test_every_config_takes_two_steps(path, block, tmp_path):
    two_steps(path, block, "rtrl", tmp_path)


@pytest.mark.parametrize("block", [name for name in BLOCKS if not BLOCKS[name].diagonal])
def test_blocks_without_a_trace_take_two_steps(block, tmp_path):
    two_steps(DELAY.with_stem("arrays"), block, "bptt", tmp_path)


def two_steps(path, block, rule, tmp_path):
    """Run the first two updates of a config with a block."""
    length = parse(path=path).config.stream.length
    words = ["--model.block", block, "--rule.name", rule, "--run.baselines=false", "--run.threads", "1"]
    words += ["--stream.batch", "2", "--stream.steps", str(2 * length), "--run.dir", str(tmp_path / "run")]
    assert main(["train", "--config", str(path), *words]) == 0
    summary = yaml.safe_load((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2 * length
    assert summary["block"] == block


@pytest.mark.usefixtures("all_threads")
@pytest.mark.skipif(threads.available() < 2, reason="this process has one core: two threads are refused")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_learns_the_same_on_two_threads(path, tmp_path):
    """Our kernels give the same bits; torch's own sums may differ in the last ones."""
    length, found = parse(path=path).config.stream.length, []
    for count in (1, 2):
        words = ["--stream.batch", "2", "--stream.steps", str(2 * length), "--run.baselines=false"]
        words += ["--run.threads", str(count), "--run.dir", str(tmp_path / str(count))]
        assert main(["train", "--config", str(path), *words]) == 0
        summary = yaml.safe_load((tmp_path / str(count) / "summary.json").read_text())
        assert summary["threads"] == count and summary["skipped"] == 0
        scored = {name: own["all"] for name, own in summary["scores"].items()}
        found.append({name: score for name, score in scored.items() if score is not None})
    assert found[1] == pytest.approx(found[0], rel=1e-3, nan_ok=True)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rule", RULES)
def test_written_config_reads_back_the_same(task, rule, tmp_path):
    first = parse("--task.name", task, "--rule.name", rule, "--optim.betas", "[0.8, 0.95]", "--optim.lr", "1e-5").config
    (tmp_path / "again.yaml").write_text(config.to_yaml(first))
    assert parse(path=tmp_path / "again.yaml").config == first
    assert first.optim.lr == 1e-5
    assert first.optim.betas == (0.8, 0.95)


@pytest.mark.parametrize(
    "words, line",
    [
        (["--run.sede", "3"], "run.sede: unknown key; did you mean run.seed?"),
        (["--seed", "3"], "seed: unknown key; did you mean run.seed?"),
        (["--nothing", "3"], "nothing: unknown key; expected one of task, model, rule, optim, stream, run"),
        (["--run.seed", "x"], "run.seed: got 'x', expected a whole number, 0 or more"),
        (["--run.seed", "1.5"], "run.seed: got '1.5', expected a whole number, 0 or more"),
        (["--run.seed"], "run.seed: got nothing, expected one value"),
        (["--run.seed", "1", "2"], "run.seed: got 1 2, expected one value"),
        (["--stream.length", "0"], "stream.length: got '0', expected a whole number above 0"),
        (["--rule.window", "x"], "rule.window: got 'x', expected a whole number above 0 or null"),
        (["--optim.lr", "9" * 400], "optim.lr: got 99999999999999999999..., expected a finite number"),
        (["--run.dtype", "bfloat16"], "run.dtype: got 'bfloat16', expected float32 or float64"),
        (
            ["--task.name", "dely"],
            "task.name: got 'dely', expected one of arrays, delay, ecg, eeg, language, recordings, speech, speech_ctc; "
            "did you mean delay?",
        ),
        (["--model.block", "s5"], "model.block: got 's5', expected one of diagonal, mamba, mamba2"),
        (
            ["--rule.name", "bp"],
            "rule.name: got 'bp', expected one of bptt, rtrl, rtrl_stdp, factored, stllr, uoro; did",
        ),
        (["--optim.name", "lion"], "optim.name: got 'lion', expected one of adam, adamw, sgd, rmsprop"),
        (["--run.seed", str(2**64)], f"run.seed: got {2**64}, expected a whole number below 2**63"),
        (["--run.threads", "0"], "run.threads: got '0', expected a whole number above 0 or null"),
        (["--run.threads", "100000"], "run.threads: got 100000, expected at most the "),
        (["--optim.lr", "inf"], "optim.lr: got 'inf', expected a finite number"),
        (["--optim.lr", "1e400"], "optim.lr: got '1e400', expected a finite number"),
        (["--optim.betas", "[0.9, .inf]"], "optim.betas: got '[0.9, .inf]', expected a finite number"),
        (["--config", "a", "b"], "config: got a b, expected a file or a name after each --config"),
        (["--model", "x.yaml"], "model: is a section, expected its keys, such as model."),
        (["--task.class_path", "os.system"], "task.class_path: unknown key"),
        (["--rule.name", "biomamba.rules.RTRL"], "rule.name: got 'biomamba.rules.RTRL', expected one of"),
    ],
)
def test_mistakes_on_the_command_line(words, line, capsys):
    assert main(["train", "--config", str(DELAY), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"biomamba: {line}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "text, line",
    [
        ("run: {sede: 3}", "run.sede: unknown key; did you mean run.seed?"),
        ("run: {seed: abc}", "run.seed: got 'abc', expected a whole number"),
        ("run: {dir: 3}", "run.dir: got 3, expected text or null"),
        ("run: {seed: {class_path: os.system}}", "run.seed: got {'class_path': 'os.system'}, expected"),
        ("rule: {class_path: biomamba.rules.RTRL}", "rule.class_path: unknown key"),
        ("task: {name: [delay]}", "task.name: got ['delay'], expected one of"),
        ("model: 3", "model: is a section"),
        ("modle: {block: mamba}", "modle.block: unknown key; did you mean model.block?"),
        ("optim: {betas: 0.9}", "optim.betas: got 0.9"),
        ("run: [1\nseed: 2", "config: "),
        ("run: {seed: 0, seed: 5}", "config: "),
        ("run: {seed: 0}\ntask: {name: delay}\nrun: {seed: 5}", "config: "),
        ("optim: {lr: .inf}", "optim.lr: got inf, expected a finite number"),
        ("optim: {lr: 1e400}", "optim.lr: got '1e400', expected a finite number"),
        ("- 1", "config: "),
        ("run: {seed: !!python/object/apply:os.getcwd []}", "config: "),
    ],
)
def test_mistakes_in_a_file(text, line, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "bad.yaml"), "--run.dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"biomamba: {line}")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_missing_file_is_one_line(capsys):
    assert main(["train", "--config", "no.yaml"]) == 2
    assert capsys.readouterr().err == (
        "biomamba: config: no file no.yaml, expected a YAML file or one of an4, arrays, "
        "delay, ecg, eeg, fsdd, keywords, language, recordings\n"
    )


def test_options_follow_the_name_and_a_file_may_hold_others(tmp_path):
    """A file of the package says nothing of them, one of the user's a note."""
    stdp = parse("--rule.name", "rtrl_stdp", "--rule.a_post", "0.1", "--model.block", "mamba")
    assert stdp.config.rule.options == {"a_post": 0.1, "lam": 0.5, "trace_dtype": None}
    assert "headdim" not in stdp.config.model.options
    assert stdp.notes == []
    (tmp_path / "own.yaml").write_text(DELAY.read_text() + "  resume: false\n")
    assert parse("--rule.name", "rtrl", "--model.block", "mamba", path=tmp_path / "own.yaml").notes == [
        "model.headdim is ignored: model.block mamba has no such option"
    ]
    assert parse("--model.block", "mamba2", path=tmp_path / "own.yaml").notes == [
        "model.conv is ignored: model.block mamba2 has no such option"
    ]


@pytest.mark.parametrize(
    "words, line",
    [
        (["--rule.a_post", "0.1"], "rule.a_post: rule.name rtrl has no such option; it has name, window, feedback, "),
        (["--task.path", "x"], "task.path: task.name delay has no such option; it has name, delay"),
        (
            ["--task.name", "arrays", "--task.paths", "x"],
            "task.paths: task.name arrays has no such option; did you mean ",
        ),
        (["--model.block", "mamba", "--model.headdim", "4"], "model.headdim: model.block mamba has no such option; it"),
    ],
)
def test_an_option_given_by_hand_must_apply(words, line, tmp_path, capsys):
    assert main(["train", "--config", str(DELAY), *words, "--run.dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"biomamba: {line}") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_option_of_any_rule_that_a_command_tries_may_be_given():
    words = ["--config", str(DELAY), "--rule.a_post", "0.1"]
    tried = parse_words([*words, "--rules", "bptt,rtrl_stdp"], Compare)
    assert tried.config.rule.options == {"trace_dtype": None, "influences": None} and tried.notes == []
    with pytest.raises(ValueError, match=r"rule\.a_post: rule\.name rtrl has no such option"):
        parse_words([*words, "--rules", "bptt"], Compare)


def test_files_are_laid_over_each_other_in_their_order(tmp_path):
    for name, text in {"a": "optim: {lr: 0.5, clip: 3}", "b": "optim: {lr: 0.25}"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    words = {name: ["--config", str(tmp_path / f"{name}.yaml")] for name in ("a", "b")}
    for order, lr in (("ab", 0.25), ("ba", 0.5)):
        optim = parse(*(word for name in order for word in words[name]), "--optim.momentum", "0.5").config.optim
        assert (optim.lr, optim.clip, optim.momentum) == (lr, 3.0, 0.5)
    assert parse(*words["a"], "--optim.lr", "0.125", *words["b"]).config.optim.lr == 0.125
    assert parse(*words["a"]).config.task.options == {"delay": 20}  # of the first file


def test_print_config_prints_what_reads_back_the_same(tmp_path, capsys):
    words = ["--rule.name", "stllr", "--optim.betas", "[0.8, 0.95]"]
    with pytest.raises(SystemExit) as stopped:
        parse(*words, "--print_config")
    assert stopped.value.code == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert parse(path=tmp_path / "printed.yaml").config == parse(*words).config


def test_print_completion_completes_options(capsys, monkeypatch):
    pytest.importorskip("shtab", reason='shtab writes completions: pip install "biomamba[completion]"')
    with pytest.raises(SystemExit) as stopped:
        parse("--print_completion", "bash")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "complete " in said and "--model.headdim" in said and "--model.conv" not in said
    with pytest.raises(ValueError, match="print_completion: got dash, expected one of bash"):
        parse("--print_completion", "dash")
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ImportError, match=r'pip install "biomamba\[completion\]"'):
        parse("--print_completion", "bash")


def test_language_takes_path_and_paths():
    for key in ("path", "paths"):
        assert parse("--task.name", "language", f"--task.{key}", "a.txt").config.task.options[key] == ("a.txt",)


def test_null_is_the_default_where_it_is_no_value(tmp_path):
    (tmp_path / "null.yaml").write_text("model: {headdim: null, block: mamba2}\noptim: {clip: null}\n")
    parsed = parse(path=tmp_path / "null.yaml").config
    assert parsed.model.options["headdim"] == 64
    assert parsed.optim.clip is None


def test_lists_and_flags_of_the_command_line():
    parsed = parse("--task.name", "language", "--task.paths", "a b.txt", "c.txt", "--run.overwrite").config
    assert parsed.task.options["paths"] == ("a b.txt", "c.txt")
    assert parsed.run.overwrite
    assert parse("--task.name", "language", "--task.paths=a.txt").config.task.options["paths"] == ("a.txt",)


def test_command_line_wins_wherever_it_stands():
    words = ["--run.seed", "7", "--config", str(DELAY), "--stream.batch=3"]
    parsed = parse_words(words).config
    assert (parsed.run.seed, parsed.stream.batch) == (7, 3)


def test_a_command_has_options_of_its_own():
    @dataclass(frozen=True)
    class Command:
        """Do something.

        often: how many times
        """

        often: int = 1

    assert parse("--often", "3", command=Command).command.often == 3
    with pytest.raises(ValueError, match="often: unknown key"):
        parse("--often", "3")


def test_difference_names_the_first_key_that_matters():
    lr = ["--optim.lr", "0.25"]
    old = config.flatten(config.to_dict(parse(*lr).config))
    same = config.to_dict(parse(*lr, "--run.threads", "2", "--run.dir", "x").config)
    assert config.difference(old, config.flatten(same)) is None
    changed = config.to_dict(parse("--optim.lr", "0.5").config)
    assert config.difference(old, config.flatten(changed)) == "optim.lr: the run has 0.25, given is 0.5"


@pytest.mark.parametrize("command", ["train", "compare", "evaluate"])
def test_help_names_every_key_with_its_meaning(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help", "--task.name", "delay"][: 2 if command == "evaluate" else 4])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in ("--run.seed", "draws the weights", "--model.headdim", "rule: How the past gets", "diagonal, mamba"):
        assert text in said
    assert ("--task.delay" in said) == (command != "evaluate")
    assert ("--split" in said) == (command == "evaluate")
    assert ("--jobs" in said) == (command == "compare")


@pytest.mark.parametrize(
    "key, words, value",
    [
        ("model.ngrams", ["2", "3", "4"], (2, 3, 4)),
        ("model.ngrams", ["[2, 3]"], (2, 3)),
        ("model.ngrams", ["2,3"], (2, 3)),
        ("model.ngrams", ["5"], (5,)),
        ("model.ngrams", ["[]"], ()),
        ("model.timescales", ["10", "200"], (10.0, 200.0)),
        ("model.timescales", ["null"], None),
        ("model.timescales", ["auto"], "auto"),
        ("optim.betas", ["0.8", "0.95"], (0.8, 0.95)),
    ],
)
def test_a_list_is_given_as_words_or_as_yaml(key, words, value):
    section, _, name = key.partition(".")
    assert getattr(getattr(parse(f"--{key}", *words).config, section), name) == value


@pytest.mark.parametrize("words", [["2", "x"], ["0"], ["-1"]])
def test_a_list_of_something_else_is_one_line(words):
    with pytest.raises(ValueError, match=r"model\.ngrams: got") as error:
        parse("--model.ngrams", *words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words, scales",
    [
        (["--task.delay", "300"], (100.0, 900.0)),
        (["--task.delay", "2"], (1.0, 6.0)),
        (["--task.delay", "300", "--model.timescales", "10", "200"], (10.0, 200.0)),
        (["--task.delay", "300", "--model.timescales", "null"], None),
        (["--task.delay", "300", "--model.dt_min", "0.02"], None),  # what the block is told itself stays
        (["--task.name", "arrays"], None),  # no horizon is stated: the official initialisation
        (["--task.name", "arrays", "--task.horizon", "30"], (10.0, 90.0)),
    ],
)
def test_time_constants_come_from_the_horizon_of_the_task(words, scales, tmp_path):
    (tmp_path / "plain.yaml").write_text("task: {name: delay}\nmodel: {d_model: 8, d_state: 2, headdim: 1}\n")
    own = parse(*words, path=tmp_path / "plain.yaml").config
    task = build.task_of(own)
    assert build.timescales(own, task) == scales
    model = build.build_model(own, task)
    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_state": 2, "headdim": 1, "timescales": scales, "dt_min": own.model.options["dt_min"]}
    same = biomamba.Model(**task.spec._asdict(), **sizes)
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, same.state_dict()[name])


def test_time_constants_are_left_to_a_block_that_has_none():
    class Own(BLOCKS["diagonal"]):
        def __init__(self, d_model: int, d_state: int = 2) -> None:
            super().__init__(d_model, d_state)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(BLOCKS.own, "own", Own)
        own = parse("--model.block", "own").config
        assert build.timescales(own, build.task_of(own)) is None
