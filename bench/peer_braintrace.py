"""Time braintrace's online step of an LRU network; `bench.peers` runs this with the python that has braintrace.

    bytes -> embedding -> LRU (D-RTRL) -> 256 scores -> cross entropy -> Adam, at every time step

Prints one JSON object per setting. Under braintrace's default, vjp_method "single-step", only the weights that feed the
state get a gradient (readout, embedding, C and D of the LRU get zeros); under "multi-step" all do, so that is the one
to compare with. `call` is one compiled call per step, as a stream demands; `scan` is 32 steps in one compiled call, for
a stream that lies ready.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

warnings.filterwarnings("ignore")  # that "single-step" excludes weights is said above
if hasattr(os, "sched_setaffinity"):  # before jax makes its threads
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import brainstate  # noqa: E402
import braintools  # noqa: E402
import braintrace  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

WARM, STEPS, SCANNED, SCANS = 100, 300, 32, 8
SETTINGS = [(1, 64), (1, 128), (16, 128)]  # streams, width


class Network(brainstate.nn.Module):
    """Embedding, LRU, readout."""

    def __init__(self, width: int) -> None:
        """Draw initial weights."""
        super().__init__()
        self.embedding = brainstate.nn.Embedding(256, width)  # as in biomamba without a trace of its own
        self.lru = braintrace.nn.LRUCell(width, width)
        self.out = braintrace.nn.Linear(width, 256)

    def update(self, x: jax.Array) -> jax.Array:
        """Return the scores of the next byte."""
        return self.out(self.lru(self.embedding(x)))


def text(streams: int) -> jax.Array:
    """Return (t, b) bytes of Python's help topics, b parts side by side: what tasks.language reads by default."""
    from pydoc_data.topics import topics

    data = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode(), dtype=np.uint8)
    steps = len(data) // streams
    return jax.numpy.asarray(data[: steps * streams].reshape(streams, steps)[:, :2048].T.astype(np.int32))


def learner(streams: int, width: int, method: str) -> tuple[Callable[..., Any], Network, Any]:
    """Return a step (predict, score, learn) of a fresh network, the network, and its learner."""
    brainstate.random.seed(0)
    network = Network(width)
    example = jax.numpy.zeros((streams,), jax.numpy.int32)
    online = braintrace.compile(network, braintrace.D_RTRL, example, batch_size=streams, vjp_method=method)
    weights = network.states(brainstate.ParamState)
    optimizer = braintools.optim.Adam(1e-3)
    optimizer.register_trainable_weights(weights)

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        return braintools.metric.softmax_cross_entropy_with_integer_labels(online(x), y).mean()

    def step(x: jax.Array, y: jax.Array) -> jax.Array:
        gradients, value = brainstate.transform.grad(loss, weights, return_value=True)(x, y)
        optimizer.update(gradients)
        return value

    return step, network, online


def seconds(call: Callable[[], jax.Array]) -> tuple[float, jax.Array]:
    """Return how long a call took, and what it gave."""
    start = time.perf_counter()
    value = jax.block_until_ready(call())
    return time.perf_counter() - start, value


def measure(streams: int, width: int, method: str) -> list[dict[str, Any]]:
    """Return a row for one call per step and a row for many steps per call."""
    step, network, online = learner(streams, width, method)
    rows = list(text(streams))
    one = brainstate.transform.jit(step)
    timed = [seconds(lambda i=i: one(rows[i], rows[i + 1])) for i in range(WARM + STEPS)]
    nats = [float(value) for _, value in timed[-100:]]
    data = text(streams)[WARM + STEPS :]
    many = brainstate.transform.jit(lambda xs, ys: brainstate.transform.for_loop(step, xs, ys))
    starts = range(0, (SCANS + 1) * SCANNED, SCANNED)
    scanned = [seconds(lambda a=a: many(data[a : a + SCANNED], data[a + 1 : a + 1 + SCANNED]))[0] for a in starts]
    traces = [state.value for state in online.states().values() if isinstance(state, braintrace.EligibilityTrace)]
    numbers = jax.tree.leaves([state.value for state in network.states(brainstate.ParamState).values()])
    common = {
        "who": "braintrace",
        "version": f"braintrace {braintrace.__version__}, jax {jax.__version__}, brainstate {brainstate.__version__}",
        "network": f"LRU, width {width}",
        "streams": streams,
        "threads": 1,
        "trace_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(traces)),
        "parameters": sum(leaf.size for leaf in numbers),
        "bits_per_byte": float(np.mean(nats) / np.log(2)),  # of the last 100 calls: that it learns
    }
    return [
        common | {"what": f"online, {method}, call", "us": [1e6 * s for s, _ in timed[WARM:]]},
        common | {"what": f"online, {method}, scan", "us": [1e6 * s / SCANNED for s in scanned[1:]]},
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    for streams, width in SETTINGS:
        for method in ("multi-step", "single-step"):
            for row in measure(streams, width, method):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
