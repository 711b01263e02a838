"""Speech corpora in their official layouts: which utterances there are, what is said in them, and who belongs where.

fsdd             recordings/{digit}_{speaker}_{index}.wav, 8 kHz             index 0 to 4 test, the rest train
speech_commands  {word}/{speaker}_nohash_{n}.wav, 16 kHz                     train_list.txt and test_list.txt, or
                 validation_list.txt and testing_list.txt, or the official hash of the speaker
an4              etc/an4_{train,test}.{fileids,transcription}, wav/, 16 kHz  as given
"""

import hashlib
import re
import tarfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import Tensor
from tqdm import tqdm

from ..common.files import locate, package
from . import signal as audio

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHERS = ("_silence_", "_unknown_")
FOLDS = 4  # parts of a training split's speakers, of which one is set apart
LIST_BYTES = 20_000_000  # of a list of files or transcriptions: more is none
URLS = {
    "fsdd": "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/heads/master.tar.gz",
    "speech_commands": "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    "an4": "https://github.com/cmusphinx/an4/archive/refs/heads/master.tar.gz",
}
HOLDS = {"fsdd": "recordings/*.wav", "speech_commands": "*/*.wav", "an4": "etc/an4_train.fileids"}


class Utterance(Protocol):
    """Something said: where its sound comes from is its own affair."""

    @property
    def text(self) -> str:
        """The word, or the transcription."""

    @property
    def speaker(self) -> str:
        """Who says it."""

    def samples(self, rate: int) -> int:
        """Return how many samples of `rate` Hz it has. Raises ValueError where the sound is of another kind."""

    def wave(self, rate: int) -> Tensor:
        """Return the samples, -1 to 1. Raises ValueError."""


@dataclass(frozen=True)
class Recorded:
    """A sound file, or `length` samples of it from sample `begin` on."""

    file: Path
    text: str
    speaker: str
    begin: int = 0
    length: int | None = None

    def samples(self, rate: int) -> int:
        """Return how many samples it has. Raises ValueError where the file is not mono or of another rate."""
        return self.length or audio.samples(self.file, rate)

    def wave(self, rate: int) -> Tensor:
        """Return the samples. Raises ValueError where the file breaks off."""
        return audio.read(self.file, self.begin, self.samples(rate))


def find(corpus: str, path: str | None) -> Path | None:
    """Return the folder of a corpus; None where it is not to be had. Raises FileNotFoundError for a wrong path."""
    return locate(corpus, path, HOLDS[corpus], URLS[corpus].split("/")[2], partial(fetch, corpus))


def lengths(utterances: Sequence[Utterance], rate: int) -> list[int]:
    """Return the samples of every utterance, with a bar where that takes long. Raises ValueError for a bad file."""
    bar = tqdm(utterances, desc="looking at sound files", disable=None, leave=False, delay=1)
    return [utterance.samples(rate) for utterance in bar]


def fsdd(folder: Path, split: str, speaker: str | None) -> list[Recorded]:
    """Return the recordings of split train, test or all; with a speaker, test is all of theirs and train the others'.

    Raises ValueError for a name that is not {digit}_{speaker}_{index}.wav and for a speaker who is not there.
    """
    found = []
    for file in sorted((folder / "recordings").glob("*.wav")):
        name = re.fullmatch(r"(\d)_(\w+)_(\d+)", file.stem)
        if name is None:
            raise ValueError(f"{file}: expected a name like 7_jackson_32.wav (digit, speaker, index): take it away")
        test = name[2] == speaker if speaker else int(name[3]) < 5
        found.append((test, Recorded(file, name[1], name[2])))
    speakers = sorted({utterance.speaker for _, utterance in found})
    if speaker and speaker not in speakers:
        raise ValueError(f"speaker is {speaker!r}, expected one of {', '.join(speakers)}")
    return [utterance for test, utterance in found if split == "all" or test == (split == "test")]


