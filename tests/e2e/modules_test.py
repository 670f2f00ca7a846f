"""Modules and tenants on one port: where a path leads, what each may have, who is refused and how, what is kept loaded.
Swaps are in modules_swap_test.py, breakers and permits over several workers in reliability_test.py."""

import json
import re
import threading
from pathlib import Path

from components import heavy, tagged
from harness import HELLO, INPUTS, LAB, Case, Neighbour, Server, encode, main, temporary_folder, wait_until


class Site:
    """A folder with a manifest, modules and tenants; `server()` runs it, each time with the same state."""

    def __init__(self, manifest="", modules=None, tenants=None):
        self.folder = Path(temporary_folder())
        self.home = temporary_folder()
        for name, wasm in (modules or {"hello": HELLO, "lab": LAB}).items():
            self.put(f"modules/{name}", wasm)
        for name, wasm in (tenants or {}).items():
            self.put(f"tenants/{name}", wasm)
        (self.folder / "modules").mkdir(exist_ok=True)
        (self.folder / "tenants").mkdir(exist_ok=True)
        (self.folder / "mik.toml").write_text(
            'server.modules = "modules/"\nserver.user_modules = "tenants/"\n' + manifest)

    def put(self, name, wasm):
        path = self.folder / f"{name}.wasm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wasm if isinstance(wasm, bytes) else wasm.read_bytes())

    def server(self, workers=1, **more):
        return Server(None, workers=workers, cwd=self.folder, home=self.home, **more)


def compiled(server):
    """The names of modules that were compiled, one for each time."""
    lines = [re.match(r"compiling module (\S+)", line["message"], re.I) for line in list(server.log)]
    return [match.group(1) for match in lines if match]


class RoutingTest(Case):
    """One server, one worker, many paths."""

    @classmethod
    def setUpClass(cls):
        cls.site = Site("""
server.root = "hello"
[[routes]]
path = "/v1/"
module = "lab"
strip_prefix = true
[[routes]]
host = "shop.example.com"
path = "/"
tenant = "acme"
module = "web"
[[routes]]
host = "*.example.com"
path = "/raw"
module = "lab"
""", {"hello": HELLO, "lab": LAB, "a b": LAB, "broken": INPUTS / "unknown-import.wasm", "junk": b"not wasm"},
                        {"acme/web": LAB, "zeta/web": LAB, "zeta/own": LAB})
        cls.server = cls.site.server()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def seen(self, target, host="mik.test"):
        """What the lab guest says it was asked for, and the handler that answered."""
        response = self.server.get(target, host=host)
        self.assertEqual(response.status, 200, response)
        lines = dict(line.split(": ", 1) for line in response.text().splitlines())
        return lines["path-with-query"], response.get("x-mik-handler")

    def test_run_and_tenant_paths(self):
        # G1, G3: the rest and the query as they came, no slash lost.
        self.assertEqual(self.seen("/run/lab/request?a=%20b&c"), ("/request?a=%20b&c", "lab"))
        self.assertEqual(self.seen("/tenant/acme/web/request?x=1"), ("/request?x=1", "acme/web"))
        self.assertEqual(self.seen("/run/%6Cab/request"), ("/request", "lab"))
        self.assertEqual(self.server.get("/tenant/zeta/web//a///b/").get("x-mik-handler"), "zeta/web")

    def test_routes_and_root(self):
        self.assertEqual(self.seen("/v1/request?x=1"), ("/request?x=1", "lab"))
        shop = "SHOP.example.com:80"
        self.assertEqual(self.seen("/request", shop), ("/request", "acme/web"))
        self.assertEqual(self.server.get("/raw/x", host="a.b.example.com").get("x-mik-handler"), "lab")
        self.assertEqual(self.server.get("/anything").get("x-mik-handler"), "hello")
        self.assertEqual(self.server.get("/v10").get("x-mik-handler"), "hello")
        # Built-in paths win over every route.
        self.assertEqual(json.loads(self.server.get("/health", host=shop).body)["status"], "ready")

    def test_absent_is_404_and_a_bad_name_400(self):
        for target in ("/run/none/", "/run/HELLO/", "/tenant/acme/own/", "/tenant/none/web/", "/tenant/acme/hello/"):
            problem = self.assert_problem(self.server.get(target), 404)
            self.assertIn("module not found: ", problem["error"])
        for target in ("/run/..%2fhello/", "/run/..", "/run/a%00b/", "/tenant/../hello/", "/tenant/acme/..%2f..%2fhello/",
                       "/run/" + "x" * 256, "/run/%ff/"):
            self.assert_problem(self.server.get(target), 400)
        for target in ("/run/", "/tenant/", "/tenant/acme", "/tenant//web"):
            self.assert_problem(self.server.get(target), 404)

    def test_a_broken_module_is_502_and_the_log_says_why_once(self):
        for name, why in (("broken", "acme:widgets"), ("junk", "WebAssembly")):
            def said(why=why):
                return [line for line in list(self.server.log) if why in json.dumps(line)]
            for _ in range(4):
                response = self.server.get(f"/run/{name}/")
                self.assertNotIn(why, self.assert_problem(response, 502)["error"])
            self.server.wait_log("Request failed", request_id=response.one("x-request-id"))
            wait_until(said, 10, "why it is broken")
            self.assertEqual(len(said()), 1, said())
        health = json.loads(self.server.get("/health").body)
        self.assertEqual((health["status"], health["modules_broken"]), ("ready", 2))
        self.assertEqual(self.server.get("/run/hello/").status, 200)

    def test_a_name_that_is_no_field_value_has_no_handler_field(self):
        response = self.server.get("/run/a%20b/hello")
        self.assertEqual((response.status, response.get("x-mik-handler")), (200, None))
        self.server.wait_log("Request completed", module="a b")

    def test_health_lists_what_is_loaded(self):
        self.server.get("/run/lab/hello")
        self.server.get("/tenant/acme/web/hello")
        health = json.loads(self.server.get("/health?verbose=true").body)
        self.assertLessEqual({"lab", "acme/web"}, set(health["loaded_modules"]))
        self.assertEqual(health["cache_size"], len(health["loaded_modules"]))
        self.assertGreater(health["cache_bytes"], 50_000)
        self.assertEqual(health["modules"], 8)

    def test_metrics_are_by_module_and_escaped(self):
        self.server.get("/run/lab/hello")
        metrics = self.server.metrics()
        self.assertGreaterEqual(metrics['mik_module_requests_total{module="lab"}'], 1)
        self.assertEqual(metrics['mik_circuit_breaker_state{module="lab"}'], 0)
        self.assertEqual(metrics["mik_module_cache_size_bytes"], metrics["mik_cache_bytes"])
        self.assertEqual(metrics['mik_modules{state="all"}'], 8)
        # G17, G23: a name that is no module leaves no trace.
        self.server.get("/run/nobody/")
        self.assertNotIn("nobody", self.server.get("/metrics").text())


