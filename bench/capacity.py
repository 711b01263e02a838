"""What a spiking neuron learns by STDP: measurements on fresh random patterns, several draws side by side.

A draw is one neuron with patterns, labels and first weights of its own. Changes of the weights are applied after each
TEN trials, patterns come in an order drawn anew for every epoch, and the rate falls to 0 in a straight line.

Sizes: d draws, p patterns, n inputs, t steps.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.grid import Row
from biomamba.plasticity import associative, tempotron
from biomamba.plasticity.latency import Latency

EVERY, ERRS, PRECISE, PERCEPTRON = "every trial", "where it errs", "finite precision", "perceptron"  # who teaches
TEN, NEAR = 10, 30  # trials between two changes; ms after the teacher in which the Chronotron has to spike
AXONAL, DENDRITIC, SUBTHRESHOLD, RESET = 4.0, 1.0, 0.6, -0.9  # synchronous patterns
TAUS = {"tau_u": 15.0, "tau_x": 17.0, "tau_y": 23.0}


class Patterns(NamedTuple):
    """Latency patterns: when each input spikes (d, p, n), labels and times of the teacher (d, p)."""

    times: Tensor
    labels: Tensor
    at: Tensor

    def some(self, draws: Tensor, which: Tensor) -> "Patterns":
        """Return the patterns `which` (a, m) of the draws (a,), one after another: (a m, n), (a m,), (a m,)."""
        return Patterns(*(each[draws.unsqueeze(1), which].flatten(0, 1) for each in self))


def random_patterns(draws: int, patterns: int, inputs: int, steps: int, targets: tuple[int, int] | None) -> Patterns:
    """Return patterns whose inputs spike once each, at any step but the first.

    targets: the Chronotron's teacher spikes at a step between these, another for each pattern; None: the Tempotron's
    spikes at step 0, in half of the patterns.
    """
    times = torch.randint(1, steps, (draws, patterns, inputs))
    if targets is None:
        return Patterns(times, torch.rand(draws, patterns) < 0.5, torch.zeros(draws, patterns, dtype=torch.long))
    return Patterns(times, torch.ones(draws, patterns, dtype=torch.bool), torch.randint(*targets, (draws, patterns)))


def answered(spikes: Tensor, patterns: Patterns, timed: bool) -> Tensor:
    """Return which trials (b,) are right: a spike where there should be one; timed: all spikes in their window."""
    if not timed:
        return spikes.any(1) == patterns.labels
    since = torch.arange(spikes.shape[1]) - patterns.at.unsqueeze(1)
    return spikes.any(1) & ~(spikes & ((since < 0) | (since > NEAR))).any(1)


def learn(neuron: Latency, w: Tensor, shown: Patterns, teacher: str, timed: bool) -> tuple[Tensor, Tensor]:
    """Return changes (b, n) for a rate of 1, and which trials were right; w (b, n).

    EVERY: the teacher spikes in every trial that should fire; no trial counts as right. ERRS: only where the neuron,
    shown the pattern alone, does not answer as it should, and nothing changes where it does fire as it should. PRECISE:
    no STDP, but `finite_precision`, for patterns with a time.
    """
    taught = torch.where(shown.labels, shown.at, -1)
    if teacher == EVERY:
        trial = neuron.present(w, shown.times, taught)
        return neuron.change(shown.times, trial), torch.zeros_like(shown.labels)
    spikes = neuron.present(w, shown.times).spikes
    right = answered(spikes, shown, timed)
    if teacher == PRECISE:
        return finite_precision(neuron, spikes, shown), right
    trial = neuron.present(w, shown.times, taught.masked_fill(right, -1))
    change = neuron.change(shown.times, trial)
    return change.masked_fill((shown.labels & right).unsqueeze(1), 0), right


def finite_precision(neuron: Latency, spikes: Tensor, shown: Patterns) -> Tensor:
    """Return the changes (b, n) of a rule that is told its errors (Memmesheimer et al. 2014), for a rate of 1.

    What each input brings to the potential at the first error, less where that is a spike outside of the window, more
    where it is the window's end without a spike.
    """
    step = torch.arange(neuron.steps)
    since = step - shown.at.unsqueeze(1)
    within = (since >= 0) & (since <= NEAR)
    wrong, missed = spikes & ~within, (since == NEAR) & ~(spikes & within).any(1, keepdim=True)
    errors = wrong | missed
    at = errors.int().argmax(1, keepdim=True)
    sign = torch.where(wrong.gather(1, at), -1.0, 1.0) * errors.any(1, keepdim=True)
    return sign * neuron.kernel[shown.times, at]


def spread_out(setting: Row, neuron: Latency, rate: float, targets: tuple[int, int] | None) -> Row:
    """Return what the neurons recall after training: the share of each draw, and of patterns never learned."""
    torch.manual_seed(setting["seed"])
    n, draws, epochs, timed = setting["inputs"], setting["draws"], setting["epochs"], targets is not None
    patterns = random_patterns(draws, max(1, round(setting["load"] * n)), n, neuron.steps, targets)
    w, alive, used = torch.randn(draws, n) / n**0.5, torch.arange(draws), [epochs] * draws
    rate = rate * (100 / n) ** 0.5 if setting["teacher"] == ERRS else rate
    for epoch in range(epochs):
        wrong = torch.zeros(len(alive))
        for which in torch.rand(len(alive), patterns.labels.shape[1]).argsort(1).split(TEN, 1):
            own = w[alive].repeat_interleave(which.shape[1], 0)
            change, right = learn(neuron, own, patterns.some(alive, which), setting["teacher"], timed)
            w[alive] += rate * (1 - epoch / epochs) * change.view(len(alive), -1, n).sum(1)
            wrong += (~right).view(len(alive), -1).sum(1)
        for draw in alive[wrong == 0].tolist():
            used[draw] = epoch
        alive = alive[wrong > 0]
        if not len(alive):
            break
    learned, apart = recalled(neuron, w, patterns, timed)
    new = random_patterns(draws, 200, n, neuron.steps, targets)
    return {
        "learned": learned,
        "apart": apart,
        "epochs used": used,
        "never learned": recalled(neuron, w, new, timed)[0],
    }


def recalled(neuron: Latency, w: Tensor, patterns: Patterns, timed: bool) -> tuple[list[float], list[int]]:
    """Return the share of patterns each draw answers rightly, and by how much right spikes follow the teacher's."""
    shares, apart = [], []
    for draw in range(len(w)):
        own = patterns.some(torch.tensor([draw]), torch.arange(patterns.labels.shape[1]).unsqueeze(0))
        spikes = neuron.present(w[draw].expand(len(own.times), -1), own.times).spikes
        right = answered(spikes, own, timed)
        shares.append(float(right.double().mean()))
        if timed:
            apart += (spikes.int().argmax(1) - own.at)[right].tolist()
    return shares, apart


