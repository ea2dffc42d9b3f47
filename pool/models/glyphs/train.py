#!/usr/bin/env python3
"""Trains `glyphs`: a picture of one character, 28 x 28, to which character it is.

The pictures are made here, from the fonts of Debian packages (see README.md), turned, sheared,
blurred and with noise. The families of HELD_OUT are never trained on; the accuracy is theirs.
"""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import training
import jax
import jax.numpy as jnp
import numpy as np
from onnx import TensorProto
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 28
PACKAGES = [
    "fonts-dejavu", "fonts-liberation", "fonts-freefont-ttf", "fonts-urw-base35", "fonts-lato",
    "fonts-open-sans", "fonts-cantarell", "fonts-inconsolata", "fonts-crosextra-carlito",
    "fonts-crosextra-caladea", "fonts-hack",
]
# Whole families, so that no sister of a held-out font is trained on.
HELD_OUT = ["DejaVuSerif", "LiberationMono", "OpenSans", "Caladea"]
# Faces whose letters are symbols, handwriting or hairs; and FreeSans, which is Nimbus Sans again.
LEFT_OUT = ["FreeSans", "D050000L", "StandardSymbols", "Z003", "Symbol", "Math", "ExtraLight", "Hairline", "Thin"]

# Characters that look alike when nothing shows their size have one label.
ALIKE = {"O": "0", "o": "0", "I": "1", "l": "1"} | {small: small.upper() for small in "ckmpsuvwxyz"}
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LABELS = [c for c in CHARACTERS if c not in ALIKE]
LABEL_OF = {c: LABELS.index(ALIKE.get(c, c)) for c in CHARACTERS}


def fonts():
    """Paths of the packages' fonts: those to train on, and those held out."""
    listed = subprocess.run(["dpkg", "-L", *PACKAGES, "fonts-dejavu-core", "fonts-dejavu-extra"],
                            capture_output=True, text=True, check=False).stdout.split()
    paths = sorted({p for p in listed if p.endswith((".ttf", ".otf"))
                    and not any(word in p for word in LEFT_OUT)})
    held = [p for p in paths if pathlib.Path(p).name.startswith(tuple(HELD_OUT))]
    return [p for p in paths if p not in held], held


def picture(rng, font, character):
    """One distorted picture: 28 x 28 bytes."""
    large = Image.new("L", (96, 96))
    ImageDraw.Draw(large).text((48, 48), character, font=font, fill=255, anchor="mm")
    turn, shear = np.radians(rng.uniform(-10, 10)), rng.uniform(-0.15, 0.15)
    wide, high = rng.uniform(0.85, 1.15, 2)
    a, b, c, d = wide * np.cos(turn), np.sin(turn) + shear, -np.sin(turn), high * np.cos(turn)
    centre = 48 - np.array([a * 48 + b * 48, c * 48 + d * 48])
    large = large.transform((96, 96), Image.Transform.AFFINE, (a, b, centre[0], c, d, centre[1]),
                            Image.Resampling.BILINEAR)
    box = large.getbbox()
    if box is None:
        raise ValueError(f"{font.path} has no {character!r}")
    # Into a square with some room, as somebody would cut it out.
    side = max(box[2] - box[0], box[3] - box[1]) * rng.uniform(1.1, 1.5)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    x, y = x + rng.uniform(-0.04, 0.04) * side, y + rng.uniform(-0.04, 0.04) * side
    cut = large.transform((SIZE * 2, SIZE * 2), Image.Transform.EXTENT,
                          (x - side / 2, y - side / 2, x + side / 2, y + side / 2),
                          Image.Resampling.BILINEAR)
    cut = cut.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.6))).resize((SIZE, SIZE))
    ink = np.asarray(cut, dtype=np.float32) / 255
    paper, contrast = rng.uniform(0, 255), rng.uniform(90, 255)
    level = paper + ink * (contrast if paper < 128 else -contrast)
    level += rng.normal(0, rng.uniform(0, 12), ink.shape)
    return np.clip(level, 0, 255).astype(np.uint8)


