"""The rows of issue 5's table "Must reach": many modules, short requests beside long ones, idle connections, cold loads,
two cores. Shapes as in rows.py."""

import contextlib
import http.client
import random
import resource
import select
import shutil
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import load
import procs
from rows import Bar, Result, ratio, value_bar
from servers import Config, Server
from tools import BUILD, Missing, say

MODULES = 1000
# The limits of the guide's manifest, and every module's counters and breaker at work.
MANIFEST = """[server]
modules = "modules/"
cache_size = {cache}
max_cache_mb = 512
execution_timeout_secs = 30
max_concurrent_requests = 2000
max_per_module_requests = 50
"""


def folder_of(name, guest, count, cache):
    """A folder with so many copies of a guest, and its manifest, new."""
    folder = BUILD / "modules" / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "modules").mkdir(parents=True)
    wasm = Path(guest).read_bytes()
    for index in range(count):
        (folder / "modules" / f"m{index}.wasm").write_bytes(wasm)
    (folder / "mik.toml").write_text(MANIFEST.format(cache=cache))
    return str(folder / "mik.toml")


def paths(count):
    return [f"/run/m{index}/" for index in range(count)]


def answer_all(server, targets, threads=4):
    """Each target once with 200: artefacts made, components loaded as far as the cache goes."""
    def ask(target):
        for _ in range(600):
            status, _ = server.get(target)
            if status == 200:
                return
            time.sleep(0.1)  # 503 while it is compiled
        raise Missing(f"{target} does not answer with 200: {status}")
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, targets))


def modules(plan, guests):
    guest = guests.path("hello")
    result = Result(f"Routing over {MODULES} modules, limits and breaker on",
                    f"1 worker, 16 connections; {plan.where_one()}")
    manifest = folder_of("routing", guest, MODULES, MODULES)
    bare = Config("one component, no manifest", "mik", guest)
    many = Config("of 1,000 modules", "mik", flags=("-c", manifest))
    cases = [(bare, "/", 0), (many, "/run/m7/", 1), (many, "/run/m", 100), (many, "/run/m", MODULES)]
    names = [bare.name, "one of 1,000", "100 of 1,000 in turn", "all 1,000 in turn"]
    result.samples = {name: [] for name in names}
    for index in range(plan.rounds):
        turn = index % len(cases)
        for at in [*range(turn, len(cases)), *range(turn)]:
            config, path, spread = cases[at]
            with Server(config, plan.one) as server:
                server.wait_ready("/" if spread == 0 else "/run/m0/")
                if spread > 1:
                    answer_all(server, paths(spread))
                sample = load.measure(server, path, 16, plan.seconds, plan.one_load, plan.warm,
                                      spread=spread if spread > 1 else 0)
            result.samples[names[at]].append(sample)
            say(f"  round {index + 1}: {names[at]}: {sample['rps']:.0f} rps, {sample['cpu_us']:.1f} us")
    for name in names[1:3]:
        measured, spread = ratio(result.samples, name, bare.name, "rps")
        result.bars.append(Bar(f"requests per second, {name}, against one component", 0.92, None, measured, spread))
        measured, spread = ratio(result.samples, name, bare.name, "cpu_us")
        result.bars.append(Bar(f"CPU us per request, {name}, against one component", 1.09, None, measured, spread,
                               low=True))
    result.extra["note"] = ("With all 1,000 in turn each request finds another guest's memory in the processor's "
                            "caches; that is no routing, and held against no bar")
    return result


def _exchange(connection, target):
    start = time.perf_counter()
    connection.request("GET", target)
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise Missing(f"{target} was answered with {response.status}")
    return (time.perf_counter() - start) * 1e6


