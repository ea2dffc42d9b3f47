#!/usr/bin/env python3
"""Trains `keywords`: one second of 16 kHz sound to which of ten words was said, if any.

The speech is made here by espeak-ng in several accents and voices, with changing speed and pitch,
in noise that is made here too. The voices of HELD_OUT are never trained on; the accuracy is theirs.
"""

import concurrent.futures
import io
import pathlib
import subprocess
import sys
import wave

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import training
import jax
import jax.numpy as jnp
import numpy as np
from onnx import TensorProto

RATE = 16_000
WORDS = ["yes", "no", "on", "off", "up", "down", "left", "right", "stop", "go"]
# `other` is every other word, and no word at all.
LABELS = [*WORDS, "other"]
OTHERS = """one two three four five six seven eight nine zero house tree happy table window water
music garden letter yellow mother brother morning paper monday open close light lamp kitchen number
seven play pause louder quiet hello computer radio weather winter summer please thank sorry later
again never always river mountain city people doctor teacher coffee orange banana""".split()

ACCENTS = ["en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029"]
VOICES = ["", "f1", "f3", "f4", "f5", "m1", "m2", "m4", "m5", "m6", "m8", "klatt", "klatt3",
          "Alex", "Andy", "Denis", "Gene", "Michael", "Annie", "Mike", "adam", "belinda", "caleb",
          "ed", "grandma", "grandpa", "iven", "john", "linda", "max", "paul", "rob", "shelby",
          "steph", "victor"]
HELD_OUT = ["f2", "m3", "m7", "klatt2", "Lee", "Andrea", "Alicia", "david", "michel", "anika",
            "steph3", "zac", "quincy", "Gene2"]


