"""The laws of recordings: what libraries wrote is read, labels lie where they were put, splits are apart."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from edfio import Bdf, BdfSignal, Edf, EdfAnnotation, EdfSignal
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from biomamba.cli.main import main
from biomamba.stream import Chunk
from biomamba.tasks.recordings import signal as recordings_signal
from biomamba.tasks.recordings.scores import Decisions
from biomamba.tasks.recordings.task import Recordings
from biomamba.testing import check_task
from sizes import joined, same

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("BIOMAMBA_DATA") or ".")
wfdb, soundfile = pytest.importorskip("wfdb"), pytest.importorskip("soundfile")


def real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (os.environ.get("BIOMAMBA_DATA") and (DATA / name).is_dir()),
        reason=f"BIOMAMBA_DATA names no folder with {name} in it",
    )


def waves(seconds: float, rate: float, channels: int = 2, seed: int = 0) -> NDArray[np.float64]:
    """Return smooth noise (n, c), between -1 and 1 about."""
    random = np.random.default_rng(seed)
    n = round(seconds * rate)
    return np.cumsum(random.normal(size=(n, channels)), axis=0) / (3 * math.sqrt(n))


def whole(own: Recordings, split: str = "train", batch: int = 1, length: int = 50, start: int = 0) -> Chunk:
    return joined(own.stream(split, batch=batch, length=length, seed=0, start=start))


def said(call: object) -> str:
    """Return the error of a call, which must be one line."""
    with pytest.raises((ValueError, OSError, ImportError)) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)
    return str(error.value)


def edf(
    path: Path,
    signal: NDArray[np.float64],
    notes: Sequence[tuple[float, float | None, str]],
    names: Sequence[str] = ("Fp1", "Cz"),
    rate: float = 128,
) -> Path:
    """Write an EDF or BDF file of whole seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, made = (BdfSignal, Bdf) if path.suffix == ".bdf" else (EdfSignal, Edf)
    signals = [
        kind(own, rate, label=name, physical_dimension="mV", physical_range=(-3, 3))
        for name, own in zip(names, signal.T, strict=True)
    ]
    made(signals, annotations=[EdfAnnotation(*note) for note in notes]).write(path)
    return path


NOTES = [(1.0, 2.0, "left"), (4.0, 2.0, "right"), (7.0, 2.0, "left"), (10.0, 2.0, "right"), (12.5, 0.0, "blink")]


def folder_of_edf(folder: Path, count: int = 3, suffix: str = ".edf", rate: float = 128) -> str:
    """Write some files of 14 seconds and return their folder."""
    for i in range(count):
        edf(folder / f"S{i:03d}R01{suffix}", waves(14, rate, seed=i), NOTES, rate=rate)
    return str(folder)


# EDF and BDF


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_edf_and_bdf_are_read_with_their_own_annotations(suffix: str, tmp_path: Path) -> None:
    own = Recordings(folder_of_edf(tmp_path, suffix=suffix), classes=("left", "right"), rate=128)
    assert own.spec._asdict() == {"d_in": 2, "vocab": None, "d_out": 2}
    chunk = whole(own, "test")
    assert chunk.x.shape == (1, 14 * 128, 2) and chunk.reset[0].nonzero().tolist() == [[0]]
    y = chunk.y[0].numpy()
    for start, length, text in NOTES[:4]:
        stretch = slice(round(start * 128), round((start + length) * 128))
        assert set(y[stretch]) == {("left", "right").index(text)}
        assert y[stretch.start - 1] == -1 == y[stretch.stop]
    assert chunk.info["unit"][0].nonzero().flatten().tolist() == [round((s + n) * 128) - 1 for s, n, _ in NOTES[:4]]
    assert torch.equal(chunk.mask, chunk.y >= 0)
    signal = waves(14, 128, seed=2)
    past = np.arange(1, len(signal) + 1)[:, None]
    mean = signal.cumsum(0) / past
    expected = (signal - mean) / np.sqrt(np.maximum((signal**2).cumsum(0) / past - mean**2, 1e-12))
    assert chunk.x[0, 128:].double().numpy() == pytest.approx(expected[128:], abs=0.02)
    assert own.left_out({}) == ["annotations that are of no class: 'blink' 3 times"]
    assert "held out: 1 other file: S002R01" in own.source and own.splits["train"].startswith("2 of 3 files: S000R01")
    blinks = Recordings(str(tmp_path), classes=("left=hand", "right=hand", "blink"), rate=128, decision=0.25)
    assert blinks.meters()["accuracy"].classes == ["hand", "blink"]  # type: ignore[attr-defined]
    y = whole(blinks, "test").y[0].numpy()
    assert np.flatnonzero(y == 1).tolist() == [round(12.75 * 128) - 1]  # an event: one step, when it is decided


