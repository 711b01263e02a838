"""The laws of the speech tasks: causal features, labels that stay out of the input, CTC by chunks, files that lie."""

import itertools
import json
import math
import os
import shutil
import socket
import struct
import sys
import tarfile
import tracemalloc
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from biomamba import Learner, Model, checkpoint, evaluate, online
from biomamba.cli.main import main
from biomamba.experiment.files import CONFIGS
from biomamba.rules import RULES, LearningRule
from biomamba.stream import Chunk, StatefulStream, Task
from biomamba.tasks.common import files
from biomamba.tasks.speech import augment, ctc
from biomamba.tasks.speech import files as corpora
from biomamba.tasks.speech import signal as audio
from biomamba.tasks.speech.augment import Augmentation
from biomamba.tasks.speech.scores import (
    AGAIN,
    FIRST,
    LETTERS,
    SYMBOLS,
    Transcripts,
    spelled,
)
from biomamba.tasks.speech.simulated import Simulated
from biomamba.tasks.speech.task import Speech
from biomamba.tasks.speech.task_ctc import SpeechCTC
from sizes import joined, same

DATA = os.environ.get("BIOMAMBA_DATA")
real = pytest.mark.skipif(not DATA, reason="BIOMAMBA_DATA does not say where recorded speech is")
TINY = {"d_model": 8, "d_state": 2, "headdim": 4}


@pytest.mark.parametrize("count", [1, 2, 3, 397, 16000])
def test_an_augmented_wave_has_as_many_samples_as_it_says(count: int) -> None:
    wave = torch.full((count,), 0.1)
    for seed in range(20):
        change = Augmentation.drawn(np.random.default_rng(seed), 1.0, augment.KINDS)
        made = change.wave(wave, 16000)
        assert made.shape == (change.samples(count, 16000),) and bool(made.isfinite().all())
        assert torch.equal(made, change.wave(wave, 16000))  # drawn once
    assert Augmentation.drawn(np.random.default_rng(0), 0.0).wave(wave, 16000) is wave


def test_a_shift_is_silence_before_a_word_or_part_of_it_lost() -> None:
    wave = torch.arange(1.0, 401)
    later, earlier = (Augmentation(shift=shift, strength=1.0, kinds=()).wave(wave, 8000) for shift in (0.01, -0.01))
    assert torch.equal(later, torch.cat([torch.zeros(80), wave])) and torch.equal(earlier, wave[80:])


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_noise_of_any_colour_has_unit_variance_and_its_slope(power: float) -> None:
    class Fixed(np.random.Generator):
        def uniform(self, *given: Any) -> float:  # type: ignore[override]
            return power

    rng, spectra = Fixed(np.random.PCG64(0)), []
    for _ in range(200):
        made = augment.coloured(4096, rng)
        assert 0.3 < float(made.std()) < 2
        spectra.append(torch.fft.rfft(made).abs().square())
    mean = torch.stack(spectra).mean(0)
    f = torch.arange(20, 1500)
    x, y = f.log() - f.log().mean(), mean[f].log()
    assert float((x * y).sum() / x.square().sum()) == pytest.approx(-2 * power, abs=0.1)


def test_each_kind_of_variation_changes_something_and_no_other_kind() -> None:
    wave, features = torch.randn(8000), torch.randn(50, 40)

    def made(*kinds: str) -> tuple[Any, ...]:
        change = Augmentation.drawn(np.random.default_rng(3), 1.0, kinds)
        return change.wave(wave, 8000), change.bands(features)

    assert torch.equal(made()[0], wave) and torch.equal(made()[1], features)
    for kind in augment.KINDS:
        heard, seen = made(kind)
        assert torch.equal(seen, features) == (kind not in ("formants", "masks"))
        assert torch.equal(heard, wave) == (kind in ("formants", "masks"))
    scale = made("gain")[0] / wave
    torch.testing.assert_close(scale, scale[:1].expand_as(scale))
    torch.testing.assert_close(made("gain", "noise")[0] - made("gain")[0], made("noise")[0] - wave)
    with pytest.raises(ValueError, match="vary: got 'pitch', expected one of speed, shift"):
        Speech(vary=("pitch",))


def test_formants_move_by_the_factor_and_not_at_one() -> None:
    features = torch.arange(40.0).repeat(3, 1)
    assert torch.equal(augment.moved(features, 1.0), features)
    torch.testing.assert_close(augment.moved(features, 1.1), (1.1 * features).clamp(max=39))
    torch.testing.assert_close(augment.moved(features, 0.9), 0.9 * features)


