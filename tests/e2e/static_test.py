"""Static files: `[server] static` under /static/, by the binary."""

import hashlib
import os
import resource
import subprocess
from pathlib import Path

from harness import HELLO, Case, Server, main, temporary_folder


class StaticTest(Case):
    @classmethod
    def setUpClass(cls):
        folder = Path(temporary_folder())
        cls.web = folder / "public"
        for name, content in {"a.txt": b"0123456789", "with space é.html": b"<p>",
                              "dir/index.html": b"index", "evil.example/index.html": b"evil", ".env": b"secret",
                              "large.bin": bytes(range(256)) * 20000, "page.html": b"<p>text</p>" * 500,
                              "app.js": b"let a = 1;" * 500, "app.js.gz": b"gzipped", "app.js.br": b"brotlied"}.items():
            path = cls.web / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (folder / "secret.txt").write_text("secret")
        os.symlink("../secret.txt", cls.web / "out.txt")
        os.symlink("a.txt", cls.web / "in.txt")
        (folder / "mik.toml").write_text(f'[server]\nmodules = "{HELLO}"\nstatic = "public"\n')
        cls.folder = folder
        # Not from the folder of the file: its paths are relative to it all the same (field case 43).
        cls.server = Server(None, "--config", folder / "mik.toml", cwd="/")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def get(self, path, *fields, method="GET"):
        return self.server.ask(method, f"/static/{path}", fields)

    def test_a_file_has_its_fields(self):
        answer = self.get("a.txt?v=1")
        self.assertEqual((answer.status, answer.text()), (200, "0123456789"))
        self.assertEqual(answer.one("content-type"), "text/plain; charset=utf-8")
        self.assertEqual(answer.one("cache-control"), "public, max-age=3600")
        self.assertEqual(answer.one("accept-ranges"), "bytes")
        self.assertEqual(len(answer.one("x-request-id")), 36)
        self.assertTrue(answer.one("traceparent"))
        head = self.get("a.txt", method="HEAD")
        self.assertEqual((head.status, head.one("content-length"), head.one("etag")), (200, "10", answer.one("etag")))
        self.assertEqual(self.get("in.txt").text(), "0123456789")

    def test_g47_names_are_decoded_once_and_hidden_ones_are_not_there(self):
        self.assertEqual(self.get("with%20space%20%C3%A9.html").text(), "<p>")
        self.assertEqual(self.get("dir/").text(), "index")
        for path in (".env", "%2eenv", "out.txt", "nothing", "dir/../../secret.txt", "%2e%2e/secret.txt",
                     "..%2fsecret.txt", "a.txt/", ""):
            answer = self.get(path)
            self.assertEqual(answer.status, 404, path)
            self.assertNotIn("secret", answer.text())
        for path in ("%zz", "a%00b"):
            self.assertEqual(self.get(path).status, 400, path)

    def test_each_answer_is_a_line_of_the_log(self):
        for path, status, size in (("a.txt?key=secret", 200, 10), ("large.bin", 200, 256 * 20000), ("none", 404, None), ("%zz", 400, None)):
            answer = self.get(path)
            self.assertEqual(answer.status, status)
            line = self.server.wait_log("Request completed", request_id=answer.one("x-request-id"))
            self.assertEqual((line["level"], line["method"], line["path"], line["status"], line["bytes_out"], line["remote_addr"]),
                             ("INFO", "GET", f"/static/{path.partition('?')[0]}", status, len(answer.body), "127.0.0.1"))
            self.assertEqual(line["trace_id"], answer.one("traceparent").split("-")[1])
            self.assertEqual(size or len(answer.body), len(answer.body))
            self.assertNotIn("module", line)

    def test_a_file_that_cannot_be_read_is_a_failed_request(self):
        with Server(None, "--config", self.folder / "mik.toml", workers=1) as server, server.connect() as connection:
            self.assertEqual(connection.ask("GET", "/static/a.txt").status, 200)
            limits = resource.prlimit(server.worker(), resource.RLIMIT_NOFILE)
            resource.prlimit(server.worker(), resource.RLIMIT_NOFILE, (0, limits[1]))
            answer = connection.ask("GET", "/static/in.txt")
            resource.prlimit(server.worker(), resource.RLIMIT_NOFILE, limits)
            self.assertEqual(answer.status, 500)
            line = server.wait_log("Request failed", request_id=answer.one("x-request-id"))
            self.assertEqual((line["level"], line["status"], line["error"]), ("WARN", 500, "the file cannot be read"))
            server.wait_log("Static file cannot be read", path="in.txt", error="Too many open files")

    def test_other_methods_are_405(self):
        answer = self.server.ask("POST", "/static/a.txt", body=b"x")
        self.assertEqual((answer.status, answer.one("allow")), (405, "GET, HEAD, OPTIONS"))
        self.assertEqual(self.get("a.txt", method="OPTIONS").one("allow"), "GET, HEAD, OPTIONS")

    def test_field_42_redirects_stay_on_this_host(self):
        answer = self.get("dir?a=b")
        self.assertEqual((answer.status, answer.one("location")), (301, "/static/dir/?a=b"))
        for target in ("/static//evil.example", "/static/%2F%2Fevil.example", "/static/..//evil.example",
                       "/static//evil.example?q=1"):
            answer = self.server.get(target)
            if answer.status != 404:
                self.assertEqual(answer.status, 301)
                self.assertEqual(answer.one("location").partition("?")[0], "/static/evil.example/")

    def test_field_41_tags_revalidate(self):
        etag = self.get("page.html").one("etag")
        for tag in (etag, "W/" + etag, f'"a", W/{etag}', "*"):
            answer = self.get("page.html", ("If-None-Match", tag))
            self.assertEqual((answer.status, answer.text()), (304, ""), tag)
        weak = self.get("page.html", ("Accept-Encoding", "gzip")).one("etag")
        self.assertEqual(weak, "W/" + etag)
        again = self.get("page.html", ("Accept-Encoding", "gzip"), ("If-None-Match", weak))
        self.assertEqual((again.status, again.one("etag")), (304, weak))
        self.assertEqual(self.get("page.html", ("If-Match", weak)).status, 412)
        self.assertEqual(self.get("a.txt", ("Range", "bytes=0-1"), ("If-Range", "W/" + etag)).status, 200)

    def test_ranges(self):
        part = self.get("a.txt", ("Range", "bytes=2-4"))
        self.assertEqual((part.status, part.text(), part.one("content-range")), (206, "234", "bytes 2-4/10"))
        self.assertEqual(self.get("a.txt", ("Range", "bytes=-2")).text(), "89")
        none = self.get("a.txt", ("Range", "bytes=99-"))
        self.assertEqual((none.status, none.one("content-range")), (416, "bytes */10"))
        self.assertEqual(self.get("a.txt", ("Range", "bytes=0-1,4-5")).text(), "0123456789")

    def test_siblings_by_quality(self):
        for accept, text in (("gzip", "gzipped"), ("br;q=0.5, gzip;q=0.6", "gzipped"), ("gzip, br", "brotlied")):
            for _ in range(2):
                answer = self.get("app.js", ("Accept-Encoding", accept))
                self.assertEqual((answer.text(), answer.one("vary")), (text, "Accept-Encoding"))
        self.assertEqual(self.get("app.js", ("Accept-Encoding", "br;q=0")).text(), "let a = 1;" * 500)

    def test_large_files_arrive_whole_over_both_protocols(self):
        wanted = hashlib.sha256((self.web / "large.bin").read_bytes()).hexdigest()
        for option in ("--http1.1", "--http2-prior-knowledge"):
            got = subprocess.run(["curl", "-sS", option, f"http://127.0.0.1:{self.server.port}/static/large.bin"],
                                 check=True, capture_output=True, timeout=60).stdout
            self.assertEqual(hashlib.sha256(got).hexdigest(), wanted, option)

    def test_a_file_that_is_replaced_is_seen_at_once(self):
        path = self.web / "changing.txt"
        for text in ("one", "two!", "three"):
            new = self.web / "new.tmp"
            new.write_text(text)
            os.replace(new, path)
            self.assertEqual(self.get("changing.txt").text(), text)

    def test_without_the_key_the_component_has_the_path(self):
        with Server(HELLO) as server:
            self.assertEqual(server.get("/static/a.txt").text(), "Hello, World!")

    def test_a_folder_of_modules_without_the_key(self):
        modules = Path(temporary_folder())
        with Server(modules) as server:
            answer = server.get("/static/a.txt")
            self.assertEqual(answer.status, 404)
            self.assertIn("Static file serving not enabled", answer.text())


if __name__ == "__main__":
    main()
