"""What do the published millijoules of S2TDPT say of its network? Counted on Spikformer-4-384, nothing is trained.

    python -m bench.spikformer

Published: 0.49 mJ an image, 88.47 % less than the network without spikes. Counted on one image of 32 x 32 with random
weights: parameters, and multiply-accumulates at 4.6 pJ. With spikes the first convolution, which sees the image, stays
as it is, and each of the others becomes at most as many additions a step, of 0.9 pJ: as many as there are spikes. The
firing rate asked for is the share of spikes that makes 0.49 mJ of that.
"""

import torch
from torch import nn

from bench.grid import heading, table
from biomamba.analysis.operations import ACCUMULATE, MULTIPLY_ACCUMULATE, Counter
from biomamba.plasticity.attention import softmax_attention
from biomamba.plasticity.transformer import SPIKFORMER, Transformer

PUBLISHED, LESS = 0.49e-3, 0.8847  # joules of an image; the share saved
CLASSES = {"CIFAR-10": 10, "CIFAR-100": 100}


def counted(classes: int) -> dict[str, int]:
    """Return the parameters, and the products of an image: of all, of the weights alone, of the first convolution."""
    network = Transformer(3, classes, **SPIKFORMER, attention=softmax_attention, graded=True).eval()  # type: ignore[arg-type]
    products: dict[nn.Module, int] = {}

    def watch(layer: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        channels = out.shape[1] if isinstance(layer, nn.Conv2d) else out.shape[-1]
        products[layer] = out.numel() // channels * layer.weight.numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(watch) for layer in layers]
    with torch.no_grad(), Counter() as counter:
        network(torch.rand(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "all": int(counter.total.multiply_accumulates),
        "weights": sum(products.values()),
        "first": products[layers[0]],
    }


def rate(products: int, first: int, joules: float = PUBLISHED, steps: int = 4) -> float:
    """Return the share of neurons that spike at a step if an image costs so many joules."""
    return (joules - MULTIPLY_ACCUMULATE * first) / (ACCUMULATE * steps * (products - first))


def main() -> None:
    """Print what is counted."""
    lines = []
    for name, classes in CLASSES.items():
        found = counted(classes)
        for which, label in (("weights", "weights alone"), ("all", "attention too")):
            products = found[which]
            joules = MULTIPLY_ACCUMULATE * products
            cells = [f"{found['parameters']:,}", f"{products / 1e9:.4f}", f"{joules * 1e3:.2f}"]
            lines.append(
                [name, label, *cells, f"{1 - PUBLISHED / joules:.2%}", f"{rate(products, found['first']):.3f}"]
            )
    print(heading("python -m bench.spikformer", "one thread"))
    print(f"Published: {PUBLISHED * 1e3:.2f} mJ, {LESS:.2%} less than {PUBLISHED / (1 - LESS) * 1e3:.2f} mJ.\n")
    header = ["classes of", "counted", "parameters", "G multiply-accumulates", "mJ without spikes"]
    print(table([*header, "0.49 mJ is less by", "firing rate that 0.49 mJ needs"], lines))


if __name__ == "__main__":
    main()
