"""Config files: those that come with the package, by name, and those of the user's, by path; plain YAML, and JSON."""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .config import flatten

CONFIGS = Path(__file__).parents[1] / "configs"
LARGEST = 1 << 20  # bytes of a file
VALUES = 10_000  # in a file, those that aliases repeat counted each time
DEPTH = 50  # of values in values


def packaged() -> list[str]:
    """Return the names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def locate(name: str) -> Path:
    """Return the file of a config that comes with the package, by its name, or the path that was given."""
    return CONFIGS / f"{name}.yaml" if name in packaged() else Path(name)


def read(path: Path) -> dict[str, Any]:
    """Return the keys of a YAML file, such as run.seed. Raises ValueError and FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"config: no file {path}, expected a YAML file or one of {', '.join(packaged())}")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"config: {path} has {path.stat().st_size:,} bytes, expected at most {LARGEST:,}")
    try:
        sections = yaml.load(path.read_text(encoding="utf-8"), PlainValues) or {}  # noqa: S506 - a safe loader
    except RecursionError:
        raise ValueError(
            f"config: {path} holds values in values over {DEPTH} deep, expected sections of keys"
        ) from None
    except Exception as error:  # a broken file brings ValueError and others too: dates, numbers, surrogates
        raise ValueError(f"config: {path} cannot be read as YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(sections, dict):
        raise ValueError(f"config: {path} holds no keys, expected sections such as run: {{seed: 0}}")
    return flatten(sections)


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of JSON holds. Raises ValueError, with the file, where that is no object."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


class PlainValues(yaml.SafeLoader):
    """Plain values only, no more of them than a config may hold, and no key twice in a mapping."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the file's values. Raises yaml.YAMLError and RecursionError for more than a config may hold."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _size(node, 0, {}) > VALUES:
            raise yaml.constructor.ConstructorError(None, None, f"over {VALUES:,} values", node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping. Raises yaml.YAMLError for a key that is there twice."""
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    told = f"the key {key.value} is there twice"
                    raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, depth: int, sizes: dict[int, int]) -> int:
    """Return how many values a value holds. Raises RecursionError for one that is too deep, or holds itself."""
    if depth > DEPTH:
        raise RecursionError
    if id(node) not in sizes:
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        pairs = parts if isinstance(node, yaml.MappingNode) else [(part,) for part in parts]
        sizes[id(node)] = 1 + sum(_size(part, depth + 1, sizes) for pair in pairs for part in pair)
    return sizes[id(node)]
