"""The house: imports point down, heavy packages stay behind one door, nothing is pickled."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = [
    "ops",
    "plasticity",
    "plugins",
    "state",
    "ngram",
    "stream",
    "metrics",
    "checks",
    "blocks",
    "model",
    "pretrained",
    "rules",
    "inputs",
    "threads",
    "step",
    "ranks",
    "update",
    "readout",
    "pure",
    "moments",
    "kinds",
    "addresses",
    "compiled",
    "fused",
    "batched",
    "scaler",
    "reduction",
    "rows",
    "loop_state",
    "updater",
    "checkpoint",
    "pages",
    "saved",
    "sampling",
    "learner",
    "estimators",
    "partial",
    "fleet",
    "loop",
    "deploy",
    "testing",
]
LEVELS += ["integrations", "analysis", "tasks", "experiment", "report", "cli"]
HEAVY = {"datasets", "transformers", "mamba_ssm"}
HEAVY |= {"torchaudio", "wfdb", "matplotlib", "llvmlite", "triton", "mne", "edfio"}
HEAVY |= {"soundfile", "jiwer", "scipy", "neurokit2", "river", "sklearn", "neurobench", "snntorch", "pynvml"}
HEAVY |= {"tensorboard", "wandb", "trackio", "brian2", "onnx", "onnxruntime", "onnxscript", "submitit"}
SOURCES = sorted([*ROOT.glob("biomamba/**/*.py"), *ROOT.glob("tasks/**/*.py"), ROOT / "train.py"])


def imports(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Yield every imported module, relative ones resolved; only those at the top level unless `everywhere`."""
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    package = ("biomamba", *package) if package[:1] == ("tasks",) else package
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def named(path: Path) -> str:
    """Return the name a file is imported by; there is one: tasks/delay.py is biomamba.tasks.delay."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return f"biomamba.{name}" if name.startswith("tasks") else name


def level(module: str) -> int | None:
    """Return how high a module of the library lies; None for those outside the order."""
    parts = module.split(".")
    return LEVELS.index(parts[1]) if parts[0] == "biomamba" and len(parts) > 1 and parts[1] in LEVELS else None


def heavy(path: Path) -> set[str]:
    """Return the heavy packages that are loaded when a file is."""
    return {module.split(".")[0] for module in imports(path, everywhere=False)} & HEAVY


def doors(path: Path) -> set[str]:
    """Return the packages that a file or its folder is named after: triton of triton/, llvmlite of llvm/."""
    names = {part.partition("_")[0] for part in path.relative_to(ROOT).with_suffix("").parts}
    return {"llvmlite" if name == "llvm" else name for name in names} & HEAVY


BEHIND = {named(path): heavy(path) for path in SOURCES if heavy(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    mine = level(named(path))
    for module in imports(path):
        if named(path).startswith("biomamba.tasks") and module.startswith("biomamba"):
            assert module.split(".")[1] in ("tasks", "stream", "metrics"), f"{path} imports {module}"
        theirs = level(module)
        if mine is not None and theirs is not None:
            assert theirs <= mine, f"{path} imports {module} from above"


@pytest.mark.parametrize("path", [*SOURCES, *ROOT.glob("tests/*.py"), *ROOT.glob("bench/*.py")], ids=str)
def test_every_module_has_one_name(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & {"tasks", "configs", "train"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("bench/*.py")), ids=lambda path: path.stem)
def test_benches_build_experiments_never_the_command_line(path: Path) -> None:
    assert not [module for module in imports(path) if f"{module}.".startswith("biomamba.cli.")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_loaded_by_name_when_first_used(path: Path) -> None:
    assert heavy(path) <= doors(path), "only a file or folder named after a package loads it with itself"
    for module in imports(path):
        for name, used in BEHIND.items():
            if f"{module}.".startswith(f"{name}."):
                assert used <= doors(path), f"{path} imports {module}, which loads {used}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_or_executed(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & {"pickle", "dill", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "torch.load", "torch.save"), ast.unparse(node)


def test_the_laws_above_can_fail(tmp_path: Path) -> None:
    assert list(imports(ROOT / "biomamba" / "rules" / "rtrl.py"))
    assert {"llvmlite", "triton"} <= set().union(*BEHIND.values())
    assert (
        doors(ROOT / "biomamba/ops/llvm/ssm.py")
        == {"llvmlite"}
        != doors(ROOT / "biomamba/ops/triton/scan.py")
        == {"triton"}
    )
    assert not doors(ROOT / "biomamba/ops/ssm.py")
    assert level("biomamba.rules.rtrl") > level("biomamba.blocks.mamba2") > level("biomamba.ops.ssm")
    assert "biomamba.ops.ssm.selective_scan" in set(imports(ROOT / "biomamba" / "blocks" / "mamba2.py"))
