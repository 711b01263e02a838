"""What a comparison's settings cost: memory, time and energy, per time step and stream."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import figures
from .data import Curve, Section
from .figures import Scale
from .markup import Column, Part, Style, details, figure, key, keys, missing, number, pair, quantity, table

KEPT = {"state_bytes": "state", "trace_bytes": "traces", "activation_bytes": "activations"}
OPERATIONS = {
    "multiply_accumulates": "multiply-accumulates",
    "accumulates": "accumulates",
    "elementwise": "elementwise",
}
PHASES = ("inference", "learning")

NEUROBENCH = {
    "footprint": "footprint, bytes",
    "connection_sparsity": "connection sparsity",
    "activation_sparsity": "activation sparsity",
}
SYNAPTIC = {"Effective_MACs": "multiply-accumulates", "Effective_ACs": "accumulates", "Dense": "dense"}


def memory(section: Section, looks: Mapping[str, Style]) -> Part:
    """Return bytes against the length of the stream, and those of each setting."""
    settings, rows = section.result["settings"], section.result.get("memory")
    lead = (
        "What has to be kept to learn all streams, weights apart: the model's state, the traces of the rule, and the "
        "activations that wait for the backward pass. Traces do not grow with the stream; the activations of full "
        "backpropagation do."
    )
    costs = _costs(section)
    kept = KEPT if costs else {"trace_bytes": KEPT["trace_bytes"]}
    sources = [costs.get(label, own) for label, own in settings.items()]
    columns = [_bytes(title, [own.get(name) for own in sources]) for name, title in kept.items()]
    columns.append(Column("peak of the process", [pair(own["peak_rss_bytes"], _size) for own in settings.values()]))
    body = table([key(label, looks[label]) for label in settings], columns)
    drawn = {label: [own.get(name) for name in kept] for label, own in zip(settings, sources, strict=True)}
    plots = {f"Kept: {', '.join(kept.values())}": figures.bars(f"Memory ({section.name})", drawn, looks, _size)}
    if rows:
        return Part("Memory", lead, _against_length(section.name, rows, looks, plots) + body)
    caption = "Bytes kept by a setting."
    return Part("Memory", lead, figure(plots, caption) + body + missing("Bytes against the length of the stream are"))


def time(section: Section, looks: Mapping[str, Style]) -> Part:
    """Return the time of a step by itself, and the samples per second of the runs."""
    settings, costs = section.result["settings"], _costs(section)
    lead = "The samples (steps times streams) that a second of the runs took in, compiling and reports included."
    plots, columns = {}, []
    if costs:
        lead += (
            " Beside it the time of one step of all streams, measured by itself: of inference, and of learning, which "
            "is a whole update with prediction and optimiser, divided by its steps."
        )
        each = {label: [own[f"{phase}_seconds"] for phase in PHASES] for label, own in costs.items()}
        plots["Time per step: inference, learning"] = figures.bars(
            f"Time per step ({section.name})", each, looks, _time
        )
        columns = [
            Column(phase, [_time(costs.get(label, {}).get(f"{phase}_seconds")) for label in settings], "one step")
            for phase in PHASES
        ]
    rates = {label: _times(own["steps_per_second"], own["streams"]) for label, own in settings.items()}
    means = {label: [rate["mean"]] for label, rate in rates.items()}
    spreads = {label: rate["spread"] for label, rate in rates.items()}
    name = f"Samples per second ({section.name})"
    plots["Samples per second, in the runs"] = figures.bars(name, means, looks, number, spreads)
    columns += [
        Column("samples/s", [pair(rate) for rate in rates.values()], "runs"),
        Column("steps/s", [pair(own["steps_per_second"]) for own in settings.values()], "runs"),
        Column("seconds", [pair(own["wall_seconds"]) for own in settings.values()], "runs"),
    ]
    caption = "Inference pale, learning full. " if costs else ""
    body = figure(plots, f"{caption}Samples per second: mean over the seeds, the line its standard deviation.")
    body += table([key(label, looks[label]) for label in settings], columns)
    return Part("Time", lead, body + ("" if costs else missing("Times of single steps are")))


def energy(section: Section, looks: Mapping[str, Style]) -> Part:
    """Return operations, memory traffic and joules: three things apart."""
    costs = _costs(section)
    if not costs:
        return Part("Energy", "", missing("Operations, memory traffic and the estimate of energy are"))
    lead = (
        "Three things apart, each per time step and stream: operations, memory traffic, energy. Learning is a whole "
        "update, prediction and optimiser included. The joules are an <strong>estimate</strong> from the operations "
        "alone (45 nm, Horowitz 2014: 4.6 pJ for a 32-bit multiply-accumulate or elementwise operation, 0.9 pJ for an "
        "accumulate) and leave memory traffic out; joules that the hardware counted stand beside them where it can."
    )
    joules = {label: [own[f"{phase}_joules"] for phase in PHASES] for label, own in costs.items()}
    moved = {label: [own[phase]["bytes"] for phase in PHASES] for label, own in costs.items()}
    plots = {
        "Estimated energy per step": figures.bars(f"Estimated energy ({section.name})", joules, looks, _energy),
        "Memory traffic per step": figures.bars(f"Memory traffic ({section.name})", moved, looks, _size),
    }
    measured = [own["measured_joules"] for own in costs.values()]
    operations = [
        Column(title, [quantity(own[phase][name]) for own in costs.values()], phase)
        for phase in PHASES
        for name, title in OPERATIONS.items()
    ]
    traffic = [_bytes(phase, [own[phase]["bytes"] for own in costs.values()]) for phase in PHASES]
    estimate = [
        Column(phase, [_energy(own[i]) for own in joules.values()], "estimated") for i, phase in enumerate(PHASES)
    ]
    reading = Column("learning", ["not measured" if m is None else _energy(m) for m in measured], "measured")
    heads = [key(label, looks[label]) for label in costs]
    apart = {"Operations": operations, "Memory traffic": traffic, "Energy": [*estimate, reading]}
    tables = "".join(f"<div><h4>{title}</h4>\n{table(heads, columns)}</div>\n" for title, columns in apart.items())
    body = figure(plots, "Energy: estimate (45 nm, Horowitz 2014). Inference pale, learning full.")
    return Part("Energy", lead, f'{body}<div class="side">\n{tables}</div>\n' + _neurobench(section, looks))


def _neurobench(section: Section, looks: Mapping[str, Style]) -> str:
    """Return the table of NeuroBench's metrics, nothing where no setting has them."""
    found = {label: own["neurobench"] for label, own in section.result["settings"].items() if own.get("neurobench")}
    if not found:
        return ""
    columns = [
        Column(title, [number(own[name]) for own in found.values()], "of the model")
        for name, title in NEUROBENCH.items()
    ]
    operations = [own["synaptic_operations"] for own in found.values()]
    columns += [
        Column(title, [number(own[name]) for own in operations], "synaptic operations per step")
        for name, title in SYNAPTIC.items()
    ]
    heads = [key(label, looks[label]) for label in found]
    return f"<h4>By NeuroBench's own count, inference only</h4>\n{table(heads, columns)}\n"


