"""Time mambapy's Mamba-1 language model; `bench.peers` runs this with the python that has mambapy.

Sizes as in `bench.peer_biomamba`; pscan is its parallel scan. Prints one JSON object per row.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version

if hasattr(os, "sched_setaffinity"):  # before torch makes its threads
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import torch
from mambapy.mamba import Mamba, MambaConfig, RMSNorm
from torch import nn
from torch.nn import functional as F

STREAMS, LENGTH, WARM, TIMES = 16, 64, 3, 12


def milliseconds(call: Callable[[], object]) -> list[float]:
    """Return how long each of some calls took, after a few that do not count."""
    samples = []
    for _ in range(WARM + TIMES):
        start = time.perf_counter()
        call()
        samples.append(1e3 * (time.perf_counter() - start))
    return samples[WARM:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mamba = Mamba(MambaConfig(d_model=64, n_layers=1, d_state=16, expand_factor=2, d_conv=4, pscan=True))
    model = nn.Sequential(nn.Embedding(256, 64), mamba, RMSNorm(64), nn.Linear(64, 256, bias=False))
    x, y = torch.randint(256, (2, STREAMS, LENGTH))

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(x)

    def both() -> None:
        model.zero_grad()
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()

    common = {
        "who": "mambapy",
        "version": f"mambapy {version('mambapy')}, torch {torch.__version__}",
        "network": "Mamba-1, width 64",
        "streams": STREAMS,
        "threads": 1,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    for what, call in (("forward", forward), ("forward + backward", both)):
        print(json.dumps(common | {"what": what, "ms": milliseconds(call)}), flush=True)


if __name__ == "__main__":
    main()
