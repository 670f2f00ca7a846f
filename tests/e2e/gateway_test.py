"""What operators are told: an address of their own, the key, /_mik/ and /openapi/; merged documents that are OpenAPI."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from binds_test import UnixConnection
from harness import HELLO, LAB, Case, Connection, Server, main, temporary_folder, wait_until
from reload_test import Configured

KEY = ("X-API-Key", "the-key")
WRONG = ("X-API-Key", "the-kez")
THROUGH = ("X-Forwarded-For", "198.51.100.7")
VERBOSE = "/health?verbose=true"

# A Python that has openapi-spec-validator: python3 -m venv ~/.cache/mik/openapi; ~/.cache/mik/openapi/bin/pip install ...
VALIDATOR = Path(os.environ.get("MIK_OPENAPI_PYTHON", Path.home() / ".cache/mik/openapi/bin/python"))

SHOP = {
    "openapi": "3.0.3",
    "info": {"title": "shop", "version": "7"},
    "servers": [{"url": "https://elsewhere.example.com"}],
    "security": [{"key": []}],
    "tags": [{"name": "orders", "description": "of people"}],
    "paths": {
        "/orders/{id}": {
            "parameters": [{"$ref": "#/components/parameters/id"}],
            "get": {
                "operationId": "order", "tags": ["orders"],
                "responses": {
                    "200": {"description": "it",
                            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
                            "links": {"again": {"operationId": "order"}}},
                    "default": {"$ref": "#/components/responses/Problem"},
                },
            },
            "delete": {"security": [], "responses": {"204": {"description": "gone"}}},
        },
    },
    "components": {
        "parameters": {"id": {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}},
        "responses": {"Problem": {"description": "no"}},
        "schemas": {
            "Order": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Order"},
                                                       "example": {"type": "string"}}},
            "Dog": {"type": "object", "properties": {"kind": {"type": "string"}}},
            "Pet": {"oneOf": [{"$ref": "#/components/schemas/Dog"}],
                    "discriminator": {"propertyName": "kind", "mapping": {"dog": "Dog"}}},
        },
        "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}},
    },
}
SMALL = {"openapi": "3.0.0", "info": {"title": "s", "version": "1"},
         "paths": {"/": {"get": {"operationId": "order", "responses": {"200": {"description": "ok"}}}}},
         "components": {"schemas": {"Order": {"type": "string"}}}}


def references(value):
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "$ref" and isinstance(member, str):
                yield member
            else:
                yield from references(member)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def lookup(document, reference):
    here = document
    for step in reference.removeprefix("#/").split("/"):
        here = here[step.replace("~1", "/").replace("~0", "~")]
    return here


def operations(document):
    for path in document["paths"].values():
        for method in ("get", "put", "post", "delete", "options", "head", "patch", "trace"):
            if method in path:
                yield path[method]


class Served(Configured):
    """Folders of modules and of a tenant's, two of them with documents."""

    def __init__(self, text="", **more):
        root = Path(temporary_folder())
        self.modules = root / "modules"
        self.tenants = root / "tenants"
        self.component = self.modules
        (self.tenants / "acme").mkdir(parents=True)
        self.modules.mkdir()
        for path in (self.modules / "shop.wasm", self.modules / "a b.wasm", self.modules / "bare.wasm",
                     self.tenants / "acme" / "shop.wasm"):
            shutil.copy(HELLO, path)
        self.describe(self.modules / "shop", SHOP)
        self.describe(self.modules / "a b", SMALL)
        self.describe(self.tenants / "acme" / "shop", SHOP)
        (root / "secret.openapi.json").write_text("{}")
        super().__init__(f'bind = ["127.0.0.1:0"]\nuser_modules = "{self.tenants}"\n{text}', **more)

    @staticmethod
    def describe(stem, document):
        beside = stem.with_name("next")
        beside.write_text(document if isinstance(document, str) else json.dumps(document))
        os.replace(beside, f"{stem}.openapi.json")

    def json(self, path, *fields):
        answer = self.get(path, list(fields))
        assert answer.status == 200, (path, answer.status, answer.text())
        return json.loads(answer.text())


class GatewayTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Served()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def check_openapi(self, document):
        for reference in references(document):
            lookup(document, reference)
        ids = [operation["operationId"] for operation in operations(document) if "operationId" in operation]
        self.assertEqual(len(ids), len(set(ids)), ids)
        for operation in operations(document):
            for requirement in operation.get("security", []):
                for name in requirement:
                    self.assertIn(name, document["components"]["securitySchemes"])
        for kind in document["components"].values():
            for name in kind:
                self.assertRegex(name, r"^[a-zA-Z0-9._-]+$")
        if VALIDATOR.exists():
            code = "import json,sys; from openapi_spec_validator import validate; validate(json.load(sys.stdin))"
            done = subprocess.run([VALIDATOR, "-c", code], input=json.dumps(document), capture_output=True, text=True,
                                  timeout=60, check=False)
            self.assertEqual(done.returncode, 0, done.stderr[-2000:])

    def test_handlers_are_listed_and_their_links_lead_to_them(self):
        document = self.server.json("/_mik/handlers")
        self.assertEqual([(item["id"], item["attributes"]["has_openapi"]) for item in document["data"]],
                         [("a b", True), ("bare", False), ("shop", True), ("acme/shop", True)])
        self.assertEqual({key: document["meta"][key] for key in ("total", "platform_count", "tenant_count")},
                         {"total": 4, "platform_count": 3, "tenant_count": 1})
        self.assertRegex(document["meta"]["timestamp"], r"^\d{4}-\d\d-\d\dT[\d:.]+\+00:00$")
        for item in document["data"]:
            self.assertEqual(item["attributes"]["size_bytes"], HELLO.stat().st_size)
            self.assertEqual(self.server.get(item["links"]["self"]).text(), "Hello, World!")
            if "openapi" in item["links"]:
                self.check_openapi(self.server.json(item["links"]["openapi"]))

    def test_documents_are_one_document(self):
        document = self.server.json("/_mik/openapi/platform")
        self.assertEqual(sorted(document["paths"]), ["/run/a%20b/", "/run/shop/orders/{id}"])
        order = document["paths"]["/run/shop/orders/{id}"]["get"]
        self.assertEqual(order["security"], [{"shop_key": []}])
        self.assertEqual(order["tags"], ["shop_orders"])
        self.assertEqual(lookup(document, order["responses"]["default"]["$ref"]), {"description": "no"})
        self.assertEqual(order["responses"]["200"]["links"]["again"]["operationId"], order["operationId"])
        self.assertEqual(document["components"]["schemas"]["shop_Pet"]["discriminator"]["mapping"],
                         {"dog": "#/components/schemas/shop_Dog"})
        self.assertIn("a_b_Order", document["components"]["schemas"])
        self.assertEqual(document["info"], {"title": "Platform API", "version": "1.0.0"})
        tenant = self.server.json("/_mik/openapi/tenant/acme")
        self.assertEqual(list(tenant["paths"]), ["/shop/orders/{id}"])
        self.assertEqual(tenant["servers"], [{"url": "/tenant/acme"}])
        self.assertEqual(tenant["info"]["title"], "Tenant acme API")

    def test_a_change_is_seen_and_a_broken_document_is_left_out(self):
        self.server.describe(self.server.modules / "bare", SMALL)
        self.assertIn("/run/bare/", self.server.json("/_mik/openapi/platform")["paths"])
        self.server.describe(self.server.modules / "bare", '{"openapi": ')
        self.assertNotIn("/run/bare/", self.server.json("/_mik/openapi/platform")["paths"])
        self.server.wait_log("OpenAPI document left out", error=re.compile(r"modules/bare\.openapi\.json: .*byte 12"))
        os.unlink(self.server.modules / "bare.openapi.json")

    def test_a_modules_own_document_and_nothing_else(self):
        answer = self.server.get("/openapi/shop")
        self.assertEqual((answer.status, answer.one("x-schema-source")), (200, "static"))
        self.assertEqual(json.loads(answer.text()), SHOP)
        for name in ("../secret", "..%2Fsecret", "%2e%2e/secret", "/etc/passwd", "../tenants/acme/shop", "nothing"):
            answer = self.server.get(f"/openapi/{name}")
            self.assertEqual((answer.status, answer.text()), (404, '{"error":"Schema not available"}'), name)

    def test_errors_are_the_references(self):
        for path, status, error in (("tenant/", 400, "Tenant ID is required"),
                                    ("tenant/a%2Fb", 400, "Invalid tenant ID format"),
                                    ("tenant/none", 404, "Tenant not found: none")):
            answer = self.server.get(f"/_mik/openapi/{path}")
            self.assertEqual((answer.status, json.loads(answer.text())["message"]), (status, error))
        answer = self.server.get("/_mik/what")
        self.assertEqual((answer.status, json.loads(answer.text())),
                         (404, {"error": "not_found", "message": "Unknown gateway endpoint: what"}))
        self.assertEqual(self.server.ask("POST", "/_mik/handlers").status, 405)
        head = self.server.ask("HEAD", "/_mik/handlers")
        self.assertEqual((head.status, head.text()), (200, ""))
        self.assertGreater(int(head.one("content-length")), 100)

    def test_answers_carry_what_all_answers_carry(self):
        answer = self.server.get("/_mik/handlers", [("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01")])
        self.assertIn("ab" * 16, answer.one("traceparent"))
        self.assertRegex(answer.one("x-request-id"), r"^[0-9a-f-]{36}$")


