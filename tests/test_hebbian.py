"""Laws of the Hebbian rules: each equals the loop over its neurons and samples, and goes where its paper says."""

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from biomamba.plasticity import hebbian

pytestmark = pytest.mark.usefixtures("float64")
Rule = Callable[..., Tensor]
LR, TAU = 0.05, 7.0


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 images of written digits (m, 64), mean 0 and mean square length 1, and their components (64, 64)."""
    x = torch.tensor(load_digits().data, dtype=torch.float64)
    x = x - x.mean(0)
    x = x / x.square().sum(1).mean().sqrt()
    return x, torch.linalg.eigh(x.T @ x).eigenvectors.flip(1).T


def learn(rule: Rule, x: Tensor, outputs: int, passes: int = 40) -> Tensor:
    """Return the weights of linear neurons after some passes in random order, 50 samples a call, lr falling."""
    w = 0.1 * torch.randn(outputs, x.shape[1])
    for k in range(passes):
        for some in x[torch.randperm(len(x))].split(50):
            w = rule(w, some, some @ w.T, lr=(1 + k / 20) ** -2)
    return w


def slow(term: Callable[[Tensor, Tensor, int, int], float], w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return w + LR times the mean of term(x, y, i, j) over the samples, weight by weight."""
    after = w.clone()
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            after[i, j] += LR * sum(float(term(x[s], y[s], i, j)) for s in range(len(x))) / len(x)
    return after


