"""What the log says and how: fields, levels and targets, files and their rotation, guests that write into it, secrets."""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

from harness import (HELLO, LAB, Case, Load, Server, environment, binary, main, read_proc, run_command, temporary_folder,
                     wait_until)

LINE_MAX = 4096
FIELDS = {"timestamp", "level", "target", "message", "service.name", "worker"}


class FileServer(Server):
    """One whose log goes to a file that the manifest names. It is followed: to the end, or, where it will be moved, until
    the server is ready."""

    def __init__(self, path, *arguments, moves=False, **more):
        self.path = Path(path)
        self.moves = moves
        super().__init__(None, *arguments, **more)

    def _read_log(self):
        rest = b""
        offset = 0
        while True:
            ended = self.process.poll() is not None
            if self.path.exists():
                with self.path.open("rb") as file:
                    file.seek(offset)
                    rest += file.read()
                    offset = file.tell()
            *lines, rest = rest.split(b"\n")
            with self._arrived:
                for line in lines:
                    try:
                        self.log.append(json.loads(line))
                    except ValueError:
                        self.garbage.append(line)
                self._arrived.notify_all()
            if ended or (self.moves and self.find_log("Ready")):
                return
            time.sleep(0.02)  # lint: allow sleep: a follower, as tail -f


def manifest(server, project="shop", more="", component=LAB):
    """A folder with a manifest and app.wasm."""
    folder = Path(temporary_folder()).resolve()
    (folder / "app.wasm").write_bytes(component.read_bytes())
    head = f'[project]\nname = "{project}"\nversion = "1.2.3"\n' if project else ""
    (folder / "mik.toml").write_text(f'{head}[server]\nmodules = "."\nroot = "app"\n{server}\n{more}')
    return folder


def lines_of(*files):
    """Parsed; that each of them is one whole object is part of every test."""
    found = []
    for file in files:
        text = Path(file).read_bytes()
        assert not text or text.endswith(b"\n"), f"{file} ends within a line"
        for line in text.decode().split("\n")[:-1]:
            assert len(line.encode()) < LINE_MAX, f"{file}: a line of {len(line)} bytes"
            found.append(json.loads(line))
    return found


def ids(lines, message="Request completed"):
    return [line["request_id"] for line in lines if line["message"] == message]


