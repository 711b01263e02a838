"""`biomamba train`: learn one stream online, and say how well that went."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

import torch

from ..experiment import config, jobs, trackers
from ..experiment.build import Experiment, timescales
from ..experiment.follow import follow
from ..experiment.log import Summary
from ..experiment.parse import parse
from ..experiment.run import Run, find_run_dir
from ..ops.backend import resolve
from ..ranks import Ranks
from ..report.text import bytes_text, confusion_table, loud, score_table


def run(argv: Sequence[str]) -> int:
    """Begin a run, or go on with one, and print its scores."""
    jobs.stop_with_parent()
    parsed = parse(argv, usage="train ")
    settings = parsed.config
    ranks = Ranks.join(settings.run.device)
    watching = trackers.choose(settings.run.trackers)
    with ranks.in_turn() if ranks else nullcontext():
        experiment = Experiment.from_config(settings, ranks=ranks)
    if not (settings.run.baselines or settings.run.held_out):
        experiment.task.read_once()
    folder = find_run_dir(settings) if settings.run.resume else None
    finished = folder is not None and (folder / "summary.json").exists()
    if ranks is not None and ranks.rank:
        signal_number = None if finished else follow(experiment, ranks, folder)
        return 0 if signal_number is None else 128 + signal_number
    if finished:
        print(f"{folder} is finished: nothing is left to resume. biomamba evaluate {folder}")
        return 0
    run = Run.begin(experiment) if folder is None else Run.resume(experiment, folder)
    try:
        with redirect_stdout(sys.stderr if settings.run.predictions == "-" else sys.stdout):  # which is for lines alone
            return learn(run, parsed.notes, watching)
    except BaseException:
        if not settings.run.resume:
            run.discard()
        raise
    finally:
        run.close()


def learn(run: Run, notes: Sequence[str], watching: Sequence[str]) -> int:
    """Take a run to its end, or to a signal, and print what comes of it."""
    print_summary(run, notes)
    with trackers.opened(watching, run.folder, config.to_dict(run.experiment.config), run.done) as tracked:
        signal_number = run.learn(tracked)
        if signal_number is None:
            summary = run.finish()
            print_scores(run, summary)
            for tracker in tracked:
                tracker.finish(summary)
    if signal_number is not None:
        again = f"biomamba train --config {shlex.quote(str(run.folder / 'config.yaml'))} --run.resume true"
        print(f"stopped at step {run.done:,} of {run.experiment.total:,}, saved; to go on: {again}")
        return 128 + signal_number
    return 0


def print_summary(run: Run, notes: Sequence[str]) -> None:
    """Say what is about to happen."""
    experiment, own = run.experiment, run.experiment.config
    for note in notes:
        print(note)
    parameters = sum(p.numel() for p in experiment.model.parameters())
    backend = resolve(own.run.backend, torch.device(own.run.device).type)
    ranks = experiment.learner.ranks
    print(f"{own.task.name}: {loud(experiment.task.source)}")
    print(
        f"{own.stream.batch} streams of {experiment.total:,} steps, {own.stream.length} per update; "
        f"{own.model.block}, {parameters:,} parameters; {own.rule.name}; "
        f"backend {backend}{', compiled' if own.run.compile else ''}"
        f"{f', {ranks.size} ranks' if ranks else ''}; {run.folder}"
    )
    if scales := timescales(own, experiment.task):
        print(f"states begin with time constants of {scales[0]:.0f} to {scales[1]:.0f} steps")
    if experiment.model.ngrams is not None:
        print(f"n-gram tables of at most {bytes_text(experiment.model.ngrams.nbytes)}")
    if run.state is not None:
        print(f"resumed at step {run.done:,}")
    sys.stdout.flush()


def print_scores(run: Run, summary: Summary) -> None:
    """Print the scores beside the baselines, and what the run took."""
    averaged = {f"{summary.rule}, averaged": summary.averaged} if summary.averaged else {}
    print(score_table({summary.rule: summary.scores, **averaged, **summary.baselines}))
    if summary.confusion:
        print(confusion_table(summary.confusion))
    seconds, threads = summary.wall_seconds, f"{summary.threads} thread{'s' if summary.threads > 1 else ''}"
    print(
        f"{summary.steps * summary.streams / seconds:,.0f} samples/s, {seconds:.1f} s, {threads}, "
        f"{summary.skipped} updates skipped; traces {bytes_text(summary.trace_bytes)}, "
        f"memory {bytes_text(summary.peak_rss_bytes)}"
    )
    assert run.state is not None
    for line in run.experiment.task.left_out(run.state.meters):
        print(line)
    if not summary.updates:
        print(f"nothing was learned: no step of these {summary.steps:,} has a label")
    if summary.latency_ms:
        p50, p99 = summary.latency_ms.values()
        print(f"predictions {p50:.2f} ms after their chunk, 99 % within {p99:.2f} ms")
    print(f"{run.folder}/summary.json")
