"""The README's Python runs as it stands, and its commands name what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)  # noqa: S102  our own text
    assert re.search(r"\{'accuracy': 0\.\d+, 'loss': \d", capsys.readouterr().out)


def test_files_and_targets_that_are_named_exist() -> None:
    for name in re.findall(r"(?:configs|tests|biomamba|docs|bench)/[\w.]+\.(?:yaml|py|md|png)", TEXT):
        assert (ROOT / name).is_file(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
