"""Behind a real nginx with the guide's configuration (g9, g14), its misprints mended: TLS and HTTP/2 to the client,
`keepalive 32` to us."""

import hashlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
import unittest
from pathlib import Path

from harness import (LAB, Case, Connection, Cut, Load, Server, encode, free_port, known_bug, main, rss_mib, temporary_folder,
                     wait_until)

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")

CONFIGURATION = """
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 512; }}
http {{
    access_log access.log;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    client_max_body_size 100m;

    limit_req_zone $binary_remote_addr zone=api:10m rate={rate};

    upstream mik {{
        {balance}
        {servers}
        keepalive 32;
    }}

    server {{
        listen 127.0.0.1:{port} ssl http2;
        server_name localhost;

        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;

        # Security headers
        add_header X-Frame-Options "DENY" always;
        add_header X-Content-Type-Options "nosniff" always;
        add_header X-XSS-Protection "1; mode=block" always;

        location / {{
            # Rate limiting
            limit_req zone=api burst={burst} nodelay;

            proxy_pass http://mik;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;

            # Timeouts
            proxy_connect_timeout 5s;
            proxy_read_timeout 60s;
            proxy_send_timeout 60s;
            {more}
        }}

        # Health check endpoint (no rate limiting)
        location /health {{
            proxy_pass http://mik;
        }}
    }}
}}
"""


