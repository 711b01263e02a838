"""Inferring spike-timing-dependent plasticity from two spike trains (Stevenson and Koerding, NIPS 2011).

    pre, post, w = simulate(WINDOWS["double exponential"], duration=1800, seed=0)
    fit = GBLM().fit(pre, post, 1800)
    estimate, low, high = fit.window(dt)         # dt = t_pre - t_post in seconds, as in the paper
    GBLM().test(pre, post, 1800).p               # against spikes whose times within 25 ms do not matter

    simulate              the generative model                     `simulate`
    GBLM                  the generalised bilinear model           `gblm`
    GLM                   static coupling, the baseline            `gblm`
    PointProcessFilter    w(t) without a rule of its changes       `point_process`
    choose                slow rate terms                          `slow`, `selection`

Spike times are in seconds, as arrays or Neo SpikeTrains. Only here is dt t_pre - t_post: `paper` turns a window of
`stdp` round.
"""

from .bases import Bases, raised_cosines
from .gblm import GBLM, GLM, BilinearFit, ScoreTest
from .inferred import Inferred
from .jitter import JitterTest
from .point_process import FilteredFit, PointProcessFilter
from .selection import choose
from .simulate import WINDOWS, Window, alpha, difference_of_gaussians, paper, per_pair, simulate

__all__ = [
    "GBLM",
    "GLM",
    "WINDOWS",
    "Bases",
    "BilinearFit",
    "FilteredFit",
    "Inferred",
    "JitterTest",
    "PointProcessFilter",
    "ScoreTest",
    "Window",
    "alpha",
    "choose",
    "difference_of_gaussians",
    "paper",
    "per_pair",
    "raised_cosines",
    "simulate",
]
