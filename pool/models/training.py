"""What the training scripts share: fitting, writing ONNX, writing a model's folder.

Runs on one thread by itself, so that training disturbs nobody (and gives the same numbers again).
"""

import argparse
import hashlib
import json
import os
import pathlib
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
IR_VERSION = 8


def arguments(doc):
    """The command line that every script has."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the model's folder, written")
    parser.add_argument("--test-set", action="store_true", help="write its small test set as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of training; fewer for a try")
    return parser.parse_args()


def init(rng, *shape):
    """Weights for a layer; the last dimension is its outputs."""
    inputs = int(np.prod(shape[:-1]))
    return (rng.standard_normal(shape) * np.sqrt(2.0 / inputs)).astype(np.float32)


def fit(forward, params, inputs, labels, *, steps, batch, rate, seed, augment=None, dropout=0.0):
    """Adam with a rate that falls to nothing; returns the parameters."""
    rng = np.random.default_rng(seed)

    def loss(params, x, y, key):
        scores = forward(params, x, key if dropout else None)
        chosen = jax.nn.log_softmax(scores)
        classes = scores.shape[-1]
        wanted = 0.95 * jax.nn.one_hot(y, classes) + 0.05 / classes
        return -(wanted * chosen).sum(-1).mean()

    @jax.jit
    def step(params, mean, square, x, y, count):
        key = jax.random.fold_in(jax.random.PRNGKey(seed), count)
        value, slope = jax.value_and_grad(loss)(params, x, y, key)
        now = rate * 0.5 * (1 + jnp.cos(jnp.pi * count / steps))
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, square, slope)

        def move(p, m, s):
            m, s = m / (1 - 0.9 ** (count + 1)), s / (1 - 0.999 ** (count + 1))
            return p - now * (m / (jnp.sqrt(s) + 1e-8) + 1e-4 * p)

        return jax.tree.map(move, params, mean, square), mean, square, value

    mean = jax.tree.map(np.zeros_like, params)
    square = jax.tree.map(np.zeros_like, params)
    started = time.time()
    for count in range(steps):
        rows = rng.integers(0, len(inputs), batch)
        x = inputs[rows] if augment is None else augment(inputs[rows], rng)
        params, mean, square, value = step(params, mean, square, x, labels[rows], float(count))
        if count % 200 == 0 or count == steps - 1:
            print(f"step {count}: loss {float(value):.3f}, {time.time() - started:.0f} s", flush=True)
    return jax.tree.map(np.asarray, params)


class Graph:
    """An ONNX graph in the making: every call adds a node and gives its output's name."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name))
        return name

    def __call__(self, operator, *inputs, **attributes):
        name = attributes.pop("name", None) or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def write(self, path, inputs, outputs):
        """Inputs and outputs: (name, ONNX type, shape) with "N" for the batch."""
        values = [[helper.make_tensor_value_info(*it) for it in side] for side in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, path.parent.parent.name, *values, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="downbeat"
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)


def session(path):
    """The written file in ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def probabilities(path, inputs, batch=64):
    """What the written model says of all inputs, in batches."""
    runtime = session(path)
    name = runtime.get_inputs()[0].name
    parts = [inputs[at : at + batch] for at in range(0, len(inputs), batch)]
    return np.concatenate([runtime.run(None, {name: part})[0] for part in parts])


def describe(out, text, labels):
    """Writes model.toml, with the file's checksum, and labels.txt."""
    digest = hashlib.sha256((out / "1" / "model.onnx").read_bytes()).hexdigest()
    (out / "model.toml").write_text(f'{text.strip()}\n\n[version.1]\nsha256 = "{digest}"\n')
    (out / "labels.txt").write_text("".join(f"{label}\n" for label in labels))


def write_test_set(out, raw, labels, scores):
    """The inputs as raw bytes, and what a right engine makes of them: one line a row."""
    folder = out / "test"
    folder.mkdir(exist_ok=True)
    (folder / "inputs.bin").write_bytes(raw.tobytes())
    rows = [
        json.dumps({"label": int(label), "scores": [round(float(s), 5) for s in row]})
        for label, row in zip(labels, scores)
    ]
    (folder / "expected.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")