class Nginx:
    def __init__(self, *ports, rate="100000r/s", burst=20, balance="", more="", fails=""):
        self.folder = Path(temporary_folder())
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                        "-keyout", "key.pem", "-out", "cert.pem"], cwd=self.folder, check=True, capture_output=True, timeout=30)
        self.tls = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
        for _ in range(5):
            self.port = free_port()
            (self.folder / "nginx.conf").write_text(CONFIGURATION.format(
                user="user root;" if os.geteuid() == 0 else "", rate=rate, burst=burst, balance=balance, port=self.port, more=more,
                servers=" ".join(f"server 127.0.0.1:{port}{fails};" for port in ports)))
            self.process = subprocess.Popen([NGINX, "-p", str(self.folder), "-c", "nginx.conf", "-e", "error.log",
                                             "-g", "daemon off;"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                            stderr=subprocess.PIPE, start_new_session=True)
            self.address = ("127.0.0.1", self.port)
            if self._answers():
                return
        raise AssertionError(f"nginx does not start: {self.process.stderr.read()} {self.errors()}")

    def _answers(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                Connection(self.address, tls=self.tls).close()
                return True
            except OSError:
                time.sleep(0.01)
        return False

    def errors(self):
        return (self.folder / "error.log").read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate(timeout=10)

    def connect(self, **more):
        return Connection(self.address, tls=self.tls, **more)

    def ask(self, method, target, fields=(), body=None, **more):
        with self.connect() as connection:
            return connection.ask(method, target, fields, body, host="localhost", **more)

    def curl(self, target, *options, seconds=60):
        """By HTTP/2. (version, status, stdout)."""
        done = subprocess.run(["curl", "-sS", "--http2", "--cacert", str(self.folder / "cert.pem"), "-w",
                               "\n%{http_version} %{http_code}", *options, f"https://localhost:{self.port}{target}",
                               "--resolve", f"localhost:{self.port}:127.0.0.1"], capture_output=True, timeout=seconds)
        assert done.returncode == 0, (done.stderr, self.errors()[-2000:])
        body, _, last = done.stdout.rpartition(b"\n")
        version, status = last.decode().split()
        return version, int(status), body


@unittest.skipUnless(NGINX, "nginx is not installed")
class ProxyCase(Case):
    pass


class OneInstanceTest(ProxyCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(LAB, workers=2)
        cls.nginx = Nginx(cls.server.port)

    @classmethod
    def tearDownClass(cls):
        cls.nginx.__exit__()
        cls.server.stop()

    def test_answers_over_http2_and_http1(self):
        version, status, body = self.nginx.curl("/request?a=%20//..")
        self.assertEqual((version, status), ("2", 200))
        self.assertIn(b"path-with-query: /request?a=%20//..\n", body)
        self.assertIn(b"authority: localhost\n", body)
        response = self.nginx.ask("GET", "/hello")
        self.assertEqual((response.status, response.text()), (200, "Hello, World!"))
        self.assertEqual(response.one("x-frame-options"), "DENY")
        self.assertEqual(self.nginx.ask("GET", "/trap").status, 502)
        self.assertEqual(self.nginx.ask("HEAD", "/big?mb=1&length=1").one("content-length"), str(1 << 20))
        self.assertEqual(self.nginx.ask("POST", "/echo", body=b"abc").body, b"abc")

    def test_forwarded_fields_reach_the_guest(self):
        fields = dict(line.split(": ") for line in self.nginx.ask("GET", "/headers").text().splitlines())
        self.assertEqual(bytes.fromhex(fields["x-forwarded-for"]), b"127.0.0.1")
        self.assertEqual(bytes.fromhex(fields["x-forwarded-proto"]), b"https")

    def test_g9_health_as_printed(self):
        """HTTP/1.0, Host: mik, no X-Forwarded fields."""
        for target in ("/health", "/health/ready", "/health/live"):
            response = self.nginx.ask("GET", target)
            self.assertEqual(response.status, 200)
            self.assertIn(json.loads(response.body)["status"], ("ready", "live"))

    def test_upstream_connections_are_kept(self):
        before = self.server.metric("mik_connections_accepted_total")
        with self.nginx.connect() as connection:
            for _ in range(100):
                self.assertEqual(connection.ask("GET", "/hello").status, 200)
        self.assertLessEqual(self.server.metric("mik_connections_accepted_total") - before, 10)

    def test_streams_arrive_in_pieces(self):
        """With proxy_buffering off, which event streams need: by the guide's location alone nginx holds small pieces back
        (the case after this one), unless the guest sends X-Accel-Buffering: no."""
        with Nginx(self.server.port, more="proxy_buffering off;") as nginx, nginx.connect() as connection:
            connection.send(encode("GET", "/stream?n=4&ms=400"))
            seen, first_alone = b"", False
            while b"chunk 3" not in seen:
                piece = connection.piece()
                self.assertTrue(piece, seen)
                seen += piece
                first_alone = first_alone or (b"chunk 0" in seen and b"chunk 2" not in seen)
            self.assertTrue(first_alone, seen)

    def test_streams_arrive_whole_by_the_guides_location(self):
        self.assertEqual(self.nginx.ask("GET", "/stream?n=4&ms=50").text(), "".join(f"chunk {i}\n" for i in range(4)))

    def test_uploads_and_downloads_of_all_framings(self):
        """nginx sends no more of a request once the answer has begun, so what is echoed must be there at once."""
        body = os.urandom(30_000)
        path = self.nginx.folder / "upload"
        path.write_bytes(body)
        for options in (["--data-binary", f"@{path}"], ["-T", str(path), "-X", "POST"]):
            version, status, answer = self.nginx.curl("/echo", *options)
            self.assertEqual((version, status), ("2", 200))
            self.assertEqual(hashlib.md5(answer).digest(), hashlib.md5(body).digest())
        response = self.nginx.ask("POST", "/echo", body=body, chunked=True)
        self.assertEqual(response.body, body)
        count = len(self.nginx.ask("GET", "/big?mb=16").body)
        self.assertEqual(count, 16 << 20)

    @known_bug("a fast sender of a body over the limit meets the reset before it has read the 413: lingering ends after 16 MiB")
    def test_a_body_over_the_limit_is_413_and_not_502(self):
        path = self.nginx.folder / "large"
        with path.open("wb") as file:
            file.truncate(64 << 20)
        for _ in range(3):
            version, status, _ = self.nginx.curl("/no-read", "-T", str(path), "-X", "POST")
            self.assertEqual((version, status), ("2", 413), self.nginx.errors()[-500:])

    def test_field_12_cookies_of_http2(self):
        if shutil.which("nghttp") is None:
            self.skipTest("nghttp is not installed")
        done = subprocess.run(["nghttp", "-H", "cookie: a=1", "-H", "cookie: b=2", "-H", "cookie: c=3",
                               f"https://localhost:{self.nginx.port}/cookies"], capture_output=True, timeout=20)
        self.assertEqual(done.stdout.decode(), "a=1; b=2; c=3\n", done)

    def test_uploads_go_through_constant_memory(self):
        """72 MiB in pieces as large as the limit on bodies allows, by the guide's location."""
        workers = self.server.workers()
        path = self.nginx.folder / "nine"
        path.write_bytes(os.urandom(9 << 20))
        largest = 0.0
        for i in range(8):
            _, status, answer = self.nginx.curl("/read-some?n=4096", "--http1.1" if i % 2 == 0 else "--http2", "-X", "POST",
                                                "-T", str(path))
            self.assertEqual((status, answer), (200, b"4096 bytes read\n"))
            largest = max([largest, *map(rss_mib, workers)])
        print(f"  72 MiB of uploads: a worker at most {largest:.0f} MiB", flush=True)
        self.assertLess(largest, 64)

    def test_a_client_that_vanishes_behind_the_proxy_cancels_the_guest(self):
        connection = self.nginx.connect()
        connection.send(encode("GET", "/spin"))
        wait_until(lambda: self.server.metric("mik_active_requests") >= 1, 10)
        connection.close()
        self.server.wait_idle(5)

    def test_nothing_was_odd_for_nginx(self):
        """Protocol errors would stand in its log."""
        for word in ("upstream sent", "invalid header", "upstream prematurely closed"):
            lines = [line for line in self.nginx.errors().splitlines() if word in line]
            self.assertEqual([line for line in lines if "/trap" not in line], [])


class RateTest(ProxyCase):
    def test_g9_rate_limit_spares_health(self):
        with Server(LAB) as server, Nginx(server.port, rate="1r/s") as nginx, nginx.connect() as connection:
            statuses = [connection.ask("GET", "/hello").status for _ in range(30)]
            self.assertEqual(statuses[:20], [200] * 20)
            self.assertEqual(statuses[-1], 503)
            for _ in range(30):
                self.assertEqual(connection.ask("GET", "/health").status, 200)


class TwoInstancesTest(ProxyCase):
    """g14: least_conn over two servers."""

    def setUp(self):
        self.servers = [Server(LAB), Server(LAB)]
        for server in self.servers:
            self.addCleanup(server.kill)
        # What is counted here is not to be nginx's own 503 (limit_req), which load after a stall may meet.
        self.nginx = Nginx(*(server.port for server in self.servers), burst=10000, balance="least_conn;")
        self.addCleanup(self.nginx.__exit__)

    def failures(self, load, what):
        print(f"  {what}: {load.answered} answered, {len(load.failures)} failed", flush=True)
        return load.failures[:3]

    def test_sigterm_of_one_under_load_loses_no_request(self):
        first, second = self.servers
        with Load(self.nginx.address, target="/sleep?ms=5", clients=8, tls=self.nginx.tls) as load:
            load.wait_answers(200)
            first.signal()
            self.assertEqual(first.wait_exit(), 0)
            load.wait_answers(200)
            load.stop()
        self.assertEqual(self.failures(load, "SIGTERM, GET"), [])
        self.assertGreater(second.metric("mik_guest_requests_total"), 100)

    def test_rolling_restart_loses_no_request(self):
        """One after the other. max_fails=0, since nginx else takes a server that refused once for dead for ten seconds, and
        the restart of the second would come too early for it."""
        ports = [server.port for server in self.servers]
        with Nginx(*ports, burst=10000, balance="least_conn;", fails=" max_fails=0") as nginx:
            with Load(nginx.address, clients=6, tls=nginx.tls, pause=0.002) as load:
                load.wait_answers(100)
                for i in range(2):
                    old = self.servers[i]
                    old.signal()
                    self.assertEqual(old.wait_exit(), 0)
                    self.servers[i] = Server(LAB, port=old.port)
                    self.addCleanup(self.servers[i].kill)
                    load.wait_answers(50)
                load.stop()
        self.assertEqual(self.failures(load, "rolling restart"), [])

    def test_kill_9_of_one_under_load(self):
        """nginx asks the other for what the dead one had not begun to answer."""
        first, second = self.servers
        with Load(self.nginx.address, clients=8, tls=self.nginx.tls) as load:
            load.wait_answers(200)
            for pid in [first.pid, *first.workers()]:
                os.kill(pid, signal.SIGKILL)
            load.wait_answers(200)
            load.stop()
        self.assertEqual(self.failures(load, "kill -9, GET"), [])
        second.stop()

    def test_sigterm_of_one_under_posts(self):
        """nginx repeats no POST that it has begun to send, so a connection that we close as it sends is a failure: there
        must be none, since connections are told to close with an answer first."""
        first, _ = self.servers
        with Load(self.nginx.address, target="/echo", clients=8, tls=self.nginx.tls, body=b"x" * 1000) as load:
            load.wait_answers(200)
            first.signal()
            self.assertEqual(first.wait_exit(), 0)
            load.wait_answers(200)
            load.stop()
        self.assertEqual(self.failures(load, "SIGTERM, POST"), [])


if __name__ == "__main__":
    main()
