"""SIGHUP: the configuration is read again. What can be used serves without a lost request; what cannot changes nothing."""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
import unittest
from pathlib import Path

from components import saying
from h2_test import GOAWAY, HEADERS, RST_STREAM, SETTINGS, Http2, frame
from harness import LAB, Case, Cut, Load, Server, alive, encode, main, status_kib, temporary_folder, wait_until
from proxy_test import NGINX, Nginx

SERVES = "The new configuration serves"
UNCHANGED = "The configuration was not changed"


class Configured(Server):
    """A server whose configuration is a file of its own."""

    def __init__(self, text='bind = ["127.0.0.1:0"]', workers=2, **more):
        self.folder = Path(temporary_folder())
        self.file = self.folder / "mik.toml"
        self.write(text, workers)
        super().__init__(None, "--config", self.file, workers=None, port=None, ready=False, **more)
        self.workers_count = workers
        self.wait_ready()

    component = LAB

    def write(self, text="", workers=2, component=None):
        self.file.write_text(f'[project]\nname = "reload"\n[server]\nmodules = "{component or self.component}"\n'
                             f'workers = {workers}\n{text}\n')

    def reload(self, message=SERVES, seconds=30):
        """SIGHUP, until the log has one `message` more."""
        count = len(self.find_log(message))
        self.signal(signal.SIGHUP)
        wait_until(lambda: len(self.find_log(message)) > count, seconds, message)

    def wait_environment(self, value):
        """Until a guest sees it: for a moment the old workers accept, too."""
        wait_until(lambda: value in self.get("/env").text(), 5, value)


class Folder(Configured):
    """The same with a folder of modules."""

    def __init__(self, folder, **more):
        self.component = folder
        super().__init__("", **more)

    def write(self, text="", workers=2, component=None):
        super().write(f'bind = ["127.0.0.1:0"]\n{text}', workers, component)


class Fresh:
    """Clients of http.client, which asks once and asks again for nothing: a connection for each request, or kept."""

    def __init__(self, address, clients=2, kept=False):
        self.address = address
        self.kept = kept
        self.answered = 0
        self.failures = []
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self):
        while not self._end.is_set():
            client = http.client.HTTPConnection(*self.address, timeout=15)
            try:
                while not self._end.is_set():
                    client.request("POST", "/echo", body=b"x" * 1000)
                    response = client.getresponse()
                    body = response.read()
                    closes = response.will_close
                    with self._lock:
                        self.answered += 1
                        if response.status != 200 or len(body) != 1000:
                            self.failures.append((response.status, len(body)))
                    if closes or not self.kept:
                        break
            except (OSError, http.client.HTTPException) as problem:
                with self._lock:
                    self.failures.append(repr(problem))
            finally:
                client.close()


