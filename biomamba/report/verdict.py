"""What a comparison says: every seed's score, differences to a reference and to the baselines, and a line in words.

Settings are told apart where they learned the same streams. "Above" means that all of the interval lies beyond 0.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..analysis.paired import FEWEST, LEVEL, paired
from ..experiment import files
from ..metrics import direction

Summary = Mapping[str, Any]
PARTS = ("all", "last_tenth", "held_out")


def chosen_score(scores: Mapping[str, Any], asked: str | None) -> str | None:
    """Return the score that settings are told apart by: by default the first of which it is known what is better.

    Raises ValueError for one that there is not, or of which that is not known.
    """
    if asked is not None and (asked not in scores or not direction(asked)):
        known = ", ".join(name for name in scores if direction(name))
        raise ValueError(f"score: got {asked!r}, expected one of {known}")
    return asked or next((name for name in scores if direction(name)), None)


def verdict(
    runs: Mapping[str, Sequence[Path]],
    streams: Mapping[str, str],
    score: str | None = None,
    reference: str | None = None,
) -> dict[str, Any] | None:
    """Return the statistics of finished runs, and a line for each kind of stream; None where no score has a direction.

    runs: the folders of each setting, one a seed. streams: which settings learned the same ones, in words. reference:
    the label that others are compared with; None: the first bptt among those of the same streams, else the first.
    Raises ValueError for a reference or score that there is not, ImportError where scipy is missing.
    """
    found = {label: [_read(folder) for folder in folders] for label, folders in runs.items()}
    score = chosen_score(next(iter(found.values()))[0]["scores"], score)
    if score is None:
        return None
    if reference is not None and reference not in runs:
        raise ValueError(f"reference: got {reference!r}, expected one of {', '.join(runs)}")
    groups = []
    for words in dict.fromkeys(streams.values()):
        own = {label: found[label] for label in runs if streams[label] == words}
        first = next((label for label, summaries in own.items() if summaries[0]["rule"] == "bptt"), next(iter(own)))
        groups.append(_group(own, words, score, reference if reference in own else first))
    return {"score": score, "groups": groups}


def _group(own: Mapping[str, Sequence[Summary]], words: str, score: str, reference: str) -> dict[str, Any]:
    """Return the statistics of the settings of one kind of stream."""
    better = direction(score)
    trivial = _baselines(own.values(), score)
    means = {name: statistics.fmean(values.values()) for name, values in trivial.items()}
    baseline = max(means, key=lambda name: means[name] * better) if means else None
    rows: dict[str, Any] = {}
    for label, summaries in own.items():
        seeds = [summary["seed"] for summary in summaries]
        rows[label] = {part: _values(summaries, score, part) for part in PARTS if part in summaries[0]["scores"][score]}
        rows[label] = {
            "scores": rows[label],
            "reference": _differences(summaries, own[reference], score, better) if label != reference else None,
            "baseline": _beside(seeds, rows[label]["all"], trivial[baseline], better) if baseline else None,
        }
    found = {"streams": words, "reference": reference, "baseline": baseline, "rows": rows}
    return found | {"verdict": _line(found, score, better, None if baseline is None else means[baseline])}


def _line(group: Mapping[str, Any], score: str, better: int, level: float | None) -> str:
    """Return in a line which setting is best, and whether that can be told."""
    rows, reference, words = group["rows"], group["reference"], f"{group['streams']}: " if group["streams"] else ""
    usable = {label: row["scores"]["all"] for label, row in rows.items() if None not in row["scores"]["all"]}
    if not usable:
        return f"{words}no setting has a {score} of every seed"
    means = {label: statistics.fmean(values) for label, values in usable.items()}
    order = sorted(means, key=lambda label: -means[label] * better)
    seeds = min(map(len, usable.values()))
    if seeds < FEWEST:
        told = ", ".join(f"{label} {means[label]:.3g}" for label in order[:2])
        return f"{words}{seeds} seed{'s' * (seeds > 1)}: no spread can be told, {FEWEST} or more can; {score}: {told}"
    if level is not None and not any(_beyond(rows[label]["baseline"], better) for label in usable):
        return f"{words}no setting is {_side(better)} {group['baseline']} ({score} {level:.3g})"
    compared = {label: rows[label]["reference"]["all"] for label in order if rows[label]["reference"]}
    apart = {label: own for label, own in compared.items() if own and _beyond(own, better)}
    if apart:
        label, own = next(iter(apart.items()))
        return f"{words}{label} {_side(better)} {reference} in {score} by {_by(own)}, {own['gains']} of {seeds} seeds"
    behind = [label for label, own in compared.items() if own and _beyond(own, -better)]
    if behind and len(behind) == len(compared):
        label = behind[0]
        own = compared[label]
        return f"{words}{reference} {_side(better)} all others in {score}, {label} by {_by(own)} from it"
    return f"{words}no setting is {_side(better)} {reference} in {score} at {LEVEL:.0%}"


def _by(own: Mapping[str, float]) -> str:
    """Return a difference and its interval."""
    low, high = sorted((abs(own["low"]), abs(own["high"])))
    return f"{abs(own['mean']):.3g} ({low:.3g} to {high:.3g})"


def _side(better: int) -> str:
    """Return where the better ones lie."""
    return "above" if better > 0 else "below"


def _beyond(own: Mapping[str, float] | None, better: int) -> bool:
    """Say whether all of an interval is on the better side of 0."""
    return own is not None and own["low"] is not None and min(own["low"] * better, own["high"] * better) > 0


def _differences(
    own: Sequence[Summary], reference: Sequence[Summary], score: str, better: int
) -> dict[str, dict[str, Any] | None]:
    """Return the differences of each part of the streams to the reference's."""
    seeds = [summary["seed"] for summary in own]
    found = {}
    for part in (part for part in PARTS if part in own[0]["scores"][score]):
        beside = {summary["seed"]: summary["scores"][score].get(part) for summary in reference}
        found[part] = _beside(seeds, _values(own, score, part), beside, better)
    return found


def _beside(
    seeds: Sequence[int], own: Sequence[float | None], other: Mapping[int, float | None], better: int
) -> dict[str, Any] | None:
    """Return the differences on the seeds that both have a score of; None where there are none."""
    pairs = [
        (a, other[seed]) for seed, a in zip(seeds, own, strict=True) if a is not None and other.get(seed) is not None
    ]
    return paired([a for a, _ in pairs], [b for _, b in pairs if b is not None], better) if pairs else None


def _baselines(settings: Any, score: str) -> dict[str, dict[int, float]]:
    """Return the baselines' scores over the whole streams, by name and seed."""
    found: dict[str, dict[int, float]] = {}
    for summary in (summary for own in settings for summary in own):
        for name, scores in summary["baselines"].items():
            value = scores.get(score, {}).get("all")
            if value is not None:
                found.setdefault(name, {}).setdefault(summary["seed"], value)
    return found


def _values(summaries: Sequence[Summary], score: str, part: str) -> list[float | None]:
    """Return a score of every seed."""
    return [summary["scores"][score][part] for summary in summaries]


def _read(folder: Path) -> Summary:
    """Return a run's summary."""
    return files.read_json(folder / "summary.json")
