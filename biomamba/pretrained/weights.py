"""Weights between a model and an official checkpoint: names, shapes, and the pre-norms that go into in_proj."""

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..model import Model
from .files import Entry, entries, read_config
from .settings import options_of, settings_of

PREFIXES = re.compile(
    r"^(?:_orig_mod\.|module\.|model\.|backbone\.)+"
)  # by torch.compile, by wrappers, by the official models
EMBEDDING, HEAD = "backbone.embeddings.weight", "lm_head.weight"


def load_pretrained(folder: str | Path, **options: Any) -> Model:
    """Return the model of a checkpoint by mamba-ssm or Hugging Face, ready to go on learning.

    folder: a local one, with config.json and *.safetensors (one, or many with their index). Names may begin with
    backbone., model., module. or none of them. Weights come in torch's default precision. A padded vocabulary stays
    padded, as in mamba-ssm.
    options: of the block, such as conv="direct" where a Mamba-1's exact conv traces would not fit.

    Raises FileNotFoundError where config.json or weights are missing; ValueError for weights in pickle, for files that
    are damaged or no weights, for settings that the blocks here do not have, and for tensors missing, unexpected or of
    the wrong shape, before any of them is read.
    """
    folder = Path(folder)
    options = options_of(read_config(folder)) | options
    found, head = _fitting(folder, options)
    model = Model(**options)
    with ExitStack() as stack, torch.no_grad():
        try:
            paths = {entry.path for entry in [*found.values(), *([head] if head else [])]}
            opened = {path: stack.enter_context(safe_open(path, "pt")) for path in paths}
            for name, own in _own(model).items():
                own.copy_(_read(opened, found[_official(name)]))
            for i in range(len(model.blocks)):
                in_proj = model.get_parameter(f"blocks.{i}.in_proj.weight")
                in_proj.mul_(_read(opened, found[_norm(i)]).to(in_proj.dtype))  # one factor per input: per column
            if head is not None:
                _check_tied(_read(opened, head), _read(opened, found[EMBEDDING]))
        except SafetensorError as error:
            raise ValueError(f"{folder}: its weights cannot be read ({error}): copy them again") from error
    return model


def arguments(folder: Path) -> dict[str, Any]:
    """Return what `Model` is made with for a checkpoint. Raises as `load_pretrained` does; no weight is read."""
    options = options_of(read_config(folder))
    _fitting(folder, options)
    return options


def _fitting(folder: Path, options: dict[str, Any]) -> tuple[dict[str, Entry], Entry | None]:
    """Return where each weight lies, by its official name, and a tied head, if it is kept beside the embedding.

    Raises ValueError where the weights are not those of a model with these options, before memory is asked for.
    """
    found = _named(entries(folder))
    if options["n_layers"] > len(found):  # of which each layer has several
        raise ValueError(
            f"config.json: got {options['n_layers']} layers, expected at most the {len(found)} tensors there are"
        )
    if options["tied"] and EMBEDDING not in found and HEAD in found:  # a tied pair may be kept under either name
        found[EMBEDDING] = found.pop(HEAD)
    head = found.pop(HEAD) if options["tied"] and HEAD in found else None
    _check(found, _shapes(options))
    return found, head


def save_official(model: Model, folder: str | Path) -> None:
    """Write config.json and model.safetensors, which Hugging Face's Mamba and Mamba-2 load.

    Raises ValueError for a model that they cannot be (real values, spikes, n-gram tables), FileExistsError where the
    folder holds either file.
    """
    folder, settings = Path(folder), settings_of(model)
    for name in ("config.json", "model.safetensors"):
        if (folder / name).exists():
            raise FileExistsError(f"{folder} already holds {name}: give an empty folder")
    tensors = {_official(name): own.detach().cpu().clone() for name, own in _own(model).items()}
    for i in range(len(model.blocks)):
        tensors[_norm(i)] = torch.ones_like(tensors["backbone.norm_f.weight"])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _read(opened: dict[Path, Any], entry: Entry) -> Tensor:
    """Return a tensor."""
    tensor: Tensor = opened[entry.path].get_tensor(entry.name)
    return tensor


def _named(found: dict[str, Entry]) -> dict[str, Entry]:
    """Return the tensors by their names at Hugging Face, whatever they begin with."""
    named: dict[str, Entry] = {}
    for name, entry in found.items():
        official = PREFIXES.sub("", name)
        official = "embeddings.weight" if official == "embedding.weight" else official  # mamba-ssm's
        official = official if official == HEAD else f"backbone.{official}"
        if official in named:
            raise ValueError(
                f"{entry.path}: {name} and {named[official].name} are one tensor, expected one: delete either"
            )
        named[official] = entry
    return named


def _shapes(options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the options ask for, by official names; no memory is taken."""
    try:
        with torch.device("meta"):
            model = Model(**options)
    except ValueError as error:
        raise ValueError(f"config.json: {error}") from error
    except (RuntimeError, OverflowError) as error:
        raise ValueError(f"config.json: no tensor can have its sizes: {str(error).splitlines()[0][:80]}") from error
    shapes = {_official(name): tuple(own.shape) for name, own in _own(model).items()}
    return shapes | {_norm(i): (options["d_model"],) for i in range(len(model.blocks))}


def _own(model: Model) -> dict[str, Tensor]:
    """Return the weights that a checkpoint holds; of a tied pair the embedding."""
    left_out = {"random_feedback"} | ({"head.weight"} if model.head.weight is model.encoder.weight else set())
    return {name: own for name, own in model.state_dict().items() if name not in left_out}


def _official(name: str) -> str:
    """Return what official checkpoints call one of the model's weights."""
    outside = {"encoder.weight": EMBEDDING, "head.weight": HEAD, "norm_f.weight": "backbone.norm_f.weight"}
    if name in outside:
        return outside[name]
    _, i, rest = name.split(".", 2)  # blocks.<i>.<rest>
    return f"backbone.layers.{i}.mixer.{rest}"


def _norm(layer: int) -> str:
    """Return the name of a layer's pre-norm."""
    return f"backbone.layers.{layer}.norm.weight"


def _check_tied(head: Tensor, embedding: Tensor) -> None:
    """Raise ValueError where a file holds both of a pair that is said to be tied, and they differ."""
    if not torch.equal(head, embedding):
        raise ValueError(
            "config.json: tie_word_embeddings or tie_embeddings: got true, expected false, as lm_head.weight differs "
            "from the embedding"
        )


def _check(found: dict[str, Entry], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError for tensors missing, unexpected or of the wrong shape."""
    misshaped = [
        f"{name} got {found[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    faults = {
        "missing": [name for name in shapes if name not in found],
        "unexpected": [name for name in found if name not in shapes],
        "wrong shape": misshaped,
    }
    told = [f"{fault}: {_some(names)}" for fault, names in faults.items() if names]
    if told:
        raise ValueError("the checkpoint's tensors do not fit its config.json: " + "; ".join(told))


def _some(names: list[str], most: int = 8) -> str:
    """Return the first names, and how many more there are."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more)
