"""Every reader of a file or a stream: how a sound input is made, how it is damaged, and how it is read."""

import contextlib
import functools
import gzip
import io
import json
import logging
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch

import biomamba
from biomamba import checkpoint
from biomamba.cli import compare, evaluate, train, variants
from biomamba.cli.main import main
from biomamba.cli.serve import answers
from biomamba.experiment import compress, jobs
from biomamba.experiment.build import Experiment, make_task
from biomamba.experiment.files import CONFIGS
from biomamba.experiment.parse import parse
from biomamba.experiment.run import Run, find_run_dir
from biomamba.plasticity import images
from biomamba.report import figures, page
from biomamba.report.data import read as read_section
from biomamba.stream import StatefulStream

from . import mutate
from .mutate import Mutator, Random

TINY = Path(__file__).parents[1] / "tiny.yaml"
SMALL = ["--config", "delay", "--config", str(TINY), "--stream.steps", "40", "--run.baselines", "false"]
ROWS = 60


class Reader(NamedTuple):
    """One kind of input."""

    make: Callable[[Path], object]  # writes a sound one into a folder
    read: Callable[[Path, Random], object]  # reads it from there
    damage: Mutator
    needs: tuple[str, ...] = ()  # packages


def task(name: str, steps: int = 60, **options: Any) -> None:
    """Read what a run and its end ask of a task: what it is, its stream, and what was left out."""
    own = make_task(name, **options)
    assert own.spec and own.source and own.splits
    meters = own.meters()
    for split in own.splits:
        total = own.steps(split, batch=1)
        stream = StatefulStream.of(own.stream(split, batch=1, length=min(8, total or 8), seed=0))
        for chunk in islice(stream, steps // 8):
            assert chunk.x.isfinite().all() or not chunk.x.is_floating_point()
            assert chunk.x.shape[:2] == chunk.mask.shape == chunk.reset.shape
            out = torch.zeros(*chunk.mask.shape, own.spec.d_out)
            stream.observe(out, chunk)
            for meter in meters.values():
                meter.update(out, chunk)
    own.left_out(meters)


def silent(call: Callable[[], object]) -> object:
    """Call with nothing printed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return call()


# tables


def table() -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    return np.column_stack([rng.normal(size=(ROWS, 2)), rng.integers(3, size=ROWS)])


def lines(kind: str = ",") -> str:
    return "\n".join([kind.join(("a", "b", "label")), *(kind.join(map(repr, row)) for row in table().tolist())]) + "\n"


def write_parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    own = table()
    columns = {"a": own[:, 0], "b": own[:, 1], "label": [str(int(c)) for c in own[:, 2]]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=20)


def arrays(name: str) -> Callable[[Path, Random], None]:
    def read(folder: Path, random: Random) -> None:
        kind = random.choice(("class", "value", "none"))
        options: dict[str, Any] = {"classes": ("0", "1", "2")} if kind == "class" and random.random() < 0.3 else {}
        task("arrays", path=str(folder / name), kind=kind, **options)

    return read


def live(folder: Path, random: Random) -> None:
    """Read lines of standard input."""
    before = sys.stdin
    with (folder / "lines.csv").open("rb") as file:
        sys.stdin = SimpleNamespace(buffer=file)  # type: ignore[assignment]
        try:
            task("arrays", 400, path="-", kind="class", classes=("0", "1", "2"))
        finally:
            sys.stdin = before


@functools.lru_cache(100)
def parsed(argv: tuple[str, ...], files: tuple[bytes, ...], *given: Any, **options: Any) -> Any:
    """Return what `parse` makes of words, and of the files that they name."""
    return parse(argv, *given, **options)


def parse_once(argv: Sequence[str], *given: Any, **options: Any) -> Any:
    """Return what `parse` makes of words, from memory where it has read them, and the same configs, before."""
    configs = (Path(word) for option, word in pairwise(argv) if option == "--config")
    files = [config.read_bytes() for config in configs if config.is_file()]
    return parsed((*argv,), (*files,), *given, **options)


def commanded(*words: str) -> int:
    """Return the exit code of a command: 0, or 2 and one line."""
    said = io.StringIO()
    with contextlib.ExitStack() as stack:
        for command in (train, evaluate, compare, variants):
            stack.enter_context(patch.object(command, "parse", parse_once))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(said))
        code = main(words)
    last = said.getvalue().strip().splitlines()[-1:]
    assert code == 0 or (code == 2 and last[0].startswith("biomamba: ")), (code, last)
    return code


def command(folder: Path, random: Random) -> None:
    """Train on a table by the command line."""
    words = ["train", "--config", "arrays", "--task.path", str(folder / "x.csv"), "--model.d_model", "4"]
    words += ["--model.d_state", "2", "--task.kind", random.choice(("class", "value", "none"))]
    words += ["--run.backend", "torch"]  # making a kernel, where it is not kept, would count as a hang
    run = folder.with_name("run")
    shutil.rmtree(run, ignore_errors=True)  # of the input before
    code = commanded(*words, "--run.dir", str(run))
    assert (run / "summary.json").exists() == (code == 0)


# recordings


def waves(n: int, channels: int = 2, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.cumsum(np.random.default_rng(seed).normal(size=(n, channels)), axis=0) / n


NOTES = [(1.0, 2.0, "left"), (4.0, 2.0, "right"), (7.0, 2.0, "left"), (10.0, 2.0, "right"), (12.5, 0.0, "blink")]


def write_edf(path: Path, rate: int, n: int, notes: list[Any], unit: str, names: tuple[str, ...]) -> None:
    from edfio import Bdf, BdfSignal, Edf, EdfAnnotation, EdfSignal

    kind, made = (BdfSignal, Bdf) if path.suffix == ".bdf" else (EdfSignal, Edf)
    signals = [
        kind(own, rate, label=name, physical_dimension=unit, physical_range=(-3000, 3000))
        for name, own in zip(names, 1000 * waves(n, len(names)).T, strict=True)
    ]
    made(signals, annotations=[EdfAnnotation(*note) for note in notes]).write(path)  # type: ignore[arg-type]


def make_edf(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for i in range(2):
            write_edf(folder / f"S{i}R01{suffix}", 64, 14 * 64, NOTES, "uV", ("Fp1", "Cz"))

    return make


def make_eeg(folder: Path) -> None:
    for number in (1, 2):
        names = ("Fc5.", "O1..", "O2..", "Cz..")
        write_edf(folder / f"S001R{number:02d}.edf", 160, 20 * 160, [(0, 20, "T0")], "uV", names)


def make_wfdb(rate: int, samples: int, leads: tuple[str, str]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import wfdb

        for name in ("100", "101"):
            kind = "212" if rate == 360 else "16"
            digital = np.clip(np.round(waves(samples) * 20_000), -2000, 2000).astype(np.int64)
            wfdb.wrsamp(
                name, rate, ["mV", "mV"], list(leads), d_signal=digital, fmt=[kind] * 2, adc_gain=[200.0] * 2,
                baseline=[0, 0], write_dir=str(folder),
            )  # fmt: skip
            at = np.arange(1, samples // rate) * rate
            symbols = ["NVA/"[i % 4] for i in range(len(at))]
            wfdb.wrann(name, "atr", at, symbols, write_dir=str(folder))

    return make


def ecg(folder: Path, random: Random) -> None:
    """Read one record of MIT-BIH as the task does."""
    from biomamba.tasks.ecg.files import open_record

    record = open_record(folder, "100", both=random.random() < 0.5)
    for block in record.blocks():
        assert block.shape[1] == record.leads


def make_sounds(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import soundfile

        for i, word in enumerate(("low", "high", "low", "high")):
            (folder / word).mkdir(exist_ok=True)
            soundfile.write(folder / word / f"{i}{suffix}", 0.3 * np.sin(np.arange(4000) * (i + 1) / 10), 8000)
        (folder.parent / "rows").mkdir(exist_ok=True)

    return make


def make_sound_table(folder: Path) -> None:
    import soundfile

    rows = ["file,start,end,label,person"]
    for i in range(4):
        soundfile.write(folder / f"{i}.wav", 0.3 * np.sin(np.arange(8000) * (i + 1) / 10), 8000)
        rows += [f"{i}.wav,0.0,0.4,low,p{i}", f"{i}.wav,0.5,0.9,high,p{i}"]
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")


def make_digits(folder: Path) -> None:
    import soundfile

    (folder / "recordings").mkdir()
    for i in range(6):
        for digit in (0, 1):
            wave = 0.1 * np.random.default_rng(i).standard_normal(1600)
            soundfile.write(folder / "recordings" / f"{digit}_ann_{i + 3}.wav", wave, 8000, "PCM_16")


def make_an4(folder: Path) -> None:
    import soundfile

    (folder / "etc").mkdir()
    for part, said in {"train": ("YES", "A B", "NO"), "test": ("GO",)}.items():
        names = [f"an4_clstk/who{i}/an{i}-{part}-b" for i in range(len(said))]
        (folder / "etc" / f"an4_{part}.fileids").write_text("\n".join(names) + "\n")
        told = [f"<s> {text} </s> ({Path(name).name})" for text, name in zip(said, names, strict=True)]
        (folder / "etc" / f"an4_{part}.transcription").write_text("\n".join(told) + "\n")
        for i, name in enumerate(names):
            (folder / "wav" / name).parent.mkdir(parents=True, exist_ok=True)
            wave = 0.1 * np.random.default_rng(i).standard_normal(4000)
            soundfile.write(folder / "wav" / f"{name}.flac", wave, 16000)


def make_windows(folder: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 30, 3)), np.array(["rest", "move"] * 10)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)


def make_sequences(folder: Path) -> None:
    """Write a data set of Hugging Face: sequences of numbers, with named classes and people."""
    import datasets

    datasets.disable_progress_bars()
    kinds = datasets.List(datasets.List(datasets.Value("float64")))
    features = datasets.Features(
        {"steps": kinds, "label": datasets.ClassLabel(names=["rest", "move"]), "person": datasets.Value("string")}
    )
    steps = np.random.default_rng(0).normal(size=(20, 30, 2)).tolist()
    rows = {"steps": steps, "label": [0, 1] * 10, "person": [f"p{i % 4}" for i in range(20)]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(folder)


def make_spoken(folder: Path) -> None:
    """Write a data set of Hugging Face: sounds in two splits."""
    import datasets
    import soundfile

    datasets.disable_progress_bars()
    sounds = []
    for i in range(8):
        file = io.BytesIO()
        soundfile.write(file, 0.3 * np.sin(np.arange(3000) * (i % 2 + 1) / 10), 8000, format="WAV")
        sounds.append({"bytes": file.getvalue(), "path": None})
    own = datasets.Dataset.from_dict({"audio": sounds, "label": ["low", "high"] * 4})
    own = own.cast_column("audio", datasets.Audio(decode=False)).cast_column("audio", datasets.Audio())
    datasets.DatasetDict({"train": own.select(range(6)), "test": own.select([6, 7])}).save_to_disk(folder)


def recordings(**options: Any) -> Callable[[Path, Random], None]:
    return lambda folder, random: task("recordings", 400, path=str(folder), **options)


# text


def make_text(folder: Path) -> None:
    import tokenizers as library

    text = "Die Stra\u00dfe f\u00fchrt \u00fcber den Flu\u00df; der Weg kommt zur\u00fcck.\n" * 20
    (folder / "text.txt").write_text(text, encoding="utf-8")
    own = library.Tokenizer(library.models.BPE())
    own.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    own.train_from_iterator(
        [text], library.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    own.save(str(folder / "tokenizer.json"))


def text(folder: Path, random: Random) -> None:
    task("language", path=(str(folder / "text.txt"),), tokenizer=str(folder))


def make_rows(suffix: str) -> Callable[[Path], None]:
    """Return what writes rows of text as Hugging Face's packages do."""

    def make(folder: Path) -> None:
        rows = [f"what came before {i} comes again" for i in range(40)]
        if suffix == "parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table({"text": rows}), folder / "train.parquet")
        else:
            (folder / f"train.{suffix}").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))

    return make


