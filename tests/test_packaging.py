"""The wheel in a fresh environment: the commands, from a folder that holds a tasks.py and a configs/ of one's own."""

import json
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
TINY += ["--stream.length", "4", "--stream.steps", "40", "--run.backend", "torch"]
MINE = "task: {name: delay, delay: 3}\nrun: {seed: 7, baselines: false}\n"

PLUGIN = {  # a package of a task and a rule: what anybody can write
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "theirs"
version = "1"
[tool.setuptools]
py-modules = ["theirs", "broken"]
[project.entry-points."biomamba.tasks"]
echo = "theirs:Echo"
arrays = "theirs:Echo"
broken = "broken:Task"
[project.entry-points."biomamba.rules"]
scaled = "theirs:Scaled"
""",
    "broken.py": "raise RuntimeError('imported though nobody asked for it')\n",
    "theirs.py": """
from dataclasses import dataclass
import torch
from biomamba import Chunk, Spec
from biomamba.metrics import Accuracy, labelled_cross_entropy
from biomamba.rules import RTRL

@dataclass(frozen=True)
class Echo:
    back: int = 2

    spec = Spec(vocab=4, d_out=4)

    def stream(self, split, *, batch, length, seed, start=0):
        x = torch.randint(4, (batch, 1000), generator=torch.Generator().manual_seed(seed))
        whole = Chunk(x, x.roll(self.back, 1), x >= 0, x < 0)
        return (whole.between(at, at + length) for at in range(start, 1000, length))

    def loss(self, out, chunk):
        return labelled_cross_entropy(out, chunk) / chunk.mask.sum().clamp(min=1)

    def meters(self):
        return {"accuracy": Accuracy()}

class Scaled(RTRL):
    def __init__(self, blocks, gain: float = 1.0):
        super().__init__(blocks)
        self.gain = gain

    def backward(self, loss, *given, **named):
        return super().backward(self.gain * loss, *given, **named)
""",
}


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
    plugin = folder / "plugin"
    plugin.mkdir()
    for name, text in PLUGIN.items():
        (plugin / name).write_text(text)
    for project in (source, plugin):
        subprocess.run([*pip, "wheel", *own, "--no-build-isolation", "-w", folder, project], check=True)
    wheels = [next(folder.glob(f"{name}-*.whl")) for name in ("biomamba", "theirs")]
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", *own, "--ignore-installed", *wheels], check=True)
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


@pytest.mark.slow
def test_every_command_runs_where_it_is_installed(run: Run, installed: Path, tmp_path: Path) -> None:
    for words in (
        ["biomamba", "train", "--config", "delay", *TINY, "--run.dir", "runs/packaged"],
        ["python", "-m", "biomamba", "train", "--config", "configs/mine.yaml", *TINY, "--run.dir", "runs/mine"],
        ["biomamba", "evaluate", "runs/mine", "--steps", "20"],
        ["biomamba", "compare", "--config", "configs/mine.yaml", *TINY, "--rules", "rtrl", "--seeds", "1",
         "--fidelity", "0", "--costs", "false", "--run.dir", "runs/compare"],
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


@pytest.mark.slow
def test_a_package_adds_a_task_and_a_rule_by_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "echo.yaml").write_text("task: {name: echo, back: 3}\nrule: {name: scaled, gain: 0.5}\n")
    for words in (
        ["train", "--config", "echo.yaml", *TINY, "--run.held_out", "true", "--run.dir", "runs/echo"],
        ["evaluate", "runs/echo", "--steps", "20"],
        ["compare", "--config", "delay", "--task.name", "echo", *TINY, "--rules", "bptt,scaled", "--rule.gain", "0.5",
         "--seeds", "1", "--fidelity", "0", "--costs", "false", "--run.dir", "runs/other"],
    ):  # fmt: skip
        done = run("biomamba", *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    summary = json.loads((tmp_path / "runs" / "echo" / "summary.json").read_text())
    assert (summary["task"], summary["source"], summary["rule"]) == ("echo", "Echo", "scaled")
    assert {"all", "last_tenth", "held_out"} == summary["scores"]["accuracy"].keys()
    assert "back: 3" in (tmp_path / "runs" / "echo" / "config.yaml").read_text()
    assert "gain: 0.5" in (tmp_path / "runs" / "echo" / "config.yaml").read_text()
    checked = "from biomamba.testing import check_task; import biomamba; check_task(biomamba.make_task('echo', back=1))"
    assert run("python", "-c", checked).returncode == 0


@pytest.mark.parametrize(
    "given, said",
    [
        (["--task.name", "arrays"], "biomamba.tasks: arrays is what biomamba itself and package theirs call their own"),
        (["--task.name", "broken"], "biomamba.tasks: broken of package theirs does not import (RuntimeError: imported"),
        (["--task.name", "ech"], "task.name: got 'ech', expected one of arrays, delay"),
        (["--task.name", "theirs:Echo"], "task.name: got 'theirs:Echo', expected one of"),
        (["--task.name", "echo", "--rule.gain", "2"], "rule.gain: unknown key"),
    ],
)
def test_what_is_wrong_with_a_name_is_one_line(run: Run, given: list[str], said: str) -> None:
    done = run("biomamba", "train", "--config", "language", *TINY, *given)
    assert done.returncode == 2 and done.stderr.startswith(f"biomamba: {said}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_of_a_package_is_imported_before_it_is_asked_for(run: Run) -> None:
    text = "import sys; from biomamba.experiment import parse; parse.parse([])"
    text += "; print(*{'theirs', 'broken'} & {*sys.modules})"
    assert run("python", "-c", text).stdout == "\n"
    asked = text.replace("parse.parse([])", "parse.parse(['--task.name', 'echo'])")
    assert run("python", "-c", asked).stdout == "theirs\n"  # control


def test_the_users_tasks_would_be_told(run: Run) -> None:
    """The control: the file that must not be imported says so where it is."""
    assert "the tasks of the user were imported" in run("python", "-c", "import tasks").stderr
    assert run("python", "-c", "import biomamba.tasks").returncode == 0


def test_the_wheel_says_that_it_is_typed(installed: Path) -> None:
    assert list(installed.glob("lib/python*/site-packages/biomamba/py.typed"))


def test_all_is_every_extra_but_those_that_must_match_torch() -> None:
    given = PROJECT["optional-dependencies"]
    lines = [line.removeprefix("biomamba[").removesuffix("]") for line in given["all"]]
    named = set(",".join(lines).split(","))
    assert named == given.keys() - {"all", "dev", "docs", "mamba", "torchaudio", "services"}  # services: of examples


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
    assert all(getattr(biomamba, name) is not None for name in biomamba.__all__)
    assert set(biomamba.__all__) <= set(dir(biomamba))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        biomamba.nothing  # noqa: B018
