"""Traces: what collectors are sent, whose decision counts, and that a bad collector costs nothing."""

import os
import re
import subprocess
import threading
import time
from pathlib import Path

from collector import Collector, RealCollector, real_collector
from harness import LAB, ROOT, Case, Neighbour, Server, main, run_command, temporary_folder, wait_until
from upstream import Upstream

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
NOT_SAMPLED = f"00-{TRACE}-{SPAN}-00"


def manifest(url, tracing="", server=""):
    path = os.path.join(temporary_folder(), "mik.toml")
    Path(path).write_text(f'[project]\nname = "shop"\nversion = "1.2.3"\n[server]\nhttp_allowed = ["127.0.0.1"]\n{server}\n'
                          f'[tracing]\notlp_endpoint = "{url}"\n{tracing}\n', encoding="utf-8")
    return path


def traced(url, tracing='protocol = "http/protobuf"', server="", **more):
    return Server(LAB, "--config", manifest(url, tracing, server), **more)


class SpansTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.collector = Collector().__enter__()
        web = Path(temporary_folder())
        (web / "a.txt").write_text("text")
        cls.server = traced(cls.collector.url, server=f'static = "{web}"')

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.collector.__exit__()

    def request(self, target="/hello", fields=(), **more):
        """The response, and its spans by name; the server's as ""."""
        trace = os.urandom(16).hex()
        response = self.server.ask("GET", target, [("traceparent", f"00-{trace}-{SPAN}-01"), *fields], **more)
        (root,) = self.collector.wait(trace=trace, kind="server")
        spans = {span.name: span for span in self.collector.spans(trace=trace) if span.kind != "server"}
        spans[""] = root
        return response, spans

    def test_a_request_and_its_parts(self):
        response, spans = self.request("/hello?key=secret", [("user-agent", "probe/1"), ("tracestate", "a=1"), ("tracestate", "b=2")])
        root = spans[""]
        self.assertEqual((root.parent, root.state, root.flags), (SPAN, "a=1,b=2", 0x301))
        self.assertEqual(root.id, response.one("traceparent").split("-")[2])
        self.assertEqual((root.status, root.message), (0, ""))
        self.assertRegex(root.name, r"^GET .*/\*$")
        expected = {"http.request.method": "GET", "url.path": "/hello", "url.scheme": "http", "http.response.status_code": 200,
                    "server.address": "mik.test", "client.address": "127.0.0.1",
                    "user_agent.original": "probe/1", "network.protocol.version": "1.1", "mik.module": "lab",
                    "http.route": root.name.split(" ")[1], "mik.request_id": response.one("x-request-id"),
                    "network.protocol.name": "http"}
        self.assertEqual(root.attributes, expected)
        self.assertEqual(set(spans) - {""}, {"guest", "instantiate"})
        for name in ("guest", "instantiate"):
            self.assertEqual((spans[name].parent, spans[name].kind), (root.id, "internal"))
            self.assertTrue(root.start <= spans[name].start <= spans[name].end <= root.end, name)
        self.assertLess(abs(root.end / 1e9 - time.time()), 60)
        self.assertGreaterEqual(spans["guest"].attributes["mik.cpu_us"], 0)

    def test_the_resource_is_the_project(self):
        _, spans = self.request()
        resource = spans[""].resource
        self.assertEqual((resource["service.name"], resource["service.version"]), ("shop", "1.2.3"))
        self.assertEqual(resource["host.name"], os.uname().nodename)
        self.assertIn(resource["process.pid"], self.server.workers())

    def test_what_fails_says_so(self):
        _, spans = self.request("/trap")
        self.assertEqual((spans[""].status, spans[""].attributes["error.type"]), (2, "502"))
        self.assertNotEqual(spans[""].message, "")
        _, spans = self.request("/status?code=404")
        self.assertEqual((spans[""].status, "error.type" in spans[""].attributes), (0, False))

    def test_what_no_module_answers_has_a_span_too(self):
        response, spans = self.request("/run/nosuch/x")
        root = spans[""]
        self.assertEqual((response.status, root.name, root.parent, root.status), (404, "GET", SPAN, 0))
        self.assertEqual((root.attributes["http.response.status_code"], root.attributes["url.path"]), (404, "/run/nosuch/x"))
        self.assertEqual(root.attributes["mik.request_id"], response.one("x-request-id"))
        self.assertEqual(root.id, response.one("traceparent").split("-")[2])
        self.assertTrue({"http.route", "mik.module"}.isdisjoint(root.attributes))
        self.assertEqual(set(spans), {""})
        response, spans = self.request("/static/a.txt")
        self.assertEqual((spans[""].name, spans[""].attributes["http.route"]), ("GET /static/*", "/static/*"))
        for path in ("/health", "/metrics"):
            trace = os.urandom(16).hex()
            self.server.get(path, [("traceparent", f"00-{trace}-{SPAN}-01")])
            self.request()
            self.assertEqual(self.collector.spans(trace=trace), [])

    def test_a_made_up_method_is_no_name(self):
        trace = os.urandom(16).hex()
        self.server.ask("FROBNICATE", "/hello", [("traceparent", f"00-{trace}-{SPAN}-01")])
        (root,) = self.collector.wait(trace=trace, kind="server")
        self.assertTrue(root.name.startswith("HTTP "), root)
        self.assertEqual((root.attributes["http.request.method"], root.attributes["http.request.method_original"]), ("_OTHER", "FROBNICATE"))

    def test_without_a_caller_a_trace_of_our_own(self):
        trace = self.server.get("/hello").one("traceparent").split("-")[1]
        (root,) = self.collector.wait(trace=trace, kind="server")
        self.assertEqual((root.parent, root.flags), ("", 0x101))

    def test_the_guest_is_given_our_span_as_parent(self):
        for fields in ([("traceparent", SAMPLED), ("tracestate", "a=1")], [("traceparent", NOT_SAMPLED)], []):
            response = self.server.get("/headers", fields)
            seen = dict(line.split(": ") for line in response.text().splitlines())
            self.assertEqual(bytes.fromhex(seen["traceparent"]).decode(), response.one("traceparent"))
            self.assertEqual(bytes.fromhex(seen.get("tracestate", "")).decode(), dict(fields).get("tracestate", ""))

    def test_outgoing_requests_are_clients_spans(self):
        with Upstream() as upstream:
            url = f"http://127.0.0.1:{upstream.port}/a?key=secret"
            response, spans = self.request(f"/fetch?url={url.replace('?', '%3F')}", [("tracestate", "a=1")])
            self.assertEqual(response.status, 200)
            span = spans["GET"]
            self.assertEqual((span.kind, span.parent), ("client", spans[""].id))
            self.assertEqual(span.attributes, {
                "http.request.method": "GET", "url.full": f"http://127.0.0.1:{upstream.port}/a", "server.address": "127.0.0.1",
                "server.port": upstream.port, "http.response.status_code": 200})
            (seen,) = upstream.seen
            self.assertEqual(seen.all("traceparent"), [f"00-{span.trace}-{span.id}-01"])
            self.assertEqual(seen.all("tracestate"), ["a=1"])

    def test_a_guests_own_span_is_the_parent_and_a_foreign_trace_is_left_alone(self):
        with Upstream() as upstream:
            trace, inner = os.urandom(16).hex(), "00000000000000aa"
            self.server.get(f"/fetch?url=http://127.0.0.1:{upstream.port}/&header=traceparent:00-{trace}-{inner}-01",
                            [("traceparent", f"00-{trace}-{SPAN}-01")])
            (span,) = self.collector.wait(trace=trace, kind="client")
            self.assertEqual(span.parent, inner)
            self.assertEqual(upstream.seen[0].all("traceparent"), [f"00-{trace}-{span.id}-01"])
            self.server.get(f"/fetch?url=http://127.0.0.1:{upstream.port}/&header=traceparent:{SAMPLED}")
            self.assertEqual(upstream.seen[1].all("traceparent"), [SAMPLED])

    def test_an_outgoing_request_that_fails(self):
        with Upstream() as upstream:
            port = upstream.port
        _, spans = self.request(f"/fetch?url=http://127.0.0.1:{port}/")
        self.assertEqual((spans["GET"].status, spans["GET"].attributes["error.type"]), (2, "connection_refused"))


