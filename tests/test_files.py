"""Where data is looked for, in which order, and what is said where it is not there; no network is touched."""

import importlib
import socket
from pathlib import Path

import pytest

from biomamba.tasks.common import files
from biomamba.tasks.common.files import check_split, locate, package

HOST = "data.example"


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """Refuse every connection, note the attempts, and keep the cache in a folder of the test."""
    tried: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        tried.append(address)
        raise TimeoutError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("BIOMAMBA_DATA", raising=False)
    return tried


def held(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "one.dat").touch()
    return folder


def never(folder: Path) -> None:
    raise AssertionError(f"fetched into {folder}")


def find(path: Path | None = None, fetch: object = never) -> Path | None:
    return locate("set", None if path is None else str(path), "*.dat", HOST, fetch)  # type: ignore[arg-type]


def test_the_named_folder_comes_first_then_the_data_folder_then_the_cache(
    net: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find() is None  # simulated
    assert net == [(HOST, 443)]
    cached = held(tmp_path / "cache" / "set")
    assert find() is None  # begun, not whole
    (cached / ".whole").touch()
    assert find() == cached
    monkeypatch.setenv("BIOMAMBA_DATA", str(tmp_path / "data"))
    assert find() == cached  # there is no such folder in it
    data = held(tmp_path / "data" / "set")
    assert find() == data
    named = held(tmp_path / "named")
    assert find(named) == named
    assert len(net) == 2  # control: only where nothing lay there was the network asked


def test_a_folder_may_be_named_from_home(net: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    held(tmp_path / "mine")
    assert find(Path("~/mine")) == tmp_path / "mine"


def test_it_is_fetched_once_where_there_is_a_network(
    net: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *given: socket.socket())

    def fails(folder: Path) -> None:
        (folder / "half.dat").touch()
        raise OSError("the line broke")

    with pytest.raises(OSError, match="the line broke"):
        find(fetch=fails)
    fetched = []
    for _ in range(2):  # what was fetched in part is fetched again, what is whole is not
        assert find(fetch=lambda folder: fetched.append((folder / "one.dat").touch())) == tmp_path / "cache" / "set"
    assert len(fetched) == 1
    assert f"fetching set from {HOST}" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["task.path", "BIOMAMBA_DATA", "the cache"])
def test_a_folder_without_the_data_is_one_line_that_names_it(
    where: str, net: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / ("cache" if where == "the cache" else "data") / "set"
    folder.mkdir(parents=True)
    (folder / ".whole").touch()
    monkeypatch.setenv("BIOMAMBA_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError) as error:
        find(folder if where == "task.path" else None)
    assert str(error.value) == f"{where}: folder {folder} holds no *.dat: give the folder of the data itself"
    with pytest.raises(FileNotFoundError, match=r"task.path: no folder .*lost, expected one that holds \*.dat"):
        find(tmp_path / "lost")
    assert net == []


@pytest.mark.parametrize("kind", [ImportError, OSError, RuntimeError, ModuleNotFoundError])
def test_a_package_that_does_not_import_gives_the_pip_line(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise kind("libcudart.so.13:\ncannot open")

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(ImportError) as error:
        package("torchaudio.datasets", "torchaudio", "SPEECHCOMMANDS")
    assert str(error.value) == (
        f"SPEECHCOMMANDS needs the package torchaudio, which does not import here ({kind.__name__}): "
        'pip install "biomamba[torchaudio]"'
    )


def test_a_package_that_is_there_is_returned_and_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert package("json.decoder", "none", "a test").JSONDecoder

    def fails(name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(ZeroDivisionError):
        package("json", "none", "a test")


def test_a_split_that_is_not_there() -> None:
    check_split("test", {"train": "", "test": ""})
    with pytest.raises(ValueError, match="split is 'valid', expected one of train, test"):
        check_split("valid", {"train": "", "test": ""})