class _MixedClient:
    """A keep-alive connection that sends a short request or, with some probability, one of 5 ms, and then pauses for as
    long as keeps the server below the half of its cores."""

    def __init__(self, connection, dice, long_part):
        self._connection = connection
        self._dice = dice
        self._long_part = long_part
        self._answer = b""
        self.sent = None
        self.due = self._after_pause()
        self.times = []  # microseconds of the short ones

    def fileno(self):
        return self._connection.fileno()

    def _after_pause(self):
        return time.perf_counter() + self._dice.expovariate(1 / 0.01)

    def send(self):
        self._long = self._dice.random() < self._long_part
        target = "/cpu?ms=5" if self._long else "/hello"
        self.sent = time.perf_counter()
        self._connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def receive(self):
        part = self._connection.recv(65536)
        self._answer += part
        if load.is_whole(self._answer):
            if not self._long:
                self.times.append((time.perf_counter() - self.sent) * 1e6)
            self._answer = b""
            self.sent = None
            self.due = self._after_pause()
        elif not part:
            raise Missing(f"a connection was closed after {self._answer[:200]!r}")


def _mixed(server, seconds, long_part, cores, seed):
    """Eight clients in one thread, which is quick enough not to be what is measured. Microseconds of the short ones."""
    dice = random.Random(seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(procs.pinned(cores))
        stack.enter_context(procs.ahead_of_others())
        clients = [_MixedClient(stack.enter_context(socket.create_connection(server.address, timeout=30)), dice, long_part)
                   for _ in range(8)]
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            for client in clients:
                if client.sent is None and client.due <= now:
                    client.send()
            due = min((client.due for client in clients if client.sent is None), default=end)
            waiting = [client for client in clients if client.sent is not None]
            # select, not epoll: its time is not rounded up to a millisecond.
            ready, _, _ = select.select(waiting, [], [], max(0.0, min(due, end) - time.perf_counter()))
            for client in ready:
                client.receive()
        return sorted(value for client in clients for value in client.times)


def skew(plan, guests):
    result = Result("Short requests beside guests of 5 ms on the same 8 keep-alive connections",
                    f"2 workers, 8 connections, about half of a core in use; servers on cores {plan.two}")
    config = Config("mik", "mik", guests.path("lab"), workers=2)
    p50, p99, ratios = [], [], []
    for index in range(plan.rounds):
        found = {}
        for name, part in (("alone", 0.0), ("mixed", 0.1)):
            with Server(config, plan.two) as server:
                server.wait_ready("/hello")
                _mixed(server, plan.warm, part, plan.two_load, index)
                times = _mixed(server, plan.seconds, part, plan.two_load, index)
            found[name] = times[int(len(times) * 0.99)]
            p50.append(times[len(times) // 2])
            say(f"  round {index + 1}: {name}: p50 {p50[-1]:.0f} us, p99 {found[name]:.0f} us of {len(times)}")
        p99.append(found["mixed"])
        ratios.append(found["mixed"] / found["alone"])
    result.bars = [value_bar("p99 of the short ones, against running alone", ratios, 2, None, "x")]
    result.extra["note"] = f"p99 of the short ones {statistics.median(p99):.0f} us, p50 {statistics.median(p50):.0f} us"
    return result


def idle(plan, guests):
    count = 10_000
    result = Result(f"{count} idle keep-alive connections", f"1 worker; {plan.where_one()}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * count:
        raise Missing(f"only {hard} descriptors are allowed: ulimit -n {2 * count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    config = Config("mik", "mik", guests.path("hello"), flags=("-c", _idle_manifest(count)))
    each, used = [], []
    try:
        for _ in range(min(plan.rounds, 3)):
            with Server(config, plan.one) as server:
                server.wait_ready()
                load.run_wrk(server.url("/"), 16, 1, plan.one_load)
                before = sum(procs.pss_kib(pid) for pid in server.pids)
                with contextlib.ExitStack() as stack:
                    _open_idle(stack, server, count)
                    time.sleep(1)  # what runs after the last answer
                    each.append((sum(procs.pss_kib(pid) for pid in server.pids) - before) / count)
                    start = procs.Usage.of_session(server.process.pid)
                    time.sleep(4)
                    work = procs.Usage.of_session(server.process.pid) - start
                    used.append((work.user + work.system) / 4 * 100)
            say(f"  {each[-1]:.2f} KiB each, {used[-1]:.2f} % of a core")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    result.bars = [value_bar("memory of each, beside the kernel's", each, 10, None, " KiB"),
                   value_bar("of a core", used, 0.5, 0, " %")]
    return result


def _idle_manifest(count):
    folder = BUILD / "modules/idle"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mik.toml").write_text(f"[server]\nmax_connections = {count + 100}\nidle_timeout_secs = 300\n")
    return str(folder / "mik.toml")


def _open_idle(stack, server, count):
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(server.address, timeout=30))
        client.sendall(request)
        if not client.recv(4096).startswith(b"HTTP/1.1 200"):
            raise Missing("a connection was not answered with 200")


def coldload(plan, guests):
    count = 100
    result = Result("First request on a module that is not loaded, its artefact on disk",
                    f"1 worker, {count} modules and a cache of 10; {plan.where_one()}")
    manifest = folder_of("cold", guests.path("hello"), count, 10)
    config = Config("mik", "mik", flags=("-c", manifest))
    more, others = [], []
    for index in range(min(plan.rounds, 3)):
        with Server(config, plan.one) as server, procs.pinned(plan.one_load):
            server.wait_ready("/run/m0/")
            answer_all(server, paths(count))
            with contextlib.closing(http.client.HTTPConnection(*server.address, timeout=30)) as connection:
                cold, warm = [], []
                for target in paths(count):  # the one before was used ten modules ago at the least
                    cold.append(_exchange(connection, target) / 1000)
                    warm.append(_exchange(connection, target) / 1000)
            more.append(statistics.median(cold) - statistics.median(warm))
            others.append(max(cold))
            say(f"  round {index + 1}: cold {statistics.median(cold):.2f} ms, at most {max(cold):.2f} ms; "
                f"warm {statistics.median(warm):.2f} ms")
    result.bars = [value_bar("p50, more than on a warm one", more, 10, None, " ms")]
    result.extra["note"] = f"The slowest of all took {max(others):.1f} ms"
    return result


def scale(plan, guests):
    result = Result("JavaScript and Python on two cores, against one",
                    f"8 connections for each core; {plan.where_two()}")
    if len(plan.two) < 2:
        raise Missing("this machine has one core")
    for name, title in (("js", "JavaScript"), ("py", "Python")):
        guest = guests.path(name)
        one = Config(f"{title}, one core", "mik", guest, workers=1)
        two = Config(f"{title}, two cores", "mik", guest, workers=2)
        samples = {one.name: [], two.name: []}
        for _ in range(plan.rounds):
            for config, cores, connections in ((one, plan.one, 8), (two, plan.two, 16)):
                found = _window(plan, config, connections, cores)
                samples[config.name].append(found)
        result.samples.update(samples)
        measured, spread = ratio(samples, two.name, one.name, "rps")
        result.bars.append(Bar(f"{title}: requests per second", 1.9, None, measured, spread))
        tails = [sample["p99_us"] / sample["p50_us"] for sample in samples[two.name]]
        result.bars.append(value_bar(f"{title}: p99, against p50", tails, 3, None, "x"))
    return result


def _window(plan, config, connections, cores):
    with Server(config, cores) as server:
        server.wait_ready("/")
        sample = load.measure(server, "/", connections, plan.seconds, plan.two_load, plan.warm)
    say(f"  {config.name}: {sample['rps']:.0f} rps, p50 {sample['p50_us'] / 1000:.2f} ms, "
        f"p99 {sample['p99_us'] / 1000:.2f} ms")
    return sample


ROWS = {"modules": modules, "skew": skew, "idle": idle, "coldload": coldload, "scale": scale}
