"""Learn in a compiled package, without this library: `python examples/learn_in_aotinductor.py learner.pt2`.

The file comes from `biomamba export RUN --to aoti -o learner.pt2`. The package is
machine code: C++ loads the same file by torch::inductor::AOTIModelPackageLoader, and needs no Python.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def main(file: Path, steps: int = 2000, seed: int = 0) -> float:
    """Learn that each token is the one before plus 1, and return the share of right predictions of the last tenth."""
    package = torch._inductor.aoti_load_package(str(file))
    facts = json.loads(file.with_suffix(".json").read_text())
    held = load_file(file.with_suffix(".safetensors"))
    names = [own["name"] for own in facts["carried"]]
    carried: list[Tensor] = [held[name] for name in names]
    lr = torch.tensor(facts["lr"], dtype=carried[0].dtype)
    torch.manual_seed(seed)
    right, first = [], int(torch.randint(4, ()))
    for token in range(first, first + steps):
        y = (token + 1) % 4
        chunk = {"x": torch.tensor([[token % 4]]), "y": torch.tensor([[y]]), "mask": torch.tensor([[True]])}
        chunk |= {"reset": torch.tensor([[False]]), "lr": lr}
        out, *others = package(*(chunk[own["name"]] for own in facts["inputs"]), *carried)
        carried = others[len(facts["outputs"]) - 1 :]
        right.append(int(out.argmax()) == y)  # predicted before it was learned from
    save_file(dict(zip(names, carried, strict=True)), file.with_suffix(".safetensors"))  # to go on from here
    return sum(right[-steps // 10 :]) / (steps // 10)


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
