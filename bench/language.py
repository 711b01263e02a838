"""What learns a text best in one pass? Bits per byte; every part of the model alone, every rule, beside compressors.

    BIOMAMBA_DATA=... python -m bench.language --stage parts|rules|streams|far [--seeds 3] [--jobs 2] [--out runs/bench]

parts     the blocks (P), with hashed n-grams at the input (E), at the output (T), both, and each without the
          recurrence: one stream, width 96; beside the order-5 counter, PPMd (var. H) and xz
rules     the configuration `language` with 8 streams and width 64, each rule with chunks of 1, 4 and 16 bytes and with
          a window of 16
streams   the same with 1, 2, 4 and 8 streams
far       a text made so that what an opening bracket was decides what closes it some 200 bytes later

The learning rate of each row of `rules` and `streams` is the one that scores best on the first 100 kB of another text
(wikitext2); the rate and the orders of `parts` were chosen on that text too.
"""

import argparse
import lzma
import time
from pathlib import Path

import numpy as np
import torch

from bench.grid import Row, heading, run, spread, table
from biomamba.experiment.build import Experiment
from biomamba.experiment.parse import parse
from biomamba.tasks import byte_counter
from biomamba.tasks.language import Language

TEXTS = {
    "documentation": Language(),
    "tinyshakespeare": Language(corpus="tinyshakespeare"),
    "warpeace, 1 MB": Language(corpus="warpeace", max_bytes=1_000_000),
}
TUNING = ["--task.corpus", "wikitext2", "--task.max_bytes", "100000"]
OFF: dict[str, list[int]] = {"ngrams": [], "ngram_logits": []}
SHORT = {"ngrams": [2, 3, 4, 5, 6], "ngram_logits": [1, 2, 3, 4, 5, 6, 8]}
LONG = {"ngrams": [2, 3, 4, 5, 6, 8, 12, 16], "ngram_logits": [1, 2, 3, 4, 5, 6, 8, 12, 16, 24]}  # much is repeated
PARTS = {"P": [], "E": ["ngrams"], "T": ["ngram_logits"], "E and T": ["ngrams", "ngram_logits"]}
ALONE = {  # the recurrence taken out: what is zero and stays so; without a head no width matters
    "E": ("E alone", "out_proj.weight", 96),
    "T": ("T alone", "head.weight", 8),
}
FAR = {"gap": 200, "kinds": 8, "bytes": 1_600_000}


