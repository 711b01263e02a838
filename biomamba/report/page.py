"""One page of HTML on comparisons and runs, whole in itself: plots as inline SVG, no script, nothing from elsewhere.

    folder of a comparison or a run  ->  Section  ->  parts: plots and tables  ->  page

Nothing in it depends on the day it is written: the same folders give the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..experiment import log
from . import figures
from .costs import energy, memory, time
from .data import Section, damage, read
from .learning import fidelity, learning, scores, seeds, stability
from .markup import NOTHING, Column, Part, Style, details, key, number, table
from .text import verdicts

OWN = ("run.dir", "run.seed", "run.baselines", "run.resume", "run.overwrite")  # what says nothing of the experiment
MODEL = {
    "model.block": "",
    "model.d_model": "d_model",
    "model.n_layers": "n_layers",
    "optim.name": "",
    "optim.lr": "lr",
}
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def write(path: Path, folders: Sequence[Path]) -> None:
    """Write the page of one or more folders, each of a comparison or of a finished run.

    Raises ImportError, with what to install, where matplotlib is missing; FileNotFoundError and ValueError for a
    folder that holds neither.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('the page\'s plots need matplotlib: pip install "biomamba[plot]"') from error
    log.write(path, page([read(folder) for folder in folders]))


def page(sections: Sequence[Section]) -> str:
    """Return the page of sections, one below the other."""
    names = [section.name for section in sections]
    named = [
        section._replace(name=f"{name}, {names[:i].count(name) + 1}") if names.count(name) > 1 else section
        for i, (name, section) in enumerate(zip(names, sections, strict=True))
    ]
    bodies = "\n".join(_section(f"s{i}", section) for i, section in enumerate(named))
    links = [f'<li><a href="#s{i}">{_title(section)}</a></li>' for i, section in enumerate(named)]
    contents = f"<nav><ol>{''.join(links)}</ol></nav>\n" if len(named) > 1 else ""
    title = f"biomamba: {', '.join(dict.fromkeys(_task(section) for section in named))}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>biomamba: learning a stream online</h1>\n{contents}</header>\n"
        f"<main>\n{bodies}\n</main>\n</body>\n</html>\n"
    )


def parts(section: Section) -> list[Part]:
    """Return the parts of a section, in the order in which they are read."""
    looks = figures.styles(section.result["settings"])
    if not looks:
        return [fidelity(section)]
    learned = [learning(section, looks), scores(section, looks), seeds(section, looks), fidelity(section)]
    costs = [memory(section, looks), time(section, looks), energy(section, looks)]
    return [*learned, *costs, stability(section, looks), experiments(section, looks)]


def experiments(section: Section, looks: Mapping[str, Style]) -> Part:
    """Return the configs, what they share and where they differ, and what they were run with."""
    settings, runs = section.result["settings"], section.found()
    configs = {label: own[0].config for label, own in runs.items()}
    lead = "Every value of the experiments: first where the settings differ, then what they share."
    body, common = "", shared(list(configs.values()))
    names = dict.fromkeys(name for own in configs.values() for name in own if name not in common and name not in OWN)
    columns = [
        Column(escape(name), [_value(own[name]) if name in own else NOTHING for own in configs.values()])
        for name in names
    ]
    if columns:
        body += table([key(label, looks[label]) for label in configs], columns)
    sections: dict[str, list[str]] = {}
    for name, value in common.items():
        part, _, option = name.partition(".")
        sections.setdefault(part, []).append(f'<span class="spread">{escape(option)}</span>&nbsp;{_value(value)}')
    if sections:
        cells = Column("the same for all", [", ".join(words) for words in sections.values()])
        body += table([escape(name) for name in sections], [cells], kind="words")
    versions = {f"{k} {v}" for own in runs.values() for run in own for k, v in run.versions.items()}
    seeds = [", ".join(map(number, own["seeds"])) for own in settings.values()]
    folders = [escape(", ".join(Path(name).name for name in own["folders"])) for own in settings.values()]
    made = table([key(label, looks[label]) for label in settings], [Column("seeds", seeds), Column("folders", folders)])
    said = f"<p>{escape(', '.join(sorted(versions)))}</p>\n" if versions else ""
    return Part("Settings in full", lead, body + details("Seeds, folders and versions", said + made))


def shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the keys that all configs have with the same value, those of the run itself left out."""
    first = configs[0] if configs else {}
    return {
        name: value
        for name, value in first.items()
        if name not in OWN and all(name in own and own[name] == value for own in configs)
    }


def _section(anchor: str, section: Section) -> str:
    """Return a section: what it is, and its parts. Raises ValueError for damaged files."""
    with damage(section.name):
        return _shown(anchor, section)


def _shown(anchor: str, section: Section) -> str:
    """Return a section."""
    made = parts(section)
    said = "".join(f"<p><strong>{escape(line)}</strong></p>\n" for line in verdicts(section.result))
    links = " ".join(f'<a href="#{anchor}-{i}">{part.title}</a>' for i, part in enumerate(made))
    body = "".join(
        f'<h3 id="{anchor}-{i}">{part.title}</h3>\n'
        + (f'<p class="lead">{part.lead}</p>\n' if part.lead else "")
        + part.body
        for i, part in enumerate(made)
    )
    return (
        f'<section id="{anchor}">\n<h2>{_title(section)}</h2>\n'
        f'<p class="source">{_source(section)}</p>\n<p class="facts">{_facts(section)}</p>\n'
        f"{said}"
        f"<nav>{links}</nav>\n{body}</section>"
    )


def _source(section: Section) -> str:
    """Return the data in use, marked where they are simulated."""
    source = section.result["source"]
    mark = '<strong class="mark">SIMULATED</strong> ' if "simulated" in source.lower() else ""
    return mark + escape(source)


def _facts(section: Section) -> str:
    """Return the settings in one line, and the date."""
    settings = section.result["settings"]
    seeds = max((len(own["seeds"]) for own in settings.values()), default=0)
    sizes = {f"{own['streams']:,} streams of {own['steps']:,} steps" for own in settings.values()}
    common = shared([own[0].config for own in section.found().values()])
    model = [f"{words} {common[name]}".strip() for name, words in MODEL.items() if name in common]
    parameters = {f"{own['parameters']:,} parameters" for own in settings.values()}
    words = [f"{len(settings)} setting{'s' * (len(settings) > 1)}", f"{seeds} seed{'s' * (seeds > 1)} each"]
    line = "".join(f"{', '.join(own)}; " for own in (words, sorted(sizes), [*model, *sorted(parameters)]) if settings)
    return f"{escape(line)}finished <time>{section.date}</time>"


def _task(section: Section) -> str:
    """Return the task's name."""
    return escape(section.result["task"])


def _title(section: Section) -> str:
    """Return the task and the folder."""
    return f'{_task(section)} <span class="spread">{escape(section.name)}</span>'


def _value(value: Any) -> str:
    """Return a value of a config as JSON has it, text as it is."""
    return escape(value if isinstance(value, str) else json.dumps(value))
