"""docs/promises.md: every test that it names exists; and no connection is opened that nobody asked for."""

import ast
import re
import socket
from pathlib import Path

import pytest

import biomamba
from audit import told
from biomamba.cli.main import main
from biomamba.tasks.common import files

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "promises.md"
TINY = ["--config", "delay", "--config", str(Path(__file__).with_name("tiny.yaml"))]


def missing(text: str) -> list[str]:
    """Return the tests that a page names and that there are not."""
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", text)
    assert named, "a page that names no test"
    return [f"{file}::{name}" for file, name in named if not (ROOT / file).is_file() or name not in functions(file)]


def functions(file: str) -> set[str]:
    """Return the names of a file's functions."""
    return {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    assert missing(PAGE.read_text()) == []
    assert missing("`tests/test_promises.py::test_of_nothing` `tests/no.py::a`") == [
        "tests/test_promises.py::test_of_nothing", "tests/no.py::a"
    ]  # fmt: skip


def test_every_promise_names_one() -> None:
    rows = [
        line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| promise")
    ]
    assert len(rows) > 15 and all("::" in row for row in rows)


def test_nothing_connects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[object] = []

    def refuse(*given: object, **named: object) -> None:
        asked.append(given)
        raise OSError("no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    run, table = tmp_path / "run", tmp_path / "rows.csv"
    table.write_text("\n".join(["u,v,y", *(f"{i % 5},{i % 3},{i % 2}" for i in range(60))]))
    assert main(["train", *TINY, "--run.dir", str(run)]) == 0
    assert main(["evaluate", str(run)]) == 0
    assert main(["info"]) == 0
    assert main(["train", "--config", "arrays", "--task.path", str(table), "--run.dir", str(tmp_path / "other")]) == 0
    biomamba.load(run)
    assert not asked
    assert not files._answers("example.org") and asked  # control


def test_an_audit_that_asked_nothing_is_none() -> None:
    skipped = {"name": "torch", "skip_reason": "not found"}
    clean = {"name": "numpy", "version": "2.0", "vulns": []}
    faulty = {"name": "tqdm", "version": "4.0", "vulns": [{"id": "CVE-1", "fix_versions": ["4.66.3"]}]}
    assert told({"dependencies": [skipped]})[0] == 2
    assert told({"dependencies": [skipped, clean]}) == (0, "audit: 1 packages asked about, 1 not, 0 known faults")
    code, text = told({"dependencies": [clean, faulty]})
    assert code == 1 and "tqdm 4.0: CVE-1, mended in 4.66.3" in text
