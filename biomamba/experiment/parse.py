"""A config from YAML files in their order, with the command line on top.

    what was given  ->  names chosen from the registries  ->  the keys there are  ->  jsonargparse: types, help

Which options the sections task, model and rule have depends on the name chosen there: they are the arguments with
a default of what the name stands for. An option that only another name has is ignored in a file, so that one config
serves all names (with a note, but for the files that come with the package), and refused on the command line.
Everything is chosen by name: no key takes an import path.
"""

import difflib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt

from .config import SECTIONS, Config, from_values, key_of, to_yaml
from .files import CONFIGS, locate, read
from .registry import PLUGGABLE, REGISTRIES, Registry

CHOSEN_BY = {"task": "name", "model": "block", "rule": "name", "optim": "name"}
PRINTED = ("help", "print_config", "print_completion")  # keys that ask for something to be printed
REPEATED = ("vary", "tune")  # keys that add to what they said before


class Option(NamedTuple):
    """One key of the config or of a command."""

    type: Any
    default: Any
    help: str


class Parsed(NamedTuple):
    """What the files and the command line say."""

    config: Config
    command: Any  # the command's own options, where it has some
    notes: list[str]  # what was ignored


def parse(argv: Sequence[str], command: type | None = None, usage: str = "") -> Parsed:
    """Read every `--config` (default: language), a later one over those before it, and the command line over all.

    command is a dataclass of further options that belong to no section; where it tries several names, as `rules` and
    `vary` say, options of any of them may be given. Raises ValueError, one line that names the key, and
    FileNotFoundError. Prints what --help, --print_config and --print_completion ask for, and raises SystemExit.
    """
    files, typed = _command_line(argv)
    paths = [locate(name) for name in files or ["language"]]
    layers = [(path, read(path)) for path in paths]
    written = {key: value for _, keys in layers for key, value in keys.items()}
    names = {section: _chosen(section, REGISTRIES[section], written, typed) for section in CHOSEN_BY}
    options = _options(names, command)
    ignored = _others(written, typed) - options.keys()
    for key in [*written, *typed]:
        if key not in options and key not in ignored and key not in PRINTED:
            raise ValueError(_unknown(key, [*options, *PRINTED, "config"]))
    parser = _parser(options, names, usage, command)
    if "help" in typed:
        parser.print_help()
        raise SystemExit(0)
    if "print_completion" in typed:
        _print_completion(parser, typed["print_completion"])
    tried = _tried(options, typed)
    for key in typed:
        if key in ignored - tried:
            raise ValueError(_inapplicable(key, names, options))
    given = {key: value for key, value in written.items() if key in options}
    values = _typed(parser, given, {key: words for key, words in typed.items() if key in options}, options)
    config = from_values(values)
    if "print_config" in typed:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    own = {key for path, keys in layers if path.resolve().parent != CONFIGS.resolve() for key in keys}
    notes = [f"{key} is ignored: {_name_of(key, names)} has no such option" for key in own & (ignored - tried)]
    asked = command(**{name: values[name] for name in inspect.signature(command).parameters}) if command else None
    return Parsed(config, asked, sorted(notes))