def by_gradient(setting: Row, steps: int, taus: dict[str, float]) -> Row:
    """Return the share that the Tempotron's own rule, all patterns at once and a momentum of 0.9, has at the end."""
    torch.manual_seed(setting["seed"])
    n, shares, used = setting["inputs"], [], []
    for _ in range(setting["draws"]):
        patterns = random_patterns(1, round(setting["load"] * n), n, steps, None)
        sent = torch.zeros(len(patterns.times[0]), steps, n).scatter_(1, patterns.times[0].unsqueeze(1), 1.0)
        u = associative.membrane(associative.encode(sent, **taus).current, tau=taus["tau_u"], dt=1.0)
        w, labels = torch.randn(1, n) / n**0.5, patterns.labels[0].unsqueeze(1)
        moved, epoch = torch.zeros_like(w), 0
        while epoch < setting["epochs"] and not torch.equal(tempotron.fires(w, u), labels):
            moved = 0.9 * moved + 0.05 / len(labels) * tempotron.change(w, u, labels)
            w, epoch = w + moved, epoch + 1
        shares.append(float((tempotron.fires(w, u) == labels).double().mean()))
        used.append(epoch)
    return {"learned": shares, "epochs used": used, "apart": [], "never learned": []}


def synchronous(setting: Row) -> Row:
    """Return after how many epochs neuron and perceptron have every pattern right (-1: never), and who could have.

    Half of the inputs spike at time 0. The perceptron has the neuron's threshold U_st + |U_ad| / 2, its margin
    |U_ad| / 2, its first weights and its order of patterns.
    """
    torch.manual_seed(setting["seed"])
    n, draws, patterns = setting["inputs"], setting["draws"], round(setting["load"] * setting["inputs"])
    active, labels = torch.rand(draws, patterns, n, dtype=torch.float64) < 0.5, torch.rand(draws, patterns) < 0.5
    deep = abs(RESET) * math.exp(-(AXONAL + DENDRITIC) / TAUS["tau_u"])
    threshold, delays = SUBTHRESHOLD + deep / 2, {"axonal": AXONAL, "dendritic": DENDRITIC}
    gamma = associative.balanced_gamma(tau_x=TAUS["tau_x"], tau_y=TAUS["tau_y"], **delays)
    constants: dict[str, Any] = {"subthreshold": SUBTHRESHOLD, "reset": RESET, "gamma": gamma, **TAUS, **delays}
    neuron, recall = (Latency(7, threshold=top, like=active.double(), **constants) for top in (1.0, threshold))
    w = 0.05 * torch.randn(draws, n, dtype=torch.float64)
    plain, x, wanted = w.clone(), active.double(), 2.0 * labels.double() - 1
    step = 0.1 * math.exp(-AXONAL / TAUS["tau_y"])  # what a potentiation is at a rate of 0.1
    shown = Patterns(torch.where(active, 0, neuron.steps), labels, torch.zeros_like(labels, dtype=torch.long))
    found = torch.full((2, draws), -1)
    for epoch in range(setting["epochs"] + 1):
        spiked = [recall.present(w[k].expand(patterns, -1), shown.times[k]).spikes.any(1) for k in range(draws)]
        for k, answer in enumerate((torch.stack(spiked), torch.einsum("dpn,dn->dp", x, plain) >= threshold)):
            found[k, (found[k] < 0) & (answer == labels).all(1)] = epoch
        alive = torch.arange(draws)[(found < 0).any(0)]
        if not len(alive):
            break
        for which in torch.rand(len(alive), patterns).argsort(1).split(TEN, 1):
            own = w[alive].repeat_interleave(which.shape[1], 0)
            change, _ = learn(neuron, own, shown.some(alive, which), EVERY, False)
            w[alive] += 0.1 * change.view(len(alive), -1, n).sum(1)
            some, sign = x[alive.unsqueeze(1), which], wanted[alive.unsqueeze(1), which]
            missed = sign * (torch.einsum("amn,an->am", some, plain[alive]) - threshold) < deep / 2
            plain[alive] += step * torch.einsum("am,amn->an", sign * missed, some)
    return {
        "neuron": found[0].tolist(),
        "perceptron": found[1].tolist(),
        "apart": float((w - plain).abs().max() / w.abs().max()),
        "separable": [separable(x[k], wanted[k], threshold) for k in range(draws)],
    }


