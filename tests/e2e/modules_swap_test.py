"""Modules that come, change and go while they are asked for: each finished version is served, none is missed, and no
request fails for it."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from components import heavy, saying, tagged
from harness import (HELLO, LAB, Case, Connection, Cut, Server, binary, encode, main, temporary_folder, wait_until)
from http1 import BadFraming

NEW = "a new version serves"
KEPT = "its new version cannot serve"


class Folder:
    """A folder of modules, and the ways in which people put files into it."""

    def __init__(self):
        self.path = Path(temporary_folder())

    def file(self, name):
        return self.path / f"{name}.wasm"

    def rename(self, name, wasm):
        new = self.path / f"{name}.tmp"
        new.write_bytes(wasm)
        new.rename(self.file(name))

    def copy(self, name, wasm):
        """In place, as cp does."""
        self.file(name).write_bytes(wasm)

    def replace(self, name, wasm):
        self.file(name).unlink()
        self.copy(name, wasm)

    def write_slowly(self, name, wasm, seconds):
        """As a build or an upload does: the pace is what is tested."""
        pieces = 20
        size = len(wasm) // pieces + 1
        pace = threading.Event()
        with open(self.file(name), "wb", buffering=0) as file:
            for i in range(pieces):
                file.write(wasm[i * size:(i + 1) * size])
                pace.wait(seconds / pieces)


class Watcher:
    """Clients that ask for one path again and again and note what they are answered, and when."""

    def __init__(self, server, target, clients=4):
        self.server = server
        self.target = target
        self.answers = []  # begun, ended, text
        self.failures = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.answers or self.failures, 20, "the first answer")
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join(20)

    def wait_for(self, text, seconds=20):
        count = len(self.answers)
        wait_until(lambda: any(answer[2] == text for answer in self.answers[count:]) or self.failures, seconds,
                   f"the answer {text!r}")

    def _run(self):
        data = encode("GET", self.target)
        connection = None
        while not self._end.is_set():
            begun = time.monotonic()
            try:
                if connection is None:
                    connection = Connection(self.server.address)
                connection.send(data)
                response = connection.response()
            except (OSError, Cut, BadFraming) as problem:
                self.failures.append(repr(problem))
                connection = None
                continue
            if response.status != 200:
                self.failures.append(str(response))
            else:
                self.answers.append((begun, time.monotonic(), response.text()))
            if not response.keeps_alive():
                connection.close()
                connection = None
            self._end.wait(0.001)
        if connection is not None:
            connection.close()


class SwapCase(Case):
    def assert_in_order(self, watcher, versions):
        """All answered 200, by one of the versions, and after the first answer of one nobody who asks later gets an older
        one: workers go over together."""
        self.assertEqual(watcher.failures, [])
        order = {text: number for number, text in enumerate(versions)}
        self.assertEqual({text for _, _, text in watcher.answers} - set(order), set())
        first_end = {}
        for _, ended, text in watcher.answers:
            number = order[text]
            first_end[number] = min(first_end.get(number, ended), ended)
        for begun, _, text in watcher.answers:
            for number, ended in first_end.items():
                self.assertFalse(order[text] < number and begun > ended,
                                 f"{text!r} was served to a request that began {begun - ended:.3f} s after "
                                 f"{versions[number]!r} was")

    def modules(self, **names):
        folder = Folder()
        for name, wasm in names.items():
            folder.copy(name, wasm)
        return folder


class SwapTest(SwapCase):
    def test_field_34_every_way_of_putting_a_file_in_place(self):
        texts = [f"version {i:05d}" for i in range(6)]
        folder = self.modules(app=saying(texts[0]))
        with Server(folder.path, workers=2) as server, Watcher(server, "/run/app/") as watcher:
            folder.rename("app", saying(texts[1]))
            watcher.wait_for(texts[1])
            folder.rename("app", saying(texts[2]))
            watcher.wait_for(texts[2])
            folder.copy("app", saying(texts[3]))
            watcher.wait_for(texts[3])
            folder.replace("app", saying(texts[4]))
            watcher.wait_for(texts[4])
            folder.write_slowly("app", saying(texts[5]), 3)
            watcher.wait_for(texts[5])
            self.assertEqual(server.find_log(KEPT), [], "half a file was taken for one")
        self.assert_in_order(watcher, texts)

    def test_many_versions_under_load(self):
        texts = [f"version {i:05d}" for i in range(12)]
        folder = self.modules(app=saying(texts[0]), other=HELLO.read_bytes())
        with Server(folder.path, workers=2) as server, \
                Watcher(server, "/run/app/", clients=6) as watcher, Watcher(server, "/run/other/", clients=2) as other:
            for text in texts[1:]:
                folder.rename("app", saying(text))
                watcher.wait_for(text)
            wait_until(lambda: len(server.find_log(NEW)) == len(texts) - 1, 10, "a log line for each version")
        self.assert_in_order(watcher, texts)
        self.assert_in_order(other, ["Hello, World!"])

    def test_a_single_component_is_swapped_too(self):
        folder = self.modules(app=saying("version 00000"))
        with Server(folder.file("app"), workers=2) as server, Watcher(server, "/") as watcher:
            folder.rename("app", saying("version 00001"))
            watcher.wait_for("version 00001")
        self.assert_in_order(watcher, ["version 00000", "version 00001"])

    def test_a_broken_version_leaves_the_old_one_serving(self):
        folder = self.modules(app=saying("version 00000"))
        with Server(folder.path, workers=2) as server, Watcher(server, "/run/app/") as watcher:
            for broken in (b"no component", saying("version 00001")[:4000], LAB.read_bytes()[:-1000]):
                count = len(server.find_log(KEPT))
                folder.rename("app", broken)
                wait_until(lambda: len(server.find_log(KEPT)) > count, 20, "a word on the broken version")
                self.assertEqual(server.get("/run/app/").text(), "version 00000")
                health = json.loads(server.get("/health").body)
                self.assertEqual((health["status"], health["modules_pending"]), ("ready", 1))
            folder.rename("app", saying("version 00002"))
            watcher.wait_for("version 00002")
            self.assertEqual(json.loads(server.get("/health").body)["modules_pending"], 0)
        self.assert_in_order(watcher, ["version 00000", "version 00002"])

    def test_the_old_artefact_serves_a_worker_that_starts_after_a_broken_version(self):
        folder = self.modules(app=saying("version 00000"))
        with Server(folder.path, workers=1) as server:
            self.assertEqual(server.get("/run/app/").text(), "version 00000")
            folder.rename("app", b"no component")
            server.wait_log(KEPT)
            before = server.worker()
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: server.workers() not in ([], [before]), 20, "another worker")
            server.wait_ready()
            self.assertEqual(server.get("/run/app/").text(), "version 00000")

    def test_files_come_and_go(self):
        folder = self.modules(app=saying("version 00000"))
        with Server(folder.path) as server:
            self.assertEqual(server.get("/run/new/").status, 404)
            folder.copy("new", saying("version 00001"))
            wait_until(lambda: server.get("/run/new/").status == 200, 20, "the new module")
            self.assertEqual(server.get("/run/app/").status, 200)
            folder.file("app").unlink()
            wait_until(lambda: server.get("/run/app/").status == 404, 20, "the removed module's end")
            folder.copy("app", saying("version 00002"))
            wait_until(lambda: server.get("/run/app/").status == 200, 20, "the module, back again")
            self.assertEqual(server.get("/run/app/").text(), "version 00002")

    def test_a_broken_module_is_502_until_it_is_mended(self):
        folder = self.modules(app=b"no component")
        with Server(folder.path) as server:
            for _ in range(3):
                self.assert_problem(server.get("/run/app/"), 502)
            server.wait_log("is broken")
            folder.rename("app", saying("version 00001"))
            wait_until(lambda: server.get("/run/app/").status == 200, 20, "the mended module")
        self.assertEqual(len(server.find_log("is broken")), 1, "why is said once")

    def test_hot_reload_off_only_reports(self):
        folder = self.modules(app=saying("version 00000"))
        with Server(folder.path, workers=2, env={"MIK_HOT_RELOAD": "0"}) as server:
            self.assertEqual(server.get("/run/app/").text(), "version 00000")
            folder.rename("app", saying("version 00001"))
            folder.copy("new", HELLO.read_bytes())
            server.wait_log("module app has changed")
            server.wait_log("module new is new")
            self.assertEqual(server.get("/run/app/").text(), "version 00000")
            self.assertEqual(server.get("/run/new/").status, 404)
            self.assertEqual(json.loads(server.get("/health").body)["modules_pending"], 1)
            server.signal(signal.SIGHUP)
            wait_until(lambda: server.get("/run/app/").text() == "version 00001", 30, "the change")
            wait_until(lambda: server.get("/run/new/").status == 200, 20, "the new module")

    def test_hot_reload_eager(self):
        folder = self.modules(app=saying("version 00000"))
        with Server(folder.path, env={"MIK_HOT_RELOAD": "1"}) as server, Watcher(server, "/run/app/") as watcher:
            folder.rename("app", saying("version 00001"))
            watcher.wait_for("version 00001")
        self.assert_in_order(watcher, ["version 00000", "version 00001"])


class TenantTest(SwapCase):
    def test_tenants_come_and_their_modules_are_swapped(self):
        folder = self.modules(app=saying("version 00000"))
        users = Path(temporary_folder())
        config = users / "mik.toml"
        config.write_text(f'[project]\nname = "tenants"\n[server]\nbind = ["127.0.0.1:0"]\nmodules = "{folder.path}"\n'
                          f'user_modules = "{users}"\nworkers = 2\n')
        with Server(None, "--config", config, workers=None, port=None, ready=False) as server:
            server.workers_count = 2
            server.wait_ready()
            self.assertEqual(server.get("/tenant/acme/app/").status, 404)
            tenant = Folder()
            tenant.path = users / "acme"
            tenant.path.mkdir()
            tenant.copy("app", saying("acme's 000000"))
            wait_until(lambda: server.get("/tenant/acme/app/").status == 200, 20, "the tenant's module")
            with Watcher(server, "/tenant/acme/app/") as watcher, Watcher(server, "/run/app/", clients=1) as platform:
                tenant.rename("app", saying("acme's 000001"))
                watcher.wait_for("acme's 000001")
            self.assert_in_order(watcher, ["acme's 000000", "acme's 000001"])
            self.assert_in_order(platform, ["version 00000"])
            tenant.file("app").unlink()
            (tenant.path / "app.wasm.aot").unlink()
            tenant.path.rmdir()
            wait_until(lambda: server.get("/tenant/acme/app/").status == 404, 20, "the tenant's end")

    def test_a_forged_artefact_beside_a_module_never_runs(self):
        """One that another server, with a key of its own, made of another component, under this one's name."""
        other = self.modules(app=saying("forged 000000"))
        with Server(other.path, home=temporary_folder()) as server:
            self.assertEqual(server.get("/run/app/").text(), "forged 000000")
        folder = self.modules(app=saying("version 00000"))
        home = temporary_folder()
        with Server(folder.path, home=home) as server:
            self.assertEqual(server.get("/run/app/").text(), "version 00000")
        artefact = folder.path / "app.wasm.aot"
        trailer = artefact.read_bytes()[-80:]
        forged = (other.path / "app.wasm.aot").read_bytes()[:-80]
        for what in (forged + trailer, (other.path / "app.wasm.aot").read_bytes(), b"", os.urandom(5000)):
            artefact.write_bytes(what)
            with Server(folder.path, home=home) as server:
                self.assertEqual(server.get("/run/app/").text(), "version 00000")
            self.assertEqual(len(server.find_log("compiling module app")), 1)

    def test_links_out_of_the_folder_are_not_followed(self):
        folder = self.modules(app=saying("version 00000"))
        secret = Path(temporary_folder()) / "secret.wasm"
        secret.write_bytes(saying("secret 000000"))
        (folder.path / "link.wasm").symlink_to(secret)
        (folder.path / "inside.wasm").symlink_to("app.wasm")
        with Server(folder.path) as server:
            self.assert_problem(server.get("/run/link/"), 502)
            self.assertIn("leads out of its folder", server.wait_log("module link is broken")["message"])
            self.assertEqual(server.get("/run/inside/").text(), "version 00000")
            self.assertFalse((secret.parent / "secret.wasm.aot").exists())