def test_channels_are_chosen_common_named_and_of_one_rate(tmp_path: Path) -> None:
    path = folder_of_edf(tmp_path, 2)
    edf(tmp_path / "S009R01.edf", waves(14, 128, 3), NOTES, ("Cz", "Fp1", "EMG"))
    own = Recordings(path, classes=("left", "right"))
    assert own.spec.d_in == 2 and "channels not in every recording: EMG" in own.left_out({})
    one = Recordings(path, classes=("left", "right"), channels=("cz",))
    assert one.spec.d_in == 1 and torch.equal(whole(one, "test").x[..., 0], whole(own, "test").x[..., 1])
    assert "has no channel 'Oz', expected some of Fp1, Cz" in said(lambda: Recordings(path, channels=("Oz",)).spec)
    data = bytearray((tmp_path / "S009R01.edf").read_bytes())
    data[256 + 112 * 4 + 16 : 256 + 112 * 4 + 24] = b"-3      "  # the physical maximum of EMG, of four signals
    (tmp_path / "S009R01.edf").write_bytes(data)
    lines = Recordings(path, classes=("left", "right")).left_out({})
    assert "S009R01.edf, channel EMG left out: its header gives -3 as physical minimum and maximum" in lines
    alone = Recordings(str(tmp_path / "S009R01.edf"), classes=("left", "right"), channels=("EMG",))
    assert "channel EMG: its header gives -3 as physical" in said(lambda: alone.spec)
    signals = [
        EdfSignal(waves(14, r)[:, 0], r, label=n, physical_range=(-3, 3)) for n, r in (("a", 64), ("b", 64), ("c", 32))
    ]
    Edf(signals, annotations=[EdfAnnotation(*note) for note in NOTES]).write(tmp_path / "mixed.edf")
    mixed = Recordings(str(tmp_path / "mixed.edf"), classes=("left", "right"), test_share=0.4)
    assert mixed.spec.d_in == 2 and mixed.left_out({})[0] == "mixed.edf, channel c left out: 32 Hz, not 64"


def test_labels_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    notes = [(0.5, 1.0, "left"), (0.5, 1.0, "right"), (3.0, 0.0, "left"), (13.9, 0.0, "right"), (20.0, 1.0, "left")]
    notes += [(5.0, 0.001, "right")]
    edf(tmp_path / "a.edf", waves(14, 128), notes)
    edf(tmp_path / "b.edf", waves(14, 128), NOTES)
    own = Recordings(str(tmp_path), classes=("left", "right"), test=("b",))
    chunk = whole(own)
    assert chunk.info["unit"].sum() == 3  # of the two that lie on each other one, an event, and a very short one
    lines = own.left_out({})
    assert "2 labels are not used: they lie outside the recording, or are decided after it" in lines
    assert "1 labels are not used: they lie on the steps of later ones" in lines


@pytest.mark.parametrize("rate, steps", [(128, 128), (128, 50), (250, 64), (1000, 33.3)])
def test_steps_at_any_rate_see_nothing_later(rate: int, steps: float, tmp_path: Path) -> None:
    signal = waves(14, rate)
    own = []
    for name, changed in (("a", 0.0), ("b", 1.0)):
        signal[round(8 * rate) :] += changed
        edf(tmp_path / name / "one.edf", signal, NOTES, rate=rate)
        edf(tmp_path / name / "two.edf", waves(14, rate, seed=5), NOTES, rate=rate)
        own.append(
            whole(Recordings(str(tmp_path / name), classes=("left", "right"), rate=steps, test=("one",)), "test")
        )
    until = math.floor(8 * steps)
    assert own[0].x.shape[1] == math.floor(14 * steps)
    assert torch.equal(own[0].x[:, :until], own[1].x[:, :until]) and not torch.equal(own[0].x, own[1].x)
    assert torch.equal(own[0].y, own[1].y)


