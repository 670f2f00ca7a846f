"""mik.toml: found, read, refused; who wins; `mik config check` and `mik config show`; what is kept secret."""

import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

from harness import (HELLO, LAB, ROOT, Case, Server, encode, free_port, main, read_proc, run_command, temporary_folder,
                     wait_until)
from http1 import Connection
from upstream import Upstream


def guides_manifest():
    guide = (ROOT / "tests/guide/guide.md").read_text()
    section = guide[guide.index("### g11 "):guide.index("### g12 ")]
    return "\n".join(line[4:] for line in section.split("\n") if line.startswith("    ")) + "\n"


class Folder:
    """A folder with a manifest and a component app.wasm."""

    def __init__(self, manifest, component=LAB):
        self.path = Path(temporary_folder()).resolve()
        self.manifest = self.path / "mik.toml"
        self.manifest.write_text(manifest)
        (self.path / "app.wasm").write_bytes(component.read_bytes())


class InstalledTest(Case):
    def test_g11_the_guides_file_boots_at_etc_mik_as_written(self):
        """In namespaces of its own: /etc, /var/lib and port 3000 are ours there."""
        probe = subprocess.run(["unshare", "-Urmn", "true"], capture_output=True)
        if probe.returncode != 0:
            self.skipTest(f"no namespaces here: {probe.stderr.decode().strip()}")
        done = subprocess.run(["unshare", "-Urmn", sys.executable, "-B", __file__, "--installed"], capture_output=True,
                              text=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])


def installed():
    """What runs in the namespaces."""
    for path in ("/etc", "/var/lib"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    with socket.socket() as probe:  # the loopback interface is down in a new namespace
        fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
    modules = Path("/var/lib/mik/modules")
    modules.mkdir(parents=True)
    Path("/etc/mik").mkdir()
    Path("/var/lib/mik").chmod(0o700)  # g7
    manifest = Path("/etc/mik/mik.toml")
    manifest.write_text(guides_manifest())
    manifest.chmod(0o600)
    (modules / "hello.wasm").write_bytes(HELLO.read_bytes())
    (modules / "hello.wasm").chmod(0o644)
    case = Case()
    with Server(None, "--config", manifest, cwd="/", port=None, env={"MIK_HOME": ""}) as server:
        case.assertEqual(server.address, ("127.0.0.1", 3000))
        case.assertEqual(server.get("/run/hello/").status, 200)
        health = json.loads(server.get("/health").body)
        case.assertEqual((health["status"], health["cache_capacity"], health["modules"]), ("ready", 100, 1))
        case.assertEqual(health["cache_max_bytes"], 512 << 20)
    done = run_command("config", "show", manifest, cwd="/", env={"MIK_HOME": ""})
    case.assertIn('modules = "/var/lib/mik/modules"', done.stdout)


class CheckTest(Case):
    def check(self, manifest, *flags, env=None):
        folder = Folder(manifest)
        (folder.path / "modules").mkdir()
        return run_command("config", "check", folder.manifest, *flags, env=env), folder

    def test_the_guides_manifest_is_good(self):
        done, folder = self.check(guides_manifest())
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, f"{folder.manifest}: good\n", ""))

    def test_all_problems_at_once_with_their_places(self):
        done, folder = self.check('[server]\nport = 70000\nprot = 1\nhttp_allowed = ["a.example", "api.*.com"]\n'
                                  'memory_limit_bytes = 1\n[tracing]\notlp_endpoint = "tempo"\n')
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        lines = done.stderr.splitlines()
        self.assertEqual(lines[0], f"error: {folder.manifest} cannot be used: 5 problems")
        self.assertEqual(lines[1], f"cause: {folder.manifest}:2:8: server.port = 70000: must be a whole number from 1 "
                                   "to 65535")
        self.assertEqual(lines[2], f'cause: {folder.manifest}:3:1: server: unknown key "prot"; did you mean port?')
        self.assertIn(f'{folder.manifest}:4:30: server.http_allowed: "api.*.com": can never match', lines[3])
        self.assertIn(":5:22: server.memory_limit_bytes = 1: must be a whole number from 1048576", lines[4])
        self.assertIn(':7:17: tracing.otlp_endpoint = "tempo": must be a URL', lines[5])
        self.assertTrue(lines[6].startswith("help: "), lines)
        run = run_command("run", "--config", folder.manifest)  # the same words from a run
        self.assertEqual((run.returncode, run.stderr), (1, done.stderr))

    def test_what_is_not_toml(self):
        for text, place in (("[server]\nport = = 3\n", ":2:8"), ("[server\n", ":1:8"), ("[server]\nport=1\nport=2\n", ":3:")):
            done, folder = self.check(text)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"cause: {folder.manifest}{place}", done.stderr)

    def test_hostile_files_are_refused(self):
        for text in ("a" + ".a" * 300000 + " = 1\n", "a = " + "[" * 300000, "#" * (1 << 20) + "\n", "\0" * 1000,
                     '[server]\nmodules = "\\u0000"\n', '[server]\nport = "\\u001b[31m"\n'):
            done, _ = self.check(text)
            self.assertEqual(done.returncode, 1, text[:40])
            self.assertNotIn("\x1b", done.stderr)
            self.assertLess(len(done.stderr), 3000)

    def test_warnings_do_not_fail(self):
        done, folder = self.check('[[routes]]\nmodule = "later"\n')
        self.assertEqual((done.returncode, done.stdout), (0, f"{folder.manifest}: good\n"))
        self.assertIn('warning: routes: path "/": there is no module "later" yet', done.stderr)

    def test_a_file_that_is_not_there(self):
        done = run_command("config", "check", "/nonexistent/mik.toml")
        self.assertEqual(done.returncode, 1)
        self.assertIn("error: no such file: /nonexistent/mik.toml", done.stderr)
        done = run_command("config", "check", cwd=temporary_folder())
        self.assertEqual(done.returncode, 1)
        self.assertIn("there is no mik.toml here", done.stderr)
        self.assertEqual(run_command("config").returncode, 2)

    def test_field_26_ports_and_schemes_in_the_allow_list(self):
        self.assertEqual(self.check('[server]\nhttp_allowed = ["localhost:3001"]\n')[0].returncode, 0)
        for pattern, help_text in (("https://api.example.com", "api.example.com"), ("api.*.com", "*.")):
            done, _ = self.check(f'[server]\nhttp_allowed = ["{pattern}"]\n')
            self.assertEqual(done.returncode, 1)
            self.assertIn(f'"{pattern}": can never match', done.stderr)
            self.assertIn(help_text, done.stderr)

    def test_g8_both_files(self):
        for hosts in ('["api.internal.example.com", "*.supabase.co"]', "[]"):
            self.assertEqual(self.check(f"[server]\nhttp_allowed = {hosts}\n")[0].returncode, 0)