class WaitingTest(Case):
    def test_a_request_that_is_turned_away(self):
        with Collector() as collector, traced(collector.url, server="max_concurrent_requests = 1") as server:
            holder = threading.Thread(target=server.get, args=("/sleep?ms=3000",))
            holder.start()
            wait_until(lambda: server.metric("mik_active_requests") == 1, 15, "the first request")
            response = server.get("/run/lab/hello")
            holder.join()
            self.assertEqual(response.status, 503)
            (root,) = collector.wait(trace=response.one("traceparent").split("-")[1], kind="server")
            self.assertEqual((root.name, root.status, root.message), ("GET /run/lab/*", 2, "too many requests at once"))
            self.assertEqual((root.attributes["mik.module"], root.attributes["error.type"]), ("lab", "503"))

    def test_a_request_that_waits_for_a_place(self):
        with Collector() as collector, traced(collector.url, server="max_concurrent_requests = 1\nqueue_ms = 10000") as server:
            holder = threading.Thread(target=server.get, args=("/sleep?ms=300",))
            holder.start()
            wait_until(lambda: server.metric("mik_active_requests") == 1, 15, "the first request")
            trace = server.get("/hello").one("traceparent").split("-")[1]
            holder.join()
            (root,) = collector.wait(trace=trace, kind="server")
            (queue,) = collector.spans(trace=trace, name="queue")
            (guest,) = collector.spans(trace=trace, name="guest")
            self.assertEqual(queue.parent, root.id)
            self.assertLessEqual(queue.end, guest.start)
            self.assertGreater(queue.end, queue.start)

    def test_a_request_that_waits_for_its_module(self):
        modules = Path(temporary_folder())
        (modules / "lab.wasm").write_bytes(LAB.read_bytes())
        with Collector() as collector:
            path = manifest(collector.url, 'protocol = "http/protobuf"', f'modules = "{modules}"')
            with Server(None, "--config", path) as server:
                trace = server.get("/run/lab/hello?a=1").one("traceparent").split("-")[1]
            (root,) = collector.spans(trace=trace, kind="server")
            (waited,) = collector.spans(trace=trace, name="compile")
            self.assertEqual((waited.parent, root.name, root.attributes["url.path"]), (root.id, "GET /run/lab/*", "/run/lab/hello"))