def test_blocks_and_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder_of_edf(tmp_path)
    own = Recordings(path, classes=("left", "right"), rate=30, passes=2)
    one = whole(own, batch=2)
    for length, start in ((1, 0), (7, 13), (1000, 420)):
        assert same(whole(own, batch=2, length=length, start=start), one.between(start))
    monkeypatch.setattr(recordings_signal, "BLOCK", 11)
    assert same(whole(own, batch=2), one)
    check_task(Recordings(path, classes=("left", "right"), rate=30), steps=300)


def test_splits_by_file_person_and_time_are_apart(tmp_path: Path) -> None:
    for person in range(3):
        for run in range(2):
            edf(tmp_path / f"S{person}R{run}.edf", waves(14, 128, seed=7 * person + run), NOTES)
    options = {"classes": ("left", "right"), "rate": 20.0}
    person = Recordings(str(tmp_path), hold_out="person", person="(S[0-9])R", **options)  # type: ignore[arg-type]
    assert person.splits == {"train": "2 of 3 persons: S0, S1", "test": "1 other person: S2"}
    assert person.steps("test", batch=1) == 2 * 14 * 20
    assert set(person.parts("train")) == {"S0", "S1"} and person.parts("test") == {}
    part = person.parts("train")["S1"]
    assert joined(part.stream("train", batch=1, length=50, seed=0)).x.shape[1] == 2 * 14 * 20
    named = Recordings(str(tmp_path), test=("S1R0", "S0R1.edf"), **options)  # type: ignore[arg-type]
    assert named.splits["test"] == "2 other files: S0R1.edf, S1R0.edf"
    assert "there is no file 'S7'" in said(lambda: Recordings(str(tmp_path), test=("S7",), **options).splits)  # type: ignore[arg-type]
    time = Recordings(str(tmp_path), hold_out="time", test_share=0.4, **options)  # type: ignore[arg-type]
    assert time.splits["test"] == "the last 40% of each recording's time"
    assert time.steps("train", batch=1) == 6 * 167 and whole(time, "test").reset.sum() == 6  # of 14 s, 1,075 samples
    assert [whole(time, split).info["unit"].sum() for split in ("train", "test")] == [18, 6]
    alone = Recordings(str(tmp_path / "S0R0.edf"), test_share=0.4, **options)  # type: ignore[arg-type]
    assert alone.splits["train"] == "the first 60% of each recording's time"
    lost = Recordings(str(tmp_path), hold_out="person", person="X([0-9])", **options)  # type: ignore[arg-type]
    assert "person: 'X([0-9])' finds nothing in 'S0R0.edf'" in said(lambda: lost.spec)


# WFDB

SYMBOLS = ["N", "V", "N", "A", "+", "N", "V", "~", "N", "N"]


def record(folder: Path, name: str, kind: str = "16", rate: float = 100, seed: int = 0) -> None:
    """Write a record of 12 seconds with a beat or another annotation every second."""
    folder.mkdir(parents=True, exist_ok=True)
    signal = waves(12, rate, seed=seed) * (100 if kind == "80" else 400)
    digital = np.clip(np.round(signal), -120, 120).astype(np.int64)
    wfdb.wrsamp(
        name, rate, ["mV", "mV"], ["MLII", "V1"], d_signal=digital, fmt=[kind] * 2, adc_gain=[200.0] * 2,
        baseline=[0, 0], write_dir=str(folder),
    )  # fmt: skip
    notes = ["(AFIB" if symbol == "+" else "" for symbol in SYMBOLS]
    at = np.round(np.arange(1, 11) * rate).astype(int)
    wfdb.wrann(name, "atr", at, SYMBOLS, aux_note=notes, write_dir=str(folder))


