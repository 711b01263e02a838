"""The outside witness: our blocks and transformers' compute the same, and official checkpoints load."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers", reason="the outside witness is transformers: pip install transformers")

with pytest.MonkeyPatch.context() as patch:  # the plain torch path, also where the CUDA kernels are installed
    for backend in ("mamba_ssm", "causal_conv1d"):
        patch.setitem(sys.modules, backend, None)
    from transformers.models.mamba.modeling_mamba import MambaConfig, MambaForCausalLM, MambaMixer
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Config, Mamba2ForCausalLM, Mamba2Mixer
from safetensors.torch import load_file, save_file
from transformers.cache_utils import DynamicCache

from biomamba import Chunk, Learner, Model, online, rules
from biomamba.blocks import Block, Mamba, Mamba2
from biomamba.metrics import CrossEntropy
from biomamba.pretrained import arguments, load_pretrained, save_official

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}

# kind, d_model, d_state, d_conv, expand, dt_rank or headdim, groups of heads
SIZES = [
    ("mamba", 8, 4, 4, 2, 1),
    ("mamba", 12, 3, 2, 1, 5),
    ("mamba", 20, 16, 4, 2, 2),
    ("mamba2", 8, 4, 4, 2, 4),
    ("mamba2", 12, 5, 3, 1, 12),
    ("mamba2", 16, 32, 4, 3, 1),
    ("mamba2", 8, 4, 4, 2, 4, 2),
    ("mamba2", 12, 5, 3, 2, 3, 8),
]
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size)))
kinds = pytest.mark.parametrize("kind", ["mamba", "mamba2", "grouped"])


def randomise(module: nn.Module, seed: int) -> None:
    """Draw every weight anew, so that nothing hides at an initial value of 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            draw = torch.randn(weight.shape, generator=generator)
            if "norm" in name:
                weight.copy_(1 + 0.3 * draw)
            elif weight.dim() == 2 and "A_log" not in name and "embeddings" not in name:
                weight.copy_(draw / weight.shape[1] ** 0.5)
            else:
                weight.copy_(0.5 * draw)


