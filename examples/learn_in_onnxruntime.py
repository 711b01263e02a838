"""Learn in onnxruntime, without torch: `python examples/learn_in_onnxruntime.py learner.onnx`.

The file comes from `biomamba export RUN -o learner.onnx`; needs onnxruntime and safetensors.
Each call predicts, then learns; what it gives back as next.NAME goes in again as NAME.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from safetensors.numpy import load_file, save_file


def learner(file: Path) -> tuple[Callable[..., dict[str, Any]], dict[str, Any]]:
    """Return a function that takes a chunk's arrays and gives the outputs by name; and what it carries, by name."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    facts = json.loads(file.with_suffix(".json").read_text())
    carried = load_file(file.with_suffix(".safetensors"))
    lr = np.array(facts["lr"], facts["carried"][0]["dtype"])

    def update(**chunk: Any) -> dict[str, Any]:
        found = session.run(None, {**chunk, **carried, "lr": lr})
        outputs = {own["name"]: found.pop(0) for own in facts["outputs"]}
        carried.update(zip((own["name"] for own in facts["carried"]), found, strict=True))
        return outputs

    return update, carried


def main(file: Path, steps: int = 2000, seed: int = 0) -> float:
    """Learn that each token is the one before plus 1, and return the share of right predictions of the last tenth."""
    update, carried = learner(file)
    right = []
    for token in np.random.default_rng(seed).integers(0, 4) + np.arange(steps):
        x, y = np.array([[token % 4]]), np.array([[(token + 1) % 4]])
        outputs = update(x=x, y=y, mask=np.array([[True]]), reset=np.array([[False]]))
        right.append(outputs["out"].argmax() == y.item())  # predicted before it was learned from
    save_file(carried, file.with_suffix(".safetensors"))  # to go on from here
    return float(np.mean(right[-steps // 10 :]))


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
