"""The laws of EEG streams: no label in the input, padding looks ahead or leaks, a broken file is one clear line."""

import io
import json
import math
import os
import socket
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from edfio import Edf, EdfAnnotation, EdfSignal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

import biomamba
from biomamba.cli.main import main
from biomamba.stream import Chunk
from biomamba.tasks.eeg import signal as eeg_signal
from biomamba.tasks.eeg.files import MONTAGE, RATE, check, read
from biomamba.tasks.eeg.scores import Decisions, Latency
from biomamba.tasks.eeg.simulated import simulate
from biomamba.tasks.eeg.stream import Grid, Span, recording
from biomamba.tasks.eeg.task import Eeg
from sizes import joined, same

DATA = os.environ.get("BIOMAMBA_DATA")
REAL = bool(DATA) and (Path(DATA or "") / "eegmmi").is_dir()
real = pytest.mark.skipif(not REAL, reason="BIOMAMBA_DATA names no folder with eegmmi in it")
CHANNELS = ("C3", "C4", "O1", "OZ", "O2")
FORMS = [
    eeg_signal.Form(2, [(4, 18)], "signal", 0.25, running=True),
    eeg_signal.Form(2, [(8, 13), (13, 30)], "both", 0.25, running=True),
    eeg_signal.Form(2, [(8, 30)], "power", 0.5, running=False),
]
GRID = Grid(every=4, warm=RATE, window=RATE)
SMALL = {"folds": 2, "channels": ("O1", "O2"), "features": "both"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no test reach the network, nor find data but what it names."""

    def refuse(*args: object, **named: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("biomamba.tasks.common.files.CACHE", tmp_path / "no-cache")
    monkeypatch.delenv("BIOMAMBA_DATA", raising=False)


def noise(n: int, channels: int = len(CHANNELS), seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, 20, (n, channels))


def write(folder: Path, number: int, signal: NDArray[np.float64], events: Sequence[tuple[float, float, str]]) -> Path:
    """Write a run of five channels as EEGMMI does."""
    rows = zip(CHANNELS, signal.T, strict=True)
    signals = [
        EdfSignal(row, RATE, label=f"{name.capitalize()}.", physical_dimension="uV", physical_range=(-3000, 3000))
        for name, row in rows
    ]
    notes = [EdfAnnotation(*event) for event in events]
    folder.mkdir(parents=True, exist_ok=True)
    Edf(signals, annotations=notes).write(folder / f"S001R{number:02d}.edf")
    return folder / f"S001R{number:02d}.edf"


def eyes(folder: Path, signals: Sequence[NDArray[np.float64]] | None = None, seconds: int = 10) -> str:
    """Write both runs and return their folder."""
    for number, signal in enumerate(signals or [noise(seconds * RATE, seed=s) for s in (0, 1)]):
        write(folder, number + 1, signal, [(0, seconds, "T0")])
    return str(folder)


def imagery(folder: Path, swap: bool = False) -> str:
    """Write the three runs with four trials each and return their folder."""
    texts = {"T1": "T2", "T2": "T1"} if swap else {}
    for number in (4, 8, 12):
        events = [(5.0 * i, 2.5, "T0") for i in range(4)]
        events += [(5.0 * i + 2.5, 2.5, texts.get(t, t)) for i, t in enumerate(("T1", "T2", "T2", "T1"))]
        write(folder, number, noise(20 * RATE, seed=number), events)
    return str(folder)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Eeg]:
    """Return a task of each contrast, on files."""
    folder = tmp_path_factory.mktemp("eeg")
    return {
        "eyes": Eeg(path=eyes(folder / "eyes"), passes=2, **SMALL),  # type: ignore[arg-type]
        "imagery": Eeg("imagery", path=imagery(folder / "imagery"), channels=("C3", "C4"), decimate=8, warm=0.5),
    }


def take(task: Eeg, split: str = "train", batch: int = 2, length: int = 10**6, seed: int = 0, start: int = 0) -> Chunk:
    """Return a whole split."""
    return joined(task.stream(split, batch=batch, length=length, seed=seed, start=start))


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    """Return the text of an error, which must be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


# units and channels of no use


def relabelled(path: Path, unit: bytes, factor: float) -> None:
    """Write another unit into the header of a run of five channels, with the physical range that goes with it."""
    data = bytearray(path.read_bytes())
    count = int(data[252:256])
    for i in range(len(CHANNELS)):
        for at, text in ((96, unit), (104, b"%g" % (-3000 / factor)), (112, b"%g" % (3000 / factor))):
            data[256 + at * count + 8 * i : 264 + at * count + 8 * i] = text.ljust(8)
    path.write_bytes(data)


UNITS = [(b"mV", 1e3), (b"V", 1e6), (b"nV", 1e-3), (b"\xb5V", 1.0), (b"\xc2\xb5V", 1.0), (b"uVolt", 1.0), (b"MV", 1e3)]


@pytest.mark.parametrize("unit, factor", UNITS, ids=str)
def test_the_unit_of_the_header_is_read(unit: bytes, factor: float, tmp_path: Path) -> None:
    write(tmp_path, 1, noise(10 * RATE), [(0, 10, "T0")])
    plain = read(tmp_path / "S001R01.edf").signal
    relabelled(tmp_path / "S001R01.edf", unit, factor)
    assert read(tmp_path / "S001R01.edf").signal == pytest.approx(plain, rel=1e-5)
    relabelled(tmp_path / "S001R01.edf", b"uV", factor)  # control
    assert factor == 1 or read(tmp_path / "S001R01.edf").signal != pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("unit", [b"degC", b"", b"Ohm", b"%"])
def test_what_is_no_voltage_is_no_channel_and_no_reference(unit: bytes, tmp_path: Path) -> None:
    path = eyes(tmp_path / "whole")
    plain = take(Eeg(path=path, **SMALL))  # type: ignore[arg-type]
    for number in (1, 2):
        file = tmp_path / "whole" / f"S001R{number:02d}.edf"
        relabelled(file, unit, 1.0)
    with pytest.raises(
        ValueError, match=r"S001R01.edf, channel O1: its header gives '.*' as its unit, expected uV"
    ) as e:
        take(Eeg(path=path, **SMALL))  # type: ignore[arg-type]
    assert message(e) and plain.mask.any()


def with_channel(folder: Path, channel: str, values: NDArray[np.float64]) -> str:
    """Return the folder of two runs in which a channel is of no use."""
    signals = [noise(10 * RATE, seed=s) for s in (0, 1)]
    for signal in signals:
        signal[:, CHANNELS.index(channel)] = values
    return eyes(folder, signals)


@pytest.mark.parametrize("values", [0.0, 12.0, 2500.0], ids=["zero", "still", "railed"])
def test_a_channel_of_no_use_gates_nothing_it_is_named(values: float, tmp_path: Path) -> None:
    own = Eeg(path=with_channel(tmp_path, "C3", np.full(10 * RATE, values)), **SMALL)  # type: ignore[arg-type]
    chunk = take(own)
    assert chunk.mask.any() and not chunk.info["skipped"].any()
    said = own.left_out(own.meters())
    assert len(said) == 2 and "S001R01.edf, channel C3 is no part of the reference: it is flat or beyond" in said[0]
    with pytest.raises(ValueError, match=r"S001R01.edf, channel C3: it is flat or beyond 1000 microvolts throughout"):
        take(Eeg(path=str(tmp_path), **{**SMALL, "channels": ("O1", "C3")}))  # type: ignore[arg-type]
    plain = Eeg(path=eyes(tmp_path / "good"), **SMALL)  # type: ignore[arg-type]
    assert take(plain).mask.sum() == chunk.mask.sum() and plain.left_out(plain.meters()) == []  # control


def test_a_channel_without_a_range_is_named(tmp_path: Path) -> None:
    path = eyes(tmp_path)
    for number in (1, 2):
        file = tmp_path / f"S001R{number:02d}.edf"
        data = bytearray(file.read_bytes())
        data[256 + 112 * 6 : 264 + 112 * 6] = b"-3000   "  # the physical maximum of C3, of six signals
        file.write_bytes(data)
    own = Eeg(path=path, **SMALL)  # type: ignore[arg-type]
    assert take(own).mask.any()
    assert "channel C3 is no part of the reference: its header gives -3000 as physical minimum" in own.left_out({})[0]


def test_seconds_that_are_cut_out_name_the_channel_and_nothing_left_is_an_error(tmp_path: Path) -> None:
    values = noise(10 * RATE)[:, 0]
    values[: 2 * RATE] = 0
    own = Eeg(path=with_channel(tmp_path / "part", "C4", values), **SMALL)  # type: ignore[arg-type]
    assert take(own).mask.any()
    assert own.left_out({})[0].startswith("S001R01.edf, cut out where flat or beyond 1000 microvolts: C4 for 1.")
    values = noise(10 * RATE)[:, 0]
    values[RATE // 2 :] = 0
    bad = Eeg(path=with_channel(tmp_path / "most", "C4", values), **SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"split \w+: no step has a label; S001R01.edf, cut out .*: C4 for 9") as error:
        take(bad)
    assert message(error)


# the streams


@pytest.mark.parametrize("name", ["eyes", "imagery"])
@pytest.mark.parametrize("length", [1, 7])
def test_shapes(tasks: dict[str, Eeg], name: str, length: int) -> None:
    task = tasks[name]
    chunk = next(task.stream("train", batch=3, length=length, seed=0))
    assert [tuple(field.shape) for field in chunk[:4]] == [(3, length, task.spec.d_in), *[(3, length)] * 3]
    assert [field.dtype for field in chunk[:4]] == [torch.float32, torch.int64, torch.bool, torch.bool]
    whole = take(task)
    assert whole.x.shape[1] == task.steps("train", batch=2)
    assert torch.isfinite(whole.x).all() and whole.x.std() > 0.1
    assert torch.equal(whole.mask, whole.y >= 0)
    assert set(whole.y[whole.mask].tolist()) == {0, 1}
    assert not (whole.info["window"] > whole.mask).any()
    assert not (whole.info["unit"] > whole.info["window"]).any()


@pytest.mark.parametrize("name", ["eyes", "imagery"])
def test_streams_repeat_and_the_seed_draws_the_order(tasks: dict[str, Eeg], name: str) -> None:
    task = tasks[name]
    assert same(take(task), take(task))
    assert len({tuple(take(task, batch=1, seed=seed).x[0, ::50].flatten().tolist()) for seed in range(8)}) > 1
    assert same(take(task, "test", seed=0), take(task, "test", seed=1))


@pytest.mark.parametrize("name", ["eyes", "imagery"])
@pytest.mark.parametrize("length", [1, 7, 64])
@pytest.mark.parametrize("start", [0, 1, 130])
def test_chunks_end_to_end_depend_neither_on_length_nor_on_start(
    tasks: dict[str, Eeg], name: str, length: int, start: int
) -> None:
    whole = take(tasks[name])
    part = take(tasks[name], length=length, start=start)
    assert same(part, whole.between(start))
    assert not same(part, take(tasks[name], start=start, seed=3))  # control


def test_a_recording_begins_with_a_reset(tasks: dict[str, Eeg]) -> None:
    eyes = take(tasks["eyes"], batch=1)
    assert eyes.reset[0].nonzero()[:, 0].tolist() == [0, 200, 400, 600]  # 2 blocks of 5 s at 40 Hz, twice
    assert eyes.info["since"][eyes.reset].tolist() == [4] * 4
    assert take(tasks["imagery"], batch=1).reset[0].nonzero()[:, 0].tolist() == [0, 400]  # 2 runs of 20 s at 20 Hz


def test_more_rows_than_recordings_are_filled_up(tasks: dict[str, Eeg]) -> None:
    chunk = take(tasks["eyes"], "test", batch=3)
    assert not chunk.x[2].any() and not chunk.mask[2].any()
    assert (chunk.y[2] == -1).all()
    assert chunk.mask[:2].any()  # control


# what must not happen


def test_labels_are_not_in_the_input(tmp_path: Path) -> None:
    one, other = (
        Eeg("imagery", path=imagery(tmp_path / str(swap), swap), channels=("C3",), decimate=8) for swap in (False, True)
    )
    assert torch.equal(take(one).x, take(other).x)
    assert not torch.equal(take(one).y, take(other).y)  # control: the labels are others
    signal = noise(10 * RATE)
    alike = take(Eeg(path=eyes(tmp_path / "eyes", [signal, signal]), **SMALL), "test")  # type: ignore[arg-type]
    assert torch.equal(alike.x[0], alike.x[1])
    assert not torch.equal(alike.y[0], alike.y[1])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_features_and_gate_are_causal_bit_for_bit(form: eeg_signal.Form) -> None:
    signal, spans = noise(6 * RATE, 4), [Span(0, 6 * RATE, 1)]
    before = recording(signal, spans, GRID, form).segment
    for at in (RATE // 2, 3 * RATE, 5 * RATE + 1):
        for value in (noise(6 * RATE, 4, seed=9), np.full((6 * RATE, 4), np.nan), np.zeros((6 * RATE, 4))):
            changed = np.concatenate([signal[:at], value[at:]])
            after = recording(changed, spans, GRID, form).segment
            past = at // GRID.every
            assert torch.equal(before.x[:past], after.x[:past])
            assert torch.equal(before.mask[:past], after.mask[:past])
            assert not torch.equal(before.x[past:], after.x[past:])  # control: the change is seen


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
def test_a_stretch_begun_is_a_stretch_continued(form: eeg_signal.Form) -> None:
    signal = noise(3 * RATE, 4)
    whole = eeg_signal.features(signal, form)
    for n in (1, 100, 2 * RATE + 7):
        assert np.array_equal(eeg_signal.features(signal[:n], form), whole[:n])
    assert not np.array_equal(eeg_signal.features(signal[1:], form), whole[1:])  # control: the past is not forgotten


def test_band_keeps_what_it_names_and_takes_off_a_constant() -> None:
    t = np.arange(20 * RATE)[:, None] / RATE
    inside, outside = (np.sin(2 * np.pi * hertz * t) for hertz in (10.0, 30.0))
    assert eeg_signal.band(inside, 8, 13)[5 * RATE :].std() == pytest.approx(inside.std(), rel=0.05)
    assert eeg_signal.band(outside, 8, 13)[5 * RATE :].std() < 0.01
    assert np.abs(eeg_signal.band(np.full((RATE, 1), 500.0), 8, 13)).max() < 1e-6


def test_nothing_of_the_held_out_block_is_in_what_is_learned_from(tmp_path: Path) -> None:
    signals = [noise(15 * RATE, seed=s) for s in (0, 1)]
    changed = [signal.copy() for signal in signals]
    for signal in changed:
        signal[5 * RATE : 10 * RATE] = noise(5 * RATE, seed=7)
    options = {"fold": 1, "folds": 3, "channels": ("O1",), "features": "both"}
    one, other = (Eeg(path=eyes(tmp_path / n, s, 15), **options) for n, s in (("a", signals), ("b", changed)))  # type: ignore[arg-type]
    assert same(take(one), take(other))
    assert not same(take(one, "test"), take(other, "test"))  # control: they were changed
    for signal, own in zip(signals, changed, strict=True):
        own[:] = np.concatenate([noise(5 * RATE, seed=8), signal[5 * RATE : 10 * RATE], noise(5 * RATE, seed=9)])
    third = Eeg(path=eyes(tmp_path / "c", changed, 15), **options)  # type: ignore[arg-type]
    assert same(take(one, "test"), take(third, "test"))
    assert not same(take(one), take(third))  # control


def test_average_reference_takes_off_what_all_electrodes_share(tmp_path: Path) -> None:
    signals = [noise(10 * RATE, seed=s) for s in (0, 1)]
    common = 40 * np.sin(np.arange(10 * RATE) / 3)[:, None]
    paths = [eyes(tmp_path / "a", signals), eyes(tmp_path / "b", [signal + common for signal in signals])]
    for reference, alike in (("average", True), ("none", False)):
        x = [
            take(Eeg(path=path, reference=reference, folds=2, channels=("O1",), scale="fixed", features="signal",
                     bands=("4-18",))).x for path in paths
        ]  # type: ignore[arg-type]  # fmt: skip
        assert (float((x[0] - x[1]).abs().max()) < 0.05) == alike  # files hold 16 bits


# the gate


def spoiled(kind: str, n: int = 10 * RATE) -> NDArray[np.float64]:
    """Return a signal of which half a second, or two where it is flat, on one channel is not EEG."""
    signal = noise(n)
    part = slice(4 * RATE, 6 * RATE if kind == "flat" else 4 * RATE + RATE // 2)
    signal[part, 1] = {"nan": np.nan, "inf": np.inf, "large": 2500.0, "flat": 3.0}[kind]
    return signal


@pytest.mark.parametrize("kind", ["nan", "inf", "large", "flat"])
def test_what_is_no_eeg_is_cut_out_and_counted(kind: str) -> None:
    form = FORMS[1]
    made = recording(spoiled(kind), [Span(0, 10 * RATE, 0)], GRID, form)
    clean = recording(noise(10 * RATE), [Span(0, 10 * RATE, 0)], GRID, form)
    cut = int(made.segment.info["skipped"][0])
    assert cut == pytest.approx({"flat": 2.75, "large": 1.5, "nan": 1.5, "inf": 1.5}[kind] * RATE, abs=2)
    assert clean.segment.info["skipped"][0] == 0  # control
    assert made.steps == clean.steps - cut // GRID.every
    assert torch.isfinite(made.segment.x).all() and made.segment.x.abs().max() < 20
    assert made.segment.mask.sum() <= clean.segment.mask.sum() - (cut + RATE - 2) // GRID.every
    assert made.segment.info["unit"].sum() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 2500.0])
def test_a_signal_with_nothing_good_in_it_moves_no_weight(value: float) -> None:
    def moved(signal: NDArray[np.float64]) -> bool:
        made = recording(signal, [Span(0, len(signal), 1)], Grid(4, 0, RATE), FORMS[1])
        x, y, mask = (field[None] for field in made.segment[:3])
        chunk = Chunk(x, y, mask, torch.zeros_like(mask), {name: own[None] for name, own in made.segment.info.items()})
        whole = Eeg(simulate=True)
        task = SimpleNamespace(loss=whole.loss, meters=whole.meters)  # of other inputs than its own streams bring
        model = biomamba.Model(d_in=x.shape[-1], d_out=2, d_model=4, d_state=2, headdim=1)
        before = [p.clone() for p in model.parameters()]
        optimizer = torch.optim.Adam(model.parameters())
        rule = biomamba.rules.RTRL(model.blocks)
        last = list(biomamba.online([chunk], biomamba.Learner(task, model, rule, optimizer)))[-1]
        assert last.scores["skipped_seconds"] == pytest.approx(float((~eeg_signal.good(signal)).sum()) / RATE)
        return not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    assert not moved(np.full((3 * RATE, 2), value))
    assert moved(noise(3 * RATE, 2))  # control


# the meters


def predictions(chunk: Chunk) -> torch.Tensor:
    return torch.randn(*chunk.mask.shape, 2, generator=torch.Generator().manual_seed(1)) * 2


@pytest.mark.parametrize("name", ["eyes", "imagery"])
@pytest.mark.parametrize("length", [1, 13])
def test_meters_go_on_from_json_and_do_not_depend_on_chunks(tasks: dict[str, Eeg], name: str, length: int) -> None:
    task, whole = tasks[name], take(tasks[name])
    out = predictions(whole)
    expected = task.meters()
    for meter in expected.values():
        meter.update(out, whole)
    meters = task.meters()
    for step in range(0, out.shape[1], length):
        part = slice(step, step + length)
        for meter in meters.values():
            meter.update(out[:, part], whole.between(part.start, part.stop))
        if step % 5 == 0:
            saved = json.loads(json.dumps({key: meter.state_dict() for key, meter in meters.items()}))
            meters = task.meters()
            for key, meter in meters.items():
                meter.load_state_dict(saved[key])
    assert next(iter(meters)) == "balanced_accuracy"
    for key, meter in meters.items():
        assert meter.get() == pytest.approx(expected[key].get(), nan_ok=True)
    assert 0 < expected["balanced_accuracy"].get() < 1  # control: there was something to decide


@pytest.mark.parametrize("ends", ["window", "unit"])
def test_a_decision_is_the_mean_over_its_window_or_trial(tasks: dict[str, Eeg], ends: str) -> None:
    chunk = take(tasks["imagery"], batch=1)
    out, y = predictions(chunk), chunk.y[0]
    logs, said, true, first = out[0].double().log_softmax(-1), [], [], 0
    for end in chunk.info[ends][0].nonzero()[:, 0].tolist():
        own = chunk.mask[0].clone()
        own[:first], own[end + 1 :] = False, False
        said.append(int(logs[own].mean(0).argmax()))
        true.append(int(y[end]))
        first = end + 1
    meter = Decisions(("left", "right"), ends)
    meter.update(out, chunk)
    assert len(said) == {"unit": 8, "window": 16}[ends]
    assert meter.balanced_accuracy() == pytest.approx(balanced_accuracy_score(true, said))
    assert meter.kappa() == pytest.approx(cohen_kappa_score(true, said))


def test_latency_is_when_the_decision_is_right_for_good() -> None:
    """Four blocks of three windows of a second: right at once, from the third on, never, and all but at the end."""
    steps = 12
    y = torch.zeros(1, steps, dtype=torch.int64)
    info = {"window": y + 1, "unit": torch.tensor([[0, 0, 1] * 4]), "since": torch.tensor([[1, 2, 3] * 4]) * RATE}
    right = torch.tensor([1, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0])
    mask = torch.ones(1, steps, dtype=torch.bool)
    meter = Latency()
    meter.update(torch.stack([right, 1 - right], -1)[None].float(), Chunk(y, y, mask, ~mask, info))
    assert meter.times == [1.0, 3.0]
    assert meter.get() == 2.0
    assert meter.never() == 0.5
    assert math.isnan(Latency().get()) and math.isnan(Latency().never())


def test_loss_is_the_mean_over_labelled_steps(tasks: dict[str, Eeg]) -> None:
    chunk = take(tasks["eyes"])
    out = torch.zeros(*chunk.mask.shape, 2, requires_grad=True)
    assert tasks["eyes"].loss(out, chunk).item() == pytest.approx(math.log(2))
    padding = tasks["eyes"].loss(out, chunk._replace(mask=torch.zeros_like(chunk.mask)))
    padding.backward()
    assert padding.item() == 0 and out.grad is not None and not out.grad.any()


@pytest.mark.parametrize("name", ["eyes", "imagery"])
def test_baselines_see_no_signal(tasks: dict[str, Eeg], name: str) -> None:
    task = tasks[name]
    scores = task.baseline("test", batch=1, seed=0)
    assert scores.keys() == {"majority", "last_label"}
    for own in scores.values():
        assert own.keys() == task.meters().keys()
        assert own["loss"]["all"] == pytest.approx(math.log(2), abs=1e-3)
    assert scores["majority"]["balanced_accuracy"]["all"] == 0.5
    if name == "imagery":  # T1 T2 T2 T1 after T1: right, wrong, right, wrong
        assert scores["last_label"]["accuracy"]["all"] == 0.5
    assert task.parts("test") == {}


# files


def test_read_gives_back_what_was_written(tmp_path: Path) -> None:
    signal = noise(3 * RATE)
    run = read(write(tmp_path, 4, signal, [(0, 1.5, "T0"), (1.5, 1.5, "T2")]))
    assert tuple(run.channels) == CHANNELS
    assert np.abs(run.signal - signal).max() < 0.1
    assert [tuple(event) for event in run.events] == [(0, 240, "T0"), (240, 480, "T2")]


HEADER = {
    "records": (236, 8),
    "duration": (244, 8),
    "signals": (252, 4),
    "bytes": (184, 8),
    "samples": (256 + 216 * 6, 8),
}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("records", "5", "its header asks for"),
        ("records", "-1", "'-1' as number of data records, expected 1 to"),
        ("records", "1e11", "'1e11' as number of data records"),
        ("duration", "0", "'0' as duration of a record"),
        ("duration", "0.5", "signals at 320 Hz, expected 160 Hz throughout"),
        ("signals", "9999", "'9999' as number of signals"),
        ("signals", "nan", "'nan' as number of signals"),
        ("bytes", "512", "'512' as bytes of the header"),
        ("samples", "0", "'0' as samples per record of signal 1"),
        ("samples", "1e11", "'1e11' as samples per record of signal 1"),
        ("samples", "\xe4\xb5", "as samples per record of signal 1"),
    ],
)
def test_a_lying_header_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: str, said: str
) -> None:
    eyes(tmp_path, seconds=20)
    file = tmp_path / "S001R02.edf"
    data = bytearray(file.read_bytes())
    start, size = HEADER[field]
    data[start : start + size] = value.encode("latin-1").ljust(size)
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=said) as error:
        read(file)
    assert str(file) in message(error)
    argv = ["train", "--config", "configs/eeg.yaml", "--task.path", str(tmp_path), "--run.dir", str(tmp_path / "run")]
    assert main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "S001R02.edf" in lines[0]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 255 + 256 * 6),
    junk=st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"1e11    ", b"-1      ", b"0       "])),
    keep=st.one_of(st.none(), st.integers(0, 5000)),
)
def test_broken_files_are_errors_in_little_memory(tmp_path: Path, at: int, junk: bytes, keep: int | None) -> None:
    file = tmp_path / "S001R01.edf"
    if not (tmp_path / "whole").exists():
        (tmp_path / "whole").write_bytes(write(tmp_path, 1, noise(2 * RATE), [(0, 2, "T0")]).read_bytes())
    data = bytearray((tmp_path / "whole").read_bytes())
    data[at : at + len(junk)] = junk
    file.write_bytes(bytes(data[:keep]))
    tracemalloc.start()
    try:
        said = f"{len(read(file).signal)} samples"
    except ValueError as error:
        said = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == "320 samples" or (str(file) in said and "\n" not in said)
    assert peak < 50e6


