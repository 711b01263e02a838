"""The laws of the ECG task: what flows, when labels arrive, what the quality gate keeps, what bad files do."""

import math
import os
import shutil
import socket
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

import biomamba
from biomamba.cli.main import main
from biomamba.experiment.files import CONFIGS
from biomamba.rules import RTRL
from biomamba.stream import Chunk
from biomamba.tasks import TASKS
from biomamba.tasks.common import files
from biomamba.tasks.ecg import scores as ecg_scores
from biomamba.tasks.ecg import simulated as ecg_simulated
from biomamba.tasks.ecg.beats import NONE, match
from biomamba.tasks.ecg.detector import Peaks
from biomamba.tasks.ecg.features import AFTER, WAITS, Features
from biomamba.tasks.ecg.files import BLOCK, CLASSES, KIND, RATE, UNUSED, read_beats
from biomamba.tasks.ecg.rhythm import Rhythm
from biomamba.tasks.ecg.signal import WINDOW, usable
from biomamba.tasks.ecg.task import COUNTS, SPLITS, Ecg
from sizes import joined, same

wfdb = pytest.importorskip("wfdb", reason='wfdb reads the records: pip install "biomamba[ecg]"')
pytest.importorskip("neurokit2", reason='neurokit2 simulates ECG: pip install "biomamba[ecg]"')

DATA = os.environ.get("BIOMAMBA_DATA")
real = pytest.mark.skipif(
    not DATA or not (Path(DATA) / "mitdb").is_dir(), reason="needs MIT-BIH: BIOMAMBA_DATA holds no folder mitdb"
)
SAMPLES = 3 * BLOCK + 1000
SYMBOL = "NAVF/"  # one for each class


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach the network, nor find data that was not written for it."""

    def refuse(*args: object) -> None:
        raise OSError("no network in a test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("BIOMAMBA_DATA", raising=False)


def simulated(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Return a short signal (s, 2), mV, its beats and their symbols."""
    record = ecg_simulated.simulate(name, 2)
    signal = np.concatenate(list(record.blocks()))[:SAMPLES]
    inside = record.beats < SAMPLES - RATE
    return signal, record.beats[inside], [SYMBOL[kind] for kind in record.kinds[inside]]


