"""How well a comparison's settings learn: curves, scores, the fidelity of their gradients, their stability."""

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..analysis.paired import LEVEL
from ..metrics import direction
from . import figures
from .data import Curve, Record, Section, curve
from .figures import Scale
from .markup import NOTHING, Column, Part, Style, count, details, figure, key, keys, missing, number, pair, table
from .text import tuning_lines

OVER = {"all": "whole stream", "last_tenth": "last tenth", "held_out": "held out"}
WIDE = 9  # columns of scores, beyond which their table is turned on its side
ROWS = 24  # parameters in a heat map, beyond which it shows layers alone
MUCH = 4  # times as long as the shortest run: then time is drawn by factors
TRAIN = "biomamba train --config CONFIG"


def learning(section: Section, looks: Mapping[str, Style]) -> Part:
    """Return the task's first score against samples and against time."""
    settings, runs = section.result["settings"], section.found()
    score = next(iter(next(iter(settings.values()))["scores"]))
    if not runs:
        return Part("Learning curves", "", _kept_apart("The curves"))

    def value(record: Record) -> float | None:
        found: float | None = record["interval"].get(score)
        return found

    levels = _levels(section, score)
    looks = {**looks, **figures.greys(levels)}
    by_samples = {label: curve(own, "step", value, settings[label]["streams"]) for label, own in runs.items()}
    by_time = {label: curve(own, "wall_seconds", value) for label, own in runs.items()}
    ends = [own.x[-1] for own in by_time.values() if own.x]
    clock = Scale("wall time, s", log=max(ends, default=1) > MUCH * min(ends, default=1))
    plots = {}
    for what, drawn, x in (("samples", by_samples, Scale("samples seen")), ("wall time", by_time, clock)):
        name = f"Learning curves, {score} against {what} ({section.name})"
        plots[f"Against {what}"] = figures.curves(name, drawn, looks, x, Scale(score), levels)
    lead = (
        f"How good the predictions are while the model learns: {escape(score)} between two reports, every prediction "
        "scored before it was learned from; of long runs every n-th report is drawn. First against the samples seen "
        "(time steps times streams), then against the wall time of learning, compiling included."
    )
    caption = f"{_spread(section)} Against wall time, points lie at the seeds' mean time."
    caption += " Grey: baselines, over the whole stream." if levels else ""
    body = keys({label: looks[label] for label in [*figures.unnamed(runs), *levels]}) + figure(plots, caption)
    return Part("Learning curves", lead, body)


def scores(section: Section, looks: Mapping[str, Style]) -> Part:
    """Return every score of every setting and baseline, the best of each in bold."""
    settings, baselines = section.result["settings"], section.result["baselines"]
    rows = [*(own["scores"] for own in settings.values()), *baselines.values()]
    columns = []
    for score, parts in rows[0].items():
        arrow = {-1: " &darr;", 0: "", 1: " &uarr;"}[direction(score)]
        for part in (part for part in OVER if part in parts):
            cells = bold([row.get(score, {}).get(part) for row in rows], direction(score))
            columns.append(Column(OVER[part], cells, escape(score) + arrow))
    for name, write in {"samples": count, "updates": count, "spike_rate": number}.items():
        cells = [pair(own.get(name), write) for own in settings.values()]
        if any(cell != NOTHING for cell in cells):
            columns.append(Column(name.replace("_", " "), [*cells, *[""] * len(baselines)], "runs"))
    tuning = section.result.get("tuning")
    if tuning:
        chosen = [escape(tuning["rows"].get(label, {}).get("chosen", "")) for label in settings]
        columns.append(Column("tuned", [*chosen, *[""] * len(baselines)], "runs"))
    heads = [key(label, looks[label]) + _tag(_kind(own)) for label, own in settings.items()]
    heads += [escape(name) + _tag("untrained" if name == "frozen" else "trivial") for name in baselines]
    lead = (
        "Mean and standard deviation over the seeds, every prediction scored before it was learned from; held-out data "
        "with learning off. Bold is the best of all settings and baselines; the arrow says which way is better, where "
        "that is known."
    )
    body = table(heads, columns, quiet=len(baselines), turned=len(columns) > WIDE)
    if not baselines:
        body += missing("The frozen and the trivial baselines are", f"{TRAIN} --run.baselines true")
    if not any("held_out" in parts for parts in rows[0].values()):
        body += missing("Scores of held-out data are", f"{TRAIN} --run.held_out true")
    return Part("Scores", lead, body + (_tuned(tuning, looks) if tuning else ""))


