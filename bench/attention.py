"""A small spiking transformer on images: STDP attention beside dot product, softmax, none, and one without spikes.

    python -m bench.attention [--data digits|fashion|cifar10|cifar100] [--path DIR] [--epochs 20] [--seeds 3] [--jobs 1]
        [--images N] [--augment flip,shift,erase,mixup] [--validate] [--device cpu] [--compile] [--out runs/bench]
        [--figure docs/attention.png] [--cams docs/cam.png]

Trained by backpropagation (Muon and AdamW, one cycle of their rates), scored once, after the last epoch, on the images
to test; with --validate on every fifth image to train on, which then is not learned from: so are settings chosen.
Operations are counted on the images scored, as inference runs them: `operations`. "Products" are what the field counts:
4.6 pJ for a multiply-accumulate, 0.9 pJ for the addition of a spike; "all" adds 4.6 pJ for every elementwise operation.
Maps are Grad-CAM's: of the class that is named, on 1,000 of the images scored; "own map": accuracy where the quarter of
the pixels that the map names most is blanked, "another's map": where it is the map of the image after.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.optim.lr_scheduler import OneCycleLR
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
from biomamba.plasticity.augment import Augmentation
from biomamba.plasticity.cam import cam
from biomamba.plasticity.images import FASHION, Images, cifar, digits, fashion
from biomamba.plasticity.transformer import SPIKFORMER, Transformer


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
ATTENTIONS = ("STDP", "dot product", "softmax")
SIZES: dict[str, dict[str, Any]] = {
    "digits": {"channels": 1, "classes": 10, "d": 64, "blocks": 2, "heads": 4, "halvings": 1},
    "fashion": {"channels": 1, "classes": 10, "convolutions": (24, 48), "d": 48, "blocks": 1, "heads": 4, "steps": 2}
    | {"halvings": 2, "tau": 1.3, "steepness": 1.0},
    "cifar10": {"channels": 3, "classes": 10, **SPIKFORMER},
    "cifar100": {"channels": 3, "classes": 100, **SPIKFORMER},
}
AUGMENT = {"digits": "", "fashion": "", "cifar10": "flip,shift", "cifar100": "flip,shift"}
CHANGES: dict[str, dict[str, Any]] = {
    "flip": {"flip": True},
    "shift": {"shift": 4},
    "erase": {"erase": 12},
    "mixup": {"mixup": 0.2},
}
CAMS, SHOWN = 1000, 8  # images of which maps are scored, and drawn
BATCH, MUON, ADAM, DECAY, SMOOTH, BLUE = 64, 0.1, 1e-2, 0.01, 0.1, "#0072B2"
KINDS = {  # of operations: how they are named and drawn
    "multiply_accumulates": ("products", "#0072B2"),
    "accumulates": ("additions of spikes", "#D55E00"),
    "elementwise": ("elementwise", "#009E73"),
}


def load(data: str, path: str | None, validate: bool, number: int | None = None) -> tuple[Images, Images]:
    """Return the images to train on, the first ones where so many are asked for, and those to score."""
    if data == "fashion":
        train, test = fashion(path or FASHION)
    else:
        train, test = digits() if data == "digits" else cifar(int(data.removeprefix("cifar")), path)
    if validate:
        fifth = torch.arange(len(train.y)) % 5 == 0
        train, test = Images(train.x[~fifth], train.y[~fifth]), Images(train.x[fifth], train.y[fifth])
    return Images(train.x[:number], train.y[:number]), test


def measure(setting: Row) -> Row:
    """Return what a network scores after training, what an image costs it, and what its maps are worth."""
    train, test = load(setting["data"], setting["path"], setting["validate"], setting["images"])
    torch.manual_seed(setting["seed"])
    network = Transformer(**SIZES[setting["data"]], **NETWORKS[setting["network"]]).to(setting["device"])
    row: Row = {"parameters": sum(p.numel() for p in network.parameters()), "untrained": accuracy(network, first(test))}
    began = time.process_time()
    learn(network, train, setting["epochs"], augmentation(setting["augment"]), compiled=setting["compile"])
    row |= {"seconds": time.process_time() - began, "accuracy": accuracy(network, test)}
    row |= {"learned": accuracy(network, first(train))}
    row |= {"trivial": float((test.y == train.y.mode().values).float().mean())}
    row |= costs(network, test) | blanked(network, test, setting["seed"])
    return row | ({"apart": apart(network, test)} if setting["network"] == "STDP" else {})


def first(images: Images) -> Images:
    """Return the first 2,000 images."""
    return Images(images.x[:2000], images.y[:2000])


def augmentation(names: str) -> Augmentation:
    """Return the changes of images that are named, with commas between."""
    return Augmentation(**{key: value for name in names.split(",") if name for key, value in CHANGES[name].items()})


def learn(network: Transformer, train: Images, epochs: int, augment: Augmentation, *, compiled: bool) -> None:
    """Train by backpropagation, through torch.compile or not: Muon for weights, AdamW for norms and the head."""
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    for each in convolutions:
        parametrize.register_parametrization(each, "weight", AsMatrix(each.weight.shape))
    matrices, rest = list[Tensor](), list[Tensor]()
    for name, p in network.named_parameters():
        (matrices if p.ndim == 2 and not name.startswith("head") else rest).append(p)
    optimizers = [
        torch.optim.Muon(matrices, MUON, weight_decay=DECAY),
        torch.optim.AdamW(rest, ADAM, weight_decay=DECAY),
    ]
    updates = epochs * (len(train.y) // BATCH)
    rates = [OneCycleLR(each, each.defaults["lr"], total_steps=updates) for each in optimizers]
    forward: torch.nn.Module = network
    if compiled:
        torch.compiler.reset()  # else torch takes this network for one that changed, and gives up at the ninth
        forward = torch.compile(network)
    device, classes = next(network.parameters()).device, network.head.out_features
    network.train()
    for _ in tqdm(range(epochs), desc="epochs", disable=None, leave=False):
        order = torch.randperm(len(train.y))
        for chosen in order.split(BATCH)[: len(order) // BATCH]:
            x, targets = augment(train.x[chosen].to(device), train.y[chosen].to(device), classes)
            loss = torch.nn.functional.cross_entropy(forward(x), targets, label_smoothing=SMOOTH)
            network.zero_grad()
            loss.backward()
            for each in (*optimizers, *rates):
                each.step()
    for each in convolutions:
        parametrize.remove_parametrizations(each, "weight")


class AsMatrix(torch.nn.Module):
    """The weight of a convolution as a matrix with a row for each channel it gives, which is what Muon takes."""

    def __init__(self, shape: torch.Size) -> None:
        """Take the shape of the weight."""
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        """Return the weight."""
        return matrix.view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the matrix."""
        return weight.flatten(1)