@pytest.mark.parametrize("task", [Speech(simulate=True), SpeechCTC(simulate=True)], ids=["words", "spelling"])
def test_folds_share_no_speaker_and_cover_the_training_split(task: Any) -> None:
    def listed(task: Any, split: str) -> list[Any]:
        return list(task.utterances(split) if isinstance(task, SpeechCTC) else task._utterances(split))

    whole, seen = listed(task, "train"), []
    for fold in range(4):
        own = replace(task, fold=fold)
        kept, valid = listed(own, "train"), listed(own, "valid")
        assert own.held_out == "valid" and valid and task.held_out == "test"
        assert not {one.speaker for one in kept} & {one.speaker for one in valid}
        assert [one for one in whole if one in kept or one in valid] == whole
        assert listed(own, "test") == listed(task, "test")
        seen += valid
    assert sorted(map(str, seen)) == sorted(map(str, whole))
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=f"fold is {wrong}, expected 0 to 3, or null"):
            replace(task, fold=wrong)


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def corpus(folder: Path, labels: str = "0123456789") -> Path:
    """Write FSDD in little: of each of two speakers six takes of every digit; `labels` says what each is called."""
    (folder / "recordings").mkdir(parents=True)
    for digit, speaker, index in itertools.product(range(10), ("ann", "bob"), range(3, 9)):
        wave = noise(0.1 + 0.01 * digit, 8000, seed=digit * 100 + index + 50 * (speaker == "bob"))
        soundfile.write(folder / "recordings" / f"{labels[digit]}_{speaker}_{index}.wav", wave, 8000, "PCM_16")
    return folder


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# features


@pytest.mark.parametrize("rate", [8000, 16000])
def test_features_do_not_look_ahead(rate: int) -> None:
    wave = torch.from_numpy(noise(0.5, rate)).float()
    features = audio.normalised(audio.log_mel(wave, rate))
    assert features.shape == (audio.frames(len(wave), rate), audio.BANDS) == (48, 40)
    heard = round(audio.WIN * rate) + 20 * round(audio.HOP * rate)  # the samples of frames 0 to 20
    other = torch.cat([wave[:heard], 5 * torch.randn(len(wave) - heard)])
    changed = audio.normalised(audio.log_mel(other, rate))
    assert torch.equal(features[:21], changed[:21])
    assert not torch.isclose(features[21:], changed[21:]).all(1).any()  # control: the rest does hear the change
    shorter = audio.normalised(audio.log_mel(wave[:heard], rate))
    assert torch.allclose(shorter, features[:21], atol=1e-6)  # and is known once its last sample is


def test_mel_bands_are_those_of_a_well_kept_library() -> None:
    theirs = mel_filter_bank(513, audio.BANDS, 20.0, 8000.0, 16000, mel_scale="htk")
    assert np.allclose(audio.mel_bands(16000, 1024).numpy(), theirs, atol=1e-5)
    assert (audio.mel_bands(8000, 512).sum(0) > 0).all()  # no band falls between two frequencies


def test_running_normalisation_is_mean_and_deviation_so_far() -> None:
    features = 3 * torch.randn(30, audio.BANDS) - 4
    prior = audio.PRIOR
    for f in (0, 7, 29):
        seen = features[: f + 1].double()
        mean = (prior * audio.USUAL + seen.sum(0)) / (prior + f + 1)
        square = (prior * (audio.USUAL**2 + audio.SPREAD**2) + seen.square().sum(0)) / (prior + f + 1)
        expected = (features[f] - mean) / (square - mean**2).sqrt()
        assert torch.allclose(audio.normalised(features)[f], expected.float(), atol=1e-5)


@pytest.mark.parametrize("count", [1, 199, 200, 280, 281, 8000])
def test_every_length_gives_the_steps_it_was_said_to(count: int) -> None:
    features = audio.log_mel(torch.randn(count), 8000)
    assert len(features) == audio.frames(count, 8000)
    assert len(audio.stacked(features, 3)) == audio.steps(count, 8000, 3)


# words


def test_labels_do_not_reach_the_input(tmp_path: Path) -> None:
    plain = Speech(path=str(corpus(tmp_path / "a")))
    renamed = Speech(path=str(corpus(tmp_path / "b", labels="1234567890")))
    for one, other in zip(*(task._utterances("train") for task in (plain, renamed)), strict=True):
        assert one.text == other.text  # in the order of their names, so that 9 of one is 0 of the other
    by_sound = [joined(task.stream("test", batch=60, length=50, seed=0)) for task in (plain, renamed)]
    order = [torch.argsort(chunk.x.flatten(1).sum(1)) for chunk in by_sound]
    (x, y), (other_x, other_y) = ((c.x[o], c.y[o]) for c, o in zip(by_sound, order, strict=True))
    assert torch.equal(x, other_x)
    assert torch.equal(torch.where(y >= 0, (y + 1) % 10, -1), other_y)


