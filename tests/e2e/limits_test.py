"""Limits on time, CPU, memory and patience, and clients that behave badly."""

import os
import re
import socket
import struct
import threading
import time

from harness import (LAB, ROOT, Case, Connection, Cut, Neighbour, Server, cpu_seconds, encode, main, rss_mib,
                     wait_until)
from upstream import Upstream


class DeadlineTest(Case):
    """--timeout 1."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server(LAB, "--timeout", "1", "--allow-host", "127.0.0.1", workers=1)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def assert_504(self, target, error, slack=2.0):
        started = time.monotonic()
        response = self.server.get(target)
        took = time.monotonic() - started
        self.assert_problem(response, 504)
        self.assertTrue(0.9 <= took <= 1 + slack, took)
        self.server.wait_log("Request failed", request_id=response.one("x-request-id"), error=re.compile(error, re.I))

    def test_a_guest_that_sleeps(self):
        with Neighbour(self.server):
            self.assert_504("/sleep?ms=60000", "execution_timeout_secs")

    def test_a_guest_that_computes(self):
        with Neighbour(self.server):
            self.assert_504("/spin", "execution_timeout_secs|cpu")

    def test_a_guest_that_calls_the_host_for_ever(self):
        with Neighbour(self.server):
            self.assert_504("/busy", "execution_timeout_secs|cpu|fuel")

    def test_many_at_once(self):
        with Neighbour(self.server):
            connections = [self.server.connect() for _ in range(12)]
            for i, connection in enumerate(connections):
                connection.send(encode("GET", ("/spin", "/busy", "/sleep?ms=60000")[i % 3]))
            for connection in connections:
                self.assert_problem(connection.response(), 504)
                connection.close()
        self.server.wait_idle()

    def test_connection_lives_on_after_504(self):
        with self.server.connect() as connection:
            self.assertEqual(connection.ask("GET", "/sleep?ms=60000").status, 504)
            self.assertEqual(connection.ask("GET", "/hello").status, 200)

    def test_the_time_that_the_client_takes_is_not_counted(self):
        with self.server.connect() as connection:
            connection.send(b"POST /read-some?n=3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
            with self.server.connect() as clock:
                clock.ask("GET", "/sleep?ms=900")
                clock.ask("GET", "/sleep?ms=900")
            connection.send(b"abc")
            response = connection.response("POST")
            self.assertEqual((response.status, response.text()), (200, "3 bytes read\n"))

    def test_a_stream_lives_as_long_as_it_moves(self):
        started = time.monotonic()
        response = self.server.get("/stream?n=8&ms=250")
        self.assertEqual(response.text(), "".join(f"chunk {i}\n" for i in range(8)))
        self.assertGreater(time.monotonic() - started, 1.5)

    def test_cpu_is_bounded_over_the_whole_request(self):
        """After the head there is no deadline, but the CPU budget goes on."""
        with Neighbour(self.server), self.server.connect() as connection:
            connection.send(encode("GET", "/spin?head=1"))
            started = time.monotonic()
            with self.assertRaises(Cut) as caught:
                connection.response()
            self.assertLess(time.monotonic() - started, 12)
            self.assertEqual(caught.exception.response.body, b"partial")
        self.server.wait_log("Request failed", path="/spin", error=re.compile("cpu", re.I))

    def test_field_30_an_upstream_that_drips(self):
        """One byte of its head every 100 ms for ever; the guest asked for 600 s. The deadline wins, the upstream is let go."""
        with Upstream() as upstream:
            upstream.drip(b"HTTP/1.1 200 OK\r\nX-Drip: " + b"x" * 10000, pause=0.1)
            self.assert_504(f"/fetch?url=http://127.0.0.1:{upstream.port}/&first-byte-ms=600000&connect-ms=600000"
                            "&between-bytes-ms=600000", "execution_timeout_secs")
            upstream.wait_closed()
        self.server.wait_idle()

    def test_field_30_an_upstream_that_says_nothing(self):
        with Upstream() as upstream:
            upstream.silence()
            self.assert_504(f"/fetch?url=http://127.0.0.1:{upstream.port}/&first-byte-ms=600000", "execution_timeout_secs")
            upstream.wait_closed()


class VanishingTest(Case):
    """A client that leaves takes its guest with it."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server(LAB, "--timeout", "60", "--allow-host", "127.0.0.1", workers=1)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def vanish(self, data, how):
        connection = self.server.connect()
        connection.send(data)
        wait_until(lambda: self.server.metric("mik_active_requests") >= 1, 5, "the request's start")
        if how == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        started = time.monotonic()
        self.server.wait_idle(3)
        return time.monotonic() - started

    def test_vanishing_cancels_the_guest(self):
        gone = self.server.metric("mik_client_gone_total")
        count = 0
        with Neighbour(self.server):
            for how in ("reset", "close"):
                for data in (encode("GET", "/sleep?ms=60000"), encode("GET", "/spin"), encode("GET", "/busy"),
                             encode("GET", "/spin?head=1"), encode("GET", "/stream?n=1000000&ms=50"),
                             b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"):
                    with self.subTest(how=how, data=data):
                        self.vanish(data, how)
                        count += 1
        self.assertGreaterEqual(self.server.metric("mik_client_gone_total") - gone, count)

    def test_the_cpu_is_free_again(self):
        self.vanish(encode("GET", "/spin"), "close")
        worker = self.server.worker()
        before = cpu_seconds(worker)
        threading.Event().wait(0.5)  # what is measured is the time in which nothing happens
        self.assertLess(cpu_seconds(worker) - before, 0.2)

    def test_the_upstream_is_let_go(self):
        with Upstream() as upstream:
            upstream.silence()
            self.vanish(encode("GET", f"/fetch?url=http://127.0.0.1:{upstream.port}/"), "close")
            upstream.wait_closed()

    def test_a_half_closed_client_may_wait_for_its_answer_or_is_let_go(self):
        """Nothing hangs: either it is answered or the connection is closed."""
        with self.server.connect() as connection:
            connection.send(encode("GET", "/sleep?ms=300"))
            connection.socket.shutdown(socket.SHUT_WR)
            data = connection.rest(5)
            self.assertTrue(data == b"" or data.endswith(b"slept\n"), data)
        self.server.wait_idle()


class SlowClientTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(LAB, workers=1)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_a_request_byte_by_byte(self):
        with Neighbour(self.server), self.server.connect() as connection:
            for data in (encode("POST", "/echo", [("X-A", "b")], b"hello"),
                         encode("POST", "/echo", body=b"hello", chunked=True, trailers=[("x-t", "1")])):
                for byte in data:
                    connection.send(bytes([byte]))
                response = connection.response("POST")
                self.assertEqual((response.status, response.body), (200, b"hello"))

    def drip(self, connection, data, pause):
        """Sends a byte each `pause` until the other side ends or answers."""
        for byte in data:
            try:
                connection.socket.sendall(bytes([byte]))
            except OSError:
                return
            connection.socket.settimeout(pause)
            try:
                piece = connection.socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return
            connection.buffer += piece
            return

    def test_slow_heads_and_slow_bodies_are_408(self):
        """Slowloris: many at once, while a good client is served. Heads get 10 s, bodies at least 240 bytes a second after 5 s."""
        outcomes = {}

        def slow(name, data):
            with self.server.connect(patience=30) as connection:
                started = time.monotonic()
                self.drip(connection, data, 0.25)
                response = connection.response("POST")
                outcomes[name] = (response, time.monotonic() - started, connection.ended(10))

        def absent():
            with self.server.connect(patience=30) as connection:
                started = time.monotonic()
                connection.send(body.replace(b"/echo", b"/read-some"))
                response = connection.response("POST")
                outcomes["no body"] = (response, time.monotonic() - started, connection.ended(10))
        body = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"
        threads = [threading.Thread(target=absent)]
        for i in range(5):
            threads.append(threading.Thread(target=slow, args=(f"head {i}", b"GET /hello HTTP/1.1\r\nX-Slow: " + b"x" * 500)))
        with Neighbour(self.server, pause=0.05):
            connections = [self.server.connect() for _ in range(100)]
            for connection in connections:
                connection.send(b"GET / HT")
            for thread in threads:
                thread.start()
            with self.server.connect(patience=30) as connection:
                # A guest that waits for what does not come: the body comes in single bytes.
                connection.send(body)
                cut_after = self.drip_body(connection)
            for thread in threads:
                thread.join(40)
            for connection in connections:
                connection.close()
        for name, (response, took, ended) in outcomes.items():
            with self.subTest(name=name):
                self.assert_problem(response, 408)
                self.assertTrue((4 if name == "no body" else 9) < took < 14, took)
                self.assertTrue(ended)
        self.assertEqual(len(outcomes), 6)
        self.assertTrue(4 < cut_after < 14, cut_after)

    def drip_body(self, connection):
        """A byte every 100 ms, to an echo. Its head is out, so the end of the server's patience is a cut; when."""
        started = time.monotonic()
        while time.monotonic() - started < 20:
            try:
                connection.socket.sendall(b"x")
            except OSError:
                break
            connection.socket.settimeout(0.1)
            try:
                if connection.socket.recv(65536) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        return time.monotonic() - started

    def test_a_client_that_never_reads(self):
        """What it asked for is not piled up, it hurts nobody, and when it leaves everything is back."""
        worker = self.server.worker()
        with Neighbour(self.server):
            held = [self.server.connect(receive_buffer=4096) for _ in range(20)]
            for connection in held:
                connection.send(encode("GET", "/big?mb=64"))
            wait_until(lambda: self.server.metric("mik_active_requests") >= 20, 10)
            before = rss_mib(worker)
            for _ in range(20):
                self.assertEqual(self.server.get("/hello").status, 200)
            grown = rss_mib(worker) - before
            print(f"  20 clients that never read: worker {rss_mib(worker):.0f} MiB, {grown:+.1f}", flush=True)
            self.assertLess(grown, 16)
            self.assertLess(rss_mib(worker), 128)
            for connection in held:
                connection.close()
            self.server.wait_idle()

    def test_a_pipeline_that_never_ends_is_not_piled_up(self):
        worker = self.server.worker()
        before = rss_mib(worker)
        with self.server.connect() as connection:
            data = encode("GET", "/big?mb=1") * 2000
            connection.socket.settimeout(1)
            try:
                connection.socket.sendall(data)
            except OSError:
                pass
            self.assertLess(rss_mib(worker) - before, 32)
        self.server.wait_idle()


class OverloadTest(Case):
    def test_over_the_limit_is_503_with_retry_after_and_health_is_exempt(self):
        with Server(LAB, workers=1) as server:
            limit = int(server.metric("mik_max_concurrent_requests"))
            held = []
            try:
                for _ in range(limit):
                    connection = server.connect()
                    connection.send(encode("GET", "/sleep?ms=25000"))
                    held.append(connection)
                wait_until(lambda: server.metric("mik_active_requests") == limit, 15, "a full house")
                for _ in range(3):
                    response = server.get("/hello")
                    self.assert_problem(response, 503)
                    self.assertRegex(response.one("retry-after"), r"^\d+$")
                self.assertEqual(server.get("/health").status, 200)
                self.assertGreaterEqual(server.metric('mik_guest_failures_total{reason="overload"}'), 3)
            finally:
                for connection in held:
                    connection.close()
            server.wait_idle(10)
            self.assertEqual(server.get("/hello").status, 200)


class FieldTest(Case):
    def test_field_15_idle_connections_outlive_the_proxys(self):
        """nginx keeps idle upstream connections for 60 s, Caddy for 120 s: ours live longer. Waiting that long is no test:
        what an idle worker waits for in epoll is its next timer, and that is this connection's."""
        with Server(LAB, workers=1) as server, server.connect() as connection:
            connection.ask("GET", "/hello")
            source = (ROOT / "src/config/settings.hpp").read_text()
            match = re.search(r"idle_timeout = std::chrono::seconds\((\d+)\)", source)
            self.assertGreater(int(match.group(1)), 125)
            source = (ROOT / "src/http/message.hpp").read_text()
            match = re.search(r"idle_timeout = std::chrono::seconds\((\d+)\)", source)
            self.assertGreater(int(match.group(1)), 125)
            # And it does live on beyond the timeouts for heads.
            self.assertEqual(connection.ask("GET", "/hello").status, 200)


if __name__ == "__main__":
    main()
