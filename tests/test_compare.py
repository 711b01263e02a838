"""Comparisons: what varies, what is tuned, what is taken up again, and what is said of it."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import biomamba
from biomamba.analysis.paired import interval, paired
from biomamba.cli import compare
from biomamba.cli.compare import Compare, grounds
from biomamba.cli.main import main
from biomamba.cli.tuning import candidates, choose, run_name, tuning_runs
from biomamba.cli.variants import untraced, variants, words
from biomamba.experiment import jobs
from biomamba.experiment.build import Experiment
from biomamba.experiment.parse import parse
from biomamba.experiment.run import Run
from biomamba.report import exports, figures
from biomamba.report.text import loud
from biomamba.report.verdict import verdict

TINY = ["--config", "delay", "--config", str(Path(__file__).parent / "tiny.yaml")]
BARE = ["--costs", "false", "--fidelity", "0", "--run.baselines", "false"]


def plan_of(*given):
    argv = [*TINY, *given]
    parsed = parse(argv, Compare)
    return variants(argv, parsed.command, parsed.config)


def learn_here(commands, folder, at_once, tolerant=False, launch=None):
    """Stand for `jobs.run_all`: the same runs one after another in this process, which starts sooner."""
    for command in commands.values():
        code = main(command[command.index("train") :])
        if code and not (tolerant and code == jobs.USER_ERROR):
            raise ChildProcessError("failed")


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(jobs, "run_all", learn_here)


def test_every_combination_of_what_varies_is_a_setting():
    plan = plan_of("--rules", "rtrl,bptt", "--vary", "optim.lr=1e-3,0.1", "model.d_state=4,8")
    assert len(plan) == 8
    assert plan["bptt-length1-lr0.1-d_state8"].optim.lr == 0.1
    assert plan["bptt-length1-lr0.1-d_state8"].model.options["d_state"] == 8
    assert plan == plan_of("--rules=rtrl,bptt", "--vary=optim.lr=1e-3,0.1", "--vary=model.d_state=4,8")
    assert len({str(own) for own in plan.values()}) == 8


def test_what_a_rule_or_block_does_not_have_does_not_multiply_it():
    assert list(plan_of("--rules", "bptt,rtrl_stdp", "--vary", "rule.a_post=0,0.1")) == [
        "bptt-length1",
        "rtrl_stdp-length1-a_post0",
        "rtrl_stdp-length1-a_post0.1",
    ]
    blocks = plan_of("--rules", "bptt", "--vary", "model.block=mamba,diagonal", "model.conv=exact,direct")
    assert list(blocks) == [
        "bptt-length1-blockmamba-convexact",
        "bptt-length1-blockmamba-convdirect",
        "bptt-length1-blockdiagonal",
    ]


def test_rules_that_keep_traces_leave_out_blocks_that_have_none():
    given = ["--rules", "rtrl,bptt,uoro", "--vary", "model.block=diagonal,gru"]
    assert list(plan_of(*given)) == [
        "rtrl-length1-blockdiagonal",
        "bptt-length1-blockdiagonal",
        "bptt-length1-blockgru",
        "uoro-length1-blockdiagonal",
    ]
    argv = [*TINY, *given]
    parsed = parse(argv, Compare)
    assert untraced(parsed.command, parsed.config) == [
        "rule rtrl keeps traces, which block gru does not have: left out",
        "rule uoro keeps traces, which block gru does not have: left out",
    ]
    with pytest.raises(ValueError, match="rule rtrl keeps traces, which block lstm does not have: left out: give"):
        plan_of("--rules", "rtrl", "--model.block", "lstm")


def test_lists_are_values_too():
    assert words("[1,2],3, null") == ["[1,2]", "3", "null"]
    plan = plan_of("--rules", "bptt", "--vary", "model.ngrams=[1,2],[3]")
    assert [own.model.ngrams for own in plan.values()] == [(1, 2), (3,)]


@pytest.mark.parametrize(
    "given, line",
    [
        (["--vary", "optim.lr"], "vary: got 'optim.lr', expected KEY=v1,v2,... such as optim.lr=1e-3,3e-3"),
        (["--vary", "optim.lr=1,"], "vary: got 'optim.lr=1,', expected KEY"),
        (["--vary", "rule.name=rtrl"], "vary: got rule.name: give --rules"),
        (["--vary", "run.seed=1,2"], "vary: got run.seed: give --seeds"),
        (["--vary", "run.dir=a,b"], "vary: got run.dir which changes no score, expected another key"),
        (["--vary", "optim.lr=1", "optim.lr=2"], "vary: got optim.lr twice"),
        (["--vary", "optim.lr=1e-3,x"], "optim.lr: got 'x', expected a number above 0"),
        (["--vary", "optim.rate=1"], "optim.rate: unknown key"),
        (["--vary", "rule.a_post=1", "--rules", "rtrl"], "rule.a_post: rule.name rtrl has no such option"),
        (["--vary", "model.from=a/b,a_b"], "vary: two settings are called"),
        (["--tune", "optim.lr"], "tune: got 'optim.lr', expected KEY"),
        (["--tune_on", "half", "--tune", "optim.lr=1,2"], "tune_on: got 'half', expected"),
    ],
)
def test_what_cannot_vary_is_one_line(given, line, capsys):
    assert main(["compare", *TINY, *given]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1


def test_baselines_are_told_apart_where_they_differ():
    assert set(grounds(plan_of("--vary", "optim.lr=1e-3,1e-2")).values()) == {""}
    varied = grounds(plan_of("--rules", "rtrl", "--vary", "task.delay=4,5", "optim.lr=1e-3,1e-2"))
    assert varied["rtrl-length1-delay4-lr1e-3"] == varied["rtrl-length1-delay4-lr1e-2"] == "delay 4"
    assert varied["rtrl-length1-delay5-lr1e-3"] == "delay 5"


def scored(tmp_path, scores):
    """Return what learns nothing, but leaves a summary with the score of each run where it has one."""

    def learn(plan, tolerant=False):
        assert tolerant
        for name in plan:
            folder = tmp_path / name
            folder.mkdir(parents=True)
            value = scores(name)
            if value is not None:
                text = {"scores": {"accuracy": {"all": value}, "loss": {"all": value}, "drifts": {"all": value}}}
                (folder / "summary.json").write_text(json.dumps(text))
        return {name: tmp_path / name for name in plan if (tmp_path / name / "summary.json").exists()}

    return learn


def tuned(tmp_path, scores, *given):
    argv = [*TINY, "--rules", "rtrl,rtrl_stdp", *given]
    parsed = parse(argv, Compare)
    return choose(candidates(argv, parsed.command, parsed.config), parsed.command, scored(tmp_path, scores))


def test_each_setting_gets_the_value_that_is_best_for_it(tmp_path):
    def scores(name):
        return {True: {"1e-3": 0.2, "1e-2": 0.4, "0.1": 0.3}, False: {"1e-3": 0.5, "1e-2": 0.4, "0.1": None}}[
            name.startswith("rtrl-")
        ][name.split("-seed")[0].split("lr_")[1]]

    plan, said = tuned(tmp_path / "up", lambda name: scores(name), "--tune", "optim.lr=1e-3,1e-2,0.1")
    assert {label: own.optim.lr for label, own in plan.items()} == {"rtrl-length1": 0.01, "rtrl_stdp-length1": 0.001}
    assert said["score"] == "accuracy" and said["on"] == "the whole stream, seeds 1000, 1001"
    assert said["rows"]["rtrl_stdp-length1"] == {
        "chosen": "lr 1e-3",
        "reached": {"lr 1e-3": 0.5, "lr 1e-2": 0.4, "lr 0.1": None},
        "edge": True,
    }
    assert not said["rows"]["rtrl-length1"]["edge"]
    down, _ = tuned(tmp_path / "down", scores, "--tune", "optim.lr=1e-3,1e-2,0.1", "--score", "loss")
    assert {label: own.optim.lr for label, own in down.items()} == {"rtrl-length1": 0.001, "rtrl_stdp-length1": 0.01}
    for text in ("accuarcy", "drifts"):  # of the second nobody knows which way it is better
        with pytest.raises(ValueError, match=f"score: got '{text}', expected one of accuracy, loss$"):
            tuned(tmp_path / text, scores, "--tune", "optim.lr=1e-3,1e-2", "--score", text)
    with pytest.raises(ValueError, match="no run of rtrl-length1 came to a score"):
        tuned(tmp_path / "none", lambda name: None, "--tune", "optim.lr=1e-3,1e-2")


def test_tuning_sees_no_seed_that_is_scored_and_what_a_rule_lacks_is_not_tuned():
    argv = [*TINY, "--rules", "bptt,rtrl_stdp", "--tune", "rule.a_post=0,0.1", "--tune_on", "tenth", "--seeds", "900"]
    parsed = parse(argv, Compare)
    found = candidates(argv, parsed.command, parsed.config)
    assert {label: list(own) for label, own in found.items()} == {
        "bptt-length1": [""],
        "rtrl_stdp-length1": ["a_post 0", "a_post 0.1"],
    }
    runs = tuning_runs(found["rtrl_stdp-length1"]["a_post 0.1"], parsed.command)
    assert [one.run.seed for one in runs] == [1000, 1001] and {one.stream.steps for one in runs} == {6}
    assert run_name("rtrl", "a_post 0.1, x a/b", runs[0]) == "rtrl-a_post_0.1_x_a_b-seed1000"


@pytest.mark.slow
def test_a_comparison_is_taken_up_again_where_it_was_broken_off(tmp_path, here, monkeypatch, capsys):
    """In the midst of a tuning run and between two scored ones; finished runs stay, and the numbers are the same."""
    words = ["compare", *TINY, "--rules", "rtrl", "--vary", "model.d_state=4,8", "--tune", "optim.lr=1e-3,1e-2", "1e30"]
    words[-1:] = ["--tune_seeds", "1", "--seeds", "2", *BARE]
    assert main([*words, "--run.dir", str(tmp_path / "whole")]) == 0
    parts = [*words, "--run.dir", str(tmp_path / "parts")]

    def stop_after(count):
        def stopping(commands, folder, at_once, tolerant=False, launch=None):
            for i, command in enumerate(commands.values()):
                if i == count:
                    raise KeyboardInterrupt
                assert main(command[command.index("train") :]) == 0

        return stopping

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run_all", stop_after(1))
        assert main(parts) == 130
    tuning = tmp_path / "parts" / "tuning"
    assert [path.parent.name for path in tuning.glob("*/summary.json")] == ["rtrl-length1-d_state4-lr_1e-3-seed1000"]
    begun = tuning / "rtrl-length1-d_state4-lr_1e-2-seed1000"
    settings = parse(["--config", str(begun) + ".yaml"]).config
    experiment = Experiment.from_config(settings)
    half = Run.begin(experiment)
    for i, report in enumerate(experiment.online(chunks := experiment.stream())):
        half.state = report.state
        half.digest.update(report.chunk)
        half.progress.update(report, 1.0)
        if i == 20:
            half.save(chunks)
            break
    half.close()
    monkeypatch.setattr(compare, "plot", lambda path, result: None)  # the numbers are what is looked at
    monkeypatch.setattr(compare.page, "write", lambda path, folders: None)
    done = next(tuning.glob("*/summary.json"))
    before = done.stat().st_mtime_ns
    assert main([*parts, "--run.resume", "true"]) == 0
    assert "resumed at step 21" in capsys.readouterr().out
    assert done.stat().st_mtime_ns == before
    whole, again = (json.loads((tmp_path / name / "compare.json").read_text()) for name in ("whole", "parts"))
    assert whole["tuning"] == again["tuning"]
    assert {k: v["scores"] for k, v in whole["settings"].items()} == {
        k: v["scores"] for k, v in again["settings"].items()
    }
    assert main([*parts, "--run.resume", "true", "--optim.clip", "2"]) == 2
    assert "optim.clip: the run has 1.0, given is 2.0" in capsys.readouterr().err


def test_a_rate_that_leads_nowhere_is_not_chosen_and_the_table_says_so(tmp_path, here, capsys):
    words = ["--rules", "rtrl", "--tune", "optim.lr=1e-3,1e30", "--tune_seeds", "1", "--seeds", "1", *BARE]
    assert main(["compare", *TINY, *words, "--run.dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "tuned for each setting: optim.lr=1e-3,1e30, by accuracy of the whole stream, seed 1000" in out
    assert "came to no score: rtrl-length1 with lr 1e30" in out
    assert "optim.lr=1e-3,1e30" in (tmp_path / "report.html").read_text()
    assert main(["compare", *TINY, *words[:2], "--seeds", "1", *BARE, "--run.dir", str(tmp_path / "plain")]) == 0
    out = capsys.readouterr().out
    assert "tuned" not in out  # control


# statistics


def write_runs(folder, scores, baselines=None, score="accuracy"):
    """Write the summaries of runs, a row of scores a setting, and return their folders."""
    runs = {}
    for label, values in scores.items():
        for seed, value in enumerate(values):
            run = folder / f"{label}-seed{seed}"
            run.mkdir(parents=True)
            parts = {score: {"all": value, "last_tenth": value}}
            trivial = {"chance": {score: {"all": baselines}}} if baselines is not None else {}
            summary = {"seed": seed, "rule": label.split("-")[0], "scores": parts, "baselines": trivial}
            (run / "summary.json").write_text(json.dumps(summary))
            runs.setdefault(label, []).append(run)
    return runs


def said(folder, scores, baselines=None, score="accuracy", **given):
    runs = write_runs(folder, scores, baselines, score)
    found = verdict(runs, dict.fromkeys(runs, ""), **given)
    return found["groups"][0]


def test_differences_are_taken_seed_by_seed():
    """Seeds that differ widely leave a narrow difference; unpaired, the same numbers tell nothing."""
    own, other = [0.1, 0.5, 0.9, 0.3, 0.7], [0.05, 0.44, 0.86, 0.26, 0.65]
    found = paired(own, other, 1)
    assert found["mean"] == pytest.approx(0.048) and 0.04 < found["low"] < found["mean"] < found["high"] < 0.06
    assert found["gains"] == 5 and paired(own, other, -1)["gains"] == 0
    shuffled = paired(own, [other[i] for i in (3, 0, 1, 4, 2)], 1)
    assert shuffled["mean"] == pytest.approx(0.048) and shuffled["low"] < 0 < shuffled["high"]


def test_the_interval_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(0.3, 1.0, size=(200, 12))
    held = sum(low <= 0.3 <= high for low, high in (interval(list(row)) for row in draws))
    assert 0.85 < held / 200 <= 0.98
    assert interval(list(draws[0])) == interval(list(draws[0]))
    assert interval([0.2, 0.2, 0.2]) == (0.2, 0.2)


def test_the_verdict_says_what_is_above_what(tmp_path):
    scores = {"bptt-length1": [0.1, 0.2, 0.15, 0.12], "rtrl-length1": [0.41, 0.52, 0.44, 0.44]}
    group = said(tmp_path / "a", scores, 0.05)
    assert group["verdict"].startswith("rtrl-length1 above bptt-length1 in accuracy by 0.31 (0.")
    assert group["verdict"].endswith("), 4 of 4 seeds")
    assert said(tmp_path / "b", scores, 0.9)["verdict"] == "no setting is above chance (accuracy 0.9)"
    turned = said(tmp_path / "c", scores, 0.05, reference="rtrl-length1")["verdict"]
    assert turned.startswith("rtrl-length1 above all others in accuracy, bptt-length1 by 0.31")
    alike = {"bptt-length1": [0.5, 0.6, 0.7], "rtrl-length1": [0.6, 0.5, 0.7]}
    assert said(tmp_path / "d", alike, 0.05)["verdict"] == "no setting is above bptt-length1 in accuracy at 95%"
    down = said(tmp_path / "e", scores, 2.0, score="loss")["verdict"]
    assert down.startswith("bptt-length1 below all others in loss, rtrl-length1 by 0.31")


def test_of_fewer_than_three_seeds_no_spread_is_told(tmp_path):
    for seeds, begins in ((1, "1 seed:"), (2, "2 seeds:")):
        scores = {"bptt-length1": [0.1, 0.2][:seeds], "rtrl-length1": [0.9, 0.8][:seeds]}
        group = said(tmp_path / str(seeds), scores, 0.05)
        assert group["verdict"].startswith(f"{begins} no spread can be told, 3 or more can; accuracy: rtrl-length1 0.")
        assert group["rows"]["rtrl-length1"]["reference"]["all"]["low"] is None
    three = said(tmp_path / "3", {"bptt-length1": [0.1, 0.2, 0.1], "rtrl-length1": [0.9, 0.8, 0.9]}, 0.05)
    assert three["rows"]["rtrl-length1"]["reference"]["all"]["low"] > 0  # control


def test_settings_of_other_streams_are_not_told_apart(tmp_path):
    scores = {f"{rule}-delay{d}": [0.1 * d, 0.2, 0.3] for rule in ("rtrl", "bptt") for d in (4, 5)}
    runs = write_runs(tmp_path, scores)
    groups = verdict(runs, {label: f"delay {label[-1]}" for label in runs})["groups"]
    assert [(group["reference"], list(group["rows"])) for group in groups] == [
        ("bptt-delay4", ["rtrl-delay4", "bptt-delay4"]),
        ("bptt-delay5", ["rtrl-delay5", "bptt-delay5"]),
    ]
    with pytest.raises(ValueError, match="reference: got 'rtrl', expected one of rtrl-delay4"):
        verdict(runs, dict.fromkeys(runs, ""), reference="rtrl")


def test_intervals_without_scipy_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r'pip install "biomamba\[compare\]"'):
        interval([0.1, 0.2, 0.3])


# exports


def test_tables_hold_what_the_summaries_hold(tmp_path, here, capsys):
    """Every score of every run, by csv, parquet and frame alike; means of them are the means of the comparison."""
    frame = biomamba.compare(
        TINY[1::2],
        "rtrl,bptt",
        vary={"optim.clip": [None, 1.0], "model.d_state": [4]},
        seeds=3,
        values={"run.dir": str(tmp_path), "stream.steps": 60},
        costs=False,
        fidelity=0,
    )
    result = json.loads((tmp_path / "compare.json").read_text())
    table = pd.read_parquet(tmp_path / "runs.parquet")
    assert list(table.columns) == list(frame.columns) and table["value"].equals(frame["value"])
    runs = frame[frame["kind"] == "run"]
    assert len(runs) == 4 * 3 * 4 and set(runs["score"]) == {"accuracy", "loss"}
    for (setting, score, part), own in runs.groupby(["setting", "score", "part"]):
        assert own["value"].mean() == pytest.approx(result["settings"][setting]["scores"][score][part]["mean"])
        run = json.loads((Path(own["folder"].iloc[1]) / "summary.json").read_text())
        assert own["value"].iloc[1] == pytest.approx(run["scores"][score][part])
    assert set(runs["optim.clip"].fillna(0)) == {0, 1.0} and set(runs["model.d_state"]) == {4}
    assert set(frame[frame["kind"] == "baseline"]["setting"]) == {"frozen", "chance"}
    assert frame.attrs["verdict"] == [group["verdict"] for group in result["statistics"]["groups"]]
    settings = pd.read_csv(tmp_path / "table.csv").set_index("setting")
    mean = result["settings"]["rtrl-length1-clip1.0-d_state4"]["scores"]["loss"]["all"]["mean"]
    assert settings.loc["rtrl-length1-clip1.0-d_state4", "loss_all_mean"] == pytest.approx(mean)
    low = result["statistics"]["groups"][0]["rows"]["rtrl-length1-clip1.0-d_state4"]["reference"]["all"]["low"]
    assert settings.loc["rtrl-length1-clip1.0-d_state4", "less_reference_low"] == pytest.approx(low)
    for name, begin in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        assert (tmp_path / f"compare.{name}").read_bytes().startswith(begin)
    tex = (tmp_path / "table.tex").read_text()
    assert tex.count("\\\\") == 7 and f"{mean:.3f}" in tex and "rtrl-length1-clip1.0-d\\_state4" in tex
    assert "accuracy last tenth" in tex and "\\mathbf" in tex


def test_text_is_safe_in_tex_and_columns_of_parquet_have_one_type():
    assert exports.escape("a_b & 50% {c} \\d") == r"a\_b \& 50\% \{c\} \textbackslash{}d"
    assert exports._column([1, None, 2.5]) == [1.0, None, 2.5]
    assert exports._column([True, "auto", None, 3]) == ["true", "auto", None, "3"]


def test_a_frame_without_pandas_says_what_to_install_before_anything_is_learned(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "biomamba\[compare\]"'):
        biomamba.compare("delay")


# what is shown


def test_a_run_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv(jobs.PROGRESS, str(tmp_path / "a.progress"))
    monkeypatch.setattr(jobs, "EVERY", 0.0)
    said = []
    write = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda path, text: said.append(text) or write(path, text))
    told = jobs.Progress()
    for share in (0.25, 0.5):
        told.say(share)
    assert jobs.share_of(tmp_path / "a.progress") == 0.5 and said == ["0.2500", "0.5000"]
    monkeypatch.setattr(jobs, "EVERY", 60.0)
    told.say(0.75)
    assert jobs.share_of(tmp_path / "a.progress") == 0.5 and jobs.share_of(tmp_path / "b.progress") == 0.0


def test_lines_that_coincide_are_told_apart_and_made_up_data_are_named():
    looks = figures.styles(f"setting {i}" for i in range(12))
    assert len(set(looks.values())) == 12
    first = list(looks.values())[:6]
    assert len({own.marker for own in first}) == 6 and len({own.dash for own in first}) >= 4
    assert loud("simulated: store-recall") == "SIMULATED: store-recall" and loud("a.csv: 3 rows") == "a.csv: 3 rows"
