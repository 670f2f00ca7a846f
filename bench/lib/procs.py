"""What /proc says: processor time, faults and memory of a family of processes, descriptors, the load of the machine.

A family is a session: each server is started in one of its own, and all its processes stay in it."""

import contextlib
import os
import platform
import re
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def read(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def stat_fields(pid):
    """Fields of /proc/PID/stat from the third (state) on; empty when there is no such process."""
    return read(pid, "stat").rpartition(b")")[2].split()


def session_members(session):
    """Pids of the living processes of a session; zombies are none."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat_fields(entry)
            if fields and int(fields[3]) == session and fields[0] != b"Z":
                found.append(int(entry))
    return found


def command_line(pid):
    return read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def status_kib(pid, name):
    match = re.search(rf"^{name}:\s+(\d+) kB", read(pid, "status").decode(errors="replace"), re.M)
    return int(match.group(1)) if match else 0


def pss_kib(pid):
    match = re.search(r"^Pss:\s+(\d+) kB", read(pid, "smaps_rollup").decode(errors="replace"), re.M)
    return int(match.group(1)) if match else 0


def descriptors(pid):
    """The number of open descriptors, 0 when the process is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


@dataclass(frozen=True)
class Usage:
    """Processor seconds and minor faults of a family up to now, its dead and waited-for children included."""
    user: float
    system: float
    faults: int

    @staticmethod
    def of_session(session):
        user = system = faults = 0
        for pid in session_members(session):
            fields = stat_fields(pid)
            if fields:
                user += int(fields[11]) + int(fields[13])
                system += int(fields[12]) + int(fields[14])
                faults += int(fields[7]) + int(fields[8])
        return Usage(user / TICK, system / TICK, faults)

    def __sub__(self, other):
        return Usage(self.user - other.user, self.system - other.system, self.faults - other.faults)


def machine_ticks():
    """(busy, stolen) seconds of all processors since boot. Stolen: the hypervisor gave them to somebody else."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


class MemoryWatch:
    """Samples resident memory of a family while it works; `peak_worker_kib` is of one worker."""

    def __init__(self, server, pause=0.25):
        self.peak_sum_kib = 0
        self.peak_worker_kib = 0
        self._server = server
        self._pause = pause
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        self.sample()

    def sample(self):
        members = {pid: status_kib(pid, "VmRSS") for pid in self._server.pids}
        workers = self._server.worker_pids
        self.peak_sum_kib = max(self.peak_sum_kib, sum(members.values()))
        self.peak_worker_kib = max([self.peak_worker_kib, *(members.get(pid, 0) for pid in workers)])

    def _run(self):
        while not self._end.wait(self._pause):
            self.sample()


@contextlib.contextmanager
def pinned(cores):
    """Children started inside inherit these cores. For the calling thread only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def ahead_of_others():
    """The calling thread runs as soon as it can, if that is allowed: a client that shares cores with the servers would
    wait for the guests that it measures, which one on another machine does not."""
    def schedule(policy, priority):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, policy, os.sched_param(priority))
    schedule(os.SCHED_FIFO, 1)
    try:
        yield
    finally:
        schedule(os.SCHED_OTHER, 0)


def end_session(process, patience=10.0):
    """SIGTERM to a child that leads a session, SIGKILL to what is left of it after `patience` seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(Exception):
            process.wait(patience)
    for _ in range(100):
        left = session_members(process.pid)
        if not left and process.poll() is not None:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.02)


def describe_machine():
    """What a reader needs to compare: processor, cores, memory, kernel, system."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.M)
    virtual = " (virtual)" if re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.M) else ""
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)
    release = {}
    with contextlib.suppress(OSError):
        release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.M))
    return {
        "processor": (model.group(1) if model else platform.machine()) + virtual,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.group(1)) / 1048576, 1),
        "kernel": platform.release(),
        "system": release.get("PRETTY_NAME", platform.system()),
        "swap": len(Path("/proc/swaps").read_text().splitlines()) > 1,
    }
