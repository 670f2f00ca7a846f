"""Breaker, permits and the queue before them, over two workers: who is refused, with what, and when he is let in again."""

import os
import signal
import threading
from pathlib import Path

from harness import LAB, Case, Server, encode, main, temporary_folder, wait_until

MANIFEST = """
[server]
port = 3000
modules = "app.wasm"
execution_timeout_secs = 5
"""


def serve(more="", breaker="", workers=2):
    folder = Path(temporary_folder())
    (folder / "app.wasm").write_bytes(LAB.read_bytes())
    (folder / "mik.toml").write_text(MANIFEST + more + "[breaker]\n" + breaker)
    return Server(None, workers=workers, cwd=folder)


class BreakerTest(Case):
    def fail(self, server, times, target="/trap"):
        for _ in range(times):
            self.assertEqual(server.get(target).status, 502)

    def assert_open(self, server):
        response = server.get("/hello")
        problem = self.assert_problem(response, 503)
        self.assertEqual(problem["error"], "circuit breaker open for module 'app'")
        return int(response.one("retry-after"))

    def test_five_failures_in_a_row_open_it_for_all_workers(self):
        with serve() as server:
            # A failure is recorded before its answer is out, a success once all of it is: on one connection before the
            # next request is read, while another worker may be asked a moment too early.
            with server.connect() as connection:
                statuses = [connection.ask("GET", target).status
                            for target in ["/trap"] * 4 + ["/hello"] + ["/trap"] * 5 + ["/hello"]]
            self.assertEqual(statuses, [502] * 4 + [200] + [502] * 5 + [503])
            for _ in range(20):  # whichever worker is asked
                self.assertIn(self.assert_open(server), range(1, 31))
            self.assertEqual(server.get("/health").status, 200)
            self.assertEqual(server.get("/metrics").status, 200)

    def test_g19_it_closes_after_a_probe_and_opens_after_a_bad_one(self):
        with serve(breaker="open_secs = 1\n") as server:
            self.fail(server, 5)
            self.assertEqual(self.assert_open(server), 1)
            wait_until(lambda: server.get("/trap").status == 502, 10, "a probe")
            self.assert_open(server)
            wait_until(lambda: server.get("/hello").status == 200, 10, "a probe that succeeds")
            self.fail(server, 4)
            self.assertEqual(server.get("/hello").status, 200, "it counts from nothing")

    def test_g22_a_probe_whose_client_leaves_is_no_answer(self):
        with serve(breaker="open_secs = 1\nprobes = 1\n") as server:
            self.fail(server, 5)

            def probe_begins():
                connection = server.connect()
                connection.send(encode("GET", "/sleep?ms=4000"))
                if server.metric("mik_active_requests") == 1:
                    return connection
                connection.close()
                return None
            probe = wait_until(probe_begins, 10, "a probe")
            self.assert_open(server)
            probe.close()
            wait_until(lambda: server.get("/hello").status == 200, 4, "another probe in its place")

    def test_g24_what_counts(self):
        with serve() as server:
            for _ in range(6):
                self.assertEqual(server.get("/status?code=500").status, 500)
                self.assertEqual(server.get("/status?code=404").status, 404)
            for _ in range(6):
                with server.connect() as connection:
                    connection.send(encode("GET", "/sleep?ms=4000"))
                    wait_until(lambda: server.metric("mik_active_requests") == 1, 5, "the request's start")
                server.wait_idle()
            self.fail(server, 4, "/no-response")
            self.assertEqual(server.get("/hello").status, 200)
        with serve(breaker="guest_5xx = true\n") as server:
            for _ in range(5):
                self.assertEqual(server.get("/status?code=500").status, 500)
            self.assert_open(server)

    def test_timeouts_and_memory_count(self):
        with serve("memory_limit_bytes = 33554432\n", "failures = 2\n", workers=1) as server:
            self.assertEqual(server.get("/hog?mb=64").status, 507)
            self.assertEqual(server.get("/sleep?ms=60000").status, 504)
            self.assert_open(server)


class PermitsTest(Case):
    def hold(self, server, count, target="/sleep?ms=4500"):
        """Connections with a request each that holds a permit."""
        before = server.metric("mik_active_requests")
        connections = []
        for i in range(count):
            connections.append(server.connect(patience=20))
            connections[-1].send(encode("GET", target))
            wait_until(lambda wanted=before + i + 1: server.metric("mik_active_requests") == wanted, 5, "a permit taken")
        return connections

    def test_a_full_module_is_429_and_a_full_server_503(self):
        with serve("max_concurrent_requests = 4\nmax_per_module_requests = 3\n") as server:
            held = self.hold(server, 3)
            refused = server.get("/hello")
            problem = self.assert_problem(refused, 429)
            self.assertEqual(problem["error"], "rate limit exceeded: Module 'app' overloaded (max 3 concurrent)")
            self.assertIn(int(refused.one("retry-after")), range(1, 31))
            line = server.wait_log("Request failed", request_id=refused.one("x-request-id"))
            self.assertEqual((line["module"], line["status"], line["category"], line["error"], line["path"]),
                             ("app", 429, "overload", problem["error"], "/hello"))
            for connection in held:
                self.assertEqual(connection.response().status, 200)
                connection.close()
        with serve("max_concurrent_requests = 2\nmax_per_module_requests = 2\n") as server:
            held = self.hold(server, 2)
            for _ in range(10):
                self.assertIn(server.get("/hello").status, (429, 503))
            self.assertEqual(server.get("/health").status, 200)
            for connection in held:
                connection.close()
            wait_until(lambda: server.get("/hello").status == 200, 5, "a permit that comes back")

    def test_the_permits_of_a_dead_worker_come_back(self):
        with serve("max_concurrent_requests = 4\nmax_per_module_requests = 4\n") as server:
            held = self.hold(server, 4, "/sleep?ms=60000")
            self.assertIn(server.get("/hello").status, (429, 503))
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
            server.wait_ready()
            for connection in held:
                connection.close()
            self.assertEqual(server.metric("mik_active_requests"), 0)
            for connection in self.hold(server, 4):
                connection.close()

    def test_who_waits_is_served_in_his_time_or_refused(self):
        with serve("max_concurrent_requests = 10\nmax_per_module_requests = 10\nqueue_ms = 60000\n") as server:
            statuses = []
            threads = [threading.Thread(target=lambda: statuses.append(server.get("/sleep?ms=50").status)) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            self.assertEqual(statuses, [200] * 20)
            self.assertEqual(server.metric("mik_active_requests"), 0)
        with serve("max_concurrent_requests = 1\nmax_per_module_requests = 1\nqueue_ms = 50\n") as server:
            held = self.hold(server, 1)
            refused = server.get("/hello")
            self.assertIn(refused.status, (429, 503))
            self.assertIn(int(refused.one("retry-after")), range(1, 31))
            held[0].close()
            wait_until(lambda: server.get("/hello").status == 200, 5, "a permit that comes back")

    def test_who_leaves_while_he_waits_is_forgotten(self):
        with serve("max_concurrent_requests = 1\nmax_per_module_requests = 1\nqueue_ms = 30000\n", workers=1) as server:
            held = self.hold(server, 1, "/sleep?ms=4900")
            for _ in range(5):
                with server.connect() as waits:
                    waits.send(encode("GET", "/trap"))
            held[0].close()
            wait_until(lambda: server.get("/hello").status == 200, 5, "a permit that comes back")
            server.wait_idle()
            self.assertEqual(server.find_log("Request failed", path="/trap", status=502), [])


if __name__ == "__main__":
    main()
