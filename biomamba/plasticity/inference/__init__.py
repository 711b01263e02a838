"""Inferring spike-timing-dependent plasticity from two spike trains (Stevenson and Koerding, NIPS 2011).

    pre, post, w = simulate(WINDOWS["double exponential"], duration=1800, seed=0)
    fit = GBLM().fit(pre, post, 1800)
    estimate, low, high = fit.window(dt)         # dt = t_pre - t_post in seconds, as in the paper
    GBLM().test(pre, post, 1800).p               # against coupling that stays as it is

    simulate              the generative model                     `simulate`
    GBLM                  the generalised bilinear model           `gblm`
    GLM                   static coupling, the baseline            `gblm`
    PointProcessFilter    w(t) without a rule of its changes       `point_process`

Spike times are in seconds, as arrays or Neo SpikeTrains. Only here is dt t_pre - t_post: `paper` turns a window of
`stdp` round.
"""

from .bases import Bases, raised_cosines
from .gblm import GBLM, GLM, BilinearFit, ScoreTest
from .inferred import Inferred
from .point_process import FilteredFit, PointProcessFilter
from .simulate import WINDOWS, Window, paper, simulate

__all__ = [
    "GBLM",
    "GLM",
    "WINDOWS",
    "Bases",
    "BilinearFit",
    "FilteredFit",
    "Inferred",
    "PointProcessFilter",
    "ScoreTest",
    "Window",
    "paper",
    "raised_cosines",
    "simulate",
]