def blanked(network: Transformer, images: Images, seed: int) -> Row:
    """Return the accuracy where what a map names is blanked, the image's own or another's; of seed 0 some maps too."""
    device = next(network.parameters()).device
    x, y = images.x[:CAMS].to(device), images.y[:CAMS]
    maps = []
    for part in x.split(100):
        with torch.no_grad():
            named = network.eval()(part).argmax(1)
        maps.append(cam(network, part, named).cpu())
    found = torch.cat(maps)
    quarter = found.flatten(1).argsort(1, descending=True)[:, : found[0].numel() // 4]
    row: Row = {}
    for name, where in (("own map", quarter), ("another's map", quarter.roll(1, 0))):
        gone = torch.zeros(found.flatten(1).shape, dtype=torch.bool).scatter(1, where, True).view_as(found)
        row[name] = accuracy(network, Images(x.cpu().masked_fill(gone.unsqueeze(1), 0), y))
    return row | ({"cams": shown(found[:SHOWN])} if seed == 0 else {})


def shown(maps: Tensor) -> list[Any]:
    """Return maps from 0 to 1, each by its largest, to two digits."""
    whole: list[Any] = (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).mul(100).round().div(100).tolist()
    return whole


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

    model = LogisticRegression(max_iter=1000 if len(train.y) < 10_000 else 200, tol=1e-3).fit(
        train.x.flatten(1).numpy(), train.y.numpy()
    )
    return float(model.score(test.x.flatten(1).numpy(), test.y.numpy()))


def report(rows: list[Row], trivial: list[list[str]]) -> str:
    """Return a line for each network, mean +- spread over seeds."""
    header = ["network", "test", "train", "untrained", "parameters", "multiply-accumulates", "additions of spikes"]
    header += ["elementwise", "uJ, products", "uJ, all", "own map blanked", "another's", "seconds"]
    lines = [[name, score, *[""] * 11] for name, score in trivial]
    for name in NETWORKS:
        own = [row for row in rows if row["setting"]["network"] == name]

        def of(key: str, digits: int = 0, own: list[Row] = own) -> str:
            return spread([row[key] for row in own], digits)

        lines.append(
            [name, *(of(key, 3) for key in ("accuracy", "learned", "untrained")), f"{own[0]['parameters']:,}"]
            + [f"{mean(own, kind):,.0f}" for kind in KINDS]
            + [of("products_uj", 2), of("all_uj", 2), of("own map", 3), of("another's map", 3), of("seconds")]
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


def draw_cams(rows: list[Row], images: Images, path: Path) -> None:
    """Draw the first images scored, and what of them speaks for the class that a network names, by its attention."""
    from matplotlib.figure import Figure

    own = [row for row in rows if "cams" in row and row["setting"]["network"] in ATTENTIONS]
    figure = Figure(figsize=(1.3 * SHOWN, 1.4 * (len(own) + 1)), layout="constrained")
    axes = figure.subplots(len(own) + 1, SHOWN, squeeze=False)
    for column in range(SHOWN):
        axes[0, column].imshow(images.x[column, 0], cmap="gray_r")
        for row, ax in zip(own, axes[1:, column], strict=True):
            ax.imshow(images.x[column, 0], cmap="gray_r")
            ax.imshow(row["cams"][column], cmap="inferno", alpha=0.6)
    for name, ax in zip(["image", *(row["setting"]["network"] for row in own)], axes[:, 0], strict=True):
        ax.set_ylabel(name, fontsize=8)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=80)


def main() -> None:
    """Train every network, print the table, draw it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SIZES), default="digits")
    parser.add_argument("--path", help="the folder of Fashion-MNIST; of CIFAR the official binary archive or a folder")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, help="to train on, the first ones; all without it")
    parser.add_argument("--augment", help="of flip, shift, erase and mixup; CIFAR: flip,shift without it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--validate", action="store_true", help="score a fifth of the training images instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compile", action="store_true", help="train through torch.compile, which needs a C++ compiler"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--figure", type=Path, help="draw the scores and energies there")
    parser.add_argument("--cams", type=Path, help="draw the maps of some images there")
    args = parser.parse_args()
    if args.data.startswith("cifar") and args.path is None:
        print(f"{args.data}: from the hub of Hugging Face, or its cache; --path names a file or folder", flush=True)
    if args.augment is None:
        args.augment = AUGMENT[args.data]
    if unknown := set(filter(None, args.augment.split(","))) - set(CHANGES):
        parser.error(f"--augment: got {', '.join(sorted(unknown))}, expected some of {','.join(CHANGES)}")
    try:
        train, test = load(args.data, args.path, args.validate, args.images)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error).splitlines()[0])
    asked = ("data", "path", "epochs", "images", "augment", "validate", "device", "compile")
    own = {name: getattr(args, name) for name in asked}
    settings = [{"network": name, **own, "seed": seed} for name in NETWORKS for seed in range(args.seeds)]
    rows = run(measure, settings, args.out / "attention.jsonl", args.jobs)
    trivial = [["commonest class", f"{rows[0]['trivial']:.3f}"]]
    if not args.data.startswith("cifar"):
        trivial.append(["logistic regression on the pixels", f"{linear(train, test):.3f}"])
    told = "".join(f" --{name} {getattr(args, name)}" for name in ("images", "augment") if getattr(args, name))
    told += " --compile" if args.compile else ""
    print(heading(f"python -m bench.attention --data {args.data} --epochs {args.epochs} --seeds {args.seeds}{told}"))
    print(report(rows, trivial))
    if args.figure:
        draw(rows, args.figure)
    if args.cams:
        draw_cams(rows, test, args.cams)


if __name__ == "__main__":
    main()
