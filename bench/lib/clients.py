"""Clients of the soak: good ones, whose every response must be right, and hostile ones, who must neither hang nor
harm. Each is a thread with a loop; all randomness comes from one seed."""

import contextlib
import hashlib
import random
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter

from tools import ROOT

sys.path.insert(0, str(ROOT / "tests/e2e"))
from http1 import Connection, Cut, chunk, encode  # noqa: E402  # pylint: disable=wrong-import-position

PATIENCE = 30.0  # longer than any deadline of the server under test


class Record:
    """What all clients saw. Thread-safe."""

    def __init__(self):
        self.end = threading.Event()
        self._lock = threading.Lock()
        self.good = Counter()
        self.hostile = Counter()
        self.lost = []

    def count(self, counter, key, number=1):
        with self._lock:
            counter[key] += number

    def lose(self, what, problem):
        with self._lock:
            self.lost.append((time.strftime("%H:%M:%S"), f"{what}: {problem}"[:400]))


class Client(threading.Thread):
    """Runs step() until the end. What escapes from a good client's step is a lost response; of a hostile one's only
    what shows a server that hangs (a time-out) or breaks the protocol."""

    good = True

    def __init__(self, record, address, seed):
        super().__init__(daemon=True, name=f"{type(self).__name__}-{seed}")
        self.record = record
        self.address = address
        self.random = random.Random(seed)
        self.connection = None

    def run(self):
        while not self.record.end.is_set():
            try:
                self.step()
            except TimeoutError as problem:
                self._lost(f"no answer in {PATIENCE:.0f} s: {problem}")
            except (Cut, OSError) as problem:
                if self.good:
                    self._lost(repr(problem))
                else:
                    self.record.count(self.record.hostile, f"{type(self).__name__}: cut")
                    self.close()
            except AssertionError as problem:
                self._lost(str(problem))
        self.close()

    def _lost(self, problem):
        self.close()
        self.record.lose(type(self).__name__, problem)
        self.record.end.wait(0.2)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def connected(self):
        if self.connection is None:
            self.connection = Connection(self.address, patience=PATIENCE)
        return self.connection

    def finished(self, what, response):
        self.record.count(self.record.good, f"{type(self).__name__}: {what}")
        if not response.keeps_alive():
            self.close()

    def step(self):
        raise NotImplementedError


def expect(condition, text):
    if not condition:
        raise AssertionError(text)


class Asker(Client):
    """Ordinary requests, most of them on a connection that is kept."""

    def step(self):
        name = self.random.choice(["hello", "hello", "echo", "echo_chunked", "count", "stream", "big", "sleep", "cpu",
                                   "trailers", "head"])
        method, target, body, fields, more = "GET", f"/{name}", None, (), {}
        if name in ("echo", "echo_chunked"):
            method, target = "POST", "/echo"
            body = self.random.randbytes(self.random.choice([0, 1, 100, 5000, 65536, 300000]))
            more = {"chunked": True} if name == "echo_chunked" else {}
        elif name == "trailers":
            fields = [("TE", "trailers")]
        elif name == "stream":
            target = "/stream?n=5&ms=2"
        elif name == "big":
            target = "/big?mb=1" + self.random.choice(["", "&length=1"])
        elif name in ("sleep", "cpu"):
            target = f"/{name}?ms={self.random.choice([1, 5, 20])}"
        elif name == "head":
            method, target = "HEAD", "/hello"
        response = self.connected().ask(method, target, fields, body, **more)
        expect(response.status == 200, f"{target}: {response}")
        expected = {"echo": body, "echo_chunked": body, "hello": b"Hello, World!\n", "head": b""}
        if name in expected:
            # The greeting is the component's; its end of line is not what is tested here.
            expect(response.body.rstrip(b"\n") == expected[name].rstrip(b"\n") if name == "hello"
                   else response.body == expected[name], f"{target}: {len(response.body)} bytes, not what was expected")
        if name == "count":
            expect(response.body.strip() == b"1", f"/count: {response.body!r}: an instance was used twice")
        if name == "stream":
            expect(response.body.count(b"chunk ") == 5, f"/stream: {response.body!r}")
        if name == "big":
            expect(len(response.body) == 1 << 20, f"/big: {len(response.body)} bytes")
        if name == "trailers":
            expect(response.trailers, "/trailers: none came")
        self.finished(name, response)
        if self.random.random() < 0.05:
            self.close()


class Pipeliner(Client):
    """Several requests in one segment; their answers must come in order."""

    def step(self):
        connection = self.connected()
        bodies = [self.random.randbytes(self.random.choice([0, 10, 3000])) for _ in range(8)]
        connection.send(b"".join(encode("POST", "/echo", (), body) for body in bodies))
        for body in bodies:
            response = connection.response("POST")
            expect(response.status == 200 and response.body == body, f"pipelined: {response}")
            expect(response.keeps_alive(), "a connection was closed inside a pipeline")
        self.finished("eight requests", response)