def _command_line(argv: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return every `--config`, and the words after each other `--key`, or `--key=word`.

    Raises ValueError for words that follow no key.
    """
    files: list[list[str]] = []
    typed: dict[str, list[str]] = {}
    key = None
    for word in argv:
        if word in ("-h", "--help"):
            typed["help"] = []
        elif word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            before = typed.get(key, []) if key in REPEATED else []
            typed[key] = [*before, value] if equals else before
            if key == "config":
                files.append(typed.pop(key))
        elif key is None:
            raise ValueError(f"got {word!r}, expected options such as --run.seed 3")
        else:
            (files[-1] if key == "config" else typed[key]).append(word)
    for words in files:
        if len(words) != 1:
            raise ValueError(
                f"config: got {' '.join(words) or 'nothing'}, expected a file or a name after each --config"
            )
    return [word for (word,) in files], typed


def _chosen(section: str, registry: Registry, written: Mapping[str, Any], typed: Mapping[str, Sequence[str]]) -> str:
    """Return the name a section gives. Raises ValueError where the registry does not have it."""
    key = f"{section}.{CHOSEN_BY[section]}"
    default = inspect.signature(SECTIONS[section]).parameters[CHOSEN_BY[section]].default
    name = " ".join(typed[key]) if key in typed else written.get(key) or default
    if name not in list(registry):
        close = difflib.get_close_matches(str(name), registry, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{key}: got {name!r}, expected one of {', '.join(registry)}{hint}")
    return str(name)


def _options(names: Mapping[str, str], command: type | None) -> dict[str, Option]:
    """Return every key there is: the command's own, the sections', and those of what the names stand for."""
    options = _arguments(command, "") if command else {}
    for section, cls in SECTIONS.items():
        options |= _arguments(cls, f"{section}.")
        if section != "optim" and section in names:
            options |= _arguments(REGISTRIES[section][names[section]], f"{section}.")
    return options


def _arguments(function: Callable[..., Any], prefix: str) -> dict[str, Option]:
    """Return the arguments with a default, with the lines `name: text` of the docstrings as help."""
    docs = inspect.cleandoc(function.__doc__ or "")
    told = dict(re.findall(r"^(\w+): (.+)$", docs, re.MULTILINE))
    return {
        prefix + key_of(name): Option(
            argument.annotation, argument.default, told.get(key_of(name), f"of {function.__name__}")
        )
        for name, argument in inspect.signature(function, eval_str=True).parameters.items()
        if name != "options" and argument.default is not argument.empty
    }


def _others(written: Mapping[str, Any], typed: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the options of all tasks, blocks and rules: of packages, those whose names are given."""
    found: set[str] = set()
    for section, registry in PLUGGABLE.items():
        key = f"{section}.{CHOSEN_BY[section]}"
        given = {written.get(key), *typed.get(key, ()), *_alternatives(section, typed)}
        added = [registry[name] for name in registry.added if name in given]
        for entry in [*registry.own.values(), *added]:
            found |= _arguments(entry, f"{section}.").keys()
    return found


def _alternatives(section: str, typed: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names that a command is to try in a section: --rules a,b, or --vary rule.name=a,b."""
    start = f"{section}.{CHOSEN_BY[section]}="
    given = [*typed.get(f"{section}s", ())]
    given += [word.removeprefix(start) for key in REPEATED for word in typed.get(key, ()) if word.startswith(start)]
    return re.findall(r"[^\s,]+", " ".join(given))


def _tried(options: Mapping[str, Option], typed: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the options of the names that a command tries one after the other; none where it has no `rules`."""
    if "rules" not in options:
        return set()
    given = {"rules": options["rules"].default.split(","), **typed}
    return {
        key
        for section, registry in PLUGGABLE.items()
        for name in _alternatives(section, given)
        if name in registry
        for key in _arguments(registry[name], f"{section}.")
    }


def _inapplicable(key: str, names: Mapping[str, str], options: Iterable[str]) -> str:
    """Return the line for an option that only another task, block or rule has."""
    near = [option for option in options if option.startswith(f"{key.partition('.')[0]}.")]
    close = difflib.get_close_matches(key, near, 1, cutoff=0.8)
    others = ", ".join(option.partition(".")[2] for option in near)
    return f"{key}: {_name_of(key, names)} has no such option; " + (
        f"did you mean {close[0]}?" if close else f"it has {others}"
    )


def _print_completion(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Print a shell's completion, made by shtab, and raise SystemExit. Raises ValueError and ImportError."""
    try:
        import shtab
    except ImportError as error:
        raise ImportError('print_completion: it needs shtab: pip install "biomamba[completion]"') from error
    if list(words) not in [[shell] for shell in shtab.SUPPORTED_SHELLS]:
        shells = ", ".join(shtab.SUPPORTED_SHELLS)
        raise ValueError(f"print_completion: got {' '.join(words) or 'nothing'}, expected one of {shells}")
    print(shtab.complete(parser, shell=words[0]))
    raise SystemExit(0)


def _name_of(key: str, names: Mapping[str, str]) -> str:
    """Return `model.block mamba` for a key of the section model."""
    section = key.partition(".")[0]
    return f"{section}.{CHOSEN_BY[section]} {names[section]}"


def _unknown(key: str, known: Iterable[str]) -> str:
    """Return the line for a key that does not exist."""
    known = list(known)
    section = key.partition(".")[0]
    if key in SECTIONS:
        return f"{key}: is a section, expected its keys, such as {next(k for k in known if k.startswith(key + '.'))}"
    close = [k for k in known if k.endswith(f".{key}")] or difflib.get_close_matches(key, known, 1, cutoff=0.8)
    if close:
        return f"{key}: unknown key; did you mean {close[0]}?"
    there = [k for k in known if k.startswith(section + ".")] if section in SECTIONS else SECTIONS
    return f"{key}: unknown key; expected one of {', '.join(there)}"


def _parser(
    options: Mapping[str, Option],
    names: Mapping[str, str],
    usage: str,
    command: type | None,
) -> ArgumentParser:
    """Return jsonargparse's parser of the keys, with a help that names what there is to choose from."""
    parser = ArgumentParser(
        prog="biomamba", usage=f"biomamba {usage}[--section.key value ...]", exit_on_error=False, allow_abbrev=False
    )
    told = "YAML file, or the name of one that comes with biomamba; of several a later one wins (default: language)"
    parser.add_argument("--config", default=SUPPRESS, help=told)
    parser.add_argument("--print_config", action="store_true", help="print every value as YAML and stop")
    parser.add_argument("--print_completion", metavar="SHELL", help="print what completes options in bash, or another")
    titles = {"": inspect.getdoc(command) if command else "", **{s: inspect.getdoc(cls) for s, cls in SECTIONS.items()}}
    groups = {}
    for section, text in titles.items():
        about = (text or "").splitlines()[:1]
        if section in names:
            about.append(f"{CHOSEN_BY[section]}: {', '.join(REGISTRIES[section])}.")
        if section in names and section != "optim":
            about.append(f"Of {names[section]}: {_about(REGISTRIES[section][names[section]])}")
        groups[section] = parser.add_argument_group(section or "this command", " ".join(about))
    for key, option in options.items():
        group = groups[key.rpartition(".")[0]]
        group.add_argument(f"--{key}", type=option.type, default=option.default, help=option.help)
    return parser


def _about(entry: Callable[..., Any]) -> str:
    """Return what a task, block or rule says of itself and of its arguments."""
    init = entry.__init__.__doc__ if "__init__" in vars(entry) else ""
    return " ".join(((entry.__doc__ or "").split("\n\n")[0] + " " + (init or "")).split())


def _token(key: str, words: Sequence[str], type_: Any) -> str:
    """Return one argument for jsonargparse: several words make a list of words; a lone `--flag` is true."""
    alone = len(words) == 1 and (words[0].startswith("[") or words[0] in ["null", *_literals(type_)])
    if _is_list(type_) and not alone:
        listed = json.dumps(list(words)) if type_ == tuple[str, ...] else f"[{','.join(words)}]"
        return f"--{key}={listed}"
    if not words and type_ is bool:
        return f"--{key}=true"
    if len(words) != 1:
        raise ValueError(f"{key}: got {' '.join(words) or 'nothing'}, expected one value")
    return f"--{key}={words[0]}"


def _is_list(type_: Any) -> bool:
    """Say whether a value of a type is several words: a tuple, perhaps none."""
    return get_origin(type_) is tuple or any(get_origin(part) is tuple for part in get_args(type_))


def _literals(type_: Any) -> list[Any]:
    """Return the words that stand for a value of a type beside its others."""
    return [word for part in get_args(type_) if get_origin(part) is Literal for word in get_args(part)]


def _typed(
    parser: ArgumentParser,
    written: Mapping[str, Any],
    typed: Mapping[str, Sequence[str]],
    options: Mapping[str, Option],
) -> dict[str, Any]:
    """Return every key's value, of its type; null stands for the default where it is no value."""
    tokens = [_token(key, words, options[key].type) for key, words in typed.items()]
    for key, value in [*written.items(), *typed.items()]:
        for one in value if isinstance(value, list | tuple) else [value]:
            if _is_endless(one):
                raise ValueError(f"{key}: got {str(one)[:20]}..., expected a finite number")
    given = written
    try:
        parsed = parser.parse_object(dict(written))
        given = {key: " ".join(words) for key, words in typed.items()}
        parsed = parser.parse_args(tokens, namespace=parsed)
    except ArgumentError as error:
        message = " ".join(str(error.message).split())
        key = next(iter(re.findall(r'Parser key "(.+?)"', message)), "")
        if key not in options:
            raise ValueError(message) from None
        raise ValueError(f"{key}: got {given.get(key)!r}, expected {_describe(options[key].type)}") from None
    values = {key: parsed[key] for key in options}
    for key, value in values.items():
        numbers = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else (value,)
        if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
            raise ValueError(f"{key}: got {given.get(key, written.get(key))!r}, expected a finite number")
    for key, option in options.items():
        if values[key] is None and type(None) not in get_args(option.type):
            values[key] = option.default
    return values


def _is_endless(value: Any) -> bool:
    """Say whether a whole number, perhaps as a word, is larger than any number with a point, which none may be."""
    if isinstance(value, str):
        return bool(re.fullmatch(r"[+-]?[0-9_]{309,}", value))
    return isinstance(value, int) and abs(value) > sys.float_info.max


def _describe(type_: Any) -> str:
    """Return a type in words."""
    if get_origin(type_) is Literal or type(None) in get_args(type_):
        return " or ".join(_describe(part) for part in get_args(type_))
    if get_origin(type_) is tuple:
        parts = [_describe(part) for part in get_args(type_) if part is not Ellipsis]
        return " and ".join(parts) if len(parts) > 1 else f"any number of values, each {parts[0]}"
    words = {type(None): "null", bool: "true or false", PositiveInt: "a whole number above 0"}
    words |= {
        NonNegativeInt: "a whole number, 0 or more",
        PositiveFloat: "a number above 0",
    }
    words |= {OpenUnitInterval: "a number above 0 and below 1"}
    words |= {dict[str, NonNegativeFloat]: "numbers, 0 or more, by name, such as {A_log: 0.1}"}
    words |= {NonNegativeFloat: "a number, 0 or more", int: "a whole number", float: "a number", str: "text"}
    return words.get(type_) or str(type_) if not isinstance(type_, str) else type_