class DeathTest(SwapCase):
    def test_workers_killed_at_every_step_of_a_swap(self):
        """While the new version compiles, when it is compiled, and when it serves."""
        texts = [f"version {i:05d}" for i in range(4)]
        folder = self.modules(app=heavy(saying(texts[0]), 3000))
        with Server(folder.path, workers=2) as server:
            wait_until(lambda: server.get("/run/app/").status == 200, 60, "the first version")
            for number, step in enumerate(("compiling module app", "compiling module app", NEW)):
                count = len(server.find_log(step))
                folder.rename("app", heavy(saying(texts[number + 1]), 3000))
                wait_until(lambda: len(server.find_log(step)) > count, 60, step)
                for pid in server.workers()[:1 + number % 2]:
                    os.kill(pid, signal.SIGKILL)

                def served():
                    try:
                        return server.get("/run/app/").text() == texts[number + 1]
                    except (OSError, Cut):
                        return False
                wait_until(served, 60, texts[number + 1])
                server.wait_ready()
                for _ in range(8):
                    self.assertEqual(server.get("/run/app/").text(), texts[number + 1])

    def test_a_compile_child_that_is_killed_is_said_and_nothing_else_happens(self):
        folder = self.modules(app=saying("version 00000"))
        with Server(folder.path, workers=1) as server, Watcher(server, "/run/app/", clients=2) as watcher:
            folder.rename("app", heavy(saying("version 00001"), 30000))

            def child():
                for pid in server.family():
                    if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"mik: compile"):
                        return pid
                return None
            os.kill(wait_until(child, 20, "a compile child"), signal.SIGKILL)
            server.wait_log("was killed")
            folder.rename("app", saying("version 00002"))
            watcher.wait_for("version 00002")
        self.assert_in_order(watcher, ["version 00000", "version 00002"])


