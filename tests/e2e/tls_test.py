"""HTTPS: by curl, openssl s_client and Python's own TLS; a new certificate by SIGHUP."""

import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import unittest
from pathlib import Path

from harness import (LAB, Case, Connection, Neighbour, Server, main, run_command, temporary_folder, wait_until)

CURL = shutil.which("curl")
OPENSSL = shutil.which("openssl")


class Folder:
    """A manifest with a certificate of its own beside it."""

    def __init__(self, more=""):
        self.path = Path(temporary_folder())
        self.new_certificate("first")
        (self.path / "mik.toml").write_text('[server]\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n' + more)

    def new_certificate(self, name, key="key.pem"):
        subprocess.run([OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key,
                        "-out", "cert.pem"], cwd=self.path, check=True, capture_output=True, timeout=30)

    @property
    def file(self):
        return self.path / "mik.toml"

    def context(self, version=None):
        context = ssl.create_default_context(cafile=str(self.path / "cert.pem"))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    def serve(self, workers=1):
        return Server(LAB, "--config", self.file, workers=workers, tls=self.context())


def wrapped(server, context, **more):
    raw = socket.create_connection(server.address, 15)
    return context.wrap_socket(raw, server_hostname="localhost", **more)


def ask(client, fields=b""):
    """One GET on an open connection: all of the answer, which ends with the guest's text."""
    client.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
    data = b""
    while b"Hello, World!" not in data:
        piece = client.recv(65536)
        if not piece:
            raise AssertionError(f"ended after {data!r}")
        data += piece
    return data