class ShowTest(Case):
    def show(self, manifest, *flags, env=None):
        folder = Folder(manifest)
        done = run_command("config", "show", folder.manifest, *flags, env=env)
        self.assertEqual(done.returncode, 0, done)
        lines = {}
        for line in done.stdout.splitlines():
            match = re.match(r"(?:# )?([\w ]+?)(?: = |: )(.*?)  +# (.*)$", line)
            if match:
                lines.setdefault(match.group(1), (match.group(2), match.group(3)))
        return lines, folder, done

    def test_each_value_says_where_it_comes_from(self):
        lines, folder, _ = self.show("[server]\nport = 4000\nreuse = 2\n", "--timeout", "5",
                                     env={"HOST": "127.0.0.2", "RUST_LOG": "warn", "MIK_HOT_RELOAD": "0"})
        self.assertEqual(lines["port"], ("4000", f"{folder.manifest}:2:8"))
        self.assertEqual(lines["bind"], ('["127.0.0.2:4000"]', "env HOST"))
        self.assertEqual(lines["execution_timeout_secs"], ("5", "flag --timeout"))
        self.assertEqual(lines["cpu_ms"], ("5000", "automatic"))
        self.assertEqual(lines["idle_timeout_secs"], ("130", "default"))
        self.assertEqual(lines["modules"], (f'"{folder.path}/modules"', "default"))
        self.assertEqual(lines["log level"], ('"warn"', "env RUST_LOG"))
        self.assertEqual(lines["hot reload"], ("report", "env MIK_HOT_RELOAD"))

    def test_secrets_are_masked(self):
        _, _, done = self.show('[server]\nenv = { A = "s3cret", B = "${TOKEN}" }\n', "--api-key", "s3cret", "--env", "C=s3cret",
                               env={"TOKEN": "s3cret"})
        self.assertNotIn("s3cret", done.stdout + done.stderr)
        self.assertIn("${TOKEN}", done.stdout)

    def test_without_a_file_the_defaults_are_shown(self):
        done = run_command("config", "show", cwd=temporary_folder())
        self.assertEqual(done.returncode, 0)
        self.assertIn("# file: none", done.stdout)
        self.assertIn("port = 3000", done.stdout)


