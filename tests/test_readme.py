"""The Python of the README and of the pages in docs runs as it stands, and what they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_examples_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one of them saves
    blocks = PYTHON.findall(TEXT)
    assert len(blocks) >= 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)  # noqa: S102  our own text
    assert re.search(r"\{'accuracy': 0\.\d+, 'loss': \d", capsys.readouterr().out)


SLOW = [pytest.param("inference", marks=pytest.mark.slow)]
NAMES = ["associative", "attention", "extend", "learn", "learner", "plasticity", "scale", *SLOW]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_page_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one of them draws
    blocks = PYTHON.findall((ROOT / "docs" / f"{name}.md").read_text())
    assert blocks
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, f"{name}.md", "exec"), scope)  # noqa: S102  our own text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page: Path) -> None:
    """Its links, the modules its commands run, and the tests it speaks of; and the site leads to it."""
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([\w./-]+)", text):
        assert (page.parent / link).is_file(), link
    for module in re.findall(r"python -m ([\w.]+)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for name in re.findall(r"tests/\w+\.py", text):
        assert (ROOT / name).is_file(), name
    assert f": {page.name}\n" in (ROOT / "mkdocs.yml").read_text()


def test_files_and_targets_that_are_named_exist() -> None:
    for name in re.findall(r"(?:configs|tests|biomamba|docs|bench|examples)/[\w./]+\.(?:yaml|py|md|svg|ipynb)", TEXT):
        assert (ROOT / name).is_file(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert f"\n{target}:" in makefile, target