class AppliedTest(Case):
    def test_no_request_is_lost_in_many_reloads_under_load(self):
        with Configured() as server:
            with Load(server.address, clients=4) as load, Fresh(server.address) as fresh, \
                    Fresh(server.address, kept=True) as kept:
                load.wait_answers(50)
                for value in range(12):
                    server.write(f'bind = ["127.0.0.1:0"]\nenv = {{ VALUE = "{value}" }}')
                    server.reload()
                    server.wait_environment(f"VALUE={value}")
                    load.wait_answers(1)
            self.assertEqual(load.failures, [])
            self.assertEqual(load.refused, 0)
            self.assertEqual(fresh.failures, [])
            self.assertEqual(kept.failures, [])
            self.assertGreater(fresh.answered, 50)
            self.assertGreater(kept.answered, 50)
            print(f"  answered {load.answered}, {fresh.answered} on new and {kept.answered} on kept connections; told to "
                  f"close {load.told_to_close}", flush=True)
            self.assertEqual(len(server.workers()), 2)
            self.assertEqual(server.metric("mik_workers"), 2)
            self.assertEqual(server.metric("mik_worker_restarts_total"), 0)

    def test_counters_go_on(self):
        with Configured() as server:
            for _ in range(5):
                server.get("/hello")
            before = server.metrics()
            server.reload()
            after = server.metrics()
            for name, value in before.items():
                if name.split("{")[0].endswith(("_total", "_count", "_sum", "_bucket")):
                    self.assertGreaterEqual(after[name], value, name)
            self.assertGreaterEqual(after["mik_guest_requests_total"], 5)

    def test_requests_in_flight_end_where_they_began(self):
        with Configured('bind = ["127.0.0.1:0"]\nenv = { VALUE = "old" }') as server:
            with server.connect() as sleeps, server.connect() as streams:
                sleeps.send(encode("GET", "/sleep?ms=1500"))
                streams.send(encode("GET", "/stream?n=6&ms=300"))
                self.assertIn(b"chunk 0", streams.until(b"chunk 0"))
                wait_until(lambda: server.metric("mik_active_requests") >= 2, 10)
                server.write('bind = ["127.0.0.1:0"]\nenv = { VALUE = "new" }')
                server.reload()
                server.wait_environment("VALUE=new")
                response = sleeps.response()
                self.assertEqual((response.status, response.text()), (200, "slept\n"))
                self.assertTrue(streams.rest().endswith(b"0\r\n\r\n"))
            wait_until(lambda: len(server.workers()) == 2, 10, "the end of the old workers")

    def test_an_idle_connection_is_told_at_its_next_request_or_ends_after_a_second(self):
        with Configured() as server, server.connect() as asks, server.connect() as silent:
            self.assertTrue(asks.ask("GET", "/hello").keeps_alive())
            self.assertTrue(silent.ask("GET", "/hello").keeps_alive())
            started = time.monotonic()
            server.reload()
            if time.monotonic() < started + 0.8:  # else this machine was too busy to tell
                response = asks.ask("GET", "/hello")
                self.assertEqual(response.status, 200)
                self.assertFalse(response.keeps_alive(), response)
            self.assertTrue(silent.ended(10))
            self.assertGreater(time.monotonic() - started, 0.9)

    def test_the_number_of_workers_changes(self):
        with Configured(workers=1) as server:
            server.write('bind = ["127.0.0.1:0"]', workers=2)
            server.reload()
            wait_until(lambda: len(server.workers()) == 2, 10, "two workers")
            self.assertEqual(server.metric("mik_workers"), 2)
            health = json.loads(server.get("/health").body)
            self.assertEqual((health["workers"], health["workers_ready"]), (2, 2))

    def test_more_workers_than_there_is_room_for_are_refused(self):
        with Configured(workers=1) as server:
            server.write('bind = ["127.0.0.1:0"]', workers=250)
            server.reload(UNCHANGED)
            self.assertTrue(server.find_log("workers: 250 is not from 1 to"))

    def test_limits_are_the_new_ones(self):
        with Configured() as server:
            self.assertEqual(server.get("/sleep?ms=1300").status, 200)
            server.write('bind = ["127.0.0.1:0"]\nexecution_timeout_secs = 1')
            server.reload()
            wait_until(lambda: server.get("/sleep?ms=1300").status == 504, 20, "the new limit")

    def test_many_signals_at_once_are_few_reloads(self):
        with Configured() as server:
            with Load(server.address, clients=2, pause=0.001) as load:
                for _ in range(50):
                    server.signal(signal.SIGHUP)
                server.wait_log(SERVES)

                def settled():
                    return len(server.workers()) == 2 and server.metric("mik_workers_ready") == 2
                wait_until(settled, 30, "two workers")
            self.assertEqual(load.failures, [])


@unittest.skipUnless(NGINX, "needs nginx")
class ProxyTest(Case):
    def test_behind_nginx_no_post_is_lost(self):
        """nginx keeps connections to us and never sends a POST twice."""
        with Configured() as server, Nginx(server.port) as nginx:
            with Load(nginx.address, "/echo", clients=4, tls=nginx.tls, body=b"x" * 3000) as load:
                load.wait_answers(50)
                for _ in range(8):
                    server.reload()
                    load.wait_answers(20)
            self.assertEqual(load.failures, [], nginx.errors())
            print(f"  answered {load.answered}", flush=True)


class Streams:
    """A client that has one HTTP/2 connection at a time and leaves it when it is told to (GOAWAY)."""

    OK = 0x88  # HPACK, static table: `:status: 200`

    def __init__(self, address):
        self.address = address
        self.answered = 0
        self.told_to_go = 0
        self.failures = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(20)

    def _run(self):
        while not self._end.is_set():
            try:
                with Http2(self.address) as client:
                    self._use(client)
            except (OSError, AssertionError) as problem:
                self.failures.append(repr(problem))

    def _use(self, client):
        going = False
        stream = 1
        while not going and not self._end.is_set():
            client.get(stream, b"/sleep?ms=1")
            over = False
            while not over:
                got = client.next_frame()
                if got is None:
                    raise AssertionError("the connection ended before an answer")
                kind, flags, of, payload = got
                if kind == RST_STREAM or (kind == HEADERS and of == stream and payload[0] != self.OK):
                    raise AssertionError(f"was answered {got}")
                if kind == SETTINGS and not flags & 1:
                    client.socket.sendall(frame(SETTINGS, 1, 0))
                going = going or kind == GOAWAY
                over = of == stream and bool(flags & 1)
            self.answered += 1
            stream += 2
        self.told_to_go += going


