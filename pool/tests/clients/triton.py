"""Triton's own clients against a pool with the workers `mic`, `model = "denoise"`, and `glyphs`, and
the models that ship in its folder.

usage: triton.py REST_ADDRESS GRPC_ADDRESS GRPC_SOCKET
"""

import json
import os
import socket
import sys
import threading
import time
from http.client import HTTPConnection

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from checks import check, main, refused

rest, grpc_address, grpc_socket = sys.argv[1:4]
SOUND = (0.3 * np.sin(np.arange(960) * 0.0576)).astype(np.float32)


def inputs(kind, sound, datatype="FP32"):
    tensor = kind.InferInput("pcm", list(sound.shape), datatype)
    tensor.set_data_from_numpy(sound)
    return [tensor]


PICTURES = (np.arange(2 * 784) % 251).astype(np.uint8).reshape(2, 28, 28)


def pictures(kind, some=PICTURES, datatype="UINT8"):
    tensor = kind.InferInput("image", list(some.shape), datatype)
    tensor.set_data_from_numpy(some)
    return [tensor]


def http_client():
    return http.InferenceServerClient(rest, concurrency=4, network_timeout=30)


def http_health_and_metadata():
    client = http_client()
    check(client.is_server_live() and client.is_server_ready(), "live and ready")
    check(client.is_model_ready("mic"), "mic is ready")
    check(client.is_model_ready("mic", "1"), "version 1 is ready")
    check(not client.is_model_ready("mic", "7"), "version 7 is not")
    server = client.get_server_metadata()
    check(server["name"] == "downbeat-pool", server)
    check("binary_tensor_data" in server["extensions"], server)
    for version in ["", "1"]:
        model = client.get_model_metadata("mic", version)
        check(model["versions"] == ["1"], model)
        check(model["inputs"][0] == {"name": "pcm", "datatype": "FP32", "shape": [-1, -1]}, model)


def http_json_and_binary_agree():
    client = http_client()
    answers = []
    for binary_in in [False, True]:
        for binary_out in [False, True]:
            tensor = http.InferInput("pcm", [960], "FP32")
            tensor.set_data_from_numpy(SOUND, binary_data=binary_in)
            wanted = [http.InferRequestedOutput("denoised", binary_data=binary_out)]
            answer = client.infer("mic", [tensor], outputs=wanted, request_id="a-7")
            check(answer.get_response()["id"] == "a-7", answer.get_response())
            answers.append(answer.as_numpy("denoised"))
    check(all(answer.shape == (960,) for answer in answers), "shapes")
    check(all(np.array_equal(answer, answers[0]) for answer in answers), "same answers")
    check(np.abs(answers[0]).max() > 0.01, "silence")
    integers = (SOUND * 32767).astype(np.int16).reshape(480, 2)
    answer = client.infer("mic", inputs(http, integers, "INT16"), model_version="1")
    check(answer.as_numpy("denoised").dtype == np.int16, "INT16 comes back as INT16")


def http_refusals():
    client = http_client()
    refused("404", "no model `nope`", lambda: client.infer("nope", inputs(http, SOUND)))
    refused("404", "no version `7`", lambda: client.infer("mic", inputs(http, SOUND), "7"))
    short = SOUND[:7]
    refused("400", "shape [7]", lambda: client.infer("mic", inputs(http, short)))
    double = SOUND.astype(np.float64)
    refused("400", "datatype FP64", lambda: client.infer("mic", inputs(http, double, "FP64")))
    bad = SOUND.copy()
    bad[3] = np.nan
    refused("400", "element 3 of `pcm` is NaN", lambda: client.infer("mic", inputs(http, bad)))
    other = http.InferInput("pmc", [960], "FP32")
    other.set_data_from_numpy(SOUND)
    refused("400", "no input `pmc`", lambda: client.infer("mic", [other]))
    wanted = [http.InferRequestedOutput("x")]
    refused("400", "no output `x`", lambda: client.infer("mic", inputs(http, SOUND), outputs=wanted))
    ranked = [http.InferRequestedOutput("denoised", class_count=3)]
    refused(
        "400",
        "`classification`, which is not offered",
        lambda: client.infer("mic", inputs(http, SOUND), outputs=ranked),
    )
    # One microsecond is over before the worker hears of it.
    refused("503", "deadline", lambda: client.infer("mic", inputs(http, SOUND), timeout=1))
    refused("415", "as it is", lambda: client.infer(
        "mic", inputs(http, SOUND), request_compression_algorithm="gzip"
    ))


