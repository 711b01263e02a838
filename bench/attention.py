"""A small spiking transformer on images: STDP attention beside dot product, softmax, none, and one without spikes.

    python -m bench.attention [--data digits|cifar10|cifar100] [--path DIR] [--epochs 20] [--seeds 3] [--jobs 1]
        [--validate] [--device cpu] [--out runs/bench] [--figure docs/attention.png]

Trained by backpropagation (AdamW, one cycle of the learning rate), scored once, after the last epoch, on the images to
test; with --validate on every fifth image to train on, which then is not learned from: that is how settings are chosen.
Operations are counted on the images scored, as inference runs them: `operations`. "Products" are what the field counts:
4.6 pJ for a multiply-accumulate, 0.9 pJ for the addition of a spike; "all" adds 4.6 pJ for every elementwise operation.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bench.grid import Row, heading, run, spread, table
from biomamba.analysis.operations import Counter, Operations
from biomamba.plasticity.attention import (
    dot_product_attention,
    first_spike_time,
    softmax_attention,
    stdp_attention,
    stdp_scores,
)
from biomamba.plasticity.images import Images, cifar, digits
from biomamba.plasticity.transformer import Transformer


def alone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return each token's own value: the control that attends to nothing else."""
    return v


NETWORKS: dict[str, dict[str, Any]] = {
    "STDP": {"attention": stdp_attention},
    "dot product": {"attention": dot_product_attention},
    "softmax": {"attention": softmax_attention},
    "no attention": {"attention": alone},
    "without spikes, softmax": {"attention": softmax_attention, "graded": True},
}
SIZES: dict[str, dict[str, Any]] = {
    "digits": {"channels": 1, "classes": 10, "d": 64, "blocks": 2, "heads": 4, "halvings": 1},
    "cifar10": {"channels": 3, "classes": 10, "d": 384, "blocks": 4, "heads": 12, "halvings": 2},
    "cifar100": {"channels": 3, "classes": 100, "d": 384, "blocks": 4, "heads": 12, "halvings": 2},
}
BATCH, RATE, DECAY, BLUE = 64, 3e-3, 0.01, "#0072B2"
KINDS = {  # of operations: how they are named and drawn
    "multiply_accumulates": ("products", "#0072B2"),
    "accumulates": ("additions of spikes", "#D55E00"),
    "elementwise": ("elementwise", "#009E73"),
}


def load(data: str, path: str | None, validate: bool) -> tuple[Images, Images]:
    """Return the images to train on and to score."""
    train, test = digits() if data == "digits" else cifar(int(data.removeprefix("cifar")), path)
    if not validate:
        return train, test
    fifth = torch.arange(len(train.y)) % 5 == 0
    return Images(train.x[~fifth], train.y[~fifth]), Images(train.x[fifth], train.y[fifth])


def measure(setting: Row) -> Row:
    """Return what a network scores after training, and what an image costs it."""
    train, test = load(setting["data"], setting["path"], setting["validate"])
    torch.manual_seed(setting["seed"])
    network = Transformer(**SIZES[setting["data"]], **NETWORKS[setting["network"]]).to(setting["device"])
    row: Row = {"parameters": sum(p.numel() for p in network.parameters()), "untrained": accuracy(network, test)}
    began = time.perf_counter()
    learn(network, train, setting["epochs"], augment=setting["data"] != "digits")
    row |= {"seconds": time.perf_counter() - began, "accuracy": accuracy(network, test)}
    row |= {"learned": accuracy(network, train), "trivial": float((test.y == train.y.mode().values).float().mean())}
    return row | costs(network, test) | ({"apart": apart(network, test)} if setting["network"] == "STDP" else {})