@unittest.skipUnless(CURL and OPENSSL, "curl and openssl are not installed")
class TlsTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.folder = Folder("header_timeout_secs = 1\nmax_body_size_mb = 20\n")
        cls.server = cls.folder.serve()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def curl(self, target, *options):
        done = subprocess.run([CURL, "-sS", "--cacert", str(self.folder.path / "cert.pem"), *options,
                               f"https://localhost:{self.server.port}{target}", "--resolve",
                               f"localhost:{self.server.port}:127.0.0.1"], capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_versions_of_http_and_tls(self):
        for protocol, version in (("--http1.1", b"1.1"), ("--http2", b"2")):
            for tls in (["--tls-max", "1.2"], ["--tlsv1.3"]):
                with self.subTest(protocol=protocol, tls=tls):
                    self.assertEqual(self.curl("/hello", protocol, *tls, "-w", "|%{http_version}"), b"Hello, World!|" + version)
        self.assertEqual(self.curl("/hello", "--http1.1", "--no-alpn"), b"Hello, World!")

    def test_the_guest_sees_https(self):
        for protocol in ("--http1.1", "--http2"):
            self.assertIn("scheme: https\n", self.curl("/request", protocol).decode(), protocol)

    def test_large_bodies_both_ways(self):
        body = os.urandom(9 << 20)
        path = self.folder.path / "body"
        path.write_bytes(body)
        for protocol in ("--http1.1", "--http2"):
            for more in ([], ["-H", "Transfer-Encoding: chunked"] if protocol == "--http1.1" else []):
                answer = self.curl("/echo", protocol, "--data-binary", f"@{path}", "-H", "Content-Type: application/octet-stream",
                                   *more)
                self.assertEqual(hashlib.md5(answer).digest(), hashlib.md5(body).digest(), (protocol, more))

    def test_renegotiation_is_refused(self):
        client = subprocess.Popen([OPENSSL, "s_client", "-connect", f"127.0.0.1:{self.server.port}", "-tls1_2",
                                   "-servername", "localhost"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
        output, _ = client.communicate(b"R\n", timeout=30)
        self.assertIn(b"no renegotiation", output)

    def test_slow_handshakes_end_and_hold_up_nobody(self):
        failures = self.server.metric("mik_tls_handshake_failures_total")
        with Neighbour(self.server):
            silent = [socket.create_connection(self.server.address, 15) for _ in range(20)]
            for client in silent[::2]:
                client.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the beginning of a ClientHello
            for client in silent:
                self.assertEqual(client.recv(1000), b"")
                client.close()
        # Of those that had begun one.
        wait_until(lambda: self.server.metric("mik_tls_handshake_failures_total") >= failures + 10, what="the failures")
        # A line that comes behind them shows that they have none.
        after = self.server.get("/hello").one("x-request-id")
        self.server.wait_log("Request completed", request_id=after)
        self.assertEqual(self.server.find_log("TLS handshake failed"), [])

    def test_plain_http_is_told(self):
        with Connection(self.server.address) as connection:
            answer = connection.ask("GET", "/hello")
        self.assertEqual(answer.status, 400)
        self.assertIn("https://", json.loads(answer.body)["detail"])
        with Connection(self.server.address) as connection:
            connection.send(b"\x00\x01\x02 no protocol at all\r\n\r\n")
            connection.rest()

    def test_a_cut_response_ends_without_close_notify(self):
        context = self.folder.context()
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python's own default before 3.11.4, Debian 12's
        with wrapped(self.server, context, suppress_ragged_eofs=False) as client:
            ask(client, b"Connection: close\r\n")
            self.assertEqual(client.recv(1000), b"")  # in order
        with wrapped(self.server, context, suppress_ragged_eofs=False) as client:
            client.sendall(b"GET /trap-after-head HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with self.assertRaisesRegex(ssl.SSLError, "(?i)eof"):
                while client.recv(65536):
                    pass


@unittest.skipUnless(OPENSSL, "openssl is not installed")
class FamilyTest(Case):
    def test_a_session_is_resumed_by_every_worker(self):
        folder = Folder()
        with folder.serve(workers=2) as server:
            context = folder.context(ssl.TLSVersion.TLSv1_2)
            with wrapped(server, context) as first:
                ask(first)
                session = first.session
            kept = []
            for _ in range(8):  # open at once, so that both workers have some
                kept.append(wrapped(server, context, session=session))
                ask(kept[-1])
            self.assertTrue(all(client.session_reused for client in kept))
            for client in kept:
                client.close()

    def test_a_unix_socket_stays_plain(self):
        folder = Folder()
        path = folder.path / "http.sock"
        with folder.file.open("a") as manifest:
            manifest.write(f'modules = "{LAB}"\nbind = ["127.0.0.1:0", "unix:{path}"]\n')
        with Server(None, "--config", folder.file, workers=1, port=None, tls=folder.context()) as server:
            self.assertEqual(server.get("/hello").text(), "Hello, World!")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.settimeout(15)
                ask(client)

    def test_sighup_brings_a_new_certificate(self):
        folder = Folder()
        old = folder.context()
        with folder.serve() as server, wrapped(server, old) as kept:
            ask(kept)
            folder.new_certificate("second")
            server.tls = folder.context()
            server.signal(signal.SIGHUP)
            server.wait_log("The new configuration serves")
            with wrapped(server, folder.context()) as client:
                self.assertIn((("commonName", "second"),), client.getpeercert()["subject"])
                ask(client)
            # What does not belong together changes nothing, and is said.
            folder.new_certificate("third", key="other.pem")
            server.signal(signal.SIGHUP)
            server.wait_log("The configuration was not changed")
            self.assertIn("is not the key of the certificate", json.dumps(server.find_log("server.tls_key")))
            with wrapped(server, server.tls) as client:
                self.assertIn((("commonName", "second"),), client.getpeercert()["subject"])
            wait_until(lambda: server.metric("mik_config_last_reload_successful") == 0, what="a failed reload in /metrics")

    def test_config_check_says_what_is_wrong(self):
        folder = Folder(f'modules = "{LAB}"\n')
        done = run_command("config", "check", folder.file)
        self.assertEqual(done.returncode, 0, done.stderr)
        folder.new_certificate("other", key="other.pem")
        done = run_command("config", "check", folder.file)
        self.assertEqual(done.returncode, 1)
        self.assertIn("mik.toml:3", done.stderr)
        self.assertIn("is not the key of the certificate", done.stderr)


if __name__ == "__main__":
    main()