def http_sequence_and_parameters():
    client = http_client()
    for place in range(3):
        client.infer(
            "mic", inputs(http, SOUND), sequence_id=42, sequence_start=place == 0,
            sequence_end=place == 2, priority=1, timeout=20_000_000,
            parameters={"deadline_ns": 20_000_000_000},
        )
    client.infer("mic", inputs(http, SOUND), sequence_id="cam", sequence_start=True)
    refused("400", "`deadline_ns` is 0", lambda: client.infer(
        "mic", inputs(http, SOUND), parameters={"deadline_ns": 0}
    ))


def http_repository_and_statistics():
    client = http_client()
    index = client.get_model_repository_index()
    check({"name": "mic", "version": "1", "state": "READY", "reason": ""} in index, index)
    refused("404", "no model `nope`", lambda: client.load_model("nope"))
    before = client.get_inference_statistics("mic")["model_stats"][0]
    client.infer("mic", inputs(http, SOUND))
    after = client.get_inference_statistics("mic", "1")["model_stats"][0]
    check(after["inference_count"] == before["inference_count"] + 1, after)
    check(after["inference_stats"]["compute_infer"]["ns"] > 0, after)
    check(after["last_inference"] > 1_600_000_000_000, after)
    everything = client.get_inference_statistics()["model_stats"]
    check({"mic", "glyphs"} <= {model["name"] for model in everything}, everything)


def http_in_parallel():
    client = http_client()
    waiting = [client.async_infer("mic", inputs(http, SOUND)) for _ in range(32)]
    answers = [one.get_result().as_numpy("denoised") for one in waiting]
    check(all(np.array_equal(answer, answers[0]) for answer in answers), "another's answer")


def over_unix():
    # By itself gRPC's library names the host after the socket's path, with %2F for each slash; the
    # server's HTTP/2 takes no such name.
    host = [("grpc.default_authority", "localhost")]
    return grpc.InferenceServerClient(f"unix:{grpc_socket}", channel_args=host)


def grpc_calls(client):
    check(client.is_server_live() and client.is_server_ready(), "live and ready")
    check(client.is_model_ready("mic") and client.is_model_ready("mic", "1"), "mic is ready")
    check(client.get_server_metadata().name == "downbeat-pool", "name")
    model = client.get_model_metadata("mic")
    check(list(model.inputs[0].shape) == [-1, -1] and model.platform != "", model)
    answer = client.infer("mic", inputs(grpc, SOUND), request_id="7", client_timeout=30)
    check(answer.get_response().id == "7", answer.get_response().id)
    check(answer.as_numpy("denoised").shape == (960,), "shape")
    over_http = http_client().infer("mic", inputs(http, SOUND)).as_numpy("denoised")
    check(np.array_equal(answer.as_numpy("denoised"), over_http), "both protocols agree")
    names = [model.name for model in client.get_model_repository_index().models]
    check({"mic", "glyphs", "keywords"} <= set(names), names)
    statistics = client.get_inference_statistics("mic").model_stats[0]
    check(statistics.inference_count > 0 and statistics.inference_stats.success.ns > 0, statistics)
    client.close()


def grpc_tcp():
    grpc_calls(grpc.InferenceServerClient(grpc_address))


def grpc_unix():
    grpc_calls(over_unix())


def grpc_refusals():
    client = grpc.InferenceServerClient(grpc_address)
    infer = client.infer
    refused("NOT_FOUND", "no model `nope`", lambda: infer("nope", inputs(grpc, SOUND)))
    refused("INVALID_ARGUMENT", "shape [7]", lambda: infer("mic", inputs(grpc, SOUND[:7])))
    refused("UNAVAILABLE", "deadline", lambda: infer("mic", inputs(grpc, SOUND), timeout=1))
    refused("NOT_FOUND", "no model `nope`", lambda: client.unload_model("nope"))
    large = np.zeros(20_000_000, dtype=np.float32)
    refused("", "", lambda: infer("mic", inputs(grpc, large)))
    check(client.is_server_live(), "one client's mistakes are its own")


def grpc_stream():
    client = over_unix()
    answers, all_there = [], threading.Event()

    def on_answer(result, error):
        answers.append((result, error))
        if len(answers) == 20:
            all_there.set()

    client.start_stream(callback=on_answer)
    for place in range(20):
        # The ninth is wrong; the stream goes on.
        sound = SOUND[:7] if place == 9 else SOUND
        client.async_stream_infer(
            "mic", inputs(grpc, sound), request_id=str(place), sequence_id=9,
            sequence_start=place == 0, sequence_end=place == 19,
        )
    check(all_there.wait(60), f"{len(answers)} answers")
    client.stop_stream()
    for place, (result, error) in enumerate(answers):
        if place == 9:
            check(isinstance(error, InferenceServerException) and "shape [7]" in str(error), error)
        else:
            check(error is None and result.get_response().id == str(place), (place, error))


