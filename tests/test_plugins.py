"""Names of the library and of packages: nothing loaded unasked, and every clash one line."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from biomamba import plugins
from biomamba.plugins import Registry
from biomamba.rules import BPTT, RTRL, LearningRule

GROUP = "biomamba.rules"
ADDED = {"theirs": "anything:Rule", "none": "anything:nothing", "lost": "not_there:Rule"}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[type[LearningRule]]:
    (tmp_path / "anything.py").write_text("from biomamba.rules import RTRL\nclass Rule(RTRL): pass\nnothing = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "anything", raising=False)
    entries = [EntryPoint(name, value, GROUP) for name, value in ADDED.items()]
    entries += [EntryPoint(name, f"{module}:Rule", GROUP) for name in ("rtrl", "twice") for module in ("one", "two")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == GROUP else [])
    return Registry(GROUP, {"bptt": BPTT, "rtrl": RTRL}, LearningRule)


def test_names_are_listed_without_loading_what_they_stand_for(registry: Registry[type[LearningRule]]) -> None:
    assert list(registry) == ["bptt", "rtrl", "theirs", "none", "lost", "twice"] and len(registry) == 6
    assert "theirs" in registry and "ours" not in registry and registry["bptt"] is BPTT
    assert "anything" not in sys.modules
    theirs = registry["theirs"]
    assert issubclass(theirs, RTRL) and registry["theirs"] is theirs
    assert "anything" in sys.modules  # control


@pytest.mark.parametrize(
    "name, kind, said",
    [
        ("rtrl", ValueError, "rtrl is what biomamba itself and module one and module two call their own"),
        ("twice", ValueError, "twice is what module one and module two call their own: uninstall one"),
        (
            "none",
            ValueError,
            "none of module anything is anything:nothing, expected a class that inherits from Learning",
        ),
        (
            "lost",
            ImportError,
            "lost of module not_there does not import .ModuleNotFoundError: No module named 'not_there'",
        ),
        ("ours", KeyError, "ours"),
    ],
)
def test_a_name_that_stands_for_no_rule_is_an_error(
    registry: Registry[type[LearningRule]], name: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as error:
        registry[name]
    assert "\n" not in str(error.value)
