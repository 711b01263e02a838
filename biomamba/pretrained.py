"""Official weights: checkpoints of Mamba and Mamba-2 by mamba-ssm or Hugging Face, read from a local folder.

    in_proj(w * norm(x))  =  (in_proj diag(w)) norm(x)

The pre-norms here carry no weight w, so each layer's goes into its in_proj; the rest is copied. Only config.json
and *.safetensors are read: no pickle, nothing is downloaded. d is the model width.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .model import EPS, Model

Settings = dict[str, Any]

# what a setting is where config.json leaves it out: the defaults of either library
HUGGING_FACE: dict[str, Settings] = {
    "mamba": {
        "vocab_size": 50280,
        "hidden_size": 768,
        "num_hidden_layers": 32,
        "state_size": 16,
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": "auto",
        "tie_word_embeddings": True,
    },
    "mamba2": {
        "vocab_size": 32768,
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "state_size": 128,
        "conv_kernel": 4,
        "expand": 2,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "tie_word_embeddings": False,
    },
}
MAMBA_SSM: Settings = {
    "d_model": 2560,
    "n_layer": 64,
    "vocab_size": 50277,
    "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
}
SSM_CFG: dict[str, Settings] = {
    "Mamba1": {"d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": "auto"},
    "Mamba2": {"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64},
}

# the values a setting may have, the library's default first: the blocks here compute nothing else
NO_LIMIT = [0.0, math.inf]
ONLY: Settings = {
    "n_groups": [1],
    "use_bias": [False],
    "use_conv_bias": [True],
    "hidden_act": ["silu", "swish"],
    "layer_norm_epsilon": [EPS],
    "rms_norm": [True],
    "time_step_limit": [NO_LIMIT],
    "d_intermediate": [0],
    "attn_layer_idx": [[], None],
    "norm_epsilon": [EPS],
}
ONLY_SSM_CFG: Settings = {
    "ngroups": [1],
    "bias": [False],
    "conv_bias": [True],
    "dt_limit": [NO_LIMIT],
    "d_ssm": [None],
    "D_has_hdim": [False],
    "rmsnorm": [True],
    "norm_before_gate": [False],
}
# of the initial weights and of the kernels: without effect on loaded weights
NO_EFFECT = {"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "A_init_range", "conv_init"}
NO_EFFECT |= {"chunk_size", "use_fast_path", "use_mem_eff_path", "sequence_parallel"}


def load_pretrained(folder: str | Path, **options: Any) -> Model:
    """Return the model of a checkpoint by mamba-ssm or Hugging Face, ready to go on learning.

    folder: a local one, with config.json and *.safetensors (one, or many with their index). Weights come in
    torch's default precision. A padded vocabulary stays padded, as in mamba-ssm.
    options: of the block, such as conv="direct" where a Mamba-1's exact conv traces would not fit.

    Raises FileNotFoundError where config.json or weights are missing; ValueError for weights in pickle, for
    settings that the blocks here do not have, and for tensors missing, unexpected or of the wrong shape.
    """
    folder = Path(folder)
    options = arguments(folder) | options
    tensors = _read_tensors(folder)
    model = Model(**options)
    if "backbone.embedding.weight" in tensors:  # mamba-ssm's name, and Hugging Face's own at first
        tensors["backbone.embeddings.weight"] = tensors.pop("backbone.embedding.weight")
    if options["tied"]:
        _untie(tensors)

    weights = {name: own for name, own in model.state_dict().items() if name != "random_feedback"}
    names = {name: _official_name(name) for name in weights}
    if options["tied"]:
        del names["head.weight"]
    norms = [f"backbone.layers.{i}.norm.weight" for i in range(len(model.blocks))]
    shapes = {official: weights[name].shape for name, official in names.items()}
    _check(tensors, shapes | {norm: torch.Size([options["d_model"]]) for norm in norms})
    with torch.no_grad():
        for name, official in names.items():
            weights[name].copy_(tensors[official])
        for i, norm in enumerate(norms):
            in_proj = weights[f"blocks.{i}.in_proj.weight"]
            in_proj.mul_(tensors[norm].to(in_proj.dtype))  # one factor per input: per column
    return model


def arguments(folder: Path) -> Settings:
    """Return what `Model` is made with for a checkpoint. Raises as `load_pretrained` does for its config.json."""
    return _options(_read_config(folder))


def _read_config(folder: Path) -> Settings:
    """Return config.json, infinities in whatever spelling as floats."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no config.json in {folder}: give a local folder with it and *.safetensors (nothing is downloaded)"
        )
    spelled = "__float__"  # as newer versions of transformers write what JSON lacks
    read = json.loads(
        path.read_text(encoding="utf-8"),
        object_hook=lambda found: float(found[spelled]) if set(found) == {spelled} else found,
    )
    if not isinstance(read, dict):
        raise ValueError(f"{path}: got a {type(read).__name__}, expected an object of settings")
    return read