def config_of(
    kind: str, d: int, n: int, k: int, expand: int, last: int, groups: int = 1, **more: Any
) -> MambaConfig | Mamba2Config:
    """Return transformers' config of one of SIZES."""
    shared = {"hidden_size": d, "state_size": n, "conv_kernel": k, "expand": expand, **more}
    if kind == "mamba":
        return MambaConfig(time_step_rank=last, **shared)
    # chunks shorter than the sequences, so that its state crosses them
    return Mamba2Config(head_dim=last, num_heads=expand * d // last, n_groups=groups, chunk_size=4, **shared)


def pair(size: tuple[Any, ...]) -> tuple[nn.Module, Block]:
    """Return transformers' mixer with random weights, and our block with the same ones."""
    kind, d, n, k, expand, last, *groups = size
    config = config_of(*size, num_hidden_layers=1)
    mixer = (MambaMixer if kind == "mamba" else Mamba2Mixer)(config, layer_idx=0).eval()
    randomise(mixer, seed=d)
    sizes = {"d_state": n, "d_conv": k, "expand": expand}
    block: Block = (
        Mamba(d, dt_rank=last, **sizes)
        if kind == "mamba"
        else Mamba2(d, headdim=last, ngroups=(*groups, 1)[0], **sizes)
    )
    block.load_state_dict(mixer.state_dict())  # the same names and shapes, or it raises
    return mixer, block


def by_steps(block: Block, x: Tensor) -> Tensor:
    """Return the outputs of one step at a time."""
    state, out = block.init_state(len(x)), []
    for x_t in x.unbind(1):
        y, state = block.step(x_t, state)
        out.append(y)
    return torch.stack(out, dim=1)


def by_chunks(block: Block, x: Tensor, length: int) -> Tensor:
    """Return the outputs of chunks of `length` steps, the state carried over."""
    state, out = block.init_state(len(x)), []
    for part in x.split(length, dim=1):
        y, state, _ = block.chunk(part, state)
        out.append(y)
    return torch.cat(out, dim=1)


@sizes
@pytest.mark.parametrize(("batch", "t"), [(1, 1), (3, 13), (2, 31)])
@torch.no_grad()
def test_block_is_the_official_mixer(size: tuple[Any, ...], batch: int, t: int) -> None:
    mixer, block = pair(size)
    x = torch.randn(batch, t, size[1], generator=torch.Generator().manual_seed(t))
    theirs = mixer(x)
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(by_steps(block, x), theirs, **TOLERANCE)
    for length in (1, 3, 7, t):
        torch.testing.assert_close(by_chunks(block, x, length), theirs, **TOLERANCE)


@sizes
@torch.no_grad()
def test_block_is_the_official_mixer_token_by_token(size: tuple[Any, ...]) -> None:
    mixer, block = pair(size)
    x = torch.randn(2, 11, size[1], generator=torch.Generator().manual_seed(0))
    cache = DynamicCache(config=config_of(*size, num_hidden_layers=1))
    # renamed in transformers 5.2x, where the old name warns
    name = "cache" if "cache" in signature(mixer.forward).parameters else "cache_params"
    theirs = torch.cat([mixer(x_t, **{name: cache}) for x_t in x.split(1, dim=1)], dim=1)
    torch.testing.assert_close(by_steps(block, x), theirs, **TOLERANCE)
    torch.testing.assert_close(by_chunks(block, x, 3), theirs, **TOLERANCE)


@kinds
@torch.no_grad()
def test_the_witness_sees_every_weight(kind: str) -> None:
    mixer, block = pair(next(size for size in SIZES if size[0] == kind or (kind == "grouped" and len(size) > 6)))
    x = torch.randn(2, 13, 8, generator=torch.Generator().manual_seed(0))
    theirs = mixer(x)
    for name, weight in block.named_parameters():
        kept = weight.clone()
        weight += 0.1
        assert (by_chunks(block, x, 7) - theirs).abs().max() > 1e-3, name
        weight.copy_(kept)


VOCAB = 24
SMALL = {"mamba": ("mamba", 16, 4, 4, 2, 3), "mamba2": ("mamba2", 16, 6, 4, 2, 8)}
SMALL["grouped"] = ("mamba2", 16, 6, 4, 2, 4, 4)


def theirs_of(kind: str, tied: bool) -> MambaForCausalLM | Mamba2ForCausalLM:
    """Return a small model of transformers with random weights."""
    config = config_of(*SMALL[kind], num_hidden_layers=2, vocab_size=VOCAB, tie_word_embeddings=tied)
    model = (MambaForCausalLM if SMALL[kind][0] == "mamba" else Mamba2ForCausalLM)(config).eval()
    randomise(model, seed=int(tied))
    return model


def tokens(batch: int = 2, t: int = 15) -> Tensor:
    return torch.randint(VOCAB, (batch, t), generator=torch.Generator().manual_seed(t))


@torch.no_grad()
def logits(model: Model, x: Tensor) -> Tensor:
    return model(x, model.init_state(len(x)))[0]


@torch.no_grad()
def their_logits(model: nn.Module, x: Tensor) -> Tensor:
    return model(x, use_cache=False).logits


def edit(folder: Path, **settings: Any) -> None:
    """Change settings of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a folder's one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def to_mamba_ssm(folder: Path, kind: str, tied: bool) -> None:
    """Rewrite a folder of transformers as mamba-ssm writes one."""
    of, d, n, k, expand, last, *groups = SMALL[kind]
    ssm = {"layer": "Mamba2", "headdim": last} if of == "mamba2" else {"dt_rank": last}
    ssm |= {"ngroups": groups[0]} if groups else {}
    config = {
        "d_model": d,
        "n_layer": 2,
        "vocab_size": VOCAB - 3,  # padded up to VOCAB
        "pad_vocab_size_multiple": 8,
        "ssm_cfg": {"d_state": n, "d_conv": k, "expand": expand} | ssm,
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "attn_layer_idx": [],
    }
    if not tied:
        config["tie_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))

    def rename(tensors: dict[str, Tensor]) -> None:
        embedding = tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
        tensors.setdefault("lm_head.weight", embedding.clone())  # mamba-ssm keeps a tied head

    edit_weights(folder, rename)


@kinds
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_checkpoint_loads(kind: str, tied: bool, tmp_path: Path) -> None:
    theirs = theirs_of(kind, tied)
    theirs.save_pretrained(tmp_path)
    expected = their_logits(theirs, tokens())
    assert expected.abs().max() > 0.1

    ours = load_pretrained(tmp_path)
    assert (ours.head.weight is ours.encoder.weight) == tied
    torch.testing.assert_close(logits(ours, tokens()), expected, **TOLERANCE)

    for i, block in enumerate(ours.blocks):  # control: the pre-norms' weights count
        block.in_proj.weight.data.copy_(theirs.backbone.layers[i].mixer.in_proj.weight)
    assert (logits(ours, tokens()) - expected).abs().max() > 1e-2

    to_mamba_ssm(tmp_path, kind, tied)
    ours = load_pretrained(tmp_path)
    assert (ours.head.weight is ours.encoder.weight) == tied
    torch.testing.assert_close(logits(ours, tokens()), expected, **TOLERANCE)


@kinds
def test_a_checkpoint_in_parts_loads(kind: str, tmp_path: Path) -> None:
    theirs = theirs_of(kind, tied=False)
    theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    expected = their_logits(theirs, tokens())
    torch.testing.assert_close(logits(load_pretrained(tmp_path), tokens()), expected, **TOLERANCE)
    (tmp_path / "model.safetensors.index.json").unlink()
    torch.testing.assert_close(logits(load_pretrained(tmp_path), tokens()), expected, **TOLERANCE)


def test_half_precision_loads_in_full(tmp_path: Path) -> None:
    theirs = theirs_of("mamba2", tied=True).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(ours, tokens()), their_logits(theirs.float(), tokens()), **TOLERANCE)


@pytest.mark.parametrize("kept", ["lm_head.weight", "backbone.embedding.weight"])
def test_a_tied_pair_may_be_kept_under_either_name(kept: str, tmp_path: Path) -> None:
    theirs = theirs_of("mamba", tied=True)
    theirs.save_pretrained(tmp_path)
    to_mamba_ssm(tmp_path, "mamba", tied=True)
    other = {"lm_head.weight", "backbone.embedding.weight"} - {kept}
    edit_weights(tmp_path, lambda tensors: tensors.pop(other.pop()))
    torch.testing.assert_close(logits(load_pretrained(tmp_path), tokens()), their_logits(theirs, tokens()), **TOLERANCE)


class Next:
    """The next token of one short sequence, over and over."""

    def __init__(self, x: Tensor, times: int) -> None:
        self.x, self.times = x, times

    def stream(self) -> Iterator[Chunk]:
        y = self.x.roll(-1, dims=1)
        seen = torch.ones_like(self.x, dtype=torch.bool)
        for _ in range(self.times):
            yield Chunk(self.x, y, seen, torch.zeros_like(seen))

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        return F.cross_entropy(out.flatten(0, 1), chunk.y.flatten())

    def meters(self) -> dict[str, CrossEntropy]:
        return {"loss": CrossEntropy()}


@kinds
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_loaded_model_goes_on_learning(kind: str, tied: bool, tmp_path: Path) -> None:
    theirs_of(kind, tied).save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    task = Next(tokens(batch=2, t=7), times=30)
    rule, optimizer = rules.RTRL(model.blocks), torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = [float(report.loss) for report in online(task.stream(), Learner(task, model, rule, optimizer))]
    assert losses[-1] < 0.5 * losses[0]
    for name, weight in model.named_parameters():
        assert not torch.equal(weight, before[name]), name


REFUSED_HUGGING_FACE = [
    ("mamba2", {"n_groups": 0}, r"n_groups: got 0, expected a whole number from 1 to 1073741824$"),
    ("mamba2", {"hidden_size": "16"}, r"hidden_size: got '16', expected a whole number from 1 to 1073741824$"),
    ("mamba2", {"tie_word_embeddings": 1}, r"tie_word_embeddings: got 1, expected true or false$"),
    ("mamba", {"model_type": ["mamba"]}, r"model_type: got \['mamba'\], expected mamba or mamba2$"),
    ("mamba", {"num_hidden_layers": 10**9}, r"got 1000000000 layers, expected at most the \d+ tensors there are$"),
    ("mamba", {"hidden_size": 2**30, "state_size": 2**30}, r"no tensor can have its sizes: .*"),
    (
        "mamba",
        {"hidden_size": 2**31 - 1},
        r"hidden_size: got 2147483647, expected a whole number from 1 to 1073741824$",
    ),
    ("mamba2", {"num_heads": 3}, r"num_heads: got 3, expected expand \* hidden_size / head_dim = 4$"),
    ("mamba2", {"time_step_limit": [0.0, 0.1]}, r"time_step_limit: got \[0.0, 0.1\], expected \[0.0, inf\]$"),
    (
        "mamba2",
        {"time_step_limit": [0.01, float("inf")]},
        r"time_step_limit: got \[0.01, inf\], expected \[0.0, inf\]$",
    ),
    ("mamba", {"model_type": "jamba"}, r"model_type: got 'jamba', expected mamba or mamba2$"),
    ("mamba", {"use_bias": True}, r"use_bias: got True, expected False$"),
    ("mamba", {"use_conv_bias": False}, r"use_conv_bias: got False, expected True$"),
    ("mamba", {"hidden_act": "gelu"}, r"hidden_act: got 'gelu', expected silu or swish$"),
    ("mamba", {"layer_norm_epsilon": 1e-6}, r"layer_norm_epsilon: got 1e-06, expected 1e-05$"),
    ("mamba", {"rms_norm": False}, r"rms_norm: got False, expected True$"),
    ("mamba", {"expand": 1.5}, r"expand: got 1.5, expected a whole number$"),
]
REFUSED_MAMBA_SSM = [
    ({"rms_norm": False}, r"rms_norm: got False, expected True$"),
    ({"attn_layer_idx": [1]}, r"attn_layer_idx: got \[1\], expected \[\] or None$"),
    ({"d_intermediate": 64}, r"d_intermediate: got 64, expected 0$"),
    ({"norm_epsilon": 1e-6}, r"norm_epsilon: got 1e-06, expected 1e-05$"),
    ({"ssm_cfg": {"layer": "Mamba3"}}, r"ssm_cfg.layer: got 'Mamba3', expected Mamba1 or Mamba2$"),
    ({"ssm_cfg": [1]}, r"ssm_cfg: got \[1\], expected an object of settings$"),
    ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": [0, 1]}}, r"ssm_cfg.dt_limit: got \[0, 1\], expected \[0.0, inf\]$"),
    ({"ssm_cfg": {"layer": "Mamba2", "rmsnorm": False}}, r"ssm_cfg.rmsnorm: got False, expected True$"),
    ({"ssm_cfg": {"bias": True}}, r"ssm_cfg.bias: got True, expected False$"),
    ({"ssm_cfg": {"conv_bias": False}}, r"ssm_cfg.conv_bias: got False, expected True$"),
    ({"ssm_cfg": {"d_sate": 8}}, r"ssm_cfg.d_sate: got 8, expected only .*d_state"),
]


@pytest.mark.parametrize(("kind", "settings", "line"), REFUSED_HUGGING_FACE)
def test_a_hugging_face_setting_is_refused(kind: str, settings: dict[str, Any], line: str, tmp_path: Path) -> None:
    theirs_of(kind, tied=True).save_pretrained(tmp_path)
    edit(tmp_path, **settings)
    with pytest.raises(ValueError, match=r"^config.json: " + line):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(("settings", "line"), REFUSED_MAMBA_SSM)
def test_a_mamba_ssm_setting_is_refused(settings: dict[str, Any], line: str, tmp_path: Path) -> None:
    theirs_of("mamba", tied=True).save_pretrained(tmp_path)
    to_mamba_ssm(tmp_path, "mamba", tied=True)
    edit(tmp_path, **settings)
    with pytest.raises(ValueError, match=r"^config.json: " + line):
        load_pretrained(tmp_path)


def test_defaults_are_each_librarys_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba2"}')
    with pytest.raises(FileNotFoundError, match=r"no \*.safetensors in "):  # Hugging Face's default, 8 groups, is known
        load_pretrained(tmp_path)

    theirs = MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=VOCAB)).eval()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(f'{{"d_model": 16, "n_layer": 1, "vocab_size": {VOCAB - 7}}}')
    torch.testing.assert_close(logits(load_pretrained(tmp_path), tokens()), their_logits(theirs, tokens()), **TOLERANCE)
    config = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": VOCAB}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(logits(load_pretrained(tmp_path), tokens()), their_logits(theirs, tokens()), **TOLERANCE)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    theirs_of("mamba", tied=False).save_pretrained(tmp_path)

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["backbone.layers.1.mixer.D"] = torch.ones(3)
        tensors["backbone.layers.0.mixer.E"] = tensors.pop("backbone.layers.0.norm.weight")

    edit_weights(tmp_path, spoil)
    line = (
        r"missing: backbone.layers.0.norm.weight; unexpected: backbone.layers.0.mixer.E; "
        r"wrong shape: backbone.layers.1.mixer.D got \(3,\), expected \(32,\)$"
    )
    with pytest.raises(ValueError, match=line):
        load_pretrained(tmp_path)
    edit(tmp_path, num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"missing: (backbone\S+, ){8}and 3 more"):
        load_pretrained(tmp_path)


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    theirs_of("mamba2", tied=False).save_pretrained(tmp_path)
    edit(tmp_path, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"tie_word_embeddings .* got true, expected false, as lm_head.weight differs"):
        load_pretrained(tmp_path)


def test_pickle_is_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    theirs = theirs_of("mamba", tied=True)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin, which is pickle and is not read") as error:
        load_pretrained(tmp_path)
    script = str(error.value).split("python -c ")[1].strip('"')
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    torch.testing.assert_close(logits(load_pretrained(tmp_path), tokens()), their_logits(theirs, tokens()), **TOLERANCE)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*nothing is downloaded"):
        load_pretrained("state-spaces/mamba-130m")
    (tmp_path / "config.json").write_text('{"architectures": []}')
    with pytest.raises(ValueError, match=r"got neither model_type .* nor d_model"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(FileNotFoundError, match=r"no \*.safetensors in "):
        load_pretrained(tmp_path)
    index = {"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"names ../elsewhere.safetensors, which is not in"):
        load_pretrained(tmp_path)


def test_block_options_reach_the_block(tmp_path: Path) -> None:
    theirs_of("mamba", tied=True).save_pretrained(tmp_path)
    model = load_pretrained(tmp_path, conv="direct")
    assert "conv1d.delta" not in model.blocks[0].influences
    assert "conv1d.delta" in load_pretrained(tmp_path).blocks[0].influences


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model.", "backbone.", "model.backbone."])
def test_names_may_begin_with_what_a_wrapper_adds(prefix: str, tmp_path: Path) -> None:
    theirs = theirs_of("grouped", tied=False)
    theirs.save_pretrained(tmp_path)

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            own = name.removeprefix("backbone.")
            tensors[own if own.startswith("lm_head") else prefix + own] = tensors.pop(name)

    edit_weights(tmp_path, rename)
    torch.testing.assert_close(logits(load_pretrained(tmp_path), tokens()), their_logits(theirs, tokens()), **TOLERANCE)
    edit_weights(tmp_path, lambda tensors: tensors.update({"other.norm_f.weight": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"unexpected: backbone.other.norm_f.weight"):
        load_pretrained(tmp_path)


def test_one_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    theirs_of("mamba", tied=True).save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.update({"norm_f.weight": torch.ones(16)}))
    with pytest.raises(
        ValueError, match=r"norm_f.weight and \S*norm_f.weight are one tensor, expected one: delete either"
    ):
        load_pretrained(tmp_path)


@kinds
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_loads_what_is_saved(kind: str, tied: bool, tmp_path: Path) -> None:
    theirs_of(kind, tied).save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")
    task = Next(tokens(batch=2, t=7), times=3)
    rule, optimizer = rules.RTRL(ours.blocks), torch.optim.Adam(ours.parameters(), lr=3e-3)
    list(online(task.stream(), Learner(task, ours, rule, optimizer)))
    save_official(ours, tmp_path / "ours")
    back = (MambaForCausalLM if kind == "mamba" else Mamba2ForCausalLM).from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(their_logits(back, tokens()), logits(ours, tokens()), **TOLERANCE)
    torch.testing.assert_close(
        logits(load_pretrained(tmp_path / "ours"), tokens()), logits(ours, tokens()), **TOLERANCE
    )
    before = their_logits(theirs_of(kind, tied), tokens())
    assert (
        their_logits(back, tokens()) - before
    ).abs().max() > 1e-3  # the control: it is what was learned that came back


def test_a_model_drawn_here_is_one_of_theirs(tmp_path: Path) -> None:
    for block, options in (("mamba", {"dt_rank": 2}), ("mamba2", {"headdim": 4, "ngroups": 2}), ("mamba2", {})):
        ours = Model(vocab=VOCAB, d_out=VOCAB, d_model=16, n_layers=2, block=block, d_state=4, **options)
        folder = tmp_path / f"{block}{len(options)}"
        save_official(ours, folder)
        back = (MambaForCausalLM if block == "mamba" else Mamba2ForCausalLM).from_pretrained(folder).eval()
        torch.testing.assert_close(their_logits(back, tokens()), logits(ours, tokens()), **TOLERANCE)


OTHERS = {
    "real values": ({"d_in": 3, "d_out": 2}, "real values as inputs"),
    "outputs": ({"vocab": 8, "d_out": 3}, "3 outputs for 8 tokens"),
    "diagonal": ({"vocab": 8, "d_out": 8, "block": "diagonal"}, "blocks of Diagonal"),
    "spikes": ({"vocab": 8, "d_out": 8, "threshold": 1.0}, "blocks that spike"),
    "n-grams": ({"vocab": 8, "d_out": 8, "ngrams": [2], "ngram_bits": 4}, "n-gram tables"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_they_cannot_be_is_not_saved(other: str, tmp_path: Path) -> None:
    options, words = OTHERS[other]
    with pytest.raises(ValueError, match=f"^model: it has {words}, expected what mamba and mamba2"):
        save_official(
            Model(d_model=8, d_state=4, **({} if other == "diagonal" else {"headdim": 4}), **options), tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(FileExistsError, match=r"already holds model.safetensors: give an empty folder"):
        save_official(Model(vocab=8, d_out=8, d_model=8, d_state=4, headdim=4), tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "mine"


def header_of(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a file's header, its size and its data left as they are."""
    held = path.read_bytes()
    length = int.from_bytes(held[:8], "little")
    told = json.loads(held[8 : 8 + length])
    change(told)
    text = json.dumps(told).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + held[8 + length :])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 516567560\n"),
        r"got a Git LFS pointer of \d+ bytes, expected weights: git lfs pull",
    ),
    "empty": (lambda path: path.write_bytes(b""), r"is damaged or cut short \(it has 0 bytes"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"damaged or cut short \(backbone\S+ of F32"),
    "cut in the header": (lambda path: path.write_bytes(path.read_bytes()[:99]), r"its header asks for"),
    "no JSON": (lambda path: path.write_bytes(b"\x09" + bytes(7) + b"{" * 9), r"its header is no JSON object"),
    "deep": (
        lambda path: path.write_bytes((99_999).to_bytes(8, "little") + b"[" * 99_999),
        r"its header is no JSON object",
    ),
    "a list": (lambda path: path.write_bytes(b"\x02" + bytes(7) + b"[]"), r"its header is no JSON object: a list"),
    "huge header": (lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()), r"its header asks for 18,4"),
    "huge shape": (
        lambda path: header_of(path, lambda told: told["backbone.norm_f.weight"].update(shape=[2**61])),
        r"backbone.norm_f.weight of F32 and \(2305843009213693952,\) is said to lie from",
    ),
    "negative": (
        lambda path: header_of(path, lambda told: told["backbone.norm_f.weight"].update(shape=[-16])),
        r"the header says of backbone.norm_f.weight",
    ),
    "no shape": (
        lambda path: header_of(path, lambda told: told["backbone.norm_f.weight"].pop("shape")),
        r"the header says of backbone.norm_f.weight",
    ),
    "whole numbers": (
        lambda path: header_of(path, lambda told: told["backbone.norm_f.weight"].update(dtype="I32")),
        r"backbone.norm_f.weight is of I32, expected one of F64, F32, F16, BF16",
    ),
    "overlapping": (
        lambda path: header_of(path, lambda told: told["backbone.norm_f.weight"].update(data_offsets=[0, 64])),
        r"cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line_that_names_it(damage: str, tmp_path: Path) -> None:
    theirs_of("mamba", tied=True).save_pretrained(tmp_path)
    change, line = DAMAGE[damage]
    change(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=line) as error:
        load_pretrained(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[1", "\x00", '{"model_type": "mamba",}', "[" * 99_999, "[]", '"mamba"', "\ud800"]
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_damaged_json_is_one_line_that_names_it(name: str, text: str, tmp_path: Path) -> None:
    theirs_of("mamba", tied=True).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "part.safetensors")
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"is no JSON|expected an object of settings|got no weight_map") as error:
        load_pretrained(tmp_path)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_no_memory_is_asked_for_before_sizes_are_compared(tmp_path: Path) -> None:
    """A config of 10^13 weights beside a small file: a line, and no more memory than before."""
    theirs_of("mamba", tied=True).save_pretrained(tmp_path)
    edit(tmp_path, hidden_size=2**20, vocab_size=2**23)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"do not fit its config.json: .*wrong shape: backbone.embeddings.weight got"):
        load_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"do not fit its config.json: .*wrong shape"):
        arguments(tmp_path)  # of which `model.from` makes its model
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes
