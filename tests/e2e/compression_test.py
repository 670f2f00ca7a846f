"""Compressed answers by the binary: guests', our own, and what a cache in front makes of them."""

import gzip
import os
import signal
import subprocess
import zlib
from pathlib import Path

from harness import HELLO, LAB, Case, Server, free_port, main, temporary_folder, wait_until
from http1 import Connection

CACHE = """
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    proxy_cache_path cache keys_zone=zone:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache zone;
            proxy_cache_valid 200 1m;
            add_header X-Cache $upstream_cache_status;
        }}
    }}
}}
"""


class Cache:
    """nginx with proxy_cache before a server."""

    def __init__(self, upstream):
        folder = temporary_folder()
        self.address = ("127.0.0.1", free_port())
        with open(f"{folder}/nginx.conf", "w", encoding="utf-8") as file:
            file.write(CACHE.format(user="user root;" if os.geteuid() == 0 else "", port=self.address[1], upstream=upstream))
        self.process = subprocess.Popen(["nginx", "-p", folder, "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, what="a listening nginx")

    def _answers(self):
        try:
            Connection(self.address).close()
            return True
        except OSError:
            return False

    def ask(self, target, fields):
        with Connection(self.address) as connection:
            return connection.ask("GET", target, fields)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=10)


def accepting(codings):
    return [("Accept-Encoding", codings)] if codings is not None else []


class CompressionTest(Case):
    @classmethod
    def setUpClass(cls):
        folder = Path(temporary_folder())
        (folder / "web").mkdir()
        cls.page = b"<p>some text</p>\n" * 1000
        (folder / "web/page.html").write_bytes(cls.page)
        (folder / "mik.toml").write_text(f'[server]\nmodules = "{LAB}"\nstatic = "web"\n')
        cls.folder = folder
        cls.server = Server(None, "--config", folder / "mik.toml")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_g8_quality_decides(self):
        plain = self.server.get("/big?mb=1").body
        for accept, coding in ((None, None), ("identity", None), ("gzip;q=0", None), ("GZIP", "gzip"), ("gzip, br", "br"),
                               ("gzip, br, zstd", "zstd"), ("gzip;q=1, br;q=0.2", "gzip"), ("*", "zstd"),
                               ("gzip;q=0.2, identity", None)):
            answer = self.server.get("/big?mb=1", accepting(accept))
            self.assertEqual(answer.get("content-encoding"), coding, accept)
            self.assertEqual(answer.one("vary"), "Accept-Encoding")
            if coding is None:
                self.assertEqual(answer.body, plain)
            else:
                self.assertLess(len(answer.body), len(plain) // 10)
        self.assertEqual(gzip.decompress(self.server.get("/big?mb=1", accepting("gzip")).body), plain)

    def test_curl_decodes_all_codings_over_both_protocols(self):
        for option in ("--http1.1", "--http2-prior-knowledge"):
            got = subprocess.run(["curl", "-sS", option, "--compressed", f"http://127.0.0.1:{self.server.port}/big?mb=3"],
                                 check=True, capture_output=True, timeout=60).stdout
            self.assertEqual(got, self.server.get("/big?mb=3").body)

    def test_short_answers_stay_as_they_are(self):
        answer = self.server.get("/hello", accepting("gzip"))
        self.assertEqual((answer.get("content-encoding"), answer.text()), (None, "Hello, World!"))

    def test_what_the_guest_flushes_can_be_read_at_once(self):
        decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        seen = []
        with self.server.connect() as connection:
            def take(data):
                text = decoder.decompress(data)
                if text:
                    seen.append(text)
            connection.send(b"GET /stream?n=5&ms=50 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
            answer = connection.response(on_body=take)
        self.assertEqual(answer.one("content-encoding"), "gzip")
        self.assertGreater(len(seen), 2)
        self.assertEqual(b"".join(seen).count(b"chunk "), 5)

    def test_head_says_what_get_says(self):
        get = self.server.get("/static/page.html", accepting("gzip"))
        head = self.server.ask("HEAD", "/static/page.html", accepting("gzip"))
        for name in ("content-encoding", "vary", "etag", "content-type"):
            self.assertEqual(head.get(name), get.get(name), name)
        self.assertEqual(head.body, b"")

    def test_a_guest_that_fails_in_the_middle_is_cut(self):
        with self.server.connect() as connection:
            connection.send(b"GET /trap-after-head HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
            with self.assertRaises(Exception):
                connection.response()

    def test_metrics_are_compressed(self):
        answer = self.server.get("/metrics", accepting("gzip"))
        self.assertEqual(answer.one("content-encoding"), "gzip")
        self.assertIn(b"mik_", gzip.decompress(answer.body))

    def test_metrics_of_many_modules_arrive_whole(self):
        modules = Path(temporary_folder())
        names = [f"module-{i}" for i in range(80)]
        for name in names:
            (modules / f"{name}.wasm").write_bytes(HELLO.read_bytes())
        with Server(modules) as server:
            for name in names:
                self.assertEqual(server.get(f"/run/{name}").status, 200)
            plain = server.get("/metrics")
            self.assertGreater(len(plain.body), 65536)
            packed = server.get("/metrics", accepting("gzip"))
            self.assertIn(names[-1].encode(), gzip.decompress(packed.body))

    def test_field_40_a_cache_in_front_gives_each_client_what_it_can_decode(self):
        with Cache(self.server.port) as cache:
            for target, wanted in (("/static/page.html", self.page), ("/big?mb=1", self.server.get("/big?mb=1").body)):
                for accept in (None, "gzip", "identity", "gzip;q=0", "gzip", None):
                    answer = cache.ask(target, accepting(accept))
                    coding = answer.get("content-encoding")
                    self.assertEqual(coding, "gzip" if accept == "gzip" else None, (target, accept))
                    self.assertEqual(gzip.decompress(answer.body) if coding else answer.body, wanted)
                    self.assertEqual(answer.one("vary"), "Accept-Encoding")

    def test_the_key_turns_it_off(self):
        manifest = self.folder / "off.toml"
        manifest.write_text(f'[server]\nmodules = "{LAB}"\nstatic = "web"\ncompression = false\n')
        with Server(None, "--config", manifest) as server:
            for target in ("/big?mb=1", "/static/page.html", "/metrics"):
                self.assertIsNone(server.get(target, accepting("gzip")).get("content-encoding"), target)


if __name__ == "__main__":
    main()