def text_rows(folder: Path, random: Random) -> None:
    """Read a folder as a data set of Hugging Face; its packages say in a log what they raise too."""
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    task("language", dataset=str(folder))


# images


def make_fashion(folder: Path) -> None:
    for name, number in FEW.items():
        pixels, labels = bytes(range(256)) * 10, bytes(range(10))
        for kind, header, data in (("images-idx3", 16, pixels[: 784 * number]), ("labels-idx1", 8, labels[:number])):
            content = bytes([0, 0, 8, header // 4 - 1]) + bytes(header - 4) + data
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


def make_cifar(folder: Path) -> None:
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in (*images.FILES[10][0], images.FILES[10][1]):
            data = bytes([3]) + bytes(range(256)) * (images.PIXELS // 256)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = 2 * len(data)
            archive.addfile(info, io.BytesIO(2 * data))


FEW = {"train": 3, "t10k": 2}  # images


def pictures(read: Callable[[Path], object]) -> Callable[[Path, Random], None]:
    """Return a reader of images, of which a whole set has a few."""

    def few(folder: Path, random: Random) -> None:
        with patch.multiple(images, PART=2, FASHION_PARTS=FEW):
            read(folder)

    return few


# experiments


def make_config(folder: Path) -> None:
    names = sorted(CONFIGS.glob("*.yaml"))
    (folder / "c.yaml").write_bytes(names[len(str(folder)) % len(names)].read_bytes())


def config(folder: Path, random: Random) -> None:
    parse(["--config", str(folder / "c.yaml")])


def made_run(folder: Path) -> None:
    """Leave a run in a folder that has not reached its end: one that was finished, its summary taken away."""
    assert silent(lambda: main(["train", *SMALL, "--run.dir", str(folder)])) == 0
    (folder / "summary.json").unlink()


def make_finished(folder: Path) -> None:
    assert silent(lambda: main(["train", *SMALL, "--run.dir", str(folder), "--optim.average", "0.9"])) == 0
    (folder / "checkpoint.safetensors").unlink()


def resume(folder: Path, random: Random) -> None:
    """Go on with a run; where that is refused the weights are as they were."""
    settings = parse_once([*SMALL, "--run.dir", str(folder), "--run.resume", "true"]).config
    experiment = Experiment.from_config(settings)
    before = checkpoint.weights(experiment.model)
    try:
        Run.resume(experiment, find_run_dir(settings)).close()
    except Exception:
        after = experiment.model.state_dict()
        assert all(torch.equal(own, after[name]) for name, own in before.items()), "a refusal changed weights"
        raise


def of_run(folder: Path, random: Random) -> None:
    """Load the learner of a run."""
    learner = biomamba.load(folder)
    assert learner.model.spec


def warm(folder: Path, random: Random) -> None:
    """Begin with the weights of a folder."""
    Experiment.from_config(parse_once([*SMALL, "--model.from", str(folder)]).config)


def make_learner(folder: Path) -> None:
    learner = biomamba.classifier(["u", "v"], ["a", "b"], d_model=4, d_state=2, headdim=4)
    for i in range(6):
        learner.learn_one({"u": i % 3, "v": 1.0}, "ab"[i % 2])
    learner.save(folder)


def saved(folder: Path, random: Random) -> None:
    """Load a learner, and ask it; one of tokens, sound in itself, says that rows are none."""
    learner = biomamba.load(folder)
    try:
        learner.predict_one({"u": 1.0, "v": 1.0})
    except TypeError as error:
        if not str(error).startswith("x: got"):
            raise


def make_official(folder: Path) -> None:
    model = biomamba.Model(vocab=11, d_out=11, d_model=8, n_layers=2, d_state=4, headdim=4)
    biomamba.save_official(model, folder)
    weights = folder / "model.safetensors"
    index = {"metadata": {}, "weight_map": dict.fromkeys(("a", "b"), "model-1.safetensors")}
    if len(folder.name) % 2:
        weights.rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def official(folder: Path, random: Random) -> None:
    biomamba.load_pretrained(folder)


def make_report(folder: Path) -> None:
    silent(lambda: main(["train", *SMALL, "--run.dir", str(folder)]))
    (folder / "checkpoint.safetensors").unlink()
    (folder / "model.safetensors").unlink()


def make_warm_official(folder: Path) -> None:
    model = biomamba.Model(vocab=256, d_out=256, d_model=8, n_layers=1, d_state=4, headdim=4)
    biomamba.save_official(model, folder)


def warm_official(folder: Path, random: Random) -> None:
    """Begin with the weights of a folder of Hugging Face's form."""
    Experiment.from_config(parse_once(["--config", "language", "--model.from", str(folder)]).config)


PLOTS, DRAWN = ("curves", "bars", "dots", "points", "heat"), dict[str, str]()


@contextlib.contextmanager
def no_plot_twice() -> Iterator[None]:
    """Draw a plot that was drawn before from memory, and in one format: what is damaged shows in one, or in none."""
    from matplotlib.figure import Figure

    save = Figure.savefig

    def remembered(name: str, draw: Callable[..., str]) -> Callable[..., str]:
        def drawn(*given: Any, **options: Any) -> str:
            what = repr((name, given, options))
            if what not in DRAWN:
                if len(DRAWN) > 100:
                    DRAWN.clear()
                DRAWN[what] = draw(*given, **options)
            return DRAWN[what]

        return drawn

    def saved(figure: Figure, target: Any, **options: Any) -> None:
        if Path(str(target)).suffix not in (".png", ".pdf"):
            save(figure, target, **options)

    drawing = {name: remembered(name, getattr(figures, name)) for name in PLOTS}
    with patch.multiple(figures, **drawing), patch.object(Figure, "savefig", saved):
        yield


def report(folder: Path, random: Random) -> None:
    with no_plot_twice():
        page.page([read_section(folder)])


COMPARE = ["compare", *SMALL, "--rules", "rtrl", "--seeds", "1", "--costs", "false", "--fidelity", "0"]


def make_runs(folder: Path) -> None:
    silent(lambda: main([*COMPARE, "--run.dir", str(folder)]))
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


def make_comparison(folder: Path) -> None:
    silent(lambda: main([*COMPARE, "--fidelity", "4", "--run.dir", str(folder)]))
    for path in folder.rglob("*"):
        if path.suffix in (".safetensors", ".png", ".html", ".log"):
            path.unlink()


def evaluated(folder: Path, random: Random) -> None:
    """Score the weights of a run."""
    if commanded("evaluate", str(folder), "--steps", "16"):
        raise ValueError("exit code 2")


def compared(folder: Path, random: Random) -> None:
    """Put a comparison whose runs are finished in a table again."""
    with no_plot_twice(), patch.object(jobs, "start", side_effect=ValueError("a run is to be learned again")):
        if commanded(*COMPARE, "--run.dir", str(folder), "--run.resume", "true"):
            raise ValueError("exit code 2")


def make_compressed(folder: Path) -> None:
    words = ["--model.d_model", "4", "--model.d_state", "2", "--model.headdim", "4", "--model.ngram_bits", "6"]
    settings = parse([*words, "--stream.length", "5", "--stream.batch", "3", "--run.threads", "1"]).config
    (folder / "text.bm").write_bytes(compress.compress(b"what came before comes again, " * 3, settings))


def decompress(folder: Path, random: Random) -> None:
    compress.decompress((folder / "text.bm").read_bytes())


def make_asked(folder: Path) -> None:
    asked: list[Any] = [{"id": "a", "x": [0.1, 0.2]}, {"id": "a", "y": 1}, {"x": {"u": 0.1, "v": 1}, "y": 0}]
    asked += [{"x": [1, 2], "reset": True}, {"id": 7, "x": [0.5, 0.5]}, {"id": 7, "y": 0}]
    (folder / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))


def serve(folder: Path, random: Random) -> None:
    """Answer lines: a bad one gets an error, and learning goes on."""
    learner = biomamba.classifier(["u", "v"], [0, 1], d_model=4, d_state=2, headdim=4)
    with (folder / "asked.jsonl").open(encoding="utf-8", errors="replace") as file:
        for answer in answers(learner, [*file, '{"x": [0.1, 0.2], "y": 1}']):
            json.dumps(answer)
    assert "learned" in answer, f"after what was damaged a sound line was answered by {answer}"


@contextlib.contextmanager
def offline(folder: Path) -> Iterator[None]:
    """Let the data be those of the folder alone."""
    data = os.environ.pop("BIOMAMBA_DATA", None)
    try:
        yield
    finally:
        if data is not None:
            os.environ["BIOMAMBA_DATA"] = data


def named(name: str, text: Callable[[], str]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text())


READERS = {
    "config": Reader(make_config, config, mutate.any_bytes),
    "csv": Reader(named("x.csv", lines), arrays("x.csv"), mutate.any_bytes),
    "txt": Reader(named("x.txt", lambda: lines(" ")), arrays("x.txt"), mutate.any_bytes),
    "csv.gz": Reader(
        lambda folder: (folder / "x.csv.gz").write_bytes(__import__("gzip").compress(lines().encode())),
        arrays("x.csv.gz"), mutate.packed,
    ),
    "npy": Reader(lambda folder: np.save(folder / "x.npy", table()), arrays("x.npy"), mutate.array),
    "npz": Reader(
        lambda folder: np.savez(folder / "x.npz", x=table()[:, :2], y=table()[:, 2]), arrays("x.npz"), mutate.packed
    ),
    "parquet": Reader(
        lambda folder: write_parquet(folder / "x.parquet"), arrays("x.parquet"), mutate.any_bytes, ("pyarrow",)
    ),
    "command": Reader(named("x.csv", lines), command, mutate.any_bytes),
    "live": Reader(named("lines.csv", lines), live, mutate.any_bytes),
    "edf": Reader(make_edf(".edf"), recordings(classes=("left", "right")), mutate.any_bytes, ("edfio", "scipy")),
    "bdf": Reader(make_edf(".bdf"), recordings(classes=("left", "right")), mutate.any_bytes, ("edfio", "scipy")),
    "eeg": Reader(
        make_eeg,
        lambda folder, random: task("eeg", path=str(folder), passes=1, folds=2, channels=("O1", "O2")),
        mutate.any_bytes,
        ("edfio", "scipy"),
    ),
    "wfdb": Reader(make_wfdb(100, 1200, ("MLII", "V1")), recordings(), mutate.any_bytes, ("wfdb", "scipy")),
    "ecg": Reader(make_wfdb(360, 2 * 3600, ("MLII", "V5")), ecg, mutate.any_bytes, ("wfdb",)),
    "wav": Reader(make_sounds(".wav"), recordings(), mutate.any_bytes, ("soundfile", "scipy")),
    "flac": Reader(make_sounds(".flac"), recordings(), mutate.any_bytes, ("soundfile", "scipy")),
    "sound table": Reader(make_sound_table, recordings(), mutate.any_bytes, ("soundfile", "scipy")),
    "digits": Reader(
        make_digits, lambda folder, random: task("speech", path=str(folder)), mutate.any_bytes, ("soundfile",)
    ),
    "an4": Reader(
        make_an4, lambda folder, random: task("speech_ctc", path=str(folder)), mutate.any_bytes, ("soundfile",)
    ),
    "windows": Reader(make_windows, recordings(), mutate.array, ("scipy",)),
    "sequences": Reader(make_sequences, recordings(), mutate.any_json, ("datasets", "scipy")),
    "spoken": Reader(make_spoken, recordings(), mutate.any_json, ("datasets", "soundfile", "scipy")),
    "text": Reader(
        named("text.txt", lambda: "what came before comes again\n" * 20),
        lambda folder, random: task("language", path=(str(folder),)),
        mutate.any_bytes,
    ),
    "rows json": Reader(make_rows("jsonl"), text_rows, mutate.any_json, ("datasets",)),
    "rows parquet": Reader(make_rows("parquet"), text_rows, mutate.any_bytes, ("datasets",)),
    "fashion": Reader(make_fashion, pictures(images.fashion), mutate.packed),
    "cifar": Reader(
        make_cifar,
        pictures(lambda folder: images.cifar(10, folder / "cifar-10-binary.tar.gz")),
        mutate.packed,
    ),
    "tokenizer": Reader(make_text, text, mutate.any_json, ("tokenizers",)),
    "resume": Reader(made_run, resume, mutate.tensors),
    "run": Reader(made_run, of_run, mutate.tensors),
    "warm": Reader(made_run, warm, mutate.tensors),
    "warm official": Reader(make_warm_official, warm_official, mutate.header),
    "evaluate": Reader(make_finished, evaluated, mutate.tensors),
    "learner": Reader(make_learner, saved, mutate.tensors),
    "official": Reader(make_official, official, mutate.header),
    "report": Reader(make_report, report, mutate.any_json, ("matplotlib",)),
    "comparison": Reader(make_comparison, report, mutate.any_json, ("matplotlib",)),
    "compare": Reader(make_runs, compared, mutate.any_json, ("matplotlib", "pyarrow")),
    "compressed": Reader(make_compressed, decompress, mutate.any_bytes),
    "serve": Reader(make_asked, serve, mutate.any_json),
}  # fmt: skip
