"""Tenants under attack by one of them: it spins, allocates, floods its output, opens connections, uploads slowly, traps. Its
neighbours are answered all the same, every one of them. How fast is measured by bench/isolation."""

import socket
import sys
import threading
from collections import Counter
from pathlib import Path

from harness import HELLO, LAB, Case, Cut, Load, Server, encode, main, temporary_folder, wait_until

MANIFEST = """
[server]
port = 3000
modules = "modules/"
user_modules = "tenants/"
execution_timeout_secs = 2
max_concurrent_requests = 100
max_per_module_requests = 40
memory_limit_bytes = 67108864
[modules.settings]
env = { OWNER = "platform" }
[tenants.greedy]
max_requests = 30
memory_bytes = 268435456
env = { OWNER = "greedy", SECRET = "of greedy" }
[tenants.quiet]
env = { OWNER = "quiet" }
[breaker]
failures = 5
open_secs = 30
probes = 3
"""

# What a greedy tenant may be told: that its guest failed, that it has too much at once, that its breaker is open.
FAILED = {502, 504, 507}
REFUSED = {429, 503}


def deploy():
    """A folder with platform modules, a tenant that means ill and one that does not."""
    folder = Path(temporary_folder())
    (folder / "mik.toml").write_text(MANIFEST)
    for place, component in (("modules/hello", HELLO), ("modules/settings", LAB), ("tenants/quiet/hello", HELLO),
                             ("tenants/quiet/lab", LAB), ("tenants/greedy/lab", LAB), ("tenants/greedy/other", LAB)):
        path = folder / f"{place}.wasm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(component.read_bytes())
    return folder


class Attack:
    """Clients of the greedy tenant, each asking for its target again and again; `statuses` counts what they were told."""

    def __init__(self, server, targets, clients=16, body=None):
        self.server = server
        self.statuses = Counter()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(targets[i % len(targets)], body), daemon=True)
                         for i in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def _note(self, what):
        with self._lock:
            self.statuses[what] += 1

    def _run(self, target, body):
        data = encode("GET" if body is None else "POST", target, body=body)
        while not self._end.is_set():
            try:
                with self.server.connect(patience=20) as connection:
                    connection.send(data)
                    self._note(connection.response("GET" if body is None else "POST").status)
            except Cut:
                self._note("cut")  # failed after its head
            except OSError as problem:
                self._note(repr(problem))

    def wait(self, answers, seconds=60):
        wait_until(lambda: sum(self.statuses.values()) >= answers, seconds, f"{answers} answers to the attack")


class IsolationTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(None, workers=2, cwd=deploy(), home=temporary_folder())
        for target in ("/run/hello/", "/run/settings/", "/tenant/quiet/hello/", "/tenant/quiet/lab/"):
            assert cls.server.get(target, patience=60).status == 200, target

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def refresh(self):
        """A server whose breakers know of nothing."""
        try:
            self.tearDownClass()
        finally:
            self.setUpClass()

    def under(self, targets, answers, clients=16, body=None, neighbours=200):
        """Runs the attack until it got `answers` and the neighbours theirs; nobody else may notice. Returns what the attack
        was told."""
        address = self.server.address
        loads = [Load(address, target, clients=2, pause=0.002)
                 for target in ("/tenant/quiet/hello/", "/tenant/quiet/lab/hello", "/run/hello/")]
        with Attack(self.server, targets, clients, body) as attack:
            attack.wait(1)
            for load in loads:
                load.__enter__()
            try:
                for load in loads:
                    load.wait_answers(neighbours, 60)
                attack.wait(answers)
            finally:
                for load in loads:
                    load.stop()
        for load in loads:
            self.assertEqual((load.failures, load.refused), ([], 0), load.target)
        for target in ("/tenant/quiet/hello/", "/run/hello/"):
            self.assertEqual(self.server.get(target).status, 200)
        self.server.wait_idle(15)
        print(f"  the attack was told {dict(attack.statuses)}", file=sys.stderr)
        return attack.statuses

    def test_it_spins(self):
        told = self.under(["/tenant/greedy/lab/spin"], answers=40, clients=40)
        self.assertLessEqual(set(told), FAILED | REFUSED)
        self.assertTrue(set(told) & {504})
        self.assertTrue(set(told) & REFUSED, "the breaker or its limit must have stopped it")

    def test_it_calls_the_host_for_ever(self):
        """From its module's first requests on, which wait until it is compiled: those count, too."""
        self.refresh()
        told = self.under(["/tenant/greedy/other/busy"], answers=40, clients=40)
        self.assertLessEqual(set(told), FAILED | REFUSED)
        wait_until(lambda: self.server.get("/tenant/greedy/other/hello").status == 503, 5, "its breaker to be open")

    def test_it_allocates(self):
        self.refresh()
        told = self.under(["/tenant/greedy/lab/hog?mb=60&soft=1", "/tenant/greedy/lab/hog?mb=4000&soft=1"], answers=200, clients=24)
        self.assertLessEqual(set(told), {200} | FAILED | REFUSED)

    def test_it_floods_its_output(self):
        self.refresh()
        told = self.under(["/tenant/greedy/lab/flood?mb=2"], answers=60, clients=8)
        self.assertLessEqual(set(told), {200} | FAILED | REFUSED)
        self.assertTrue(told[200])

    def test_it_traps_and_only_its_breaker_opens(self):
        self.refresh()
        told = self.under(["/tenant/greedy/lab/trap"], answers=300, clients=8)
        self.assertLessEqual(set(told), {502, 503})
        self.assertGreaterEqual(told[502], 5)
        self.assertGreater(told[503], told[502])
        refused = self.server.get("/tenant/greedy/lab/hello")
        self.assert_problem(refused, 503)
        self.assertIn(int(refused.one("retry-after")), range(1, 31))
        self.assertEqual(self.server.get("/tenant/greedy/other/hello").status, 200, "its other module has its own")
        self.assertEqual(self.server.get("/tenant/quiet/lab/hello").status, 200, "so has the same file of another")
        self.assertEqual(self.server.get("/run/settings/").status, 200)

    def test_it_sleeps_on_all_the_permits_it_can_get(self):
        self.refresh()
        told = self.under(["/tenant/greedy/lab/sleep?ms=1000", "/tenant/greedy/other/sleep?ms=1000"], answers=150, clients=60)
        self.assertLessEqual(set(told), {200, 429})
        self.assertTrue(told[200] and told[429], told)

    def test_its_limit_is_of_all_its_modules_together(self):
        self.refresh()
        with Attack(self.server, ["/tenant/greedy/lab/sleep?ms=1900", "/tenant/greedy/other/sleep?ms=1900"], clients=30):
            wait_until(lambda: self.server.metric("mik_active_requests") == 30, 10, "thirty requests at once")
            refused = self.server.get("/tenant/greedy/lab/hello")
            self.assert_problem(refused, 429)
            self.assertIn(int(refused.one("retry-after")), range(1, 31))
            self.assertEqual(self.server.get("/tenant/quiet/lab/hello").status, 200)

    def test_it_opens_connections_and_uploads_slowly(self):
        self.refresh()
        sockets = [socket.create_connection(self.server.address) for _ in range(300)]
        try:
            for i, raw in enumerate(sockets):
                head = "POST /tenant/greedy/lab/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n"
                raw.sendall((head if i % 2 else head + "\r\nabc").encode())
            told = self.under(["/tenant/greedy/lab/hello"], answers=50, clients=4)
            self.assertLessEqual(set(told), {200} | REFUSED)
        finally:
            for raw in sockets:
                raw.close()

    def test_everything_at_once(self):
        self.refresh()
        told = self.under(["/tenant/greedy/lab/spin", "/tenant/greedy/other/hog?mb=60&soft=1", "/tenant/greedy/other/flood?mb=1",
                           "/tenant/greedy/lab/trap", "/tenant/greedy/other/busy", "/tenant/greedy/other/trap-after-head",
                           "/tenant/greedy/none/", "/tenant/greedy/a%2Fb/"], answers=400, clients=40, neighbours=400)
        self.assertLessEqual(set(told), {200, 400, 404, "cut"} | FAILED | REFUSED)
        self.assertTrue(told[404] and told[400])


