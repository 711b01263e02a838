"""`biomamba sample`: a finished run of text goes on writing."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ..experiment.load import load

USAGE = "biomamba sample RUN [--prompt TEXT] [--count N] [--temperature T] [--top_p P] [--learn true] [--save DIR]"


@dataclass(frozen=True)
class Sample:
    """Print a text and what the learner of a run, or a saved one, adds to it.

    prompt: the beginning; a line break where none is given
    count: how many tokens (bytes, without a tokenizer) to add
    temperature: 0 takes the likeliest token each time; 1 draws as the model says
    top_p: draw from the likeliest tokens that hold this share together
    learn: learn from the prompt and from what it says, a token at a time
    lr: learning rate; null: the run's own
    seed: of the draws
    save: folder to keep the learner in afterwards; null: nowhere
    """

    prompt: str = "\n"
    count: PositiveInt = 300
    temperature: NonNegativeFloat = 0.8
    top_p: PositiveFloat = 1.0
    learn: bool = False
    lr: PositiveFloat | None = None
    seed: NonNegativeInt = 0
    save: str | None = None


def run(argv: Sequence[str]) -> int:
    """Print the prompt and what comes after it, token by token."""
    folder, own = options(argv, Sample, USAGE)
    learner = load(folder, threads=1, **({} if own.lr is None else {"lr": own.lr}))
    task: Any = learner.task
    if not hasattr(task, "encode"):
        raise ValueError(f"sample: {folder} learned {type(task).__name__}, expected a run of text, such as of language")
    if not own.learn:
        learner.freeze()
    prompt = task.encode(own.prompt or "\n")
    said = learner.sample(prompt, own.count, own.temperature, own.top_p, own.seed)
    write(task, prompt, said)
    if own.save is not None:
        learner.unfreeze()
        learner.save(own.save)
        print(f"{own.save}: the learner, {learner.state.steps if learner.state else 0:,} steps on", file=sys.stderr)
    return 0


def write(task: Any, prompt: Sequence[int], said: Iterable[int]) -> None:
    """Print tokens as the characters are whole."""
    tokens, shown = list(prompt), task.decode(prompt)
    print(shown, end="", flush=True)
    for token in said:
        tokens.append(token)
        text = task.decode(tokens)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # the rest of a character is still to come
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()


def options(argv: Sequence[str], kind: type[Any], usage: str) -> tuple[Path, Any]:
    """Return the folder and a command's own options. Raises ValueError for what they cannot be."""
    parser = ArgumentParser(prog="biomamba", usage=usage, exit_on_error=False)
    parser.add_argument("folder", type=str, help="folder of a finished run or of a saved learner")
    parser.add_class_arguments(kind, as_group=False)
    try:
        values = vars(parser.parse_args(list(argv)))
    except ArgumentError as error:
        raise ValueError(f"{' '.join(str(error).split())}; expected {usage}") from None
    return Path(values.pop("folder")), kind(**values)
