"""Small images with one class each: handwritten digits (scikit-learn's own), Fashion-MNIST, CIFAR-10 and CIFAR-100.

    digits(), fashion(), cifar(10), cifar(100, "cifar-100-binary.tar.gz")   each the images to train on, and to test

Fashion-MNIST is read from the folder of the Debian package dataset-fashion-mnist (MIT), nothing is fetched.
CIFAR is read from the official binary archive or its unpacked folder, else through Hugging Face datasets, from a folder
or, without a path, from the hub or its cache. The official archives of the "python version" are pickles and not read.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIXELS, PART = 3 * 32 * 32, 10_000  # bytes of an image of CIFAR; images in a file of CIFAR-10
FILES = {  # (files to train on, file to test, labels before the pixels: the last one counts)
    10: ([f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 1),
    100: (["train.bin"], "test.bin", 2),
}
IDX_HEADER = 4 + 4 * 255  # bytes, at most
FASHION = "/usr/share/datasets/fashion-mnist"  # of the Debian package
FASHION_PARTS = {"train": 60_000, "t10k": 10_000}
HUB = {10: ("uoft-cs/cifar10", "label"), 100: ("uoft-cs/cifar100", "fine_label")}


class Images(NamedTuple):
    """Images (n, c, h, w) from 0 to 1, and their classes (n,)."""

    x: Tensor
    y: Tensor


def digits() -> tuple[Images, Images]:
    """Return 1,437 digits of 8 x 8 to train on and 360 to test, a fixed split with the same share of each class.

    The writers are the same on both sides. Raises ImportError without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError('the digits are those of scikit-learn: pip install "biomamba[vision]"') from error
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, stratify=data.target, random_state=0)
    return Images(x[train], y[train]), Images(x[test], y[test])


def fashion(folder: str | Path = FASHION) -> tuple[Images, Images]:
    """Return the 60,000 images (28 x 28, ten classes of clothes) of Fashion-MNIST to train on and the 10,000 to test.

    folder: where its four files lie (IDX, .gz). Raises FileNotFoundError, ValueError for a file of another kind.
    """
    parts, folder = [], Path(folder)
    for name, number in FASHION_PARTS.items():
        x = _idx(folder / f"{name}-images-idx3-ubyte.gz", 784 * number)
        y = _idx(folder / f"{name}-labels-idx1-ubyte.gz", number)
        parts.append(Images(x.view(-1, 1, 28, 28).float() / 255, y.long()))
    return parts[0], parts[1]


def _idx(path: Path, size: int) -> Tensor:
    """Return the bytes of an IDX file after its header. Raises ValueError where there are not `size` of them."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; Debian has it: apt install dataset-fashion-mnist")
    try:
        with gzip.open(path) as file:
            content = file.read(size + IDX_HEADER + 1)  # whatever it claims to unpack to
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole .gz file ({error}); install dataset-fashion-mnist again") from error
    header = 4 + 4 * int.from_bytes(content[3:4])  # the number of dimensions, then their sizes
    if content[:3] != b"\0\0\x08" or len(content) - header != size:
        raise ValueError(f"{path}: {len(content):,} bytes, expected an IDX file of {size:,} bytes")
    return torch.tensor(np.frombuffer(content, dtype=np.uint8, offset=header))


def cifar(classes: int, path: str | Path | None = None) -> tuple[Images, Images]:
    """Return the images of CIFAR-10 or CIFAR-100 to train on and to test.

    path: the official binary archive (.tar.gz), its unpacked folder, or a folder that Hugging Face datasets can load.
    Raises FileNotFoundError, ValueError where a file is not of the official size or holds other classes, ImportError
    without datasets.
    """
    if classes not in FILES:
        raise ValueError(f"classes: got {classes}, expected 10 or 100")
    train, test, labels = FILES[classes]
    if path is None:
        return _hub(classes, HUB[classes][0])
    path = Path(path)
    sizes = {name: PART * (PIXELS + labels) * (5 if name == "train.bin" else 1) for name in (*train, test)}
    if path.is_file():
        files = _archived(path, sizes)
    elif found := next(path.rglob(test), None):
        files = _unpacked(found.parent, sizes)
    elif not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give the official cifar-{classes}-binary.tar.gz or a folder")
    elif any(path.rglob("batches.meta")) or any(path.rglob("meta")):
        raise ValueError(f"{path}: the python version holds pickles; give the official binary version")
    else:
        return _hub(classes, str(path))
    parts = {name: _images(content, labels, classes, f"{path}: {name}") for name, content in files}
    return Images(*map(torch.cat, zip(*(parts[name] for name in train), strict=True))), parts[test]


def _unpacked(folder: Path, sizes: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield the files by name. Raises ValueError where one is missing or not of its size, before it is read."""
    for name, size in sizes.items():
        got = (folder / name).stat().st_size if (folder / name).exists() else None
        _check(folder / name, got, size)
        yield name, (folder / name).read_bytes()


def _archived(path: Path, sizes: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive by name. Raises ValueError as `_unpacked` does, and where it is no archive."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            missing = dict(sizes)
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name in missing:
                    _check(f"{path}: {name}", member.size, missing.pop(name))
                    file = archive.extractfile(member)
                    assert file is not None  # a file
                    yield name, file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole .tar.gz ({error}); fetch the official binary version again") from error
    for name, size in missing.items():
        _check(f"{path}: {name}", None, size)


def _check(what: Path | str, got: int | None, size: int) -> None:
    """Raise ValueError where a file is missing (None) or not of the official size."""
    if got != size:
        found = "missing" if got is None else f"{got:,} bytes"
        raise ValueError(f"{what}: {found}, expected {size:,} bytes of the official binary version; fetch it again")


def _images(content: bytes, labels: int, classes: int, name: str) -> Images:
    """Return the images of a file of records: labels, then pixels by channel. Raises ValueError for other classes."""
    records: NDArray[np.uint8] = np.frombuffer(content, dtype=np.uint8).reshape(-1, labels + PIXELS)
    y = torch.tensor(records[:, labels - 1].astype(np.int64))
    if int(y.max()) >= classes:
        raise ValueError(f"{name}: class {int(y.max())}, expected below {classes}")
    return Images(torch.tensor(records[:, labels:]).view(-1, 3, 32, 32).float() / 255, y)


def _hub(classes: int, name: str) -> tuple[Images, Images]:
    """Return the images of a data set of Hugging Face, by its name or folder. Raises what `cifar` does."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError('CIFAR needs the package datasets: pip install "biomamba[vision]"') from error
    try:
        data: Any = load_dataset(name)
        label, parts = HUB[classes][1], []
        for split in ("train", "test"):
            if split not in data or not {"img", label} <= {*data[split].column_names}:
                found = {split: data[split].column_names for split in data}
                raise ValueError(f"got {found}, expected train and test with the columns img and {label}")
            x = np.stack([np.asarray(image.convert("RGB")) for image in data[split]["img"]])
            y = torch.tensor(data[split][label])
            parts.append(Images(torch.tensor(x).permute(0, 3, 1, 2).float() / 255, y))
    except FileNotFoundError:
        raise
    except Exception as error:  # datasets, pyarrow and pillow raise what they like on a damaged file
        raise ValueError(f"{name}: {' '.join(str(error).split())[:300] or type(error).__name__}") from error
    return parts[0], parts[1]
