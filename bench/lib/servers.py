"""The servers that are compared, each a process family of its own on a free port: mik, `wasmtime serve`, nginx."""

import atexit
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

import procs
from tools import BUILD, Missing, find, mik_binary, precompiled, wasmtime_binary

# "Best flags" of issue 4: pooling, PAGEMAP_SCAN where the kernel has it, 4 MiB of each memory (and 512 KiB of each
# table, which the reference's engine keeps, too) put back by copying instead of by dropping the pages.
BEST_FLAGS = (
    "-Opooling-allocator=y", "-Opooling-pagemap-scan=auto",
    "-Opooling-memory-keep-resident=4194304", "-Opooling-table-keep-resident=524288",
)
REUSE_FLAGS = ("--max-instance-reuse-count", "1000000", "--max-instance-concurrent-reuse-count", "1")

_running = []


@atexit.register
def _end_all():
    for server in list(_running):
        server.stop(patience=1.0)


def free_port():
    """A port that nobody has, below the ephemeral range: a client that polls it cannot connect to itself."""
    for port in range(20000 + os.getpid() % 8000, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Missing("no free port between 20000 and 32000")


@dataclass(frozen=True)
class Config:
    """What is run. `kind` is mik, serve or nginx; `guest` is a path; `flags` go to the server as they are. Without a
    guest mik's flags name a manifest."""
    name: str
    kind: str
    guest: str = ""
    workers: int = 1
    flags: tuple = ()
    web: str = ""  # nginx: a folder that it serves under /static/, compressed for whoever takes it
    log: str = "warn"  # mik's RUST_LOG: serve writes no line for each request, so neither does mik


class Server:
    """A server that runs, and can answer once wait_ready() has returned."""

    def __init__(self, config, cores):
        self.config = config
        self.port = free_port()
        self.folder = BUILD / "run"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_path = self.folder / f"{config.kind}-{self.port}.log"
        command, env = self._command()
        with open(self.log_path, "wb") as log, procs.pinned(cores):
            self.spawned = time.monotonic()
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, start_new_session=True)
        _running.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def address(self):
        return ("127.0.0.1", self.port)

    @property
    def pids(self):
        return procs.session_members(self.process.pid)

    @property
    def worker_pids(self):
        """The processes that serve requests: all of the family where none calls itself a worker."""
        pids = self.pids
        return [pid for pid in pids if ": worker" in procs.command_line(pid)] or pids

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def _command(self):
        config = self.config
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MIK", "RUST_"))}
        for key in ("PORT", "HOST"):
            env.pop(key, None)
        if config.kind == "mik":
            home = BUILD / "home"
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            env.update(MIK_HOME=str(home), RUST_LOG=config.log)
            guest = [config.guest] if config.guest else []
            return [mik_binary(), "run", *guest, "-p", str(self.port), "--host", "127.0.0.1",
                    "-w", str(config.workers), *config.flags], env
        if config.kind == "serve":
            engine = tuple(flag for flag in config.flags if flag.startswith("-O"))
            compiled = precompiled(wasmtime_binary(), config.guest, engine)
            return [wasmtime_binary(), "serve", "--allow-precompiled", "--addr", f"127.0.0.1:{self.port}",
                    *config.flags, compiled], env
        return self._nginx(), env

    def _nginx(self):
        folder = self.folder / f"nginx-{self.port}"
        folder.mkdir(exist_ok=True)
        temporary = "".join(f"{name}_temp_path {folder}/{name};\n"
                            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        user = "user root;\n" if os.geteuid() == 0 else ""
        web = "" if not self.config.web else f"""sendfile on;
tcp_nopush on;
types {{ text/html html; application/json json; }}
location /static/ {{ alias {self.config.web}/; gzip on; gzip_comp_level 1; gzip_types application/json; }}
"""
        (folder / "nginx.conf").write_text(f"""{user}daemon off;
worker_processes {self.config.workers};
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
access_log off;
keepalive_requests 1000000000;
default_type text/plain;
{temporary}server {{
listen 127.0.0.1:{self.port};
{web}location / {{ return 200 "ok"; }}
}}
}}
""")
        return [find("nginx", "nginx-light"), "-p", str(folder), "-c", "nginx.conf"]

    def wait_ready(self, path="/", seconds=300.0):
        """Until a worker answers (mik: until all workers do)."""
        deadline = time.monotonic() + seconds
        while True:
            if self.process.poll() is not None:
                raise Missing(f"{self.config.name} ended with {self.process.returncode}: {self.log_tail()}")
            try:
                if self._answers(path):
                    return self
            except OSError:
                pass
            except http.client.HTTPException:
                pass
            if time.monotonic() > deadline:
                raise Missing(f"{self.config.name} was not ready in {seconds:.0f} s: {self.log_tail()}")
            time.sleep(0.02)

    def _answers(self, path):
        if self.config.kind == "mik":
            status, body = self.get("/health/ready")
            if status != 200 or json.loads(body).get("workers_ready") != self.config.workers:
                return False
        return self.get(path)[0] == 200

    def get(self, path, seconds=30.0):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def log_tail(self):
        try:
            return self.log_path.read_bytes()[-600:].decode(errors="replace")
        except OSError:
            return ""

    def stop(self, patience=10.0):
        """Ends the family and removes what it wrote."""
        if self not in _running:
            return
        procs.end_session(self.process, patience)
        _running.remove(self)
        self.log_path.unlink(missing_ok=True)
        shutil.rmtree(self.folder / f"nginx-{self.port}", ignore_errors=True)