class FieldsTest(Case):
    def test_a_head_that_is_refused_has_its_line(self):
        """Behind a proxy nobody else says what was wrong with it."""
        with Server(HELLO) as server:
            for head, status, why in ((b"GET / HTTP/1.1\r\n\r\n", 400, "Host"), (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
                                      (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100000, 431, "large")):
                with server.connect() as connection:
                    connection.send(head)
                    response = connection.response()
                line = server.wait_log("Request head refused", request_id=response.one("x-request-id"))
                self.assertEqual((response.status, line["status"], line["level"]), (status, status, "INFO"))
                self.assertIn(why, line["error"])
                self.assertNotIn("\x01", json.dumps(line))

    def test_every_line_says_who_wrote_it_and_a_request_what_it_was(self):
        folder = manifest("log_max_files = 2")
        tenants = folder / "tenants" / "acme"
        tenants.mkdir(parents=True)
        (tenants / "web.wasm").write_bytes(LAB.read_bytes())
        text = (folder / "mik.toml").read_text().replace('root = "app"', 'root = "app"\nuser_modules = "tenants"')
        (folder / "mik.toml").write_text(text)
        with Server(None, "--config", folder / "mik.toml", workers=2) as server:
            trace = "0af7651916cd43dd8448eb211c80319c"
            server.get("/run/app/print?text=x&secret=1", [("traceparent", f"00-{trace}-b7ad6b7169203331-01")])
            server.get("/tenant/acme/web/trap")
            done = server.wait_log("Request completed", trace_id=trace)
            said = server.wait_log("Guest output", request_id=done["request_id"])
            failed = server.wait_log("Request failed", module="acme/web")
        for line in server.log:
            self.assertLessEqual(FIELDS - {"worker"}, set(line), line)
            self.assertEqual((line["service.name"], line["service.version"]), ("shop", "1.2.3"))
        self.assertEqual(done["target"], "mik::http")
        self.assertEqual((done["method"], done["module"], done["status"]), ("GET", "app", 200))
        self.assertEqual(done["path"], "/run/app/print")
        self.assertIn(done["worker"], (0, 1))
        self.assertEqual(done["remote_addr"], "127.0.0.1")
        for name in ("duration_ms", "cpu_ms", "bytes_in", "bytes_out"):
            self.assertGreaterEqual(done[name], 0)
        self.assertNotIn("tenant", done)
        self.assertEqual((said["target"], said["trace_id"], said["module"]), ("mik_guest", trace, "app"))
        self.assertEqual((failed["tenant"], failed["category"], failed["level"]), ("acme", "execution", "WARN"))
        self.assertTrue(failed["error"])

    def test_levels_by_target(self):
        with Server(LAB, env={"RUST_LOG": "info,mik::http=debug,mik_guest=warn"}) as server:
            server.get("/print?text=x")
            server.wait_log("Request completed", path="/print")
            server.get("/health")
            server.wait_log("Built-in request", path="/health")
        self.assertTrue(server.find_log("Request started", level="DEBUG", path="/print"))
        self.assertFalse(server.find_log("Guest output"))
        self.assertFalse([line for line in server.log if line["level"] == "DEBUG" and line["target"] != "mik::http"])

    def test_trace_says_more_than_debug_and_debug_more_than_info(self):
        seen = {}
        for level in ("info", "debug", "trace"):
            with Server(LAB, env={"RUST_LOG": level}) as server:
                server.get("/hello")
                server.wait_log("Request completed", path="/hello")
            seen[level] = {line["message"] for line in server.log}
        self.assertLess({"Module loaded", "Request started"}, seen["debug"] - seen["info"])
        self.assertLessEqual({"Connection opened", "Guest started"}, seen["trace"] - seen["debug"])

    def test_off_says_nothing_and_nonsense_means_info(self):
        command = [binary(), "run", str(HELLO), "-p", "0", "-w", "1"]
        result = subprocess.run(command[:2] + ["/nonexistent.wasm"], env=environment(temporary_folder(), {"RUST_LOG": "off"}),
                                capture_output=True, timeout=30)
        self.assertEqual(result.stdout, b"")
        with Server(HELLO, env={"RUST_LOG": "loud\x1b[31m"}) as server:
            server.wait_log("RUST_LOG", level="WARN")

    def test_lines_of_workers_do_not_mingle_in_a_pipe_however_long_the_path(self):
        long = "/hello/" + "x\"" * 1900
        with Server(LAB, workers=2) as server:
            def ask():
                for _ in range(30):
                    server.get(long)
            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            wait_until(lambda: len(server.find_log("Request completed")) >= 120, 20, "the lines")
        self.assertFalse(server.garbage)
        for line in server.find_log("Request completed"):
            self.assertTrue(line["path"].endswith("\u2026"), line)
            self.assertEqual(line["status"], 200)


class FileTest(Case):
    def test_named_limits_make_a_file_in_the_state_folder_beside_standard_output(self):
        home = Path(temporary_folder()) / "home"
        folder = manifest("log_max_size_mb = 50\nlog_max_files = 10")
        with Server(None, "--config", folder / "mik.toml", home=home, workers=2) as server:
            server.get("/hello")
            server.wait_log("Request completed", path="/hello")
        (file,) = (home / "logs").iterdir()
        self.assertEqual(file.name, "shop-0.log")
        self.assertEqual(file.stat().st_mode & 0o077, 0o040 & file.stat().st_mode & 0o077)
        self.assertEqual(sorted(map(str, lines_of(file))), sorted(map(str, server.log)))

    def test_several_workers_rotate_and_lose_nothing(self):
        folder = manifest('log_file = "mik.log"\nlog_max_size_mb = 1\nlog_max_files = 1000')
        with FileServer(folder / "mik.log", "--config", folder / "mik.toml", workers=2, moves=True) as server:
            asked = []

            def ask(client):
                with server.connect() as connection:
                    for i in range(500):
                        response = connection.ask("GET", f"/hello/{client}-{i}-" + "x" * 2000)
                        asked.append(response.one("x-request-id"))
            threads = [threading.Thread(target=ask, args=(client,)) for client in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        files = list(folder.glob("mik.log*"))
        self.assertGreaterEqual(len(files), 4, "it was rotated")
        for file in files:
            self.assertLessEqual(file.stat().st_size, 1 << 20, file)
        self.assertEqual(len(asked), 2000)
        self.assertEqual(sorted(ids(lines_of(*files))), sorted(asked))

    def test_no_more_old_files_than_configured(self):
        folder = manifest('log_file = "mik.log"\nlog_max_size_mb = 1\nlog_max_files = 1')
        with FileServer(folder / "mik.log", "--config", folder / "mik.toml", moves=True) as server:
            with server.connect() as connection:
                for _ in range(1600):
                    connection.ask("GET", "/hello/" + "x" * 2000)
        self.assertEqual({file.name for file in folder.glob("mik.log*")}, {"mik.log", "mik.log.1"})

    def test_field_68_logrotate_by_copying_and_by_moving(self):
        folder = manifest('log_file = "mik.log"', component=HELLO)
        log = folder / "mik.log"
        with FileServer(log, "--config", folder / "mik.toml", workers=2, moves=True) as server:
            with Load(server.address, clients=2) as load:
                load.wait_answers(50)
                os.truncate(log, 0)
                load.wait_answers(50)
                wait_until(lambda: lines_of(log), what="lines behind the cut")  # a worker writes a little later
                self.assertLess(log.stat().st_size, 1 << 20)
                old = folder / "old.log"
                log.rename(old)
                server.signal(signal.SIGUSR1)
                load.wait_answers(50)
                wait_until(log.exists, what="the new file")
            self.assertFalse(load.failures)
            inode = old.stat().st_ino

            def holders():
                found = []
                for pid in server.family():
                    for entry in os.listdir(f"/proc/{pid}/fd"):
                        try:
                            if os.stat(f"/proc/{pid}/fd/{entry}").st_ino == inode:
                                found.append(pid)
                        except OSError:
                            pass
                return found
            wait_until(lambda: not holders(), what="that nobody holds the old file")
            wait_until(lambda: b"opened again" in log.read_bytes(), what="a word of it")
        for file in (log, old):
            self.assertNotIn(b"\0", file.read_bytes())
            self.assertTrue(lines_of(file))

    def test_a_file_that_cannot_be_opened_is_an_error_with_its_name(self):
        folder = manifest('log_file = "none/mik.log"')
        result = run_command("run", "--config", folder / "mik.toml", "-p", "0")
        self.assertEqual(result.returncode, 1)
        self.assertIn("none/mik.log", result.stderr)
        self.assertIn("log_file", result.stderr)

    def test_a_full_disk_costs_lines_which_are_counted(self):
        """/dev/full says ENOSPC to every write."""
        folder = manifest('log_file = "/dev/full"')
        with subprocess.Popen([binary(), "run", "--config", str(folder / "mik.toml"), "-w", "1", "-p", "0"],
                              env=environment(Path(temporary_folder())), stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                def listening():
                    wanted = {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")}
                    for row in read_proc(process.pid, "net/tcp").decode().splitlines()[1:]:
                        fields = row.split()
                        if fields[3] == "0A" and f"socket:[{fields[9]}]" in wanted:
                            return int(fields[1].split(":")[1], 16)
                    return None
                port = wait_until(listening, 30, "a listener")
                free = Load(("127.0.0.1", port), clients=1)
                with free:
                    free.wait_answers(20, 60)
                    dropped = re.compile(rb"^mik_log_lines_dropped_total (\d+)$", re.M)

                    def count():
                        with Server.connect(_At(port)) as connection:
                            return int(dropped.search(connection.ask("GET", "/metrics").body).group(1))
                    wait_until(lambda: count() >= 20, what="a count of lines")
                self.assertFalse(free.failures)
            finally:
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(20), 0)


class _At:
    def __init__(self, port):
        self.address = ("127.0.0.1", port)
        self.tls = None


EVIL = ('a\n{"message":"forged","level":"ERROR"}\r\n","forged":"1\x1b]0;title\x07\x1b[2J\u2028\u2029\u009b31m\u202etxt '
        'forged=1').encode() + b"\xff\xfe end"


class GuestsTest(Case):
    def test_a_guest_cannot_forge_a_line_or_a_field(self):
        for format_ in ("json", "text"):
            folder = manifest(f'log_file = "mik.log"\nlog_format = "{format_}"')
            with _Followed(folder, format_) as (server, log):
                response = server.get("/print?text=" + urllib.parse.quote_from_bytes(EVIL))
                self.assertEqual(response.status, 200)
                request_id = response.one("x-request-id")
                wait_until(lambda: f"Request completed request_id={request_id}" in log.read_text()
                           if format_ == "text" else request_id in ids(lines_of(log)), what="the line")
            raw = log.read_bytes()
            text = raw.decode()  # it is UTF-8
            for bad in "\x1b\x07\r\u2028\u2029\u009b\u202e":
                self.assertNotIn(bad, text)
            ours = [line for line in text.split("\n") if request_id in line]
            self.assertGreaterEqual(len(ours), 5)
            if format_ == "json":
                for line in lines_of(log):
                    self.assertNotEqual(line["message"], "forged")
                    self.assertNotIn("forged", line)
                joined = "\n".join(line["text"] for line in lines_of(log)
                                   if line.get("stream") == "stdout" and line["request_id"] == request_id)
                self.assertIn('{"message":"forged"', joined)
                self.assertIn("\x1b]0;title", joined, "nothing is lost: it is there, escaped")
            else:
                for line in text.split("\n")[:-1]:
                    self.assertRegex(line, r"^\d{4}-\d\d-\d\dT[\d:.]+Z (INFO|WARN|ERROR) mik")
                for line in ours:
                    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
                    self.assertNotIn("forged", outside)

    def test_a_client_cannot_either(self):
        with Server(LAB) as server:
            response = server.get("/hello%0a\"\\forged", [("x-request-id", "a\tb"), ("user-agent", "\"\\")])
            server.wait_log("Request completed", request_id=response.one("x-request-id"))
        self.assertFalse(server.garbage)

    def test_a_module_that_floods_is_bounded_whoever_asks(self):
        with Server(LAB) as server:
            with Load(server.address, "/flood?mb=1", clients=8) as load:
                wait_until(lambda: server.metric("mik_log_lines_dropped_total") > 0, 40, "a dropped line")
            self.assertFalse(load.failures)

            def said():
                server.get("/hello")
                return server.find_log("Guest output dropped", module="lab")
            (line, *_) = wait_until(said, what="a word of it")
            self.assertGreater(line["lines"], 0)
            self.assertGreater(line["bytes"], 0)
            quiet = server.get("/hello")
            server.wait_log("Request completed", request_id=quiet.one("x-request-id"))
        by_second = {}
        for line in server.find_log("Guest output"):
            second = line["timestamp"][:19]
            by_second[second] = by_second.get(second, 0) + len(line.get("text", ""))
        self.assertLess(max(by_second.values()), 3 << 20)


class _Followed:
    """A server with a log file of any format, ready when entered."""

    def __init__(self, folder, format_):
        self.folder = folder
        self.format = format_

    def __enter__(self):
        log = self.folder / "mik.log"
        if self.format == "json":
            self.server = FileServer(log, "--config", self.folder / "mik.toml")
        else:
            self.server = TextServer(log, "--config", self.folder / "mik.toml")
        return self.server, log

    def __exit__(self, kind, *_):
        self.server.__exit__(kind)


class TextServer(FileServer):
    """Its lines as messages."""

    def _read_log(self):
        seen = 0
        while True:
            ended = self.process.poll() is not None
            lines = self.path.read_text(errors="replace").split("\n")[:-1] if self.path.exists() else []
            with self._arrived:
                for line in lines[seen:]:
                    match = re.search(r"Starting server on \S+", line)
                    self.log.append({"message": match.group() if match else line})
                seen = len(lines)
                self._arrived.notify_all()
            if ended:
                return
            time.sleep(0.02)  # lint: allow sleep: a follower, as tail -f


class SecretsTest(Case):
    def test_none_appears_in_anything_that_a_run_writes(self):
        secrets = {name: f"s3cr3t-{name}-0123456789abcdef" for name in
                   ("authorization", "cookie", "x-api-key", "query", "env", "key", "set-cookie", "url")}
        home = Path(temporary_folder()) / "home"
        folder = manifest('log_file = "mik.log"\nlog_max_size_mb = 5\nhttp_allowed = ["127.0.0.1"]\n'
                          f'env = {{ TOKEN = "{secrets["env"]}", OTHER = "${{APP_TOKEN}}" }}')
        with FileServer(folder / "mik.log", "--config", folder / "mik.toml", home=home, workers=2,
                        env={"RUST_LOG": "trace", "MIK_API_KEY": secrets["key"], "APP_TOKEN": secrets["env"] + "2"}) as server:
            fields = [("Authorization", f"Bearer {secrets['authorization']}"), ("Cookie", f"session={secrets['cookie']}"),
                      ("X-API-Key", secrets["x-api-key"])]
            for target in ("/hello", "/trap", "/health", "/metrics", "/nothing", "/run/none/x", "/headers?strict=1"):
                server.get(f"{target}{'&' if '?' in target else '?'}token={secrets['query']}", fields)
            url = urllib.parse.quote(f"http://127.0.0.1:1/?token={secrets['url']}", safe="")
            server.get(f"/fetch?url={url}&header=authorization:{secrets['authorization']}", fields)
            url = urllib.parse.quote(f"http://user:{secrets['url']}@refused.example/?token={secrets['url']}", safe="")
            server.get(f"/fetch?url={url}", fields)
            server.get("/metrics", [("X-API-Key", secrets["key"])])
            server.signal(signal.SIGHUP)
            server.wait_log("configuration serves", 60)
            server.wait_log("Request completed", path="/fetch")
            told = server.get("/metrics", [("X-API-Key", secrets["key"])]).body + server.get("/health?verbose=true").body
            server.signal()
            server.wait_exit()
            written = [(folder / "mik.log").read_bytes(), told, server.stderr().encode(), server.process.stdout.read()]
        written += [file.read_bytes() for file in home.rglob("*") if file.is_file() and file.suffix == ".log"]
        self.assertGreater(len(written[0]), 2000)
        self.assertIn(b'"level":"TRACE"', written[0])
        for name, secret in secrets.items():
            for text in written:
                self.assertNotIn(secret.encode(), text, name)


if __name__ == "__main__":
    main()
