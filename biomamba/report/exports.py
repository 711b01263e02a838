"""What a comparison leaves for other programs: tables of its runs and of its settings.

runs.csv, runs.parquet    tidy: one row a run and score; baselines too, as settings of kind `baseline`
table.csv                 one row a setting or baseline: mean and spread of every score, cost, differences
table.tex                 the first scores, for LaTeX with booktabs; the best of each in bold
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..experiment import files, log
from ..metrics import direction
from .text import PARTS, tuning_lines, verdicts

Row = dict[str, Any]
OF_RUN = (
    *("seed", "steps", "streams", "updates", "skipped", "wall_seconds", "steps_per_second", "trace_bytes"),
    *("peak_rss_bytes", "parameters", "spike_rate"),
)
OF_SETTING = ("wall_seconds", "steps_per_second", "peak_rss_bytes", "updates", "spike_rate")
IN_TEX = 4  # columns of scores


def write(folder: Path, result: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Write the tables of a comparison into its folder.

    result: as `gather` makes it. keys: of the config, that were varied or tuned: a column each of the runs. Raises
    ImportError, with what to install, where pyarrow is missing; all but runs.parquet is then written.
    """
    rows = tidy(result, keys)
    log.write(folder / "runs.csv", to_csv(rows))
    log.write(folder / "table.csv", to_csv(by_setting(result)))
    log.write(folder / "table.tex", to_tex(result))
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError('runs.parquet needs pyarrow: pip install "biomamba[compare]"') from error
    columns = {name: _column([row[name] for row in rows]) for name in rows[0]}
    parquet.write_table(pyarrow.table(columns), folder / "runs.parquet")


def tidy(result: Mapping[str, Any], keys: Sequence[str]) -> list[Row]:
    """Return a row for each score of each run and of its baselines; the columns are the same in all."""
    rows = []
    for label, own in result["settings"].items():
        for folder in map(Path, own["folders"]):
            run, config = files.read_json(folder / "summary.json"), files.read(folder / "config.yaml")
            given = {key: _word(config.get(key)) for key in keys}
            named = {"task": run["task"], "setting": label, "kind": "run", "rule": run["rule"], "length": run["length"]}
            named |= {"window": run["window"], **given, **{name: run[name] for name in OF_RUN}}
            rows += [named | found | {"folder": str(folder)} for found in _scores(run["scores"])]
            for name, scores in run["baselines"].items():
                trivial = named | {"setting": name, "kind": "baseline"} | dict.fromkeys(("rule", "length", "window"))
                trivial |= {column: None for column in OF_RUN if column not in ("seed", "steps", "streams")}
                rows += [trivial | found | {"folder": str(folder)} for found in _scores(scores)]
    return rows


def by_setting(result: Mapping[str, Any]) -> list[Row]:
    """Return a row for each setting and baseline."""
    settings, tuning = result["settings"], result.get("tuning")
    rows: list[Row] = []
    for label, own in settings.items():
        row: Row = {"setting": label, "kind": "setting"}
        row |= {
            name: own[name] for name in ("rule", "length", "window", "steps", "streams", "trace_bytes", "parameters")
        }
        row["seeds"] = len(own["seeds"])
        row |= {"tuned": tuning["rows"].get(label, {}).get("chosen")} if tuning else {}
        row |= _pairs(own["scores"]) | _flat({name: own[name] for name in OF_SETTING})
        rows.append(row | _differences(result, label))
    rows += [{"setting": n, "kind": "baseline", **_pairs(scores)} for n, scores in result["baselines"].items()]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def to_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV with a header; empty cells where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_tex(result: Mapping[str, Any]) -> str:
    """Return the first scores of settings and baselines as a tabular of booktabs, with what else is to be said."""
    settings, baselines = result["settings"], result["baselines"]
    rows = {**{label: own["scores"] for label, own in settings.items()}, **baselines}
    first = next(iter(rows.values()))
    columns = [(name, part) for name, parts in first.items() for part in PARTS if part in parts][:IN_TEX]
    head = " & ".join(["", *(escape(name + PARTS[part]) for name, part in columns)])
    lines = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule", f"{head} \\\\", "\\midrule"]
    best = {
        column: _best([own.get(column[0], {}).get(column[1]) for own in rows.values()], column[0]) for column in columns
    }
    for i, (label, own) in enumerate(rows.items()):
        lines += ["\\midrule"] * (i == len(settings))
        cells = [_tex(own.get(name, {}).get(part), best[name, part]) for name, part in columns]
        lines.append(f"{' & '.join([escape(label), *cells])} \\\\")
    seeds = max(len(own["seeds"]) for own in settings.values())
    told = [f"{result['task']}: {result['source']}", f"mean and standard deviation of {seeds} seeds"]
    told += [*(tuning_lines(result["tuning"]) if result.get("tuning") else []), *verdicts(result)]
    return (
        "\n".join([*(f"% {' '.join(line.split())}" for line in told), *lines, "\\bottomrule", "\\end{tabular}"]) + "\n"
    )


def escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\~^&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)


def _best(values: Iterable[Mapping[str, float | None] | None], score: str) -> str | None:
    """Return the best mean as it is written; None where it is not known which way is better."""
    means = [value["mean"] for value in values if value and value["mean"] is not None]
    better = direction(score)
    return f"{max(means, key=lambda mean: mean * better):.3f}" if means and better else None


def _tex(value: Mapping[str, float | None] | None, best: str | None) -> str:
    """Return mean and spread for LaTeX, the best in bold."""
    if not value or value["mean"] is None:
        return "--"
    mean = f"{value['mean']:.3f}"
    text = f"\\mathbf{{{mean}}}" if mean == best else mean
    return f"${text}$" if value["spread"] is None else f"${text} \\pm {value['spread']:.3f}$"


def _scores(scores: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Return every score of every part of the stream."""
    return [
        {"score": name, "part": part, "value": parts[part]}
        for name, parts in scores.items()
        for part in PARTS
        if part in parts
    ]


def _pairs(scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Row:
    """Return columns for mean and spread of every score and part, such as accuracy_all_mean."""
    return _flat({f"{name}_{part}": value for name, parts in scores.items() for part, value in parts.items()})


def _flat(values: Mapping[str, Mapping[str, float | None]]) -> Row:
    """Return {"x_mean": 1, "x_spread": 2} for {"x": {"mean": 1, "spread": 2}}."""
    return {f"{name}_{kind}": value[kind] for name, value in values.items() for kind in ("mean", "spread")}


def _differences(result: Mapping[str, Any], label: str) -> Row:
    """Return a setting's differences over the whole stream to the reference and to the best baseline."""
    for group in (result.get("statistics") or {"groups": ()})["groups"]:
        if label in group["rows"]:
            own = group["rows"][label]
            beside = {"reference": (own["reference"] or {}).get("all"), "baseline": own["baseline"]}
            return {
                name: value
                for to, found in beside.items()
                for name, value in {to: group[to], **{f"less_{to}_{k}": v for k, v in (found or {}).items()}}.items()
            }
    return {}


def _word(value: Any) -> Any:
    """Return a value of a config as a cell: numbers and text as they are, others as JSON."""
    return value if value is None or isinstance(value, int | float | str) else json.dumps(value)


def _column(values: Sequence[Any]) -> list[Any]:
    """Return the cells of a column as Parquet takes them, of one type: text where numbers stand beside words."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return [float(value) if value is not None and float in kinds else value for value in values]
    return [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