@pytest.fixture(params=[1, 5])
def activities(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (3, 4) and samples (m, 4) and (m, 3), one and several."""
    return torch.randn(3, 4), torch.randn(request.param, 4), torch.randn(request.param, 3)


def test_hebb_is_the_loop(activities: tuple[Tensor, Tensor, Tensor]) -> None:
    w, x, y = activities
    assert torch.allclose(hebbian.hebb(w, x, y, lr=LR), slow(lambda x, y, i, j: y[i] * x[j], w, x, y))


def test_oja_is_the_loop(activities: tuple[Tensor, Tensor, Tensor]) -> None:
    w, x, y = activities
    expected = slow(lambda x, y, i, j: y[i] * (x[j] - y[i] * w[i, j]), w, x, y)
    assert torch.allclose(hebbian.oja(w, x, y, lr=LR), expected)


def test_sanger_is_the_loop_and_oja_in_its_first_row(activities: tuple[Tensor, Tensor, Tensor]) -> None:
    w, x, y = activities
    expected = slow(lambda x, y, i, j: y[i] * (x[j] - sum(y[k] * w[k, j] for k in range(i + 1))), w, x, y)
    got = hebbian.sanger(w, x, y, lr=LR)
    assert torch.allclose(got, expected)
    assert torch.allclose(got[0], hebbian.oja(w, x, y, lr=LR)[0])
    assert not torch.allclose(got[1], hebbian.oja(w, x, y, lr=LR)[1])


def test_covariance_is_the_loop_and_reads_its_means_first(activities: tuple[Tensor, Tensor, Tensor]) -> None:
    w, x, y = activities
    means = hebbian.Means(torch.randn(4), torch.randn(3))
    got, after = hebbian.covariance(w, means, x, y, lr=LR, tau=TAU)
    assert torch.allclose(got, slow(lambda x, y, i, j: (y[i] - means.y[i]) * (x[j] - means.x[j]), w, x, y))
    assert torch.allclose(after.x, means.x * (1 - 1 / TAU) + x.mean(0) / TAU)
    assert torch.allclose(after.y, means.y * (1 - 1 / TAU) + y.mean(0) / TAU)


def test_bcm_is_the_loop_and_reads_its_threshold_first(activities: tuple[Tensor, Tensor, Tensor]) -> None:
    w, x, y = activities
    theta = torch.rand(3)
    got, after = hebbian.bcm(w, theta, x, y, lr=LR, tau=TAU)
    assert torch.allclose(got, slow(lambda x, y, i, j: y[i] * (y[i] - theta[i]) * x[j], w, x, y))
    assert torch.allclose(after, theta * (1 - 1 / TAU) + y.square().mean(0) / TAU)


def test_one_sample_needs_no_axis_of_samples() -> None:
    w, x, y = torch.randn(3, 4), torch.randn(4), torch.randn(3)
    for rule in (hebbian.hebb, hebbian.oja, hebbian.sanger):
        assert torch.equal(rule(w, x, y), rule(w, x[None], y[None]))


def test_oja_finds_the_first_principal_component_of_digits(digits: tuple[Tensor, Tensor]) -> None:
    x, components = digits
    w = learn(hebbian.oja, x, 1)
    assert float(F.cosine_similarity(w, components[:1]).abs()) >= 0.99
    assert float(w.norm()) == pytest.approx(1, abs=0.01)
    unlearned = 0.1 * torch.randn(1, 64)
    assert float(F.cosine_similarity(unlearned, components[:1]).abs()) < 0.5


def test_sanger_finds_the_first_three_principal_components_of_digits(digits: tuple[Tensor, Tensor]) -> None:
    def whole(w: Tensor, x: Tensor, y: Tensor, lr: float) -> Tensor:
        return w + lr * (y.T @ x - y.T @ y @ w) / len(x)  # Oja's subspace rule: no triangle

    x, components = digits
    w, subspace = learn(hebbian.sanger, x, 3), learn(whole, x, 3)
    assert float(F.cosine_similarity(w, components[:3]).abs().min()) >= 0.99
    assert float((subspace @ components[:3].T).norm()) == pytest.approx(3**0.5, abs=0.05), "the right space"
    assert float(F.cosine_similarity(subspace, components[:3]).abs().min()) < 0.9, "but its own axes"


def test_hebb_alone_grows_without_end(digits: tuple[Tensor, Tensor]) -> None:
    assert float(learn(hebbian.hebb, digits[0], 1, passes=5).norm()) > 1e6


@pytest.mark.parametrize("seed", range(4))
def test_bcm_selects_one_of_two_orthogonal_patterns(seed: int) -> None:
    torch.manual_seed(seed)
    patterns = torch.linalg.qr(torch.randn(6, 6)).Q[:2]
    w, theta = torch.rand(1, 2) @ patterns, torch.zeros(1)
    for _ in range(2000):
        x = patterns[torch.randint(2, (1,))]
        w, theta = hebbian.bcm(w, theta, x, x @ w.T, lr=0.01, tau=10.0)
    response = (patterns @ w.T).flatten().sort().values
    assert abs(float(response[0])) < 1e-3 and float(response[1]) == pytest.approx(2, abs=0.5)
    for _ in range(2000):  # both patterns at once: no noise, so the fixed point itself
        w, theta = hebbian.bcm(w, theta, patterns, patterns @ w.T, lr=0.01, tau=10.0)
    assert (patterns @ w.T).flatten().sort().values.tolist() == pytest.approx([0, 2], abs=1e-6)
    assert float(theta) == pytest.approx(2, abs=1e-6)


def test_bcm_strengthens_both_patterns_where_the_threshold_does_not_slide() -> None:
    patterns, start, theta = torch.eye(2), torch.tensor([[0.6, 0.7]]), torch.tensor([0.5])
    fixed, sliding, slid = start, start, theta
    for _ in range(300):
        fixed, _ = hebbian.bcm(fixed, theta, patterns, patterns @ fixed.T, lr=0.01)
    for _ in range(2000):
        sliding, slid = hebbian.bcm(sliding, slid, patterns, patterns @ sliding.T, lr=0.01)
    assert bool((fixed > start + 0.1).all()) and float(sliding[0, 0]) < 0.1


def test_covariance_sees_what_two_signals_share_and_not_their_means() -> None:
    shared = torch.randn(4000)
    x = torch.stack([shared, torch.randn(4000)], dim=1) + 5
    y = shared[:, None] + 5
    w, means, plain = torch.zeros(1, 2), hebbian.Means(torch.full((2,), 5.0), torch.full((1,), 5.0)), torch.zeros(1, 2)
    for x_s, y_s in zip(x, y, strict=True):
        w, means = hebbian.covariance(w, means, x_s, y_s, lr=1 / 4000, tau=500.0)
        plain = hebbian.hebb(plain, x_s, y_s, lr=1 / 4000)
    assert w.flatten().tolist() == pytest.approx([1, 0], abs=0.1)
    assert plain.flatten().tolist() == pytest.approx([26, 25], abs=0.5)


def test_no_graph_grows() -> None:
    w, x, y = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4), torch.randn(5, 3, requires_grad=True)
    made = [rule(w, x, y) for rule in (hebbian.hebb, hebbian.oja, hebbian.sanger)]
    made += hebbian.bcm(w, torch.zeros(3), x, y)
    after, means = hebbian.covariance(w, hebbian.Means(torch.zeros(4), torch.zeros(3)), x, y)
    assert not any(tensor.requires_grad for tensor in (*made, after, *means))