@pytest.mark.parametrize("task", [Speech(simulate=True, passes=2, augment=1.0), Speech(simulate=True, stack=3)])
def test_words_lie_one_after_another(task: Speech) -> None:
    total = task.steps("train", batch=4, seed=1)
    whole = joined(task.stream("train", batch=4, length=total, seed=1))
    assert whole.x.shape == (4, total, 40 * task.stack)
    ends = whole.info["last"]
    assert ends.sum() == len(task._utterances("train")) * task.passes
    words = whole.y
    assert torch.equal(torch.bincount(words[ends]), torch.full((10,), 48 * task.passes))
    begins = whole.reset & (words >= 0)
    assert begins.sum() == ends.sum()
    assert torch.equal(begins[:, 1:], (ends[:, :-1] & (words[:, 1:] >= 0)))  # a reset after every end
    assert (whole.mask == (words >= 0)).all()
    parts = joined(islice(task.stream("train", batch=4, length=7, seed=1), 40))
    late = joined(islice(task.stream("train", batch=4, length=64, seed=1, start=100), 3))
    assert same(whole.between(0, 280), parts)
    assert same(whole.between(100, 292), late)
    other = joined(islice(task.stream("train", batch=4, length=50, seed=2), 1))
    assert not torch.equal(other.x, whole.x[:, :50])  # control


def test_loss_at_the_end_or_at_every_frame() -> None:
    every, end = (Speech(simulate=True, loss_at=at) for at in ("every", "end"))
    chunk, ends = (next(task.stream("train", batch=2, length=200, seed=0)) for task in (every, end))
    out = torch.randn(2, 200, 10)
    each = F.cross_entropy(out.transpose(1, 2), chunk.y, reduction="none")
    assert torch.allclose(every.loss(out, chunk), (each * chunk.info["weight"]).mean())
    assert torch.allclose(end.loss(out, ends), each[chunk.info["last"]].sum() / 2)
    assert torch.equal(ends.mask, chunk.info["last"])
    none = chunk._replace(mask=torch.zeros_like(chunk.mask))
    held = out.clone().requires_grad_()
    every.loss(held, none).backward()
    assert held.grad is not None and not held.grad.any()


def test_words_are_scored_at_their_end() -> None:
    task = Speech(simulate=True)
    chunk = joined(task.stream("test", batch=3, length=50, seed=0))
    ends = chunk.info["last"]
    right = F.one_hot(chunk.y.clamp(min=0), 10).float()
    meters = task.meters()
    for meter in meters.values():
        meter.update(torch.where(ends[..., None], right, -right), chunk)
    assert meters["accuracy"].get() == 1
    assert meters["running"].get() == pytest.approx(float(ends.sum() / (chunk.y >= 0).sum()))
    assert task.baseline("test", batch=3, seed=0)["commonest_word"]["accuracy"]["all"] == 0.1