class SamplingTest(Case):
    def test_the_callers_decision_counts_else_the_ratio(self):
        with Collector() as collector:
            with traced(collector.url, 'protocol = "http/protobuf"\nsample_ratio = 0.0') as server:
                self.assertTrue(server.get("/hello").one("traceparent").endswith("-00"))
                self.assertTrue(server.get("/hello", [("traceparent", NOT_SAMPLED)]).one("traceparent").endswith("-00"))
                self.assertTrue(server.get("/hello", [("traceparent", SAMPLED)]).one("traceparent").endswith("-01"))
            self.assertEqual({span.parent for span in collector.spans(kind="server")}, {SPAN})  # stop() has sent all

    def test_a_ratio_is_kept(self):
        with Collector() as collector:
            with traced(collector.url, 'protocol = "http/protobuf"\nsample_ratio = 0.5') as server, server.connect() as connection:
                flags = [connection.ask("GET", "/hello").one("traceparent")[-2:] for _ in range(200)]
            self.assertTrue(50 < flags.count("01") < 150, flags.count("01"))  # 200 coins: 1e-12 that it fails by chance
            self.assertEqual(len(collector.spans(kind="server")), flags.count("01"))

    def test_g56_disabled_is_off(self):
        with Collector() as collector:
            with traced(collector.url, "enabled = false") as server:
                server.get("/hello", [("traceparent", SAMPLED)])
            self.assertEqual(collector.accepted, 0)


