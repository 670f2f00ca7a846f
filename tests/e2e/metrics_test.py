"""/metrics: each metric moves by its cause, both formats are what they say, and a scrape of many modules holds up nobody.
A family for which nobody here knows a cause fails the last test of CausesTest."""

import gzip
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from components import heavy, tagged
from exposition import Exposition
from harness import HELLO, LAB, ROOT, Case, Cut, Server, encode, main, temporary_folder, wait_until
from upstream import Upstream

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_3 = "application/openmetrics-text;version=1.0.0;q=0.6, text/plain;version=0.0.4;q=0.5, */*"
# Shown by tests that have what it takes: there the name stands.
ELSEWHERE = {
    "mik_accept_errors_total": "tests/e2e/binds_test.py",
    "mik_tls_handshake_failures_total": "tests/e2e/tls_test.py",
    "mik_log_lines_dropped_total": "tests/e2e/logs_test.py",
    "mik_trace_spans_exported_total": "tests/e2e/tracing_test.py",
    "mik_trace_spans_dropped_total": "tests/e2e/tracing_test.py",
    "mik_config_last_reload_success_timestamp_seconds": "tests/e2e/reload_test.py",
}


def serve(manifest="", modules=None, tenants=None, **more):
    folder = Path(temporary_folder())
    for kind, files in (("modules", modules or {"lab": LAB}), ("tenants", tenants or {})):
        (folder / kind).mkdir()
        for name, wasm in files.items():
            path = folder / kind / f"{name}.wasm"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(wasm if isinstance(wasm, bytes) else wasm.read_bytes())
    (folder / "mik.toml").write_text('server.modules = "modules/"\nserver.user_modules = "tenants/"\n' + manifest)
    server = Server(None, cwd=folder, home=temporary_folder(), **more)
    server.folder = folder
    return server


def read(server):
    response = server.get("/metrics")
    assert response.status == 200, response
    return Exposition(response.text())


def family_of(sample, families):
    name = sample.partition("{")[0]
    return next(each for each in (name, *(name.removesuffix(suffix) for suffix in ("_bucket", "_sum", "_count"))) if each in families)


