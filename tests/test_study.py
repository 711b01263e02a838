"""The study's page says what its rows say, and no more: rates, equal updates, equal time, what was not run."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import grid, study
from bench.study import COSTS, PARTS, RATES, RULES, RUNS, STREAMS, TUNING_SEED, Kept, cost, measure, page, setting, told


def row(rule: str, rate: float, seed: int, scores: list[float], **others: Any) -> dict[str, Any]:
    """Return a run of delay20 as it is kept."""
    found = {"source": "", "steps": 100, "scores": scores, "updates": [*range(len(scores))]}
    return {"setting": setting("delay20", rule, rate, seed), **found, **others}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """The runs of two rules: RTRL is better at its own rate, costs twice as much, and fails at the highest rate."""
    rows = [row("immediate", rate, TUNING_SEED, [0.1] * PARTS) for rate in RATES]
    rows += [
        row("RTRL", rate, TUNING_SEED, [own] * PARTS) for rate, own in zip(RATES[:3], (0.5, 0.4, 0.3), strict=True)
    ]
    rows += [row("RTRL", RATES[3], TUNING_SEED, [0.9], failed="100 updates in a row were not finite")]
    for seed in range(3):
        rows.append(row("immediate", RATES[0], seed, [0.1 + seed / 100] * PARTS))
        rows.append(row("RTRL", RATES[0], seed, [i / 10 for i in range(PARTS)]))
    rows.append(row("RTRL", RATES[1], 0, [0.0] * PARTS))  # of a rate that is not its own
    (tmp_path / RUNS).write_text("".join(json.dumps(own) + "\n" for own in rows))
    seconds = dict.fromkeys(RULES, 20.0) | {"immediate": 10.0, "UORO": 500.0}
    (tmp_path / COSTS).write_text(json.dumps({"setting": {"stream": "delay20", "seed": 0}, "seconds": seconds}) + "\n")
    return Kept(tmp_path)


def test_a_rule_has_the_rate_that_is_best_on_the_seed_that_is_not_scored(kept: Kept) -> None:
    assert kept.rate("delay20", "RTRL") == RATES[0]  # of the failed run's score nothing counts
    assert kept.rate("delay20", "UORO") is None
    assert sorted(kept.scored("delay20", "RTRL")) == [0, 1, 2]


def test_equal_time_is_what_was_read_in_the_time_of_the_immediate_gradient(kept: Kept) -> None:
    assert set(kept.at_equal_updates("delay20", "RTRL").values()) == {0.9}
    assert set(kept.in_equal_time("delay20", "RTRL").values()) == {0.4}  # half of the stream
    assert kept.in_equal_time("delay20", "immediate") == kept.at_equal_updates("delay20", "immediate")


def test_the_page_tells_what_there_is_and_what_was_not_run(kept: Kept) -> None:
    said = told(kept, "delay20", "RTRL", "immediate")
    assert said.startswith("better: +0.790 (") and said.endswith("3 of 3 seeds gain")
    assert told(kept, "delay20", "immediate", "RTRL").startswith("worse: -0.790")
    assert told(kept, "delay20", "RTRL", "UORO") == told(kept, "text", "RTRL", "immediate") == "not run"
    text = page(kept)
    assert "RTRL beside immediate: better on delay20; not told, for want of seeds, on delay100" in text
    assert "| UORO | not a tenth read | not run | not run |" in text  # it costs 50 times the immediate gradient
    assert f"{RATES[0]:g}, edge" in text and "0.900 +- 0.000 (3)" in text and "0.400 +- 0.000 (3)" in text
    cells = len(RULES) * len(STREAMS)
    alike = 3 * len(RULES)  # cells of simulated streams, which alone are compared in equal time
    tables = 2 * (cells - 2) + (alike - 3) + (cells - len(RULES))
    assert text.count("not run") == tables + 2 * len(STREAMS) - 1 + 1
    del kept.rows[next(key for key in kept.rows if '"seed": 2' in key)]
    assert told(kept, "delay20", "RTRL", "immediate").endswith("2 seeds: no spread can be told")


def test_every_run_of_the_study_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = STREAMS["delay20"]
    short = stream._replace(differs=stream.differs | {"stream.steps": 80, "stream.batch": 2})
    monkeypatch.setitem(STREAMS, "delay20", short)
    monkeypatch.setattr(study, "GRAPHS", ())  # which take a compiler, and half a minute
    for rule in RULES:
        found = measure(setting("delay20", rule, 1e-3, 0))
        assert found["steps"] == 80 and "failed" not in found and found["updates"] == sorted(found["updates"])
        assert len(found["scores"]) == (5 if rule == "TBPTT, chunks of 16" else PARTS)
    monkeypatch.setattr(study, "TIMED", 48)  # the stream begins again before all turns are taken
    found = cost({"stream": "delay20", "seed": 0})["seconds"]
    assert found.keys() == RULES.keys() and all(own > 0 for own in found.values())


def halved(own: dict[str, Any]) -> dict[str, Any]:
    """Return half of a number; raise for none."""
    return {"half": own["number"] / 2}


def test_rows_that_could_be_measured_are_kept_where_others_could_not(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [{"number": own, "seed": 0} for own in (1, None, 3)]
    with pytest.raises(RuntimeError, match=r"1 of 3 settings failed, the first .*None"):
        grid.run(halved, settings, tmp_path / "rows.jsonl", jobs=1)
    assert {row["half"] for row in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())} == {0.5, 1.5}
    assert [row["half"] for row in grid.run(halved, settings[::2], tmp_path / "rows.jsonl", jobs=1)] == [0.5, 1.5]