def _against_length(
    name: str, rows: Sequence[Mapping[str, Any]], looks: Mapping[str, Style], plots: Mapping[str, str]
) -> str:
    """Return the plot of bytes against the length of the stream, other plots beside it, and its numbers."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    looks = {**looks, **figures.inks(label for label in labels if label not in looks)}
    lines = {label: [row for row in rows if row["label"] == label] for label in labels}
    drawn = {
        label: Curve([row["steps"] for row in line], [_together(row) for row in line], [0.0] * len(line))
        for label, line in lines.items()
    }
    x, y = Scale("steps of the stream", log=True), Scale("bytes kept", "B", log=True)
    plot = figures.curves(f"Memory against stream length ({name})", drawn, looks, x, y, marker="o", together=len(drawn))
    columns = [Column("steps", [number(row["steps"]) for row in rows])]
    columns += [_bytes(title, [row[name] for row in rows]) for name, title in KEPT.items()]
    columns.append(_bytes("together", [_together(row) for row in rows]))
    numbers = table([key(row["label"], looks[row["label"]]) for row in rows], columns)
    caption = (
        "First state, traces and activations together, both axes by factors; then each by itself, from pale to full."
    )
    both = figure({"Against the length of the stream": plot, **plots}, caption)
    return keys({label: looks[label] for label in labels}) + both + details("Every length", numbers)


def _costs(section: Section) -> dict[str, Mapping[str, Any]]:
    """Return the costs of the settings that have them."""
    return {label: own["cost"] for label, own in section.result["settings"].items() if own.get("cost")}


def _together(row: Mapping[str, Any]) -> float:
    """Return all bytes of a row."""
    return float(sum(row[name] for name in KEPT))


def _times(value: Mapping[str, float | None], factor: int) -> dict[str, float | None]:
    """Return mean and spread of so many times the value."""
    return {part: None if number is None else number * factor for part, number in value.items()}


def _size(value: float | None) -> str:
    """Return bytes as text."""
    return quantity(value, "B")


def _time(value: float | None) -> str:
    """Return seconds as text."""
    return quantity(value, "s")


def _energy(value: float | None) -> str:
    """Return joules as text."""
    return quantity(value, "J")


def _bytes(title: str, values: Iterable[float | None]) -> Column:
    """Return a column of bytes."""
    return Column(title, [_size(value) for value in values])
