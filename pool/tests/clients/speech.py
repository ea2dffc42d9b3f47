"""The package that voice assistants have, against a pool with real speech workers.

usage: speech.py ADDRESS SOCKET SENTENCE WORDS
SENTENCE and WORDS are raw sound, 16 kHz, one channel, 16 bits. Not named after the package, which
Python would then not find.
"""

import asyncio
import json
import random
import socket
import struct
import sys
import time

from checks import check, main
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioChunkConverter, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info, SelectProgram
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeVoice
from wyoming.wake import Detect, Detection, NotDetected

address, path, sentence_file, words_file = sys.argv[1:5]
host, port = address.rsplit(":", 1)
SENTENCE = open(sentence_file, "rb").read()


def with_hiss(sound):
    """As a microphone has it: silence that is none at all is nothing that the model ever met."""
    hiss = random.Random(1)
    samples = struct.unpack(f"<{len(sound) // 2}h", sound)
    louder = [max(-32768, min(32767, it + round(hiss.gauss(0, 100)))) for it in samples]
    return struct.pack(f"<{len(louder)}h", *louder)


WORDS = with_hiss(open(words_file, "rb").read())
SAID = "turn on the light"
PATIENCE = 120


def connect(unix=False):
    uri = f"unix://{path}" if unix else f"tcp://{address}"
    return AsyncClient.from_uri(uri, connect_timeout=PATIENCE, read_timeout=PATIENCE)


def chunks(sound, rate=16000, width=2, channels=1, samples=1024):
    size = samples * width * channels
    for at in range(0, len(sound), size):
        yield AudioChunk(rate, width, channels, sound[at : at + size]).event()


async def stream(client, asked, sound, rate=16000, width=2, channels=1):
    if asked is not None:
        await client.write_event(asked.event())
    await client.write_event(AudioStart(rate, width, channels).event())
    for chunk in chunks(sound, rate, width, channels):
        await client.write_event(chunk)
    await client.write_event(AudioStop().event())


async def answer(client, kind):
    event = await client.read_event()
    check(event is not None, "the connection ended")
    if not kind.is_type(event.type):
        raise AssertionError(f"{event.type} {event.data}, where {kind.__name__} was due")
    return kind.from_event(event)


def asynchronous(test):
    def run():
        asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))

    run.__name__ = test.__name__
    return run


@asynchronous
async def what_there_is_is_described():
    for unix in [False, True]:
        async with connect(unix) as client:
            await client.write_event(Describe().event())
            info = await answer(client, Info)
            models = {model.name: model for model in info.asr[0].models}
            check(set(models) == {"broken", "dictation", "slow"}, models)
            check(models["dictation"].languages == ["en"], models)
            check(models["dictation"].installed, models)
            check([voice.name for voice in info.tts[0].voices] == ["voice"], info.tts)
            check([word.name for word in info.wake[0].models] == ["yes", "no", "stop"], info.wake)
            check(info.handle == [] and info.intent == [], info)
            await client.write_event(Ping(text="hello").event())
            check((await answer(client, Pong)).text == "hello", "another text")


@asynchronous
async def an_utterance_becomes_text():
    for unix in [False, True]:
        async with connect(unix) as client:
            # Again and again on one connection, and without `transcribe` the first that there is.
            for asked in [Transcribe(name="dictation"), Transcribe(language="en-US")]:
                await stream(client, asked, SENTENCE)
                transcript = await answer(client, Transcript)
                check(transcript.text == SAID, transcript)
                check(transcript.language == "en", transcript)


@asynchronous
async def other_rates_widths_and_channels_are_converted():
    whole = AudioChunk(16000, 2, 1, SENTENCE)
    for rate, width, channels in [(48000, 2, 2), (44100, 4, 1), (22050, 2, 1), (16000, 1, 1)]:
        # In one channel, or the rate is converted twice as often as there are samples.
        sound = AudioChunkConverter(rate, width, 1).convert(whole)
        sound = AudioChunkConverter(rate, width, channels).convert(sound).audio
        async with connect() as client:
            await stream(client, Transcribe(name="dictation"), sound, rate, width, channels)
            transcript = await answer(client, Transcript)
            check(transcript.text == SAID, f"{rate} Hz, {width} bytes, {channels}: {transcript}")


@asynchronous
async def many_speak_at_a_time():
    async def one():
        async with connect() as client:
            await stream(client, Transcribe(name="dictation"), SENTENCE)
            return (await answer(client, Transcript)).text

    texts = await asyncio.gather(*(one() for _ in range(4)))
    check(texts == [SAID] * 4, texts)


@asynchronous
async def a_text_becomes_a_voice():
    async with connect() as client:
        for voice in [None, SynthesizeVoice(name="voice"), SynthesizeVoice(language="en")]:
            await client.write_event(Synthesize(text="good morning", voice=voice).event())
            start = await answer(client, AudioStart)
            check((start.width, start.channels) == (2, 1), start)
            sound = b""
            while AudioChunk.is_type((event := await client.read_event()).type):
                chunk = AudioChunk.from_event(event)
                check(chunk.rate == start.rate, chunk.rate)
                check(chunk.timestamp == len(sound) // 2 * 1000 // start.rate, chunk.timestamp)
                sound += chunk.audio
            check(AudioStop.is_type(event.type), event)
            seconds = len(sound) / 2 / start.rate
            check(0.4 < seconds < 5, f"{seconds} s")
            loudest = max(abs(it) for it in struct.unpack(f"<{len(sound) // 2}h", sound))
            check(loudest > 3000, f"no louder than {loudest}")


@asynchronous
async def words_are_heard_in_a_stream():
    async with connect() as client:
        await stream(client, Detect(), WORDS)
        heard = []
        while len(heard) < 2:
            heard.append(await answer(client, Detection))
        check([it.name for it in heard] == ["yes", "stop"], heard)
        length = len(WORDS) // 32
        check(0 < heard[0].timestamp < heard[1].timestamp < length + 1500, (heard, length))
        # What is not asked for is not told.
        await stream(client, Detect(names=["stop"]), WORDS)
        check((await answer(client, Detection)).name == "stop", "another word")
        await stream(client, Detect(), with_hiss(bytes(64000)))
        await answer(client, NotDetected)


@asynchronous
async def a_wrong_request_costs_itself_only():
    async with connect() as client:

        async def refused(code, words):
            error = await answer(client, Error)
            check(error.code == code and words in error.text, error)

        await stream(client, Transcribe(name="nobody"), SENTENCE)
        await refused("not-found", "no worker `nobody`")
        await stream(client, Transcribe(language="tlh"), SENTENCE)
        await refused("failed", "no luck")
        await stream(client, Transcribe(name="broken"), SENTENCE * 3)
        await refused("too-large", "`wyoming.longest`")
        await client.write_event(Synthesize(text="x", voice=SynthesizeVoice(name="no")).event())
        await refused("not-found", "no worker `no`")
        await stream(client, Transcribe(name="dictation"), SENTENCE, rate=1)
        await refused("invalid", "`rate` of audio-start is 1")
        await client.write_event(SelectProgram(name="dictation").event())
        await client.write_event(Event("no-such-event", {"x": 1}, b"abc"))
        await stream(client, None, SENTENCE)
        # The first worker is `broken`; the one that was selected goes before it.
        check((await answer(client, Transcript)).text == SAID, "another worker")


def raw(data, unix=False):
    """Sends bytes, ends the sending side, and gives the events that come back."""
    if unix:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(path)
    else:
        peer = socket.create_connection((host, int(port)), PATIENCE)
    peer.settimeout(PATIENCE)
    with peer:
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        try:
            while more := peer.recv(65536):
                answer += more
        except ConnectionResetError:
            pass
    events = []
    while answer:
        line, _, answer = answer.partition(b"\n")
        head = json.loads(line)
        length = head.get("data_length", 0)
        events.append((head["type"], json.loads(answer[:length] or b"{}")))
        answer = answer[length:]
    return events


def what_is_no_event_is_told_why():
    start = b'{"type":"audio-start","data":{"rate":16000,"width":2,"channels":1}}\n'
    for unix in [False, True]:
        for sent, words in [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "no JSON object"),
            (b"\xff\xfe\n", "no JSON object"),
            (b'{"type":"x","payload_length":99999999999}\n', "at most 1048576"),
            (b'{"type":"x","data_length":-5}\n', "`-5`"),
            (b'{"type":"x","data_length":65537}\n', "at most 65536"),
            (b'{"type":"audio-chunk","payload_length":100}\nabc', "ended within an event"),
            (b"{" * 70000, "does not end"),
            (b'{"type":"x","data":{"a":' + b"[" * 60000 + b"\n", "recursion limit"),
            (start, "ended within"),
        ]:
            events = raw(sent, unix)
            check(len(events) == 1 and events[0][0] == "error", (sent[:60], events))
            check(events[0][1]["code"] == "malformed", (sent[:60], events))
            check(words in events[0][1]["text"], (sent[:60], events))
    check(raw(b"") == [], "an answer to nothing")
    check(raw(b'{"type":"ping"}\n') == [("pong", {"text": None})], "no pong")


def workers():
    """How many processes work for `slow`."""
    import glob

    found = 0
    for file in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            # As the worker is declared in the test, and nobody else sleeps so long.
            found += open(file, "rb").read().endswith(b"sleep\x00601.25\x00")
        except OSError:
            pass
    return found


def who_leaves_takes_the_work_along():
    peer = socket.create_connection((host, int(port)), PATIENCE)
    before = workers()
    peer.sendall(b'{"type":"transcribe","data":{"name":"slow"}}\n')
    peer.sendall(b'{"type":"audio-start","data":{"rate":16000,"width":2,"channels":1}}\n')
    peer.sendall(b'{"type":"audio-stop"}\n')
    until = time.monotonic() + PATIENCE
    while workers() == before:
        check(time.monotonic() < until, "nothing is started")
        time.sleep(0.05)
    peer.close()
    while workers() > before:
        check(time.monotonic() < until, "it goes on without its client")
        time.sleep(0.05)


main(
    what_there_is_is_described,
    an_utterance_becomes_text,
    other_rates_widths_and_channels_are_converted,
    many_speak_at_a_time,
    a_text_becomes_a_voice,
    words_are_heard_in_a_stream,
    a_wrong_request_costs_itself_only,
    what_is_no_event_is_told_why,
    who_leaves_takes_the_work_along,
)