class KeyTest(Case):
    def test_the_gateway_needs_the_key_and_metrics_through_a_proxy_do(self):
        with Served(env={"MIK_API_KEY": "the-key"}) as server:
            for path in ("/_mik/handlers", "/_mik/openapi/platform", "/_mik/what"):
                for fields in ([], [WRONG], [("X-API-Key", "")]):
                    answer = server.get(path, fields)
                    self.assertEqual(answer.status, 401, path)
                    self.assertIn("ApiKey", answer.one("www-authenticate"))
                self.assertNotEqual(server.get(path, [KEY]).status, 401, path)
                self.assertEqual(server.get(path, [THROUGH]).status, 404, path)
            self.assertEqual(server.get("/_mik/handlers", [THROUGH, KEY]).status, 200)
            self.assertEqual(server.get("/metrics").status, 200)
            self.assertEqual(server.get("/openapi/shop").status, 200)
            self.assertEqual(server.get("/openapi/shop", [THROUGH]).status, 404)


class AdminTest(Case):
    def address(self, server):
        line = server.wait_log("Serving administration on")["message"]
        return ("127.0.0.1", int(line.rsplit(":", 1)[1]))

    def test_what_is_for_operators_moves_to_its_own_address(self):
        with Served('admin = "127.0.0.1:0"') as server:
            with Connection(self.address(server)) as admin:
                self.assertIn("mik_requests_total", admin.ask("GET", "/metrics").text())
                self.assertIn("shop", admin.ask("GET", "/_mik/handlers").text())
                self.assertEqual(admin.ask("GET", "/openapi/shop").status, 200)
                self.assertIn("loaded_modules", admin.ask("GET", VERBOSE).text())
                self.assertEqual(admin.ask("GET", "/health/live").status, 200)
                for path in ("/run/shop/", "/tenant/acme/shop/", "/", "/static/x"):
                    self.assertEqual(admin.ask("GET", path).status, 404, path)
            for path in ("/metrics", "/_mik/handlers", "/_mik/what"):
                self.assertEqual(server.get(path).status, 404, path)
            self.assertEqual(server.get("/openapi/shop").status, 200)
            self.assertEqual(server.get("/health").status, 200)
            self.assertNotIn("loaded_modules", server.get(VERBOSE).text())
            self.assertEqual(server.get("/run/shop/").status, 200)

    def test_the_key_is_needed_there(self):
        with Served('admin = "127.0.0.1:0"', env={"MIK_API_KEY": "the-key"}) as server:
            with Connection(self.address(server)) as admin:
                for path in ("/metrics", "/_mik/handlers", "/openapi/shop"):
                    self.assertEqual(admin.ask("GET", path).status, 401, path)
                    self.assertEqual(admin.ask("GET", path, [WRONG]).status, 401, path)
                    self.assertEqual(admin.ask("GET", path, [KEY]).status, 200, path)
                self.assertEqual(admin.ask("GET", "/health").status, 200)
                self.assertNotIn("loaded_modules", admin.ask("GET", VERBOSE).text())
                self.assertIn("loaded_modules", admin.ask("GET", VERBOSE, [KEY]).text())
            for path in ("/metrics", "/_mik/handlers"):
                self.assertEqual(server.get(path, [KEY]).status, 404, path)
            self.assertNotIn("loaded_modules", server.get(VERBOSE, [KEY]).text())

    def test_a_reload_moves_it_and_a_unix_socket_will_do(self):
        with Served() as server:
            self.assertEqual(server.get("/metrics").status, 200)
            path = server.folder / "admin.sock"
            server.write(f'bind = ["127.0.0.1:0"]\nadmin = "unix:{path}"')
            server.reload()
            wait_until(lambda: server.get("/metrics").status == 404, 5, "the end of /metrics on the public port")
            with UnixConnection(path) as admin:
                self.assertEqual(admin.ask("GET", "/metrics").status, 200)
                self.assertEqual(admin.ask("GET", "/run/shop/").status, 404)
            server.write('bind = ["127.0.0.1:0"]')
            server.reload()
            wait_until(lambda: server.get("/metrics").status == 200, 5, "/metrics on the public port")
        self.assertFalse(path.exists())

    def test_a_drain_waits_for_neither(self):
        with Served('admin = "127.0.0.1:0"') as server:
            with Connection(self.address(server)) as admin:
                self.assertEqual(admin.ask("GET", "/health").status, 200)
                server.stop()


class SingleTest(Case):
    def test_a_single_component_is_listed_alone(self):
        folder = Path(temporary_folder())
        for name in ("api-composed", "other"):
            shutil.copy(LAB, folder / f"{name}.wasm")
        (folder / "api.openapi.json").write_text(json.dumps(SMALL))
        with Server(folder / "api-composed.wasm") as server:
            data = json.loads(server.get("/_mik/handlers").text())["data"]
            self.assertEqual([item["id"] for item in data], ["api"])
            self.assertEqual(list(json.loads(server.get("/_mik/openapi/platform").text())["paths"]), ["/run/api/"])
            self.assertEqual(json.loads(server.get("/openapi/api").text()), SMALL)


if __name__ == "__main__":
    main()
