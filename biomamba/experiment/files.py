"""Config files: those that come with the package, by name, and those of the user's, by path; plain YAML."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .config import flatten

CONFIGS = Path(__file__).parents[1] / "configs"


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
    try:
        sections = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys) or {}  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config: {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(sections, dict):
        raise ValueError(f"config: {path} holds no keys, expected sections such as run: {{seed: 0}}")
    return flatten(sections)


class UniqueKeys(yaml.SafeLoader):
    """Plain values only, and no key twice in a mapping."""

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