def write(
    folder: Path,
    name: str,
    signal: NDArray[np.float64],
    beats: NDArray[np.int64],
    symbols: list[str],
    leads: tuple[str, ...] = ("MLII", "V5"),
) -> None:
    """Write a record in the format of MIT-BIH, with a rhythm annotation before its beats."""
    count = signal.shape[1]
    wfdb.wrsamp(
        name, fs=RATE, units=["mV"] * count, sig_name=list(leads), p_signal=signal, fmt=["212"] * count,
        adc_gain=[200.0] * count, baseline=[0] * count, write_dir=str(folder),
    )  # fmt: skip
    wfdb.wrann(
        name, "atr", np.array([9, *beats]), ["+", *symbols], write_dir=str(folder), aux_note=["(N", *[""] * len(beats)]
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three short records of DS1 and two of DS2; 114 has its leads swapped."""
    path = tmp_path_factory.mktemp("mitdb")
    for name in ("101", "106", "114", "100", "103"):
        signal, beats, symbols = simulated(name)
        swapped = name == "114"
        write(
            path,
            name,
            signal[:, ::-1] if swapped else signal,
            beats,
            symbols,
            ("V5", "MLII") if swapped else ("MLII", "V5"),
        )
    return path


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of one record, 100, to be changed."""
    for file in folder.glob("100.*"):
        shutil.copy(file, tmp_path)
    return tmp_path


def whole(task: Ecg, split: str = "test", batch: int = 1, length: int = 500, seed: int = 0, start: int = 0) -> Chunk:
    return joined(task.stream(split, batch=batch, length=length, seed=seed, start=start))


def of(folder: Path, **options: Any) -> Ecg:
    return Ecg(path=str(folder), **options)


# what flows


@pytest.mark.parametrize("leads", ["both", "MLII"])
@pytest.mark.parametrize("decimate", [1, 4])
def test_shapes(folder: Path, leads: Any, decimate: int) -> None:
    task = of(folder, leads=leads, decimate=decimate, records=("101", "106", "114"))
    c = (2 if leads == "both" else 1) + 8  # of the rhythm
    assert task.spec == (5, None, c)
    assert task.steps("train", batch=2) == 2 * (SAMPLES // decimate)
    chunk = next(task.stream("train", batch=2, length=100, seed=0))
    assert [field.shape for field in chunk[:4]] == [(2, 100, c), (2, 100), (2, 100), (2, 100)]
    assert [field.dtype for field in chunk[:4]] == [torch.float32, torch.int64, torch.bool, torch.bool]
    assert task.step_seconds == decimate / 360


@pytest.mark.parametrize("delay", [0, 3])
def test_streams_repeat_and_depend_neither_on_length_nor_on_start(folder: Path, delay: int) -> None:
    task = of(folder, records=("101", "106", "114"), label_delay=delay, passes=2)
    one = whole(task, "train", batch=2)
    assert same(one, whole(task, "train", batch=2, length=333))
    for start in (1, 1234, SAMPLES // 4):
        rest = whole(task, "train", batch=2, start=start)
        assert same(rest, one.between(start))
    assert not torch.equal(whole(task, "train", batch=2, seed=1).x, one.x)  # control: another order


def test_every_pass_takes_every_record_in_an_order_of_its_own(folder: Path) -> None:
    task = of(folder, records=("101", "106", "114"), passes=4)
    x = whole(task, "train").x.view(4, 3, -1)
    orders = [tuple(float(record.sum()) for record in one) for one in x]
    assert len({tuple(sorted(order)) for order in orders}) == 1
    assert len(set(orders)) > 1


def test_reset_is_where_a_record_begins(folder: Path) -> None:
    steps = SAMPLES // 4
    reset = whole(of(folder, records=("100", "103"))).reset
    assert reset.nonzero()[:, 1].tolist() == [0, steps]
    late = whole(of(folder, records=("100", "103"), label_delay=2), batch=2).reset
    assert late[0].nonzero()[:, 0].tolist() == [0, steps]
    assert len(late[1].nonzero()) == 4  # silence, record, silence, record


def test_leads_are_taken_by_name(folder: Path) -> None:
    swapped, other = (whole(of(folder, records=(name,), scale=False), "train").x[0] for name in ("114", "101"))
    for x in (swapped, other):
        assert x[:, 0].std() > 1.2 * x[:, 1].std()  # the simulated second lead is 0.6 of the first
    alone = whole(of(folder, records=("114",), leads="MLII", scale=False), "train").x[0]
    assert torch.equal(alone[:, 0], swapped[:, 0])


def test_a_beat_is_decided_at_the_first_step_that_reaches_its_decision(folder: Path) -> None:
    beats, kinds, _ = read_beats(folder, "100", SAMPLES)
    chunk = whole(of(folder, decimate=3, decision=0.4, records=("100",)))
    learn, score = chunk.y[0], chunk.info["score"][0]
    steps = (score >= 0).nonzero()[:, 0]
    reached = 3 * steps.numpy() + 2  # the last sample that a step has heard of
    assert len(steps) == len(beats)
    assert ((reached >= beats + 144) & (reached < beats + 147)).all()
    assert score[steps].tolist() == kinds.tolist()
    assert torch.equal(learn, score)


@pytest.mark.parametrize("delay", [0, 2])
def test_the_label_is_not_in_the_input(folder: Path, own: Path, delay: int) -> None:
    beats, kinds, _ = read_beats(own, "100", SAMPLES)
    wfdb.wrann("100", "atr", beats, [SYMBOL[(kind + 1) % 5] for kind in kinds], write_dir=str(own))
    batch = 2 if delay else 1
    one, other = (whole(of(at, records=("100",), label_delay=delay), batch=batch) for at in (folder, own))
    assert torch.equal(one.x, other.x)
    assert not torch.equal(one.y, other.y)  # control


@pytest.mark.parametrize("decimate", [1, 4])
@pytest.mark.parametrize("at", [7199, 7200, 12_345])
def test_the_future_of_the_signal_changes_nothing_before_it(folder: Path, own: Path, decimate: int, at: int) -> None:
    signal, beats, symbols = simulated("100")
    signal[at:] = signal[at:][::-1] + 0.5
    write(own, "100", signal, beats, symbols)
    one, other = (whole(of(path, records=("100",), decimate=decimate)).x for path in (folder, own))
    assert torch.equal(one[:, : at // decimate], other[:, : at // decimate])
    assert not torch.equal(one[:, at // decimate + 1 :], other[:, at // decimate + 1 :])  # control


def test_minutes_that_are_labelled_and_scored(folder: Path) -> None:
    beats, _, _ = read_beats(folder, "100", SAMPLES)
    task = of(folder, records=("100", "101"), labelled=0.5, score_from=0.25)
    chunk = whole(task)
    assert int((chunk.y >= 0).sum()) == int((beats < 0.5 * 60 * RATE).sum()) > 0
    assert int((chunk.info["score"] >= 0).sum()) == int((beats >= 0.25 * 60 * RATE).sum()) > 0
    trained, _, _ = read_beats(folder, "101", SAMPLES)
    assert int((whole(task, "train").y[0] >= 0).sum()) == len(trained)  # `labelled` is for the test alone


def test_splits_parts_and_the_same_person(folder: Path) -> None:
    train_names, test_names = (SPLITS[split].split() for split in ("train", "test"))
    assert len(train_names) == len(test_names) == 22 and not set(train_names) & set(test_names)
    assert not {"102", "104", "107", "217"} & {*train_names, *test_names}  # paced
    assert list(of(folder).parts("test")) == test_names
    assert list(of(folder).parts("train")) == train_names
    assert "201" not in of(folder, same_person=False).parts("train")
    assert "202" in of(folder, same_person=False).parts("test")
    part = of(folder, label_delay=2).parts("test")["103"]
    assert isinstance(part, Ecg)
    assert part.records == ("103",) and part.label_delay == 2
    with pytest.raises(ValueError, match="split is 'valid', expected one of train, test"):
        of(folder).steps("valid", batch=1)
    with pytest.raises(ValueError, match="records: got 101, expected some of split test: 100"):
        of(folder, records=("101",)).steps("test", batch=1)


@pytest.mark.parametrize("decimate", [1, 6, 9])
def test_the_rhythm_is_heard_and_does_not_depend_on_how_the_signal_is_cut(decimate: int) -> None:
    record = ecg_simulated.simulate("simulated-train-0", 2)
    signal = np.concatenate(list(record.blocks()))
    rhythm, cut = Rhythm(decimate), Rhythm(decimate)
    said = rhythm(signal)
    pieces = [signal[at : at + 18 * 17] for at in range(0, len(signal), 18 * 17)]
    assert torch.equal(torch.cat([cut(piece) for piece in pieces]), said)
    decided = said[(record.beats + 126) // decimate][20:]
    means = torch.stack([decided[record.kinds[20:] == kind].mean(0) for kind in range(3)])
    assert means[0, 0] > -0.2 and means[1, 0] < -1 and means[2, 0] < -0.8  # S and V come early
    assert means[2, 5] > 2 > 1 > max(means[0, 5], means[1, 5])  # V is unlike the usual beat


def test_gains_are_varied_in_what_is_learned_from_alone(folder: Path) -> None:
    plain, augment = (of(folder, records=("100", "101"), augment=augment) for augment in (False, True))
    one, other = (whole(task, "train") for task in (plain, augment))
    assert torch.equal(one.x[..., 2:], other.x[..., 2:]) and torch.equal(one.y, other.y)
    assert not torch.equal(one.x[..., :2], other.x[..., :2])
    assert same(other, whole(augment, "train"))
    assert not torch.equal(whole(augment, "train", seed=1).x, other.x)
    assert same(whole(plain), whole(augment))  # the test is as it is


def test_people_of_all_sizes_look_alike_where_leads_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled, plain = (Ecg(**BRIEF, scale=scale) for scale in (True, False))
    one, raw = whole(scaled).x[0, -5000:, :2], whole(plain).x[0, -5000:, :2]
    playing(monkeypatch, lambda signal: 2 * signal)
    other, larger = (whole(replace(task)).x[0, -5000:, :2] for task in (scaled, plain))
    assert torch.allclose(one, other, atol=1e-4) and torch.allclose(2 * raw, larger, atol=1e-4)
    assert 0.07 < one.pow(2).mean().sqrt() < 0.13


# labels that arrive late


def test_late_rows_hear_what_live_rows_heard_and_carry_the_labels(folder: Path) -> None:
    plain = whole(of(folder, records=("100",)))
    beats, _, _ = read_beats(folder, "100", SAMPLES)
    pair = whole(of(folder, records=("100",), label_delay=3), batch=2)
    lag = math.ceil(int((beats[3:] - beats[:-3]).max()) / 4)
    assert torch.equal(pair.x[0], plain.x[0])
    score = pair.info["score"]
    assert torch.equal(score[0], plain.info["score"][0])
    assert (pair.y[0] == -1).all() and (score[1] == -1).all() and not pair.mask[0].any()
    assert torch.equal(pair.x[1, lag:], plain.x[0, :-lag]) and not pair.x[1, :lag].any()
    assert torch.equal(pair.y[1, lag:], plain.y[0, :-lag])
    assert torch.equal(pair.mask[1, lag:], plain.mask[0, :-lag]) and not pair.mask[1, :lag].any()


def test_a_label_arrives_so_many_beats_late_at_least(folder: Path) -> None:
    for delay in (1, 5):
        pair = whole(of(folder, records=("100",), label_delay=delay), batch=2)
        live, late = (classes.ge(0).nonzero()[:, 0] for classes in (pair.info["score"][0], pair.y[1]))
        followed = live[:-delay]  # so many beats come after them
        between = [int(((live > own) & (live <= then)).sum()) for own, then in zip(followed, late, strict=False)]
        assert min(between) == delay  # and once it is no more


def live_predictions(task: Ecg, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what an online learner said on the live row (t, 5), and the steps at which labels arrived."""
    torch.manual_seed(0)
    model = biomamba.Model(**task.spec._asdict(), d_model=4, block="mamba2", d_state=2, headdim=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    stream = task.stream("test", batch=2, length=length, seed=0)
    reports = list(biomamba.online(stream, biomamba.Learner(task, model, RTRL(model.blocks), optimizer)))
    arrived = torch.cat([report.chunk.mask[1] for report in reports]).nonzero()[:, 0]
    return torch.cat([report.out[0] for report in reports]), arrived


@pytest.mark.parametrize("length, decimate", [(1, 36), (16, 12)])
def test_what_is_said_live_depends_on_no_label_that_has_not_arrived(
    folder: Path, own: Path, length: int, decimate: int
) -> None:
    beats, kinds, _ = read_beats(own, "100", SAMPLES)
    first = 12  # the beat from which on the labels are replaced
    symbols = [SYMBOL[kind if i < first else (kind + 1) % 5] for i, kind in enumerate(kinds)]
    wfdb.wrann("100", "atr", beats, symbols, write_dir=str(own))
    task = of(folder, records=("100",), decimate=decimate, label_delay=4)
    one, arrived = live_predictions(task, length)
    other, _ = live_predictions(replace(task, path=str(own)), length)
    arrival = int(arrived[first])  # predictions of the chunk that brings the label were made before it was read
    assert torch.equal(one[: arrival + 1], other[: arrival + 1])
    assert not torch.equal(one[arrival + length :], other[arrival + length :])  # control: it arrived


def test_delayed_labels_need_pairs_of_rows(folder: Path) -> None:
    with pytest.raises(ValueError, match="batch is 3, expected an even number with label_delay"):
        of(folder, label_delay=1).stream("test", batch=3, length=1, seed=0)


def test_a_record_with_too_few_beats_never_gets_its_labels(folder: Path) -> None:
    pair = whole(of(folder, records=("100",), label_delay=10_000), batch=2)
    assert not pair.mask.any() and (pair.info["score"][0] >= 0).any()


# the quality gate


BAD = {
    "flat": np.full((WINDOW, 2), 0.3),
    "one lead flat": np.stack([np.sin(np.arange(WINDOW) / 20), np.full(WINDOW, 0.3)], axis=1),
    "nan": np.full((WINDOW, 2), np.nan),
    "infinite": np.where(np.arange(2 * WINDOW).reshape(WINDOW, 2) == 99, np.inf, 0.1),
    "out of range": np.sin(np.arange(2 * WINDOW)).reshape(WINDOW, 2) * 20,
}


def playing(monkeypatch: pytest.MonkeyPatch, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    """Let simulated records be changed on their way to the stream."""
    plain = ecg_simulated.simulate

    def changed(name: str, leads: int) -> Any:
        record = plain(name, leads)
        signal = change(np.concatenate(list(record.blocks())).copy())
        blocks = [signal[at : at + BLOCK] for at in range(0, len(signal), BLOCK)]
        return record._replace(blocks=lambda: iter(blocks))

    monkeypatch.setattr(ecg_simulated, "simulate", changed)


NAME = "simulated-test-0"
BRIEF = {"simulate": True, "records": (NAME,), "decimate": 4}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_window_is_cut_out_as_if_it_had_never_been(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    at, n = 40 * WINDOW, WINDOW // 4
    assert not usable(BAD[kind]).any()
    plain = whole(Ecg(**BRIEF))
    playing(monkeypatch, lambda signal: np.concatenate([signal[:at], BAD[kind], signal[at:-WINDOW]]))
    cut = whole(Ecg(**BRIEF))
    assert torch.equal(cut.x[:, :-n], plain.x[:, :-n])  # filters and stream go on where they were
    assert not cut.x[:, -n:].any() and not cut.mask[:, -n:].any()  # filled up at the end
    assert cut.info["skipped"].sum() == WINDOW and plain.info["skipped"].sum() == 0
    assert torch.isfinite(cut.x).all()


def test_beats_within_a_bad_window_are_lost_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    record = ecg_simulated.simulate(NAME, 2)

    def spoil(signal: NDArray[np.float64]) -> NDArray[np.float64]:
        signal[30 * WINDOW : 33 * WINDOW] = np.nan
        return signal

    playing(monkeypatch, spoil)
    chunk = whole(Ecg(**BRIEF))

    def spoilt(at: NDArray[np.int64]) -> Any:
        return (at >= 30 * WINDOW) & (at < 33 * WINDOW)

    lost = int((spoilt(record.beats) | spoilt(record.beats + round(0.35 * RATE))).sum())
    assert lost > 0
    assert int(chunk.info["lost"].sum()) == lost
    assert int((chunk.info["score"] >= 0).sum()) == len(record.beats) - lost
    meters = ecg_scores.meters()
    for meter in meters.values():
        meter.update(torch.zeros(*chunk.y.shape, 5), chunk)
    assert meters["skipped_seconds"].get() == 3 and meters["lost_beats"].get() == lost


def test_no_weight_moves_where_nothing_passes_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Ecg(**BRIEF)
    torch.manual_seed(0)
    model = biomamba.Model(**task.spec._asdict(), d_model=4, block="mamba2", d_state=2, headdim=4)
    before = [parameter.clone() for parameter in model.parameters()]

    def learn() -> biomamba.Report:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        stream = Ecg(**BRIEF).stream("test", batch=1, length=1000, seed=0)
        return list(biomamba.online(stream, biomamba.Learner(task, model, RTRL(model.blocks), optimizer)))[-1]

    playing(monkeypatch, lambda signal: np.full_like(signal, np.nan))
    report = learn()
    assert report.state.updates == report.state.skipped == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert report.state.meters["skipped_seconds"].get() == ecg_simulated.SAMPLES / RATE
    monkeypatch.undo()
    assert learn().state.updates > 0  # control


# scores


def test_scores_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    true = draw.choice(5, p=[0.7, 0.1, 0.15, 0.04, 0.01], size=600)
    said = np.where(draw.random(600) < 0.7, true, draw.integers(5, size=600))
    none, zero = torch.full((3, 400), -1), torch.zeros(3, 400, dtype=torch.int64)
    score = none.clone()
    places = draw.choice(1200, size=600, replace=False)
    score.view(-1)[places] = torch.from_numpy(true)
    out = torch.randn(1200, 5)
    out[places, said] = 100.0
    meters = ecg_scores.meters()
    info = {"score": score, "skipped": zero, "lost": zero, "unused": zero}
    chunk = Chunk(out.view(3, 400, 5), none, none >= 0, none >= 0, info)  # nothing is learned: scored it is
    for meter in meters.values():
        meter.update(chunk.x, chunk)
    got = {name: meter.get() for name, meter in meters.items()}
    recall, precision, f1 = (
        score(true, said, labels=range(5), average=None) for score in (sk.recall_score, sk.precision_score, sk.f1_score)
    )
    kappa = sk.cohen_kappa_score(true, said)
    j = recall[1] + precision[1] + recall[2] + precision[2]
    wanted = {
        "macro_f1": f1[:3].mean(), "jk": kappa / 2 + j / 8, "j": j, "kappa": kappa,
        "S_sensitivity": recall[1], "S_predictivity": precision[1], "V_sensitivity": recall[2],
        "V_predictivity": precision[2], "N_f1": f1[0], "S_f1": f1[1], "V_f1": f1[2], "F_f1": f1[3],
        "balanced_accuracy": recall.mean(), "accuracy": (true == said).mean(),
    }  # fmt: skip
    assert {name: got[name] for name in wanted} == pytest.approx(wanted)
    assert list(got)[:2] == ["macro_f1", "jk"]
    for name, meter in meters.items():
        fresh = ecg_scores.meters()[name]
        if not isinstance(meter, biomamba.metrics.Derived):
            fresh.load_state_dict(meter.state_dict())
            assert fresh.get() == got[name]


def test_j_counts_what_is_undefined_as_nothing() -> None:
    counts = biomamba.metrics.Confusion(CLASSES, ecg_scores.decisions)
    counts.matrix[0, 0] = 9
    counts.matrix[1, 0] = 1
    assert ecg_scores.j(counts) == 0 and ecg_scores.jk(counts) == 0
    counts.matrix[2, 2] = 5
    assert ecg_scores.j(counts) == 2


def test_loss_weighs_classes_and_sums_over_beats() -> None:
    y = torch.full((2, 30), -1)
    y[0, 3], y[1, 5], y[1, 9] = 0, 1, 4
    mask = y >= 0
    chunk = Chunk(torch.zeros(2, 30, 2), y, mask, torch.zeros_like(mask))
    out = torch.zeros(2, 30, 5, requires_grad=True)
    assert Ecg(balance=0.0).loss(out, chunk).item() == pytest.approx(3 * math.log(5) / 2)
    weight = math.sqrt(COUNTS[0] / COUNTS[1])
    assert Ecg(balance=0.5).loss(out, chunk).item() == pytest.approx((2 + weight) * math.log(5) / 2)
    nothing = Ecg().loss(out, chunk._replace(mask=torch.zeros_like(mask)))
    nothing.backward()
    assert nothing.item() == 0 and out.grad is not None and not out.grad.any()


@pytest.mark.parametrize("delay", [0, 3])
def test_last_label_repeats_what_was_known_by_then(folder: Path, delay: int) -> None:
    task = of(folder, records=("100", "103"), label_delay=delay)
    batch = 2 if delay else 1
    chunk = whole(task, batch=batch)
    counts, known = torch.zeros(5, 5, dtype=torch.int64), 0
    for step in range(chunk.x.shape[1]):
        if chunk.reset[0, step]:
            known = 0
        if (true := int(chunk.info["score"][0, step])) >= 0:
            counts[true, known] += 1
        if (told := int(chunk.y[batch - 1, step])) >= 0:
            known = told
    wanted = biomamba.metrics.Confusion(CLASSES, ecg_scores.decisions)
    wanted.matrix = counts
    scores = task.baseline("test", batch=batch, seed=0)
    assert scores["last_label"]["accuracy"]["all"] == wanted.get()
    assert scores["last_label"]["jk"]["all"] == ecg_scores.jk(wanted)
    always = scores["always_n"]
    assert always["accuracy"]["all"] == pytest.approx(float(counts[0].sum() / counts.sum()))
    assert always["kappa"]["all"] == 0 and scores["last_label"].keys() == task.meters().keys()
    assert not math.isnan(always["accuracy"]["last_tenth"])
    short = task.baseline("test", batch=batch, seed=0, steps=500)
    assert short["last_label"] != scores["last_label"]  # control


# where the data comes from


def test_without_data_and_network_it_is_simulated_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "CACHE", tmp_path)
    task = Ecg()
    assert task.source.startswith("SIMULATED ECG")
    assert set(whole(task, batch=3).info["score"].unique().tolist()) == {-1, 0, 1, 2}
    assert list(task.parts("test")) == ["simulated-test-0", "simulated-test-1", "simulated-test-2"]


def test_where_there_is_a_network_wfdb_fetches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    asked = []

    def fetch(name: str, dl_dir: str) -> None:
        asked.append(name)
        shutil.copytree(folder, dl_dir, dirs_exist_ok=True)

    monkeypatch.setattr(files, "CACHE", tmp_path)
    monkeypatch.setattr(files, "_answers", lambda host: host == "physionet.org")
    monkeypatch.setattr(wfdb, "dl_database", fetch)
    task = Ecg(records=("100",))
    assert task.source.startswith("MIT-BIH") and task.steps("test", batch=1) > 0
    assert Ecg().source.startswith("MIT-BIH") and asked == ["mitdb"]


def test_simulated_beats_can_be_learned() -> None:
    task = Ecg(simulate=True, decimate=12, passes=1)
    torch.manual_seed(0)
    model = biomamba.Model(
        **task.spec._asdict(), d_model=16, block="mamba2", d_state=4, headdim=2, dt_min=0.01, A_max=2
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    last = task.meters()
    stream = task.stream("train", batch=3, length=32, seed=0)
    for report in biomamba.online(stream, biomamba.Learner(task, model, RTRL(model.blocks), optimizer)):
        if report.state.steps > 12_000:
            for meter in last.values():
                meter.update(report.out, report.chunk)
    always = task.baseline("train", batch=3, seed=0)["always_n"]
    assert always["jk"]["all"] == 0  # control
    assert last["jk"].get() > 0.5


def test_registry_and_options() -> None:
    assert TASKS["ecg"] is Ecg
    for options, said in [
        ({"decimate": 7}, "decimate is 7, expected a divisor of 360"),
        ({"decimate": 0}, "decimate is 0, expected a divisor of 360"),
        ({"decision": 9.0}, "decision is 9.0 s, expected 0 to 2 seconds"),
        ({"decision": math.nan}, "decision is nan s, expected 0 to 2 seconds"),
        ({"passes": 0}, "passes is 0 and label_delay 0, expected at least 1"),
        ({"labelled": -1.0}, "labelled is -1.0 and score_from 0.0, expected minutes"),
        ({"gate": 2.0, "step": "beat"}, "gate is 2.0, expected 0 to 1"),
        ({"gate": 0.9}, "peaks is annotated and gate 0.9 with step sample, expected step beat"),
        ({"peaks": "detected"}, "peaks is detected and gate 0.0 with step sample, expected step beat"),
        ({"channels": ("qrs_width",)}, "channels: got qrs_width, expected each at most once, of lead, wait_mean"),
        ({"channels": ("wait_long",), "rhythm": False}, "channels: got wait_long, expected each at most once, of lead"),
        (
            {"channels": ("p_size", "p_size"), "step": "beat"},
            "channels: got p_size, expected each at most once, of wait",
        ),
    ]:
        with pytest.raises(ValueError, match=said) as error:
            Ecg(**options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


# bad files


def header(folder: Path) -> list[str]:
    return (folder / "100.hea").read_text().splitlines()


def put(folder: Path, lines: list[str]) -> None:
    (folder / "100.hea").write_text("\n".join(lines) + "\n")


def spoil_first(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        first, *rest = header(folder)
        assert old in first
        put(folder, [first.replace(old, new), *rest])

    return spoil


def spoil_signals(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        first, *rest = header(folder)
        assert all(old in line for line in rest)
        put(folder, [first, *(line.replace(old, new) for line in rest)])

    return spoil


def truncate(name: str, to: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:to])

    return spoil


def swell(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() * 1000)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "0 Hz": (spoil_first(" 360 ", " 0 "), "100.hea: the sampling rate is 0, expected 360 Hz"),
    "nan Hz": (spoil_first(" 360 ", " nan "), "100.hea: the sampling rate is nan, expected 360 Hz"),
    "other rate": (spoil_first(" 360 ", " 250 "), "100.hea: the sampling rate is 250, expected 360 Hz"),
    "1e11 samples": (spoil_first(str(SAMPLES), "100000000000"), "100.hea: claims 100000000000 samples, expected"),
    "more samples": (spoil_first(str(SAMPLES), str(10 * SAMPLES)), "100.dat has .* bytes, expected"),
    "1e9 signals": (spoil_first("100 2", "100 1000000000"), "100.hea: 1000000000 signals in 2 lines"),
    "no signals": (spoil_first("100 2", "100 0"), "100.hea: 0 signals in 2 lines"),
    "segments": (spoil_first("100 2", "100/9 2"), "100.hea: the first line is '100/9 2"),
    "a lead lost": (lambda folder: put(folder, header(folder)[:2]), "100.hea: 2 signals in 1 lines"),
    "no MLII": (
        lambda folder: put(folder, [line.replace("MLII", "V1") for line in header(folder)]),
        "100.hea: the leads are V1, V5",
    ),
    "another file": (spoil_signals("100.dat", "../100.dat"), "100.hea: a signal is given as '../100.dat"),
    "unknown format": (spoil_signals(" 212 ", " 999 "), "100.hea: a signal is given as '100.dat 999"),
    "gain 0": (spoil_signals(" 200.0(", " 0("), "100.hea: a signal's gain is '0"),
    "gain nan": (spoil_signals(" 200.0(", " nan("), "100.hea: a signal's gain is 'nan"),
    "microvolts": (spoil_signals("/mV", "/uV"), "100.hea: a signal's gain is"),
    "empty header": (truncate("100.hea", 0), "100.hea: the first line is nothing"),
    "truncated signal": (truncate("100.dat", 30_000), "100.dat has 30000 bytes, expected"),
    "empty signal": (truncate("100.dat", 0), "100.dat has 0 bytes, expected"),
    "empty annotations": (truncate("100.atr", 0), "100.atr has 0 bytes, expected 1 to"),
    "no beats": (truncate("100.atr", 2), "100.atr"),
    "more annotations than beats": (swell("100.atr"), "100.atr has .* bytes, expected 1 to"),
    "no annotations": (lambda folder: (folder / "100.atr").unlink(), "no file .*100.atr, expected the .hea"),
    "no signal": (lambda folder: (folder / "100.dat").unlink(), "no file .*100.dat, which 100.hea tells of"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_an_error_of_one_line_that_names_the_file(own: Path, kind: str) -> None:
    spoil, said = BROKEN[kind]
    assert whole(of(own, records=("100",))).mask.any()  # control: it was in order
    spoil(own)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        whole(of(own, records=("100",)))
    assert "\n" not in str(error.value)


def test_one_lead_will_do_for_mlii_alone(own: Path) -> None:
    signal, beats, symbols = simulated("100")
    write(own, "100", signal[:, :1], beats, symbols, ("MLII",))
    assert whole(of(own, records=("100",), leads="MLII")).mask.any()
    with pytest.raises(ValueError, match="the leads are MLII, expected MLII and another"):
        whole(of(own, records=("100",)))


def outcome(folder: Path) -> str:
    """Return how reading a record ends; an error that was not promised comes through."""
    try:
        chunk = whole(of(folder, records=("100",)))
    except (ValueError, FileNotFoundError) as error:
        return f"error: {error}"
    assert torch.isfinite(chunk.x).all()
    return "read"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_files_are_errors_or_are_read_in_bounds(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    own = tmp_path_factory.mktemp("fuzz")
    for file in folder.glob("100.*"):
        shutil.copy(file, own)
    name = data.draw(st.sampled_from(["100.hea", "100.hea", "100.atr", "100.dat"]))
    content = bytearray((own / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        bit = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=3),
                st.sampled_from([b"0", b"-1", b"1e11", b"99999999999", b"nan", b"\xff\xff"]),
            )
        )
        content[at : at + data.draw(st.integers(0, 3))] = bit
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    (own / name).write_bytes(bytes(content))
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = outcome(own)
    assert said == "read" or ("100." in said and "\n" not in said)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shutil.rmtree(own)
    assert peak < 100e6


def test_the_fuzz_can_fail(own: Path) -> None:
    assert outcome(own) == "read"
    (own / "100.hea").write_bytes(b"")
    assert outcome(own).startswith("error: ")


CONFIG = str(CONFIGS / "ecg.yaml")


def command(capsys: pytest.CaptureFixture[str], folder: Path, out: Path, *more: str) -> tuple[int, str, str]:
    """Run a small training through the command line; return its exit code and what it printed."""
    small = [
        "--model.d_model",
        "4",
        "--model.d_state",
        "2",
        "--task.passes",
        "1",
        "--task.decimate",
        "12",
        "--stream.batch",
        "2",
    ]
    given = ["train", "--config", CONFIG, "--task.path", str(folder), "--task.records", '["101", "106", "100", "103"]']
    code = main([*given, *small, "--run.dir", str(out), *more])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("kind", ["0 Hz", "1e11 samples", "truncated signal", "empty annotations"])
def test_the_command_line_says_in_one_line_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    shutil.copytree(folder, tmp_path / "in")
    for file in (tmp_path / "in").glob("100.*"):  # what was written for 100 stands for the first record to be learned
        file.rename(file.with_name(file.name.replace("100", "109")))
    bad = tmp_path / "in"
    for file in bad.glob("101.*"):
        file.unlink()
    for file in folder.glob("100.*"):
        shutil.copy(file, bad)
    BROKEN[kind][0](bad)
    small = ["--model.d_model", "4", "--model.d_state", "2", "--stream.batch", "1", "--stream.split", "test"]
    given = ["train", "--config", CONFIG, "--task.path", str(bad), "--task.records", '["100"]']
    assert main([*given, *small, "--run.dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("biomamba: ") and "\n" not in said and "100." in said


def test_the_command_line_trains_evaluates_and_adapts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command(capsys, folder, tmp_path / "run", "--run.held_out", "true")
    assert code == 0
    assert "jk" in out and "always_n" in out and "held_out" in (tmp_path / "run" / "summary.json").read_text()
    delayed = ["--each", "true", "--task.label_delay", "3", "--stream.batch", "2"]
    assert main(["evaluate", str(tmp_path / "run"), *delayed]) == 0
    out = capsys.readouterr().out
    assert "each by itself" in out and "times faster than real time" in out


@real
def test_counts_are_those_of_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOMAMBA_DATA", str(DATA))
    wanted = {"train": [45_866, 944, 3_788, 415, 8], "test": [44_259, 1_837, 3_221, 388, 7]}
    assert tuple(wanted["train"]) == COUNTS
    folder = Path(str(DATA)) / "mitdb"
    for split, counts in wanted.items():
        kinds = [read_beats(folder, name, 650_000)[1] for name in SPLITS[split].split()]
        assert np.bincount(np.concatenate(kinds), minlength=5).tolist() == counts
    info = whole(Ecg(records=("114", "209"), decimate=6), "train", length=5000).info
    assert info["skipped"].sum() == 0 and info["lost"].sum() == 0
    assert [int((info["score"] == kind).sum()) for kind in range(5)] == [4441, 395, 44, 4, 0]


@real
def test_114_has_its_leads_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOMAMBA_DATA", str(DATA))
    raw = wfdb.rdrecord(str(Path(str(DATA)) / "mitdb" / "114"), sampto=BLOCK).p_signal
    x = next(Ecg(records=("114",), decimate=1, scale=False).stream("train", batch=1, length=BLOCK, seed=0)).x[0].numpy()
    close = [[float(np.corrcoef(x[:, mine], raw[:, theirs])[0, 1]) for theirs in (0, 1)] for mine in (0, 1)]
    assert close[0][1] > abs(close[0][0]) + 0.3 and close[1][0] > abs(close[1][1]) + 0.3  # but for the drift


def test_every_qrs_complex_that_wfdb_knows_has_a_class_or_is_counted(own: Path) -> None:
    known = [own.symbol for own in wfdb.io.annotation.ann_labels if wfdb.io.annotation.is_qrs[own.label_store]]
    known = [symbol for symbol in known if symbol.strip()]
    assert set(known) == KIND.keys() | UNUSED and len(known) == 20
    beats = np.arange(len(known)) * 300 + 400
    wfdb.wrann("100", "atr", beats, known, write_dir=str(own))
    told = read_beats(own, "100", SAMPLES)
    assert len(told.beats) + len(told.unused) == len(known)
    assert told.unused.tolist() == [beats[known.index("!")]]
    chunk = whole(of(own, records=("100",)))
    assert int(chunk.info["unused"].sum()) == 1 and int((chunk.y >= 0).sum()) == len(known) - 1
    meters = ecg_scores.meters()
    for meter in meters.values():
        meter.update(torch.zeros(*chunk.y.shape, 5), chunk)
    assert meters["unused_beats"].get() == 1


def test_samples_that_do_not_add_up_to_the_header_are_an_error_before_anything_is_learned(own: Path) -> None:
    data = bytearray((own / "100.dat").read_bytes())
    data[60_000] ^= 1
    (own / "100.dat").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"100.dat: the checksum of (MLII|V5) is .* as 100.hea says") as error:
        of(own, records=("100",)).stream("test", batch=1, length=1, seed=0)
    assert "\n" not in str(error.value)


def test_every_symbol_of_ec57_has_a_class() -> None:
    wanted = {"N": "N", "L": "N", "R": "N", "e": "N", "j": "N", "A": "S", "a": "S", "J": "S", "S": "S"}
    wanted |= {"V": "V", "E": "V", "F": "F", "/": "Q", "f": "Q", "Q": "Q"}
    wanted |= {"B": "N", "n": "N", "r": "V", "?": "Q"}  # in no record of DS1 or DS2
    assert {symbol: CLASSES[kind] for symbol, kind in KIND.items()} == wanted


# one step a beat

BEAT: dict[str, Any] = {"simulate": True, "step": "beat"}


def naive_features(
    signal: NDArray[np.float64], peaks: NDArray[np.int64], gate: float, reach: int = 18
) -> NDArray[np.float64]:
    """Return the channels of a record's beats (m, k) from the whole signal (s, c), beat by beat, lead by lead."""
    high = scipy.signal.butter(2, 0.5, "highpass", fs=RATE, output="sos")
    low = scipy.signal.butter(4, 35, fs=RATE, output="sos")
    heard = []
    for lead in signal.T:
        x = scipy.signal.sosfilt(high, lead, zi=scipy.signal.sosfilt_zi(high) * lead[0])[0]
        x = scipy.signal.sosfilt(low, x, zi=scipy.signal.sosfilt_zi(low) * x[0])[0]
        power, level = 0.3**2, np.empty(len(x))
        for at, value in enumerate(x):
            power += (value**2 - power) / RATE / 10
            level[at] = math.sqrt(power)
        heard.append((x, level))

    def window(lead: int, peak: int, first: int, after: int, told: int) -> NDArray[np.float64]:
        x, level = heard[lead]
        own: NDArray[np.float64] = x[np.clip(peak + np.arange(first, after, 6), 0, len(x) - 1)] / (level[told] + 1e-3)
        return own

    def centred(window: NDArray[np.float64]) -> NDArray[np.float64]:
        return window - window.mean()

    leads, rows = range(signal.shape[1]), []
    long = mean = last = 0.8
    irregular, count, before, usual = 0.0, 1.0, None, dict[tuple[int, int], NDArray[np.float64]]()
    for told in peaks.tolist():
        peak = told
        if usual:
            gains = {}
            for shift in range(-reach, reach + 1, 3):
                own = np.concatenate([centred(window(c, told + shift, -36, 43, told)) for c in leads])
                like = np.concatenate([usual[0, c] for c in leads])
                gains[shift] = own @ like / np.linalg.norm(own) / np.linalg.norm(like) - 0.1 * (shift / 18) ** 2
            peak += max(gains, key=lambda shift: gains[shift])
        wait = 0.8 if before is None else float(np.clip((peak - before) / RATE, 0.2, 3.0))
        before, share = peak, wait / long
        row = [*np.clip(4 * np.log(wait / np.array([long, mean, last])), -4, 4), min(4 * irregular, 4)]
        irregular += 0.1 * (abs(math.log(wait / last)) - irregular)
        long += (0.1 if wait > long else 0.02) * (wait - long)
        mean, last = mean + 0.1 * (wait - mean), wait
        shapes = np.empty((7, len(leads)))
        for which, (first, after) in enumerate(((-36, 43), (-108, -29))):
            windows, alike = [centred(window(c, peak, first, after, told)) for c in leads], []
            for c, own in enumerate(windows):
                template = usual.setdefault((which, c), own)
                norm, size = np.linalg.norm(own), np.linalg.norm(template) + 1e-6
                alike.append(own @ template / (norm * size + 1e-6))
                ratio = np.clip(2 * math.log((norm + 1e-3) / (size + 1e-3)), -4, 4)
                distance = min(np.linalg.norm(own - template) / (size + 1e-3), 4)
                shapes[4 * which : 4 * which + 3, c] = 2 * (1 - alike[-1]), ratio, distance
            weight = max(np.mean(alike), 0.1) * (max(0.05, 1 / (count + 1)) if count < 20 else 0.05)
            for c, own in enumerate(windows):
                usual[which, c] = usual[which, c] + (0.1 if share < gate else 1) * weight * (own - usual[which, c])
        count += 0.1 if share < gate else 1
        for c in leads:
            steep = np.abs(np.diff(window(c, peak, -54, 73, told)))
            shapes[3, c] = ((steep > 0.3 * steep.max()).sum() - 7) / 3
        rows.append([*row, *shapes.flat])
    return np.array(rows)


def test_the_channels_of_beats_are_those_of_the_definition_however_the_signal_is_cut() -> None:
    record = ecg_simulated.simulate("simulated-train-0", 2)
    signal, peaks = np.concatenate(list(record.blocks()))[: 120 * RATE], record.beats[record.beats < 119 * RATE]
    for gate in (0.0, 0.9):
        wanted = naive_features(signal, peaks, gate)
        for size in (len(signal), 7200, 700):
            features, rows, told = Features(gate), [], 0
            for at in range(0, len(signal), size):
                end = min(at + size, len(signal))
                ready = int((peaks + AFTER < end).sum())
                rows.append(features(signal[at:end], peaks[told:ready]))
                told = ready
            assert np.allclose(np.concatenate(rows), wanted, atol=1e-5)
    for other in (naive_features(signal, peaks, 0.0), naive_features(signal, peaks, 0.9, reach=0)):
        assert not np.allclose(other, wanted, atol=1e-2)  # control: the gate, and that beats are moved
    early, wide = (wanted[20:][record.kinds[20 : len(peaks)] == kind] for kind in (1, 2))
    assert np.median(early[:, 0]) < -1 and early[:, 4].mean() < 0.2 < 0.5 < wide[:, 4].mean()


@pytest.mark.parametrize("peaks", ["annotated", "detected"])
def test_a_beat_depends_on_nothing_after_it_was_noticed(monkeypatch: pytest.MonkeyPatch, peaks: Any) -> None:
    task = Ecg(**BEAT, records=(NAME,), peaks=peaks, gate=0.9)
    one = whole(task).x[0]
    table = task._tables[NAME]
    if peaks == "annotated":
        assert (table.noticed == table.peaks + AFTER).all() and AFTER == 90
    else:
        wait = table.noticed - table.peaks
        assert (wait >= 0.25 * RATE).all() and np.median(wait) < 0.26 * RATE and wait.max() < 0.5 * RATE
    for beat in (5, 40, 41, 200):
        until = int(table.noticed[beat])

        def change(signal: NDArray[np.float64], until: int = until) -> NDArray[np.float64]:
            signal[until + 1 :] = signal[until + 1 :][::-1] * 3 + 0.5
            return signal

        with monkeypatch.context() as patch:
            playing(patch, change)
            other = whole(replace(task)).x[0]
        assert torch.equal(one[: beat + 1], other[: beat + 1])
        assert not torch.equal(one[: beat + 3], other[: beat + 3])  # control


@pytest.mark.parametrize("peaks", ["annotated", "detected"])
def test_beats_as_steps(folder: Path, peaks: Any) -> None:
    task = of(folder, records=("101", "106", "114"), step="beat", peaks=peaks, passes=2)
    one = whole(task, "train", batch=2)
    assert task.spec == (5, None, 4 + 2 * 7) and task.step_seconds == 0.78
    assert one.x.shape[1] == task.steps("train", batch=2)
    for other in (whole(task, "train", batch=2, length=7), whole(task, "train", batch=2, start=33)):
        assert same(other, one.between(one.x.shape[1] - other.x.shape[1]))
    assert torch.isfinite(one.x).all() and (one.mask == (one.y >= 0)).all()
    beats = {name: read_beats(folder, name, SAMPLES) for name in ("101", "106", "114")}
    total = 2 * sum(len(own.beats) for own in beats.values())
    missed = int(one.info["missed"].sum())
    assert int((one.y >= 0).sum()) == total - missed and (peaks == "detected" or not missed)
    single = whole(of(folder, records=("101",), step="beat", peaks=peaks), "train")
    learned = single.y[0] >= 0
    assert single.info["at"][0][learned].tolist() == beats["101"].beats.tolist()
    assert single.y[0][learned].tolist() == beats["101"].kinds.tolist()
    assert single.reset[0].nonzero()[:, 0].tolist() == [0]


def test_chosen_channels_are_the_columns_of_all_of_them(folder: Path) -> None:
    every = whole(of(folder, records=("100",), step="beat")).x
    some = of(folder, records=("100",), step="beat", channels=("qrs_width", "wait_long", "p_size"))
    assert some.spec.d_in == 5
    assert torch.equal(whole(some).x, every[..., [10, 11, 0, 14, 15]])
    alone = of(folder, records=("100",), step="beat", leads="MLII", channels=("qrs_width", "wait_last"))
    assert torch.equal(whole(alone).x, every[..., [10, 2]])
    samples = whole(of(folder, records=("100",))).x
    chosen = of(folder, records=("100",), channels=("wait_long", "lead"))
    assert chosen.spec.d_in == 3 and torch.equal(whole(chosen).x, samples[..., [3, 0, 1]])
    leads = of(folder, records=("100",), rhythm=False, channels=("lead",))
    assert torch.equal(whole(leads).x, samples[..., :2])


def test_a_derived_task_reads_again_only_what_its_options_change(folder: Path) -> None:
    task = of(folder, step="beat", records=("100",))
    every = whole(task).x
    fewer, gated = task.derived(channels=("wait_long",)), task.derived(gate=0.9)
    assert fewer._tables is task._tables and gated._tables is not task._tables
    assert torch.equal(whole(fewer).x, every[..., :1])
    assert torch.equal(whole(gated).x, whole(of(folder, step="beat", records=("100",), gate=0.9)).x)
    assert not torch.equal(whole(gated).x, every)  # control


def test_a_lead_that_a_record_lacks_reads_as_usual(own: Path) -> None:
    signal, beats, symbols = simulated("100")
    both = whole(of(own, records=("100",), step="beat"))
    write(own, "100", signal[:, :1], beats, symbols, ("MLII",))
    chunk = whole(of(own, records=("100",), step="beat"))
    assert chunk.x.shape == both.x.shape and not chunk.x[..., 5::2].any() and both.x[..., 5::2].any()
    assert torch.equal(chunk.x[..., :4], both.x[..., :4])
    alone = whole(of(own, records=("100",), step="beat", leads="MLII"))
    assert torch.equal(chunk.x[..., [0, 1, 2, 3, *range(4, 18, 2)]], alone.x)


def test_labels_of_beats_arrive_so_many_beats_late(folder: Path) -> None:
    plain = whole(of(folder, records=("100",), step="beat"))
    pair = whole(of(folder, records=("100",), step="beat", label_delay=10), batch=2)
    assert torch.equal(pair.x[0], plain.x[0]) and torch.equal(pair.x[1, 10:], plain.x[0, :-10])
    assert (pair.y[0] == -1).all() and torch.equal(pair.y[1, 10:], plain.y[0, :-10])
    assert torch.equal(pair.info["score"][0], plain.info["score"][0]) and (pair.info["score"][1] == -1).all()
    few = whole(of(folder, records=("100",), step="beat", label_delay=10_000), batch=2)
    assert not few.mask.any() and (few.info["score"][0] >= 0).any()


def test_missed_and_extra_beats_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    record = ecg_simulated.simulate(NAME, 2)
    gone, added = record.beats[[50, 51, 120]], record.beats[200] + round(0.4 * RATE)
    beat = np.concatenate(list(record.blocks()))[record.beats[30] - 40 : record.beats[30] + 60]

    def change(signal: NDArray[np.float64]) -> NDArray[np.float64]:
        for at in gone:
            signal[at - 60 : at + 120] = np.linspace(*signal[[at - 60, at + 120]], 180)
        signal[added - 40 : added + 60] = beat
        return signal

    playing(monkeypatch, change)
    chunk = whole(Ecg(**BEAT, records=(NAME,), peaks="detected"))
    missed, score = chunk.info["missed"][0], chunk.info["score"][0]
    assert missed.sum(0).tolist() == np.bincount(record.kinds[[50, 51, 120]], minlength=5).tolist()
    extra = score == NONE
    began = int((extra & (chunk.info["at"][0] < 5 * RATE)).sum())  # before anything usual is known
    assert int(extra.sum()) == 1 + began and began < 6 and not chunk.mask[0][extra].any()
    assert int(((score >= 0) & (score < NONE)).sum()) == len(record.beats) - 3
    meters = Ecg(**BEAT, peaks="detected").meters()
    perfect = torch.nn.functional.one_hot(score.clamp(0, 4), 5).float()[None]
    for meter in meters.values():
        meter.update(perfect, chunk)
    matrix = torch.tensor(meters["accuracy"].state_dict()["matrix"])
    assert matrix.shape == (6, 6) and int(matrix.sum()) == len(record.beats) + 1 + began
    assert matrix[:, NONE].tolist() == [*missed.sum(0).tolist(), 0] and int(matrix[NONE].sum()) == 1 + began
    assert meters["accuracy"].get() == pytest.approx((len(record.beats) - 3) / int(matrix.sum()))


def test_what_is_detected_near_flutter_waves_is_neither_scored_nor_learned(own: Path) -> None:
    _, beats, symbols = simulated("100")
    waves = [5, 6, 20]
    wfdb.wrann("100", "atr", beats, ["!" if i in waves else s for i, s in enumerate(symbols)], write_dir=str(own))
    chunk = whole(of(own, records=("100",), step="beat", peaks="detected"))
    wfdb.wrann("100", "atr", np.delete(beats, waves), list(np.delete(symbols, waves)), write_dir=str(own))
    control = whole(of(own, records=("100",), step="beat", peaks="detected"))
    extra = [int((one.info["score"] == NONE).sum()) for one in (chunk, control)]
    assert extra[1] == extra[0] + 3 and torch.equal(chunk.y, control.y)
    assert int(chunk.info["unused"].sum()) == 3 and int((chunk.info["score"] >= 0).sum()) == len(beats) - 3 + extra[0]


def test_a_detection_is_of_the_nearest_beat_within_150_ms() -> None:
    beats = np.array([100, 400, 700, 800])
    assert match(np.array([90, 454, 650, 740, 2000]), beats).tolist() == [0, 1, -1, 2, -1]
    assert match(np.array([90, 455, 640]), beats).tolist() == [0, -1, -1]  # 55 samples are 153 ms
    assert match(np.array([700, 745]), beats).tolist() == [2, -1] and match(beats[:0], beats).tolist() == []
    assert match(beats, beats[:0]).tolist() == [-1] * 4


def test_beats_of_a_bad_window_are_lost_and_counted_where_a_step_is_a_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    record = ecg_simulated.simulate(NAME, 2)

    def spoil(signal: NDArray[np.float64]) -> NDArray[np.float64]:
        signal[30 * WINDOW : 33 * WINDOW] = np.nan
        return signal

    playing(monkeypatch, spoil)
    inside = [(at >= 30 * WINDOW) & (at < 33 * WINDOW) for at in (record.beats, record.beats + AFTER)]
    lost = int((inside[0] | inside[1]).sum())
    for peaks in ("annotated", "detected"):
        chunk = whole(Ecg(**BEAT, records=(NAME,), peaks=peaks))
        assert int(chunk.info["lost"].sum()) == lost > 0 and int(chunk.info["skipped"].sum()) == 3 * WINDOW
        beats = int((chunk.y >= 0).sum()) + int(chunk.info["missed"].sum())
        assert beats == len(record.beats) - lost and torch.isfinite(chunk.x).all()
        at, y = chunk.info["at"][0], chunk.y[0]
        assert set(at[y >= 0].tolist()) <= set(record.beats.tolist())
    playing(monkeypatch, lambda signal: np.full_like(signal, np.nan))
    nothing = whole(Ecg(**BEAT, records=(NAME,), peaks="detected"))
    assert not nothing.mask.any() and nothing.x.shape[1] == 1 and int(nothing.info["lost"].sum()) == len(record.beats)


def test_an_r_peak_that_is_off_is_moved_to_where_its_beat_is_as_usual() -> None:
    draw = np.random.default_rng(0)
    signal, peaks = np.zeros((60 * RATE, 2)), np.arange(RATE, 59 * RATE, 300)
    for peak in peaks:
        at = np.arange(peak - 100, peak + 150)
        signal[at, 0] += np.exp(-(((at - peak) / 8) ** 2)) - 0.4 * np.exp(-(((at - peak - 14) / 6) ** 2))
        signal[at, 1] -= 0.6 * np.exp(-(((at - peak + 3) / 10) ** 2))
    signal += 0.01 * draw.normal(size=signal.shape)
    off = peaks + np.where(np.arange(len(peaks)) > 5, draw.integers(-5, 6, len(peaks)) * 3, 0)
    wanted, found = (Features()(signal, at)[8:, : len(WAITS) + 2] for at in (peaks, off))
    assert np.abs(found - wanted).max() < 0.1
    left = naive_features(signal, off, 0.0, reach=0)[8:, : len(WAITS) + 2]
    assert np.abs(left - wanted).max() > 0.5  # control: not moved


@pytest.mark.parametrize("heard", [1, 2])
def test_beats_that_are_small_in_one_lead_are_heard_in_the_other(heard: int) -> None:
    signal, peaks = 1e-3 * np.random.default_rng(0).normal(size=(60 * RATE, 2)), np.arange(RATE, 59 * RATE, 300)
    for i, peak in enumerate(peaks):
        shape = np.exp(-(((np.arange(peak - 40, peak + 40) - peak) / 8) ** 2))
        signal[peak - 40 : peak + 40] += shape[:, None] * ([3.0, 0.3] if i % 2 else [0.6, 1.5])
    found = Peaks()(signal[:, :heard])[0]
    assert ((match(found, peaks) >= 0).sum() > 0.95 * len(peaks)) == (heard == 2)  # by the first alone: every other


@real
@pytest.mark.slow
def test_detected_peaks_of_ds1_and_their_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOMAMBA_DATA", str(DATA))
    task = Ecg(step="beat", peaks="detected")
    info = whole(task, "train", batch=22, length=5000).info
    missed, extra = int(info["missed"].sum()), int((info["score"] == NONE).sum())
    assert missed < 0.01 * sum(COUNTS) and extra < 0.01 * sum(COUNTS)
    assert int(((info["score"] >= 0) & (info["score"] < NONE)).sum()) + missed == sum(COUNTS)
    offsets = [np.median((own.peaks - own.at)[own.kinds == 0]) for own in task._tables.values()]
    assert abs(np.median(offsets)) <= 1
