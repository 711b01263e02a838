"""How well does a network that learns by STDP alone tell images apart? Beside k-means and a linear classifier.

    python -m bench.network [--images digits,fashion] [--neurons 100,400] [--seeds 3] [--out runs/bench]
        [--folder /usr/share/datasets/fashion-mnist] [--figure docs/network.png]

Digits: those of scikit-learn, 8 passes over 1,437 images, tested on 360. Fashion: one pass over the first 10,000 images
of Fashion-MNIST, tested on its 10,000. Neurons and clusters are named by the labels of the images they were learned
from. "random weights": the same network before it learned; "linear": logistic regression on the same images.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.grid import Row, heading, markdown, run, spread
from biomamba.plasticity import images, network
from biomamba.plasticity.images import Images
from biomamba.plasticity.network import Network

STEPS, BATCH = 100, 20  # ms an image is shown; images between two changes
EPOCHS = {"digits": 8, "fashion": 1}
SPIKES = {"digits": 10.0, "fashion": 20.0}  # a step from a whole image
GAIN = {"digits": 0.1, "fashion": 0.05}
FIRST = 10_000  # images of Fashion-MNIST


def measure(setting: Row) -> Row:
    """Return the share of test images that each learner tells, and the seconds of the processor it learned for."""
    torch.manual_seed(setting["seed"])
    train, test = load(setting["images"], setting["folder"])
    clock = time.process_time()
    net = trained(setting, train)
    row: Row = {"seconds": time.process_time() - clock, "STDP": score(net, setting, train, test)}
    row["random weights"] = score(network.start(train.x.shape[1], setting["neurons"]), setting, train, test)
    row["k-means"] = k_means(setting, train, test)
    row["linear"] = linear(train, test)
    return row


def load(name: str, folder: str) -> tuple[Images, Images]:
    """Return flat images (n, j) to train on and to test."""
    train, test = images.digits() if name == "digits" else images.fashion(folder)
    return Images(train.x.flatten(1)[:FIRST], train.y[:FIRST]), Images(test.x.flatten(1), test.y)


def trained(setting: Row, train: Images) -> Network:
    """Return the network after it saw the images, without their labels."""
    net, name = network.start(train.x.shape[1], setting["neurons"]), setting["images"]
    for _ in range(EPOCHS[name]):
        for which in torch.randperm(len(train.x)).split(BATCH):
            sent = network.encode(train.x[which], STEPS, spikes=SPIKES[name])
            net = network.learn(net, sent, network.show(net, sent, gain=GAIN[name]))
    return net


def counted(net: Network, name: str, x: Tensor) -> Tensor:
    """Return how often each neuron spikes for each image (n, i)."""
    parts = [
        network.show(net, network.encode(some, STEPS, spikes=SPIKES[name]), gain=GAIN[name]).sum(1)
        for some in x.split(100)
    ]
    return torch.cat(parts)


def score(net: Network, setting: Row, train: Images, test: Images) -> float:
    """Return the share of test images whose neurons have the right name."""
    assigned = network.assign(counted(net, setting["images"], train.x), train.y, 10)
    found = network.classify(counted(net, setting["images"], test.x), assigned, 10)
    return float((found == test.y).double().mean())


def k_means(setting: Row, train: Images, test: Images) -> float:
    """Return the same of k-means with as many clusters, each named by the most frequent label in it."""
    from sklearn.cluster import KMeans

    model = KMeans(setting["neurons"], n_init=1, random_state=setting["seed"]).fit(train.x.numpy())
    inside, classes = torch.tensor(model.labels_).long(), torch.zeros(setting["neurons"], 10)
    classes.index_put_((inside, train.y), torch.ones(len(train.y)), accumulate=True)
    return float((classes.argmax(1)[torch.tensor(model.predict(test.x.numpy())).long()] == test.y).double().mean())


def linear(train: Images, test: Images) -> float:
    """Return the same of logistic regression."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=0.1, max_iter=200, tol=1e-3).fit(train.x.numpy(), train.y.numpy())
    return float(model.score(test.x.numpy(), test.y.numpy()))


def described(rows: list[Row]) -> list[Row]:
    """Return a row for each data set and size, mean and deviation over the seeds."""
    lines = []
    for kind in dict.fromkeys((row["setting"]["images"], row["setting"]["neurons"]) for row in rows):
        own = [row for row in rows if (row["setting"]["images"], row["setting"]["neurons"]) == kind]
        learners = ("STDP", "random weights", "k-means", "linear")
        line = {name: spread([row[name] for row in own]) for name in learners}
        seconds = sum(row["seconds"] for row in own) / len(own)
        lines.append({"images": kind[0], "neurons": kind[1], "seeds": len(own), **line, "s to learn": round(seconds)})
    return lines


def draw(settings: list[Row], path: Path) -> None:
    """Draw the receptive fields of a hundred neurons of each data set, learned anew with the first seed."""
    from matplotlib.figure import Figure

    shown = [s for s in settings if s["seed"] == 0 and s["neurons"] == min(other["neurons"] for other in settings)]
    figure = Figure(figsize=(6 * len(shown), 6.2), layout="constrained")
    for setting, ax in zip(shown, figure.subplots(1, len(shown), squeeze=False)[0], strict=True):
        torch.manual_seed(0)
        net = trained(setting, load(setting["images"], setting["folder"])[0])
        show(ax, net.w[:100], f"{setting['images']}, {setting['neurons']} neurons")
    figure.savefig(path, dpi=80)


def show(ax: Any, w: Tensor, title: str) -> None:
    """Draw weights (100, j) as ten rows of square images."""
    side = round(w.shape[1] ** 0.5)
    fields = (w / w.amax(1, keepdim=True)).view(10, 10, side, side)
    padded = torch.nn.functional.pad(fields, (0, 1, 0, 1), value=1.0)
    ax.imshow(padded.permute(0, 2, 1, 3).reshape(10 * (side + 1), 10 * (side + 1)), cmap="gray_r")
    ax.set(title=title)
    ax.axis("off")


def main() -> None:
    """Measure what the file lacks, print the table, draw the receptive fields."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="digits,fashion")
    parser.add_argument("--neurons", default="100,400")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", default=images.FASHION, help="of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--figure", type=Path, help="draw the receptive fields there")
    args = parser.parse_args()
    settings: list[Row] = [
        {"images": name, "neurons": int(n), "folder": args.folder, "seed": seed}
        for name in args.images.split(",")
        for n in args.neurons.split(",")
        for seed in range(args.seeds)
    ]
    rows = run(measure, settings, args.out / "network.jsonl", jobs=1)
    print(heading(f"python -m bench.network --images {args.images}"))
    print(markdown(described(rows)))
    if args.figure:
        draw(settings, args.figure)


if __name__ == "__main__":
    main()
