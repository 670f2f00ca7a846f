"""Requests and answers: what reaches the guest, what the client gets, and the built-in endpoints."""

import json
import os
import re
import threading

from exposition import Exposition
from harness import HELLO, LAB, Case, Cut, Server, encode, main, read_proc, wait_until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lines_of(response):
    return dict(line.split(": ", 1) for line in response.text().splitlines())


class ServeTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(LAB, workers=1)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def seen(self, method, target, fields=(), body=None, **more):
        return lines_of(self.server.ask(method, target, fields, body, **more))

    # ---- what the guest sees

    def test_get_is_answered(self):
        response = self.server.get("/")
        self.assertEqual((response.status, response.text()), (200, "Hello, World!"))
        self.assertEqual(response.version, "1.1")
        self.assertRegex(response.one("date"), r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")

    def test_target_reaches_the_guest_untouched(self):
        for query in ("", "?", "?a=1&b=2", "?x=%20%2F%3f%23%00&y=%zz", "?a=//b/../c", "?q=a?b", "?'();:@,$*+!~"):
            for prefix in ("", "/run/lab"):
                with self.subTest(query=query, prefix=prefix):
                    self.assertEqual(self.seen("GET", f"{prefix}/request{query}")["path-with-query"], "/request" + query)

    def test_paths_are_not_normalised(self):
        """Each of these names another path than /request, so the guest says hello; a server that decodes or tidies up
        would call /request."""
        for path in ("//request", "/./request", "/x/../request", "/%72equest", "/request/", "/request%3Fa=1",
                     "/request%2F", "/request;a"):
            for prefix in ("", "/run/lab"):
                with self.subTest(path=path, prefix=prefix):
                    response = self.server.get(prefix + path)
                    self.assertEqual((response.status, response.text()), (200, "Hello, World!"))

    def test_run_without_rest_is_the_root(self):
        for target in ("/run/lab", "/run/lab/", "/run/lab?x=1", "/run/l%61b/"):
            self.assertEqual(self.server.get(target).text(), "Hello, World!", target)

    def test_methods_reach_the_guest(self):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "X-ODD"):
            body = b"" if method in ("POST", "PUT", "PATCH") else None
            with self.subTest(method=method):
                self.assertEqual(self.seen(method, "/request", body=body)["method"], method)

    def test_head_reaches_the_guest_and_has_no_content(self):
        with self.server.connect() as connection:
            for target in ("/hello", "/request", "/big?mb=1&length=1", "/stream?n=2&ms=1", "/health", "/metrics"):
                response = connection.ask("HEAD", target)
                self.assertEqual((response.status, response.body), (200, b""), target)
            self.assertEqual(connection.ask("GET", "/hello").text(), "Hello, World!")  # nothing stuck in between

    def test_connect_is_not_served(self):
        self.assertEqual(self.server.ask("CONNECT", "example.com:443", host="example.com:443").status, 405)

    def test_authority_and_scheme(self):
        seen = self.seen("GET", "/request", host="Example.com:8080")
        self.assertEqual((seen["authority"], seen["scheme"]), ("Example.com:8080", "http"))

    def test_absolute_form(self):
        seen = self.seen("GET", "http://other.test:81/request?a=%20", host="mik.test")
        self.assertEqual((seen["authority"], seen["path-with-query"]), ("other.test:81", "/request?a=%20"))
        self.assertEqual(self.server.get("http://other.test/health").status, 200)

    def test_http10_without_host(self):
        with self.server.connect() as connection:
            connection.send(b"GET /request HTTP/1.0\r\n\r\n")
            response = connection.response()
            self.assertEqual(response.status, 200)
            self.assertTrue(lines_of(response)["authority"])
            self.assertFalse(response.keeps_alive())
            self.assertTrue(connection.ended())

    def test_http10_keep_alive_when_the_length_is_known(self):
        with self.server.connect() as connection:
            for _ in range(2):
                connection.send(b"GET /big?mb=1&length=1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                response = connection.response()
                self.assertEqual((len(response.body), response.framing), (1 << 20, "length"))
                self.assertIn("keep-alive", response.one("connection").lower())

    def test_http11_without_host_is_400(self):
        self.assert_problem(self.server.get("/hello", host=None), 400)

    def test_request_fields_reach_the_guest_in_order(self):
        response = self.server.get("/headers", [("X-A", "1"), ("X-B", "two words"), ("X-A", ""), ("Accept", "*/*")])
        fields = [line.split(": ") for line in response.text().splitlines()]
        values = [bytes.fromhex(value) for name, value in fields if name == "x-a"]
        self.assertEqual(values, [b"1", b""])
        self.assertIn(["x-b", b"two words".hex()], fields)
        names = [name for name, _ in fields]
        self.assertNotIn("connection", names)

    def test_hop_by_hop_fields_stay_here(self):
        response = self.server.get("/headers", [("Connection", "x-hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5"),
                                                ("TE", "trailers"), ("Upgrade", "h2c")])
        names = [line.split(":")[0] for line in response.text().splitlines()]
        for name in ("connection", "keep-alive", "upgrade", "transfer-encoding"):
            self.assertNotIn(name, names)

    def test_field_6_bytes_that_are_no_utf8(self):
        head = encode("GET", "/headers", [("User-Agent", b"bot\xa1\xb1"), ("X-A", b"\xff\xfe")])
        strict = head.replace(b"/headers", b"/headers?strict=1")
        with self.server.connect() as connection, self.server.connect() as other:
            for _ in range(20):
                connection.send(head)
                fields = dict(line.split(": ") for line in connection.response().text().splitlines())
                self.assertEqual(bytes.fromhex(fields["user-agent"]), b"bot\xa1\xb1")
                self.assertEqual(bytes.fromhex(fields["x-a"]), b"\xff\xfe")
                other.send(strict)
                self.assert_problem(other.response(), 502)
        # Each line of the log is valid UTF-8 JSON: the harness parses all of them.
        self.server.wait_log("Request failed", path="/headers")
        self.assertFalse(self.server.garbage)

    def test_bytes_in_the_path_keep_the_log_valid(self):
        with self.server.connect() as connection:
            connection.send(b"GET /hello?\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertIn(connection.response().status, (200, 400))
        self.server.get('/x"y\\z')
        self.assertFalse(self.server.garbage)

    # ---- what the client gets

    def test_response_fields(self):
        response = self.server.get("/hello")
        self.assertRegex(response.one("x-request-id"), r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
        self.assertRegex(response.one("traceparent"), r"^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$")
        self.assertRegex(response.one("x-mik-duration-ms"), r"^\d+$")
        self.assertEqual(response.one("x-mik-handler"), "lab")
        line = self.server.wait_log("Request completed", request_id=response.one("x-request-id"))
        self.assertEqual((line["method"], line["path"], line["status"], line["module"]), ("GET", "/hello", 200, "lab"))
        self.assertEqual(line["bytes_out"], len("Hello, World!"))

    def test_trace_of_the_caller_is_kept_with_a_new_span(self):
        for target in ("/hello", "/health", "/trap", "/run/other/"):
            response = self.server.get(target, [("traceparent", TRACE)])
            version, trace, span, flags = response.one("traceparent").split("-")
            self.assertEqual((version, trace, flags), ("00", TRACE.split("-")[1], "01"), target)
            self.assertNotEqual(span, TRACE.split("-")[2], target)
        line = self.server.wait_log("Request failed", trace_id=TRACE.split("-")[1])
        self.assertEqual(line["path"], "/trap")

    def test_rubbish_in_traceparent_starts_a_new_trace(self):
        for value in ("x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACE.upper()[:-3], "ff" + TRACE[2:]):
            trace = self.server.get("/hello", [("traceparent", value)]).one("traceparent").split("-")[1]
            self.assertNotEqual(trace, "0" * 32)
            self.assertNotEqual(trace, TRACE.split("-")[1])

    def test_request_ids_differ(self):
        with self.server.connect() as connection:
            ids = {connection.ask("GET", "/hello").one("x-request-id") for _ in range(50)}
        self.assertEqual(len(ids), 50)

    def test_status_of_the_guest(self):
        for code in (200, 201, 204, 304, 400, 404, 418, 500, 503, 599):
            response = self.server.get(f"/status?code={code}")
            self.assertEqual(response.status, code)
            if code not in (204, 304):
                self.assertEqual(response.text(), "as asked\n")

    def test_pipelined_requests_are_answered_in_order(self):
        with self.server.connect() as connection:
            connection.send(encode("GET", "/sleep?ms=50") + encode("GET", "/hello") + encode("HEAD", "/hello")
                            + encode("POST", "/echo", body=b"abc") + encode("GET", "/health/live"))
            self.assertEqual(connection.response().text(), "slept\n")
            self.assertEqual(connection.response().text(), "Hello, World!")
            self.assertEqual(connection.response("HEAD").body, b"")
            self.assertEqual(connection.response("POST").body, b"abc")
            self.assertEqual(json.loads(connection.response().body)["status"], "live")

    def test_expect_continue(self):
        with self.server.connect() as connection:
            connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            connection.buffer = connection.piece()
            self.assertEqual(connection.buffer[:12], b"HTTP/1.1 100")
            connection.send(b"abc")
            response = connection.response("POST")
            self.assertEqual((response.body, len(response.interim)), (b"abc", 1))

    def test_field_11_http10_gets_no_chunks(self):
        """What the guest streams comes as it is, ended by the close."""
        for more in (b"", b"Connection: keep-alive\r\n"):
            with self.server.connect() as connection:
                connection.send(b"GET /stream?n=3&ms=100 HTTP/1.0\r\n" + more + b"\r\n")
                response = connection.response()
                self.assertEqual(response.all("transfer-encoding"), [])
                self.assertEqual((response.framing, response.text()), ("close", "chunk 0\nchunk 1\nchunk 2\n"))
                self.assertNotIn("keep-alive", (response.get("connection") or "").lower())

    def test_streams_arrive_in_pieces(self):
        with self.server.connect() as connection:
            connection.send(encode("GET", "/stream?n=3&ms=300"))
            seen = b""
            first_alone = False
            while b"chunk 2" not in seen:
                seen += connection.piece()
                first_alone = first_alone or (b"chunk 0" in seen and b"chunk 1" not in seen)
            self.assertTrue(first_alone, seen)

    # ---- refused by the host

    def test_unknown_modules_are_404(self):
        for target in ("/run/other", "/run/other/", "/run/lab2/x", "/run/LAB/"):
            problem = self.assert_problem(self.server.get(target), 404)
            self.assertIn("module not found: ", problem["error"])
        for target in ("/run/..%2flab/", "/run/%00/", "/run/.."):
            problem = self.assert_problem(self.server.get(target), 400)
            self.assertIn("invalid request: ", problem["error"])
        for target in ("/run", "/run/", "/run//lab"):
            problem = self.assert_problem(self.server.get(target), 404)
            self.assertIn("No module specified", problem["error"])

    def test_problem_answers_have_an_id_and_stay_json(self):
        for target, status in (('/run/"\\%0a%ff/', 400), ('/run/"x"/', 404)):
            response = self.server.get(target)
            self.assert_problem(response, status)
            response.one("x-request-id")

    def test_bad_requests_are_400_and_close(self):
        for raw in (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
                    b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
                    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
                    b"GET / HTTP/1.1\nHost: a\n\n",
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 64 + b"\r\n\r\n"):
            with self.subTest(raw=raw), self.server.connect() as connection:
                connection.send(raw)
                response = connection.response()
                self.assert_problem(response, 400)
                response.one("x-request-id")
                self.assertTrue(connection.ended())

    def test_heads_that_are_too_large(self):
        self.assert_problem(self.server.get("/" + "a" * 9000), 414)
        self.assert_problem(self.server.get("/", [("X-Big", "a" * 70000)]), 431)
        self.assert_problem(self.server.get("/", [(f"X-{i}", "1") for i in range(200)]), 431)
        self.assertEqual(self.server.get("/request?" + "a" * 4000).status, 200)

    def test_a_declared_body_over_the_limit_is_413(self):
        with self.server.connect() as connection:
            connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10485761\r\n\r\n")
            self.assert_problem(connection.response("POST"), 413)

    def test_a_chunked_body_over_the_limit_is_cut(self):
        """The head of the echo is out when the limit is reached: no 413 any more, but no clean end either."""
        block = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
        with self.server.connect() as connection:
            connection.send(encode("POST", "/echo", chunked=True)[:-5])

            def upload():
                try:
                    for _ in range(12):
                        connection.socket.sendall(block)
                except OSError:
                    pass
            thread = threading.Thread(target=upload, daemon=True)
            thread.start()
            with self.assertRaises(Cut) as caught:
                connection.response("POST")
            thread.join(15)
            response = caught.exception.response
            self.assertLessEqual(len(response.body), 10 << 20)
        self.server.wait_log("Request failed", request_id=response.one("x-request-id"))

    def test_a_body_that_nobody_reads_holds_nobody_up(self):
        """What the guest does not read stays where it is: the answer comes all the same."""
        with self.server.connect() as connection:
            connection.send(encode("POST", "/sleep?ms=200", chunked=True)[:-5] + b"100000\r\n" + b"x" * 5000)
            self.assertEqual(connection.response("POST").text(), "slept\n")

    def test_the_limit_itself_is_allowed(self):
        body = os.urandom(1 << 20) * 10
        response = self.server.ask("POST", "/read-some?n=10", body=body)
        self.assertEqual((response.status, response.text()), (200, "10 bytes read\n"))

    def test_broken_chunks_are_no_request_of_their_own(self):
        with self.server.connect() as connection:
            connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                            b"zz\r\nGET /trap HTTP/1.1\r\nHost: a\r\n\r\n")
            try:
                self.assertEqual(connection.response("POST").status, 400)
            except Cut:
                pass
            self.assertEqual(connection.rest(), b"")

    # ---- built in

    def test_health(self):
        response = self.server.get("/health")
        self.assertEqual((response.status, response.one("content-type")), (200, "application/json"))
        health = json.loads(response.body)
        self.assertEqual(health["status"], "ready")
        self.assertEqual(health["cache_size"], 1)
        self.assertEqual(health["cache_capacity"], 100)
        self.assertEqual((health["workers"], health["workers_ready"]), (1, 1))
        self.assertGreater(health["memory"]["allocated_bytes"], 1 << 20)
        self.assertEqual(health["memory"]["limit_per_request_bytes"], 134217728)
        self.assertRegex(health["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00$")
        self.assertNotIn("loaded_modules", health)
        before = health["total_requests"]
        self.server.get("/hello")
        self.assertGreaterEqual(json.loads(self.server.get("/health").body)["total_requests"], before + 2)

    def test_verbose_health(self):
        for query, verbose in (("verbose=true", True), ("a=b&verbose=1", True), ("verbose=yes", False), ("", False)):
            health = json.loads(self.server.get(f"/health?{query}").body)
            self.assertEqual("loaded_modules" in health, verbose, query)

    def test_health_live_and_ready(self):
        self.assertEqual(json.loads(self.server.get("/health/live").body)["status"], "live")
        self.assertEqual(json.loads(self.server.get("/health/ready").body)["status"], "ready")
        for target in ("/health", "/health/ready", "/health/live"):
            with self.server.connect() as connection:
                connection.send(f"GET {target} HTTP/1.0\r\nHost: mik\r\n\r\n".encode())
                self.assertEqual(connection.response().status, 200)
                self.assertTrue(connection.ended())

    def test_field_17_health_checks_by_options(self):
        for target in ("/health", "*"):
            for version in ("1.0", "1.1"):
                with self.subTest(target=target, version=version), self.server.connect() as connection:
                    host = "Host: a\r\n" if version == "1.1" else ""
                    connection.send(f"OPTIONS {target} HTTP/{version}\r\n{host}\r\n".encode())
                    response = connection.response("OPTIONS")
                    self.assertEqual(response.status // 100, 2)
                    self.assertIn("GET", response.one("allow"))

    def test_other_methods_on_built_ins_are_405(self):
        for target in ("/health", "/health/live", "/health/ready", "/metrics"):
            for method in ("POST", "DELETE", "X-ODD"):
                response = self.server.ask(method, target, body=b"")
                self.assert_problem(response, 405)
                self.assertIn("GET", response.one("allow"))

    def test_metrics(self):
        response = self.server.get("/metrics")
        self.assertEqual(response.one("content-type"), "text/plain; version=0.0.4; charset=utf-8")
        values = Exposition(response.text()).samples
        for name in ("mik_requests_total", "mik_cache_entries", "mik_cache_bytes", "mik_cache_capacity_bytes",
                     "mik_max_concurrent_requests", "mik_memory_bytes", "mik_active_requests"):
            self.assertIn(name, values)

    def test_counters_count(self):
        before = self.server.metrics()
        for target in ("/hello", "/hello", "/trap", "/status?code=404", "/run/none/"):
            self.server.get(target)
        wait_until(lambda: self.server.metric("mik_active_requests") == 0, 5)
        after = self.server.metrics()

        def grown(name):
            return after[name] - before[name]
        self.assertEqual(grown("mik_guest_requests_total"), 4)
        self.assertEqual(grown('mik_guest_failures_total{reason="trap"}'), 1)
        self.assertEqual(grown('mik_http_requests_total{status="5xx"}'), 1)
        self.assertEqual(grown('mik_http_requests_total{status="4xx"}'), 2)
        self.assertGreaterEqual(grown('mik_http_requests_total{status="2xx"}'), 3)
        self.assertGreaterEqual(grown("mik_requests_total"), 6)


def sockets_of(pid, port):
    """How many accepted connections of this port a process holds."""
    inodes = set()
    for line in read_proc("self", "net/tcp").decode().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == port and fields[3] == "01":
            inodes.add(fields[9])
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        count += link.startswith("socket:[") and link[8:-1] in inodes
    return count


class SpreadTest(Case):
    def test_eight_connections_spread_over_two_workers(self):
        with Server(HELLO, workers=2) as server:
            workers = server.workers()
            for attempt in range(3):
                connections = [server.connect() for _ in range(8)]
                try:
                    for connection in connections:
                        self.assertEqual(connection.ask("GET", "/").status, 200)
                    counts = [sockets_of(pid, server.port) for pid in workers]
                    self.assertEqual(sum(counts), 8, counts)
                    self.assertLessEqual(max(counts), 5, f"{counts} in round {attempt}")
                finally:
                    for connection in connections:
                        connection.close()
                wait_until(lambda: sum(sockets_of(pid, server.port) for pid in workers) == 0, 5)

    def test_workers_answer_for_the_family(self):
        with Server(HELLO, workers=2) as server:
            with server.connect() as one, server.connect() as two:
                for connection in (one, two, one):
                    connection.ask("GET", "/")
                seen = []
                for connection in (one, two):
                    text = connection.ask("GET", "/metrics").text()
                    seen.append(float(re.search(r"^mik_guest_requests_total (\S+)", text, re.M).group(1)))
            self.assertEqual(seen, [3, 3])
            self.assertEqual(server.metric("mik_workers_ready"), 2)


if __name__ == "__main__":
    main()
