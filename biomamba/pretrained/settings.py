"""Which options of `Model` a config.json by mamba-ssm or Hugging Face stands for, and the other way round."""

import math
from typing import Any

from ..blocks import Block, Mamba, Mamba2
from ..checks import MOST
from ..model import EPS, Model

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
    "Mamba2": {"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64, "ngroups": 1},
}

# the values a setting may have, the library's default first: the blocks here compute nothing else
NO_LIMIT = [0.0, math.inf]
ONLY: Settings = {
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


def options_of(config: Settings) -> Settings:
    """Return the options of `Model` for a config. Raises ValueError for what the blocks here do not have."""
    if "model_type" in config:
        return _hugging_face(config)
    if "d_model" in config:
        return _mamba_ssm(config)
    raise ValueError("config.json: got neither model_type (Hugging Face) nor d_model (mamba-ssm), expected one of them")


def _hugging_face(config: Settings) -> Settings:
    """Return the options for a Hugging Face config."""
    kind = config["model_type"]
    if not isinstance(kind, str) or kind not in HUGGING_FACE:
        raise _wrong("model_type", kind, list(HUGGING_FACE))
    get = HUGGING_FACE[kind] | config
    _only(get, ONLY)
    expand = _whole("expand", get["expand"])
    vocab, d_model = _size(get, "vocab_size"), _size(get, "hidden_size")
    options: Settings = {
        "block": kind,
        "vocab": vocab,
        "d_out": vocab,
        "d_model": d_model,
        "n_layers": _size(get, "num_hidden_layers"),
        "tied": _flag(get, "tie_word_embeddings"),
        "d_state": _size(get, "state_size"),
        "d_conv": _size(get, "conv_kernel"),
        "expand": expand,
    }
    if kind == "mamba":
        options["dt_rank"] = _rank(get, "time_step_rank")
    else:
        options["headdim"], options["ngroups"] = _size(get, "head_dim"), _size(get, "n_groups")
        if _size(get, "num_heads") * get["head_dim"] != expand * get["hidden_size"]:
            heads = expand * get["hidden_size"] / get["head_dim"]
            raise _wrong("num_heads", get["num_heads"], [f"expand * hidden_size / head_dim = {heads:g}"])
    return options


def _mamba_ssm(config: Settings) -> Settings:
    """Return the options for a mamba-ssm config."""
    get = MAMBA_SSM | config
    _only(get, ONLY)
    given: Settings = get.get("ssm_cfg") or {}
    if not isinstance(given, dict):
        raise _wrong("ssm_cfg", given, ["an object of settings"])
    layer = given.get("layer", "Mamba1")
    if not isinstance(layer, str) or layer not in SSM_CFG:
        raise _wrong("ssm_cfg.layer", layer, list(SSM_CFG))
    known = {"layer", *SSM_CFG[layer], *ONLY_SSM_CFG, *NO_EFFECT}
    for key in given:
        if key not in known:
            raise _wrong(f"ssm_cfg.{key}", given[key], [f"only {', '.join(sorted(known))}"])
    ssm = SSM_CFG[layer] | given
    _only(ssm, ONLY_SSM_CFG, "ssm_cfg.")
    vocab, multiple = _size(get, "vocab_size"), _size(get, "pad_vocab_size_multiple")
    vocab = math.ceil(vocab / multiple) * multiple
    options: Settings = {
        "block": "mamba" if layer == "Mamba1" else "mamba2",
        "vocab": vocab,
        "d_out": vocab,
        "d_model": _size(get, "d_model"),
        "n_layers": _size(get, "n_layer"),
        "tied": _flag(get, "tie_embeddings"),
        "d_state": _size(ssm, "d_state", "ssm_cfg."),
        "d_conv": _size(ssm, "d_conv", "ssm_cfg."),
        "expand": _whole("ssm_cfg.expand", ssm["expand"]),
    }
    if layer == "Mamba1":
        options["dt_rank"] = _rank(ssm, "dt_rank", "ssm_cfg.")
    else:
        options |= {name: _size(ssm, name, "ssm_cfg.") for name in ("headdim", "ngroups")}
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


def _whole(key: str, value: Any) -> int:
    """Return a factor that must be a whole number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise _wrong(key, value, ["a whole number"])
    return value


def _size(settings: Settings, key: str, prefix: str = "") -> int:
    """Return a size. Raises ValueError for what is none."""
    value = settings[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise _wrong(prefix + key, value, [f"a whole number from 1 to {MOST}"])
    return value


def _flag(settings: Settings, key: str) -> bool:
    """Return true or false. Raises ValueError for what is neither."""
    if not isinstance(settings[key], bool):
        raise _wrong(key, settings[key], ["true", "false"])
    return bool(settings[key])


def _rank(settings: Settings, key: str, prefix: str = "") -> int | None:
    """Return dt_rank, None for "auto"."""
    return None if settings[key] == "auto" else _size(settings, key, prefix)


def settings_of(model: Model) -> Settings:
    """Return config.json as Hugging Face's models read it. Raises ValueError for a model that they cannot be."""
    vocab, first = getattr(model.encoder, "num_embeddings", None), model.blocks[0]
    assert isinstance(first, Block)
    kind = "mamba" if type(first) is Mamba else "mamba2" if type(first) is Mamba2 else None
    has = {
        "real values as inputs": vocab is None,
        f"{model.head.out_features} outputs for {vocab} tokens": vocab not in (None, model.head.out_features),
        f"blocks of {type(first).__name__}": kind is None,
        "blocks that spike": first.threshold is not None,
        "n-gram tables": model.ngrams is not None,
    }
    for what, there in has.items():
        if there:
            raise ValueError(
                f"model: it has {what}, expected what mamba and mamba2 of Hugging Face have: tokens in and out"
            )
    (e, n), d_model = first.shape, first.d_model
    shared = {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": d_model,
        "num_hidden_layers": len(model.blocks),
        "state_size": n,
        "conv_kernel": first.taps,
        "expand": e // d_model,
        "layer_norm_epsilon": EPS,
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "tie_word_embeddings": model.head.weight is model.encoder.weight,
        "dtype": str(model.head.weight.dtype).removeprefix("torch."),
    }
    if isinstance(first, Mamba2):
        heads = {"num_heads": e // first.headdim, "head_dim": first.headdim, "n_groups": first.ngroups}
        return {"architectures": ["Mamba2ForCausalLM"], **shared, **heads}
    assert isinstance(first, Mamba)
    return {
        "architectures": ["MambaForCausalLM"],
        **shared,
        "intermediate_size": e,
        "time_step_rank": first.dt_proj.in_features,
    }