class CausesTest(Case):
    """One server; each cause, and what must have moved after it."""

    proven = set()
    families = set()

    @classmethod
    def setUpClass(cls):
        cls.upstream = Upstream().__enter__()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            cls.closed_port = free.getsockname()[1]
        cls.pattern = f"127.0.0.1:{cls.upstream.port}"
        cls.closed = f"127.0.0.1:{cls.closed_port}"
        cls.server = serve(f"""
server.max_connections = 40
server.http_allowed = ["{cls.pattern}", "{cls.closed}"]
[breaker]
failures = 3
open_secs = 60
[modules.narrow]
max_requests = 1
""", {"lab": LAB, "trap": tagged(LAB.read_bytes(), "t"), "narrow": tagged(LAB.read_bytes(), "n"),
      "slow": heavy(HELLO.read_bytes()), "bad": b"this is no component"}, {"acme/app": tagged(LAB.read_bytes(), "a")})

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.upstream.__exit__()

    def moved(self, before, *samples, by=0.0):
        """Until each sample is more than it was by more than `by`."""
        def all_moved():
            now = read(self.server)
            type(self).families |= set(now.families)
            return all(now.samples.get(sample, 0) > before.samples.get(sample, 0) + by for sample in samples) and now
        try:
            now = wait_until(all_moved, 20, "a move")
        except AssertionError:
            now = read(self.server)
            self.fail({sample: (before.samples.get(sample), now.samples.get(sample)) for sample in samples})
        self.prove(*samples)
        return now

    def prove(self, *samples):
        for sample in samples:
            type(self).proven.add(family_of(sample, self.families))

    def test_a_request_to_a_module_that_nobody_has_asked_for(self):
        before = read(self.server)
        for _ in range(2):
            self.assertEqual(self.server.get("/run/lab/hello").status, 200)
        lab = '{module="lab"}'
        now = self.moved(
            before, 'mik_http_requests_total{status="2xx"}', "mik_http_request_duration_seconds_count",
            "mik_http_request_duration_seconds_sum", "mik_queue_duration_seconds_sum", "mik_guest_requests_total",
            "mik_wasm_execution_duration_seconds_sum", "mik_wasm_instantiation_duration_seconds_sum",
            "mik_http_response_body_bytes_total", "mik_connections_accepted_total", "mik_module_cache_hits_total",
            "mik_module_cache_misses_total", "mik_module_cache_size_bytes", "mik_cache_entries", "mik_cache_bytes",
            "mik_requests_total", "mik_compiles_total", "mik_compile_seconds_total", 'mik_loop_lag_seconds_sum{worker="0"}',
            "mik_module_requests_total" + lab, 'mik_module_responses_total{module="lab",status="2xx"}',
            "mik_module_request_duration_seconds_sum" + lab, "mik_module_execution_seconds_total" + lab,
            "mik_module_instantiation_seconds_total" + lab, "mik_module_queue_seconds_total" + lab,
            "mik_module_cpu_seconds_total" + lab, "mik_module_response_body_bytes_total" + lab,
            "mik_module_hits_total" + lab, "mik_module_loads_total" + lab, "mik_module_loaded" + lab)
        self.assertEqual(now.samples["mik_module_requests_total" + lab], 2)
        self.assertEqual(now.samples['mik_module_request_duration_seconds_bucket{module="lab",le="+Inf"}'], 2)
        self.assertEqual(now.samples["mik_modules{state=\"all\"}"], 6)
        self.assertGreater(now.samples["mik_wasm_instances_max"], 0)
        self.assertGreater(now.samples["mik_memory_bytes"], 1 << 20)
        self.assertGreater(now.samples["mik_cache_capacity_bytes"], 1 << 20)
        self.assertGreater(now.samples["mik_max_concurrent_requests"], 1)
        self.assertEqual((now.samples["mik_workers"], now.samples["mik_workers_ready"]), (1, 1))
        self.assertGreater(now.samples['mik_loop_lag_max_seconds{worker="0"}'], 0)
        self.prove("mik_modules", "mik_wasm_instances_max", "mik_memory_bytes", "mik_cache_capacity_bytes",
                   "mik_max_concurrent_requests", "mik_workers", "mik_workers_ready", "mik_loop_lag_max_seconds")

    def test_content(self):
        before = read(self.server)
        self.assertEqual(self.server.ask("POST", "/run/lab/echo", body=b"x" * 5000).status, 200)
        now = self.moved(before, "mik_http_request_body_bytes_total", 'mik_module_request_body_bytes_total{module="lab"}',
                         by=4999)
        self.assertEqual(now.samples["mik_http_request_body_bytes_total"], before.samples["mik_http_request_body_bytes_total"] + 5000)

    def test_a_guest_that_fails_and_its_breaker(self):
        before = read(self.server)
        for _ in range(3):
            self.assertEqual(self.server.get("/run/trap/trap").status, 502)
        self.assertEqual(self.server.get("/run/trap/hello").status, 503)
        now = self.moved(before, 'mik_guest_failures_total{reason="trap"}', 'mik_http_requests_total{status="5xx"}',
                         'mik_module_failures_total{module="trap",reason="trap"}',
                         'mik_module_refused_total{module="trap",by="breaker"}', 'mik_circuit_breaker_state{module="trap"}')
        self.assertEqual(now.samples['mik_circuit_breaker_state{module="trap"}'], 1)
        self.assertEqual(now.samples['mik_module_responses_total{module="trap",status="5xx"}'], 4)

    def test_requests_in_flight_of_a_tenant_and_a_client_that_leaves(self):
        before = read(self.server)
        app = '{module="acme/app",tenant="acme"}'
        gauges = ["mik_active_requests", "mik_active_connections", "mik_wasm_instances", "mik_module_active_requests" + app,
                  "mik_module_memory_bytes" + app, 'mik_tenant_active_requests{tenant="acme"}',
                  'mik_tenant_memory_bytes{tenant="acme"}']
        with self.server.connect() as connection:
            connection.send(encode("GET", "/tenant/acme/app/sleep?ms=60000"))
            self.moved(before, *gauges)
        now = self.moved(before, "mik_client_gone_total")
        wait_until(lambda: read(self.server).samples['mik_tenant_memory_bytes{tenant="acme"}'] == 0, 10, "its end")
        self.assertEqual(now.samples["mik_module_active_requests" + app], 0)

    def test_a_request_that_waits_for_a_long_compilation(self):
        before = read(self.server)
        with self.server.connect(patience=60) as connection:
            connection.send(encode("GET", "/run/slow/"))
            now = self.moved(before, "mik_waiting_requests")
            self.assertIn('mik_modules{state="compiling"}', now.samples)
            connection.response()

    def test_a_file_that_is_no_component(self):
        before = read(self.server)
        self.assertEqual(self.server.get("/run/bad/").status, 502)
        self.moved(before, "mik_compile_failures_total", 'mik_modules{state="broken"}')

    def test_a_limit(self):
        before = read(self.server)
        with self.server.connect() as connection:
            connection.send(encode("GET", "/run/narrow/sleep?ms=60000"))
            wait_until(lambda: read(self.server).samples.get('mik_module_active_requests{module="narrow"}') == 1, 20, "one")
            self.assertEqual(self.server.get("/run/narrow/hello").status, 429)
            self.moved(before, 'mik_module_refused_total{module="narrow",by="module"}')

    def test_outgoing_requests_are_by_pattern(self):
        before = read(self.server)
        for port in (self.upstream.port, self.closed_port, 1):
            self.server.get(f"/run/lab/fetch?url=http://127.0.0.1:{port}/")
        self.moved(before, f'mik_outbound_requests_total{{pattern="{self.pattern}",outcome="answered"}}',
                   f'mik_outbound_requests_total{{pattern="{self.closed}",outcome="failed"}}', "mik_outbound_refused_total",
                   'mik_module_outbound_requests_total{module="lab"}')

    def test_a_reload_that_cannot_be(self):
        before = read(self.server)
        path = self.server.folder / "mik.toml"
        good = path.read_text()
        path.write_text(good + "\n[nonsense\n")
        self.server.signal(signal.SIGHUP)
        now = self.moved(before, "mik_config_reload_failures_total")
        self.assertEqual(now.samples["mik_config_last_reload_successful"], 0)
        self.prove("mik_config_last_reload_successful")
        path.write_text(good)

    def test_too_many_connections(self):
        before = read(self.server)
        connections = [socket.create_connection(self.server.address) for _ in range(45)]
        try:
            wait_until(lambda: any(self._is_closed(connection) for connection in connections), 10, "a refusal")
        finally:
            for connection in connections:
                connection.close()
        wait_until(lambda: self._reachable(), 10, "room")
        self.moved(before, "mik_connections_refused_total")

    @staticmethod
    def _is_closed(connection):
        connection.setblocking(False)
        try:
            return bool(connection.recv(1, socket.MSG_PEEK)) or True
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _reachable(self):
        try:
            return self.server.get("/health").status == 200
        except (OSError, Cut):
            return False

    def test_x_the_death_of_a_worker(self):
        before = read(self.server)
        os.kill(self.server.worker(), signal.SIGKILL)
        wait_until(self._reachable, 20, "a worker")
        now = self.moved(before, "mik_worker_restarts_total")
        for sample, value in before.samples.items():
            kind = now.families[family_of(sample, now.families)]
            if kind != "gauge":
                self.assertGreaterEqual(now.samples[sample], value, sample)

    def test_y_connections_handed_over(self):
        """Of several workers, one that has many passes new ones on."""
        with Server(LAB, workers=2) as server:
            def handed():
                connections = [socket.create_connection(server.address) for _ in range(64)]
                value = server.metric("mik_connections_handed_over_total")
                for connection in connections:
                    connection.close()
                return value > 0
            wait_until(handed, 20, "a hand-over")
        self.prove("mik_connections_handed_over_total")

    def test_z_no_family_is_without_a_cause(self):
        for name, file in ELSEWHERE.items():
            self.assertIn(name, (ROOT / file).read_text())
        self.assertEqual(sorted(self.families - self.proven - set(ELSEWHERE)), [])
        documented = set(re.findall(r"`(mik_[a-z_]+)(?:\{\w+\})?`", (ROOT / "docs/reference/metrics.md").read_text()))
        self.assertEqual(documented, self.families)


class FormatTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = serve(modules={"lab": LAB, "quiet": HELLO})
        for _ in range(3):
            cls.server.get("/run/lab/hello")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_field_46_what_accept_asks_for(self):
        for accept in (None, "*/*", "text/plain", "text/plain;version=0.0.4;q=0.5, application/openmetrics-text;q=0.1"):
            response = self.server.get("/metrics", [("Accept", accept)] if accept else [])
            self.assertEqual(response.one("content-type"), "text/plain; version=0.0.4; charset=utf-8", accept)
            text = Exposition(response.text())
            self.assertFalse(text.exemplars)
            self.assertNotIn("# EOF", response.text())
        response = self.server.get("/metrics", [("Accept", PROMETHEUS_3)])
        self.assertEqual(response.one("content-type"), OPEN_METRICS)
        self.assertIn("accept", response.one("vary").lower())
        opened = Exposition(response.text(), open_metrics=True)
        self.assertEqual({re.sub("_total$", "", name) for name in text.families}, set(opened.families))
        self.assertNotIn("module=\"quiet\"", response.text())

    def test_an_exemplar_has_the_trace_of_a_request(self):
        # The second is answered without a guest.
        for path, trace in (("/run/lab/sleep?ms=30", "0af7651916cd43dd8448eb211c80319c"),
                            ("/run/none/", "1af7651916cd43dd8448eb211c80319c")):
            def found(path=path, trace=trace):
                self.server.get(path, [("traceparent", f"00-{trace}-b7ad6b7169203331-01")])
                text = self.server.get("/metrics", [("Accept", PROMETHEUS_3)]).text()
                exemplars = Exposition(text, open_metrics=True).exemplars.values()
                return any(labels == f'trace_id="{trace}"' for labels, _ in exemplars)
            wait_until(found, 10, "an exemplar")

    def test_head_and_compression(self):
        full = self.server.get("/metrics")
        head = self.server.ask("HEAD", "/metrics")
        self.assertEqual(head.status, 200)
        self.assertEqual(head.body, b"")
        self.assertEqual(head.one("content-type"), full.one("content-type"))
        packed = self.server.get("/metrics", [("Accept-Encoding", "gzip")])
        self.assertEqual(packed.status, 200)
        if packed.all("content-encoding"):
            Exposition(gzip.decompress(packed.body).decode())

    def test_the_alerts_that_ship_ask_for_what_there_is(self):
        text = Exposition(self.server.get("/metrics").text())
        rules = (ROOT / "deploy/prometheus/mik.rules.yml").read_text()
        asked = re.findall(r"\b(mik_[a-z_]+)(?:\{([^}]*)\})?", "\n".join(re.findall(r"^ +expr: (.*)$", rules, re.M)))
        self.assertGreater(len(asked), 10)
        for name, labels in asked:
            family = re.sub("_bucket$", "", name)
            self.assertIn(family, text.families)
            if labels:
                self.assertIn(f"{name}{{{labels.replace('!=', '=')}}}", text.samples)
        alerts = re.findall(r"^ +- alert: (\w+)$", rules, re.M)
        self.assertEqual(len(alerts), len(set(alerts)))
        self.assertEqual(len(re.findall("^ +expr: ", rules, re.M)), len(alerts))

    def test_prometheus_own_linter_has_no_objection(self):
        """What `promtool check metrics` runs, where it has been built (or promtool itself is there)."""
        tool = shutil.which("promtool")
        if tool:
            command = [tool, "check", "metrics"]
        else:
            built = subprocess.run([str(ROOT / "tests/tools/promlint/build"), "--cached"], capture_output=True, text=True)
            if built.returncode == 77:
                self.skipTest(built.stderr.strip())
            command = [built.stdout.strip()]
        done = subprocess.run(command, input=self.server.get("/metrics").body, capture_output=True, timeout=60)
        self.assertEqual((done.returncode, (done.stdout + done.stderr).decode()), (0, ""))


class ManyModulesTest(Case):
    def test_a_scrape_of_a_thousand_modules(self):
        names = [f"m{number}" for number in range(1000)]
        wasm = HELLO.read_bytes()
        with serve(modules={name: wasm for name in names}, manifest="server.cache_size = 1100\n") as server:
            with server.connect(patience=60) as connection:
                for name in names:
                    self.assertEqual(connection.ask("GET", f"/run/{name}/").status, 200)
                took = []
                for _ in range(5):
                    start = time.monotonic()
                    text = connection.ask("GET", "/metrics").text()
                    took.append(time.monotonic() - start)
            values = Exposition(text).samples
            self.assertEqual(sum(value for key, value in values.items() if key.startswith("mik_module_requests_total")), 1000)
            lag = values['mik_loop_lag_max_seconds{worker="0"}']
            print(f"  1000 modules: {len(text) / 1e6:.1f} MB; scrapes took {', '.join(f'{1e3 * each:.0f}' for each in took)} ms; "
                  f"the longest turn of the loop {1e3 * lag:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
