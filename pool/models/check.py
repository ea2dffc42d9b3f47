#!/usr/bin/env python3
"""Runs the test set of every model here through tract, one row at a time and in batches.

Each must be as good as its model.toml says, and say what ONNX Runtime said when it was trained.
"""

import json
import pathlib
import sys
import tomllib

import numpy as np
import tract

# Largest difference of two engines' probabilities.
TOLERANCE = 2e-3


def from_mu_law(byte):
    """8 bits to 16: what keywords/train.py keeps its sound in."""
    y = byte / 127.5 - 1
    return np.round(np.sign(y) * (256 ** np.abs(y) - 1) / 255 * 32767).astype(np.int16)


def check(folder):
    """A line about the model, and whether it is right."""
    description = tomllib.loads((folder / "model.toml").read_text())
    rows = json.loads((folder / "test" / "expected.json").read_text())
    inputs = np.fromfile(folder / "test" / "inputs.bin", np.uint8)
    if description["input"][0]["datatype"] == "INT16":
        inputs = from_mu_law(inputs)
    inputs = inputs.reshape(len(rows), *description["input"][0]["shape"][1:])
    labels = np.array([row["label"] for row in rows])
    scores = np.array([row["scores"] for row in rows])
    model = tract.onnx().load(str(folder / "1" / "model.onnx")).into_model().into_runnable()
    said, worst = scores, 0.0
    for batch in (1, 7, len(rows)):
        parts = [inputs[at : at + batch] for at in range(0, len(rows), batch)]
        said = np.concatenate([model.run([part])[0].to_numpy() for part in parts])
        worst = max(worst, float(np.abs(said - scores).max()))
    found = float((said.argmax(1) == labels).mean())
    stated = float(description["accuracy"].split(" %")[0]) / 100
    # The test set is a sample of what the accuracy was measured on.
    spread = (stated * (1 - stated) / len(rows)) ** 0.5
    right = worst < TOLERANCE and found >= stated - 3 * spread
    line = f"{folder.name}: {found:.1%} of {len(rows)} rows, {stated:.1%} stated, engines differ by {worst:.1e}"
    return line, right


def main():
    here = pathlib.Path(__file__).resolve().parent
    results = [check(path.parent) for path in sorted(here.glob("*/model.toml"))]
    for line, right in results:
        print(line if right else f"{line}: WRONG")
    return 0 if results and all(right for _, right in results) else 1


if __name__ == "__main__":
    sys.exit(main())
