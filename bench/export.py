"""What does a learning step cost in each runtime a learner is exported to, beside the library's own?

    python -m bench.export [--json FILE]

One Mamba-2 block of width 32 on store-recall, RTRL and Adam, one stream, one step a time, every step labelled, one
thread. Time is the processor's, the best of five rounds. "bound": what goes round stays in onnxruntime's own memory,
two sets of it in turn; else every number passes through numpy at each step. Needs pip install "biomamba[export]" and a
C++ compiler.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file

import biomamba
from bench.fleet import STEPS, best, chunk, learner
from bench.grid import heading, markdown, write

Row = dict[str, Any]
SUFFIXES = {"onnx": ".onnx", "bound": ".onnx", "aoti": ".pt2"}
NAMES = {"onnx": "onnxruntime", "bound": "onnxruntime, bound", "aoti": "AOTInductor"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(heading("python -m bench.export"))
    with tempfile.TemporaryDirectory() as folder:
        rows = [exported(to, resets, Path(folder)) for to in ("onnx", "bound", "aoti") for resets in (True, False)]
    rows += [own(compiled) for compiled in (True, False)]
    print(markdown(rows))
    write(rows, args.json)


def own(compiled: bool) -> Row:
    """Return what the library's own learner takes."""
    each, step = learner(compiled), chunk(1)
    return {
        "runtime": f"biomamba{', compiled' if compiled else ''}",
        "CPU us per step": best(lambda: each.update(step), STEPS),
    }


def exported(to: str, resets: bool, folder: Path) -> Row:
    """Return what an exported learner takes: the call, and what is carried going round."""
    each, step = learner(False), chunk(1)
    file = folder / f"learner{SUFFIXES[to]}"
    chunks = each.task.stream("all", batch=1, length=1, seed=0)
    facts = biomamba.export(each, chunks, file, to="aoti" if to == "aoti" else "onnx", resets=resets)
    carried = load_file(file.with_suffix(".safetensors"))
    given = {"x": step.x, "y": step.y, "mask": step.mask, "reset": step.reset, "lr": torch.tensor(facts["lr"])}
    inputs = [given[one["name"]] for one in facts["inputs"]]
    names = [one["name"] for one in facts["carried"]]
    held = [carried[name] for name in names]
    after = len(facts["outputs"])
    if to == "aoti":
        package = torch._inductor.aoti_load_package(str(file))

        def call() -> None:
            held[:] = package(*inputs, *held)[after:]

    else:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        if to == "bound":
            return row(to, resets, file, facts, best(bound(session, facts, given, carried), STEPS // 2) / 2)
        fixed = {one["name"]: tensor.numpy() for one, tensor in zip(facts["inputs"], inputs, strict=True)}
        arrays = {name: tensor.numpy() for name, tensor in zip(names, held, strict=True)}

        def call() -> None:
            arrays.update(zip(names, session.run(None, fixed | arrays)[after:], strict=True))

    return row(to, resets, file, facts, best(call, STEPS))


def row(to: str, resets: bool, file: Path, facts: dict[str, Any], taken: float) -> Row:
    """Return the row of a runtime that takes so many microseconds."""
    runtime, size = f"{NAMES[to]}{'' if resets else ', no resets'}", file.stat().st_size / 1e3
    proof = facts["proof"]["largest_difference"]
    return {"runtime": runtime, "CPU us per step": taken, "file kB": size, "from torch": proof}


def bound(
    session: Any, facts: dict[str, Any], given: dict[str, torch.Tensor], carried: dict[str, torch.Tensor]
) -> Callable[[], None]:
    """Return two steps: one from a set of memory to another, one back; nothing is copied between them."""
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    sets = [{name: value(own.numpy().copy()) for name, own in carried.items()} for _ in range(2)]
    inputs = {one["name"]: value(given[one["name"]].numpy()) for one in facts["inputs"]}
    outputs = {one["name"]: value(np.zeros(one["shape"], one["dtype"])) for one in facts["outputs"]}
    bindings = []
    for before, after in (sets, sets[::-1]):
        binding = session.io_binding()
        for name, own in (inputs | before).items():
            binding.bind_ortvalue_input(name, own)
        for name, own in (outputs | {f"next.{name}": own for name, own in after.items()}).items():
            binding.bind_ortvalue_output(name, own)
        bindings.append(binding)

    def call() -> None:
        for binding in bindings:
            session.run_with_iobinding(binding)

    return call


if __name__ == "__main__":
    main()