def test_a_whole_file_passes_the_check_and_a_byte_less_does_not(tmp_path: Path) -> None:
    file = write(tmp_path, 1, noise(2 * RATE), [])
    check(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short or its header is wrong") as error:
        check(file)
    message(error)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fold": 6}, "fold is 6, expected 0 to 5 for contrast eyes"),
        ({"contrast": "imagery", "fold": 3}, "fold is 3, expected 0 to 2 for contrast imagery"),
        ({"folds": 1}, "folds is 1, expected 2 to 15"),
        ({"decimate": 0}, "decimate is 0, expected at least 1"),
        ({"bands": ("alpha",)}, "bands: got 'alpha', expected two frequencies in Hz such as 8-13"),
        ({"bands": ("13-8",)}, "bands: got '13-8', expected two rising frequencies"),
        ({"bands": ("8-30",), "features": "signal"}, "below 20 Hz, half the rate of the steps"),
        ({"bands": ("nan-3",)}, "bands: got 'nan-3', expected two rising frequencies"),
        ({"warm": -1.0}, "warm is -1.0, expected 0 to 3 seconds"),
        ({"window": 0.0}, "window is 0.0, expected 0.05 to 3 seconds"),
        ({"path": "x", "simulate": True}, "path is 'x' and simulate is true"),
    ],
)
def test_options_no_data_can_satisfy_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        Eeg(**options)  # type: ignore[arg-type]
    message(error)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="path: no folder") as error:
        Eeg(path=str(tmp_path / "lost")).steps("train", batch=1)
    message(error)
    write(tmp_path, 1, noise(10 * RATE), [])
    with pytest.raises(FileNotFoundError, match=r"S001R02\.edf, expected a run of EEGMMI") as error:
        Eeg(path=str(tmp_path), folds=2, channels=("O1",)).steps("train", batch=1)
    message(error)
    with pytest.raises(ValueError, match=r"S001R01\.edf has no channel FZ, expected one of C3, C4") as error:
        Eeg(path=eyes(tmp_path), folds=2, channels=("fz",)).steps("train", batch=1)
    message(error)
    for number in (4, 8, 12):
        write(tmp_path, number, noise(10 * RATE), [(0, 10, "T0")])
    with pytest.raises(ValueError, match=r"S001R04\.edf: no block or trial, T1 or T2, outlasts") as error:
        Eeg("imagery", path=str(tmp_path), channels=("C3",)).steps("train", batch=1)
    message(error)
    with pytest.raises(ValueError, match="split is 'valid', expected one of train, test") as error:
        Eeg(path=str(tmp_path)).stream("valid", batch=1, length=1, seed=0)
    message(error)