class Http2Test(Case):
    def test_nothing_is_lost_over_http_2(self):
        with Configured() as server:
            with Streams(server.address) as one, Streams(server.address) as other:
                for _ in range(8):
                    goal = one.answered + 10
                    server.reload()
                    wait_until(lambda goal=goal: one.answered > goal, 10, "answers")
            self.assertEqual(one.failures + other.failures, [])
            self.assertGreater(one.told_to_go, 2)
            print(f"  answered {one.answered + other.answered}, told to go {one.told_to_go + other.told_to_go}", flush=True)


class FolderTest(Case):
    """Modules in a folder."""

    def setUp(self):
        self.modules = Path(temporary_folder())
        self.put("hello", saying("Hello, first!"))
        self.put("lab", LAB.read_bytes())

    def put(self, name, wasm, folder=None):
        path = (folder or self.modules) / f"{name}.wasm"
        (path.parent / "part").write_bytes(wasm)
        (path.parent / "part").rename(path)

    def serve(self, **more):
        return Folder(self.modules, **more)

    def test_a_change_that_was_only_reported_is_applied(self):
        with self.serve(env={"MIK_HOT_RELOAD": "0"}) as server:
            self.assertEqual(server.get("/run/hello/").text(), "Hello, first!")
            self.put("hello", saying("Hello, again!"))
            self.put("fresh", saying("Hello, fresh!"))
            server.wait_log("module hello has changed; SIGHUP applies it")
            server.wait_log("module fresh is new; SIGHUP adds it")
            self.assertEqual(server.get("/run/hello/").text(), "Hello, first!")
            self.assertEqual(server.get("/run/fresh/").status, 404)
            with Load(server.address, "/run/hello/", clients=3, pause=0.001) as load:
                load.wait_answers(20)
                server.reload()  # of a file that did not change
                wait_until(lambda: server.get("/run/hello/").text() == "Hello, again!", 20, "the new version")
                wait_until(lambda: server.get("/run/fresh/").text() == "Hello, fresh!", 20, "the new module")
                load.wait_answers(20)
            self.assertEqual(load.failures, [])

    def test_another_folder(self):
        other = Path(temporary_folder())
        self.put("hello", saying("Hello, other!"), other)
        self.put("only", saying("Hello, alone!"), other)
        with self.serve() as server:
            self.assertEqual(server.get("/run/hello/").text(), "Hello, first!")
            self.assertEqual(server.get("/run/only/").status, 404)
            with Load(server.address, "/run/hello/", clients=3, pause=0.001) as load:
                load.wait_answers(20)
                server.write(component=other)
                server.reload()
                wait_until(lambda: server.get("/run/hello/").text() == "Hello, other!", 20, "the other folder's module")
                wait_until(lambda: server.get("/run/only/").text() == "Hello, alone!", 20, "a module that was not there")
                wait_until(lambda: server.get("/run/lab/hello").status == 404, 20, "the end of what is not there")
                load.wait_answers(20)
            self.assertEqual(load.failures, [])

    def test_settings_of_a_module(self):
        with self.serve() as server:
            self.assertNotIn("PLACE", server.get("/run/lab/env").text())
            server.write('[modules.lab]\nenv = { PLACE = "here" }\nexecution_timeout_secs = 1')
            server.reload()
            wait_until(lambda: "PLACE=here" in server.get("/run/lab/env").text(), 10, "the module's environment")
            self.assertEqual(server.get("/run/lab/sleep?ms=9000").status, 504)

    def test_a_component_in_place_of_a_folder_needs_a_restart(self):
        with self.serve() as server:
            server.write(component=LAB)
            server.reload(UNCHANGED)
            self.assertTrue(server.find_log("needs a restart"))
            self.assertEqual(server.get("/run/hello/").text(), "Hello, first!")

    def test_in_many_reloads_modules_are_compiled_once(self):
        with self.serve() as server:
            server.get("/run/hello/")
            server.get("/run/lab/hello")
            compiled = len(server.find_log("compiling module"))
            for _ in range(5):
                server.reload()
                self.assertEqual(server.get("/run/hello/").text(), "Hello, first!")
            self.assertEqual(len(server.find_log("compiling module")), compiled)


