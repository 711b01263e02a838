"""The page of comparisons: all numbers are there, it is whole in itself, and the same data give the same bytes."""

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.image import imread

from biomamba.metrics import direction
from biomamba.report import figures
from biomamba.report import page as html
from biomamba.report import text as report
from biomamba.report.data import POINTS, Curve, curve, read, thin
from biomamba.report.learning import bold
from biomamba.report.markup import NOTHING, count, number, pair, quantity
from biomamba.report.verdict import verdict

ROOT = Path(__file__).parents[1]
LABELS = ("rtrl-length1", "rtrl-length8", "bptt-length1", "bptt-length8-window64")
WHOLE = "BPTT of the whole stream"
PLOTS = {
    "Learning curves, accuracy against samples",
    "Learning curves, accuracy against wall time",
    "Fidelity, gap, 1 block",
    "Fidelity, ratio, 1 block",
    "Fidelity, gap, 4 blocks",
    "Fidelity, ratio, 4 blocks",
    "Memory against stream length",
    "Memory",
    "Time per step",
    "Samples per second",
    "Estimated energy",
    "Memory traffic",
    "Norm of the gradient",
    "Every seed, accuracy",
}
VOID = {"meta", "br", "hr", "img", "input", "link"}
CHROMIUM = shutil.which("chromium")
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
HEADLESS += ["--disable-background-networking", "--disable-component-update"]