def seeds(section: Section, looks: Mapping[str, Style]) -> Part:
    """Return every seed as a dot, and the differences to the reference and to the best baseline, seed by seed."""
    found = section.result.get("statistics")
    if not found:
        return Part("Seed by seed", "", missing("Differences seed by seed are"))
    score, body = found["score"], ""
    lead = (
        f"Each seed's {escape(score)} over the whole stream, and how much each setting differs from the reference and "
        "from the best baseline on the same seed: the mean of the differences, and its interval at "
        f"{LEVEL:.0%} by the bootstrap (BCa), which of few seeds is rather too narrow than too wide."
    )
    for group in found["groups"]:
        rows, words = group["rows"], escape(group["streams"])
        values = {label: row["scores"]["all"] for label, row in rows.items()}
        name = f"Every seed, {score}{f', {words}' if words else ''} ({section.name})"
        plot = figures.dots(name, values, looks, Scale(score))
        body += f"<p><strong>{escape(group['verdict'])}</strong></p>\n"
        body += figure({f"Every seed{f', {words}' if words else ''}": plot}, "Dots: seeds; line: their mean.")
        columns = []
        for part in next(iter(rows.values()))["scores"]:
            apart = [(row["reference"] or {}).get(part) for row in rows.values()]
            columns += _difference(apart, f"{OVER[part]}, less {escape(group['reference'])}")
        if group["baseline"]:
            over = f"whole stream, less {escape(group['baseline'])}"
            columns += _difference([row["baseline"] for row in rows.values()], over)
        heads = [key(label, looks[label]) for label in rows]
        body += table(heads, columns)
        seeds = dict.fromkeys(seed for label in rows for seed in section.result["settings"][label]["seeds"])
        each = [
            Column(
                str(seed),
                [
                    number(_of_seed(section.result["settings"][label]["seeds"], row["scores"][part], seed))
                    for label, row in rows.items()
                ],
                f"{OVER[part]}, seed",
            )
            for part in next(iter(rows.values()))["scores"]
            for seed in seeds
        ]
        body += details("Every seed's score", table(heads, each))
    return Part("Seed by seed", lead, body)


def fidelity(section: Section) -> Part:
    """Return how near each rule's gradient is to that of backpropagation through the whole stream, by depth."""
    found = section.result.get("fidelity")
    if not found:
        return Part("Fidelity of the gradient", "", missing("Comparisons with the gradient of full BPTT are"))
    lead = (
        f"Each rule's gradient beside that of full backpropagation, over {number(found['steps'])} steps of "
        f"{number(found['streams'])} streams, weights held, {escape(found['weights'])}. Most of a gradient may be "
        "immediate, the same for every rule; rules differ in the credit <em>through the past alone</em>: what is left "
        "of both gradients without the immediate one, of the state before each step held. 1 - cosine is 0 for the "
        "same direction, and its scale counts by factors; the ratio of norms is 1 for the same length, 0 for none."
    )
    body, looks = "", figures.styles(dict.fromkeys(row["label"] for row in found["rows"]))
    for depth in sorted({row["depth"] for row in found["rows"]}):
        own = [row for row in found["rows"] if row["depth"] == depth]
        counts = list(dict.fromkeys(row.get("updates") for row in own))
        blocks = f"{depth} block{'' if depth == 1 else 's'}"
        last = {row["label"]: row for row in own if row.get("updates") == counts[-1]}
        body += _of_depth(blocks, section.name, last, looks)
        if len(counts) > 1:
            body += _along(blocks, section.name, own, looks)
        for updates in counts:
            rows = {row["label"]: row for row in own if row.get("updates") == updates}
            after = "" if updates is None else f", after {number(updates)} updates"
            body += details(f"{blocks.capitalize()}{after}: every layer and parameter", _every(rows))
    return Part("Fidelity of the gradient", lead, body)