def a_stored_model_over_all_ways():
    client, answers = http_client(), []
    for binary in [False, True]:
        tensor = http.InferInput("image", [2, 28, 28], "UINT8")
        tensor.set_data_from_numpy(PICTURES, binary_data=binary)
        wanted = [http.InferRequestedOutput("probabilities", binary_data=binary)]
        answer = client.infer("glyphs", [tensor], outputs=wanted)
        answers.append(answer.as_numpy("probabilities"))
    for calls in [grpc.InferenceServerClient(grpc_address), over_unix()]:
        answers.append(calls.infer("glyphs", pictures(grpc)).as_numpy("probabilities"))
    check(all(answer.shape == (2, 47) for answer in answers), [a.shape for a in answers])
    check(all(np.allclose(answer, answers[0], atol=1e-6) for answer in answers), "same answers")
    check(np.allclose(answers[0].sum(axis=1), 1, atol=1e-4), "probabilities")
    model = client.get_model_metadata("glyphs")
    check(model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}], model)
    check(model["platform"] == "tract_onnx" and model["versions"] == ["1"], model)


def over_rest(path, body):
    """REST by the Unix socket, for which tritonclient has no client; status and answer."""
    connection = HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(os.path.join(os.path.dirname(grpc_socket), "rest.sock"))
    connection.request("POST", path, json.dumps(body))
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text or "null")


def picture(name, size, offset=0):
    tensor = grpc.InferInput("image", [2, 28, 28], "UINT8")
    tensor.set_shared_memory(name, size, offset=offset)
    return [tensor]


def inputs_in_shared_memory():
    client, key = over_unix(), f"downbeat-test-{os.getpid()}"
    region = shm.create_shared_memory_region(key, key, 8192)
    expected = http_client().infer("glyphs", pictures(http)).as_numpy("probabilities")
    try:
        client.register_system_shared_memory(key, key, 8192)
        shm.set_shared_memory_region(region, [PICTURES], offset=64)
        size = PICTURES.nbytes
        answer = client.infer("glyphs", picture(key, size, 64)).as_numpy("probabilities")
        check(np.allclose(answer, expected, atol=1e-6), answer)
        # The same user by the other server has the same region.
        place = {"shared_memory_region": key, "shared_memory_byte_size": size,
                 "shared_memory_offset": 64}
        body = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2, 28, 28],
                            "parameters": place}]}
        status, answer = over_rest("/v2/models/glyphs/infer", body)
        check(status == 200 and np.allclose(
            np.reshape(answer["outputs"][0]["data"], (2, 47)), expected, atol=1e-6), answer)
        # A path that is written otherwise finds its way too.
        check(over_rest("/v2/models/gl%79phs/infer", body)[0] == 200, "an encoded path")
        told = client.get_system_shared_memory_status().regions
        check(told[key].byte_size == 8192 and told[key].key == key, told)
        # Whoever comes by TCP is nobody, with or without regions.
        for action in (lambda: http_client().infer("glyphs", by_http(key, size)),
                       lambda: http_client().register_system_shared_memory("x", key, 8192),
                       lambda: http_client().get_system_shared_memory_status(),
                       lambda: http_client().unregister_system_shared_memory()):
            refused("400", "come by the Unix socket", action)
        refused("INVALID_ARGUMENT", "come by the Unix socket", lambda:
                grpc.InferenceServerClient(grpc_address).infer("glyphs", picture(key, size)))
    finally:
        client.unregister_system_shared_memory()
        check(len(client.get_system_shared_memory_status().regions) == 0, "all forgotten")
        shm.destroy_shared_memory_region(region)


def by_http(name, size):
    tensor = http.InferInput("image", [2, 28, 28], "UINT8")
    tensor.set_shared_memory(name, size)
    return [tensor]


