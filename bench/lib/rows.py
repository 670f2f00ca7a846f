"""The rows of issue 4's table "Must reach": what is run for each, and the bars that its numbers are held against."""

import os
import statistics
import time
from dataclasses import dataclass, field

import load
import procs
from servers import BEST_FLAGS, REUSE_FLAGS, Config, Server
from tools import say


@dataclass(frozen=True)
class Bar:
    """One number that is held against the issue's: `low` ones must be at most `must`, others at least."""
    text: str
    must: float
    aim: float | None
    measured: float | None
    spread: tuple = ()  # lowest and highest of the rounds
    unit: str = "x"
    low: bool = False

    @property
    def passed(self):
        if self.measured is None:
            return None
        return self.measured <= self.must if self.low else self.measured >= self.must

    @property
    def verdict(self):
        return {None: "not measured", True: "pass", False: "MISS"}[self.passed]


@dataclass
class Result:
    """What a row has measured: samples by configuration in the order of the rounds, more numbers, the bars."""
    title: str
    setting: str
    samples: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)
    bars: list = field(default_factory=list)
    missing: str = ""


class Plan:
    """How long and where: cores of the servers and of the load, rounds, seconds."""

    def __init__(self, quick=False, rounds=None, seconds=None):
        cores = sorted(os.sched_getaffinity(0))
        self.all_cores = cores
        self.one = cores[:1]
        self.one_load = cores[1:] or cores
        self.two = cores[:2]
        self.two_load = cores[2:] if len(cores) >= 4 else cores
        self.rounds = rounds or (2 if quick else 5)
        self.seconds = seconds or (1 if quick else 4)
        self.warm = 1
        self.starts = 3 if quick else 10

    def where_one(self):
        return f"server on core {self.one[0]}, wrk on {_cores(self.one_load)}" + (
            " (the same: there is but one)" if self.one == self.one_load else "")

    def where_two(self):
        shared = ", which they share: this machine has no more" if set(self.two) & set(self.two_load) else ""
        return f"servers on cores {_cores(self.two)}, wrk on {_cores(self.two_load)}{shared}"


def _cores(cores):
    return ",".join(map(str, cores))


def interleave(plan, configs, path, connections, cores, load_cores, **more):
    """Rounds in which each configuration is started, loaded and ended in turn; who goes first changes."""
    samples = {config.name: [] for config in configs}
    for config in configs:  # artefacts made and files in the page cache, outside of all windows
        with Server(config, plan.all_cores) as server:
            server.wait_ready(path)
    for index in range(plan.rounds):
        turn = index % len(configs)
        for config in configs[turn:] + configs[:turn]:
            with Server(config, cores) as server:
                server.wait_ready(path)
                sample = load.measure(server, path, connections, plan.seconds, load_cores, plan.warm, **more)
            samples[config.name].append(sample)
            say(f"  round {index + 1}: {config.name}: {sample['rps']:.0f} rps, {sample['cpu_us']:.1f} us, "
                f"p99 {sample['p99_us'] / 1000:.2f} ms, errors {sample['errors']}, noise {sample['noise']:.2f}")
    return samples


def median(samples, key):
    return statistics.median(sample[key] for sample in samples)


def ratio(samples, over, under, key):
    """The median of the rounds' ratios, and their range."""
    each = [a[key] / max(b[key], 1e-9) for a, b in zip(samples[over], samples[under])]
    return statistics.median(each), (min(each), max(each))


def ratio_bar(samples, over, under, key, must, aim, low=False):
    measured, spread = ratio(samples, over, under, key)
    names = {"rps": "requests per second", "cpu_us": "CPU us per request"}
    return Bar(f"{names[key]}, against {under}", must, aim, measured, spread, low=low)


def value_bar(text, values, must, aim, unit, low=True):
    values = list(values)
    return Bar(text, must, aim, statistics.median(values), (min(values), max(values)), unit, low)


# ---- the rows

