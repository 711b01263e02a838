"""`biomamba info`: what a bug report needs."""

import os
import platform
import re
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from .. import __version__, code_cache
from ..ops.backend import resolve

ROOT = Path(__file__).parents[1]
REQUIREMENT = re.compile(r"^([\w.-]+)")
EXTRA = re.compile(r"""extra == ["']([\w-]+)["']""")
SETS = ("all", "dev", "docs")  # extras that no run needs


def run(argv: Sequence[str]) -> int:
    """Print versions, backend, threads, GPU, and which optional packages are installed."""
    if argv and argv[0] not in ("-h", "--help"):
        raise ValueError(f"info: got {' '.join(argv)}, expected nothing after it")
    if argv:
        print(f"usage: biomamba info\n\n{run.__doc__}")
        return 0
    for name, text in facts().items():
        print(f"{name:<12} {text}")
    for extra, packages in extras().items():
        found = {package: version(package) for package in packages}
        words = ", ".join(f"{package} {own or 'missing'}" for package, own in found.items())
        print(f"{extra:<12} {words}" + ("" if all(found.values()) else f': pip install "biomamba[{extra}]"'))
    return 0


def facts() -> dict[str, str]:
    """Return versions, processor, GPU and backend in words."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    backend = {device: resolve("auto", device) for device in ("cpu", *(["cuda"] if gpus else []))}
    kept = f"; kept in {code_cache.home('kernels')}" if backend["cpu"] == "llvm" else ""
    return {
        "biomamba": f"{__version__} in {ROOT}",
        "python": f"{platform.python_version()}, {platform.platform()}",
        "torch": f"{torch.__version__}, numpy {version('numpy')}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "GPU": ", ".join(gpus) or "none that torch can use",
        "backend": ", ".join(f"{name} on {device}" for device, name in backend.items()) + kept,
    }


def extras() -> dict[str, list[str]]:
    """Return the packages of every extra, as installed, or as pyproject.toml of a checkout says."""
    try:
        lines = metadata.requires("biomamba") or []
        named = [(EXTRA.search(line), line) for line in lines]
        pairs = [(extra[1], line) for extra, line in named if extra]
    except metadata.PackageNotFoundError:
        project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        pairs = [(extra, line) for extra, own in project["optional-dependencies"].items() for line in own]
    found: dict[str, list[str]] = {}
    for extra, line in pairs:
        if extra not in SETS and (package := REQUIREMENT.match(line)):
            found.setdefault(extra, []).append(package[1])
    return found


def version(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
