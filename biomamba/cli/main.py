"""Learn a stream online, compare learning rules, score a run.

    biomamba                                                        = train --config language
    biomamba train --config delay --rule.name bptt --run.seed 3 --run.dir runs/x
    biomamba train --config runs/x/config.yaml --run.resume true
    torchrun --nproc-per-node 2 -m biomamba train --config language --stream.batch 16
    biomamba compare --config delay --rules rtrl,rtrl_stdp,bptt --lengths 1,64 --seeds 3
    biomamba fidelity --config delay --rules rtrl,stllr --lengths 1,8 --depths 1,2
    biomamba report runs/compare-delay-001 runs/x -o report.html
    biomamba evaluate runs/x --split valid
    biomamba export runs/x -o learner.onnx
    biomamba compress book.txt -o book.bm            biomamba decompress book.bm -o book.txt
    biomamba sample runs/x --prompt "for i in"        biomamba serve runs/y
    biomamba info

`python -m biomamba` is the same, and so is `python train.py` in a checkout. --config takes a YAML file, or the name of
one that comes with the package. Every value of a config can be given on the command line: `biomamba train --help`
names them all, those of another task, block or rule with its name: `train --task.name delay --help`; so do
`compare --help`, `fidelity --help`, `report --help` and `evaluate --help`. `info` prints what a bug report needs.
What a run leaves behind is described in biomamba/experiment/log.py.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = (
    "train", "compare", "fidelity", "report", "evaluate", "export", "compress", "decompress", "sample", "serve", "info"
)  # fmt: skip

LONGEST = 1000  # characters of an error, which may quote what a user's file holds
NO_MEMORY = ("can't allocate memory", "Storage size calculation overflowed", "out of memory", "not enough memory")
SMALLER = "give a smaller model.d_model, stream.batch or stream.length"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; what the user can mend is one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    _open_streams()
    code = 0
    try:
        try:
            code = _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read what we print has heard enough, as head does
        _print_nowhere()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:  # while the last of it was printed
        return 128 + signal.SIGINT
    except OSError as error:  # no room for what we print
        _print_nowhere()
        if not code:  # else it was said
            _complain(f"printing: {error}: print into another file")
        return 2
    return code


def _print_nowhere() -> None:
    """Lead what is printed nowhere, or the interpreter complains when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(line: str) -> None:
    """Say what is wrong, where there is room to say it."""
    with contextlib.suppress(OSError):
        print(f"biomamba: {line}", file=sys.stderr)


def _open_streams() -> None:
    """Lead standard streams that are closed nowhere: a file that is opened would get their number, and their words."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the file gets the lowest number that is free
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def first_to_say() -> bool:
    """Say whether of several ranks none has said why it ended."""
    from .. import ranks  # here, as it loads torch

    return ranks.first_to_say()


def _run(argv: Sequence[str]) -> int:
    """Choose the command, load it, which loads torch, and run it."""
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    command, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("train", argv)
    try:
        if command not in COMMANDS:
            raise ValueError(f"got {command!r}, expected one of the commands {', '.join(COMMANDS)}")
        if several and command != "train":
            raise ValueError(f"{command}: started by torchrun, expected one process: leave torchrun out")
        if sys.stderr.isatty():
            print("loading torch ...", end="\r", file=sys.stderr, flush=True)
        code: int = import_module(f".{command}", __package__).run(rest)
        return code
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        if not several or first_to_say():
            _complain(line if len(line) <= LONGEST else f"{line[:LONGEST]} ...")
        return 2
    except (MemoryError, RuntimeError) as error:  # torch has no kind of its own for memory that there is not
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        told = " ".join(str(error).split())[:200]
        _complain(f"memory: more is asked for than there is ({told}): {SMALLER}")
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