def learn(network: Transformer, train: Images, epochs: int, augment: bool) -> None:
    """Train by backpropagation; with `augment`, images come mirrored and moved by up to 4 pixels."""
    updates = epochs * (len(train.y) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=updates)
    device = next(network.parameters()).device
    network.train()
    for _ in tqdm(range(epochs), desc="epochs", disable=None, leave=False):
        order = torch.randperm(len(train.y))
        for chosen in order.split(BATCH)[: len(order) // BATCH]:
            x, y = train.x[chosen].to(device), train.y[chosen].to(device)
            loss = torch.nn.functional.cross_entropy(network(moved(x) if augment else x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()


def moved(x: Tensor) -> Tensor:
    """Return images (b, c, h, w), all moved alike by up to 4 pixels, half of the batches mirrored."""
    by = torch.randint(-4, 5, (2,)).tolist()
    x = torch.nn.functional.pad(x, (4, 4, 4, 4))[:, :, 4 + by[0] :, 4 + by[1] :][:, :, : x.shape[2], : x.shape[3]]
    return x.flip(-1) if torch.rand(()) < 0.5 else x


@torch.no_grad()
def accuracy(network: Transformer, images: Images) -> float:
    """Return the share of images whose class is named."""
    network.eval()
    device = next(network.parameters()).device
    named = torch.cat([network(x.to(device)).argmax(1).cpu() for x in images.x.split(256)])
    return float((named == images.y).float().mean())


@torch.no_grad()
def costs(network: Transformer, images: Images) -> Row:
    """Return the operations and the estimated microjoules of one image, on the mean of up to 1,000."""
    network.eval()
    x = images.x[:1000].to(next(network.parameters()).device)
    with Counter() as counter:
        for part in x.split(100):
            network(part)
    counts = {kind: getattr(counter.total, kind) / len(x) for kind in KINDS}
    products = Operations(**counts | {"elementwise": 0})
    return counts | {"products_uj": products.joules * 1e6, "all_uj": Operations(**counts).joules * 1e6}


@torch.no_grad()
def apart(network: Transformer, images: Images) -> list[float]:
    """Return how often a query and a key are that far apart, for each of the 2 d + 1 differences, over all blocks."""
    found: list[Tensor] = []

    def watched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dt = first_spike_time(q).unsqueeze(-1) - first_spike_time(k).unsqueeze(-2)
        found.append(
            torch.bincount((dt * q.shape[-1]).round().long().flatten() + q.shape[-1], minlength=2 * q.shape[-1] + 1)
        )
        return stdp_attention(q, k, v)

    for block in network.blocks:
        block.attention = watched  # type: ignore[union-attr,assignment]
    network.eval()(images.x[:256].to(next(network.parameters()).device))
    counts = torch.stack(found).sum(0)
    return (counts / counts.sum()).tolist()


def linear(train: Images, test: Images) -> float:
    """Return the accuracy of logistic regression on the pixels."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(train.x.flatten(1).numpy(), train.y.numpy())
    return float(model.score(test.x.flatten(1).numpy(), test.y.numpy()))


def report(rows: list[Row], trivial: list[list[str]]) -> str:
    """Return a line for each network, mean +- spread over seeds."""
    header = ["network", "test", "train", "untrained", "parameters", "multiply-accumulates", "additions of spikes"]
    header += ["elementwise", "uJ, products", "uJ, all", "seconds"]
    lines = [[name, score, *[""] * 9] for name, score in trivial]
    for name in NETWORKS:
        own = [row for row in rows if row["setting"]["network"] == name]

        def of(key: str, digits: int = 0, own: list[Row] = own) -> str:
            return spread([row[key] for row in own], digits)

        lines.append(
            [name, *(of(key, 3) for key in ("accuracy", "learned", "untrained")), f"{own[0]['parameters']:,}"]
            + [f"{mean(own, kind):,.0f}" for kind in KINDS]
            + [of("products_uj", 2), of("all_uj", 2), of("seconds")]
        )
    return table(header, lines)


def mean(rows: list[Row], key: str) -> float:
    """Return the mean of a number over the rows."""
    return float(sum(row[key] for row in rows) / len(rows))


def draw(rows: list[Row], path: Path) -> None:
    """Draw the score against the difference in time and what differences occur, accuracies, and energies by kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    score, right, energy = figure.subplots(1, 3, width_ratios=[4, 3, 4])
    occurring = torch.tensor([row["apart"] for row in rows if "apart" in row]).mean(0)
    d = len(occurring) // 2
    dt = (torch.arange(len(occurring)) - d) / d
    score.bar(dt, occurring / occurring.max(), width=0.8 / d, color="#c8ccd0", label="how often (most often: 1)")
    score.plot(dt, stdp_scores(dt[:, None], torch.zeros(len(dt), 1)).flatten(), ".-", color=BLUE, label="score")
    score.set(xlabel="t_query - t_key (trials)", ylabel="score", title="STDP attention")
    score.legend(frameon=False, fontsize=8)
    names = list(NETWORKS)[::-1]
    for i, name in enumerate(names):
        own = [row for row in rows if row["setting"]["network"] == name]
        right.plot([row["accuracy"] for row in own], [i] * len(own), "o", color=BLUE, alpha=0.6)
        left = 0.0
        for kind, (label, colour) in KINDS.items():
            width = Operations(**{kind: mean(own, kind)}).joules * 1e6
            energy.barh(i, width, left=left, color=colour, label=label if i == 0 else None)
            left += width
    right.set(yticks=range(len(names)), yticklabels=names, xlabel="accuracy on the test images (each seed)")
    energy.set(yticks=range(len(names)), yticklabels=[], xlabel="estimated energy of an image (uJ)")
    energy.legend(frameon=False, fontsize=8)
    for axes in (score, right, energy):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Train every network, print the table, draw it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SIZES), default="digits")
    parser.add_argument("--path", help="of CIFAR: the official binary archive, its folder, or one for datasets")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--validate", action="store_true", help="score a fifth of the training images instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--figure", type=Path, help="draw the scores and energies there")
    args = parser.parse_args()
    if args.data != "digits" and args.path is None:
        print(f"{args.data}: from the hub of Hugging Face, or its cache; --path names a file or folder", flush=True)
    try:
        train, test = load(args.data, args.path, args.validate)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error).splitlines()[0])
    own = {name: getattr(args, name) for name in ("data", "path", "epochs", "validate", "device")}
    settings = [{"network": name, **own, "seed": seed} for name in NETWORKS for seed in range(args.seeds)]
    rows = run(measure, settings, args.out / "attention.jsonl", args.jobs)
    trivial = [["commonest class", f"{rows[0]['trivial']:.3f}"]]
    if args.data == "digits":
        trivial.append(["logistic regression on the pixels", f"{linear(train, test):.3f}"])
    print(heading(f"python -m bench.attention --data {args.data} --epochs {args.epochs} --seeds {args.seeds}"))
    print(report(rows, trivial))
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