def hello(plan, guests):
    guest = guests.path("hello")
    result = Result("C hello, a fresh instance for each request", f"1 worker, 16 connections; {plan.where_one()}")
    configs = [Config("mik", "mik", guest), Config("serve, default", "serve", guest),
               Config("serve, best flags", "serve", guest, flags=BEST_FLAGS),
               Config("mik, a log line for each request", "mik", guest, log="info")]
    result.samples = interleave(plan, configs, "/", 16, plan.one, plan.one_load)
    calls = {}
    for config in configs:
        with Server(config, plan.one) as server:
            server.wait_ready()
            calls[config.name] = load.count_syscalls(server, "/", 16, min(plan.seconds, 2), plan.one_load)
    result.extra["syscalls"] = calls
    s = result.samples
    result.bars = [
        ratio_bar(s, "mik", "serve, default", "rps", 4, 10),
        ratio_bar(s, "mik", "serve, best flags", "rps", 2.8, 6),
        ratio_bar(s, "mik", "serve, default", "cpu_us", 0.28, 0.15, low=True),
        ratio_bar(s, "mik", "serve, best flags", "cpu_us", 0.40, 0.22, low=True),
        Bar("I/O and memory system calls per request", 3.5, 2.2, calls["mik"]["work"], unit="", low=True),
        value_bar("minor faults per request", (x["faults"] for x in s["mik"]), 0.1, 0, ""),
    ]
    return result


def reuse(plan, guests):
    guest = guests.path("hello")
    result = Result("C hello, instances reused", f"1 worker, 16 connections; {plan.where_one()}")
    configs = [Config("mik --reuse 1000000", "mik", guest, flags=("--reuse", "1000000")),
               Config("serve, reuse and best flags", "serve", guest, flags=BEST_FLAGS + REUSE_FLAGS)]
    result.samples = interleave(plan, configs, "/", 16, plan.one, plan.one_load)
    result.bars = [ratio_bar(result.samples, configs[0].name, configs[1].name, "rps", 2, 3)]
    return result


def _language(plan, guests, name, title, default, best):
    guest = guests.path(name)
    result = Result(f"{title} hello, a fresh instance for each request", f"2 workers, 8 connections; {plan.where_two()}")
    configs = [Config("mik", "mik", guest, workers=2),
               Config("serve, default", "serve", guest, flags=("-Scli",)),
               Config("serve, best flags", "serve", guest, flags=("-Scli",) + BEST_FLAGS)]
    result.samples = interleave(plan, configs, "/", 8, plan.two, plan.two_load)
    result.bars = [ratio_bar(result.samples, "mik", "serve, default", "rps", *default),
                   ratio_bar(result.samples, "mik", "serve, best flags", "rps", *best)]
    return result


def javascript(plan, guests):
    return _language(plan, guests, "js", "JavaScript", (2.5, 4), (1.4, 2.5))


def python(plan, guests):
    return _language(plan, guests, "py", "Python", (2.5, 6), (1.2, 3))


def health(plan, guests):
    result = Result("GET /health, no guest", f"1 worker, 64 connections; {plan.where_one()}")
    configs = [Config("mik", "mik", guests.path("hello")), Config("nginx, return 200", "nginx")]
    result.samples = interleave(plan, configs, "/health", 64, plan.one, plan.one_load)
    # Where wrk cannot load either of them to the full, requests per second say nothing; the CPU of each does.
    result.bars = [ratio_bar(result.samples, "mik", "nginx, return 200", "rps", 0.8, 1),
                   ratio_bar(result.samples, "mik", "nginx, return 200", "cpu_us", 1.25, 1, low=True)]
    return result


def echo(plan, guests):
    guest = guests.path("echo")
    result = Result("Echo of bodies of 1 MiB, C guest", f"1 worker, 4 connections; {plan.where_one()}")
    configs = [Config("mik", "mik", guest), Config("serve, default", "serve", guest, flags=("-Scli",)),
               Config("serve, best flags", "serve", guest, flags=("-Scli",) + BEST_FLAGS)]
    result.samples = interleave(plan, configs, "/", 4, plan.one, plan.one_load, body=1 << 20)
    s = result.samples
    best = max(("serve, default", "serve, best flags"), key=lambda name: median(s[name], "rps"))
    measured, spread = ratio(s, "mik", best, "rps")
    # A request is a MiB: requests per second are MiB per second, counted one way.
    result.bars = [Bar(f"MiB per second ({median(s['mik'], 'rps'):.0f}), against {best} "
                       f"({median(s[best], 'rps'):.0f})", 1, 2, measured, spread),
                   value_bar("resident memory of a worker", (x["worker_rss_mib"] for x in s["mik"]), 24, 12, " MiB")]
    return result


