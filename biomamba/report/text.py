"""What people read at the end: a table of one run's scores, and of several rules compared, with their learning curves.

A setting is a rule, a length and a window; its runs differ in their seed. spread is the standard deviation over them.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..analysis.cost import Cost
from ..experiment import files
from ..experiment.log import Scores

PARTS = {"all": "", "last_tenth": " last tenth", "held_out": " held out"}
CLASSES, MISTAKES = 20, 10  # beyond so many classes the commonest mistakes stand for a confusion matrix
WIDE = 6  # columns of scores, beyond which a table is turned on its side


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as aligned text, the first row above a line; the first column to the left."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def score_table(scores: Mapping[str, Scores]) -> str:
    """Return every score over the whole stream, over its last tenth and held out; one row per label, or per score."""
    columns = _columns(scores.values())
    header = ["", *(name + PARTS[part] for name, part in columns)]
    rows = [[label, *(_number(own.get(n, {}).get(p)) for n, p in columns)] for label, own in scores.items()]
    return table([header, *rows] if len(columns) <= WIDE else list(zip(header, *rows, strict=True)))


def confusion_table(confusion: Mapping[str, Any]) -> str:
    """Return one table per score that counts decisions, as `log.confusion` has them; of many classes their mistakes."""
    tables = []
    for name, own in confusion.items():
        if len(own["classes"]) > CLASSES:
            tables.append(_mistakes(name, own["classes"], own["counts"]))
            continue
        rows = [[f"true {c}", *map(str, counts)] for c, counts in zip(own["classes"], own["counts"], strict=True)]
        tables.append(table([[name, *(f"predicted {c}" for c in own["classes"])], *rows]))
    return "\n".join(tables)


def _mistakes(name: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return the commonest mistakes as a table, and where all counts are."""
    wrong = [
        (count, classes[true], classes[predicted])
        for true, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    most = sorted(wrong, key=lambda found: -found[0])[:MISTAKES]
    rows = [[f"true {true}", f"predicted {predicted}", str(count)] for count, true, predicted in most]
    head = [f"{name}: {len(classes)} classes, commonest mistakes", "", "times"]
    return f"{table([head, *rows])}\nall counts: confusion in summary.json"


def bytes_text(count: float | None) -> str:
    """Return a number of bytes as text, such as 1.5 MB."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def joules_text(joules: float | None) -> str:
    """Return an energy as text, such as 1.5 uJ; `not measured` for None."""
    if joules is None:
        return "not measured"
    for unit in ("J", "mJ", "uJ"):
        if joules >= 1:
            return f"{joules:.3g} {unit}"
        joules *= 1000
    return f"{joules:.3g} nJ"


def cost_table(cost: Cost) -> str:
    """Return a cost as a table, and a line on memory and measured energy."""
    rows = [["per step and stream", "multiply-acc.", "accumulates", "elementwise", "traffic", "estimate", "us/step"]]
    for label, own, took in (
        ("inference", cost.inference, cost.inference_seconds),
        ("learning", cost.learning, cost.learning_seconds),
    ):
        counts = [f"{number:,.0f}" for number in (own.multiply_accumulates, own.accumulates, own.elementwise)]
        rows.append([label, *counts, bytes_text(own.bytes), joules_text(own.joules), f"{took * 1e6:,.1f}"])
    memory = {"state": cost.state_bytes, "trace": cost.trace_bytes, "activations": cost.activation_bytes}
    line = ", ".join(f"{name} {bytes_text(number)}" for name, number in memory.items())
    return f"{table(rows)}\n{line}; learning measured: {joules_text(cost.measured_joules)}"


def gather(settings: Mapping[str, Sequence[Path]], about: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the means and spreads of finished runs: `settings` names the run folders of each setting.

    about: in what the baselines of a setting differ from those of others, in words; empty where in nothing.
    """
    runs = {label: [_summary(folder) for folder in folders] for label, folders in settings.items()}
    first = next(iter(runs.values()))[0]
    baselines: dict[str, list[Scores]] = {}
    for label, summary in ((label, summary) for label, own in runs.items() for summary in own):
        own = (about or {}).get(label)
        trivial = {f"{name}, {own}" if own else name: scores for name, scores in summary["baselines"].items()}
        averaged = {f"{label}, averaged": summary["averaged"]} if summary.get("averaged") else {}
        for name, scores in (averaged | trivial).items():
            baselines.setdefault(name, []).append(scores)
    return {
        "task": first["task"],
        "source": first["source"],
        "settings": {label: _setting(own, settings[label]) for label, own in runs.items()},
        "baselines": {name: _mean_scores(own) for name, own in baselines.items()},
    }


def compare_table(result: Mapping[str, Any]) -> str:
    """Return the table of a comparison: one row per setting, then the baselines; the first scores only."""
    settings, baselines, tuning = result["settings"], result["baselines"], result.get("tuning")
    columns = _columns(own["scores"] for own in settings.values())[:WIDE]
    head = ["", *(name + PARTS[part] for name, part in columns), "samples", "seconds", "trace", "peak memory"]
    rows = []
    for label, own in settings.items():
        costs = [f"{own['samples']:,}", _both(own["wall_seconds"], 1), bytes_text(own["trace_bytes"])]
        rows.append([label, *_cells(own["scores"], columns), *costs, bytes_text(own["peak_rss_bytes"]["mean"])])
    rows += [[label, *_cells(scores, columns), *[""] * 4] for label, scores in baselines.items()]
    if tuning is not None:
        chosen = [tuning["rows"].get(row[0], {}).get("chosen", "") for row in rows]
        head, rows = [*head, "tuned"], [[*row, value] for row, value in zip(rows, chosen, strict=True)]
    lines = [*(tuning_lines(tuning) if tuning else []), *verdicts(result)]
    return "\n".join([table([head, *rows]), *lines])


def loud(source: str) -> str:
    """Return what data were used; made-up ones nobody should take for recorded ones."""
    return source.replace("simulated", "SIMULATED", 1)


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """Return what a comparison says, a line for each kind of stream; nothing where its scores tell nothing."""
    return [group["verdict"] for group in (result.get("statistics") or {"groups": ()})["groups"]]


def tuning_lines(tuning: Mapping[str, Any]) -> list[str]:
    """Return what is to be said of values that were chosen for each setting."""
    lines = [f"tuned for each setting: {' '.join(tuning['keys'])}, by {tuning['score']} of {tuning['on']}"]
    edge = [label for label, own in tuning["rows"].items() if own["edge"]]
    if edge:
        lines.append(f"the best value lies at the edge of those tried, a further one may be better: {', '.join(edge)}")
    failed = [f"{label} with {name}" for label, own in tuning["rows"].items() for name in _unscored(own["reached"])]
    return [*lines, *([f"came to no score: {'; '.join(failed)}"] if failed else [])]


def _unscored(reached: Mapping[str, float | None]) -> list[str]:
    """Return the values whose tuning runs came to no score."""
    return [name for name, value in reached.items() if value is None]


def fidelity_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how near every setting's credit through the past comes to BPTT's: over all parameters, then each layer.

    1 - cosine tells settings apart where cosines are all near 1; a dash where a setting has no such credit.
    """
    layers = list(dict.fromkeys(name for row in rows for name in row["layers"]))
    several = len({row.get("updates") for row in rows}) > 1
    head = ["1 - cosine, ratio", "blocks", *(["updates"] if several else []), "whole", "through the past", *layers]
    body = [head]
    for row in rows:
        past = row.get("past") or {"all": None, "layers": {}}
        cells = [_near(row["all"]), _near(past["all"]), *(_near(past["layers"].get(name)) for name in layers)]
        body.append([row["label"], str(row["depth"]), *([str(row["updates"])] if several else []), *cells])
    return table(body)


def plot(path: Path, result: Mapping[str, Any]) -> None:
    """Draw each setting's score between two reports against the samples seen, mean and spread over its seeds.

    Beside `path`, the same as SVG and PDF; the same numbers give the same bytes. Raises ImportError, with what to
    install, where matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the plot needs matplotlib: pip install "biomamba[plot]"') from error
    name = next(iter(next(iter(result["settings"].values()))["scores"]))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    dashes, markers = ["-", "--", "-.", ":"], ["o", "s", "^", "D", "v", "P", "X"]  # lines that coincide stay apart
    for i, (label, own) in enumerate(result["settings"].items()):
        samples, mean, spread = _curve([Path(folder) for folder in own["folders"]], own["streams"], name)
        every = max(1, len(samples) // 12)
        look: dict[str, Any] = {"linestyle": dashes[i % 4], "marker": markers[i % 7], "markevery": (i % every, every)}
        (line,) = axes.plot(samples, mean, label=label, markersize=4, **look)
        low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(samples, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    for style, (label, scores) in zip(
        [":", "--", "-."] * len(result["baselines"]), result["baselines"].items(), strict=False
    ):
        if name in scores and scores[name]["all"]["mean"] is not None:
            axes.axhline(scores[name]["all"]["mean"], color="gray", linestyle=style, label=label)
    axes.set(xlabel="samples seen (steps times streams)", ylabel=name, title=f"{result['task']}: {result['source']}")
    axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, dpi=120)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def _summary(folder: Path) -> dict[str, Any]:
    """Return a run's summary."""
    return files.read_json(folder / "summary.json")


def _setting(runs: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> dict[str, Any]:
    """Return what the runs of one setting share, and the means and spreads of the rest."""
    first = runs[0]
    return {
        **{key: first[key] for key in ("rule", "length", "window", "steps", "streams", "trace_bytes", "parameters")},
        "samples": first["steps"] * first["streams"],
        "seeds": [run["seed"] for run in runs],
        "scores": _mean_scores([run["scores"] for run in runs]),
        **{key: _mean([run[key] for run in runs]) for key in ("wall_seconds", "steps_per_second", "peak_rss_bytes")},
        **{key: _mean([run.get(key) for run in runs]) for key in ("updates", "spike_rate")},
        "skipped": sum(run["skipped"] for run in runs),
        "folders": [str(folder) for folder in folders],
    }


def _mean_scores(runs: Sequence[Scores]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return mean and spread of every score over runs."""
    parts = {name: [part for part in PARTS if part in runs[0][name]] for name in runs[0]}
    return {name: {part: _mean([run[name][part] for run in runs]) for part in own} for name, own in parts.items()}


def _mean(values: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean and spread; None where there is no such number."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return {"mean": None, "spread": None}
    return {"mean": statistics.fmean(numbers), "spread": statistics.stdev(numbers) if len(numbers) > 1 else None}


def _curve(folders: Sequence[Path], streams: int, name: str) -> tuple[list[int], list[float], list[float]]:
    """Return samples seen, mean and spread of the score between two reports; spread 0 for a single seed."""
    at: dict[int, list[float]] = {}
    for folder in folders:
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["interval"][name] is not None:
                at.setdefault(record["step"] * streams, []).append(record["interval"][name])
    means = [statistics.fmean(values) for values in at.values()]
    return list(at), means, [statistics.stdev(values) if len(values) > 1 else 0.0 for values in at.values()]


def _columns(scores: Iterable[Mapping[str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Return the name and part of every score that the first row has."""
    first = next(iter(scores))
    return [(name, part) for name, parts in first.items() for part in PARTS if part in parts]


def _cells(scores: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    """Return the cells of one row's scores."""
    return [_both(scores[name][part], 3) if part in scores.get(name, {}) else "" for name, part in columns]


def _both(value: Mapping[str, float | None], digits: int) -> str:
    """Return `mean +- spread`, or the mean alone of a single seed."""
    if value["mean"] is None:
        return "-"
    mean = f"{value['mean']:.{digits}f}"
    return mean if value["spread"] is None else f"{mean} +- {value['spread']:.{digits}f}"


def _near(value: Mapping[str, float | None] | None) -> str:
    """Return 1 - cosine and ratio as text."""
    if value is None:
        return ""
    gap, ratio = value.get("gap"), value["ratio"]
    return f"{'-' if gap is None else f'{gap:.1e}'}, {'-' if ratio is None else f'{ratio:.3f}'}"


def _number(value: float | None) -> str:
    """Return a score as text."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"