class Page(HTMLParser):
    """A page taken apart; what is wrong with it is in `faults`."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.plots: list[str] = []
        self.cells: set[str] = set()  # of tables
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]
        self.faults += [f"id {name} twice" for name in set(self.ids) if self.ids.count(name) > 1]
        self.faults += [f"{link} leads nowhere" for link in self.links if link[:1] != "#" or link[1:] not in self.ids]
        self.faults += [f"{tag} loads" for tag in re.findall(r"(?i)@import|url\((?!#)", text)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cell = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.faults += [f"<{tag}>" for tag in {tag} & {"script", "link", "iframe", "object", "embed", "base"}]
        self.faults += [f"<{tag} {name}>" for name in given if name in ("src", "srcset", "data") or name[:2] == "on"]
        self.faults += [f"<{tag}> goes to {value}" for value in given.values() if re.search("https?:|//", value)]
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "xlink:href") if name in given]
        self.links += re.findall(r"url\((.*?)\)", " ".join(given.values()))
        self.plots += [given.get("aria-label", "")] if given.get("role") == "img" else []

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> where another tag is open")
        if tag in ("td", "th"):
            self.cells.add(self.cell)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.cell += data


def metrics(rng: random.Random, reports: int) -> str:
    """Return the lines of a metrics.jsonl, the second without a score, as where nothing was labelled."""
    lines = []
    for i in range(1, reports + 1):
        scores = {"accuracy": None if i == 2 else i / reports * rng.uniform(0.8, 1), "loss": rng.uniform(0.1, 2)}
        clock = {"wall_seconds": i + rng.random(), "steps_per_second": 10.0}
        own = {
            "step": 10 * i,
            "updates": 10 * i,
            "skipped": 0,
            "loss": 1.0,
            "norm": rng.uniform(0.01, 5) if i > 1 else None,
        }
        lines.append(json.dumps({**own, "interval": scores, "overall": scores, **clock}))
    return "\n".join(lines) + "\n"


def setting(label: str) -> dict[str, Any]:
    """Return rule, length and window of a label."""
    rule, length, *window = label.split("-")
    return {"rule": rule, "length": int(length[6:]), "window": int(window[0][6:]) if window else None}


def make_run(folder: Path, label: str, seed: int, reports: int, source: str, rng: random.Random) -> None:
    """Write what the page reads of a run."""
    folder.mkdir(parents=True)
    scores = {
        name: {part: rng.uniform(0, 1) for part in ("all", "last_tenth", "held_out")} for name in ("accuracy", "loss")
    }
    summary = {"task": "delay", "source": source, "block": "mamba2", **setting(label), "seed": seed}
    summary |= {"steps": 10 * reports, "streams": 8, "scores": scores, "parameters": 10_320, "confusion": {}}
    summary |= {"baselines": {"frozen": scores, "chance": scores} if label == LABELS[0] else {}}
    summary |= {
        "steps_per_second": rng.uniform(100, 900),
        "wall_seconds": rng.uniform(1, 99),
        "updates": rng.randrange(10**5),
        "skipped": 3,
    }
    summary |= {
        "trace_bytes": rng.randrange(10**7),
        "peak_rss_bytes": rng.randrange(10**9),
        "versions": {"torch": "2.13"},
        "spike_rate": rng.random() if label == LABELS[0] else None,
    }
    config = {"rule": {"name": setting(label)["rule"]}, "stream": {"length": setting(label)["length"], "batch": 8}}
    config |= {"optim": {"lr": 0.003, "clip": 1.0}, "run": {"dir": str(folder), "seed": seed}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text(metrics(rng, reports))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def cost(rng: random.Random, measured: bool) -> dict[str, Any]:
    """Return what a step costs, by hand."""
    counts = ("multiply_accumulates", "accumulates", "elementwise", "bytes")
    each = {phase: {name: rng.uniform(1, 1e6) for name in counts} for phase in ("inference", "learning")}
    sizes = {f"{name}_bytes": rng.randrange(10**6) for name in ("trace", "state", "activation")}
    rates = {f"{phase}_{unit}": rng.uniform(1e-9, 1e-4) for phase in each for unit in ("joules", "seconds")}
    return {**each, **sizes, **rates, "measured_joules": rng.uniform(1e-3, 1) if measured else None}


def fidelity(rng: random.Random, labels: Sequence[str]) -> dict[str, Any]:
    """Return a comparison of gradients, by hand; one gradient is zero."""

    def both() -> dict[str, float]:
        return {"cosine": rng.uniform(-1, 1), "ratio": rng.uniform(0.1, 4), "gap": rng.uniform(0, 2)}

    rows = []
    for depth in (1, 4):
        for label in labels:
            layers = {name: both() for name in ("encoder", *(f"blocks.{i}" for i in range(depth)), "head")}
            parameters = {
                f"{layer}.{name}": both() for layer in layers for name in ("weight", "A_log", "D", "dt_bias", "norm")
            }
            parameters["blocks.0.A_log"] = {"cosine": None, "ratio": None, "gap": None}
            rows.append({"label": label, **setting(label), "depth": depth, "updates": 4711, "all": both()})
            rows[-1] |= {"layers": layers, "parameters": parameters}
            rows[-1]["past"] = {
                "all": both(),
                **{part: {n: both() for n in rows[-1][part]} for part in ("layers", "parameters")},
            }
    return {"steps": 128, "streams": 4, "weights": "learned by rtrl-length1-seed0", "rows": rows}


def make_comparison(
    folder: Path,
    labels: Sequence[str] = LABELS,
    seeds: int = 2,
    reports: int = 30,
    source: str = "simulated",
    bare: bool = False,
) -> dict[str, Any]:
    """Write a comparison and its runs, `bare` without cost, memory and fidelity; return what its compare.json holds."""
    rng = random.Random(0)  # noqa: S311
    runs: dict[str, list[Path]] = {}
    for label in labels:
        for seed in range(seeds):
            runs.setdefault(label, []).append(folder / f"{label}-seed{seed}")
            make_run(runs[label][-1], label, seed, reports, source, rng)
    result = report.gather(runs)
    if not bare:
        result["statistics"] = verdict(runs, dict.fromkeys(labels, ""))
        for i, own in enumerate(result["settings"].values()):
            own["cost"] = cost(rng, measured=i == 1) | {"trace_bytes": own["trace_bytes"]}
        operations = {name: rng.uniform(1, 1e4) for name in ("Effective_MACs", "Effective_ACs", "Dense")}
        counted = {"footprint": 12_608, "connection_sparsity": 0.125, "activation_sparsity": rng.random()}
        next(iter(result["settings"].values()))["neurobench"] = counted | {"synaptic_operations": operations}
        sizes = ("state_bytes", "trace_bytes", "activation_bytes")
        result["memory"] = [
            {"label": label, "steps": steps, **{name: rng.randrange(10**7) for name in sizes}}
            for label in (*labels, WHOLE)
            for steps in (16, 256, 4096)
        ]
        result["fidelity"] = fidelity(rng, labels)
    (folder / "compare.json").write_text(json.dumps(result))
    return result


def written(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield where each number of a compare.json stands, and the text of its cell on the page."""
    name = path[-1] if path else ""
    if isinstance(value, Mapping) and value.keys() == {"mean", "spread"}:
        text = pair(value, {"peak_rss_bytes": partial(quantity, unit="B"), "updates": count}.get(name, number))
        yield "/".join(path), re.sub("<.*?>", "", text).replace("&plusmn;", "\u00b1")
    elif isinstance(value, Mapping):
        for key, own in value.items():
            yield from written(own, (*path, key))
    elif isinstance(value, list):
        for i, own in enumerate(value):
            yield from written(own, (*path, str(i)))
    elif isinstance(value, (int, float)):
        yield "/".join(path), write_one(name, value)