def stability(section: Section, looks: Mapping[str, Style]) -> Part:
    """Return the norm of the gradient over the run, and the updates that were left out."""
    settings, runs = section.result["settings"], section.found()
    norms = {
        label: [r["norm"] for run in own for r in run.records if r["norm"] is not None] for label, own in runs.items()
    }
    columns = [Column("left out", [number(own["skipped"]) for own in settings.values()], "updates")]
    if any(own.get("updates") for own in settings.values()):
        columns.insert(0, Column("of a run", [pair(own.get("updates"), count) for own in settings.values()], "updates"))
    for title, pick in (("smallest", min), ("median", statistics.median), ("largest", max)):
        cells = [number(pick(norms[label])) if norms.get(label) else number(None) for label in settings]
        columns.append(Column(title, cells, "norm of the gradient"))
    body = table([key(label, looks[label]) for label in settings], columns)
    lead = (
        "The norm of the gradient before clipping, at the last update before each report (of long runs every n-th); "
        "and the updates of all seeds that were left out because outputs, loss or gradient were not finite."
    )
    if not runs:
        return Part("Stability", lead, body + _kept_apart("The norms"))
    clips = {run.config.get("optim.clip") for own in runs.values() for run in own}
    levels = {f"clipped to {clip:g}": clip for clip in clips if clip is not None and len(clips) == 1}
    looks = {**looks, **figures.greys(levels)}
    drawn = {label: curve(own, "step", lambda record: record["norm"]) for label, own in runs.items()}
    x, y = Scale("time steps of each stream"), Scale("norm of the gradient", log=True)
    plot = figures.curves(f"Norm of the gradient ({section.name})", drawn, looks, x, y, levels, width=figures.WIDE)
    shown = keys({label: looks[label] for label in [*figures.unnamed(runs), *levels]}) + figure(
        {"Over the run": plot}, _spread(section)
    )
    return Part("Stability", lead, shown + body)


def bold(values: Sequence[Mapping[str, float | None] | None], better: int) -> list[str]:
    """Return the cells of a column, those that read like the best one in bold."""
    means = [value["mean"] for value in values if value and value["mean"] is not None]
    apart = better != 0 and len({number(mean) for mean in means}) > 1
    best = number(max(means, key=lambda mean: mean * better)) if apart else None
    cells = ["" if value is None else pair(value) for value in values]
    marks = [best is not None and value is not None and number(value["mean"]) == best for value in values]
    return [f"<strong>{cell}</strong>" if mark else cell for cell, mark in zip(cells, marks, strict=True)]


def _of_depth(depth: str, name: str, rows: Mapping[str, Mapping[str, Any]], looks: Mapping[str, Style]) -> str:
    """Return 1 - cosine and ratio of the credit through the past of one depth, by layers and parameters."""
    first = next(iter(rows.values()))
    inside = "parameters" if len(first["parameters"]) <= ROWS else "layers"
    heads = ["all", *first[inside]]
    past = {label: row.get("past") or row for label, row in rows.items()}  # older pages' have the whole alone
    gaps = {label: [_at(row, inside, head).get("gap") for head in heads] for label, row in past.items()}
    ratios = {label: [_at(row, inside, head).get("ratio") for head in heads] for label, row in past.items()}
    plots = {
        f"1 - cosine through the past, {depth}": figures.points(f"Fidelity, gap, {depth} ({name})", heads, gaps, looks),
        f"Ratio of norms through the past, {depth}": figures.heat(
            f"Fidelity, ratio, {depth} ({name})", heads, ratios, lambda ratio: math.log(max(ratio, 1e-9), 4), 3
        ),
    }
    caption = (
        "1 - cosine: the further left, the nearer; no mark where a rule gives no credit through the past, or there is "
        "none to give. Ratio: white at 1, blue above it, orange below it, full at 4 and at 1/4."
    )
    return keys({label: looks[label] for label in rows}) + figure(plots, caption)