def say(job):
    """A list of words as samples at 16 kHz each, trimmed to what is heard."""
    words, accent, voice, speed, pitch = job
    text = '<break time="600ms"/>'.join(f"{word}." for word in words)
    name = f"{accent}+{voice}" if voice else accent
    command = ["espeak-ng", "-v", name, "-s", str(speed), "-p", str(pitch), "-m", "--stdout"]
    said = subprocess.run([*command, f"<speak>{text}</speak>"], capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(said)) as file:
        rate = file.getframerate()
        # The length in the header of a stream is none.
        data = np.frombuffer(file.readframes(10**7), np.int16).astype(np.float32) / 32768
    padded = np.pad(data, (0, -len(data) % rate))
    spectrum = np.fft.rfft(padded)[: len(padded) * RATE // rate // 2 + 1]
    sound = np.fft.irfft(spectrum, len(padded) * RATE // rate) * RATE / rate
    heard = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    # Between two words lie 0.6 s; no sound within a word is silent for half of that.
    ends = np.flatnonzero(np.diff(heard) > 0.3 * RATE)
    first = heard[np.concatenate([[0], ends + 1])]
    last = heard[np.concatenate([ends, [len(heard) - 1]])]
    if len(first) != len(words):
        return []
    pairs = zip(first, last)
    return [sound[max(a - 160, 0) : b + 320][:RATE].astype(np.float32) for a, b in pairs]


def speech(voices, readings, seed):
    """All words and four others, read so many times by somebody."""
    rng = np.random.default_rng(seed)
    jobs, labels = [], []
    for _ in range(readings):
        words = [*range(len(WORDS)), *[len(WORDS)] * 4]
        rng.shuffle(words)
        said = [WORDS[it] if it < len(WORDS) else str(rng.choice(OTHERS)) for it in words]
        jobs.append((said, str(rng.choice(ACCENTS)), str(rng.choice(voices)),
                     int(rng.integers(120, 210)), int(rng.integers(20, 80))))
        labels.append(words)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        read = list(pool.map(say, jobs))
    lost = sum(not sounds for sounds in read)
    print(f"{readings} readings, {lost} of them not told apart into words", flush=True)
    sounds = [sound for reading in read for sound in reading]
    return sounds, np.array([it for words, found in zip(labels, read) if found for it in words])


def noise(rng):
    """A second of noise: hiss to rumble, with or without hum."""
    spectrum = np.fft.rfft(rng.standard_normal(RATE))
    spectrum /= np.maximum(np.arange(len(spectrum)), 30) ** rng.uniform(0, 1)
    made = np.fft.irfft(spectrum, RATE)
    made /= made.std()
    if rng.random() < 0.3:
        turn = 2 * np.pi * rng.choice([50, 60, 100, 120]) * np.arange(RATE) / RATE
        made += rng.uniform(0.3, 1) * (np.sin(turn) + 0.4 * np.sin(3 * turn))
    return (made / made.std()).astype(np.float32)


def second(rng, sound):
    """A second of 16-bit samples in which the sound is somewhere; or only noise, without one."""
    level = 10 ** (rng.uniform(-35, -12) / 20)
    if sound is None:
        mixed = noise(rng) * level * 10 ** (rng.uniform(-30, 0) / 20)
    else:
        mixed = np.zeros(RATE, np.float32)
        at = rng.integers(0, RATE - len(sound) + 1)
        mixed[at : at + len(sound)] = sound / np.sqrt((sound**2).mean())
        mixed = (mixed + noise(rng) * 10 ** (-rng.uniform(5, 30) / 20)) * level
    return np.clip(np.round(mixed * 32768), -32768, 32767).astype(np.int16)


def seconds(sounds, labels, times, seed):
    """Every sound so many times in another noise, and a third as much noise alone as `other`."""
    rng = np.random.default_rng(seed)
    made = [second(rng, sound) for _ in range(times) for sound in sounds]
    alone = len(made) // 30
    made += [second(rng, None) for _ in range(alone)]
    return np.stack(made), np.concatenate([np.tile(labels, times), np.full(alone, len(WORDS))])


# Features: the logarithm of 40 mel bands, from windows of 20 ms each 12.5 ms.
WINDOW, HOP, BANDS = 320, 200, 40
FRAMES = (RATE - WINDOW) // HOP + 1


def kernels():
    """The windowed Fourier transform as a convolution, real parts then imaginary ones."""
    turn = 2 * np.pi * np.outer(np.arange(WINDOW // 2 + 1), np.arange(WINDOW)) / WINDOW
    both = np.concatenate([np.cos(turn), -np.sin(turn)]) * np.hanning(WINDOW)
    return both.astype(np.float32)


def mel_bands():
    """Triangles from 80 Hz to 7.6 kHz, evenly spaced on the mel scale."""
    mel = np.linspace(*(2595 * np.log10(1 + np.array([80, 7600]) / 700)), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hertz = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (hertz - low) / (mid - low), (high - hertz) / (high - mid)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


QUIET = 1e-5


def features(pcm):
    """What the graph computes first, in numpy: [N, BANDS, FRAMES]."""
    parts = []
    for part in np.array_split(pcm, max(1, len(pcm) // 256)):
        windows = np.lib.stride_tricks.sliding_window_view(part / np.float32(32768), WINDOW, axis=1)
        found = np.fft.rfft(windows[:, ::HOP] * np.hanning(WINDOW).astype(np.float32))
        power = (found.real**2 + found.imag**2).astype(np.float32)
        loud = np.log(power @ mel_bands().T + QUIET)
        parts.append((loud - loud.mean((1, 2), keepdims=True)).transpose(0, 2, 1) / 3)
    return np.concatenate(parts)


# (name, outputs, inputs, kernel, stride); no padding.
LAYERS = [("a", 64, BANDS, 5, 2), ("b", 96, 64, 5, 2), ("c", 128, 96, 3, 1)]


def forward(params, x, key):
    for name, _, _, _, stride in LAYERS:
        x = jax.lax.conv_general_dilated(x, params[name], (stride,), "VALID",
                                         dimension_numbers=("NCH", "OIH", "NCH"))
        x = jax.nn.relu(x + params[name + "0"][:, None])
    x = x.max(2)
    if key is not None:
        x = x * jax.random.bernoulli(key, 0.7, x.shape) / 0.7
    return x @ params["d"] + params["d0"]


def parameters(rng):
    params = {}
    for name, outputs, inputs, kernel, _ in LAYERS:
        weights = training.init(rng, inputs, kernel, outputs)
        params[name] = np.moveaxis(weights, -1, 0).copy()
        params[name + "0"] = np.zeros(outputs, np.float32)
    last = LAYERS[-1][1]
    return params | {"d": training.init(rng, last, len(LABELS)),
                     "d0": np.zeros(len(LABELS), np.float32)}


def masked(x, rng):
    """Forgets a band and a moment, so that neither decides alone."""
    x = x.copy()
    for row in range(len(x)):
        band, frame = rng.integers(0, BANDS - 6), rng.integers(0, FRAMES - 8)
        x[row, band : band + rng.integers(0, 6)] = 0
        x[row, :, frame : frame + rng.integers(0, 8)] = 0
        # Other throats: the whole spectrum one or two bands up or down.
        x[row] = np.roll(x[row], rng.integers(-2, 3), axis=0)
    return x


def export(params, path):
    g = training.Graph()
    x = g("Cast", "pcm", to=TensorProto.FLOAT)
    x = g("Mul", x, g.constant(1 / 32768))
    x = g("Unsqueeze", x, g.constant([1], np.int64))
    bins = WINDOW // 2 + 1
    x = g("Conv", x, g.constant(kernels()[:, None]), strides=[HOP])
    x = g("Mul", x, x)
    # Squares of real and imaginary parts are added by the same weights for both.
    bands = np.concatenate([mel_bands(), mel_bands()], 1)
    assert bands.shape == (BANDS, 2 * bins)
    x = g("Log", g("Add", g("Conv", x, g.constant(bands[:, :, None])), g.constant(QUIET)))
    x = g("Sub", x, g("ReduceMean", x, axes=[1, 2], keepdims=1))
    x = g("Mul", x, g.constant(1 / 3))
    for name, _, _, _, stride in LAYERS:
        weights, bias = g.constant(params[name]), g.constant(params[name + "0"])
        x = g("Relu", g("Conv", x, weights, bias, strides=[stride]))
    x = g("ReduceMax", x, axes=[2], keepdims=0)
    x = g("Gemm", x, g.constant(params["d"]), g.constant(params["d0"]))
    g("Softmax", x, axis=1, name="probabilities")
    g.write(path, [("pcm", TensorProto.INT16, ["N", RATE])],
            [("probabilities", TensorProto.FLOAT, ["N", len(LABELS)])])


def mu_law(pcm):
    """16 bits to 8, as telephones do, and back: what the test set is kept in."""
    x = pcm.astype(np.float64) / 32768
    byte = np.round((np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256) + 1) * 127.5)
    byte = byte.astype(np.uint8)
    y = byte / 127.5 - 1
    back = np.sign(y) * (256 ** np.abs(y) - 1) / 255
    return byte, np.round(back * 32767).astype(np.int16)


def main():
    options = training.arguments(__doc__)
    sounds, labels = speech(VOICES, 400, options.seed)
    held, held_labels = speech(HELD_OUT, 70, options.seed + 1)
    print(f"{len(sounds)} utterances to train on, {len(held)} held out", flush=True)
    pcm, labels = seconds(sounds, labels, 3, options.seed + 2)
    test_pcm, test_labels = seconds(held, held_labels, 1, options.seed + 3)
    params = training.fit(forward, parameters(np.random.default_rng(options.seed)), features(pcm),
                          labels, steps=options.steps or 1500, batch=128, rate=2e-3,
                          seed=options.seed, augment=masked, dropout=0.3)
    path = options.out / "1" / "model.onnx"
    export(params, path)
    scores = training.probabilities(path, test_pcm)
    said = scores.argmax(1)
    accuracy = 100 * (said == test_labels).mean()
    print(f"accuracy {accuracy:.2f} %, {path.stat().st_size} bytes")
    for label, name in enumerate(LABELS):
        mine = test_labels == label
        missed, false = (said[mine] != label).mean(), (test_labels[said == label] != label).mean()
        print(f"  {name}: {100 * missed:.1f} % missed, {100 * false:.1f} % of its answers wrong")
    training.describe(options.out, f'''
name = "keywords"
platform = "onnx"
description = "A second of 16 kHz sound, one channel, to the English command word in it, if any."
media = "audio"
labels = "labels.txt"
max_batch = 16
sample_rate = 16000
accuracy = "{accuracy:.1f} % of {len(test_pcm)} seconds of espeak-ng speech and noise (5 to 30 dB), in {len(HELD_OUT)} voices that were not trained on"

[[input]]
name = "pcm"
datatype = "INT16"
shape = [-1, {RATE}]

[[output]]
name = "probabilities"
datatype = "FP32"
shape = [-1, {len(LABELS)}]
''', LABELS)
    if options.test_set:
        rng = np.random.default_rng(options.seed)
        rows = np.concatenate([rng.choice(np.flatnonzero(test_labels == label), 2, replace=False)
                               for label in range(len(LABELS))])
        packed, heard = mu_law(test_pcm[rows])
        training.write_test_set(options.out, packed, test_labels[rows],
                                training.probabilities(path, heard))


if __name__ == "__main__":
    main()