def test_runs_are_fetched_once_from_physionet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eyes(tmp_path / "there")
    imagery(tmp_path / "there")
    asked = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO((tmp_path / "there" / url.rpartition("/")[2]).read_bytes())

    monkeypatch.setattr("biomamba.tasks.common.files._answers", lambda host: host == "physionet.org")
    monkeypatch.setattr("urllib.request.urlopen", answer)
    for _ in range(2):
        task = Eeg(folds=2, channels=("O1",))
        assert task.source == "EEGMMI S001 R01 R02 in folder eegmmi"
        assert task.steps("test", batch=1) == 2 * 200
    first = "https://physionet.org/files/eegmmidb/1.0.0/S001/S001R01.edf"
    assert len(asked) == 5 and asked[0] == first


# simulated


def test_without_data_and_network_the_source_says_that_it_is_simulated() -> None:
    assert Eeg().source.startswith("SIMULATED")
    assert Eeg(simulate=True).source == Eeg().source
    assert set(Eeg().splits) == {"train", "test"} and Eeg().held_out == "test" and Eeg().step_seconds == 4 / 160


def test_the_simulated_person_has_more_alpha_with_eyes_closed_and_mu_on_one_side() -> None:
    alpha = [eeg_signal.band(simulate(n).signal, 8, 13).std(axis=0)[MONTAGE.index("OZ")] for n in (1, 2)]
    assert alpha[1] > 1.5 * alpha[0]
    run = simulate(4)
    assert np.array_equal(run.signal, simulate(4).signal)
    assert sorted({e.text for e in run.events}) == ["T0", "T1", "T2"]
    side = eeg_signal.band(run.signal, 8, 13)[:, [MONTAGE.index("C3"), MONTAGE.index("C4")]]
    ratio = {
        text: np.mean(
            [np.log(np.divide(*side[e.start + RATE : e.end].std(axis=0))) for e in run.events if e.text == text]
        )
        for text in ("T1", "T2")
    }
    assert ratio["T1"] > ratio["T2"] + 0.2


