"""mik as a service: what the service manager is told, the unit, the packages, and all of it under a real systemd; the
proxies' files of deploy/ as they are shipped."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import unittest
from pathlib import Path

from harness import (HELLO, LAB, ROOT, Case, Connection, Server, binary, encode, environment, free_port, main, read_proc,
                     run_command, temporary_folder, wait_until)
from throwaway import Machine, Unavailable

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "mik.service"
VERSION = re.search(r"^project\(mik VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text(), re.M).group(1)
PACKAGERS = ("dpkg-deb", "dpkg-shlibdeps", "objcopy")


def found(name):
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


class Manager:
    """The end of NOTIFY_SOCKET that a service manager has."""

    def __init__(self, abstract):
        self.address = f"@{Path(temporary_folder()).name}" if abstract else str(Path(temporary_folder()) / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + self.address[1:] if abstract else self.address)
        self.socket.settimeout(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def hear(self):
        """The next message but signs of life, as a dictionary."""
        while True:
            message = dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())
            if message != {"WATCHDOG": "1"}:
                return message


class NotifyTest(Case):
    def test_ready_reload_and_stop_are_told(self):
        for abstract in (False, True):
            folder = Path(temporary_folder())
            manifest = folder / "mik.toml"
            manifest.write_text(f'[server]\nmodules = "{LAB}"\n')
            with Manager(abstract) as manager, Server(None, "--config", manifest, ready=False,
                                                      env={"NOTIFY_SOCKET": manager.address}) as server:
                self.assertEqual(manager.hear(), {"READY": "1", "STATUS": "Serving"})
                self.assertEqual(server.get("/health").status, 200)  # ready means that it is
                server.signal(signal.SIGHUP)
                message = manager.hear()
                self.assertEqual(message["RELOADING"], "1")
                self.assertGreater(int(message["MONOTONIC_USEC"]), 0)
                self.assertEqual(manager.hear(), {"READY": "1", "STATUS": "Serving"})
                manifest.write_text("[server]\nprot = 1\n")
                server.signal(signal.SIGHUP)
                self.assertEqual(manager.hear()["RELOADING"], "1")
                self.assertIn("failed", manager.hear()["STATUS"])
                self.assertEqual(server.get("/hello").status, 200)
                with server.connect() as busy:  # what is told is the begin of the end
                    busy.send(encode("GET", "/stream?n=3&ms=100"))
                    piece = busy.piece()
                    server.signal()
                    self.assertEqual(manager.hear(), {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "45000000", "STATUS": "Draining"})
                    while b"chunk 2" not in piece:
                        more = busy.piece()
                        self.assertTrue(more, piece)
                        piece += more

    def test_the_loop_feeds_the_watchdog(self):
        with Manager(True) as manager, Server(LAB, env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}):
            signs = 0
            while signs < 3:
                signs += manager.socket.recv(4096) == b"WATCHDOG=1"

    def test_neither_workers_nor_guests_have_the_socket(self):
        with Manager(True) as manager, Server(LAB, workers=2, env={
                "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}) as server:
            for pid in server.workers():
                names = [entry.split(b"=")[0] for entry in read_proc(pid, "environ").split(b"\0")]
                self.assertIn(b"MIK_HOME", names)
                for name in (b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"WATCHDOG_PID"):
                    self.assertNotIn(name, names)
            self.assertNotIn("NOTIFY", server.get("/env").text())

    def test_a_manager_that_is_gone_harms_nothing(self):
        with Server(LAB, env={"NOTIFY_SOCKET": "/nonexistent/notify"}) as server:
            server.wait_log("could not be told READY", level="WARN")
            self.assertEqual(server.get("/hello").status, 200)


def values(name):
    """What the unit says of a directive."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.M)