def separable(x: Tensor, wanted: Tensor, threshold: float) -> bool:
    """Return whether any weights put all patterns x (p, n) on their side of the threshold: a linear programme."""
    from scipy.optimize import linprog

    sides = torch.cat([-wanted.unsqueeze(1) * x, torch.ones(len(x), 1)], 1).numpy()  # the margin comes last
    free = [(None, None)] * x.shape[1]
    best = linprog([0.0] * x.shape[1] + [-1.0], A_ub=sides, b_ub=-threshold * wanted.numpy(), bounds=[*free, (None, 1)])
    return bool(best.status == 0 and best.x[-1] > 1e-9)


def stream(setting: Row, neuron: Latency, shows: int) -> Row:
    """Return the recall (age in patterns) of what came so long ago, patterns coming one after another, never again.

    Each is shown so many times in a row, its changes applied at once. The mean over draws and over the second half of
    the stream of 6 n patterns. The perceptron sees synchronous patterns, half of their inputs active.
    """
    torch.manual_seed(setting["seed"])
    n, draws, rate = setting["inputs"], setting["draws"], setting["rate"]
    patterns = random_patterns(draws, 6 * n, n, neuron.steps, None)
    x, wanted = (torch.rand(draws, 6 * n, n) < 0.5).float(), 2.0 * patterns.labels - 1
    w, sums, tests = torch.randn(draws, n) / n**0.5, torch.zeros(3 * n), 0
    for k in range(6 * n):
        which = torch.full((draws, 1), k)
        for _ in range(shows):
            if setting["teacher"] == PERCEPTRON:
                missed = wanted[:, k] * ((w * x[:, k]).sum(1) - 0.9) < 0.1
                w = w + rate * (wanted[:, k] * missed).unsqueeze(1) * x[:, k]
            else:
                shown = patterns.some(torch.arange(draws), which)
                w = w + rate * learn(neuron, w, shown, setting["teacher"], False)[0]
        if k >= 3 * n and k % (n // 4) == 0:
            back = torch.arange(k, k - 3 * n, -1).expand(draws, -1)
            if setting["teacher"] == PERCEPTRON:
                answers = torch.einsum("dpn,dn->dp", x[:, back[0]], w) >= 0.9
                right = answers == patterns.labels[:, back[0]]
            else:
                old = patterns.some(torch.arange(draws), back)
                right = answered(neuron.present(w.repeat_interleave(3 * n, 0), old.times).spikes, old, False)
            sums, tests = sums + right.view(draws, -1).float().mean(0), tests + 1
    return {"recall": [round(value, 4) for value in (sums / tests).tolist()]}
