#!/usr/bin/env python3
"""The memory budget, in the box that the guide calls the minimum: 512 MB, no swap (g2). Needs leave to make a control
group; skipped where there is none."""

import json
import os
import resource
import sys
import threading
import time
import unittest
from pathlib import Path

from components import heavy
from harness import HELLO, LAB, Case, Server, anonymous_mib, main, temporary_folder, wait_until

BYTES = 512 << 20
GUIDE = """
[project]
name = "production-api"
version = "1.0.0"
[server]
port = 3000
modules = "modules/"
cache_size = 100
max_cache_mb = 512
execution_timeout_secs = 30
max_concurrent_requests = 2000
max_per_module_requests = 50
shutdown_timeout_secs = 60
log_max_size_mb = 50
log_max_files = 10
http_allowed = ["*.internal.example.com"]
[tracing]
service_name = "production-api"
otlp_endpoint = "http://tempo:4317"
"""


class ControlGroup:
    """A memory control group of version 2 or 1 below this process's own, limited to BYTES without swap."""

    def __init__(self):
        self.path = None
        own = dict()
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(","):
                own[name] = path
        name = f"mik-test-{os.getpid()}"
        v1 = Path("/sys/fs/cgroup/memory")
        try:
            if "memory" in own and v1.is_dir():
                self.path = v1 / name
                self.path.mkdir()
                (self.path / "memory.limit_in_bytes").write_text(str(BYTES))
                (self.path / "memory.swappiness").write_text("0")
                self.kills = lambda: self._number("memory.oom_control", "oom_kill ")
                self.peak = lambda: self._number("memory.max_usage_in_bytes", "")
            else:
                self.path = Path("/sys/fs/cgroup") / name
                self.path.mkdir()
                (self.path / "memory.max").write_text(str(BYTES))
                swap = self.path / "memory.swap.max"
                if swap.exists():
                    swap.write_text("0")
                self.kills = lambda: self._number("memory.events", "oom_kill ")
                self.peak = lambda: self._number("memory.peak", "")
        except OSError as problem:
            self.remove()
            raise unittest.SkipTest(f"no control group can be made here: {problem}") from None

    def _number(self, file, prefix):
        for line in (self.path / file).read_text().splitlines():
            if line.startswith(prefix):
                return int(line[len(prefix):])
        return 0

    def enter(self):
        """In a child, before it becomes the server."""
        (self.path / "cgroup.procs").write_text("0")

    def remove(self):
        if self.path is not None and self.path.is_dir():
            wait_until(lambda: self._try_remove(), 10, "an empty control group")

    def _try_remove(self):
        try:
            self.path.rmdir()
            return True
        except OSError:
            return not self.path.is_dir()


class AddressSpace(Case):
    """`ulimit -v` leaves no room for a pool. Workers did not start: the engine's scans, which only a pool has, were missed."""

    def test_a_limit_costs_speed_only(self):
        def limited():
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        with Server(before_exec=limited, home=temporary_folder()) as server:
            server.wait_log("Address space is limited")
            for _ in range(3):
                self.assertEqual(server.get("/hello").status, 200)
            self.assertEqual(server.get("/trap").status, 502)
            self.assertEqual(server.get("/hello").status, 200)


class LargeMemories(Case):
    """What guests leave is given back, whether in pieces between other work or at once: none of it stays."""

    def test_come_back(self):
        with Server(workers=1, home=temporary_folder()) as server:
            self.assertEqual(server.get("/hello").status, 200)
            worker = server.workers()[0]
            before = anonymous_mib(worker)
            for _ in range(8):
                self.assertEqual(server.get("/hog?mb=100").status, 200)
                self.assertEqual(server.get("/hello").status, 200)
            wait_until(lambda: anonymous_mib(worker) < before + 16, 10, "memory that was given back")


class MinimumBox(Case):
    def setUp(self):
        self.group = ControlGroup()
        self.addCleanup(self.group.remove)
        self.folder = Path(temporary_folder())
        (self.folder / "modules").mkdir()
        (self.folder / "mik.toml").write_text(GUIDE)
        (self.folder / "modules/lab.wasm").write_bytes(LAB.read_bytes())

    def server(self):
        return Server(None, "--config", self.folder / "mik.toml", workers=2, home=temporary_folder(),
                      before_exec=self.group.enter)

    def test_g2_two_thousand_large_guests_during_a_large_compile(self):
        statuses = {}
        lock = threading.Lock()
        with self.server() as server:
            self.assertEqual(server.get("/run/lab/hello").status, 200)
            left = iter(range(2000))

            def client():
                with server.connect(patience=60) as connection:
                    for _ in iter(lambda: self.take(left, lock), None):
                        status = 0
                        while status != 200:
                            response = connection.ask("GET", "/run/lab/hog?mb=20")
                            status = response.status
                            with lock:
                                statuses[status] = statuses.get(status, 0) + 1
                            if status != 200:
                                self.assertIn(status, (429, 503), response)
                                self.assertTrue(response.one("retry-after"))
                                time.sleep(0.02)

            threads = [threading.Thread(target=client, daemon=True) for _ in range(16)]
            for thread in threads:
                thread.start()
            (self.folder / "modules/heavy.wasm").write_bytes(heavy(HELLO.read_bytes(), 30000))
            answer = wait_until(lambda: self.served(server), 100, "the large module")
            self.assertEqual(answer.text(), "Hello, World!")
            for thread in threads:
                thread.join(100)
                self.assertFalse(thread.is_alive(), statuses)
            print(f"  statuses {statuses}, peak {self.group.peak() >> 20} MiB of 512", file=sys.stderr)
            self.assertEqual(statuses[200], 2000, statuses)
            self.assertEqual(set(statuses) - {200, 429, 503}, set())
            self.assertEqual(self.group.kills(), 0)
            self.assertEqual(json.loads(server.get("/health").body)["status"], "ready")

    def take(self, left, lock):
        with lock:
            return next(left, None)

    def served(self, server):
        response = server.get("/run/heavy/", patience=60)
        return response if response.status == 200 else None

    def test_a_guest_that_finds_no_memory_in_the_budget_is_503(self):
        manifest = GUIDE.replace("[server]", "[server]\nmemory_budget_mb = 64")
        (self.folder / "mik.toml").write_text(manifest)
        with self.server() as server:
            response = server.get("/run/lab/hog?mb=100")
            self.assert_problem(response, 503)
            self.assertTrue(response.one("retry-after"))
            self.assert_problem(server.get("/run/lab/hog?mb=200"), 503)
            self.assertEqual(server.get("/run/lab/hog?mb=20").status, 200)


if __name__ == "__main__":
    main()