class UnitTest(Case):
    def test_it_is_what_a_drain_needs(self):
        self.assertEqual(values("Type"), ["notify"])
        self.assertEqual(values("KillMode"), ["mixed"])
        self.assertEqual(values("User"), ["mik"])
        self.assertEqual(values("ExecStart"), ["/usr/bin/mik run --config /etc/mik/mik.toml"])
        guide = re.search(r"shutdown_timeout_secs = (\d+)", (DEPLOY / "mik.toml").read_text())
        self.assertGreater(int(values("TimeoutStopSec")[0]), int(guide.group(1)))
        self.assertEqual(values("MemoryDenyWriteExecute"), [])  # field 71: it does not work

    @unittest.skipUnless(found("systemd-analyze"), "systemd is not installed")
    def test_systemd_has_no_objection(self):
        copy = Path(temporary_folder()) / "mik.service"
        copy.write_text(UNIT.read_text().replace("/usr/bin/mik", binary()))
        done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(copy)],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout[-500:])

    def test_field_71_where_no_code_may_be_made(self):
        """PR_SET_MDWE is what the kernel makes of MemoryDenyWriteExecute."""
        deny = ("import ctypes, os, sys\n"
                "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0: sys.exit(77)\n"
                "os.execv(sys.argv[1], sys.argv[1:])")
        home = temporary_folder()
        with Server(HELLO, home=home):
            pass  # so that the cache is warm
        for state in (temporary_folder(), home):
            done = subprocess.run([sys.executable, "-c", deny, binary(), "run", "-p", "0", str(HELLO)],
                                  env=environment(state), capture_output=True, text=True, timeout=60)
            if done.returncode == 77:
                self.skipTest("this kernel has no PR_SET_MDWE")
            self.assertEqual(done.returncode, 1, done)
            self.assertIn("MemoryDenyWriteExecute", done.stderr)


_packages = None


def packages():
    """Folder of the tarball and the .deb, made once from the binary under test."""
    global _packages
    missing = [name for name in PACKAGERS if not found(name)]
    if missing:
        raise unittest.SkipTest(f"not installed: {' '.join(missing)}")
    if _packages is None:
        folder = Path(temporary_folder())
        subprocess.run([DEPLOY / "package", binary(), VERSION, folder], env={**os.environ, "DEB_COMPRESSION": "none"},
                       check=True, capture_output=True, timeout=100)
        _packages = folder
    return _packages


class PackageTest(Case):
    def deb(self):
        (path,) = packages().glob("mik_*.deb")
        return path

    def test_the_deb_has_what_it_should(self):
        fields = subprocess.run(["dpkg-deb", "-f", self.deb()], check=True, capture_output=True, text=True).stdout
        self.assertIn(f"Version: {VERSION}\n", fields)
        self.assertRegex(fields, r"Depends: .*libc6 \(>= .*adduser")
        rows = subprocess.run(["dpkg-deb", "-c", self.deb()], check=True, capture_output=True, text=True).stdout.splitlines()
        modes = {row.split(maxsplit=5)[5]: row.split()[:2] for row in rows}
        self.assertEqual(modes["./usr/bin/mik"], ["-rwxr-xr-x", "root/root"])
        self.assertEqual(modes["./etc/mik/mik.toml"], ["-rw-r--r--", "root/root"])
        for name in ("./usr/lib/systemd/system/mik.service", "./usr/share/doc/mik/copyright", "./usr/share/doc/mik/changelog.gz",
                     "./usr/share/doc/mik/docs/guides/deploy.md", "./usr/share/doc/mik/deploy/nginx/mik.conf"):
            self.assertEqual(modes[name][0], "-rw-r--r--")
        for name, (mode, owner) in modes.items():
            self.assertEqual(owner, "root/root", name)
            self.assertNotRegex(mode, "s|w.$|w.x$", name)  # set-id, or writable for all
        control = Path(temporary_folder())
        subprocess.run(["dpkg-deb", "-R", self.deb(), control], check=True)
        self.assertEqual((control / "DEBIAN/conffiles").read_text(), "/etc/mik/mik.toml\n")
        subprocess.run(["md5sum", "--quiet", "-c", "DEBIAN/md5sums"], cwd=control, check=True)
        for script in ("postinst", "prerm", "postrm"):
            subprocess.run(["sh", "-n", control / "DEBIAN" / script], check=True)
        self.assertLess(int(re.search(r"Installed-Size: (\d+)", fields).group(1)), 100_000)

    def test_the_tarball_runs_where_it_is_unpacked(self):
        (path,) = packages().glob("*.tar.gz")
        folder = Path(temporary_folder())
        with tarfile.open(path) as archive:
            self.assertTrue(all(member.uid == member.gid == 0 for member in archive))
            archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)
        (top,) = folder.iterdir()
        done = subprocess.run([top / "mik", "version"], check=True, capture_output=True, text=True, timeout=30)
        self.assertEqual(done.stdout, f"mik {VERSION}\n")
        for name in ("deploy/mik.service", "deploy/mik.toml", "docs/guides/deploy.md", "LICENSE", "CHANGELOG.md"):
            self.assertTrue((top / name).is_file(), name)
        sums = (packages() / f"{path.name}.sha256").read_text().split()
        self.assertEqual(sums, [hashlib.sha256(path.read_bytes()).hexdigest(), path.name])

    def test_the_manifest_is_the_guides(self):
        guide = (ROOT / "tests/guide/guide.md").read_text()
        section = guide.partition("### g11 ")[2].partition("### ")[0]
        lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
        text = (DEPLOY / "mik.toml").read_text()
        # But for the collector, which a fresh machine has not.
        self.assertIn('\n# otlp_endpoint = "http://tempo:4317"\n', text)
        shipped = [line for line in text.replace("# otlp_endpoint", "otlp_endpoint").splitlines() if not line.startswith("#")]
        self.assertEqual([line for line in shipped if line], [line for line in lines if line.strip()])
        (Path(home := temporary_folder()) / "modules").mkdir()
        manifest = Path(home) / "mik.toml"
        shutil.copy(DEPLOY / "mik.toml", manifest)
        self.assertEqual(run_command("config", "check", manifest).stdout, f"{manifest}: good\n")