def measure(setting: Row) -> Row:
    """Return the scores of one pass over a text."""
    own = Experiment.from_config(parse(["--config", "language", *setting["words"]]).config)
    for name, parameter in own.model.named_parameters():
        if name.endswith(tuple(setting.get("out", ()))):  # zero, and never learned
            parameter.data.zero_()
            parameter.requires_grad_(False)
    began, marked = time.perf_counter(), [torch.zeros(0)]
    last = own.task.meters()
    for report in own.online(own.stream()):
        late = min(report.chunk.x.shape[1], report.state.steps - own.total * 9 // 10)  # of the chunk's last steps
        if late > 0:
            for meter in last.values():
                meter.update(report.out[:, -late:], report.chunk.between(-late))
            answer = report.chunk.x[:, -late:] == ord("=")
            if setting.get("far") and answer.any():
                right = report.out[:, -late:].argmax(-1) == report.chunk.y[:, -late:]
                marked.append(right[answer].float())
    tables = own.model.ngrams
    return {
        "all": report.scores["bits_per_byte"],
        "last_tenth": last["bits_per_byte"].get(),
        "closed": torch.cat(marked).mean().item() if setting.get("far") else None,
        "skipped": report.state.skipped,
        "updates": report.state.updates,
        "MB": tables.nbytes / 1e6 if tables else 0.0,
        "seconds": time.perf_counter() - began,
    }


def words(**options: object) -> list[str]:
    """Return the options as the command line takes them, `model__d_model` for model.d_model."""
    line = []
    for name, value in options.items():
        values = value if isinstance(value, list) and value else [value]
        line += [f"--{name.replace('__', '.')}", *("null" if one is None else str(one) for one in values)]
    return line


def seeded(row: Row, seeds: int) -> list[Row]:
    """Return the row once a seed."""
    return [{**row, "words": [*row["words"], "--run.seed", str(seed)], "seed": seed} for seed in range(seeds)]


def scored(rows: dict[str, Row], file: Path, seeds: int, jobs: int) -> dict[str, list[Row]]:
    """Return what each row measured, once a seed."""
    measured = run(measure, [setting for row in rows.values() for setting in seeded(row, seeds)], file, jobs)
    return {label: measured[i * seeds : (i + 1) * seeds] for i, label in enumerate(rows)}


def tuned(rows: dict[str, Row], rates: list[float], file: Path, jobs: int) -> dict[str, Row]:
    """Return the rows with the rate that scores best on the tuning text."""
    trials = {
        (label, rate): {"words": [*row["words"], *TUNING, *words(optim__lr=rate)]}
        for label, row in rows.items()
        for rate in rates
    }
    found = scored({str(key): row for key, row in trials.items()}, file, 1, jobs)
    best = {label: min(rates, key=lambda rate: found[str((label, rate))][0]["all"]) for label in rows}
    return {label: {**row, "lr": best[label], "words": [*row["words"], *words(optim__lr=best[label])]}
            for label, row in rows.items()}  # fmt: skip


def compressors(data: bytes) -> dict[str, tuple[float, float | None]]:
    """Return the bits per byte of other ways on the same bytes, and those of the last tenth where they can be had."""
    import pyppmd

    counted = byte_counter.bits(data)[1:]
    rows: dict[str, tuple[float, float | None]] = {
        "order-5 counter": (float(counted.mean()), float(counted[len(counted) * 9 // 10 :].mean()))
    }
    for order in (5, 8, 16):
        encoder = pyppmd.Ppmd7Encoder(order, 256 << 20)
        rows[f"PPMd, order {order}"] = (8 * len(encoder.encode(data) + encoder.flush()) / len(data), None)
    rows["xz -9e"] = (8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data), None)
    return rows


def parts(file: Path, seeds: int, jobs: int) -> list[list[str]]:
    """Return the table of the model's parts on three texts."""
    lines = []
    for name, text in TEXTS.items():
        orders = LONG if name == "documentation" else SHORT
        source = words(task__corpus=text.corpus, task__max_bytes=text.max_bytes)
        rows: dict[str, Row] = {}
        for label, kept in PARTS.items():
            tables = {f"model__{table}": orders[table] if table in kept else [] for table in OFF}
            own = words(stream__batch=1, optim__lr=0.001, model__d_model=96, model__ngram_bits=17, **tables)
            rows[label] = {"words": [*source, *own]}
            if label in ALONE:
                alone, zero, width = ALONE[label]
                narrow = words(model__n_layers=1, model__d_model=width, run__compile=True)  # kernels move all weights
                rows[alone] = {"words": [*source, *own, *narrow], "out": [zero]}
        for label, row in rows.items():
            of_row = scored({label: row}, file, seeds, jobs)[label]
            lines.append([name, label, *(spread([r[part] for r in of_row]) for part in ("all", "last_tenth")),
                          f"{of_row[0]['MB']:.0f}", spread([r["seconds"] for r in of_row], 0)])  # fmt: skip
        for label, (whole, late) in compressors(text.data("all")).items():
            lines.append([name, label, f"{whole:.3f}", "-" if late is None else f"{late:.3f}", "-", "-"])
    return [["text", "model", "bits/byte", "last tenth", "tables MB", "seconds"], *lines]


def rules(file: Path, seeds: int, jobs: int) -> list[list[str]]:
    """Return the table of rules, lengths and windows."""
    rows = {
        f"{rule} {length} {window or '-'}": {
            "words": words(rule__name=rule, stream__length=length, rule__window=window,
                           stream__batch=8, model__d_model=64, task__max_bytes=200_000)
        }
        for length, window in ((1, None), (4, None), (16, None), (4, 16))
        for rule in ("rtrl", "rtrl_stdp", "bptt")
    }  # fmt: skip
    return [["rule", "length", "window", *RATED], *rated(rows, [0.001, 0.003], file, seeds, jobs)]


def streams(file: Path, seeds: int, jobs: int) -> list[list[str]]:
    """Return the table of numbers of streams."""
    rows = {str(many): {"words": words(stream__batch=many, model__d_model=64)} for many in (1, 2, 4, 8)}
    return [["streams", *RATED], *rated(rows, [0.0005, 0.001, 0.002, 0.004], file, seeds, jobs)]


RATED = ["lr", "bits/byte", "last tenth", "updates", "seconds"]


def rated(rows: dict[str, Row], rates: list[float], file: Path, seeds: int, jobs: int) -> list[list[str]]:
    """Return the lines of rows whose rate is tuned."""
    best = tuned(rows, rates, file, jobs)
    return [
        [*label.split(), f"{best[label]['lr']:g}",
         *(spread([r[name] for r in of_row]) for name in ("all", "last_tenth")),
         f"{of_row[0]['updates']:,}", spread([r["seconds"] for r in of_row], 0)]
        for label, of_row in scored(best, file, seeds, jobs).items()
    ]  # fmt: skip


def far(file: Path, seeds: int, jobs: int) -> list[list[str]]:
    """Return the table of rules on a text of brackets far apart."""
    path = file.parent / "brackets.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(brackets(**FAR))
    base = words(task__paths=str(path), stream__batch=32, stream__length=4, model__n_layers=1,
                 model__d_model=64, model__timescales=[10, 400], optim__lr=0.003)  # fmt: skip
    none = words(model__ngrams=[], model__ngram_logits=[])
    rows = {
        label: {"words": [*base, *own], "far": True}
        for label, own in {
            "rtrl": none,
            "rtrl, with n-grams": [],
            "bptt": [*none, *words(rule__name="bptt")],
            "bptt, window 64": [*none, *words(rule__name="bptt", rule__window=64)],
        }.items()
    }
    lines = [
        [label, *(spread([r[name] for r in of_row]) for name in ("closed", "all", "last_tenth"))]
        for label, of_row in scored(rows, file, seeds, jobs).items()
    ]
    data = path.read_bytes()
    counted = compressors(data)
    lines += [[label, "-", f"{whole:.3f}", "-"] for label, (whole, _) in counted.items()]
    return [["model", "closed as opened, last tenth", "bits/byte", "last tenth"], *lines]


def brackets(*, gap: int, kinds: int, bytes: int) -> str:  # noqa: A002 - what it counts
    """Return a text of one opening letter of `kinds`, dots for 3/4 to 5/4 of `gap`, `=`, and the letter again."""
    draw, lines, size = np.random.default_rng(0), list[str](), 0
    while size < bytes:
        kind = "abcdefghijklmnopqrstuvwxyz"[draw.integers(kinds)]
        lines.append(kind + "." * int(draw.integers(gap * 3 // 4, gap * 5 // 4)) + "=" + kind)
        size += len(lines[-1])
    return "".join(lines)


STAGES = {"parts": parts, "rules": rules, "streams": streams, "far": far}


def main() -> None:
    """Run a stage and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(STAGES), default="parts")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    file = arguments.out / f"language-{arguments.stage}.jsonl"
    head, *lines = STAGES[arguments.stage](file, arguments.seeds, arguments.jobs)
    print(heading(f"python -m bench.language --stage {arguments.stage} --seeds {arguments.seeds}"))
    print(table(head, lines))


if __name__ == "__main__":
    main()