class ManyTest(SwapCase):
    def test_a_thousand_modules_with_a_cache_of_a_hundred(self):
        folder = self.modules()
        wasm = saying("version 00000")
        for i in range(1000):
            folder.copy(f"m{i:04d}", tagged(wasm, str(i)))
        config = folder.path / "mik.toml"
        config.write_text(f'[project]\nname = "many"\n[server]\nbind = ["127.0.0.1:0"]\nmodules = "{folder.path}"\n'
                          "workers = 1\ncache_size = 100\n")
        with Server(None, "--config", config, workers=None, port=None) as server:
            self.assertEqual(json.loads(server.get("/health").body)["modules"], 1000)
            asked = [f"/run/m{i:04d}/" for i in range(0, 1000, 8)]
            for turn in range(2):
                with server.connect() as connection:
                    for target in asked:
                        self.assertEqual(connection.ask("GET", target).text(), "version 00000")
                health = json.loads(server.get("/health").body)
                self.assertEqual(health["cache_size"], 100)
            self.assertEqual(server.get("/run/m1000/").status, 404)
            wait_until(lambda: len(server.find_log("compiling module")) >= len(asked), 10, "the lines of the first turn")
            self.assertEqual(len(server.find_log("compiling module")), len(asked), "the second turn compiles nothing")
            # All at once, as a deployment does it; only those that were asked for have anything to swap.
            new = saying("version 00001")
            for i in range(0, 80, 8):
                folder.rename(f"m{i:04d}", tagged(new, str(i)))
            wait_until(lambda: len(server.find_log(NEW)) >= 10, 60, "ten new versions")
            self.assertEqual(server.get("/run/m0072/").text(), "version 00001")
            self.assertEqual(server.get("/run/m0080/").text(), "version 00000")

    def test_artefacts_on_disk_are_bounded(self):
        """Of many versions only what is used and fits is kept."""
        folder = self.modules(app=saying("version 00000"))
        home = Path(temporary_folder())
        config = folder.path / "mik.toml"
        config.write_text(f'[project]\nname = "bounded"\n[server]\nbind = ["127.0.0.1:0"]\nmodules = "{folder.path}"\n'
                          "workers = 1\naot_max_mb = 1\n")
        text = heavy(saying("version 00000"), 1500)
        with Server(None, "--config", config, workers=None, port=None, home=home) as server:
            wait_until(lambda: server.get("/run/app/").status == 200, 30, "the first version")
            for i in range(6):
                count = len(server.find_log(NEW))
                folder.rename("app", tagged(text, str(i)))
                wait_until(lambda: len(server.find_log(NEW)) > count, 30, "a new version")
            used = (folder.path / "app.wasm.aot").stat().st_size
            kept = sum(path.stat().st_blocks * 512 for path in (home / "cache/aot").glob("*.aot"))
            self.assertGreater(used, 100_000, "too small to show anything")
            self.assertLessEqual(kept, max(0, (1 << 20) - used))
            self.assertEqual(server.get("/run/app/").text(), "version 00000")