class SeparationTest(Case):
    """What a tenant is told, sees and keeps is its own."""

    @classmethod
    def setUpClass(cls):
        cls.folder = deploy()
        manifest = cls.folder / "mik.toml"
        manifest.write_text(manifest.read_text().replace("[server]\n", "[server]\nreuse = 100\n"))
        cls.server = Server(None, workers=1, cwd=cls.folder, home=temporary_folder())

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_the_environment_is_the_tenants_own(self):
        for target, owner in (("/tenant/greedy/lab", "greedy"), ("/tenant/quiet/lab", "quiet"), ("/run/settings", "platform")):
            lines = self.server.get(f"{target}/env", patience=60).text().splitlines()
            self.assertIn(f"OWNER={owner}", lines)
            self.assertEqual("SECRET=of greedy" in lines, owner == "greedy")

    def test_an_instance_is_never_used_across_tenants_and_modules(self):
        """`/count` says how many requests an instance has served. All four are the same file."""
        seen = {}
        for _ in range(10):
            for target in ("/tenant/greedy/lab", "/tenant/greedy/other", "/tenant/quiet/lab", "/run/settings"):
                seen.setdefault(target, []).append(int(self.server.get(f"{target}/count", patience=60).text()))
        for target, counts in seen.items():
            self.assertEqual(counts, list(range(1, 11)), target)

    def test_a_tenant_reaches_nothing_but_its_own_modules(self):
        for target, status in (("/tenant/quiet/other/", 404), ("/tenant/greedy/hello/", 404), ("/tenant/nobody/lab/", 404),
                               ("/tenant/quiet/settings/", 404), ("/tenant/quiet/..%2Fgreedy%2Flab/", 400),
                               ("/tenant/../greedy/lab/", 400), ("/tenant/quiet/%2e%2e/", 400), ("/run/greedy/", 404),
                               ("/run/..%2Ftenants%2Fgreedy%2Flab/", 400)):
            self.assert_problem(self.server.get(target), status)

    def test_the_answer_names_the_handler(self):
        response = self.server.get("/tenant/quiet/lab/hello", patience=60)
        self.assertEqual(response.one("x-mik-handler"), "quiet/lab")
        self.assertEqual(self.server.get("/run/hello/", patience=60).one("x-mik-handler"), "hello")

    def test_what_a_guest_prints_carries_its_tenant(self):
        asked = self.server.get("/tenant/greedy/lab/print?text=only-mine", patience=60)
        line = self.server.wait_log("Guest output", request_id=asked.one("x-request-id"))
        self.assertEqual(line["module"], "greedy/lab")


if __name__ == "__main__":
    main()
