"""NeuroBench's metrics agree with our own count; where it is missing, a line says what to install."""

import math

import pytest
import torch

from biomamba.analysis import neurobench
from biomamba.analysis.cost import counted
from biomamba.analysis.neurobench import Stateless, metrics
from sizes import BATCH, BLOCKS, D_MODEL, chunks, random_model, random_tokens

T = 8


@pytest.fixture
def there() -> None:
    """Skip the test where NeuroBench is not installed."""
    try:
        neurobench.load()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("block", BLOCKS)
def test_dense_operations_are_our_products_of_linear_layers(block: str) -> None:
    model, chunk = random_model(block, n_layers=2), chunks(*random_tokens(T), T)[0]
    found = metrics(model, chunk)
    e, n = 2 * D_MODEL, BLOCKS[block]["d_state"]
    recurrence = 2 * e * n * (1 if block == "diagonal" else 2)  # and reading the state, a product but no layer
    ours = counted(lambda: Stateless(model)(chunk.x)).multiply_accumulates / (BATCH * T)
    assert found["synaptic_operations"]["Dense"] == ours - recurrence > 0
    assert found["footprint"] == sum(4 * parameter.numel() for parameter in model.parameters())
    assert found["connection_sparsity"] == 0 and found["activation_sparsity"] == 0


@pytest.mark.usefixtures("there")
def test_spikes_are_accumulates_and_sparse() -> None:
    graded, spiking = (random_model("diagonal", threshold=threshold) for threshold in (None, 0.5))
    chunk = chunks(*random_tokens(T), T)[0]
    plain, sparse = metrics(graded, chunk), metrics(spiking, chunk)
    ours = counted(lambda: Stateless(spiking)(chunk.x)).accumulates / (BATCH * T)
    assert sparse["synaptic_operations"]["Effective_ACs"] == ours > 0
    assert plain["synaptic_operations"]["Effective_ACs"] == 0
    silent = 1 - ours / (2 * D_MODEL * D_MODEL)
    assert math.isclose(sparse["activation_sparsity"], silent) and 0 < silent < 1


@pytest.mark.usefixtures("there")
def test_weights_cut_to_zero_are_sparse_connections() -> None:
    model, chunk = random_model("diagonal"), chunks(*random_tokens(T), T)[0]
    layers = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    layers[0].data[:] = 0
    share = layers[0].numel() / sum(weight.numel() for weight in layers)
    assert metrics(model, chunk)["connection_sparsity"] == pytest.approx(share, abs=1e-4)


@pytest.mark.usefixtures("there")
def test_the_model_is_left_as_it_was() -> None:
    model, chunk = random_model("diagonal", threshold=0.5), chunks(*random_tokens(T), T)[0]
    assert metrics(model, chunk) == metrics(model, chunk)
    assert model.training
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize("error", [ModuleNotFoundError("no snntorch"), OSError("no library"), RuntimeError("no ABI")])
def test_what_is_missing_is_said(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr(neurobench, "import_module", refuse)
    with pytest.raises(ImportError, match=rf'{error}: pip install "biomamba\[neurobench\]"'):
        metrics(random_model("diagonal"), chunks(*random_tokens(T), T)[0])
