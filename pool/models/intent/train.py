#!/usr/bin/env python3
"""Trains `intent`: a sentence, as its bytes, to what is wanted of a voice assistant.

The sentences are made here, from templates and words. The templates of HELD_OUT, and a part of the
words, are never trained on; the accuracy is theirs.
"""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import training
import jax
import jax.numpy as jnp
import numpy as np
from onnx import TensorProto

LENGTH = 64

# Each slot: words to train on, then words that only the test has.
SLOTS = {
    "room": ("kitchen|bedroom|bathroom|living room|hall|office|garage|garden|cellar|nursery|attic",
             "dining room|porch|study|corridor"),
    "song": ("some jazz|the beatles|my playlist|classical music|a song by queen|rock|the radio|"
             "something quiet|miles davis|an audiobook|the album thriller|folk songs|a podcast",
             "techno|johnny cash|the news podcast|piano music"),
    "city": ("london|paris|berlin|new york|rome|madrid|oslo|vienna|tokyo|sydney|boston|lisbon",
             "prague|dublin|chicago|athens"),
    "day": ("today|tomorrow|on monday|this weekend|on friday|tonight|next week|on sunday|now",
            "on tuesday|this evening|on saturday"),
    "time": ("seven|half past six|noon|8 am|ten thirty|6 o'clock|five pm|quarter to nine|midnight",
             "eleven|7 pm|half past four|9:15"),
    "span": ("ten minutes|one hour|30 seconds|five minutes|half an hour|two hours|a minute|90 seconds",
             "twenty minutes|three hours|45 seconds"),
    "task": ("call mum|buy milk|water the plants|take out the rubbish|pay the rent|feed the cat|"
             "book a dentist|send the report|wash the car|pick up the kids|take my pills",
             "call the bank|walk the dog|renew the passport|buy bread"),
    "item": ("milk|bread|eggs|coffee|apples|butter|rice|soap|bananas|cheese|batteries|onions",
             "tomatoes|tea|pasta|toothpaste"),
    "degrees": ("20|21|eighteen|nineteen|22|twenty two|17|sixteen", "23|twenty|15"),
    "please": ("|please |could you |can you |hey |would you please |i want you to ", "|kindly |now "),
}