class BigEcho(Client):
    """A body of many MiB there and back at once, compared by hash."""

    def step(self):
        size = self.random.choice([1, 8]) << 20
        block = self.random.randbytes(1 << 16)
        connection = self.connected()
        connection.send(f"POST /echo HTTP/1.1\r\nHost: soak\r\nContent-Length: {size}\r\n\r\n".encode())
        sent, problem, came = hashlib.sha256(), [], hashlib.sha256()

        def write():
            try:
                for _ in range(size // len(block)):
                    sent.update(block)
                    view = memoryview(block)
                    while view:
                        ready = select.select([], [connection.socket], [], PATIENCE)[1]
                        expect(ready, "the server stopped reading")
                        view = view[connection.socket.send(view, socket.MSG_DONTWAIT):]
            except (OSError, AssertionError) as error:
                problem.append(error)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            response = connection.response("POST", on_body=came.update, patience=4 * PATIENCE)
        finally:
            writer.join(PATIENCE)
        expect(not problem, f"big echo: {problem}")
        expect(response.status == 200 and came.digest() == sent.digest(), f"big echo: {response}")
        self.finished(f"{size >> 20} MiB", response)


class SlowButGood(Client):
    """Sends its head in small pieces, or reads a large answer slowly: slow, and to be served."""

    def step(self):
        if self.random.random() < 0.5:
            connection = self.connected()
            data = encode("GET", "/hello")
            for start in range(0, len(data), 4):
                connection.send(data[start:start + 4])
                self.record.end.wait(0.02)
            response = connection.response()
            expect(response.status == 200, f"slow head: {response}")
        else:
            self.close()
            self.connection = connection = Connection(self.address, patience=PATIENCE, receive_buffer=65536)
            connection.send(encode("GET", "/big?mb=4"))
            count = [0]

            def take(data):
                count[0] += len(data)
                time.sleep(0.005)
            response = connection.response(on_body=take, patience=4 * PATIENCE)
            expect(response.status == 200 and count[0] == 4 << 20, f"slow reader: {count[0]} bytes, {response}")
            self.close()
        self.finished("slow", response)


class Vanisher(Client):
    """Goes away at any moment, with or without a reset."""

    good = False

    def step(self):
        connection = Connection(self.address, patience=PATIENCE)
        try:
            connection.send(self.random.choice([
                b"GET /hel", encode("GET", "/sleep?ms=200"), encode("GET", "/big?mb=16"),
                encode("GET", "/stream?n=100&ms=10"), encode("GET", "/spin"), encode("GET", "/linger?ms=300"),
                b"POST /echo HTTP/1.1\r\nHost: soak\r\nContent-Length: 1000000\r\n\r\n" + bytes(5000),
                b"POST /echo HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(bytes(70000)),
            ]))
            self.record.end.wait(self.random.choice([0, 0.001, 0.01, 0.05]))
            if self.random.random() < 0.5:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            connection.close()
        self.record.count(self.record.hostile, "Vanisher: gone")
        self.record.end.wait(0.01)


class HostileGuest(Client):
    """Guests that do what they should not. Each request must end: by an answer or a cut."""

    good = False
    modes = ["/trap", "/trap-after-head", "/hog?mb=200", "/hog?mb=500&soft=1", "/tables", "/resources", "/polls",
             "/recurse", "/no-response", "/no-response?drop=1", "/error-code?code=38", "/leak-body", "/drop-body",
             "/short", "/long", "/flood?mb=1", "/exit", "/exit?ok=1", "/body-first?kb=1", "/no-read", "/spin", "/busy",
             "/spin?head=1", "/linger?ms=500", "/big-write?kb=64"]

    def step(self):
        mode = self.random.choice(self.modes)
        try:
            connection = self.connected()
            connection.send(encode("GET", mode))
            # After the head a guest has its CPU budget (5 s), of which it may use a third of a busy core with others.
            response = connection.response(patience=(4 if mode == "/spin?head=1" else 1) * PATIENCE)
        except Cut as cut:
            self.record.count(self.record.hostile, f"{mode}: {'cut' if cut.response else 'no answer'}")
            self.close()
        except TimeoutError as problem:
            raise TimeoutError(f"{mode}: {problem}") from problem
        else:
            self.record.count(self.record.hostile, f"{mode}: {response.status}")
            if not response.keeps_alive():
                self.close()
        self.record.end.wait(0.02)


class Malformed(Client):
    """Bytes that are no request. The server says 4xx or 5xx, or closes."""

    good = False

    def step(self):
        nonsense = self.random.choice([
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"GET  /  HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
            self.random.randbytes(200) + b"\r\n\r\n",
        ])
        connection = Connection(self.address, patience=PATIENCE)
        try:
            connection.send(nonsense)
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_WR)
            answer = connection.rest(PATIENCE)
            expect(not answer.startswith(b"HTTP/1.1 2"), f"{nonsense[:60]!r} was answered {answer[:60]!r}")
            self.record.count(self.record.hostile, f"malformed: {answer[9:12].decode('latin-1') or 'closed'}")
        finally:
            connection.close()
        self.record.end.wait(0.01)


class Slowloris(Client):
    """Holds connections with heads that never end, or idle ones, until the server closes them or a while has gone."""

    good = False

    def step(self):
        held = []
        try:
            for _ in range(20):
                connection = Connection(self.address, patience=PATIENCE)
                held.append(connection)
                connection.send(b"GET /hello HTTP/1.1\r\nHost: so")
            for _ in range(self.random.choice([5, 20, 100])):
                for connection in held:
                    with contextlib.suppress(OSError):
                        connection.socket.send(b"a", socket.MSG_DONTWAIT)
                if self.record.end.wait(0.2):
                    break
        finally:
            for connection in held:
                connection.close()
        self.record.count(self.record.hostile, "Slowloris: connections", len(held))


CAST = [(Asker, 4), (Pipeliner, 1), (BigEcho, 1), (SlowButGood, 2), (Vanisher, 2), (HostileGuest, 3), (Malformed, 1),
        (Slowloris, 1)]