class OwnSettingsTest(Case):
    """[modules.NAME] and [tenants.ID]: what holds for one changes nothing for another."""

    @classmethod
    def setUpClass(cls):
        cls.site = Site("""
[server]
execution_timeout_secs = 20
env = { WHO = "server" }
[modules.tight]
execution_timeout_secs = 1
cpu_ms = 50
memory_limit_bytes = 16777216
env = { WHO = "tight" }
[modules.warm]
reuse = 100
[tenants.acme]
reuse = 100
env = { WHO = "acme", SECRET = "of acme" }
[tenants.zeta]
reuse = 100
""".replace("[server]\n", "[server]\nmodules = \"modules/\"\nuser_modules = \"tenants/\"\n"),
                        {"lab": LAB, "tight": LAB, "warm": LAB}, {"acme/lab": LAB, "zeta/lab": LAB})
        manifest = cls.site.folder / "mik.toml"
        manifest.write_text(manifest.read_text().split("\n", 2)[2])  # the site's own two lines are in [server]
        cls.server = cls.site.server()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def env(self, prefix):
        return dict(line.split("=", 1) for line in self.server.get(prefix + "/env").text().splitlines() if "=" in line)

    def test_environment(self):
        self.assertEqual(self.env("/run/lab"), {"WHO": "server"})
        self.assertEqual(self.env("/run/tight"), {"WHO": "tight"})
        self.assertEqual(self.env("/tenant/acme/lab"), {"WHO": "acme", "SECRET": "of acme"})
        self.assertEqual(self.env("/tenant/zeta/lab"), {"WHO": "server"})

    def test_time_cpu_and_memory(self):
        self.assert_problem(self.server.get("/run/tight/sleep?ms=15000"), 504)
        self.assert_problem(self.server.get("/run/tight/spin"), 504)
        self.assert_problem(self.server.get("/run/tight/hog?mb=32"), 507)
        self.assertEqual(self.server.get("/run/lab/cpu?ms=200").status, 200)
        self.assertEqual(self.server.get("/run/lab/hog?mb=32").status, 200)

    def test_a_kept_instance_serves_its_own_module_only(self):
        for _ in range(2):
            for prefix in ("/run/warm", "/tenant/acme/lab", "/tenant/zeta/lab"):
                self.server.get(prefix + "/count")
        counts = {prefix: int(self.server.get(prefix + "/count").text())
                  for prefix in ("/run/warm", "/tenant/acme/lab", "/tenant/zeta/lab", "/run/lab")}
        self.assertEqual(counts, {"/run/warm": 3, "/tenant/acme/lab": 3, "/tenant/zeta/lab": 3, "/run/lab": 1})


