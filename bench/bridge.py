"""The same digits, learned by a spiking Mamba-2 block that reads them row by row, and by a network that learns by STDP.

    python -m bench.bridge [--images digits|fashion] [--passes 8] [--seeds 3] [--neurons 400] [--out runs/bench]

An image is a stream of as many steps as it has rows; its class is asked for with the last one, and nothing is replayed:
every update sees one step. 20 images side by side, the same images and passes for all. rtrl_stdp, rtrl, stllr: the
rules, each with its defaults (rtrl_stdp with a_post 0.2, as 0 is rtrl). "no trace": the gradient of the step alone.
"frozen block": the block stays as drawn, the head alone learns. "STDP network": that of `bench.network`, whose neurons
are named by labels afterwards.

Spikes: of an image at inference, those that enter weights (of the network also those that stand for its pixels).
Operations of an image, at inference and while it is learned from, prediction included: `biomamba.analysis.operations`.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import biomamba
from bench.grid import Row, heading, run, spread, table
from bench.network import BATCH as STREAMS
from bench.network import GAIN, SPIKES, STEPS, counted, load, trained
from biomamba import rules
from biomamba.analysis.operations import Counter, Operations
from biomamba.metrics import Accuracy, CrossEntropy, labelled_cross_entropy
from biomamba.partial import partial
from biomamba.plasticity import images, network
from biomamba.plasticity.images import Images
from biomamba.stream import Benchmark, Chunk, Meter, Spec, Split

RULES: dict[str, tuple[type[rules.LearningRule], dict[str, Any]]] = {
    "rtrl_stdp": (rules.RTRLSTDP, {"a_post": 0.2}),
    "rtrl": (rules.RTRL, {}),
    "stllr": (rules.STLLR, {}),
    "no trace": (rules.BPTT, {}),
    "frozen block": (rules.BPTT, {}),
}
NETWORK = "STDP network"
SIZES: dict[str, Any] = {"d_model": 64, "d_state": 8, "headdim": 8, "threshold": 0.5}
RATE = 3e-3
KINDS = ("multiply_accumulates", "accumulates", "elementwise")


class Rows(Benchmark):
    """Images as streams of their rows; the class is asked for with the last one."""

    def __init__(self, train: Images, test: Images) -> None:
        """Take flat images (n, side side)."""
        self.images, self.side = {"train": train, "test": test}, round(train.x.shape[1] ** 0.5)

    @property
    def spec(self) -> Spec:
        """Return a row in, ten classes out."""
        return Spec(10, d_in=self.side)

    @property
    def splits(self) -> dict[str, str]:
        """Return what is learned from, and what is told."""
        return {"train": "learned from", "test": "told"}

    @property
    def held_out(self) -> Split:
        """Return test."""
        return "test"

    def steps(self, split: str, *, batch: int, seed: int = 0) -> int:
        """Return the rows of the images that each stream has."""
        return len(self.images[split].x) // batch * self.side

    def stream(self, split: str, *, batch: int, length: int, seed: int, start: int = 0) -> Iterator[Chunk]:
        """Yield one pass, in an order drawn by the seed; images that fill no row of streams are left out."""
        part, side = self.images[split], self.side
        order = torch.randperm(len(part.x), generator=torch.Generator().manual_seed(seed))
        chosen = order[: len(order) // batch * batch].view(-1, batch).T
        x, y = part.x[chosen].reshape(batch, -1, side), part.y[chosen].repeat_interleave(side, 1)
        row = (torch.arange(x.shape[1]) % side).expand(batch, -1)
        whole = [each[:, start:].split(length, 1) for each in (x, y, row == side - 1, row == 0)]
        yield from (Chunk(*(each.contiguous() for each in steps)) for steps in zip(*whole, strict=True))

    def loss(self, out: Tensor, chunk: Chunk) -> Tensor:
        """Return the cross entropy (nats) of the last rows, a mean over the streams."""
        return labelled_cross_entropy(out, chunk) / len(out)

    def meters(self) -> dict[str, Meter]:
        """Return fresh meters."""
        return {"accuracy": Accuracy(), "loss": CrossEntropy()}


def learner_of(name: str, task: Rows) -> biomamba.Learner:
    """Return a learner of one spiking Mamba-2 block."""
    kind, options = RULES[name]
    model = biomamba.Model(d_in=task.side, d_out=10, block="mamba2", timescales=(1.0, 3.0 * task.side), **SIZES)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    rule = kind(model.blocks, **options)
    if name == "frozen block":
        model, rule, optimizer = partial(model, rule, optimizer, "head", 0)  # type: ignore[assignment]
    return biomamba.Learner(task, model, rule, optimizer, threads=1)


def measure(setting: Row) -> Row:
    """Return what one learner tells of the test images, its spikes, and what an image costs it."""
    train, test = load(setting["images"], setting["folder"])
    train = Images(train.x[: setting["number"]], train.y[: setting["number"]])
    torch.manual_seed(setting["seed"])
    return measure_network(setting, train, test) if setting["learner"] == NETWORK else online(setting, train, test)


def online(setting: Row, train: Images, test: Images) -> Row:
    """Return that of a block that learns row by row."""
    task = Rows(train, test)
    learner, started = learner_of(setting["learner"], task), time.process_time()
    for number in range(setting["passes"]):
        stream = task.stream("train", batch=STREAMS, length=1, seed=1000 * setting["seed"] + number)
        seen = [report.scores["accuracy"] for report in biomamba.online(stream, learner)]
    row: Row = {"seconds": time.process_time() - started, "online": seen[-1]}
    counter, costs = Counter(), {}
    model, reports = learner.model, []
    for report in biomamba.evaluate(task.stream("test", batch=STREAMS, length=1, seed=0), task, model, threads=1):
        reports.append(float(report.spikes))
    row |= {"accuracy": report.scores["accuracy"], "share": sum(reports) / len(reports)}
    width = model.blocks[0].out_proj.in_features
    row |= {"spikes": row["share"] * width * task.side}
    some = list(task.stream("train", batch=STREAMS, length=1, seed=0))[: task.side]
    with counter:
        list(biomamba.evaluate(some, task, model, threads=1))
    costs["inference"], counter = counter.total / STREAMS, Counter()
    with counter:
        list(biomamba.online(some, learner))
    costs["learning"] = counter.total / STREAMS
    return row | told(costs)


def measure_network(setting: Row, train: Images, test: Images) -> Row:
    """Return that of the network that learns by STDP."""
    name, started = setting["images"], time.process_time()
    net = trained(setting, train)
    row: Row = {"seconds": time.process_time() - started}
    assigned = network.assign(counted(net, name, train.x), train.y, 10)
    spikes = counted(net, name, test.x)
    row["accuracy"] = float((network.classify(spikes, assigned, 10) == test.y).double().mean())
    sent = network.encode(train.x[:STREAMS], STEPS, spikes=SPIKES[name])
    row["spikes"] = float(spikes.sum() / len(spikes) + sent.sum() / STREAMS)
    showing, learning = Counter(), Counter()
    with showing:
        post = network.show(net, sent, gain=GAIN[name])
    with learning:
        network.learn(net, sent, post)
    return row | told({"inference": showing.total / STREAMS, "learning": (showing.total + learning.total) / STREAMS})


def told(costs: dict[str, Operations]) -> Row:
    """Return counts by kind, and the estimated microjoules."""
    row: Row = {}
    for name, total in costs.items():
        row |= {f"{name}, {kind}": getattr(total, kind) for kind in KINDS} | {f"{name}, uJ": total.joules * 1e6}
    return row


def report(rows: list[Row]) -> str:
    """Return a line for each learner, mean and deviation over the seeds."""
    header = ["learner", "test", "spikes of an image", "inference: multiply-accumulates", "additions of spikes"]
    header += ["elementwise", "uJ", "learning: multiply-accumulates", "additions of spikes", "elementwise", "uJ"]
    lines = []
    for name in dict.fromkeys(row["setting"]["learner"] for row in rows):
        own = [row for row in rows if row["setting"]["learner"] == name]
        cells = [spread([row["accuracy"] for row in own]), spread([row["spikes"] for row in own], 0)]
        for part in ("inference", "learning"):
            mean = [sum(row[f"{part}, {kind}"] for row in own) / len(own) for kind in (*KINDS, "uJ")]
            cells += [*(f"{value:,.0f}" for value in mean[:3]), f"{mean[3]:,.2f}"]
        lines.append([name, *cells, f"{sum(row['seconds'] for row in own) / len(own):.0f}"])
    return table([*header, "s to learn"], lines)


def main() -> None:
    """Measure what the file lacks, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--folder", default=images.FASHION, help="of Fashion-MNIST")
    parser.add_argument("--number", type=int, default=10_000, help="of images to learn from, at most")
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--neurons", type=int, default=400, help="of the STDP network")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    common = {name: getattr(args, name) for name in ("images", "folder", "number", "passes", "neurons")}
    settings: list[Row] = [
        {"learner": name, **common, "seed": seed} for name in (*RULES, NETWORK) for seed in range(args.seeds)
    ]
    rows = run(measure, settings, args.out / "bridge.jsonl", jobs=1)
    print(heading(f"python -m bench.bridge --images {args.images} --passes {args.passes} --seeds {args.seeds}"))
    print(report(rows))


if __name__ == "__main__":
    main()