class CollectorsTest(Case):
    def test_g57_all_is_sent_before_the_end(self):
        with Collector() as collector:
            server = traced(collector.url, workers=2)
            traces = {server.get("/hello").one("traceparent").split("-")[1] for _ in range(20)}
            server.stop()
            self.assertEqual({span.trace for span in collector.spans(kind="server")}, traces)

    def check_served(self, server, requests=20):
        with Neighbour(server):
            for _ in range(requests):
                self.assertEqual(server.get("/hello").status, 200)

    def overflow(self, server):
        """Asks until spans are dropped for want of room."""
        def dropped():
            with server.connect() as connection:
                for _ in range(200):
                    self.assertEqual(connection.ask("GET", "/hello").status, 200)
            return server.metric('mik_trace_spans_dropped_total{reason="queue_full"}') > 0
        wait_until(dropped, 60, "a full queue")

    def test_one_that_is_not_there(self):
        with Collector() as collector:
            url = collector.url
        for protocol in ("grpc", "http/protobuf"):
            with traced(url, f'protocol = "{protocol}"') as server:
                self.check_served(server)
                server.wait_log("Traces cannot be sent", error=re.compile("refused"))
                self.overflow(server)
                self.assertEqual(len(server.find_log("Traces cannot be sent")), 1)

    def test_one_that_hangs_holds_nobody_up(self):
        with Collector() as collector:
            collector.silence()
            for protocol in ("grpc", "http/protobuf"):
                server = traced(collector.url, f'protocol = "{protocol}"')
                self.check_served(server)
                self.overflow(server)
                started = time.monotonic()
                server.stop()
                self.assertLess(time.monotonic() - started, 15)  # and not shutdown_timeout, 30 s

    def test_one_that_refuses_or_answers_garbage(self):
        answers = {"refused": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
                   "garbage": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
                   "partial": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\x0a\x02\x08\x01"}
        for name, answer in answers.items():
            with self.subTest(name), Collector() as collector:
                collector.answer_with(answer)
                with traced(collector.url) as server:
                    self.check_served(server, 5)
                    wait_until(lambda: server.metric('mik_trace_spans_dropped_total{reason="rejected"}') > 0, 15, "a count")
                    server.wait_log("Traces cannot be sent")
        with Collector() as collector:
            collector.answer_with(b"\0" * 100)
            with traced(collector.url) as server:
                self.check_served(server, 5)
                server.wait_log("Traces cannot be sent")

    def test_one_that_is_busy_is_asked_again(self):
        with Collector() as collector:
            busy = threading.Event()
            taken = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            collector.respond(lambda seen: taken if busy.is_set() else b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            with traced(collector.url) as server:
                trace = server.get("/hello").one("traceparent").split("-")[1]
                server.wait_log("Traces cannot be sent", error="HTTP status 503")
                busy.set()
                server.wait_log("Traces are sent again")
                self.assertTrue(collector.spans(trace=trace))
                wait_until(lambda: server.metric("mik_trace_spans_exported_total") > 0, 15, "a count")

    def test_an_endpoint_that_is_none_is_said_at_the_start(self):
        done = run_command("run", LAB, "-p", "0", "--config", manifest("http://me:s3cret@:4317"))
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("tracing.otlp_endpoint", done.stdout + done.stderr)
        self.assertNotIn("s3cret", done.stdout + done.stderr)


class RealCollectorTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.binary, cls.why = real_collector()

    def setUp(self):
        super().setUp()
        if self.binary is None:
            self.skipTest(self.why)

    def test_g11_an_opentelemetry_collector_understands(self):
        with RealCollector(self.binary) as collector:
            for port, protocol in ((collector.grpc, "grpc"), (collector.http, "http/protobuf")):
                with self.subTest(protocol):
                    with traced(f"http://127.0.0.1:{port}", f'protocol = "{protocol}"\nservice_name = "production-{protocol[:4]}"') as server:
                        trace, state = os.urandom(16).hex(), "vendor=1"
                        response = server.get("/hello", [("traceparent", f"00-{trace}-{SPAN}-01"), ("tracestate", state),
                                                         ("user-agent", b"caf\xe9".decode("latin-1"))])
                        self.assertFalse(server.find_log("Traces cannot be sent"))
                    collector.wait(rf"service\.name: Str\(production-{protocol[:4]}\)")
                    span = response.one("traceparent").split("-")[2]
                    collector.wait(rf"Trace ID +: {trace}\s+Parent ID +: {SPAN}\s+ID +: {span}(?s:.*?)Attributes:(?s:.*?)mik\.request_id")
                    for part in ("Kind           : Server", f"TraceState     : {state}", "http.response.status_code: Int(200)",
                                 "url.path: Str(/hello)", "InstrumentationScope mik"):
                        self.assertIn(part, collector.text)
                    self.assertRegex(collector.text, rf"Trace ID +: {trace}\s+Parent ID +: {span}\s+ID +: \w+\s+Name +: guest")

    def test_the_configuration_that_ships_is_valid(self):
        done = subprocess.run([self.binary, "validate", "--config", f"file:{ROOT}/deploy/otel/collector.yaml"], capture_output=True,
                              text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    main()