@pytest.mark.parametrize("kind", ["16", "24", "32", "80", "212"])
@pytest.mark.parametrize("rate", [100, 360, 62.5])
def test_wfdb_records_of_any_format_and_rate(kind: str, rate: float, tmp_path: Path) -> None:
    for i, name in enumerate(("r1", "r2")):
        record(tmp_path, name, kind, rate, seed=i)
    own = Recordings(str(tmp_path), rate=50, test=("r2",), classes=("N", "A=S", "V"), channels=("v1",))
    chunk = whole(own, "test")
    assert own.meters()["accuracy"].classes == ["N", "S", "V"]  # type: ignore[attr-defined]
    at = chunk.y[0] >= 0
    beats = [symbol for symbol in SYMBOLS if symbol in "NAV"]
    assert [("N", "A", "V")[i] for i in chunk.y[0, at].tolist()] == beats
    times = [t for t, symbol in enumerate(SYMBOLS, start=1) if symbol in "NAV"]
    assert at.nonzero().flatten().tolist() == pytest.approx([(t + 0.35) * 50 - 1 for t in times], abs=1)
    lines = own.left_out({})
    assert lines == ["annotations that are of no class: '(AFIB' 2 times, '~' 2 times"]
    usual = Recordings(str(tmp_path), test=("r2",))
    assert usual.meters()["accuracy"].classes == ["A", "N", "V"]  # type: ignore[attr-defined]


def test_damaged_wfdb_records_are_one_line(tmp_path: Path) -> None:
    def spoiled(name: str, change: object) -> str:
        folder = tmp_path / name
        record(folder, "r1")
        change(folder)  # type: ignore[operator]
        return said(lambda: Recordings(str(folder)).spec)

    def flip(folder: Path) -> None:
        data = bytearray((folder / "r1.dat").read_bytes())
        data[700] ^= 4
        (folder / "r1.dat").write_bytes(data)

    def header(old: str, new: str) -> object:
        return lambda folder: (folder / "r1.hea").write_text((folder / "r1.hea").read_text().replace(old, new, 1))

    assert "r1.hea: the checksum of MLII is" in spoiled("flipped", flip)
    assert "bytes, expected 4,800, as r1.hea says" in spoiled("cut", lambda f: os.truncate(f / "r1.dat", 4000))
    assert "no file" in spoiled("none", lambda f: (f / "r1.atr").unlink())
    assert "0 bytes, expected 1 to" in spoiled("empty", lambda f: os.truncate(f / "r1.atr", 0))
    often = b"\x68\x05" * 4000  # a beat every 0.8 s, eight thousand bytes of 12 s
    assert "8,000 bytes, expected 1 to 7,168 of 12 s" in spoiled("often", lambda f: (f / "r1.atr").write_bytes(often))
    assert "bytes, expected 4,000,000,000," in spoiled("long", header(" 1200", " 1000000000"))
    assert "at 0 Hz, expected a recording" in spoiled("rate", header(" 100 ", " 0 "))
    assert "format 16, 508, expected one of" in spoiled("format", header("r1.dat 16", "r1.dat 508"))
    assert "r1.hea: wfdb cannot read it" in spoiled("path", header("r1.dat", "../r1.dat"))


def test_a_code_of_an_annotation_that_nobody_knows_is_counted(tmp_path: Path) -> None:
    for name in ("r1", "r2"):
        record(tmp_path, name)
        codes = [(55, 100), (1, 100), (5, 100), (1, 100), (5, 100)]  # 55: unknown; N and V
        words = b"".join((code << 10 | wait).to_bytes(2, "little") for code, wait in codes)
        (tmp_path / f"{name}.atr").write_bytes(words + b"\0\0")
    own = Recordings(str(tmp_path), test=("r2",), rate=50)
    assert whole(own, "test").info["unit"].sum() == 4
    assert own.left_out({}) == ["annotations that are of no class: 'nan' 2 times"]


# sound