def speech_commands(folder: Path, split: str) -> list[Recorded]:
    """Return the files of split train, valid, test or all; words that are no keyword are _unknown_.

    Of these only as many are kept as a keyword has on average, chosen by a hash of their names. Raises ValueError.
    """
    splits = _commands_splits(folder)
    names = [name for part, own in splits.items() if split in ("all", part) for name in own]
    kept: dict[str, list[str]] = {word: [] for word in (*KEYWORDS, *OTHERS)}
    for name in sorted(names):
        word = name.partition("/")[0]
        kept[word if word in kept else "_unknown_"].append(name)
    usual = max(1, sum(len(kept[word]) for word in KEYWORDS) // len(KEYWORDS))
    kept["_unknown_"] = _hashed(kept["_unknown_"])[:usual]
    found = [Recorded(_inside(folder, name), word, _speaker(name)) for word, own in kept.items() for name in own]
    return found if kept["_silence_"] else found + _silence(folder, split, usual)


def an4(folder: Path, split: str) -> list[Recorded]:
    """Return the utterances of split train, test or all, with their transcriptions in capitals.

    Files may be .wav, .flac or .sph of the official names. Raises FileNotFoundError and ValueError.
    """
    found = []
    for part in ("train", "test"):
        if split in ("all", part):
            ids = _lines(folder / "etc" / f"an4_{part}.fileids")
            texts = _lines(folder / "etc" / f"an4_{part}.transcription")
            if len(ids) != len(texts):
                raise ValueError(
                    f"{folder / 'etc'}: an4_{part} has {len(ids)} fileids and {len(texts)} transcriptions, "
                    "expected as many of one as of the other"
                )
            found += [_an4_utterance(folder, name, text) for name, text in zip(ids, texts, strict=True)]
    return found


def check_fold(fold: int | None) -> None:
    """Raise ValueError for a fold that there is not."""
    if fold is not None and not 0 <= fold < FOLDS:
        raise ValueError(f"fold is {fold}, expected 0 to {FOLDS - 1}, or null")


def folded(splits: dict[str, str], fold: int | None) -> dict[str, str]:
    """Return the splits in words, where a fold is set apart from train."""
    if fold is None:
        return splits
    own = f"a quarter of the speakers of train, fold {fold}"
    return {**splits, "train": f"{splits['train']}, without {own}", "valid": own}


def select(load: Callable[[str], Sequence[Utterance]], split: str, fold: int | None) -> Sequence[Utterance]:
    """Return a split of a corpus; with a fold, valid is every fourth of train's speakers, and train the others.

    The speakers are taken in the order of their hash: a choice that stays the same.
    """
    if fold is None or split not in ("train", "valid"):
        return load(split)
    every = load("train")
    chosen = set(_hashed({utterance.speaker for utterance in every})[fold::FOLDS])
    return [utterance for utterance in every if (utterance.speaker in chosen) == (split == "valid")]


def fetch(corpus: str, folder: Path) -> None:
    """Download a corpus into `folder`: Speech Commands by torchaudio where it imports, as it checks what it gets."""
    if corpus == "speech_commands":
        try:
            datasets = package("torchaudio.datasets", "torchaudio", "fetching Speech Commands")
        except ImportError:
            _fetch(corpus, folder)
            return
        datasets.SPEECHCOMMANDS(folder, download=True)
        for entry in (folder / "SpeechCommands" / "speech_commands_v0.02").iterdir():
            entry.rename(folder / entry.name)
    else:
        _fetch(corpus, folder)


def _fetch(corpus: str, folder: Path) -> None:
    """Download an archive and unpack it into `folder`, without the folder that all of it lies in."""
    beside = folder / "download.tar.gz"
    with urllib.request.urlopen(URLS[corpus], timeout=30) as answer, beside.open("wb") as file:  # noqa: S310 - https
        while block := answer.read(1 << 20):
            file.write(block)
    with tarfile.open(beside) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        names = [Path(member.name).parts for member in members]
        inside = 1 if len({parts[0] for parts in names}) == 1 else 0
        for member, parts in zip(members, names, strict=True):
            member.name = str(Path(*parts[inside:]))
            archive.extract(member, folder, filter="data")
    beside.unlink()


def hashed_split(name: str) -> str:
    """Return the split that the official hash (README of Speech Commands) gives a file such as left/2d_nohash_0.wav."""
    speaker = re.sub(r"_nohash_.*$", "", Path(name).name)
    most = 2**27 - 1
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (most + 1) * (100.0 / most)  # noqa: S324
    return "valid" if percent < 10 else "test" if percent < 20 else "train"


def _commands_splits(folder: Path) -> dict[str, list[str]]:
    """Return the names of the files of every split, by the lists that there are, else by the hash."""
    if (folder / "train_list.txt").exists():
        return {split: _lines(folder / f"{split}_list.txt") for split in ("train", "test")}
    words = [word for word in folder.iterdir() if word.is_dir() and word.name != "_background_noise_"]
    names = [f"{word.name}/{file.name}" for word in sorted(words) for file in sorted(word.glob("*.wav"))]
    if (folder / "testing_list.txt").exists():
        lists = {"valid": _lines(folder / "validation_list.txt"), "test": _lines(folder / "testing_list.txt")}
        listed = {name for own in lists.values() for name in own}
        return {"train": [name for name in names if name not in listed], **lists}
    splits: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for name in names:
        splits[hashed_split(name)].append(name)
    return splits


def _speaker(name: str) -> str:
    """Return the speaker in a name such as left/0cb74144_nohash_0.wav; the name itself where there is none."""
    found = re.search(r"([0-9a-f]{8})_nohash_", name)
    return found[1] if found else name


def _silence(folder: Path, split: str, count: int) -> list[Recorded]:
    """Return seconds of the noise that comes with the corpus, each in the split that its name's hash gives it."""
    seconds = {
        f"{file.name}-{second}_nohash_": Recorded(file, "_silence_", file.stem, second * 16000, 16000)
        for file in sorted((folder / "_background_noise_").glob("*.wav"))
        for second in range(audio.samples(file, 16000) // 16000)
    }
    return [seconds[name] for name in _hashed(seconds) if split in ("all", hashed_split(name))][:count]


def _hashed(names: Iterable[str]) -> list[str]:
    """Return the names in the order of their hash: a choice that stays the same."""
    return sorted(names, key=lambda name: hashlib.sha1(name.encode()).digest())  # noqa: S324


def _an4_utterance(folder: Path, name: str, text: str) -> Recorded:
    """Return the utterance of a line of fileids and one of transcriptions: `<s> YES </s> (an251-fash-b)`."""
    said = re.fullmatch(r"(?:<s>)?\s*([A-Z' ]*?)\s*(?:</s>)?\s*\(([\w-]+)\)", text)
    if said is None or said[2] != Path(name).name:
        raise ValueError(
            f"{folder / 'etc'}: got {text[:80]!r}, expected a transcription that ends in ({Path(name).name})"
        )
    stem = _inside(folder / "wav", name)
    for ending in (".wav", ".flac", ".sph"):
        if (file := stem.with_name(stem.name + ending)).exists():
            return Recorded(file, said[1], stem.parent.name)
    raise FileNotFoundError(f"no {stem}.wav, .flac or .sph, which the fileids name: give the whole corpus")


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a list names. Raises ValueError where it leads out of the folder."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ValueError(f"{folder}: a list names {name[:80]!r}, expected a file inside the folder")
    return folder / name


def _lines(file: Path) -> list[str]:
    """Return the lines of a list that are not empty. Raises FileNotFoundError, and ValueError for no text."""
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: give the whole corpus")
    if file.stat().st_size > LIST_BYTES:
        raise ValueError(f"{file}: has {file.stat().st_size:,} bytes, expected a list of at most {LIST_BYTES:,}")
    try:
        return list(_stripped(file.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is no text ({error}): mend it") from error


def _stripped(text: str) -> Iterator[str]:
    """Yield the lines that hold something."""
    return (line.strip() for line in text.splitlines() if line.strip())
