"""Guests that do what production guests do wrong, each while a second client of the same worker is answered well."""

import hashlib
import os
import re
import threading
import time

from harness import INPUTS, LAB, Case, Cut, Neighbour, Server, anonymous_mib, encode, main, rss_mib, wait_until
from http1 import chunk

ANY = re.compile(".")


class GuestCase(Case):
    """One worker for all."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(LAB, *cls.flags, workers=1, env={"SECRET_OF_THE_HOST": "1"})

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def setUp(self):
        self.log_start = len(self.server.log)

    def failure_logged(self, path, error, **members):
        """The line of this test's request that names the cause."""
        line = self.server.wait_log("Request failed", path=path, error=re.compile(error, re.I), **members)
        self.assertIn(line["level"], ("WARN", "ERROR"))
        return line

    def assert_fails(self, target, status, error, times=3):
        """Answered with that status, the cause in the log, nothing of the guest's insides in the answer."""
        for _ in range(times):
            response = self.server.get(target)
            problem = self.assert_problem(response, status)
            self.assertNotIn("wasm", problem["detail"])
            self.failure_logged(target.split("?")[0], error, request_id=response.one("x-request-id"))

    def assert_cut(self, target, partial, error, seconds=2.0, times=3, may_be_502=False):
        """Head and part of the content, then a visible end that is not clean (RFC 9112 section 8), with a log line. 502 is
        as good where nothing had been sent when it happened."""
        for _ in range(times):
            with self.server.connect() as connection:
                started = time.monotonic()
                connection.send(encode("GET", target))
                try:
                    response = connection.response()
                    self.assertTrue(may_be_502, response)
                    self.assert_problem(response, 502)
                except Cut as cut:
                    response = cut.response
                    self.assertIsNotNone(response, "not even a head")
                    self.assertEqual((response.status, response.body), (200, partial))
                self.assertLess(time.monotonic() - started, seconds)
                self.failure_logged(target.split("?")[0], error, request_id=response.one("x-request-id"))