def test_a_simulated_word_can_be_learned() -> None:
    task = Speech(simulate=True, passes=4, stack=2)
    torch.manual_seed(0)
    model = Model(d_in=80, d_out=10, d_model=16, d_state=4, headdim=4)
    for report in evaluate(task.stream("test", batch=8, length=16, seed=0), task, model):
        before = report.scores["accuracy"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in online(
        task.stream("train", batch=8, length=16, seed=0), Learner(task, model, RULES["rtrl"](model.blocks), optimizer)
    ):
        pass
    for report in evaluate(task.stream("test", batch=8, length=16, seed=0), task, model):
        after = report.scores["accuracy"]
    assert before < 0.3 < 0.8 < after


# corpora


def test_fsdd_is_split_by_index_or_by_speaker(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    train_, test = (corpora.fsdd(folder, split, None) for split in ("train", "test"))
    assert (len(train_), len(test)) == (80, 40)
    assert {int(one.file.stem.split("_")[2]) for one in test} == {3, 4}
    held = corpora.fsdd(folder, "test", "bob")
    assert {one.speaker for one in held} == {"bob"} and len(held) == 60
    assert {one.speaker for one in corpora.fsdd(folder, "train", "bob")} == {"ann"}
    with pytest.raises(ValueError, match="speaker is 'eve', expected one of ann, bob") as error:
        corpora.fsdd(folder, "train", "eve")
    one_line(error)


def commands(folder: Path, *lists: str) -> Path:
    """Write Speech Commands in little: three keywords, two other words, a minute of noise in two files."""
    for word in ("yes", "no", "stop", "bed", "cat"):
        (folder / word).mkdir(parents=True)
        for i in range(12):
            soundfile.write(folder / word / f"{i:08x}_nohash_{i % 2}.wav", noise(0.1, 16000, i), 16000)
    (folder / "_background_noise_").mkdir()
    for i in range(2):
        soundfile.write(folder / "_background_noise_" / f"hum{i}.wav", noise(30.5, 16000, i), 16000)
    for name in lists:
        lines = [f"{word}/{i:08x}_nohash_{i % 2}.wav" for word in ("yes", "bed") for i in range(2 + len(lists))]
        (folder / name).write_text("\n".join(lines if name[0] != "v" else lines[:0]) + "\n")
    return folder


@pytest.mark.parametrize(
    "lists", [(), ("validation_list.txt", "testing_list.txt"), ("train_list.txt", "test_list.txt")]
)
def test_speech_commands_in_every_layout(tmp_path: Path, lists: tuple[str, ...]) -> None:
    folder = commands(tmp_path, *lists)
    splits = {
        split: corpora.speech_commands(folder, split)
        for split in ("train", "valid", "test")
        if split != "valid" or not lists or lists[0][0] == "v"
    }
    assert {one.text for own in splits.values() for one in own} <= {"yes", "no", "stop", "_unknown_", "_silence_"}
    every = corpora.speech_commands(folder, "all")
    assert {one.text for one in every} >= {"yes", "_unknown_"}
    silence = [one for one in every if one.text == "_silence_"]
    assert silence and all(one.samples(16000) == 16000 and len(one.wave(16000)) == 16000 for one in silence)
    if lists == ("validation_list.txt", "testing_list.txt"):
        assert sum(one.text == "yes" for one in splits["test"]) == 4
        assert sum(one.text == "yes" for one in splits["train"]) == 8
    if not lists:
        for split, own in splits.items():
            assert all(corpora.hashed_split(one.file.name) == split for one in own if one.text != "_silence_")


def test_the_official_hash_keeps_a_speaker_together() -> None:
    names = [f"left/{i:08x}_nohash_0.wav" for i in range(3000)]
    splits = [corpora.hashed_split(name) for name in names]
    assert splits == [corpora.hashed_split(name.replace("_0.", "_7.").replace("left", "go")) for name in names]
    assert 0.08 < splits.count("valid") / 3000 < 0.12 and 0.08 < splits.count("test") / 3000 < 0.12
    assert (
        corpora.hashed_split("bed/0a2b400e_nohash_0.wav") != corpora.hashed_split("bed/0a7c2a8d_nohash_0.wav") or True
    )


def spelling(folder: Path, text: str = "<s> {} </s> ({})") -> Path:
    """Write AN4 in little."""
    (folder / "etc").mkdir(parents=True)
    for part, said in {"train": ("YES", "A B", "NO"), "test": ("GO",)}.items():
        names = [f"an4_clstk/who{i}/an{i}-{part}-b" for i in range(len(said))]
        (folder / "etc" / f"an4_{part}.fileids").write_text("\n".join(names) + "\n")
        lines = [text.format(s, Path(name).name) for s, name in zip(said, names, strict=True)]
        (folder / "etc" / f"an4_{part}.transcription").write_text("\n".join(lines) + "\n")
        for i, name in enumerate(names):
            (folder / "wav" / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / "wav" / f"{name}.flac", noise(0.4 + 0.1 * i, 16000, i), 16000)
    return folder


def test_an4_is_read_in_its_layout(tmp_path: Path) -> None:
    folder = spelling(tmp_path)
    assert [one.text for one in corpora.an4(folder, "train")] == ["YES", "A B", "NO"]
    assert [(one.text, one.speaker) for one in corpora.an4(folder, "test")] == [("GO", "who0")]
    shutil.copy(folder / "etc" / "an4_test.fileids", folder / "etc" / "an4_train.fileids")
    with pytest.raises(ValueError, match="1 fileids and 3 transcriptions"):
        corpora.an4(folder, "train")
    (folder / "etc" / "an4_test.fileids").write_text("../../secret\n")
    with pytest.raises(ValueError, match=r"expected a transcription that ends in \(secret\)") as error:
        corpora.an4(folder, "test")
    one_line(error)
    (folder / "etc" / "an4_test.transcription").write_text("GO (secret)\n")
    with pytest.raises(ValueError, match="expected a file inside the folder"):
        corpora.an4(folder, "test")


def test_corpora_are_fetched_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = corpus(tmp_path / "master" / "free-spoken-digit-dataset-master")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    monkeypatch.setitem(corpora.URLS, "fsdd", (tmp_path / "a.tar.gz").as_uri())
    (tmp_path / "fsdd").mkdir()
    corpora.fetch("fsdd", tmp_path / "fsdd")
    assert len(corpora.fsdd(tmp_path / "fsdd", "all", None)) == 120
    assert [path.name for path in (tmp_path / "fsdd").iterdir()] == ["recordings"]


def test_speech_commands_is_fetched_by_torchaudio_where_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(root: Path, download: bool) -> None:
        assert download
        commands(root / "SpeechCommands" / "speech_commands_v0.02")

    monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    monkeypatch.setitem(sys.modules, "torchaudio.datasets", SimpleNamespace(SPEECHCOMMANDS=fake))
    corpora.fetch("speech_commands", tmp_path)
    assert len(corpora.speech_commands(tmp_path, "all")) > 30


def test_transcriptions_do_not_reach_the_input(tmp_path: Path) -> None:
    tasks = [
        SpeechCTC(path=str(spelling(tmp_path / text[4], text))) for text in ("<s> {} </s> ({})", "<s> B{} </s> ({})")
    ]
    assert [[one.text for one in task.utterances("train")] for task in tasks] == [
        ["YES", "A B", "NO"],
        ["BYES", "BA B", "BNO"],
    ]
    plain, other = (next(task.stream("train", batch=3, length=16, seed=0)) for task in tasks)
    assert torch.equal(plain.x, other.x)
    assert not torch.equal(plain.x[0], plain.x[1])  # control: other utterances have other inputs


def test_speech_is_simulated_where_none_is_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(files, "CACHE", tmp_path)
    monkeypatch.delenv("BIOMAMBA_DATA", raising=False)
    for task in (Speech(), Speech(corpus="speech_commands"), SpeechCTC()):
        assert task.source.startswith("SIMULATED")
        assert next(task.stream("train", batch=2, length=16, seed=0)).x.isfinite().all()
    monkeypatch.setenv("BIOMAMBA_DATA", str(corpus(tmp_path / "fsdd").parent))
    assert Speech().source == "fsdd, 120 recordings"  # control


@real
def test_the_real_corpora_are_whole() -> None:
    assert len(Speech()._utterances("train")) == 2700 and len(Speech()._utterances("test")) == 300
    assert len(Speech(speaker="theo")._utterances("test")) == 500
    keywords = Speech(corpus="speech_commands")
    assert len(keywords._utterances("train")) == 480 and len(keywords._utterances("test")) == 240
    speakers = [{one.speaker for one in keywords._utterances(split)} for split in ("train", "test")]
    assert not speakers[0] & speakers[1]
    assert len(SpeechCTC().utterances("train")) == 948 and len(SpeechCTC().utterances("test")) == 130


@real
@pytest.mark.parametrize("task", [Speech(stack=2), Speech(corpus="speech_commands"), SpeechCTC()])
def test_real_sound_is_of_the_scale_that_is_expected(task: Task) -> None:
    chunk = next(task.stream("test", batch=8, length=16, seed=0))
    heard = chunk.x.abs().sum(-1) > 0
    assert chunk.x.isfinite().all()
    assert chunk.x[heard].abs().mean() < 3
    assert chunk.x[heard].abs().max() < 30


# CTC


def test_posteriors_are_those_of_all_alignments() -> None:
    torch.manual_seed(0)
    log_p, target = torch.log_softmax(torch.randn(5, 4, dtype=torch.float64), -1), [2, 1, 1]
    weight, expected = 0.0, torch.zeros(5, 4, dtype=torch.float64)
    for path in itertools.product(range(4), repeat=5):
        if ctc.greedy(path) == target:
            p = float(sum(log_p[f, k] for f, k in enumerate(path)).exp())
            weight += p
            for f, k in enumerate(path):
                expected[f, k] += p
    assert torch.allclose(ctc.posteriors(log_p, target), expected / weight, atol=1e-12)


def test_what_cannot_be_spelled_in_time_teaches_nothing() -> None:
    assert not ctc.posteriors(torch.log_softmax(torch.randn(3, 4), -1), [1, 1, 1]).any()
    assert ctc.posteriors(torch.log_softmax(torch.randn(5, 4), -1), [1, 1, 1]).sum() == pytest.approx(5)


@pytest.mark.parametrize("length", [1, 5, 30])
def test_the_loss_by_chunks_has_the_gradient_of_ctc(length: int) -> None:
    """With weights held, chunk after chunk by RTRL sums up to CTC's own gradient; truncated it does not."""
    torch.manual_seed(0)
    model, steps, target = Model(d_in=6, d_out=SYMBOLS, **TINY).double(), 30, [8, 5, 12, 12, 15]
    x, reset = torch.randn(1, steps, 6, dtype=torch.float64), torch.zeros(1, steps, dtype=torch.bool)
    reset[:, 0] = True
    parameters = [*model.blocks.parameters(), model.head.weight]
    out, _, _ = model(x, model.init_state(1), reset)
    log_p = torch.log_softmax(out, -1)
    loss = F.ctc_loss(
        log_p.transpose(0, 1), torch.tensor([target]), torch.tensor([steps]), torch.tensor([5]), reduction="sum"
    )
    whole = torch.autograd.grad(loss, parameters)
    no = torch.zeros(1, steps, dtype=torch.int64)
    info = dict.fromkeys(("utterance", "pass", "last", "voice_activity"), no)
    chunk = Chunk(x, ctc.posteriors(log_p[0], target)[None], torch.ones_like(reset), reset, info)

    def summed(rule: str) -> list[Tensor]:
        own, sums = SpeechCTC(simulate=True), [torch.zeros_like(p) for p in parameters]
        task: Any = SimpleNamespace(loss=own.loss, meters=own.meters)  # of other inputs than its spec
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        chunks = (chunk.between(i, i + length) for i in range(0, steps, length))
        for _ in online(chunks, Learner(task, model, RULES[rule](model.blocks), optimizer, clip=None)):
            for total, parameter in zip(sums, parameters, strict=True):
                total += parameter.grad * length  # the loss is a mean over the steps of a chunk
        return sums

    def far(gradients: list[Tensor]) -> float:
        """Return the distance to CTC's gradient, relative."""
        both = zip(gradients, whole, strict=True)
        return math.sqrt(
            sum(float((a - b).square().sum()) for a, b in both) / sum(float(b.square().sum()) for b in whole)
        )

    assert far(summed("rtrl")) < 1e-9
    assert (far(summed("bptt")) > 1e-5) == (length < steps)  # control


def hear_all(task: SpeechCTC, length: int, seed: int = 0) -> tuple[Chunk, Tensor]:
    """Return a stream to which something was said at every step, and what."""
    chunks, said = [], []
    lessons = task.stream("train", batch=2, length=length, seed=seed)
    for chunk in islice(lessons, 6 * task.align // length):
        generator = torch.Generator().manual_seed(0)
        out = torch.randn(SYMBOLS, 34, generator=generator)  # a function of the input alone
        out = chunk.x[..., :34] @ out.T
        lessons.observe(out, chunk)
        chunks.append(chunk)
        said.append(out)
    return joined(iter(chunks)), torch.cat(said, 1)


def test_every_utterance_is_heard_twice_and_taught_the_second_time() -> None:
    task = SpeechCTC(simulate=True, align=64)
    chunk, out = hear_all(task, 16)
    assert same(chunk, hear_all(task, 4)[0])
    heard, place = chunk.info["pass"], chunk.info["place"]
    assert not chunk.mask[heard != AGAIN].any() and chunk.mask[heard == AGAIN].all()
    assert not chunk.y[heard != AGAIN].any()
    for row in range(2):
        first, again = ((heard[row] == which) & (place[row] == place[row, 0]) for which in (FIRST, AGAIN))
        assert torch.equal(chunk.x[row][first], chunk.x[row][again])
        text = task.utterances("all")[int(chunk.info["utterance"][row, 0])].text
        gamma = ctc.posteriors(torch.log_softmax(out[row][first], -1), spelled(text)).float()
        assert torch.equal(chunk.y[row][again], gamma)
        assert torch.allclose(gamma.sum(1), torch.ones(len(gamma)), atol=1e-4)
        assert chunk.reset[row].nonzero()[:2, 0].tolist() == [0, int(again.nonzero()[0])]
        assert chunk.info["last"][row][first].tolist() == [False] * (int(first.sum()) - 1) + [True]
        assert chunk.info["voice_activity"][row][first].sum() == 3


def test_a_stream_that_is_not_told_says_so() -> None:
    with pytest.raises(ValueError, match="call its `observe`") as error:
        list(islice(SpeechCTC(simulate=True, align=64).stream("train", batch=2, length=16, seed=0), 40))
    one_line(error)
    with pytest.raises(ValueError, match=r"stream\.length is 7, expected one that divides task.align, 16 steps"):
        SpeechCTC(simulate=True).stream("train", batch=2, length=7, seed=0)


def test_transcripts_are_read_step_by_step() -> None:
    task = SpeechCTC(simulate=True, align=64)
    chunk, out = hear_all(task, 16)
    whole, pieces = (Transcripts([one.text for one in task.utterances("all")], task.stack) for _ in range(2))
    whole.update(out, chunk)
    for i in range(0, chunk.x.shape[1], 16):
        restored = Transcripts(pieces.texts, task.stack)
        restored.load_state_dict(json.loads(json.dumps(pieces.state_dict())))
        pieces = restored
        pieces.update(out[:, i : i + 16], chunk.between(i, i + 16))
    assert whole.state_dict() == pieces.state_dict()
    errors = letters = 0
    for row, place in itertools.product(range(2), chunk.info["place"].unique()):
        first = (chunk.info["pass"][row] == FIRST) & (chunk.info["place"][row] == place)
        if chunk.info["last"][row][first].any():
            text = whole.texts[int(chunk.info["utterance"][row][first][0])]
            said = "".join(LETTERS[k - 1] for k in ctc.greedy(out[row][first].argmax(-1).tolist()))
            errors, letters = errors + edits(text, said), letters + len(text)
    assert letters > 0
    assert (whole.errors, whole.letters) == (errors, letters)
    late = Transcripts(whole.texts, task.stack)
    late.update(out[:, 5:], chunk.between(5))
    assert late.letters < letters  # an utterance whose beginning was not heard is not scored


def edits(one: str, other: str) -> int:
    """Return the edit distance, by its definition."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def test_latency_is_counted_from_sound_to_symbol() -> None:
    meter = Transcripts(["AB"], stack=3)
    step, zero = torch.arange(10)[None], torch.zeros(1, 10, dtype=torch.int64)
    info = {"utterance": zero, "pass": zero + FIRST, "last": step == 9, "voice_activity": (step == 2) + 2 * (step == 6)}
    out = torch.zeros(1, 10, SYMBOLS)
    out[0, :, 0], out[0, 4:6, 1], out[0, 8, 2] = 1, 2, 2
    reset = torch.arange(10)[None] == 0
    meter.update(out, Chunk(out, out, torch.zeros_like(reset), reset, info))
    assert (meter.get(), meter.wer(), meter.latency("first"), meter.latency("last")) == (0, 0, 6, 6)


def heard_as(texts: list[str], said: list[list[int]]) -> Transcripts:
    """Return the meter after utterances of those texts were understood as those symbols, one symbol a step."""
    meter = Transcripts(texts, stack=1)
    for number, symbols in enumerate(said):
        zero = torch.zeros(1, len(symbols), dtype=torch.int64)
        last = torch.arange(len(symbols))[None] == len(symbols) - 1
        info = {"utterance": zero + number, "pass": zero + FIRST, "last": last, "voice_activity": zero}
        out = F.one_hot(torch.tensor([symbols]), SYMBOLS).float()
        meter.update(out, Chunk(out, out, torch.zeros_like(last), torch.arange(len(symbols))[None] == 0, info))
    return meter


@pytest.mark.parametrize("said", [[3, 0, 4, 0, 5], [0, 0], [27, 1, 27]])
def test_what_is_understood_of_an_empty_transcription_is_an_error(said: list[int]) -> None:
    texts, understood = ["AB", ""], ["AB", "".join(LETTERS[s - 1] for s in said if s)]
    meter = heard_as(texts, [[1, 2], said])
    assert meter.get() == jiwer.cer(texts, understood)
    assert meter.wer() == jiwer.wer(texts, understood)
    assert meter.get() > 0 or not any(said)
    assert math.isnan(heard_as([""], [[1, 2]]).get())  # there is no letter that the errors are counted by


def test_learning_goes_on_in_the_middle_of_an_utterance() -> None:
    task = SpeechCTC(simulate=True, align=64)
    task.stream("train", batch=2, length=16, seed=0)

    def learner() -> tuple[Model, LearningRule, torch.optim.Adam]:
        torch.manual_seed(0)
        model = Model(d_in=task.spec.d_in, d_out=SYMBOLS, **TINY)
        return model, RULES["rtrl"](model.blocks), torch.optim.Adam(model.parameters(), lr=1e-2)

    def learn(chunks, model, rule, optimizer, state=None, count=6):
        for report in islice(online(chunks, Learner(task, model, rule, optimizer), state=state), count):
            state = report.state
        return state

    straight = learner()
    learn(task.stream("train", batch=2, length=16, seed=0), *straight, count=12)
    broken = learner()
    chunks = task.stream("train", batch=2, length=16, seed=0)
    loop_state = learn(chunks, *broken)
    assert isinstance(chunks, StatefulStream)
    tensors, facts = checkpoint.collect(broken[0], broken[2], loop_state)
    state, again = chunks.state_dict(), learner()
    loop_state = checkpoint.restore(tensors, facts, task, *again)
    assert loop_state is not None
    chunks = task.stream("train", batch=2, length=16, seed=0, start=loop_state.steps)
    chunks.load_state_dict(state)
    learn(chunks, *again, state=loop_state)
    assert all(torch.equal(a, b) for a, b in zip(straight[0].parameters(), again[0].parameters(), strict=True))
    assert not torch.equal(straight[0].head.weight, broken[0].head.weight)  # control: the second half did change them


# files that lie


def test_sound_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    for wave, rate, words in [
        (np.zeros((800, 2)), 8000, "has 2 channels, expected 1: mix it down"),
        (np.zeros(800), 11025, "is of 11025 Hz, expected 8000 Hz: resample it"),
        (np.zeros(0), 8000, "claims 0 samples"),
        (np.zeros(8000 * 121), 8000, "claims 968000 samples, expected 1 to 960000"),
    ]:
        soundfile.write(file, wave, rate)
        with pytest.raises(ValueError, match=words) as error:
            audio.samples(file, 8000)
        assert str(file) in one_line(error)
    file.write_text("no sound")
    with pytest.raises(ValueError, match="no sound file that can be read") as error:
        audio.samples(file, 8000)
    assert str(file) in one_line(error)
    soundfile.write(file, np.array([0.0, np.nan, 0.0]), 8000, "FLOAT")
    with pytest.raises(ValueError, match="does not hold the 3 finite samples"):
        audio.read(file, 0, 3)


def refusal(file: Path) -> str | None:
    """Read a file, and return why it was refused; None where it was read."""
    try:
        count = audio.samples(file, 8000)
        wave = audio.read(file, 0, count)
    except ValueError as error:
        return str(error)
    assert wave.shape == (count,) and wave.isfinite().all()
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 60),
    value=st.binary(min_size=1, max_size=8),
    cut=st.integers(0, 1700),
    tail=st.binary(max_size=40),
)
def test_mutated_sound_is_read_or_refused(tmp_path: Path, at: int, value: bytes, cut: int, tail: bytes) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, noise(0.1, 8000), 8000, "PCM_16")
    data = bytearray(file.read_bytes())
    data[at : at + len(value)] = value
    file.write_bytes(bytes(data[: len(data) - cut]) + tail)
    tracemalloc.start()
    said = refusal(file)
    assert said is None or (str(file) in said and "\n" not in said)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_header_that_claims_too_much_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    sizes = struct.pack("<I", 0xFFFFFFF0)
    head = b"RIFF" + sizes + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + sizes
    file.write_bytes(head + b"\0" * 100)
    said = refusal(file)
    assert said is None or str(file) in said


@pytest.mark.parametrize("damage", ["header", "middle"])
def test_a_bad_file_ends_a_run_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    folder = corpus(tmp_path / "fsdd")
    file = folder / "recordings" / "5_ann_7.wav"
    file.write_bytes(file.read_bytes()[: 30 if damage == "header" else 60] if damage == "header" else b"RIFF")
    words = ["--config", str(CONFIGS / "fsdd.yaml"), "--task.path", str(folder)]
    assert main(["train", *words, "--run.dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(file) in said


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("keywords", "an4")]


@pytest.mark.parametrize("config", ["fsdd", *SLOW])
def test_configs_learn_simulated_speech_and_score_what_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    words = ["--config", str(CONFIGS / f"{config}.yaml"), "--task.simulate", "true"]
    words += ["--task.passes", "1", "--model.d_model", "8", "--stream.steps", "320", "--run.dir", str(tmp_path / "run")]
    assert main(["train", *words]) == 0
    said = capsys.readouterr().out
    assert "SIMULATED" in said and "held out" in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    score = "cer" if config == "an4" else "accuracy"
    assert (
        {"all", "last_tenth", "held_out"}
        == summary["scores"][score].keys()
        == summary["baselines"]["frozen"][score].keys()
    )
    assert main(["evaluate", str(tmp_path / "run"), "--steps", "64"]) == 0
    said = capsys.readouterr().out
    assert "split test" in said and "times faster than real time" in said


def test_simulated_speech_repeats_itself() -> None:
    one = Simulated("42", "voice1", 3)
    assert torch.equal(one.wave(8000), replace(one).wave(8000)) and len(one.wave(8000)) == one.samples(8000)
    others = [replace(one, take=4), replace(one, speaker="voice2"), replace(one, text="43")]
    assert all(
        len(o.wave(8000)) != len(one.wave(8000)) or not torch.equal(o.wave(8000), one.wave(8000)) for o in others
    )
