"""What no client library sends: broken, slow and half-closed connections.

usage: sockets.py REST_ADDRESS REST_SOCKET
"""

import json
import socket
import sys

from checks import check, main

address, path = sys.argv[1:3]
host, port = address.rsplit(":", 1)
PATIENCE = 60


def connect(unix=False):
    if unix:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(PATIENCE)
        peer.connect(path)
        return peer
    return socket.create_connection((host, int(port)), PATIENCE)


def request(body, headers="", length=None, line="POST /v2/models/mic/infer"):
    length = len(body) if length is None else length
    head = f"{line} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n"
    return head.encode() + body


def answer(peer):
    """Status, headers and body of the next answer; a status of 0 where the connection ended."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(65536)
        if not more:
            return 0, {}, b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines[1:])}
    while len(body) < int(headers.get("content-length", 0)):
        body += peer.recv(65536)
    return int(lines[0].split()[1]), headers, body


def sound(**more):
    tensor = {"name": "pcm", "datatype": "FP32", "shape": [480], "data": [0.1] * 480}
    return json.dumps({"inputs": [tensor | more]}).encode()


def one_connection_many_requests():
    for unix in [False, True]:
        peer = connect(unix)
        for _ in range(3):
            peer.sendall(request(sound()))
            status, _, body = answer(peer)
            check(status == 200 and b"denoised" in body, body)
            # A wrong request is no reason to end a connection.
            peer.sendall(request(b"{"))
            status, _, body = answer(peer)
            check(status == 400 and "error" in json.loads(body), body)


def refused(status, words, raw):
    peer = connect()
    peer.sendall(raw)
    is_status, _, body = answer(peer)
    check(is_status == status, f"{is_status}: {body}")
    check(words in json.loads(body)["error"], body)


def bodies_that_are_wrong():
    header = "Inference-Header-Content-Length: {}\r\n"
    for status, words, raw in [
        (400, "has 4 bytes", request(sound(data=[1]))),
        (400, "shape [-480]", request(sound(shape=[-480]))),
        (400, "product", request(sound(shape=[2**63 - 1, 2**62]))),
        (400, "not an inference request", request(sound(shape=[2**64]))),
        (400, "none of BOOL", request(sound(datatype="FLOAT"))),
        (400, "travel as binary", request(sound(data=[None] * 480))),
        (400, "no FP32", request(sound(data=[1e39] * 480))),
        (400, "row of", request(sound(data=[[0] * 479, [0]]))),
        (400, "deeper than", request(b'{"inputs":[{"datatype":"FP32","data":' + b"[" * 100_000)),
        (400, "not an inference request", request(b"\xff\xfe")),
        (400, "not an inference request", request(b"")),
        (400, "the body has 2 bytes", request(b"{}", header.format(9))),
        (400, "bytes of the JSON", request(b"{}", header.format(-1))),
        (400, "bytes of the JSON", request(b"{}", header.format("9" * 30))),
        (413, "bytes", request(b"", length=2**40)),
        (413, "JSON", request(b" " * (17 << 20))),
        (404, "no model `nope`", request(sound(), line="POST /v2/models/nope/infer")),
        (404, "start at /v2", request(b"", line="GET /v3")),
        (405, "does not take DELETE", request(b"", line="DELETE /v2/models/mic")),
    ]:
        refused(status, words, raw)


def endless_chunks_are_cut():
    peer = connect()
    peer.sendall(
        b"POST /v2/models/mic/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    try:
        for _ in range(80):
            peer.sendall(chunk)
    except (BrokenPipeError, ConnectionResetError):
        # The answer may be lost with the connection; that it ended is what matters.
        return
    status, _, body = answer(peer)
    check(status == 413, body)


def heads_that_are_wrong():
    for raw in [b"\x16\x03\x01\x02\x00\n\n", b"GET\r\n\r\n", b"GET /v2 HTTP/1.1\r\nx\r\n\r\n",
                b"GET /v2 HTTP/1.1\r\n" + b"x: " + b"y" * (1 << 20) + b"\r\n\r\n"]:
        peer = connect()
        try:
            peer.sendall(raw)
            status, _, _ = answer(peer)
        except (BrokenPipeError, ConnectionResetError):
            continue
        check(status in (0, 400, 414, 431), status)


def a_slow_client_holds_up_nobody():
    slow = [connect() for _ in range(50)]
    body = sound()
    for peer in slow:
        peer.sendall(request(body)[:-100])
    quick = connect()
    quick.sendall(request(body))
    check(answer(quick)[0] == 200, "the quick one waits for the slow ones")
    # Within its patience, a slow one is answered as any other.
    slow[0].sendall(request(body)[-100:])
    status, _, said = answer(slow[0])
    check(status == 200, said)
    # One that stops for good is told so.
    status, _, said = answer(slow[1])
    check(status == 408 and b"too slowly" in said, said)


def a_truncated_body_ends_its_own_connection():
    peer = connect()
    peer.sendall(request(sound())[:-100])
    peer.shutdown(socket.SHUT_WR)
    status, _, body = answer(peer)
    check(status in (0, 400), body)
    # Whoever closes their sending side behind a whole request is taken to have left.
    peer = connect()
    peer.sendall(request(sound()))
    peer.shutdown(socket.SHUT_WR)
    check(answer(peer)[0] in (0, 200), "neither answered nor ended")
    after = connect()
    after.sendall(request(sound()))
    check(answer(after)[0] == 200, "the next client")


def clients_that_leave_are_counted():
    def statistics():
        peer = connect()
        peer.sendall(request(b"", line="GET /v2/models/mic/stats"))
        return json.loads(answer(peer)[2])["model_stats"][0]["inference_stats"]

    long = json.dumps({"inputs": [
        {"name": "pcm", "datatype": "INT16", "shape": [48_000], "data": [9] * 48_000}
    ]}).encode()
    for _ in range(8):
        peer = connect()
        peer.sendall(request(long))
        peer.close()
    peer = connect()
    peer.sendall(request(sound()))
    check(answer(peer)[0] == 200, "after those that left")
    check(statistics()["success"]["count"] > 0, statistics())


main(
    one_connection_many_requests,
    bodies_that_are_wrong,
    endless_chunks_are_cut,
    heads_that_are_wrong,
    a_slow_client_holds_up_nobody,
    a_truncated_body_ends_its_own_connection,
    clients_that_leave_are_counted,
)