class FailingTest(GuestCase):
    def test_trap(self):
        with Neighbour(self.server):
            self.assert_fails("/trap", 502, "unreachable", times=20)

    def test_trap_names_the_functions_in_the_log(self):
        response = self.server.get("/trap")
        line = self.failure_logged("/trap", "unreachable", request_id=response.one("x-request-id"))
        self.assertIn("lab.core.wasm!", line["error"])

    def test_trap_after_the_head(self):
        with Neighbour(self.server):
            self.assert_cut("/trap-after-head", b"partial", "unreachable", times=5)

    def test_no_response(self):
        with Neighbour(self.server):
            self.assert_fails("/no-response", 502, "response")
            self.assert_fails("/no-response?drop=1", 502, "response")

    def test_error_code(self):
        with Neighbour(self.server):
            self.assert_fails("/error-code", 502, "internal.?error|asked for by the request")
            self.assert_fails("/error-code?code=4", 502, "destination.?ip.?prohibited")
            for code in range(39):
                self.assertEqual(self.server.get(f"/error-code?code={code}").status // 100, 5, code)

    def test_exit(self):
        with Neighbour(self.server):
            self.assert_fails("/exit", 502, "exit")
            self.assert_fails("/exit?ok=1", 502, "exit|response")

    def test_field_1_a_body_that_is_leaked(self):
        with Neighbour(self.server):
            self.assert_cut("/leak-body", b"hi", "body", seconds=1.5, may_be_502=True)

    def test_field_1_a_body_that_is_dropped(self):
        with Neighbour(self.server):
            self.assert_cut("/drop-body", b"hi", "body", seconds=1.5, may_be_502=True)

    def test_fewer_bytes_than_content_length(self):
        with Neighbour(self.server):
            for _ in range(3):
                with self.server.connect() as connection:
                    connection.send(encode("GET", "/short"))
                    try:
                        response = connection.response()
                        self.assert_problem(response, 502)
                    except Cut as cut:
                        response = cut.response
                        self.assertEqual((response.status, response.body), (200, b"x" * 10))
                        self.assertTrue(connection.ended())
                    self.failure_logged("/short", "content-length|size|fewer|body", request_id=response.one("x-request-id"))

    def test_more_bytes_than_content_length(self):
        """Nothing over the ten bytes may come out: they would be taken for the next response."""
        with Neighbour(self.server):
            for _ in range(3):
                with self.server.connect() as connection:
                    connection.send(encode("GET", "/long"))
                    try:
                        response = connection.response()
                        self.assertIn(response.status, (200, 502))
                    except Cut as cut:
                        response = cut.response
                    if response.status == 200:
                        self.assertLessEqual(len(response.body), 10)
                    self.failure_logged("/long", "content-length|size|more|body", request_id=response.one("x-request-id"))

    def test_recursion(self):
        with Neighbour(self.server):
            self.assert_fails("/recurse", 502, "stack")

    def test_stacks_that_were_used_to_their_limit_go_back(self):
        """Each of these guests recurses on a stack of its own: the one before was taken by a guest that stays."""
        if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7):
            self.skipTest("this kernel has no PAGEMAP_SCAN, with which stacks go back")
        with Server(LAB) as server:
            self.assertEqual(server.get("/hello").status, 200)
            worker = server.workers()[0]
            before = anonymous_mib(worker)
            stay = []
            for n in range(40):
                for _ in range(2):
                    self.assertEqual(server.get("/recurse").status, 502)
                stay.append(server.connect())
                stay[n].send(encode("GET", "/sleep?ms=60000"))
                wait_until(lambda: server.metric("mik_active_requests") == len(stay), 5, "the guest's start")
            grown = anonymous_mib(worker) - before
            for connection in stay:
                connection.close()
            self.assertLess(grown, 10, "40 stacks used to their limit are 20 MiB")

    def test_resources_by_the_million(self):
        with Neighbour(self.server):
            self.assert_fails("/resources?n=100000000", 502, ".")

    def test_memory_hog(self):
        with Neighbour(self.server):
            self.assert_fails("/hog?mb=100000", 507, "memory", times=5)

    def test_memory_up_to_the_limit(self):
        response = self.server.get("/hog?mb=100000&soft=1")
        self.assertEqual(response.status, 200)
        taken = int(response.text().split()[0])
        self.assertTrue(120 <= taken <= 128, taken)

    def test_table_hog(self):
        with Neighbour(self.server):
            for _ in range(3):
                response = self.server.get("/tables")
                self.assertIn(response.status, (502, 507))
                self.failure_logged("/tables", ANY.pattern, request_id=response.one("x-request-id"))
            response = self.server.get("/tables?soft=1")
            self.assertEqual(response.status, 200)
            self.assertLess(int(response.text().split()[0]), 10_000_000)

    def test_field_6_panic_on_odd_bytes(self):
        with Neighbour(self.server):
            response = self.server.get("/headers?strict=1", [("X-A", b"\xff")])
            self.assert_problem(response, 502)

    def test_many_failures_leave_nothing_behind(self):
        """Memory, descriptors and permits are back after a few hundred failures of all kinds."""
        worker = self.server.worker()
        kinds = ["/trap", "/no-response", "/error-code", "/exit", "/leak-body", "/drop-body", "/short", "/recurse",
                 "/hog?mb=1000", "/trap-after-head?ms=0"]

        def round_():
            for target in kinds:
                try:
                    self.server.get(target)
                except Cut:
                    pass
            self.server.wait_idle()
        for _ in range(3):
            round_()
        before = anonymous_mib(worker), len(os.listdir(f"/proc/{worker}/fd"))
        for _ in range(15):
            round_()
        wait_until(lambda: len(os.listdir(f"/proc/{worker}/fd")) <= before[1], 5, "the old number of descriptors")
        # What the last large guest left goes back in pieces, between the loop's turns.
        wait_until(lambda: anonymous_mib(worker) - before[0] < 24, 5, "the old amount of memory")
        print(f"  150 failures: {anonymous_mib(worker) - before[0]:+.1f} MiB anonymous memory", flush=True)
        self.assertEqual(self.server.worker(), worker)