def shared_memory_refuses():
    client, key = over_unix(), f"downbeat-test-{os.getpid()}"
    region = shm.create_shared_memory_region(key, key, 4096)
    register = client.register_system_shared_memory

    def wrong(words, action):
        refused("INVALID_ARGUMENT", words, action)

    def ask(name, size=PICTURES.nbytes, offset=0):
        return client.infer("glyphs", picture(name, size, offset))

    def sound():
        tensor = grpc.InferInput("pcm", [960], "FP32")
        tensor.set_shared_memory(key, SOUND.nbytes)
        return client.infer("mic", [tensor])

    def answer_there():
        wanted = grpc.InferRequestedOutput("probabilities")
        wanted.set_shared_memory(key, 376)
        return client.infer("glyphs", pictures(grpc), outputs=[wanted])

    try:
        wrong("no such file", lambda: register(key, "downbeat-test-nothing", 10))
        wrong("no key of shared memory", lambda: register(key, "../../etc/passwd", 10))
        wrong("it has 4096 bytes", lambda: register(key, key, 4097))
        wrong("no shared memory region", lambda: ask(key))
        register(key, key, 4096)
        wrong("registered already", lambda: register(key, key, 4096))
        wrong("no part of it", lambda: ask(key, offset=4000))
        wrong("has 100 bytes; UINT8 with shape [2, 28, 28] has 1568", lambda: ask(key, 100))
        wrong("model `mic` does not read inputs from shared memory", sound)
        wrong("outputs come with the answer", answer_there)
        status, answer = over_rest(f"/v2/systemsharedmemory/region/{key}/register", {"key": key})
        check(status == 400 and "byte_size" in answer["error"], answer)
        status, answer = over_rest("/v2/systemsharedmemory/region/x/register", {"key": "x" * 5000})
        check(status == 413 and "4096" in answer["error"], answer)
        long = "x" * 100_000
        wrong("no key of shared memory", lambda: register("x", long, 1))
        client.infer("glyphs", pictures(grpc))
        # It becomes shorter after it was registered: this request's error, and nobody else's.
        os.truncate(f"/dev/shm/{key}", 100)
        wrong("has 100 bytes; UINT8 with shape [2, 28, 28] has 1568", lambda: ask(key))
        client.infer("glyphs", pictures(grpc))
        os.unlink(f"/dev/shm/{key}")
        wrong("was removed", lambda: ask(key))
    finally:
        client.unregister_system_shared_memory(key)
        try:
            shm.destroy_shared_memory_region(region)
        except FileNotFoundError:
            pass  # It is gone already.


def a_stored_model_refuses():
    narrow = PICTURES[:, :, :27].copy()
    floats = PICTURES.astype(np.float32)
    infer = http_client().infer
    refused("400", "[2, 28, 27]", lambda: infer("glyphs", pictures(http, narrow)))
    refused("400", "datatype FP32", lambda: infer("glyphs", pictures(http, floats, "FP32")))
    refused("404", "no version `7`", lambda: infer("glyphs", pictures(http), "7"))
    refused("400", "no input `pcm`", lambda: infer("glyphs", inputs(http, SOUND)))
    refused("503", "deadline", lambda: infer("glyphs", pictures(http), timeout=1))
    infer = grpc.InferenceServerClient(grpc_address).infer
    refused("INVALID_ARGUMENT", "[2, 28, 27]", lambda: infer("glyphs", pictures(grpc, narrow)))
    refused(
        "INVALID_ARGUMENT", "datatype FP32", lambda: infer("glyphs", pictures(grpc, floats, "FP32"))
    )


def a_sequence_has_a_beginning():
    infer = http_client().infer
    for place in range(3):
        infer(
            "glyphs", pictures(http), sequence_id=7, sequence_start=place == 0,
            sequence_end=place == 2,
        )
    late = lambda: infer("glyphs", pictures(http), sequence_id=7)
    refused("400", "no open sequence `7`", late)


def models_are_loaded_and_unloaded():
    client = http_client()
    check(not client.is_model_ready("intent"), "nobody asked for it yet")
    client.load_model("intent")
    check(client.is_model_ready("intent"), "it is ready when the call returns")
    text = np.zeros((1, 64), dtype=np.uint8)
    tensor = http.InferInput("text", [1, 64], "UINT8")
    tensor.set_data_from_numpy(text)
    check(client.infer("intent", [tensor]).as_numpy("probabilities").shape == (1, 13), "shape")
    client.unload_model("intent")
    until = time.monotonic() + 60
    while client.is_model_ready("intent"):
        check(time.monotonic() < until, "it is still ready")
        time.sleep(0.05)
    index = {model["name"]: model["state"] for model in client.get_model_repository_index()}
    check(index["glyphs"] == "READY" and index["intent"] == "UNAVAILABLE", index)
    before = client.get_inference_statistics("glyphs")["model_stats"][0]
    client.infer("glyphs", pictures(http))
    after = client.get_inference_statistics("glyphs")["model_stats"][0]
    check(after["inference_count"] == before["inference_count"] + 1, after)


main(
    a_stored_model_over_all_ways,
    a_stored_model_refuses,
    inputs_in_shared_memory,
    shared_memory_refuses,
    a_sequence_has_a_beginning,
    models_are_loaded_and_unloaded,
    http_health_and_metadata,
    http_json_and_binary_agree,
    http_refusals,
    http_sequence_and_parameters,
    http_repository_and_statistics,
    http_in_parallel,
    grpc_tcp,
    grpc_unix,
    grpc_refusals,
    grpc_stream,
)