def tone(path: Path, hertz: float, seconds: float = 0.6, rate: int = 8000, seed: int = 0) -> None:
    """Write a tone in some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * time) + noise, rate)


def tones(folder: Path, suffix: str = ".wav", count: int = 5) -> str:
    for i in range(count):
        for name, hertz in (("low", 300.0), ("high", 1500.0)):
            tone(folder / name / f"{i}{suffix}", hertz, 0.4 + 0.1 * i, seed=i)
    return str(folder)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_folder_a_class(suffix: str, tmp_path: Path) -> None:
    path = tones(tmp_path, suffix)
    tone(tmp_path / f"stray{suffix}", 100.0)
    own = Recordings(path)
    assert own.spec._asdict() == {"d_in": 80, "vocab": None, "d_out": 2}
    assert own.splits["test"] == f"2 other files: high/4{suffix}, low/4{suffix}"
    assert own.left_out({}) == [f"stray{suffix} left out: it lies in no subfolder, which would be its class"]
    chunk = whole(own, "test")
    assert chunk.reset.sum() == 2 and chunk.info["unit"].sum() == 2 and chunk.y[0].unique().tolist() == [0, 1]
    assert chunk.x[0].isfinite().all() and own.step_seconds == pytest.approx(0.02)
    plain = Recordings(path, features="signal", rate=1000)
    assert plain.spec.d_in == 1 and plain.steps("test", batch=1) == 2 * 800
    tone(tmp_path / "low" / f"9{suffix}", 300.0, rate=16000)
    assert "mel takes one channel at one rate, got" in said(lambda: Recordings(path).spec)


def test_long_sounds_are_read_in_blocks_and_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tones(tmp_path)
    tone(tmp_path / "low" / "long.wav", 300.0, 5.03)
    one = whole(Recordings(path), batch=2)
    longest = []
    read = soundfile.read
    monkeypatch.setattr(
        soundfile, "read", lambda *given, **named: longest.append(named["frames"]) or read(*given, **named)
    )
    monkeypatch.setattr(recordings_signal, "BLOCK", 7)
    two = whole(Recordings(path), batch=2)
    assert max(longest) <= 13 * 80 + 200
    assert torch.equal(one.y, two.y) and one.x.numpy() == pytest.approx(two.x.numpy(), abs=2e-3)


def test_a_sound_that_claims_more_samples_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tones(tmp_path, ".flac")
    assert Recordings(path).spec.d_in == 80  # control
    file = tmp_path / "low" / "0.flac"
    data = bytearray(file.read_bytes())
    for at in range(22, 26):  # the lower bytes of the number of samples in STREAMINFO
        data[at] = 0x7F
    file.write_bytes(data)
    assert said(lambda: Recordings(path).spec).startswith("low/0.flac: ")  # by libsndfile's words or by ours


def test_a_table_of_file_start_end_and_label(tmp_path: Path) -> None:
    for name, hertz in (("a", 300.0), ("b", 1500.0), ("c", 300.0)):
        tone(tmp_path / "sounds" / f"{name}.wav", hertz, 2.0)
    rows = [
        "file,start,end,label",
        "a.wav,0.5,1.0,low",
        "a.wav,1,1.5,none",
        "b.wav,,,high",
        "c.wav,1.5,,low",
        "c.wav,,1,",
    ]
    (tmp_path / "sounds" / "labels.csv").write_text("\n".join(rows))
    own = Recordings(str(tmp_path / "sounds"), test=("c",))
    assert own.meters()["accuracy"].classes == ["high", "low", "none"]  # type: ignore[attr-defined]
    assert own.left_out({}) == ["labels.csv, row 6 left out: it has no label"]
    assert whole(own, "test").x.shape[1] == 24 and whole(own).reset.sum() == 3  # a class none is a class; half a second
    for bad, line in (
        ("a.wav,0.5,3.0,low", "0.5 to 3 s of 2 s, expected a stretch"),
        ("../a.wav,,,low", "expected a file inside"),
        ("d.wav,,,low", "no file"),
        ("a.wav,x,,low", "got 'x', expected seconds"),
        ("a.wav,,inf,low", "got 'inf', expected seconds"),
        ("a.wav,nan,0.2,low", "got 'nan', expected seconds"),
        ("a.wav,-1,0.2,low", "got '-1', expected seconds"),
        ("a.wav,0.1,1e308,low", "0.1 to 1e+308 s of 2 s, expected a stretch"),
    ):
        (tmp_path / "sounds" / "labels.csv").write_text("\n".join([*rows[:2], bad]))
        assert line in said(lambda: Recordings(str(tmp_path / "sounds" / "labels.csv")).spec)
    (tmp_path / "sounds" / "labels.csv").write_text("sound,what\na.wav,low\n")
    assert "no column file or path or filename" in said(lambda: Recordings(str(tmp_path / "sounds")).spec)


def test_a_damaged_sound_is_one_line(tmp_path: Path) -> None:
    path = tones(tmp_path)
    (tmp_path / "low" / "7.wav").write_bytes(b"RIFF nothing")
    assert "low/7.wav: no sound file that can be read" in said(lambda: Recordings(path).spec)


# windows and data sets


def windows(count: int = 20, steps: int = 30, channels: int = 3) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Return windows whose class, a word, is which channel swings, and their classes."""
    kinds = np.arange(count) % 2
    x = np.random.default_rng(0).normal(size=(count, steps, channels)) * 0.3 + [100.0, 0.0, -5.0][:channels]
    for i, kind in enumerate(kinds):
        x[i, :, kind] += np.sin(np.arange(steps))
    return x, np.array(["rest", "01"])[kinds]