def _options(config: Settings) -> Settings:
    """Return the options of `Model` for a config; raise ValueError for what the blocks here do not have."""
    if "model_type" in config:
        return _hugging_face(config)
    if "d_model" in config:
        return _mamba_ssm(config)
    raise ValueError("config.json: got neither model_type (Hugging Face) nor d_model (mamba-ssm), expected one of them")


def _hugging_face(config: Settings) -> Settings:
    """Return the options for a Hugging Face config."""
    kind = config["model_type"]
    if kind not in HUGGING_FACE:
        raise _wrong("model_type", kind, list(HUGGING_FACE))
    get = HUGGING_FACE[kind] | config
    _only(get, ONLY)
    expand = _whole("expand", get["expand"])
    options = {
        "block": kind,
        "vocab": get["vocab_size"],
        "d_out": get["vocab_size"],
        "d_model": get["hidden_size"],
        "n_layers": get["num_hidden_layers"],
        "tied": get["tie_word_embeddings"],
        "d_state": get["state_size"],
        "d_conv": get["conv_kernel"],
        "expand": expand,
    }
    if kind == "mamba":
        options["dt_rank"] = _rank(get["time_step_rank"])
    else:
        options["headdim"] = get["head_dim"]
        if get["num_heads"] * get["head_dim"] != expand * get["hidden_size"]:
            heads = expand * get["hidden_size"] / get["head_dim"]
            raise _wrong("num_heads", get["num_heads"], [f"expand * hidden_size / head_dim = {heads:g}"])
    return options


def _mamba_ssm(config: Settings) -> Settings:
    """Return the options for a mamba-ssm config."""
    get = MAMBA_SSM | config
    _only(get, ONLY)
    given: Settings = get.get("ssm_cfg") or {}
    layer = given.get("layer", "Mamba1")
    if layer not in SSM_CFG:
        raise _wrong("ssm_cfg.layer", layer, list(SSM_CFG))
    known = {"layer", *SSM_CFG[layer], *ONLY_SSM_CFG, *NO_EFFECT}
    for key in given:
        if key not in known:
            raise _wrong(f"ssm_cfg.{key}", given[key], [f"only {', '.join(sorted(known))}"])
    ssm = SSM_CFG[layer] | given
    _only(ssm, ONLY_SSM_CFG, "ssm_cfg.")
    vocab, multiple = get["vocab_size"], get["pad_vocab_size_multiple"]
    vocab = math.ceil(vocab / multiple) * multiple
    options = {
        "block": "mamba" if layer == "Mamba1" else "mamba2",
        "vocab": vocab,
        "d_out": vocab,
        "d_model": get["d_model"],
        "n_layers": get["n_layer"],
        "tied": get["tie_embeddings"],
        "d_state": ssm["d_state"],
        "d_conv": ssm["d_conv"],
        "expand": _whole("ssm_cfg.expand", ssm["expand"]),
    }
    if layer == "Mamba1":
        options["dt_rank"] = _rank(ssm["dt_rank"])
    else:
        options["headdim"] = ssm["headdim"]
    return options


