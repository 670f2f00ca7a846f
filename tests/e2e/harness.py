"""What the end-to-end tests share: the binary as a process family of its own, its log, its metrics; waiting on what can
be seen; a neighbour that watches its own latency; clients that make load. Nothing here outlives its test."""

import atexit
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from http1 import BadFraming, Connection, Cut, encode  # noqa: F401 (for tests)

ROOT = Path(__file__).resolve().parent.parent.parent
LAB = ROOT / "tests/components/lab.wasm"
HELLO = ROOT / "examples/hello/hello.wasm"
INPUTS = ROOT / "tests/components/inputs"
# A neighbour of a bad guest should be answered within 50 ms; this machine may be shared, so failure begins later.
LATENCY_MAX = 0.250

_temporary = []


def binary():
    path = os.environ.get("MIK_BINARY")
    if not path:
        sys.exit("MIK_BINARY names no binary: run this through ctest, or set it")
    return path


def temporary_folder():
    path = tempfile.mkdtemp(prefix="mik-e2e-")
    _temporary.append(path)
    return path


@atexit.register
def _remove_temporary():
    for path in _temporary:
        shutil.rmtree(path, ignore_errors=True)


_home = None


def shared_home():
    """One state folder for a test file, so that each component is compiled once in it."""
    global _home
    if _home is None:
        _home = temporary_folder()
    return _home


def wait_until(condition, seconds=15.0, what="it"):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.005)


def environment(home, more=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith("MIK_")}
    for key in ("PORT", "HOST", "RUST_LOG", "NO_COLOR"):
        env.pop(key, None)
    env["MIK_HOME"] = str(home)
    env.update(more or {})
    return env


def run_command(*arguments, env=None, home=None, cwd=None, seconds=30):
    """The binary to its end, with captured output."""
    return subprocess.run([binary(), *map(str, arguments)], env=environment(home or shared_home(), env), cwd=cwd,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="surrogateescape",
                          timeout=seconds, start_new_session=True)