class CacheTest(Case):
    def test_many_modules_and_a_small_cache(self):
        names = [f"m{i}" for i in range(30)]
        site = Site("server.cache_size = 5\n", {name: tagged(HELLO.read_bytes(), name) for name in names})
        with site.server() as server:
            for _ in range(2):
                for name in names:
                    self.assertEqual(server.get(f"/run/{name}/").status, 200)
            health = json.loads(server.get("/health?verbose=1").body)
            self.assertEqual((health["cache_size"], health["cache_capacity"]), (5, 5))
            self.assertEqual(sorted(health["loaded_modules"]), sorted(names[-5:]))
            self.assertEqual(sorted(compiled(server)), sorted(names))  # each once: artefacts are on disk
            self.assertEqual(server.metric("mik_module_cache_misses_total"), 60)
            server.get("/run/m29/")
            self.assertEqual(server.metric("mik_module_cache_misses_total"), 60)

    def test_first_requests_at_once_compile_once(self):
        site = Site(modules={"hello": HELLO, "large": heavy(LAB.read_bytes(), 3000)})
        with site.server(workers=2) as server:
            statuses = []
            threads = [threading.Thread(target=lambda: statuses.append(server.get("/run/large/hello").status))
                       for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(statuses, [200] * 20)
            self.assertEqual(compiled(server), ["large"])

    def test_an_artefact_on_disk_is_not_compiled_again(self):
        site = Site()
        with site.server() as server:
            server.get("/run/lab/hello")
            self.assertEqual(compiled(server), ["lab"])
        with site.server() as server:
            self.assertEqual(server.get("/run/lab/hello").status, 200)
            self.assertEqual(compiled(server), [])

    def test_a_compile_delays_nobody_else(self):
        site = Site(modules={"hello": HELLO, "large": heavy(LAB.read_bytes())})
        with site.server() as server:
            server.get("/run/hello/")
            with Neighbour(server, target="/run/hello/"):
                waiting = server.connect(patience=60)
                waiting.send(encode("GET", "/run/large/hello"))
                server.wait_log("compiling module large")
                wait_until(lambda: json.loads(server.get("/health").body)["modules_compiling"] == 1, 15, "compiling")
                # It holds no permit, and who leaves while it waits is forgotten.
                self.assertEqual(server.metric("mik_active_requests"), 0)
                gone = server.connect()
                gone.send(encode("GET", "/run/large/hello"))
                gone.close()
                self.assertEqual(waiting.response().status, 200)
                waiting.close()
            server.wait_idle()


class FilesTest(Case):
    # G46: files are opened without following links out of their folder.
    def test_links_that_lead_out_are_not_served(self):
        site = Site(modules={"hello": HELLO})
        outside = Path(temporary_folder()) / "secret.wasm"
        outside.write_bytes(LAB.read_bytes())
        (site.folder / "modules/out.wasm").symlink_to(outside)
        (site.folder / "modules/again.wasm").symlink_to("hello.wasm")
        (site.folder / "tenants/evil").mkdir()
        (site.folder / "tenants/evil/peer.wasm").symlink_to("../../modules/hello.wasm")
        with site.server() as server:
            self.assertEqual(server.get("/run/again/").status, 200)
            for target in ("/run/out/", "/tenant/evil/peer/"):
                self.assertIn(server.get(target).status, (404, 502), target)

    # G38: platform modules may be none at all.
    def test_only_tenants(self):
        site = Site(modules={"unused": HELLO}, tenants={"acme/web": HELLO})
        (site.folder / "modules/unused.wasm").unlink()
        with site.server() as server:
            self.assertEqual(server.get("/tenant/acme/web/").status, 200)
            self.assert_problem(server.get("/run/web/"), 404)

    def test_a_module_that_comes_and_goes(self):
        site = Site(modules={"hello": HELLO})
        with site.server() as server:
            self.assert_problem(server.get("/run/late/"), 404)
            site.put("modules/late", LAB)
            wait_until(lambda: server.get("/run/late/hello").status == 200, 15, "the new module")
            (site.folder / "modules/late.wasm").unlink()
            wait_until(lambda: server.get("/run/late/hello").status == 404, 15, "its end")
            self.assertEqual(server.get("/run/hello/").status, 200)


class QueueTest(Case):
    def test_a_request_waits_for_a_permit_of_its_module(self):
        site = Site("[server]\nmodules = \"modules/\"\nqueue_ms = 60000\nmax_per_module_requests = 1\n")
        manifest = site.folder / "mik.toml"
        manifest.write_text(manifest.read_text().split("\n", 2)[2])
        with site.server() as server:
            self.assertEqual(server.get("/run/lab/hello").status, 200)
            first = server.connect()
            first.send(encode("GET", "/run/lab/sleep?ms=300"))
            wait_until(lambda: server.metric("mik_active_requests") == 1, 5, "the first")
            second = server.connect()
            second.send(encode("GET", "/run/lab/hello"))
            self.assertEqual(server.get("/run/hello/").status, 200)
            self.assertEqual(first.response().status, 200)
            self.assertEqual(second.response().status, 200)
            first.close()
            second.close()


if __name__ == "__main__":
    main()