class InstalledTest(Case):
    """The .deb by dpkg, the service by systemctl, on a machine to throw away."""

    @classmethod
    def setUpClass(cls):
        folder = packages()
        shutil.copy(HELLO, folder / "hello.wasm")
        shutil.copy(LAB, folder / "lab.wasm")
        try:
            cls.machine = Machine(folder)
        except Unavailable as reason:
            raise unittest.SkipTest(f"no machine to throw away: {reason}") from None
        cls.addClassCleanup(cls.machine.close)
        cls.machine.sh("dpkg -i /mnt/mik_*.deb")
        # Where this test can read what it says, and a watchdog that is worth waiting for.
        cls.machine.sh("mkdir -p /etc/systemd/system/mik.service.d; printf '[Service]\\nStandardOutput=append:/run/mik.log\\n"
                       "StandardError=append:/run/mik.log\\nWatchdogSec=10\\n' >/etc/systemd/system/mik.service.d/test.conf;"
                       "systemctl daemon-reload; systemctl stop mik")
        cls.machine.sh("install -o mik -g mik -m 644 /mnt/hello.wasm /mnt/lab.wasm /var/lib/mik/modules/")

    def show(self, name):
        return self.machine.sh(f"systemctl show mik --property={name} --value").strip()

    def start(self):
        done = self.machine.run("systemctl", "start", "mik")
        self.assertEqual(done.returncode, 0, self.machine.run("sh", "-c", "systemctl status mik; tail -n 20 /run/mik.log").stdout)

    def answers(self):
        return self.machine.run("curl", "-sf", "http://localhost:3000/run/hello/").returncode == 0

    def test_g7_g18_files_are_whose_they_should_be(self):
        self.start()
        # The guide's commands, and that the service lives with what they make.
        self.machine.sh("chmod 700 /var/lib/mik; chmod 600 /etc/mik/mik.toml; chmod 644 /var/lib/mik/modules/*.wasm")
        owners = self.machine.sh("stat -c '%n %U %a' /var/lib/mik /var/lib/mik/modules /var/lib/mik/data /var/lib/mik/cache "
                                 "/etc/mik/mik.toml /run/mik /var/log/mik").splitlines()
        self.assertEqual(owners, ["/var/lib/mik mik 700", "/var/lib/mik/modules mik 700", "/var/lib/mik/data mik 700",
                                  "/var/lib/mik/cache mik 700", "/etc/mik/mik.toml mik 600", "/run/mik mik 755",
                                  "/var/log/mik mik 750"])
        users = set(self.machine.sh("ps -o user= -p $(pgrep -d, mik)").split())
        self.assertEqual(users, {"mik"})

    def test_g19_g20_start_stop_and_health_by_the_guides_commands(self):
        self.start()
        self.assertEqual(self.show("ActiveState"), "active")
        self.assertEqual(self.show("StatusText"), "Serving")
        health = json.loads(self.machine.sh("curl -sf http://localhost:3000/health"))
        self.assertEqual((health["status"], health["cache_capacity"]), ("ready", 100))
        self.assertTrue(self.answers(), self.machine.sh("tail -n 20 /run/mik.log"))
        self.machine.sh("systemctl stop mik")
        self.assertEqual((self.show("ActiveState"), self.show("Result"), self.show("ExecMainStatus")), ("inactive", "success", "0"))
        self.assertEqual(self.machine.run("pgrep", "mik").stdout, "")
        self.start()
        self.assertTrue(self.answers())
        self.assertEqual(self.show("UnitFileState"), "enabled")

    def test_reload_by_systemctl(self):
        self.start()
        before = self.show("MainPID"), self.machine.sh("pgrep 'mik: worker'")
        self.machine.sh("systemctl reload mik")
        wait_until(lambda: self.machine.run("pgrep", "mik: worker").stdout not in ("", before[1])
                   and self.show("ActiveState") == "active", 60, "a reload")
        self.assertEqual((self.show("MainPID"), self.show("StatusText")), (before[0], "Serving"))
        self.machine.sh("cp -p /etc/mik/mik.toml /etc/mik/kept; echo broken >>/etc/mik/mik.toml; systemctl reload mik")
        wait_until(lambda: "failed" in self.show("StatusText"), 60, "a reload that fails")
        self.assertTrue(self.answers())
        self.machine.sh("mv /etc/mik/kept /etc/mik/mik.toml; systemctl reload mik")
        wait_until(lambda: self.show("StatusText") == "Serving" and self.show("ActiveState") == "active", 60, "a good reload")

    def test_a_drain_may_take_longer_than_the_units_limit(self):
        """shutdown_timeout_secs is the limit, since systemd is asked for more time than TimeoutStopSec."""
        extra = "/etc/systemd/system/mik.service.d/stop.conf"
        self.machine.sh(f"printf '[Service]\\nTimeoutStopSec=1\\n' >{extra}; systemctl daemon-reload")
        try:
            self.start()
            self.machine.sh("curl -sfN --max-time 60 'http://localhost:3000/run/lab/stream?n=9&ms=500' >/run/stream 2>&1 & "
                            "until grep -q 'chunk 0' /run/stream; do kill -0 $! && sleep 0.05; done; systemctl stop mik; wait $!")
            self.assertEqual(self.machine.sh("cat /run/stream"), "".join(f"chunk {i}\n" for i in range(9)))
            self.assertEqual((self.show("Result"), self.show("ExecMainStatus")), ("success", "0"))
        finally:
            self.machine.sh(f"rm {extra}; systemctl daemon-reload")

    def test_what_is_killed_or_hangs_comes_back(self):
        self.start()
        main_pid = self.show("MainPID")
        self.machine.sh("kill -9 $(pgrep -o 'mik: worker')")
        wait_until(self.answers, 60, "a new worker")
        self.assertEqual(self.show("MainPID"), main_pid)
        for number in ("KILL", "STOP"):  # STOP: the watchdog's
            main_pid = self.show("MainPID")
            self.machine.sh(f"kill -{number} {main_pid}")
            wait_until(lambda: self.show("MainPID") not in ("0", main_pid) and self.show("ActiveState") == "active", 100,
                       f"a restart after SIG{number}")
            wait_until(self.answers, 60)

    def test_z_an_upgrade_keeps_and_a_purge_leaves_what_is_the_owners(self):
        self.start()
        main_pid = self.show("MainPID")
        self.machine.sh("sed -i 's/cache_size = 100/cache_size = 99/' /etc/mik/mik.toml; dpkg -i /mnt/mik_*.deb")
        self.assertEqual(self.machine.sh("stat -c '%U %a' /etc/mik/mik.toml"), "mik 600\n")
        wait_until(lambda: self.show("MainPID") not in ("0", main_pid), 60, "a restart with the new version")
        self.assertIn('"cache_capacity":99', self.machine.sh("curl -sf http://localhost:3000/health").replace(" ", ""))
        self.machine.sh("dpkg --purge mik")
        self.assertEqual(self.machine.run("pgrep", "mik").stdout, "")
        self.assertEqual(self.machine.sh("ls /var/lib/mik/modules/hello.wasm"), "/var/lib/mik/modules/hello.wasm\n")
        self.assertNotEqual(self.machine.run("ls", "/var/lib/mik/cache").returncode, 0)
        self.assertNotEqual(self.machine.run("ls", "/usr/bin/mik").returncode, 0)