def _wrong(key: str, value: object, expected: list[Any]) -> ValueError:
    """Return the error for a setting."""
    return ValueError(f"config.json: {key}: got {value!r}, expected {' or '.join(str(each) for each in expected)}")


def _only(settings: Settings, allowed: Settings, prefix: str = "") -> None:
    """Raise ValueError for a setting whose value is not allowed."""
    for key, values in allowed.items():
        value = settings.get(key, values[0])
        value = list(value) if isinstance(value, tuple) else value
        if value not in values:
            raise _wrong(prefix + key, value, values)


def _whole(key: str, value: float) -> int:
    """Return a factor that must be a whole number."""
    if value != int(value):
        raise _wrong(key, value, ["a whole number"])
    return int(value)


def _rank(value: int | str) -> int | None:
    """Return dt_rank, None for "auto"."""
    return None if value == "auto" else int(value)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of the folder's safetensors, on the CPU."""
    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        for name, tensor in load_file(path).items():
            if name in tensors:
                raise ValueError(
                    f"{path}: {name} is in an earlier file too: keep one set of *.safetensors in the folder"
                )
            tensors[name] = tensor
    return tensors


def _files(folder: Path) -> list[Path]:
    """Return the files to read: model.safetensors, else those of the index, else all *.safetensors."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise FileNotFoundError(f"{index} names {name}, which is not in {folder}: copy every part there")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickled = sorted(path for ending in ("*.bin", "*.pt", "*.pth") for path in folder.glob(ending))
    if not pickled:
        raise FileNotFoundError(f"no *.safetensors in {folder}: copy the weights beside config.json")
    raise ValueError(
        f"{folder}: got {', '.join(path.name for path in pickled)}, which is pickle and is not read; expected "
        '*.safetensors. To convert, in that folder: python -c "import torch; from safetensors.torch import save_file; '
        f"w = torch.load('{pickled[0].name}', map_location='cpu', weights_only=True); "
        "save_file({k: v.contiguous().clone() for k, v in w.items()}, 'model.safetensors')\""
    )


def _untie(tensors: dict[str, Tensor]) -> None:
    """Leave the embedding alone of a tied pair, which a file may hold under either name or both."""
    head = tensors.pop("lm_head.weight", None)
    if head is not None and not torch.equal(tensors.setdefault("backbone.embeddings.weight", head), head):
        raise ValueError(
            "config.json: tie_word_embeddings or tie_embeddings: got true, expected false, as lm_head.weight differs "
            "from the embedding"
        )


def _official_name(name: str) -> str:
    """Return what official checkpoints call one of the model's weights."""
    if name == "encoder.weight":
        return "backbone.embeddings.weight"
    if name == "head.weight":
        return "lm_head.weight"
    if name == "norm_f.weight":
        return "backbone.norm_f.weight"
    _, i, rest = name.split(".", 2)  # blocks.<i>.<rest>
    return f"backbone.layers.{i}.mixer.{rest}"


def _check(tensors: dict[str, Tensor], shapes: dict[str, torch.Size]) -> None:
    """Raise ValueError for tensors missing, unexpected or of the wrong shape."""
    misshaped = [
        f"{name} got {tuple(tensors[name].shape)}, expected {tuple(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    faults = {
        "missing": [name for name in shapes if name not in tensors],
        "unexpected": [name for name in tensors if name not in shapes],
        "wrong shape": misshaped,
    }
    told = [f"{fault}: {_some(names)}" for fault, names in faults.items() if names]
    if told:
        raise ValueError("the checkpoint's tensors do not fit its config.json: " + "; ".join(told))


def _some(names: list[str], most: int = 8) -> str:
    """Return the first names, and how many more there are."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more)