# Intent: templates to train on, then templates that only the test has.
INTENTS = {
    "lights_on": (
        "turn on the lights in the {room}|switch the {room} lights on|lights on in the {room}|"
        "turn the {room} light on|make it bright in the {room}|it is too dark in the {room}|"
        "light up the {room}|switch on the lamp|turn on the lamp in the {room}|i need light|"
        "put the light on|lights on|the {room} needs more light|give me some light in the {room}|"
        "put the lamp on in the {room}|switch it on in the {room}",
        "turn the lights on in the {room}|switch on the {room} light|put on the lights in the {room}"),
    "lights_off": (
        "turn off the lights in the {room}|switch the {room} lights off|lights off in the {room}|"
        "turn the {room} light off|make it dark in the {room}|it is too bright in the {room}|"
        "switch off the lamp|turn off the lamp in the {room}|no more light in the {room}|"
        "put the light out|lights off|kill the lights|the {room} lights can go off|lights out|"
        "lights out in the {room}|put the lamp out in the {room}|switch it off in the {room}",
        "turn the lights off in the {room}|switch off the {room} light|put out the lights in the {room}"),
    "music_play": (
        "play {song}|put on {song}|start playing {song}|i want to hear {song}|let me hear {song}|"
        "play {song} in the {room}|listen to {song}|start the music|play something|play music|"
        "resume the music|turn on {song}|i would like to listen to {song}|how about {song}",
        "play me {song}|i'd love to hear {song}|start {song} in the {room}"),
    "music_stop": (
        "stop the music|stop playing|pause the music|be quiet|turn off the music|pause|silence|"
        "stop {song}|pause the song|turn the music off|no more music|shut up|stop this song|"
        "stop the music in the {room}|music off|stop playing {song}",
        "pause {song}|stop this music|stop playing music in the {room}"),
    "volume_up": (
        "louder|turn it up|turn up the volume|volume up|make it louder|increase the volume|"
        "turn up the music|i can't hear it|raise the volume|a bit louder|it is too quiet|"
        "turn the volume up in the {room}|more volume|crank it up|the music is too quiet",
        "turn the volume up|make the music louder|raise the volume in the {room}"),
    "volume_down": (
        "quieter|turn it down|turn down the volume|volume down|make it quieter|lower the volume|"
        "turn down the music|it is too loud|reduce the volume|a bit quieter|decrease the volume|"
        "turn the volume down in the {room}|less volume|the music is too loud|not so loud",
        "turn the volume down|make the music quieter|lower the volume in the {room}"),
    "weather": (
        "what is the weather in {city}|weather {day}|how is the weather {day}|will it rain {day}|"
        "is it going to rain in {city}|do i need an umbrella {day}|what's the forecast for {city}|"
        "is it cold in {city}|will it be sunny {day}|weather forecast|how warm will it be {day}|"
        "will it snow in {city} {day}|tell me the weather|is it windy in {city}",
        "what will the weather be like {day}|is it raining in {city}|the forecast {day} for {city}"),
    "timer_set": (
        "set a timer for {span}|timer for {span}|start a timer of {span}|count down {span}|"
        "{span} timer|start a {span} timer|set timer {span}|new timer for {span}|"
        "set the timer to {span}|tell me when {span} are over|let me know in {span}|"
        "start the countdown for {span}",
        "start a timer for {span}|make a timer of {span}|begin a {span} countdown"),
    "alarm_set": (
        "wake me up at {time}|set an alarm for {time}|alarm at {time}|wake me at {time} {day}|"
        "set my alarm to {time}|i need to get up at {time}|set the alarm clock for {time}|"
        "new alarm {day} at {time}|get me out of bed at {time}|make an alarm for {time} {day}|"
        "i must be up by {time}|alarm for {time}",
        "set an alarm at {time} {day}|wake me up {day} at {time}|an alarm for {time} {day}"),
    "reminder_add": (
        "remind me to {task}|remind me {day} to {task}|don't let me forget to {task}|"
        "reminder to {task}|remind me at {time} to {task}|i have to remember to {task}|"
        "set a reminder to {task}|add a reminder {task}|remind us to {task} {day}|"
        "i must not forget to {task}|make a reminder to {task} {day}|please remind me to {task}",
        "remind me to {task} {day}|set a reminder for {time} to {task}|help me remember to {task}"),
    "list_add": (
        "add {item} to the shopping list|put {item} on the list|we need {item}|buy {item}|"
        "we are out of {item}|add {item} and {item} to my list|shopping list {item}|"
        "put {item} on the shopping list|we have no more {item}|note {item} for shopping|"
        "i need to buy {item}|get some {item}|add {item} to my groceries|we ran out of {item}",
        "put {item} and {item} on the shopping list|add some {item} to the list|we're out of {item}"),
    "temperature_set": (
        "set the temperature to {degrees}|set the heating to {degrees} degrees|"
        "make it {degrees} degrees in the {room}|heat the {room} to {degrees}|"
        "thermostat to {degrees}|set the thermostat in the {room} to {degrees}|i am cold|"
        "it is too cold in the {room}|it is too warm in the {room}|turn up the heating|"
        "turn down the heating|warm up the {room}|cool the {room} to {degrees} degrees|"
        "temperature {degrees} degrees|turn on the heating|heating off",
        "set the {room} to {degrees} degrees|turn the heating to {degrees}|"
        "turn up the heating in the {room}"),
    "time_ask": (
        "what time is it|what's the time|tell me the time|what time is it in {city}|"
        "do you know what time it is|how late is it|the time please|current time|"
        "what day is it|what is the date|which day is today|what's the date today|"
        "give me the time in {city}|what is today's date",
        "can you tell me what time it is|what's the time in {city}|what is the time now"),
}
LABELS = list(INTENTS)


def fill(template, rng, held_out):
    """A sentence of a template."""
    def word(match):
        usual, kept = SLOTS[match[1]]
        # Words that were not trained on, in about half the places of the test.
        words = kept if held_out and rng.random() < 0.5 else usual
        return str(rng.choice(words.split("|")))
    return re.sub(r"\{(\w+)\}", word, template)


def roughened(text, rng, held_out):
    """As people type and recognisers write: politeness, case, stops, a slip now and then."""
    if rng.random() < 0.4:
        text = fill("{please}", rng, held_out) + text
    if rng.random() < 0.15:
        text += " please"
    if rng.random() < 0.1 and len(text) > 8:
        at = int(rng.integers(1, len(text) - 2))
        slips = [text[:at] + text[at + 1 :], text[:at] + text[at] + text[at:],
                 text[:at] + text[at + 1] + text[at] + text[at + 2 :]]
        text = slips[rng.integers(3)]
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    elif rng.random() < 0.05:
        text = text.upper()
    if rng.random() < 0.25:
        text += str(rng.choice([".", "!", "?"]))
    return text


def sentences(per_intent, held_out, seed):
    rng = np.random.default_rng(seed)
    made = []
    for label, (usual, kept) in enumerate(INTENTS.values()):
        templates = (kept if held_out else usual).split("|")
        for _ in range(per_intent):
            text = fill(str(rng.choice(templates)), rng, held_out)
            made.append((roughened(text, rng, held_out), label))
    return made


