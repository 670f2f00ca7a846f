"""Load and what it costs the server: wrk in a window, a family's usage over it; strace; starts until the first answer;
guests that never end."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import procs
from servers import Server
from tools import Missing, find

HERE = Path(__file__).resolve().parent
# System calls that are the pace of a clock or of threads that wait for each other, not work for a request.
WAITING = {"clock_nanosleep", "nanosleep", "ppoll", "futex", "restart_syscall", "sched_yield", "timer_settime",
           "rt_sigreturn"}


def run_wrk(url, connections, seconds, cores, body=0, spread=0, accept=""):
    """One run of wrk on these cores, over so many modules in turn (wrk.lua), with that Accept-Encoding. Errors are counted in the answer; a run
    without any answer is one, too."""
    threads = min(len(cores), connections, 2)
    command = [find("wrk", "wrk"), "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "--timeout", "30s",
               "-s", str(HERE / "wrk.lua"), url]
    with procs.pinned(cores):
        done = subprocess.run(command, env={**os.environ, "BENCH_BODY": str(body), "BENCH_SPREAD": str(spread),
                                             "BENCH_ACCEPT": accept},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 60, check=False)
    match = re.search(r"^\{.*\}$", done.stdout, re.M)
    if match is None:
        raise Missing(f"wrk on {url} said nothing that we understand: {(done.stderr or done.stdout)[-400:]}")
    answer = json.loads(match.group(0))
    answer["errors"] = sum(answer.pop(key) for key in ("connect", "read", "write", "status", "timeout"))
    return answer


def _own_seconds():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def paced(server, path, rate, seconds, cores):
    """CPU us per request of a family that has so many requests a second and is idle in between: each finds the caches and
    the core as cold as that leaves them."""
    with procs.pinned(cores), socket.create_connection(server.address, timeout=30) as connection:
        before = procs.Usage.of_session(server.process.pid)
        begin = time.perf_counter()
        count = int(rate * seconds)
        for index in range(count):
            time.sleep(max(0.0, begin + index / rate - time.perf_counter()))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = b""
            while not is_whole(answer):
                answer += connection.recv(65536)
        used = procs.Usage.of_session(server.process.pid) - before
    return (used.user + used.system) / count * 1e6


def measure(server, path, connections, seconds, cores, warm=1, body=0, spread=0, accept=""):
    """A window of load against a server that is ready: the numbers of one round."""
    if warm:
        run_wrk(server.url(path), connections, warm, cores, body, spread, accept)
    session = server.process.pid
    busy, stolen = procs.machine_ticks()
    own = _own_seconds()
    start = time.monotonic()
    before = procs.Usage.of_session(session)
    with procs.MemoryWatch(server) as memory:
        found = run_wrk(server.url(path), connections, seconds, cores, body, spread, accept)
    used = procs.Usage.of_session(session) - before
    elapsed = time.monotonic() - start
    own = _own_seconds() - own
    busy_after, stolen_after = procs.machine_ticks()
    requests = max(found["requests"], 1)
    return {
        **found,
        "rps": found["requests"] / found["seconds"],
        "user_us": used.user / requests * 1e6,
        "system_us": used.system / requests * 1e6,
        "cpu_us": (used.user + used.system) / requests * 1e6,
        "faults": used.faults / requests,
        "busy": (used.user + used.system) / elapsed,
        "rss_mib": memory.peak_sum_kib / 1024,
        "worker_rss_mib": memory.peak_worker_kib / 1024,
        "pss_mib": sum(procs.pss_kib(pid) for pid in server.pids) / 1024,
        # Cores' worth of work that was neither the server's nor ours, and time that the hypervisor took.
        "noise": max(0.0, (busy_after - busy - used.user - used.system - own) / elapsed),
        "stolen": (stolen_after - stolen) / elapsed,
    }


def parse_strace(text):
    """Calls by name of a table that `strace -c` has written."""
    counts = {}
    for line in text.splitlines():
        match = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)\s*$", line)
        if match and match.group(2) != "total":
            counts[match.group(2)] = counts.get(match.group(2), 0) + int(match.group(1))
    return counts


def is_whole(answer):
    """Whether this is all of an answer with 200 and a small body, which has a Content-Length or is chunked without
    trailers; Missing when it begins differently."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if end and not head.startswith(b"HTTP/1.1 200 "):
        raise Missing(f"answered with {head[:200]!r}")
    length = re.search(rb"^content-length: *(\d+)\r?$", head, re.M | re.I)
    return bool(end) and (len(body) >= int(length.group(1)) if length else body.endswith(b"0\r\n\r\n"))


def count_syscalls(server, path, connections, seconds, cores):
    """System calls a request, by name, in a short run of its own under strace (which makes everything slower: the
    number of requests is that run's). `work` leaves out WAITING."""
    run_wrk(server.url(path), connections, 1, cores)
    with tempfile.NamedTemporaryFile("r") as out:
        command = [find("strace", "strace"), "-f", "-c", "-o", out.name]
        for pid in server.pids:
            command += ["-p", str(pid)]
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)
        try:
            _wait_attached(server, tracer)
            found = run_wrk(server.url(path), connections, seconds, cores)
        finally:
            tracer.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                tracer.communicate(timeout=20)
            if tracer.poll() is None:
                tracer.kill()
                tracer.communicate()
        counts = parse_strace(out.read())
    if not counts or not found["requests"]:
        raise Missing("strace counted nothing: is ptrace allowed here?")
    each = {name: count / found["requests"] for name, count in counts.items()}
    return {
        "requests": found["requests"],
        "work": sum(count for name, count in each.items() if name not in WAITING),
        "waiting": sum(count for name, count in each.items() if name in WAITING),
        "by_name": {name: round(count, 4) for name, count in sorted(each.items(), key=lambda x: -x[1])
                    if count >= 0.0005},
    }


def _wait_attached(server, tracer, seconds=10.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and tracer.poll() is None:
        if all(b"TracerPid:\t0\n" not in procs.read(pid, "status") for pid in server.pids):
            return
        time.sleep(0.01)
    raise Missing("strace could not attach: is ptrace allowed here?")


def cold_start(config, cores, path="/", seconds=60.0):
    """Seconds from spawning a server to its first 200. Asks again every 200 us while it is refused."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    with Server(config, cores) as server:
        deadline = server.spawned + seconds
        while time.monotonic() < deadline:
            with socket.socket() as client:
                client.settimeout(10.0)
                try:
                    client.connect(server.address)
                    client.sendall(request)
                    first = client.recv(64)
                except OSError:
                    first = b""
            if first.startswith(b"HTTP/1.1 200"):
                return time.monotonic() - server.spawned
            time.sleep(0.0002)
        raise Missing(f"{config.name} did not answer within {seconds:.0f} s: {server.log_tail()}")


class Endless:
    """A client that has a guest compute for ever: asks again when the server has ended it."""

    def __init__(self, server, path):
        self._server = server
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self._end = threading.Event()
        self._socket = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def _run(self):
        while not self._end.is_set():
            with contextlib.suppress(OSError), socket.create_connection(self._server.address, timeout=400) as client:
                self._socket = client
                client.sendall(self._request)
                client.recv(4096)
            self._end.wait(0.01)