class RefusedTest(Case):
    def test_what_is_no_configuration_changes_nothing_and_is_said(self):
        with Configured('bind = ["127.0.0.1:0"]\nenv = { VALUE = "first" }') as server:
            before = server.workers()
            metrics = server.metrics()
            self.assertEqual(metrics["mik_config_last_reload_successful"], 1)
            server.write('cache_sise = 5\nexecution_timeout_secs = "long"')
            server.reload(UNCHANGED)
            # Each problem once, with its place.
            problems = [line["message"] for line in server.find_log("Reload: ")]
            for key, line in (("cache_sise", 6), ("execution_timeout_secs", 7)):
                found = [problem for problem in problems if key in problem and f"mik.toml:{line}:" in problem]
                self.assertEqual(len(found), 1, problems)
            self.assertEqual(server.workers(), before)
            server.wait_environment("VALUE=first")
            metrics = server.metrics()
            self.assertEqual(metrics["mik_config_last_reload_successful"], 0)
            self.assertEqual(metrics["mik_config_reload_failures_total"], 1)
            then = metrics["mik_config_last_reload_success_timestamp_seconds"]
            self.assertLess(abs(time.time() - then), 600)

            server.file.unlink()
            server.reload(UNCHANGED)
            self.assertEqual(server.get("/hello").status, 200)

            server.write('bind = ["127.0.0.1:0"]\nenv = { VALUE = "second" }')
            server.reload()
            server.wait_environment("VALUE=second")
            metrics = server.metrics()
            self.assertEqual(metrics["mik_config_last_reload_successful"], 1)
            self.assertEqual(metrics["mik_config_reload_failures_total"], 2)
            self.assertGreaterEqual(metrics["mik_config_last_reload_success_timestamp_seconds"], then)

    def test_a_bind_that_cannot_be_is_said_and_changes_nothing(self):
        with Configured() as server, socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            path = server.folder / "http.sock"
            port = taken.getsockname()[1]
            server.write(f'bind = ["127.0.0.1:0", "unix:{path}", "127.0.0.1:{port}"]')
            server.reload(UNCHANGED)
            self.assertTrue(server.find_log(f"port {port} is in use by"))
            self.assertFalse(path.exists())
            self.assertEqual(server.get("/hello").status, 200)


class DeathTest(Case):
    def new_workers(self, server, before):
        return [pid for pid in server.workers() if pid not in before]

    def test_kill_9_of_a_new_worker_during_a_reload(self):
        with Configured() as server:
            with Load(server.address, clients=4, pause=0.001) as load:
                for _ in range(4):
                    before = server.workers()
                    count = len(server.find_log(SERVES))
                    server.signal(signal.SIGHUP)
                    victim = wait_until(lambda b=before: self.new_workers(server, b), 10, "a new worker")[0]
                    try:
                        os.kill(victim, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                    wait_until(lambda c=count: len(server.find_log(SERVES)) > c, 30, "the reload")

                    def settled():
                        return len(server.workers()) == 2 and server.metric("mik_workers_ready") == 2
                    try:
                        wait_until(settled, 20, "two workers")
                    except (OSError, Cut):
                        pass
                load.wait_answers(50)
            # Only what the killed ones held.
            self.assertLessEqual(len(load.failures), 4 * 4)
            self.assertTrue(all(re.match(r"Cut|ConnectionReset|BrokenPipe", failure) for failure in load.failures),
                            load.failures)
            self.assertGreater(load.answered, 50)

    def test_kill_9_of_an_old_worker_during_a_reload(self):
        with Configured() as server:
            before = server.workers()
            server.signal(signal.SIGHUP)
            os.kill(before[0], signal.SIGKILL)
            server.wait_log(SERVES)
            wait_until(lambda: len(server.workers()) == 2 and not set(server.workers()) & set(before), 20, "new workers")
            self.assertEqual(server.get("/hello").status, 200)

    def test_sigterm_during_a_reload_drains_both(self):
        with Configured() as server, server.connect() as busy:
            busy.send(encode("GET", "/sleep?ms=700"))
            wait_until(lambda: server.metric("mik_active_requests") >= 1, 10)
            server.signal(signal.SIGHUP)
            server.signal(signal.SIGTERM)
            self.assertEqual(busy.response().status, 200)
            busy.close()
            self.assertEqual(server.wait_exit(), 0)

    def test_kill_9_of_the_supervisor_after_a_reload_leaves_nothing(self):
        with Configured() as server:
            server.reload()
            workers = server.workers()
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not any(alive(pid) for pid in workers), 10, "the end of the workers")
            server.kill()


class ResourceTest(Case):
    def test_many_reloads_leave_nothing_behind(self):
        with Configured(workers=1) as server:
            def figures():
                return len(os.listdir(f"/proc/{server.pid}/fd")), status_kib(server.pid, "VmRSS")
            for _ in range(5):
                server.reload()
            wait_until(lambda: len(server.workers()) == 1, 10, "the end of the old worker")
            descriptors, memory = figures()
            for _ in range(60):
                server.reload()
            wait_until(lambda: len(server.workers()) == 1, 10, "the end of the old worker")
            wait_until(lambda: figures()[0] <= descriptors, 10, "the end of the old worker's descriptors")
            self.assertLess(figures()[1], memory + 1024)


if __name__ == "__main__":
    main()