def pictures(paths, per_font, seed):
    """Every character in every font, so many times."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for path in paths:
        font = ImageFont.truetype(path, 48)
        for character in CHARACTERS:
            for _ in range(per_font):
                images.append(picture(rng, font, character))
                labels.append(LABEL_OF[character])
    return np.stack(images), np.array(labels)


BORDER = np.zeros((SIZE, SIZE), np.float32)
BORDER[[0, -1], :] = BORDER[:, [0, -1]] = 1
BORDER /= BORDER.sum()


def normal(images):
    """How far each pixel is from the paper, 0 to 1: dark on light and light on dark are one."""
    x = images.astype(np.float32) / 255
    x = np.abs(x - (x * BORDER).sum((1, 2), keepdims=True))
    return (x / (x.max((1, 2), keepdims=True) + 0.05))[:, None]


SHAPES = {"a": (16, 1, 5, 5), "b": (32, 16, 3, 3), "c": (48, 32, 3, 3)}


def forward(params, x, key):
    def conv(x, name, stride, pad):
        y = jax.lax.conv_general_dilated(x, params[name], (stride, stride), [(pad, pad)] * 2,
                                         dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return jax.nn.relu(y + params[name + "0"][:, None, None])

    x = conv(x, "a", 2, 2)
    x = conv(x, "b", 2, 1)
    x = conv(x, "c", 1, 1)
    x = x.reshape(x.shape[0], -1)
    if key is not None:
        x = x * jax.random.bernoulli(key, 0.75, x.shape) / 0.75
    x = jax.nn.relu(x @ params["d"] + params["d0"])
    return x @ params["e"] + params["e0"]


def parameters(rng):
    params = {}
    for name, (outputs, *inputs) in SHAPES.items():
        params[name] = np.moveaxis(training.init(rng, *inputs, outputs), -1, 0).copy()
        params[name + "0"] = np.zeros(outputs, np.float32)
    params |= {"d": training.init(rng, 48 * 49, 128), "d0": np.zeros(128, np.float32)}
    params |= {"e": training.init(rng, 128, len(LABELS)), "e0": np.zeros(len(LABELS), np.float32)}
    return params


def export(params, path):
    g = training.Graph()
    x = g("Cast", "image", to=TensorProto.FLOAT)
    x = g("Mul", x, g.constant(1 / 255))
    paper = g("ReduceSum", g("Mul", x, g.constant(BORDER[None])), g.constant([1, 2], np.int64), keepdims=1)
    x = g("Abs", g("Sub", x, paper))
    x = g("Div", x, g("Add", g("ReduceMax", x, axes=[1, 2], keepdims=1), g.constant(0.05)))
    x = g("Unsqueeze", x, g.constant([1], np.int64))
    for name, stride, pad in (("a", 2, 2), ("b", 2, 1), ("c", 1, 1)):
        weights, bias = g.constant(params[name]), g.constant(params[name + "0"])
        x = g("Relu", g("Conv", x, weights, bias, strides=[stride] * 2, pads=[pad] * 4))
    x = g("Flatten", x, axis=1)
    x = g("Relu", g("Gemm", x, g.constant(params["d"]), g.constant(params["d0"])))
    x = g("Gemm", x, g.constant(params["e"]), g.constant(params["e0"]))
    g("Softmax", x, axis=1, name="probabilities")
    g.write(path, [("image", TensorProto.UINT8, ["N", SIZE, SIZE])],
            [("probabilities", TensorProto.FLOAT, ["N", len(LABELS)])])


def main():
    options = training.arguments(__doc__)
    train, held = fonts()
    print(f"{len(train)} fonts to train on, {len(held)} held out, {len(LABELS)} labels")
    images, labels = pictures(train, 8, options.seed)
    test_images, test_labels = pictures(held, 2, options.seed + 1)
    print(f"{len(images)} pictures to train on, {len(test_images)} held out", flush=True)
    params = training.fit(forward, parameters(np.random.default_rng(options.seed)), normal(images),
                          labels, steps=options.steps or 2500, batch=128, rate=2e-3,
                          seed=options.seed, dropout=0.25)
    path = options.out / "1" / "model.onnx"
    export(params, path)
    scores = training.probabilities(path, test_images)
    right = scores.argmax(1) == test_labels
    accuracy = 100 * right.mean()
    print(f"accuracy {accuracy:.2f} %, {path.stat().st_size} bytes")
    wrong = [(LABELS[a], LABELS[b]) for a, b in zip(test_labels[~right], scores[~right].argmax(1))]
    print("most often wrong (is, said):",
          sorted({pair: wrong.count(pair) for pair in wrong}.items(), key=lambda it: -it[1])[:12])
    training.describe(options.out, f'''
name = "glyphs"
platform = "onnx"
description = "One character, cut out of a picture: digits and Latin letters, printed. Dark on light or light on dark."
media = "image"
labels = "labels.txt"
max_batch = 64
accuracy = "{accuracy:.1f} % of {len(test_images)} distorted pictures in {len(held)} fonts of families that were not trained on"

[[input]]
name = "image"
datatype = "UINT8"
shape = [-1, {SIZE}, {SIZE}]

[[output]]
name = "probabilities"
datatype = "FP32"
shape = [-1, {len(LABELS)}]
''', LABELS)
    if options.test_set:
        rows = np.random.default_rng(options.seed).permutation(len(test_images))[:200]
        training.write_test_set(options.out, test_images[rows], test_labels[rows], scores[rows])


if __name__ == "__main__":
    main()