def test_windows_with_words_as_labels_and_a_reset_each(tmp_path: Path) -> None:
    x, y = windows()
    np.savez(tmp_path / "w.npz", x=x, y=y)
    own = Recordings(str(tmp_path / "w.npz"))
    assert own.meters()["accuracy"].classes == ["01", "rest"]  # type: ignore[attr-defined]
    chunk = whole(own, "test")
    assert chunk.x.shape == (1, 4 * 30, 3) and chunk.reset[0].nonzero().flatten().tolist() == [0, 30, 60, 90]
    assert chunk.y[0, ::30].tolist() == [1, 0, 1, 0] and own.step_seconds is None
    assert abs(float(chunk.x.mean())) < 0.2 and 0.8 < float(chunk.x.std()) < 1.2  # scaled by those learned from
    assert own.splits["test"] == "4 other windows: window 16, window 17, window 18, window 19"
    for name, array in (("x", x), ("y", y[:, None])):
        (tmp_path / "npy").mkdir(exist_ok=True)
        np.save(tmp_path / "npy" / f"{name}.npy", array)
    assert same(whole(Recordings(str(tmp_path / "npy")), "test"), chunk)
    np.savez(tmp_path / "turned.npz", x=x.transpose(0, 2, 1), y=y)
    assert same(whole(Recordings(str(tmp_path / "turned.npz"), time_axis=2), "test"), chunk)
    assert "look like (n, channels, time), which --task.time_axis 2" in said(
        lambda: Recordings(str(tmp_path / "turned.npz")).spec
    )
    np.savez(tmp_path / "who.npz", x=x, y=y, person=np.arange(20) // 5)
    who = Recordings(str(tmp_path / "who.npz"), hold_out="person")
    assert who.splits["test"] == "1 other person: 3" and whole(who, "test").reset.sum() == 5
    x[3, 4, 1] = np.nan
    np.savez(tmp_path / "nan.npz", x=x, y=y)
    gaps = whole(Recordings(str(tmp_path / "nan.npz")))
    assert gaps.info["skipped"].sum() == 1 and (~gaps.mask).sum() == 1 and gaps.x.isfinite().all()
    np.savez(tmp_path / "few.npz", x=x, y=y[:3])
    assert "y has the shape (3,), expected (20,)" in said(lambda: Recordings(str(tmp_path / "few.npz")).spec)


def test_data_sets_of_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    x, y = windows()
    features = datasets.Features(
        {
            "steps": datasets.List(datasets.List(datasets.Value("float64"))),
            "label": datasets.ClassLabel(names=["rest", "01"]),
        }
    )
    rows = {"steps": x.tolist(), "label": [str(own) for own in y]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "sequences")
    np.savez(tmp_path / "w.npz", x=x, y=y)
    own, plain = Recordings(str(tmp_path / "sequences")), Recordings(str(tmp_path / "w.npz"))
    assert same(whole(own, "test"), whole(plain, "test")) and same(whole(own, batch=3), whole(plain, batch=3))
    tones(tmp_path / "tones")
    files = sorted((tmp_path / "tones").rglob("*.wav"))
    sounds = {"audio": [{"bytes": file.read_bytes(), "path": None} for file in files]}
    sounds |= {"label": [file.parent.name for file in files], "speaker": [file.stem for file in files]}
    spoken = datasets.Dataset.from_dict(sounds).cast_column("audio", datasets.Audio(decode=False))
    spoken = spoken.cast_column("audio", datasets.Audio())
    datasets.DatasetDict({"train": spoken.select(range(8)), "test": spoken.select([8, 9])}).save_to_disk(
        tmp_path / "sounds"
    )
    own = Recordings(str(tmp_path / "sounds"))
    assert own.splits["test"] == "split test, as the data set gives it" and own.spec.d_in == 80
    assert whole(own, "test").info["unit"].sum() == 2
    people = Recordings(str(tmp_path / "sounds"), hold_out="person", test=("speaker 4",))
    assert same(
        whole(people, "test"), whole(Recordings(str(tmp_path / "tones"), test=("high/4.wav", "low/4.wav")), "test")
    )
    assert "no column nothing, expected one of" in said(
        lambda: Recordings(str(tmp_path / "sounds"), columns=("nothing",)).spec
    )
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'pip install "biomamba[lm]"' in said(lambda: Recordings(str(tmp_path / "sounds")).spec)


# scores, runs, errors


def test_a_decision_is_the_largest_sum_of_log_p_over_the_steps_of_a_label() -> None:
    random = torch.Generator().manual_seed(0)
    out = torch.randn(2, 40, 3, generator=random, dtype=torch.float64)
    unit = torch.zeros(2, 40, dtype=torch.int64)
    unit[:, 9::10] = 1
    y = torch.arange(40).div(10, rounding_mode="floor").expand(2, 40) % 3
    mask = torch.rand(2, 40, generator=random) < 0.6
    mask[1, 20:30] = False  # nothing of this one can be scored
    chunk = Chunk(out, y, mask, torch.zeros_like(mask), {"unit": unit})
    logs = out.log_softmax(-1)
    expected = [
        (int((logs[r, a : a + 10] * mask[r, a : a + 10, None]).sum(0).argmax()), int(y[r, a]))
        for r in range(2) for a in range(0, 40, 10) if mask[r, a : a + 10].any()
    ]  # fmt: skip
    for lengths in ((40,), (7,) * 6, (1,) * 40):
        meter, at = Decisions(["a", "b", "c"]), 0
        for length in lengths:
            saved, meter = json.loads(json.dumps(meter.state_dict())), Decisions(["a", "b", "c"])
            meter.load_state_dict(saved)
            meter.update(out[:, at : at + length], chunk.between(at, at + length))
            at += length
        counts = Counter((true, guess) for guess, true in expected)
        assert meter.matrix.tolist() == [[counts[i, j] for j in range(3)] for i in range(3)]
        assert meter.balanced_accuracy() == pytest.approx(
            balanced_accuracy_score([true for _, true in expected], [guess for guess, _ in expected])
        )


def test_the_label_before_knows_the_past_alone(tmp_path: Path) -> None:
    own = Recordings(folder_of_edf(tmp_path), classes=("left", "right"), rate=20)
    scores = own.baseline("test", batch=1, seed=0)
    assert scores["last_label"]["accuracy"]["all"] == 0.25  # left right left right: right for the first alone
    assert scores["majority"]["accuracy"]["all"] == 0.5


TINY = ["--config", str(ROOT / "configs" / "recordings.yaml"), "--model.d_model", "16", "--model.d_state", "4"]
TINY += ["--run.report_every", "100000", "--stream.batch", "4"]


def test_tones_are_learned_saved_and_scored_on_files_that_were_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--task.path",
        tones(tmp_path / "tones", count=10),
        "--task.passes",
        "6",
        "--run.dir",
        str(tmp_path / "run"),
    ]
    assert main(["train", *TINY, *words]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["scores"]["balanced_accuracy"]["held_out"] == 1.0
    assert summary["baselines"]["majority"]["balanced_accuracy"]["held_out"] == 0.5
    assert summary["confusion"]["accuracy"]["classes"] == ["high", "low"]
    assert main(["evaluate", str(tmp_path / "run"), "--each"]) == 0
    out = capsys.readouterr().out
    assert "held out: 4 other files: high/4.wav, high/9.wav, low/4.wav, low/9.wav" in out and "each by itself" in out


def test_what_holds_no_recordings_says_what_it_might_hold(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing")
    assert re.search(r"holds \.md, expected EDF, BDF, WFDB", said(lambda: Recordings(str(tmp_path)).spec))
    assert "no file or folder" in said(lambda: Recordings(str(tmp_path / "lost")).spec)
    path = folder_of_edf(tmp_path / "edf", 2)
    assert "no recording says 'T1', expected some of blink, left, right" in said(
        lambda: Recordings(path, classes=("T1", "T2")).spec
    )
    assert "expected at most 128, the rate of S000R01.edf" in said(lambda: Recordings(path, rate=500).spec)
    data = (tmp_path / "edf" / "S000R01.edf").read_bytes()
    (tmp_path / "edf" / "S000R01.edf").write_bytes(data[:-200])
    assert "it is cut short or its header is wrong" in said(lambda: Recordings(path).spec)
    assert said(lambda: Recordings(test_share=0.9)).startswith("test_share is 0.9")
    assert "SIMULATED" in Recordings().source


def test_nothing_scored_is_an_error_that_names_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder_of_edf(tmp_path / "edf", 2)
    words = [
        "--task.path",
        path,
        "--task.classes",
        "left",
        "right",
        "--task.hold_out",
        "time",
        "--task.test_share",
        "0.05",
    ]
    assert main(["train", *TINY, *words, "--run.dir", str(tmp_path / "run")]) == 2
    assert "split test: no step of its 2 recordings has a label" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# the page


@pytest.mark.slow
def test_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "recordings.md").read_text()
    monkeypatch.chdir(tmp_path)
    for name, code in re.findall(r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code)
    for line in "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines():
        words = shlex.split(line.replace("configs/recordings.yaml", str(ROOT / "configs" / "recordings.yaml")))
        if words[1] == "train.py":
            assert main(words[2:]) == 0
        else:
            subprocess.run([sys.executable, *words[1:]], check=True)
    out = capsys.readouterr().out
    assert re.findall(r"^recordings: 20 sounds.*$", text, re.MULTILINE)[0] in out and "each by itself" in out


# real data


@real("eegmmi")
def test_real_eeg_by_its_own_annotations(tmp_path: Path) -> None:
    for run in ("04", "08", "12"):
        shutil.copy(DATA / "eegmmi" / f"S001R{run}.edf", tmp_path)
    own = Recordings(str(tmp_path), classes=("T1=left", "T2=right"), channels=("C3", "Cz", "C4"), test=("S001R12",))
    counts = torch.stack([whole(own, split).info["unit"].sum() for split in ("train", "test")]).tolist()
    assert counts == [30, 15] and own.left_out({}) == ["annotations that are of no class: 'T0' 45 times"]


@real("mitdb")
def test_real_ecg_by_its_beats(tmp_path: Path) -> None:
    for name in ("100", "200"):
        for suffix in (".hea", ".dat", ".atr"):
            shutil.copy(DATA / "mitdb" / f"{name}{suffix}", tmp_path)
    own = Recordings(str(tmp_path), channels=("MLII",), classes=("N", "V", "A=S"), rate=60, test=("200",))
    chunk = whole(own, "test", length=4096)
    told = wfdb.rdann(str(tmp_path / "200"), "atr")
    wanted = Counter(symbol for symbol in told.symbol if symbol in "NVA")
    assert chunk.info["unit"].sum() in (wanted.total(), wanted.total() - 1)  # the last may be decided after the end
    assert any(line.startswith("annotations that are of no class") for line in own.left_out({}))


@real("fsdd")
def test_real_digits_by_a_table_and_by_speaker(tmp_path: Path) -> None:
    rows = ["file,label,speaker"]
    for file in sorted((DATA / "fsdd" / "recordings").glob("[01]_*_[0-3].wav")):
        shutil.copy(file, tmp_path)
        digit, speaker, _ = file.stem.split("_")
        rows.append(f"{file.name},{digit},{speaker}")
    (tmp_path / "digits.csv").write_text("\n".join(rows))
    own = Recordings(str(tmp_path), hold_out="person", test=("theo",))
    assert own.splits["test"] == "1 other person: theo" and whole(own, "test").info["unit"].sum() == 8
    assert own.spec.d_out == 2 and len(own.parts("train")) >= 4
