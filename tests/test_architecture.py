"""The house: imports point down, heavy packages stay behind one door, nothing is pickled."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = [
    "ops",
    "plasticity",
    "state",
    "stream",
    "metrics",
    "checks",
    "blocks",
    "model",
    "official",
    "rules",
    "inputs",
    "threads",
    "step",
    "learn",
    "compiled",
    "online",
]
LEVELS += ["fidelity", "operations", "energy", "cost", "neurobench"]
HEAVY = {"datasets", "transformers", "mamba_ssm", "torchaudio", "wfdb", "matplotlib", "numba", "triton", "mne", "edfio"}
HEAVY |= {"soundfile", "jiwer", "scipy", "neurokit2", "river", "sklearn", "neurobench", "snntorch", "pynvml"}
HEAVY |= {"tensorboard", "wandb", "trackio", "brian2"}
SOURCES = sorted([*ROOT.glob("biomamba/**/*.py"), *ROOT.glob("tasks/*.py"), ROOT / "train.py"])


def imports(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Yield every imported module, relative ones resolved; only those at the top level unless `everywhere`."""
    tree = ast.parse(path.read_text())
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def level(module: str) -> int | None:
    """Return how high a module of the library lies; None for those outside the order."""
    parts = module.split(".")
    return LEVELS.index(parts[1]) if parts[0] == "biomamba" and len(parts) > 1 and parts[1] in LEVELS else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for module in imports(path, everywhere=path.name != "model.py"):  # load_official builds on the model it returns
        if name.startswith("biomamba"):
            assert module.split(".")[0] not in ("tasks", "configs", "train"), f"{name} imports {module}"
        if name.startswith("tasks") and module.startswith("biomamba"):
            assert module.split(".")[1] in ("stream", "metrics"), f"{name} imports {module}"
        mine, theirs = level(name), level(module)
        if mine is not None and theirs is not None:
            assert theirs <= mine, f"{name} imports {module} from above"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    used = {module.split(".")[0] for module in imports(path, everywhere=False)} & HEAVY
    library = path.stem.partition("_")[0]
    assert used <= {library}, "kernels are loaded by name, when first needed"
    assert not [module for module in imports(path) for heavy in HEAVY - {library} if f".{heavy}_" in module]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_or_executed(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & {"pickle", "dill", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "torch.load", "torch.save"), ast.unparse(node)


def test_the_laws_above_can_fail(tmp_path: Path) -> None:
    assert list(imports(ROOT / "biomamba" / "rules" / "rtrl.py"))
    assert level("biomamba.rules.rtrl") > level("biomamba.blocks.mamba2") > level("biomamba.ops.ssm")
    assert "biomamba.ops.ssm.recur" in set(imports(ROOT / "biomamba" / "blocks" / "mamba2.py"))