def free_port():
    """A port that was free a moment ago, for those who must be told one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- /proc

def read_proc(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def stat_fields(pid):
    """Fields of /proc/PID/stat from the third (state) on."""
    return read_proc(pid, "stat").rpartition(b")")[2].split()


def alive(pid):
    fields = stat_fields(pid)
    return bool(fields) and fields[0] != b"Z"


def cpu_seconds(pid):
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def status_kib(pid, name):
    match = re.search(rf"^{name}:\s+(\d+) kB", read_proc(pid, "status").decode(errors="replace"), re.M)
    return int(match.group(1)) if match else 0


def rss_mib(pid):
    return status_kib(pid, "VmRSS") / 1024


def anonymous_mib(pid):
    return status_kib(pid, "RssAnon") / 1024


def queued_seconds(path):
    """How long a thread stood ready without a CPU (schedstat)."""
    try:
        return int(Path(path).read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class Server:
    """`mik run` on port 0 with JSON logs. Ready when made, unless ready=False. `component` is a component, a folder of
    modules, or None: what a manifest names (flags `--config FILE`, or `cwd`). `before_exec`: called in the
    child."""

    def __init__(self, component=LAB, *flags, workers=1, home=None, env=None, ready=True, cwd=None, port=0, tls=None,
                 before_exec=None):
        self.home = home or shared_home()
        self.tls = tls  # the clients' context, for one that serves HTTPS
        served = [] if component is None else [str(component)]
        command = [binary(), "run", *served, *([] if workers is None else ["-w", str(workers)]), *([] if port is None else ["-p", str(port)]), *map(str, flags)]
        self.workers_count = workers or 1
        self.log = []
        self.garbage = []
        self.over = False
        self._arrived = threading.Condition()
        self.stderr_file = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, env=environment(self.home, env), cwd=cwd, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.stderr_file, start_new_session=True,
                                        preexec_fn=before_exec)
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            line = self.wait_log("Starting server on http")
            match = re.search(r"https?://(.*):(\d+)$", line["message"])
            self.address = (match.group(1).strip("[]"), int(match.group(2)))
            self.port = self.address[1]
            if ready:
                self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.kill()

    # ---- log

    def _read_log(self):
        for raw in self.process.stdout:
            with self._arrived:
                try:
                    self.log.append(json.loads(raw.decode("utf-8")))
                except ValueError:
                    self.garbage.append(raw)
                self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()

    def find_log(self, message, **members):
        """Lines whose message contains `message` and whose members match: equal, or a regular expression."""
        def fits(line):
            if message not in line.get("message", ""):
                return False
            return all(value.search(str(line.get(key, ""))) if isinstance(value, re.Pattern) else line.get(key) == value
                       for key, value in members.items())
        return [line for line in list(self.log) if fits(line)]

    def wait_log(self, message, seconds=30.0, **members):
        deadline = time.monotonic() + seconds
        with self._arrived:
            while True:
                found = self.find_log(message, **members)
                if found:
                    return found[-1]
                ended = not self._reader.is_alive() or self.process.poll() is not None
                if ended or not self._arrived.wait(max(0.0, min(0.2, deadline - time.monotonic()))):
                    if time.monotonic() > deadline or (ended and not self.find_log(message, **members)):
                        raise AssertionError(f"no log line with {message!r} {members}; exit {self.process.poll()}; "
                                             f"stderr {self.stderr()!r}; last: {self.log[-5:]}")

    def stderr(self):
        self.stderr_file.seek(0)
        return self.stderr_file.read().decode(errors="replace")

    # ---- requests

    def connect(self, **more):
        return Connection(self.address, tls=self.tls, **more)

    def ask(self, method, target, fields=(), body=None, patience=15.0, **more):
        """One request on a connection of its own. The connection is closed afterwards."""
        with self.connect(patience=patience) as connection:
            return connection.ask(method, target, fields, body, **more)

    def get(self, target, fields=(), **more):
        return self.ask("GET", target, fields, **more)

    def metrics(self):
        values = {}
        for line in self.get("/metrics").text().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def metric(self, name):
        return self.metrics()[name]

    def wait_idle(self, seconds=5.0):
        """Until no guest is at work."""
        wait_until(lambda: self.metric("mik_active_requests") == 0, seconds, "an end of all requests")

    # ---- processes

    def wait_ready(self, seconds=60.0):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}: {self.stderr()}")
            try:
                health = json.loads(self.get("/health/ready").body)
            except (OSError, Cut):
                return False
            return health["status"] == "ready" and health["workers_ready"] == self.workers_count
        wait_until(ready, seconds, "readiness")

    def family(self):
        """Pids of all processes of the family that live, by session."""
        pids = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                fields = stat_fields(entry)
                if fields and int(fields[3]) == self.pid and fields[0] != b"Z":
                    pids.append(int(entry))
        return pids

    def workers(self):
        """Pids of the workers, by slot."""
        found = {}
        for pid in self.family():
            match = re.match(rb"mik: worker (\d+)", read_proc(pid, "cmdline"))
            if match:
                found[int(match.group(1))] = pid
        return [found[slot] for slot in sorted(found)]

    def worker(self):
        (pid,) = self.workers()
        return pid

    def signal(self, number=signal.SIGTERM):
        os.kill(self.pid, number)

    def wait_exit(self, seconds=15.0):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s; last log {self.log[-5:]}") from None

    def stop(self, seconds=20.0):
        """SIGTERM, a clean end, nothing left behind. Does nothing after kill()."""
        if self.over:
            return
        try:
            if self.process.poll() is None:
                self.signal()
            code = self.wait_exit(seconds)
            left = [pid for pid in self.family() if alive(pid)]
            self._reader.join(5)
            errors = self.stderr()
            assert code == 0, f"exit code {code}; stderr {errors}; log {self.log[-5:]}"
            assert not left, f"processes left: {left}"
            assert not self.garbage, f"lines that are no JSON: {self.garbage[:3]}"
            assert "panicked" not in errors and "ssert" not in errors, errors
        finally:
            self.kill()

    def kill(self):
        if self.over:
            return
        self.over = True
        for _ in range(50):
            left = self.family()
            if not left and self.process.poll() is not None:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.poll()
            time.sleep(0.02)
        self.process.wait(5)
        self._reader.join(5)
        self.process.stdout.close()
        self.stderr_file.close()


class Neighbour:
    """A client of the same server that asks for /hello again and again and must be answered well all the time.

    The time that the worker or this thread stood ready without getting a CPU is this machine's, not the server's: it is
    taken off."""

    def __init__(self, server, pause=0.005, target="/hello", max_seconds=LATENCY_MAX):
        self.server = server
        self.pause = pause
        self.target = target
        self.max_seconds = max_seconds
        self.latencies = []
        self.raw_max = 0.0
        self.problems = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.latencies or self.problems, 15, "the neighbour's first answer")
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            count = len(self.latencies)
            wait_until(lambda: len(self.latencies) > count or self.problems, 15, "the neighbour's last answer")
        self._end.set()
        self._thread.join(20)
        if kind is None:
            self.check()

    def check(self):
        if self.problems:
            raise AssertionError(f"the neighbour: {self.problems[:3]} after {len(self.latencies)} answers")
        ordered = sorted(self.latencies)
        worst = ordered[-1]
        print(f"  neighbour: {len(ordered)} answers, median {ordered[len(ordered) // 2] * 1e3:.1f} ms, "
              f"max {worst * 1e3:.1f} ms (by the wall {self.raw_max * 1e3:.1f} ms)", file=sys.stderr)
        if worst > self.max_seconds:
            raise AssertionError(f"the neighbour waited {worst * 1e3:.0f} ms")

    def _run(self):
        own = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        try:
            pids = self.server.workers()
            worker = f"/proc/{pids[0]}/schedstat" if len(pids) == 1 else "/nonexistent"
            with self.server.connect() as connection:
                data = encode("GET", self.target)
                while not self._end.is_set():
                    queued = queued_seconds(own) + queued_seconds(worker)
                    start = time.monotonic()
                    connection.send(data)
                    response = connection.response()
                    took = time.monotonic() - start
                    if response.status != 200:
                        raise AssertionError(f"was answered {response}")
                    queued = queued_seconds(own) + queued_seconds(worker) - queued
                    self.raw_max = max(self.raw_max, took)
                    self.latencies.append(max(0.0, took - queued))
                    self._end.wait(self.pause)
        except Exception as problem:  # pylint: disable=broad-except
            self.problems.append(repr(problem))


class Load:
    """Clients with a keep-alive connection each, asking until stopped. A client opens a new connection when it was told
    to close, or when a request failed; `failures` has what went wrong."""

    def __init__(self, address, target="/hello", clients=4, pause=0.0, tls=None, body=None):
        self.address = address
        self.target = target
        self.pause = pause
        self.tls = tls
        self.body = body
        self.answered = 0
        self.failures = []
        self.told_to_close = 0
        self.refused = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._end.set()
        for thread in self._threads:
            thread.join(20)

    def wait_answers(self, more, seconds=15.0):
        goal = self.answered + more
        wait_until(lambda: self.answered >= goal, seconds, f"{more} more answers")

    def _run(self):
        connection = None
        method = "GET" if self.body is None else "POST"
        data = encode(method, self.target, body=self.body)
        while not self._end.is_set():
            try:
                if connection is None:
                    connection = Connection(self.address, tls=self.tls)
            except OSError:
                with self._lock:
                    self.refused += 1
                self._end.wait(0.01)
                continue
            try:
                connection.send(data)
                response = connection.response(method)
                with self._lock:
                    if response.status == 200:
                        self.answered += 1
                    else:
                        self.failures.append(str(response))
                    self.told_to_close += 0 if response.keeps_alive() else 1
                if not response.keeps_alive():
                    connection.close()
                    connection = None
            except (OSError, Cut, BadFraming) as problem:
                with self._lock:
                    self.failures.append(repr(problem))
                connection.close()
                connection = None
            self._end.wait(self.pause)
        if connection is not None:
            connection.close()


class Case(unittest.TestCase):
    """Base of all tests: problem answers, and names in failures."""

    def assert_problem(self, response, status):
        """RFC 9457 with our two members."""
        self.assertEqual(response.status, status, response)
        self.assertEqual(response.one("content-type"), "application/problem+json", response)
        problem = json.loads(response.body)
        self.assertEqual(problem["status"], status)
        self.assertIsInstance(problem["error"], str)
        self.assertTrue(problem["title"])
        self.assertTrue(problem["detail"])
        return problem


def known_bug(what):
    """A test that is right and fails for a bug that is known: skipped with `what` while it fails."""
    def decorate(test):
        @functools.wraps(test)
        def run(self):
            try:
                test(self)
            except Exception as problem:  # pylint: disable=broad-except
                self.skipTest(f"known bug: {what} ({str(problem)[:200]})")
            print(f"  passes, this time at least: {what}", file=sys.stderr)
        return run
    return decorate


def main():
    unittest.main(verbosity=2, warnings="ignore")
