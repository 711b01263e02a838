"""What does a learning step cost in each runtime a learner is exported to, beside the library's own?

    python -m bench.export [--json FILE]

One Mamba-2 block of width 32 on store-recall, RTRL and Adam, one stream, one step a time, every step labelled, one
thread. Time is the processor's, the best of five rounds. Needs pip install "biomamba[export]" and a C++ compiler.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from safetensors.torch import load_file

import biomamba
from bench.fleet import STEPS, best, chunk, learner
from bench.grid import heading, markdown, write

Row = dict[str, Any]
SUFFIXES = {"onnx": ".onnx", "aoti": ".pt2"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows there, one JSON object per line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(heading("python -m bench.export"))
    with tempfile.TemporaryDirectory() as folder:
        rows = [exported(to, resets, Path(folder)) for to in ("onnx", "aoti") for resets in (True, False)]
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
    facts = biomamba.export(each, each.task.stream("all", batch=1, length=1, seed=0), file, to=to, resets=resets)
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
        fixed = {one["name"]: tensor.numpy() for one, tensor in zip(facts["inputs"], inputs, strict=True)}
        arrays = {name: tensor.numpy() for name, tensor in zip(names, held, strict=True)}

        def call() -> None:
            arrays.update(zip(names, session.run(None, fixed | arrays)[after:], strict=True))

    runtime = f"{'onnxruntime' if to == 'onnx' else 'AOTInductor'}{'' if resets else ', no resets'}"
    size = file.stat().st_size / 1e3
    proof = facts["proof"]["largest_difference"]
    return {"runtime": runtime, "CPU us per step": best(call, STEPS), "file kB": size, "from torch": proof}


if __name__ == "__main__":
    main()