class OddTest(GuestCase):
    """What is unusual and right."""

    def test_only_the_granted_environment_is_seen(self):
        with Server(LAB, "--env", "A=1", "--env", "B=two words=x", "--env", "EMPTY=", env={"SECRET": "1"}) as server:
            self.assertEqual(sorted(server.get("/env").text().splitlines()), ["A=1", "B=two words=x", "EMPTY="])
        self.assertEqual(self.server.get("/env").text(), "")

    def test_output_goes_to_the_log_line_by_line(self):
        response = self.server.get("/print?text=hello%0aworld%ff%01%22")
        self.assertEqual(response.status, 200)
        request_id = response.one("x-request-id")
        self.server.wait_log("Request completed", request_id=request_id)
        lines = self.server.find_log("Guest output", request_id=request_id)
        self.assertEqual({line["module"] for line in lines}, {"lab"})
        for stream, first in (("stdout", "out: hello"), ("stderr", "err: hello")):
            texts = [line["text"] for line in lines if line["stream"] == stream]
            self.assertEqual(len(texts), 2)
            self.assertEqual(texts[0], first)
            self.assertTrue(texts[1].startswith("world\ufffd\x01\""), texts)

    def test_a_flood_of_output_is_cut_and_counted(self):
        with Neighbour(self.server):
            before = sum(len(line.get("text", "")) for line in self.server.log)
            response = self.server.get("/flood?mb=64", patience=40)
            self.assertEqual(response.text(), "flooded\n")
            request_id = response.one("x-request-id")
            self.server.wait_log("Request completed", request_id=request_id)
        lines = self.server.find_log("Guest output", request_id=request_id)
        self.assertTrue([line for line in lines if line["stream"] == "dropped"], f"{len(lines)} lines, none says dropped")
        written = sum(len(line.get("text", "")) for line in self.server.log) - before
        self.assertLess(written, 2 << 20)

    def test_sleepers_sleep_at_once(self):
        """64 guests that sleep 300 ms do so side by side, on one thread."""
        with Neighbour(self.server):
            connections = [self.server.connect() for _ in range(64)]
            started = time.monotonic()
            for connection in connections:
                connection.send(encode("GET", "/sleep?ms=300"))
            for connection in connections:
                self.assertEqual(connection.response().text(), "slept\n")
                connection.close()
            self.assertLess(time.monotonic() - started, 3)

    def test_computing_guests_share_the_thread(self):
        with Neighbour(self.server):
            connections = [self.server.connect() for _ in range(4)]
            for connection in connections:
                connection.send(encode("GET", "/cpu?ms=300"))
            for connection in connections:
                self.assertEqual(connection.response().status, 200)
                connection.close()

    def test_many_timers_in_one_poll(self):
        with Neighbour(self.server):
            self.assertRegex(self.server.get("/polls?n=1000&ms=50").text(), r"^[1-9]\d* ready\n$")

    def test_bounded_recursion_and_resources_are_fine(self):
        self.assertEqual(self.server.get("/recurse?n=1000").text(), "1000 deep\n")
        self.assertEqual(self.server.get("/resources?n=1000").text(), "1000 resources taken\n")

    def test_body_before_response(self):
        for target in ("/body-first", "/body-first?flush=1", "/body-first?kb=16"):
            with self.subTest(target=target):
                text = self.server.get(target).text()
                self.assertTrue(text.startswith("before\n") and text.endswith("after\n"), text[:50])
        for target in ("/body-first?finish=1", "/body-first?finish=1&flush=1"):
            with self.subTest(target=target):
                self.assertEqual(self.server.get(target).text(), "before\n")

    def test_writes_of_any_size(self):
        for kib in (1, 4, 5, 64, 1024, 8192):
            with self.subTest(kib=kib):
                response = self.server.get(f"/big-write?kb={kib}")
                self.assertEqual(response.body, b"x" * (kib << 10))

    def test_answered_and_still_at_work(self):
        with Neighbour(self.server), self.server.connect() as connection:
            started = time.monotonic()
            connection.send(encode("GET", "/linger?ms=1000"))
            seen = b""
            while b"answered\n" not in seen:
                seen += connection.piece()
            self.assertLess(time.monotonic() - started, 0.9)

    def test_the_end_waits_for_the_guests_return(self):
        # A guest that fails after its body is complete has failed: so the end is said when it has returned (engine.h).
        started = time.monotonic()
        self.assertEqual(self.server.get("/linger?ms=300").text(), "answered\n")
        self.assertGreaterEqual(time.monotonic() - started, 0.3)

    def test_a_body_that_is_read_in_part_or_not_at_all(self):
        body = os.urandom(1 << 20)
        with Neighbour(self.server), self.server.connect() as connection:
            for chunked in (False, True):
                response = connection.ask("POST", "/read-some?n=1000", body=body, chunked=chunked)
                self.assertEqual((response.status, response.text()), (200, "1000 bytes read\n"))
                if not response.keeps_alive():
                    break
        with self.server.connect() as connection:
            response = connection.ask("POST", "/no-read", body=b"x" * 1000)
            self.assertEqual(response.text(), "not read\n")

    def test_random_and_count_are_of_one_request_alone(self):
        with self.server.connect() as connection:
            self.assertEqual({connection.ask("GET", "/count").text() for _ in range(10)}, {"1\n"})
            self.assertEqual(len({connection.ask("GET", "/random").text() for _ in range(10)}), 10)


