"""The neuroscience of synaptic plasticity as small pure functions: state in, state out, one step of time each.

Independent of the models of this library. Times are in milliseconds.
"""

from . import (
    associative,
    attention,
    hebbian,
    inference,
    latency,
    network,
    neurons,
    short_term,
    stdp,
    tempotron,
    voltage,
)

__all__ = [
    "associative",
    "attention",
    "hebbian",
    "inference",
    "latency",
    "network",
    "neurons",
    "short_term",
    "stdp",
    "tempotron",
    "voltage",
]