class DiskTest(SwapCase):
    def test_a_full_disk_is_said_and_over_when_there_is_room(self):
        """The folder of modules and the state folder on a file system that has room for the modules only."""
        mount = Path(temporary_folder())
        script = Path(temporary_folder()) / "mik"
        script.write_text("#!/bin/sh\n"
                          f'exec unshare -m sh -c \'mount -t tmpfs -o size=120k tmpfs "{mount}" && mkdir "{mount}/modules" &&\n'
                          f'  cp "{HELLO}" "{mount}/modules/app.wasm" && head -c 98304 /dev/zero >"{mount}/filler" &&\n'
                          f'  exec "{binary()}" "$@"\' mik "$@"\n')
        script.chmod(0o755)
        if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
            self.skipTest("no mount namespaces here")
        real = os.environ["MIK_BINARY"]
        os.environ["MIK_BINARY"] = str(script)
        try:
            server = Server(mount / "modules", home=mount / "home")
        finally:
            os.environ["MIK_BINARY"] = real
        with server:
            answer = server.get("/run/app/")
            self.assertIn(answer.status, (502, 503), answer)
            self.assertIn("No space left on device", server.wait_log("is broken")["message"])
            self.assertEqual(server.get("/health").status, 200)
            inside = Path(f"/proc/{server.pid}/root{mount}")
            self.assertEqual([path.name for path in (inside / "modules").iterdir()], ["app.wasm"], "half a file is left")
            (inside / "filler").unlink()
            wait_until(lambda: server.get("/run/app/").status == 200, 30, "an answer once there is room")


if __name__ == "__main__":
    main()