class RunTest(Case):
    def test_the_file_of_the_working_directory_and_who_wins(self):
        port = free_port()
        folder = Folder(f'[server]\nport = {port}\nmodules = "app.wasm"\nenv = {{ PLACE = "file" }}\n')
        with Server("", cwd=folder.path, port=None) as server:
            self.assertEqual(server.port, port)
            self.assertIn("PLACE=file", server.get("/env").text())
        with Server("", "--env", "PLACE=flag", cwd=folder.path, port=None, env={"HOST": "127.0.0.2"}) as server:
            self.assertEqual(server.address, ("127.0.0.2", port))
            self.assertIn("PLACE=flag", server.get("/env").text())
        other = free_port()
        with Server("", cwd=folder.path, port=None, env={"PORT": str(other)}) as server:
            self.assertEqual(server.port, other)
        with Server("", cwd=folder.path, port=0, env={"PORT": "1"}) as server:
            self.assertNotIn(server.port, (1, port))

    def test_field_43_paths_are_of_the_files_folder(self):
        folder = Folder('[server]\nmodules = "app.wasm"\n')
        with Server("", "--config", folder.manifest, cwd="/") as server:
            self.assertEqual(server.get("/run/app/hello").status, 200)
        folder.manifest.write_text('[server]\nmodules = "gone"\n')
        done = run_command("run", "--config", folder.manifest, cwd="/")
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{folder.manifest}:2:11: server.modules: no such folder or file: {folder.path}/gone", done.stderr)

    def test_a_path_wins_over_modules_of_the_file(self):
        folder = Folder('[server]\nmodules = "gone"\nmax_body_size_mb = 0\n')
        with Server(HELLO, cwd=folder.path) as server:
            self.assertEqual(server.get("/run/hello/").status, 200)

    def test_several_addresses(self):
        addresses = ["127.0.0.1:0"]
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
            addresses.append("[::1]:0")
        except OSError:
            pass
        folder = Folder("")
        path = folder.path / "http.sock"
        addresses.append(f"unix:{path}")
        folder.manifest.write_text(f'[server]\nmodules = "app.wasm"\nbind = {json.dumps(addresses)}\n')
        with Server("", cwd=folder.path, port=None) as server:
            said = [line["message"] for line in server.find_log("Starting server on")]
            self.assertEqual(len(said), len(addresses), said)
            for line in said:
                match = re.search(r"http://\[?([^\]]*)\]?:(\d+)$", line)
                if match:
                    with Connection((match.group(1), int(match.group(2)))) as connection:
                        self.assertEqual(connection.ask("GET", "/hello").status, 200)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(15)
                client.connect(str(path))
                client.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                self.assertTrue(client.recv(65536).startswith(b"HTTP/1.1 200"))

    def test_secrets_of_the_environment_reach_guests_by_name_only(self):
        folder = Folder('[server]\nmodules = "app.wasm"\nenv = { TOKEN = "<${APP_TOKEN}>" }\n')
        with Server("", cwd=folder.path, env={"APP_TOKEN": "s3cret", "OTHER": "hidden"}) as server:
            text = server.get("/env").text()
            self.assertIn("TOKEN=<s3cret>", text)
            self.assertNotIn("hidden", text)
        done = run_command("run", cwd=folder.path)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f'{folder.manifest}:3:', done.stderr)
        self.assertIn('the environment of mik has no variable "APP_TOKEN"', done.stderr)

    def test_the_api_key_is_in_no_list_of_processes(self):
        with Server(HELLO, "--api-key", "s3cret-of-the-operator") as server:
            for pid in server.family():
                self.assertNotIn(b"s3cret", read_proc(pid, "cmdline"))
            self.assertFalse([line for line in server.log if "s3cret" in json.dumps(line)])
        done = run_command("run", HELLO, "--api-key", "")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--api-key is empty", done.stderr)

    def test_limits_of_the_file_hold(self):
        folder = Folder('[server]\nmodules = "app.wasm"\nmax_body_size_mb = 1\n')
        with Server("", cwd=folder.path) as server:
            self.assertEqual(server.ask("POST", "/echo", body=b"x" * (1 << 20)).status, 200)
            self.assert_problem(server.ask("POST", "/echo", body=b"x" * ((1 << 20) + 1)), 413)

    def test_g17_shutdown_timeout_of_the_file(self):
        """A request that would take minutes is cut after a second, and the exit code is 0."""
        folder = Folder('[server]\nmodules = "app.wasm"\nshutdown_timeout_secs = 1\nexecution_timeout_secs = 200\n')
        with Server("", cwd=folder.path) as server, server.connect() as busy:
            busy.send(encode("GET", "/sleep?ms=180000"))
            wait_until(lambda: server.metric("mik_active_requests") == 1)
            server.signal()
            self.assertEqual(server.wait_exit(30), 0)

    def test_g8_http_allowed_of_the_file(self):
        with Upstream() as upstream:
            for hosts, status, text in ((f'["127.0.0.1:{upstream.port}"]', 200, "ok"), ("[]", 502, "HTTP-request-denied\n")):
                folder = Folder(f'[server]\nmodules = "app.wasm"\nhttp_allowed = {hosts}\n')
                with self.subTest(hosts=hosts), Server("", cwd=folder.path) as server:
                    response = server.get(f"/fetch?url=http://127.0.0.1:{upstream.port}/")
                    self.assertEqual((response.status, response.text()), (status, text))

    def test_lb_is_accepted(self):
        with Server(HELLO, "--lb", workers=2) as server:
            self.assertEqual(server.get("/").status, 200)

    def test_a_pipe_as_manifest_does_not_hang(self):
        folder = Folder("")
        os.mkfifo(folder.path / "pipe.toml")
        done = run_command("run", "--config", folder.path / "pipe.toml", seconds=10)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is not a regular file", done.stderr)


if __name__ == "__main__":
    if sys.argv[1:] == ["--installed"]:
        installed()
    else:
        main()