def test_config_trains_and_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    given = ["--task.simulate", "true", "--task.passes", "1", "--model.d_model", "4", "--model.d_state", "2"]
    given += ["--stream.steps", "48", "--run.dir", run]
    assert main(["train", "--config", "configs/eeg.yaml", *given]) == 0
    assert main(["evaluate", run]) == 0
    told = capsys.readouterr().out
    assert "SIMULATED" in told and "times faster than real time" in told and "predicted closed" in told


# the real recordings


@real
def test_real_runs_hold_what_the_data_set_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOMAMBA_DATA", str(DATA))
    trials = []
    for fold in range(3):
        task = Eeg("imagery", fold=fold, decimate=8)
        assert task.source == "EEGMMI S001 R04 R08 R12 in folder eegmmi"
        chunk = take(task, "test", batch=1)
        trials.append(torch.bincount(chunk.y[chunk.info["unit"] == 1]).tolist())
    assert [sum(counts) for counts in trials] == [15, 15, 15]
    assert [sum(counts) for counts in zip(*trials, strict=True)] == [23, 22]
    rest = Eeg()
    assert rest.steps("test", batch=1) == 2 * 400 and rest.steps("train", batch=10) == 400
    assert rest._pick(rest._read(1), "").shape == (9600, 3 + 64)
    chunk = take(rest, batch=10)
    assert chunk.info["skipped"].sum() == 0
    assert chunk.info["window"].sum() == 10 * 9


@real
@pytest.mark.parametrize(("number", "counts"), [(4, (8, 7)), (8, (8, 7)), (12, (7, 8))])
def test_real_annotations(number: int, counts: tuple[int, int]) -> None:
    run = read(Path(str(DATA)) / "eegmmi" / f"S001R{number:02d}.edf")
    assert run.signal.shape == (125 * RATE, 64) and tuple(run.channels) == MONTAGE
    texts = [event.text for event in run.events]
    assert len(texts) == 30 and (texts.count("T1"), texts.count("T2")) == counts
    assert all(e.end - e.start in (656, 672) for e in run.events)