def _along(depth: str, name: str, rows: Sequence[Mapping[str, Any]], looks: Mapping[str, Style]) -> str:
    """Return 1 - cosine of the credit through the past along training."""
    lines: dict[str, Curve] = {}
    for row in rows:
        gap = (row.get("past") or row)["all"].get("gap")
        if gap is not None:
            own = lines.setdefault(row["label"], Curve([], [], []))
            own.x.append(row["updates"])
            own.mean.append(max(gap, figures.SMALLEST))
            own.spread.append(0.0)
    title = f"1 - cosine through the past along training, {depth}"
    x, y = Scale("updates"), Scale("1 - cosine", log=True)
    plot = figures.curves(f"Fidelity along training, {depth} ({name})", lines, looks, x, y, together=len(lines) or 1)
    return figure({title: plot}, "Of all parameters together, weights held at each mark.")


def _every(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the numbers of every layer and parameter, of the whole gradient and through the past."""
    first = next(iter(rows.values()))
    every = [("", "all"), *((group, head) for group in ("layers", "parameters") for head in first[group])]
    columns = [
        Column(f"{title} {what}", [number(_at(own, group, head).get(key), 4) for group, head in every], escape(label))
        for label, row in rows.items()
        for title, own in {"whole": row, "past": row.get("past")}.items()
        if own
        for key, what in {"cosine": "cosine", "ratio": "ratio", "gap": "1 - cosine"}.items()
    ]
    return table([escape(head) for _, head in every], columns)


def _difference(rows: Sequence[Mapping[str, float | None] | None], over: str) -> list[Column]:
    """Return the columns of differences."""
    titles = {"mean": "mean", "low": "from", "high": "to", "gains": "seeds that gain"}
    return [
        Column(title, [NOTHING if row is None else number(row[name]) for row in rows], over)
        for name, title in titles.items()
    ]


def _of_seed(seeds: Sequence[int], values: Sequence[float | None], seed: int) -> float | None:
    """Return the value of a seed, where there is one."""
    return dict(zip(seeds, values, strict=True)).get(seed)


def _tuned(tuning: Mapping[str, Any], looks: Mapping[str, Style]) -> str:
    """Return what was tuned, on what, and what each value reached."""
    said = "".join(f"<p>{escape(line)}</p>\n" for line in tuning_lines(tuning))
    names = dict.fromkeys(name for own in tuning["rows"].values() for name in own["reached"])
    columns = [
        Column(escape(name), [number(own["reached"].get(name)) for own in tuning["rows"].values()], tuning["score"])
        for name in names
    ]
    return said + details("Every value tried", table([key(label, looks[label]) for label in tuning["rows"]], columns))


def _at(row: Mapping[str, Any], group: str, head: str) -> Mapping[str, float | None]:
    """Return cosine, ratio and gap of a layer, of a parameter or of all."""
    found: Mapping[str, float | None] = row["all"] if head == "all" else row[group].get(head, {})
    return found


def _levels(section: Section, score: str) -> dict[str, float]:
    """Return the baselines' score over the whole stream."""
    found = {name: own[score]["all"]["mean"] for name, own in section.result["baselines"].items() if score in own}
    return {name: level for name, level in found.items() if level is not None}


def _kind(own: Mapping[str, Any]) -> str:
    """Say how far a setting's backpropagation reaches, where it is no more than that."""
    reach = own["window"] or own["length"]
    if own["rule"] != "bptt":
        return ""
    return "full BPTT" if reach >= own["steps"] else f"BPTT of {reach:,} step{'' if reach == 1 else 's'}"


def _tag(text: str) -> str:
    """Return a small word beside a label."""
    return f' <span class="tag">{text}</span>' if text else ""


def _spread(section: Section) -> str:
    """Say what lines and bands are."""
    seeds = max(len(own["seeds"]) for own in section.result["settings"].values())
    return f"Lines: mean over {seeds} seeds; bands: standard deviation." if seeds > 1 else "One seed: no spread."


def _kept_apart(what: str) -> str:
    """Return the line for runs whose folders are not there."""
    return f'<p class="missing">{what} are not there: the folders of the runs are to lie beside compare.json.</p>\n'