def cold(plan, guests):
    guest = guests.path("hello")
    result = Result("Cold start: from spawning to the first answer, C hello from its artefact",
                    f"{plan.starts} starts each, in turn, on cores {_cores(plan.all_cores)}, files in the page cache")
    configs = [Config("mik", "mik", guest), Config("serve, default", "serve", guest),
               Config("serve, best flags", "serve", guest, flags=BEST_FLAGS),
               Config(f"mik, {len(plan.all_cores)} workers", "mik", guest, workers=len(plan.all_cores))]
    times = {config.name: [] for config in configs}
    for index in range(plan.starts + 1):
        for config in configs:
            took = load.cold_start(config, plan.all_cores) * 1000
            if index > 0:  # the first makes the artefact
                times[config.name].append(took)
    result.extra["start_ms"] = times
    mine = statistics.median(times["mik"])
    for name in ("serve, default", "serve, best flags"):
        each = [a / b for a, b in zip(times["mik"], times[name])]
        result.bars.append(Bar(f"time, against {name}", 1.2, None, mine / statistics.median(times[name]),
                               (min(each), max(each)), low=True))
    result.extra["aim"] = f"4 ms; measured {mine:.1f} ms"
    return result


def endless(plan, guests):
    result = Result("An endless guest on the worker; hello on another connection",
                    f"1 worker, 1 connection; {plan.where_one()}")
    config = Config("mik", "mik", guests.path("lab"), flags=("--timeout", "300"))
    samples = {"beside an endless guest": [], "alone": []}
    for _ in range(plan.rounds):
        with Server(config, plan.one) as server:
            server.wait_ready("/hello")
            samples["alone"].append(load.measure(server, "/hello", 1, plan.seconds, plan.one_load))
            with load.Endless(server, "/spin"):
                sample = load.measure(server, "/hello", 1, plan.seconds, plan.one_load)
            if sample["busy"] < 0.5:
                say(f"  the endless guest did not run: the family used {sample['busy']:.2f} of a core")
            samples["beside an endless guest"].append(sample)
    result.samples = samples
    p99 = [sample["p99_us"] / 1000 for sample in samples["beside an endless guest"]]
    result.bars = [value_bar("p99 of hello", p99, 10, 3, " ms")]
    return result


def sleepers(plan, guests):
    result = Result("64 guests that sleep 100 ms each, at once", f"1 worker; {plan.where_one()}")
    lab = Config("mik", "mik", guests.path("lab"))
    samples = {"64 sleepers": [], "C hello": []}
    idle, paced = [], []
    for _ in range(plan.rounds):
        with Server(lab, plan.one) as server:
            server.wait_ready("/hello")
            samples["64 sleepers"].append(
                load.measure(server, "/sleep?ms=100", 64, plan.seconds, plan.one_load, plan.warm))
            samples["C hello"].append(load.measure(server, "/hello", 16, plan.seconds, plan.one_load, plan.warm))
            paced.append(load.paced(server, "/hello", samples["64 sleepers"][-1]["rps"], plan.seconds, plan.one_load))
            before = procs.Usage.of_session(server.process.pid)
            time.sleep(2)
            used = procs.Usage.of_session(server.process.pid) - before
            idle.append((used.user + used.system) / 2 * 100)
    result.samples = samples
    result.extra["idle_percent_of_a_core"] = idle
    result.extra["paced_cpu_us"] = paced
    measured, spread = ratio(samples, "64 sleepers", "C hello", "cpu_us")
    result.bars = [Bar("CPU us per request, against C hello", 2, None, measured, spread, low=True)]
    return result


ROWS = {"hello": hello, "reuse": reuse, "javascript": javascript, "python": python, "health": health, "echo": echo,
        "cold": cold, "endless": endless, "sleepers": sleepers}
NEED_WASMTIME = set(ROWS) - {"health", "endless", "sleepers"}