class BodyTest(GuestCase):
    def test_echo_with_trailers_both_ways(self):
        for target in ("/echo", "/splice"):
            with self.subTest(target=target), self.server.connect() as connection:
                response = connection.ask("POST", target, [("Trailer", "x-sum"), ("TE", "trailers")], b"hello " * 1000, chunked=True,
                                          trailers=[("x-sum", "99")])
                self.assertEqual(response.body, b"hello " * 1000)
                self.assertEqual(response.trailers, [("x-sum", "99")])
                self.assertEqual(connection.ask("GET", "/hello").status, 200)

    def test_trailers_of_a_guest(self):
        response = self.server.get("/trailers", [("TE", "trailers")])
        self.assertEqual((response.text(), response.trailers), ("body\n", [("x-checksum", "1234")]))

    def test_bodies_of_all_sizes(self):
        with self.server.connect() as connection:
            for size in (0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 200_000):
                for chunked in (False, True):
                    for target in ("/echo", "/splice"):
                        with self.subTest(size=size, chunked=chunked, target=target):
                            body = os.urandom(size)
                            response = connection.ask("POST", target, body=body, chunked=chunked)
                            self.assertEqual(response.status, 200)
                            self.assertEqual(hashlib.md5(response.body).digest(), hashlib.md5(body).digest())

    def echo(self, target, blocks, block):
        """Sends and receives at once. The MD5 of both sides, and the worker's largest memory."""
        sent, received = hashlib.md5(), hashlib.md5()
        largest = [0.0]
        with self.server.connect(patience=60) as connection:
            connection.send(encode("POST", target, chunked=True)[:-5])

            def upload():
                for i in range(blocks):
                    data = i.to_bytes(8, "big") + block
                    sent.update(data)
                    connection.socket.sendall(chunk(data))
                connection.socket.sendall(b"0\r\n\r\n")
            thread = threading.Thread(target=upload, daemon=True)
            thread.start()
            worker = self.server.worker()

            def take(data):
                received.update(data)
                largest[0] = max(largest[0], rss_mib(worker))
            response = connection.response("POST", on_body=take)
            thread.join(30)
        return response, sent.hexdigest(), received.hexdigest(), largest[0]

    def test_echo_streams_through_constant_memory(self):
        """As much as the limit on bodies lets through, several times."""
        for target in ("/echo", "/splice"):
            started = time.monotonic()
            for _ in range(3):
                response, sent, received, largest = self.echo(target, 39, os.urandom(256 * 1024 - 8))
                self.assertEqual((response.status, sent), (200, received))
                self.assertLess(largest, 64)
            took = time.monotonic() - started
            print(f"  {target}: 3 x 9.75 MiB in {took:.2f} s, worker at most {largest:.0f} MiB", flush=True)

    def test_download_streams_through_constant_memory(self):
        worker = self.server.worker()
        for target in ("/big?mb=64", "/big?mb=64&length=1"):
            count, largest, digest = [0], [0.0], hashlib.md5()

            def take(data):
                count[0] += len(data)
                digest.update(data)
                largest[0] = max(largest[0], rss_mib(worker))
            with self.server.connect(patience=60) as connection:
                connection.send(encode("GET", target))
                response = connection.response(on_body=take)
            self.assertEqual((response.status, count[0]), (200, 64 << 20))
            self.assertLess(largest[0], 64)
            print(f"  {target}: worker at most {largest[0]:.0f} MiB", flush=True)


class InstantiationTest(Case):
    def test_traps_while_instantiated(self):
        with Server(INPUTS / "start-trap.wasm") as server:
            for _ in range(5):
                self.assert_problem(server.get("/"), 502)
            self.assertEqual(server.get("/health").status, 200)

    def test_never_ends_while_instantiated(self):
        with Server(INPUTS / "start-spin.wasm", "--timeout", "1") as server:
            started = time.monotonic()
            with Neighbour(server, target="/health/live"):
                connections = [server.connect() for _ in range(3)]
                for connection in connections:
                    connection.send(encode("GET", "/"))
                for connection in connections:
                    self.assert_problem(connection.response(), 504)
                    connection.close()
            self.assertLess(time.monotonic() - started, 10)

    def test_memory_is_summed_over_all_memories(self):
        with Server(INPUTS / "two-memories.wasm", "--memory-limit", str(64 << 20)) as server:
            self.assert_problem(server.get("/"), 507)
        with Server(INPUTS / "two-memories.wasm") as server:
            problem = self.assert_problem(server.get("/"), 502)
            self.assertIn("without a response", problem["detail"])

    def test_two_tables_are_nothing_unusual(self):
        with Server(INPUTS / "two-tables.wasm") as server:
            problem = self.assert_problem(server.get("/"), 502)
            self.assertIn("without a response", problem["detail"])


class ReuseTest(Case):
    def test_reuse_counts_and_retires(self):
        with Server(LAB, "--reuse", "5") as server, server.connect() as connection:
            counts = [int(connection.ask("GET", "/count").text()) for _ in range(12)]
            self.assertEqual(counts, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2])

    def test_never_reused_after_an_error(self):
        with Server(LAB, "--reuse", "100") as server:
            for target in ("/trap", "/error-code", "/no-response", "/drop-body", "/exit"):
                server.get("/count")
                self.assertGreaterEqual(int(server.get("/count").text()), 2)
                try:
                    server.get(target)
                except Cut:
                    pass
                self.assertEqual(server.get("/count").text(), "1\n", target)


if __name__ == "__main__":
    main()
