"""Proxies in front: who the client is, in the log and for the guest, and what is kept from a proxy's clients."""

import socket

from harness import HELLO, LAB, Case, Server, main, temporary_folder, wait_until


class ForwardedTest(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(LAB, workers=1, env={"MIK_API_KEY": "the-key"})

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def client_of(self, *fields):
        """The remote_addr that the log has of a request with these fields."""
        identity = self.server.get("/hello", fields).one("x-request-id")
        return self.server.wait_log("Request completed", request_id=identity)["remote_addr"]

    def scheme_of(self, *fields):
        lines = self.server.get("/request", fields).text().splitlines()
        return next(line for line in lines if line.startswith("scheme: "))

    def test_field_18_the_client_is_found_from_the_right(self):
        name = "X-Forwarded-For"
        self.assertEqual(self.client_of((name, "9.9.9.9, 203.0.113.7")), "203.0.113.7")
        self.assertEqual(self.client_of((name, "9.9.9.9"), (name, "203.0.113.7")), "203.0.113.7")
        self.assertEqual(self.client_of((name, "203.0.113.7, junk")), "127.0.0.1")
        self.assertEqual(self.client_of((name, "9.9.9.9, 203.0.113.7, 127.0.0.9")), "203.0.113.7")
        self.assertEqual(self.client_of(("Forwarded", 'for="[2001:db8::1]:80";proto=https')), "2001:db8::1")
        self.assertEqual(self.client_of(("X-Real-IP", "203.0.113.9")), "203.0.113.9")
        self.assertEqual(self.client_of(), "127.0.0.1")

    def test_a_client_cannot_forge_its_address_by_the_kind_that_the_proxy_does_not_write(self):
        listed, standard = ("X-Forwarded-For", "203.0.113.7"), ("Forwarded", "for=203.0.113.8;proto=https")
        self.assertEqual(self.client_of(listed, standard), "127.0.0.1")
        self.assertEqual(self.client_of(listed, ("Forwarded", "for=203.0.113.7")), "203.0.113.7")
        self.assertEqual(self.scheme_of(standard, ("X-Forwarded-Proto", "http")), "scheme: http")

    def test_the_guest_sees_the_clients_scheme(self):
        self.assertEqual(self.scheme_of(), "scheme: http")
        self.assertEqual(self.scheme_of(("X-Forwarded-Proto", "https")), "scheme: https")
        self.assertEqual(self.scheme_of(("Forwarded", "for=203.0.113.7;proto=https")), "scheme: https")

    def test_what_operators_see_needs_the_key_through_a_proxy(self):
        through = ("X-Forwarded-For", "203.0.113.7")
        key = ("X-API-Key", "the-key")
        self.assertEqual(self.server.get("/metrics").status, 200)
        self.assertEqual(self.server.get("/metrics", [through]).status, 404)
        self.assertEqual(self.server.get("/metrics", [through, ("X-API-Key", "another")]).status, 404)
        self.assertEqual(self.server.get("/metrics", [through, key]).status, 200)
        self.assertEqual(self.server.get("/health", [through]).status, 200)
        self.assertNotIn("loaded_modules", self.server.get("/health?verbose=true").text())
        self.assertIn("loaded_modules", self.server.get("/health?verbose=true", [through, key]).text())

    def test_strangers_are_not_believed_and_unix_sockets_are(self):
        folder = temporary_folder()
        path = f"{folder}/http.sock"
        with open(f"{folder}/mik.toml", "w", encoding="utf-8") as manifest:
            manifest.write(f'[server]\nmodules = "{HELLO}"\ntrusted_proxies = ["192.0.2.0/24"]\n'
                           f'bind = ["127.0.0.1:0", "unix:{path}"]\n')
        with Server(None, "--config", f"{folder}/mik.toml", workers=1, port=None) as server:
            field = ("X-Forwarded-For", "203.0.113.7")
            self.assertEqual(server.get("/metrics", [field]).status, 200)
            server.get("/", [field])
            self.assertEqual(server.wait_log("Request completed")["remote_addr"], "127.0.0.1")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(15)
                client.connect(path)
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.8\r\n\r\n")
                client.recv(65536)
                wait_until(lambda: server.find_log("Request completed", remote_addr="203.0.113.8"), what="the log line")
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                client.recv(65536)
                wait_until(lambda: server.find_log("Request completed", remote_addr="unix:"), what="the log line")


if __name__ == "__main__":
    main()
