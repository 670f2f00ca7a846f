"""HTTP/2 with prior knowledge, by nghttp, h2load and frames written by hand."""

import hashlib
import os
import shutil
import socket
import struct
import subprocess
import unittest

from harness import LAB, Case, Neighbour, Server, main, temporary_folder, wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS, RST_STREAM, GOAWAY, PING = 4, 1, 3, 7, 6


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """HPACK: a literal without indexing (RFC 7541 6.2.2), no Huffman code."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Http2:
    """Just enough of a client to reset a stream."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, 10)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def get(self, stream, path):
        block = (literal(b":method", b"GET") + literal(b":scheme", b"http") + literal(b":path", path)
                 + literal(b":authority", b"mik.test"))
        self.socket.sendall(frame(HEADERS, 5, stream, block))

    def reset(self, stream):
        self.socket.sendall(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))

    def next_frame(self):
        """(kind, flags, stream, payload), or None at the end."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            data = self.socket.recv(65536)
            if not data:
                return None
            self.buffer += data
        size = int.from_bytes(self.buffer[:3], "big")
        head, payload = self.buffer[:9], self.buffer[9:9 + size]
        self.buffer = self.buffer[9 + size:]
        return head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7fffffff, payload

    def until(self, kind, stream=None):
        while (got := self.next_frame()) is not None:
            if got[0] == kind and stream in (None, got[2]):
                return got
        raise AssertionError(f"the connection ended before a frame of kind {kind}")


def speaks_http2(server):
    with socket.create_connection(server.address, 10) as client:
        client.sendall(PREFACE + frame(SETTINGS, 0, 0))
        data = client.recv(9)
        return len(data) == 9 and data[3] == SETTINGS


@unittest.skipUnless(shutil.which("nghttp") and shutil.which("h2load"), "nghttp and h2load are not installed")
class Http2Test(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(LAB, workers=1)
        if not speaks_http2(cls.server):
            cls.server.stop()
            raise unittest.SkipTest("this server speaks no HTTP/2 yet")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def nghttp(self, target, *options, seconds=30):
        done = subprocess.run(["nghttp", *options, f"http://127.0.0.1:{self.server.port}{target}"], capture_output=True,
                              timeout=seconds)
        self.assertEqual(done.returncode, 0, done)
        return done.stdout

    def test_get(self):
        self.assertEqual(self.nghttp("/hello"), b"Hello, World!")
        text = self.nghttp("/request?a=%20//..").decode()
        self.assertIn("path-with-query: /request?a=%20//..\n", text)
        self.assertIn(f"authority: 127.0.0.1:{self.server.port}\n", text)
        self.assertIn(b'"status": "ready"', self.nghttp("/health"))

    def test_response_fields(self):
        text = self.nghttp("/hello", "-v").decode(errors="replace")
        for name in ("x-request-id", "traceparent", "x-mik-handler", "date"):
            self.assertIn(name, text)
        self.assertNotIn("transfer-encoding", text)
        self.assertIn(":status: 502", self.nghttp("/trap", "-v").decode(errors="replace"))

    def test_post_echo(self):
        path = os.path.join(temporary_folder(), "body")
        body = os.urandom(3 << 20)
        with open(path, "wb") as file:
            file.write(body)
        for options in (["-d", path], ["-d", path, "--no-content-length"]):
            answer = self.nghttp("/echo", *options)
            self.assertEqual(hashlib.md5(answer).digest(), hashlib.md5(body).digest(), options)

    def test_trailers(self):
        text = self.nghttp("/trailers", "-v", "-H", "te: trailers").decode(errors="replace")
        self.assertIn("x-checksum: 1234", text)
        path = os.path.join(temporary_folder(), "body")
        with open(path, "wb") as file:
            file.write(b"abc")
        text = self.nghttp("/echo", "-v", "-d", path, "--trailer", "x-sum: 9", "-H", "te: trailers").decode(errors="replace")
        self.assertIn("x-sum: 9", text.partition("recv (stream_id")[2])

    def test_field_12_cookies_are_joined(self):
        self.assertEqual(self.nghttp("/cookies", "-H", "cookie: a=1", "-H", "cookie: b=2", "-H", "cookie: c=3"),
                         b"a=1; b=2; c=3\n")

    def test_other_repeated_fields_stay_apart(self):
        text = self.nghttp("/headers", "-H", "x-a: 1", "-H", "x-a: 2").decode()
        self.assertEqual([line for line in text.splitlines() if line.startswith("x-a: ")], ["x-a: 31", "x-a: 32"])

    def test_load(self):
        with Neighbour(self.server):
            done = subprocess.run(["h2load", "-n", "2000", "-c", "4", "-m", "10", f"http://127.0.0.1:{self.server.port}/hello"],
                                  capture_output=True, text=True, timeout=60)
        self.assertIn("2000 succeeded, 0 failed, 0 errored", done.stdout)

    def test_a_reset_cancels_the_guest(self):
        with Http2(self.server.address) as client:
            for i, path in enumerate((b"/spin", b"/sleep?ms=60000", b"/stream?n=100000&ms=20", b"/busy")):
                client.get(2 * i + 1, path)
                wait_until(lambda: self.server.metric("mik_active_requests") >= 1, 5)
                client.reset(2 * i + 1)
                self.server.wait_idle(5)
            client.get(101, b"/hello")
            client.until(HEADERS, 101)  # the connection lives on

    def test_a_connection_that_goes_cancels_all(self):
        with Http2(self.server.address) as client:
            for i in range(20):
                client.get(2 * i + 1, b"/sleep?ms=60000")
            wait_until(lambda: self.server.metric("mik_active_requests") == 20, 5)
        self.server.wait_idle(5)

    def test_a_trap_after_the_head_resets_the_stream_alone(self):
        with Http2(self.server.address) as client:
            client.get(1, b"/trap-after-head")
            client.until(RST_STREAM, 1)
            client.get(3, b"/hello")
            client.until(HEADERS, 3)

    def test_rapid_resets_are_bounded(self):
        """CVE-2023-44487: thousands of streams, each reset at once. The neighbour is answered, and nothing is left."""
        with Neighbour(self.server), Http2(self.server.address) as client:
            try:
                for i in range(3000):
                    client.get(2 * i + 1, b"/sleep?ms=1000")
                    client.reset(2 * i + 1)
            except OSError:
                pass  # being thrown out is as good
        self.server.wait_idle(5)

    def test_goaway_and_exit_0_while_draining(self):
        with Server(LAB, workers=1) as server, Http2(server.address) as client:
            client.get(1, b"/sleep?ms=700")
            wait_until(lambda: server.metric("mik_active_requests") == 1, 5)
            server.signal()
            client.until(GOAWAY)
            kind, _, _, _ = client.until(HEADERS, 1)
            self.assertEqual(kind, HEADERS)
            self.assertEqual(server.wait_exit(), 0)


if __name__ == "__main__":
    main()
