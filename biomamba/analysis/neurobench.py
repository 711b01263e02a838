"""The metrics of NeuroBench (Yik et al. 2025), by its own code, of a model that reads a chunk.

    footprint             bytes of weights and buffers
    connection_sparsity   share of zeros among the weights of its layers
    activation_sparsity   share of zeros in what the out_projs receive: of a spiking block, its spikes
    synaptic_operations   per time step and stream: Effective_MACs and Effective_ACs, with a number other than zero on
                          both sides, of real numbers and of spikes; Dense, as if none were zero

It counts the layers of torch that a model calls, the linear ones here: neither the convolution nor the recurrence, nor
anything of learning. `operations` counts all.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..model import Model
from ..stream import Chunk


class Stateless(nn.Module):
    """The model as NeuroBench calls it: x (b, t, ...) to out (b, t, d_out), each stream from its beginning."""

    def __init__(self, model: Model) -> None:
        """Take the model."""
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        with torch.no_grad():
            out: Tensor = self.model(x, self.model.init_state(len(x)))[0]
        return out


def metrics(model: Model, chunk: Chunk) -> dict[str, Any]:
    """Return NeuroBench's metrics of a model that reads `chunk` from the beginning of its streams.

    Raises ImportError, with what to install, where NeuroBench cannot be imported; ValueError for blocks without
    out_proj.
    """
    without = [type(block).__name__ for block in model.blocks if not hasattr(block, "out_proj")]
    if without:
        raise ValueError(f"NeuroBench: {without[0]} has no out_proj, at which spikes are counted: give another block")
    benchmarks, neuron, models, static, workload = load()
    learning = model.training
    wrapped = models.TorchModel(Stateless(model))  # which leaves a model in evaluation
    data = DataLoader(TensorDataset(chunk.x, chunk.y), batch_size=len(chunk.x))
    wanted = [
        [static.Footprint, static.ConnectionSparsity],
        [workload.ActivationSparsity, workload.SynapticOperations],
    ]
    bench = benchmarks.Benchmark(wrapped, data, [], [], wanted)
    received = [block.get_submodule("out_proj") for block in model.blocks]
    wrapped.activation_hooks += [watch(neuron.NeuronHook(None), layer) for layer in received]
    found = bench.run(quiet=True)
    wrapped.cleanup_hooks()
    model.train(learning)
    steps = chunk.x.shape[1]
    return {
        "footprint": found["Footprint"],
        "connection_sparsity": found["ConnectionSparsity"],
        "activation_sparsity": found["ActivationSparsity"],
        "synaptic_operations": {name: number / steps for name, number in found["SynapticOperations"].items()},
    }


def watch(hook: Any, layer: nn.Module) -> Any:
    """Return NeuroBench's hook, told what a layer receives; a block's threshold is no layer that it could find."""
    hook.hook = layer.register_forward_pre_hook(lambda _, given: hook.activation_outputs.append(given[0]))
    return hook


def load() -> list[Any]:
    """Return the modules of NeuroBench, which need snntorch, but not torchaudio."""
    try:
        return [
            import_module(f"neurobench.{name}")
            for name in ("benchmarks", "hooks.neuron", "models", "metrics.static", "metrics.workload")
        ]
    except (ImportError, OSError, RuntimeError) as error:  # what a package made for another torch raises
        raise ImportError(f'NeuroBench: {error}: pip install "biomamba[neurobench]"') from error
