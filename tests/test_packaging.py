"""The wheel in a fresh environment: the commands, from a folder that holds a tasks.py and a configs/ of one's own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import biomamba
from biomamba.cli import info

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = ["--model.d_model", "4", "--model.d_state", "2", "--model.headdim", "4", "--stream.batch", "2"]
TINY += ["--stream.length", "4", "--stream.steps", "40", "--run.kernels", "torch"]
MINE = "task: {name: delay, delay: 3}\nrun: {seed: 7, baselines: false}\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with the wheel in it; what it needs is seen in the running environment."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # a build leaves files behind, and would take in those of an earlier one
    for name in ("biomamba", "tasks", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    own = ["--no-deps", "--no-index"]  # nothing is fetched: setuptools is in the running environment
    subprocess.run([*pip, "wheel", *own, "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("biomamba-*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", *own, "--ignore-installed", wheel], check=True)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "running.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    return folder / "env"


@pytest.fixture
def run(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a program of the environment in the user's folder."""
    (tmp_path / "tasks.py").write_text("raise RuntimeError('the tasks of the user were imported')\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text(MINE)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def call(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(installed / "bin" / program), *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return call


def test_every_command_runs_where_it_is_installed(run: Run, installed: Path, tmp_path: Path) -> None:
    for words in (
        ["biomamba", "train", "--config", "delay", *TINY, "--run.dir", "runs/packaged"],
        ["python", "-m", "biomamba", "train", "--config", "configs/mine.yaml", *TINY, "--run.dir", "runs/mine"],
        ["biomamba", "evaluate", "runs/mine", "--steps", "20"],
        ["biomamba", "compare", "--config", "configs/mine.yaml", *TINY, "--rules", "rtrl", "--seeds", "1",
         "--fidelity", "8", "--costs", "false", "--run.dir", "runs/compare"],
        ["biomamba", "report", "runs/compare", "runs/mine", "-o", "page.html"],
    ):  # fmt: skip
        done = run(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    assert "delay: 20" in (tmp_path / "runs" / "packaged" / "config.yaml").read_text()
    assert "seed: 7" in (tmp_path / "runs" / "mine" / "config.yaml").read_text()
    assert "rtrl" in (tmp_path / "page.html").read_text()
    said = run("biomamba", "info").stdout
    assert f"biomamba     {metadata.version('biomamba')} in {installed}" in said
    assert "fast         llvmlite " in said


def test_a_name_is_the_packaged_config_and_a_path_the_users_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "delay").write_text(MINE)
    for given, delay in (("delay", "20"), ("./delay", "3")):
        folder = f"runs/{delay}"
        assert run("biomamba", "train", "--config", given, *TINY, "--run.dir", folder).returncode == 0
        assert f"delay: {delay}\n" in (tmp_path / folder / "config.yaml").read_text()


def test_the_users_tasks_would_be_told(run: Run) -> None:
    """The control: the file that must not be imported says so where it is."""
    assert "the tasks of the user were imported" in run("python", "-c", "import tasks").stderr
    assert run("python", "-c", "import biomamba.tasks").returncode == 0


def test_the_wheel_says_that_it_is_typed(installed: Path) -> None:
    assert list(installed.glob("lib/python*/site-packages/biomamba/py.typed"))


def test_all_is_every_extra_but_those_that_must_match_torch() -> None:
    given = PROJECT["optional-dependencies"]
    (line,) = given["all"]
    named = set(line.removeprefix("biomamba[").removesuffix("]").split(","))
    assert named == given.keys() - {"all", "dev", "docs", "mamba", "torchaudio"}


def test_a_checkout_knows_its_extras_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    installed = info.extras()
    monkeypatch.setattr(info.metadata, "requires", nowhere)
    assert info.extras().keys() == PROJECT["optional-dependencies"].keys() - set(info.SETS)
    assert info.extras()["fast"] == ["llvmlite"] and set(installed) <= set(info.extras())


def test_help_loads_no_torch_and_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    code = "import sys; from biomamba.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout
    assert "biomamba train --config delay" in said and said.endswith("False\n")
    for words in ("", "train "):
        pipe = f"{sys.executable} -m biomamba {words}--help | true"
        done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, cwd=ROOT)
        assert (done.stdout, done.stderr) == ("", "")


def test_names_of_the_package_are_imported_when_they_are_asked_for() -> None:
    code = "import biomamba as b; from biomamba.online import Report; print(b.online.__name__, b.Report is Report)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout
    assert said == "online True\n"  # the function, though a module of that name was imported
    assert all(getattr(biomamba, name) is not None for name in biomamba.__all__)
    assert set(biomamba.__all__) <= set(dir(biomamba))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        biomamba.nothing  # noqa: B018