def certificate(folder):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=api.example.com", "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True,
                   capture_output=True, timeout=30)


@contextlib.contextmanager
def running(command, port, env=None):
    """A proxy in the foreground, from its first connection on."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env,
                               start_new_session=True)
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE

    def up():
        if process.poll() is not None:
            raise AssertionError(process.stderr.read().decode(errors="replace"))
        with contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", port), 5) as plain:
                return tls.wrap_socket(plain, server_hostname="localhost").version()
        return None

    try:
        wait_until(up, 30, f"{command[0]} at port {port}")
        yield tls
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=10)


def guest_fields(response):
    fields = dict(line.split(": ") for line in response.text().splitlines())
    return {name: bytes.fromhex(value).decode() for name, value in fields.items()}


class ProxyFilesTest(Case):
    """deploy/nginx and deploy/caddy as they are, but for names, ports and certificates."""

    def ask(self, port, tls, target):
        with Connection(("127.0.0.1", port), tls=tls) as connection:
            return connection.ask("GET", target, host="localhost")

    @unittest.skipUnless(found("nginx"), "nginx is not installed")
    def test_g9_nginx(self):
        folder = Path(temporary_folder())
        certificate(folder)
        port = free_port()
        with Server(LAB) as server:
            text = (DEPLOY / "nginx/mik.conf").read_text()
            for before, after in (("127.0.0.1:3000", f"127.0.0.1:{server.port}"), ("listen 443", f"listen 127.0.0.1:{port}"),
                                  ("/etc/ssl/certs/api.example.com.pem", f"{folder}/cert.pem"),
                                  ("/etc/ssl/private/api.example.com.key", f"{folder}/key.pem")):
                self.assertEqual(text.count(before), 1, before)
                text = text.replace(before, after)
            (folder / "mik.conf").write_text(text)
            places = " ".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            (folder / "nginx.conf").write_text(
                f"{'user root;' if os.geteuid() == 0 else ''} pid {folder}/pid; error_log {folder}/error.log; events {{ }}\n"
                f"http {{ access_log off; {places} include {folder}/mik.conf; }}\n")
            with running([found("nginx"), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log", "-g", "daemon off;"],
                         port) as tls:
                fields = guest_fields(self.ask(port, tls, "/headers"))
                self.assertEqual((fields["x-forwarded-proto"], fields["x-forwarded-for"]), ("https", "127.0.0.1"))
                self.assertEqual(self.ask(port, tls, "/health").status, 200)
                self.assertEqual(self.ask(port, tls, "/metrics").status, 404)  # forwarded, without the key

    @unittest.skipUnless(found("caddy"), "caddy is not installed")
    def test_g10_caddy(self):
        folder = Path(temporary_folder())
        port = free_port()
        env = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        caddyfile = folder / "Caddyfile"
        with Server(LAB) as server:
            text = (DEPLOY / "caddy/Caddyfile").read_text()
            for before, after in (("\napi.example.com {", f"\nhttps://localhost:{port} {{\n\tbind 127.0.0.1\n\ttls internal"),
                                  ("localhost:3000", f"localhost:{server.port}")):
                self.assertEqual(text.count(before), 1, before)
                text = text.replace(before, after)
            caddyfile.write_text("{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n" + text)
            with running([found("caddy"), "run", "--config", str(caddyfile), "--adapter", "caddyfile"], port, env) as tls:
                fields = guest_fields(self.ask(port, tls, "/headers"))
                self.assertEqual((fields["x-forwarded-proto"], fields["x-forwarded-for"]), ("https", "127.0.0.1"))
                self.assertEqual(self.ask(port, tls, "/health").status, 200)
                self.assertEqual(self.ask(port, tls, "/metrics").status, 404)


class GuideTest(Case):
    """docs/guides/deploy.md: what it names exists, its files can be used."""

    def setUp(self):
        self.text = (ROOT / "docs/guides/deploy.md").read_text()

    def test_files_that_it_names_are_shipped(self):
        names = set(re.findall(r"(?<![\w/])deploy/[\w./]+\w", self.text))
        self.assertGreater(len(names), 4)
        for name in names:
            self.assertTrue((ROOT / name).is_file(), name)

    def test_its_manifests_are_good(self):
        blocks = re.findall(r"^```toml\n(.*?)^```", self.text, re.M | re.S)
        self.assertTrue(blocks)
        for block in blocks:
            folder = Path(temporary_folder())
            (folder / "modules").mkdir()
            (folder / "mik.toml").write_text(block)
            done = run_command("config", "check", folder / "mik.toml")
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    main()