def write_one(name: str, value: float) -> str:
    """Return a number as the page writes it, by its name."""
    for ending, unit in (("bytes", "B"), ("seconds", "s"), ("joules", "J")):
        if name.endswith(ending):
            return quantity(value, unit)
    if name in ("multiply_accumulates", "accumulates", "elementwise"):
        return quantity(value)
    return number(value, 4 if name in ("cosine", "ratio", "gap") else 3)


def absent(result: Mapping[str, Any], page: Page) -> list[str]:
    """Return where the numbers stand that no cell of the page's tables and no word outside of them holds."""
    words = set(re.findall(r"[\d,]*\d", " ".join(page.words)))
    return [path for path, text in written(result) if text not in page.cells and text not in words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a comparison that has every part."""
    made = tmp_path_factory.mktemp("made") / "cmp"
    make_comparison(made)
    return made


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    """Return its page."""
    return html.page([read(folder)])


def test_every_number_of_the_comparison_is_on_the_page(folder: Path, text: str) -> None:
    result = json.loads((folder / "compare.json").read_text())
    assert len(list(written(result))) > 500
    assert not absent(result, Page(text))


@pytest.mark.parametrize(
    "path",
    [
        ("settings", "rtrl-length1", "scores", "loss", "held_out", "mean"),
        ("settings", "bptt-length1", "cost", "learning", "elementwise"),
        ("settings", "rtrl-length8", "cost", "measured_joules"),
        ("settings", "rtrl-length1", "neurobench", "activation_sparsity"),
        ("memory", 4, "activation_bytes"),
        ("fidelity", "rows", 5, "parameters", "blocks.2.D", "cosine"),
    ],
)
def test_a_number_that_is_not_on_the_page_is_missed(folder: Path, path: tuple[str | int, ...], text: str) -> None:
    result = json.loads((folder / "compare.json").read_text())
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] *= 13_000  # beyond what any other cell holds
    changed = path[:-1] if path[-1] == "mean" else path
    assert absent(result, Page(text)) == ["/".join(map(str, changed))]


def test_every_plot_is_there_once_by_its_name(text: str) -> None:
    assert sorted(Page(text).plots) == sorted(f"{name} (cmp)" for name in PLOTS)


def test_the_page_is_well_formed_and_loads_nothing(text: str) -> None:
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert not Page(text).faults


@pytest.mark.parametrize(
    "bad",
    ["<img src='a.png'>", "<div>", "</p>", "<p id='s0'></p>", "<a href='http://a.b'>c</a>", "<i style='url(a)'></i>"],
)
def test_a_fault_is_found(text: str, bad: str) -> None:
    assert Page(text.replace("<main>", f"<main>{bad}")).faults


def test_the_same_data_give_the_same_bytes(folder: Path, text: str, tmp_path: Path) -> None:
    html.write(tmp_path / "a.html", [folder])
    assert (tmp_path / "a.html").read_text() == text
    code = (
        "import sys, pathlib; from biomamba.report.page import write; page, *folders = map(pathlib.Path, sys.argv[1:])"
    )
    command = [sys.executable, "-c", f"{code}; write(page, folders)", str(tmp_path / "b.html"), str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (tmp_path / "b.html").read_text() == text


def test_a_folder_that_was_moved_gives_the_same_page_and_no_path_shows(folder: Path, text: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cmp")
    for run in folder.glob("*-seed*"):  # where compare.json says they are, there is something else now
        assert str(run) in (tmp_path / "cmp" / "compare.json").read_text()
        (tmp_path / "cmp" / run.name / "config.yaml").write_text(
            (run / "config.yaml").read_text().replace("lr: 0.003", "lr: 0.5")
        )
    moved = html.page([read(tmp_path / "cmp")])
    assert moved == re.sub(r"\b0\.003\b", "0.5", text)
    assert str(folder.parent) not in text and str(tmp_path) not in moved


def test_what_comes_from_files_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> & \"$x^2$\" 'y'"
    make_comparison(tmp_path / "a<b>&c{d}", source=bad, reports=5)
    compare = tmp_path / "a<b>&c{d}" / "compare.json"
    compare.write_text(compare.read_text().replace("rtrl-length8", "<b>&$x_2$").replace("blocks.0.A_log", "<i>A"))
    page = Page(html.page([read(tmp_path / "a<b>&c{d}")]))
    assert not page.faults
    assert bad in page.words
    assert {"<b>&$x_2$", "<i>A"} <= page.cells & set(page.words)  # in the tables, and in the plots


def test_parts_that_are_missing_say_what_adds_them(tmp_path: Path, text: str) -> None:
    make_comparison(tmp_path / "cmp", bare=True)
    bare = html.page([read(tmp_path / "cmp")])
    said = ("gradient of full BPTT are", "length of the stream are", "single steps are", "estimate of energy are")
    for words in said:
        assert f"{words} not there: <code>biomamba compare" in bare
        assert f"{words} not there" not in text
    costs = {"Time per step", "Estimated energy", "Memory traffic", "Memory against stream length"}
    assert {name.removesuffix(" (cmp)") for name in Page(bare).plots} == {
        name for name in PLOTS if name not in costs and not name.startswith(("Fidelity", "Every seed"))
    }
    for run in (tmp_path / "cmp").glob("*-seed*"):
        shutil.rmtree(run)
    apart = html.page([read(tmp_path / "cmp")])
    assert "The curves are not there" in apart and "The norms are not there" in apart


def test_a_lone_run_is_a_page_and_several_folders_are_sections(folder: Path, text: str, tmp_path: Path) -> None:
    lone = folder / "rtrl-length8-seed1"
    page = Page(html.page([read(lone)]))
    summary = json.loads((lone / "summary.json").read_text())
    assert not page.faults
    assert {number(summary["scores"]["loss"][part]) for part in ("all", "last_tenth", "held_out")} <= page.cells
    several = html.page([read(folder), read(lone), read(folder)])
    assert not Page(several).faults  # no id twice, though one folder is shown twice
    assert several.count("<section") == 3 and several.count("<li>") == 3 and "<li>" not in text


def test_a_comparison_of_gradients_is_a_page(folder: Path, tmp_path: Path) -> None:
    found = json.loads((folder / "compare.json").read_text())["fidelity"]
    (tmp_path / "fidelity.json").write_text(json.dumps({"task": "delay", "source": "simulated", **found}))
    page = Page(html.page([read(tmp_path)]))
    assert not page.faults and not absent(found, page)
    assert {name.partition(" (")[0] for name in page.plots} == {name for name in PLOTS if name.startswith("Fidelity")}


def test_many_settings_of_many_reports_stay_a_small_page(tmp_path: Path) -> None:
    labels = [f"rule{i}-length{8 * i + 1}" for i in range(20)]
    make_comparison(tmp_path / "cmp", labels=labels, seeds=2, reports=400)
    html.write(tmp_path / "report.html", [tmp_path / "cmp"])
    assert (tmp_path / "report.html").stat().st_size < 3e6
    page = Page((tmp_path / "report.html").read_text())
    assert not page.faults
    assert not absent(json.loads((tmp_path / "cmp" / "compare.json").read_text()), page)


def test_thinned_seeds_lie_side_by_side_and_keep_their_ends(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, lines in zip(paths, (100_001, 99_990), strict=True):
        path.write_text("".join(f'{{"step": {i}}}\n' for i in range(1, lines + 1)))
    long, short = ([record["step"] for record in own] for own in thin(paths, POINTS))
    assert len(long) <= POINTS + 1 and long[-1] == 100_001 and short[-1] == 99_990
    assert long[: len(short) - 1] == short[:-1]
    assert [record["step"] for record in thin(paths, 10**6)[0]] == list(range(1, 100_002))


def test_curves_are_means_and_spreads_of_the_files(folder: Path) -> None:
    section = read(folder)
    found = Curve(*report._curve([folder / f"{LABELS[0]}-seed{i}" for i in (0, 1)], 8, "accuracy"))
    own = curve(section.runs[LABELS[0]], "step", lambda record: record["interval"]["accuracy"], 8)
    assert own.x == found.x and own.mean == found.mean and own.spread == found.spread and len(own.x) == 29
    norms = curve(section.runs[LABELS[0]], "wall_seconds", lambda record: record["norm"])
    lines = [
        json.loads((folder / f"{LABELS[0]}-seed{i}" / "metrics.jsonl").read_text().splitlines()[1]) for i in (0, 1)
    ]
    assert norms.x[0] == statistics.fmean(line["wall_seconds"] for line in lines)
    assert norms.spread[0] == statistics.stdev(line["norm"] for line in lines)


def test_the_best_of_a_column_is_bold_where_better_is_known() -> None:
    values = [{"mean": mean, "spread": None} for mean in (0.5, 0.1, 0.10004, None)]
    assert [cell.startswith("<strong>") for cell in bold(values, direction("loss"))] == [False, True, True, False]
    assert [cell.startswith("<strong>") for cell in bold(values, direction("accuracy"))] == [True, False, False, False]
    assert not any(cell.startswith("<strong>") for cell in bold(values, direction("lost_beats")))
    assert "<strong>" not in "".join(bold(values[1:], direction("loss")))  # they read alike
    lower = ("bits_per_byte", "cer", "wer", "mse", "last_latency", "latency_seconds", "mae[kW]", "rmse[load at 9]")
    assert {direction(name) for name in lower} == {-1}
    assert {direction(name) for name in ("macro_f1", "V_sensitivity", "balanced_accuracy", "kappa")} == {1}
    assert {direction(name) for name in ("skipped_seconds", "score_before", "drifts", "x[loss]")} == {0}


def test_numbers_read_well() -> None:
    assert [number(v) for v in (0.84123, 24.263, 143.46, 1148.2, 24_000, 0, 0.0, -0.5)] == [
        "0.841", "24.26", "143.5", "1,148", "24,000", "0", "0.000", "-0.500",
    ]  # fmt: skip
    assert [number(v) for v in (0.0041, 3.1e-5, None, float("nan"), 2e12)] == [
        "0.0041",
        "3.1e-05",
        NOTHING,
        NOTHING,
        "2e+12",
    ]
    assert [quantity(v, "B") for v in (0, 999.9, 1_769_472, 5e13)] == ["0 B", "1 kB", "1.77 MB", "50 TB"]
    assert [quantity(v, "J") for v in (5.18e-8, 3e-3, 2e-14)] == ["51.8 nJ", "3 mJ", "0.02 pJ"]
    assert "0.749 " in pair({"mean": 0.7491, "spread": 0.0031}) and "0.003<" in pair({"mean": 0.7491, "spread": 0.0031})


@pytest.mark.parametrize("means", [[], [0.0], [0.0, 0.0], [0.0, 1.0], [1e-30, 1e30]])
def test_an_axis_by_factors_bears_what_has_none(means: list[float]) -> None:
    drawn = {"a": Curve([float(i) for i in range(len(means))], means, [mean / 2 for mean in means])}
    log = figures.Scale("log", log=True)
    page = Page(figures.curves("name", drawn, figures.styles("a"), log, log))
    assert page.plots == ["name"] and not page.faults


def test_no_two_settings_look_alike() -> None:
    looks = figures.styles(map(str, range(24)))
    assert len(set(looks.values())) == 24


def test_what_is_no_folder_of_a_run_and_what_is_not_installed_is_said(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"none of compare.json, summary.json, .* there, expected the folder"):
        html.write(tmp_path / "report.html", [tmp_path])
    (tmp_path / "compare.json").write_text("{")
    with pytest.raises(ValueError, match=r"compare.json is no JSON"):
        html.write(tmp_path / "report.html", [tmp_path])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install .biomamba\[plot\]"):
        html.write(tmp_path / "report.html", [folder])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to draw the page with")
def test_a_browser_draws_it(folder: Path, text: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(text)
    where = [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3000", f"file://{tmp_path / 'report.html'}"]
    subprocess.run(
        [str(CHROMIUM), *HEADLESS, f"--screenshot={tmp_path / 'page.png'}", *where],
        check=True,
        capture_output=True,
        timeout=600,
    )
    dom = subprocess.run([str(CHROMIUM), *HEADLESS, "--dump-dom", *where], check=True, capture_output=True, timeout=600)
    image = (imread(tmp_path / "page.png")[..., :3] * 255).round().astype(int)
    colours = {tuple(pixel) for pixel in image[::3, ::3].reshape(-1, 3)}
    settings = [tuple(int(look.colour[i : i + 2], 16) for i in (1, 3, 5)) for look in figures.styles(LABELS).values()]
    assert colours >= set(settings)  # a blank page has none of them
    assert sorted(Page(dom.stdout.decode()).plots) == sorted(f"{name} (cmp)" for name in PLOTS)