def encoded(texts):
    """Each text's UTF-8 bytes, cut or filled with 0 to LENGTH."""
    rows = np.zeros((len(texts), LENGTH), np.uint8)
    for row, text in zip(rows, texts):
        data = text.encode()[:LENGTH]
        row[: len(data)] = list(data)
    return rows


# Rows of the table by byte: 0 is no byte; letters have one row whatever their case.
ROWS = 64


def row_of_byte():
    rows = np.ones(256, np.int64)
    rows[0] = 0
    for at, char in enumerate("abcdefghijklmnopqrstuvwxyz0123456789 '-,:"):
        rows[ord(char)] = rows[ord(char.upper())] = at + 2
    return rows


WIDTHS, DEPTH, FOUND = (2, 4, 6, 9), 16, 64


def forward(params, x, key):
    x = params["table"][x].transpose(0, 2, 1)
    found = []
    for width in WIDTHS:
        y = jax.lax.conv_general_dilated(x, params[f"w{width}"], (1,), "VALID",
                                         dimension_numbers=("NCH", "OIH", "NCH"))
        found.append(jax.nn.relu(y + params[f"b{width}"][:, None]).max(2))
    x = jnp.concatenate(found, 1)
    if key is not None:
        x = x * jax.random.bernoulli(key, 0.6, x.shape) / 0.6
    return x @ params["d"] + params["d0"]


def parameters(rng):
    params = {"table": (0.5 * rng.standard_normal((ROWS, DEPTH))).astype(np.float32)}
    for width in WIDTHS:
        weights = training.init(rng, DEPTH, width, FOUND)
        params[f"w{width}"] = np.moveaxis(weights, -1, 0).copy()
        params[f"b{width}"] = np.zeros(FOUND, np.float32)
    return params | {"d": training.init(rng, FOUND * len(WIDTHS), len(LABELS)),
                     "d0": np.zeros(len(LABELS), np.float32)}


def export(params, path):
    g = training.Graph()
    x = g("Cast", "text", to=TensorProto.INT64)
    # One table by byte, so that the graph need not know of rows.
    x = g("Gather", g.constant(params["table"][row_of_byte()]), x, axis=0)
    x = g("Transpose", x, perm=[0, 2, 1])
    found = []
    for width in WIDTHS:
        y = g("Conv", x, g.constant(params[f"w{width}"]), g.constant(params[f"b{width}"]))
        found.append(g("ReduceMax", g("Relu", y), axes=[2], keepdims=0))
    x = g("Concat", *found, axis=1)
    x = g("Gemm", x, g.constant(params["d"]), g.constant(params["d0"]))
    g("Softmax", x, axis=1, name="probabilities")
    g.write(path, [("text", TensorProto.UINT8, ["N", LENGTH])],
            [("probabilities", TensorProto.FLOAT, ["N", len(LABELS)])])


def main():
    options = training.arguments(__doc__)
    train = sentences(2000, False, options.seed)
    test = sentences(200, True, options.seed + 1)
    known = {text.lower() for text, _ in train}
    test = [it for it in test if it[0].lower() not in known]
    print(f"{len(train)} sentences to train on, {len(test)} held out")
    rows = row_of_byte()
    texts, labels = [it[0] for it in train], np.array([it[1] for it in train])
    params = training.fit(forward, parameters(np.random.default_rng(options.seed)),
                          rows[encoded(texts)], labels, steps=options.steps or 1200, batch=64,
                          rate=3e-3, seed=options.seed, dropout=0.4)
    path = options.out / "1" / "model.onnx"
    export(params, path)
    test_inputs, test_labels = encoded([it[0] for it in test]), np.array([it[1] for it in test])
    scores = training.probabilities(path, test_inputs)
    said = scores.argmax(1)
    accuracy = 100 * (said == test_labels).mean()
    print(f"accuracy {accuracy:.2f} %, {path.stat().st_size} bytes")
    for (text, label), answer in [it for it in zip(test, said) if it[0][1] != it[1]][:25]:
        print(f"  {text!r} is {LABELS[label]}, said {LABELS[answer]}")
    training.describe(options.out, f'''
name = "intent"
platform = "onnx"
description = "An English sentence to what it wants of a voice assistant. The input is its UTF-8 bytes, cut or filled with 0 to {LENGTH}."
media = "text"
labels = "labels.txt"
max_batch = 64
accuracy = "{accuracy:.1f} % of {len(test)} sentences of templates, half of their words too, that were not trained on"

[[input]]
name = "text"
datatype = "UINT8"
shape = [-1, {LENGTH}]

[[output]]
name = "probabilities"
datatype = "FP32"
shape = [-1, {len(LABELS)}]
''', LABELS)
    if options.test_set:
        chosen = np.random.default_rng(options.seed).permutation(len(test))[:400]
        training.write_test_set(options.out, test_inputs[chosen], test_labels[chosen], scores[chosen])


if __name__ == "__main__":
    main()
