"""Requests that guests make: what they may reach, what goes over the wire, streaming, errors."""

import os
import socket
import ssl
import subprocess
import threading
import time
from urllib.parse import quote

from harness import (LAB, Case, Neighbour, Server, anonymous_mib, encode, main, temporary_folder, wait_until)
from http1 import chunk
from upstream import Upstream

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class OutboundCase(Case):
    allow = ("127.0.0.1",)
    flags = ()

    @classmethod
    def setUpClass(cls):
        flags = [flag for pattern in cls.allow for flag in ("--allow-host", pattern)]
        cls.server = Server(LAB, *flags, *cls.flags, workers=1)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def fetch(self, url, fields=(), server=None, **more):
        query = "".join(f"&{key.replace('_', '-')}={quote(str(value), safe='')}" for key, value in more.items())
        return (server or self.server).get(f"/fetch?url={quote(url, safe=':/')}{query}", fields)


class AllowedTest(OutboundCase):
    def test_a_sidecar_on_the_box(self):
        """Named exactly, port and all, as a production list would."""
        with Upstream() as upstream:
            with Server(LAB, "--allow-host", f"127.0.0.1:{upstream.port}") as server:
                response = self.fetch(f"http://127.0.0.1:{upstream.port}/", server=server)
                self.assertEqual((response.status, response.text()), (200, "ok"))

    def test_denied_by_default(self):
        with Upstream() as upstream, Server(LAB) as server:
            for host in ("127.0.0.1", "localhost"):
                response = self.fetch(f"http://{host}:{upstream.port}/", server=server)
                self.assertEqual((response.status, response.text()), (502, "HTTP-request-denied\n"))
            self.assertEqual(upstream.accepted, 0)
            server.wait_log("Outgoing request refused")

    def test_field_26_ports_of_patterns_are_honoured(self):
        with Upstream() as one, Upstream() as two:
            with Server(LAB, "--allow-host", f"localhost:{one.port}") as server:
                self.assertEqual(self.fetch(f"http://localhost:{one.port}/", server=server).status, 200)
                self.assertEqual(self.fetch(f"http://localhost:{two.port}/", server=server).text(), "HTTP-request-denied\n")
            self.assertEqual(two.accepted, 0)

    def test_names_are_not_addresses_and_addresses_no_names(self):
        with Upstream() as upstream:
            self.assertEqual(self.fetch(f"http://127.0.0.1:{upstream.port}/").status, 200)
            self.assertEqual(self.fetch(f"http://localhost:{upstream.port}/").text(), "HTTP-request-denied\n")
            self.assertEqual(self.fetch(f"http://127.0.0.1.nip.invalid:{upstream.port}/").text(), "HTTP-request-denied\n")

    def test_field_25_spellings_of_loopback_and_metadata_under_a_star(self):
        hosts = ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]",
                 "0.0.0.0", "0", "[::]", "localhost."]
        metadata = ["169.254.169.254", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518",
                    "[::ffff:a9fe:a9fe]", "[::169.254.169.254]", "[::ffff:169.254.169.254]", "[fe80::1]"]
        with Upstream() as upstream, Server(LAB, "--allow-host", "*", "--timeout", "3") as server:
            started = time.monotonic()
            for host in hosts + metadata:
                with self.subTest(host=host):
                    port = upstream.port if host in hosts else 80
                    response = self.fetch(f"http://{host}:{port}/", server=server)
                    self.assertEqual(response.status, 502)
                    self.assertIn(response.text(), ("HTTP-request-denied\n", "authority refused\n",
                                                    "HTTP-request-URI-invalid\n", "destination-IP-prohibited\n", "DNS-error\n"))
            self.assertEqual(upstream.accepted, 0)
            self.assertLess(time.monotonic() - started, 10)

    def test_field_24_ipv6_literals(self):
        try:
            upstream = Upstream("::1")
        except OSError:
            self.skipTest("no IPv6 here")
        with upstream, Server(LAB, "--allow-host", "[::1]") as server:
            self.assertEqual(self.fetch(f"http://[::1]:{upstream.port}/", server=server).status, 200)
            self.assertEqual(upstream.seen[0].all("host"), [f"[::1]:{upstream.port}"])
            self.assertEqual(self.fetch(f"http://[0:0:0:0:0:0:0:1]:{upstream.port}/", server=server).status, 200)
            response = self.fetch(f"http://[::1%25lo]:{upstream.port}/", server=server)
            self.assertEqual(response.status, 502)  # an error code for the guest, no trap
            self.assertNotEqual(response.get("content-type"), "application/problem+json")


class WireTest(OutboundCase):
    allow = ("127.0.0.1", "localhost")

    def test_field_19_request_line_and_host(self):
        with Upstream() as upstream:
            self.fetch(f"http://localhost:{upstream.port}/a?b=1&c=%20//x")
            (seen,) = upstream.seen
            self.assertEqual(seen.line, "GET /a?b=1&c=%20//x HTTP/1.1")
            self.assertEqual(seen.all("host"), [f"localhost:{upstream.port}"])

    def test_field_22_lengths(self):
        with Upstream() as upstream:
            upstream.respond(lambda seen: b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n"
                             if seen.line.split()[0] in ("POST", "PUT") and not seen.all("content-length")
                             and not seen.all("transfer-encoding")
                             else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            url = f"http://127.0.0.1:{upstream.port}/"
            for method, lengths in (("POST", ["0"]), ("PUT", ["0"]), ("GET", []), ("HEAD", [])):
                response = self.fetch(url, method=method)
                self.assertEqual(response.status, 200, method)
                self.assertEqual(upstream.seen[-1].all("content-length"), lengths, method)
                self.assertEqual(upstream.seen[-1].all("transfer-encoding"), [], method)
            self.assertEqual(self.fetch(url, method="DELETE").status, 200)
            self.assertIn(upstream.seen[-1].all("content-length"), ([], ["0"]))
            for more in ({"body": 5, "length": 1}, {"body": 5}, {"open": 1}):
                self.assertEqual(self.fetch(url, method="POST", **more).status, 200, more)
                seen = upstream.seen[-1]
                self.assertEqual(len(seen.all("content-length")) + len(seen.all("transfer-encoding")), 1, more)
            self.fetch(url, method="POST", body=5, length=1)
            self.assertEqual((upstream.seen[-1].all("content-length"), upstream.seen[-1].body), (["5"], b"bbbbb"))

    def test_traceparent_is_added(self):
        with Upstream() as upstream:
            response = self.fetch(f"http://127.0.0.1:{upstream.port}/", [("traceparent", TRACE)])
            (value,) = upstream.seen[0].all("traceparent")
            self.assertEqual(value.split("-")[1], TRACE.split("-")[1])
            self.assertNotEqual(value.split("-")[2], TRACE.split("-")[2])
            self.assertEqual(value, response.one("traceparent"))
            own = TRACE.replace("0af7", "1111")
            self.fetch(f"http://127.0.0.1:{upstream.port}/", header=f"traceparent:{own}")
            self.assertEqual(upstream.seen[1].all("traceparent"), [own])

    def test_fields_of_the_guest_arrive_and_hop_by_hop_ones_do_not(self):
        with Upstream() as upstream:
            url = f"http://127.0.0.1:{upstream.port}/"
            self.fetch(url, header="x-a:some value")
            self.assertEqual(upstream.seen[-1].all("x-a"), ["some value"])
            for header in ("connection:close", "transfer-encoding:chunked", "upgrade:h2c", "host:evil.test"):
                count = len(upstream.seen)
                self.fetch(url, header=header)
                if len(upstream.seen) > count:
                    seen = upstream.seen[-1]
                    self.assertNotIn("chunked", seen.all("transfer-encoding"))
                    self.assertEqual(seen.all("upgrade"), [])
                    self.assertEqual(seen.all("host"), [f"127.0.0.1:{upstream.port}"])

    def test_connections_are_kept(self):
        with Upstream() as upstream:
            for _ in range(10):
                self.assertEqual(self.fetch(f"http://127.0.0.1:{upstream.port}/").status, 200)
            self.assertEqual(upstream.accepted, 1)

    def test_a_pooled_connection_that_died_is_no_error(self):
        with Upstream() as upstream:
            upstream.answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

            def behave(connection, seen, more):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                connection.shutdown(socket.SHUT_RDWR)
            upstream.behave = behave
            for _ in range(10):
                self.assertEqual(self.fetch(f"http://127.0.0.1:{upstream.port}/").status, 200)

    def test_statuses_and_framings_of_the_upstream(self):
        with Upstream() as upstream:
            url = f"http://127.0.0.1:{upstream.port}/"
            for data, status, text in (
                    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!", 404, "no!"),
                    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 200, "abcde"),
                    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
                     b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x"),
                    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, "")):
                upstream.answer_with(data)
                response = self.fetch(url)
                self.assertEqual((response.status, response.text()), (status, text), data)

            def until_close(connection, seen, more):
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nto the end")
                connection.shutdown(socket.SHUT_RDWR)
            upstream.behave = until_close
            self.assertEqual(self.fetch(url).text(), "to the end")

    def test_errors_have_their_names(self):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            self.assertEqual(self.fetch(f"http://127.0.0.1:{closed.getsockname()[1]}/").text(), "connection-refused\n")
        with Upstream() as upstream:
            url = f"http://127.0.0.1:{upstream.port}/"
            upstream.answer_with(b"SSH-2.0-OpenSSH\r\n")
            self.assertEqual(self.fetch(url).text(), "HTTP-protocol-error\n")
            upstream.answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx")
            self.assertEqual(self.fetch(url).text(), "HTTP-protocol-error\n")

            def hang_up(connection, seen, more):
                connection.shutdown(socket.SHUT_RDWR)
            upstream.behave = hang_up
            self.assertEqual(self.fetch(url).text(), "connection-terminated\n")
            upstream.silence()
            started = time.monotonic()
            self.assertEqual(self.fetch(url, first_byte_ms=200).text(), "connection-read-timeout\n")
            self.assertLess(time.monotonic() - started, 3)

    def test_an_upstream_that_breaks_off_is_seen_as_broken(self):
        """The part is passed on; the end must not look clean."""
        from harness import Cut
        with Upstream() as upstream:
            def part(connection, seen, more):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
                connection.shutdown(socket.SHUT_RDWR)
            upstream.behave = part
            try:
                response = self.fetch(f"http://127.0.0.1:{upstream.port}/")
                self.assert_problem(response, 502)
            except Cut as cut:
                self.assertIn(cut.response.body, (b"", b"part"))


class StreamingTest(OutboundCase):
    flags = ("--timeout", "20")

    def test_responses_arrive_in_pieces(self):
        with Upstream() as upstream, self.server.connect() as connection:
            gate = threading.Semaphore(0)
            upstream.pieces(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                            [chunk(b"one"), chunk(b"two"), chunk(b"three") + b"0\r\n\r\n"], gate)
            connection.send(encode("GET", f"/fetch?url=http://127.0.0.1:{upstream.port}/"))
            seen = b""
            for word in (b"one", b"two", b"three"):
                gate.release()
                while word not in seen:  # each is here before the next is sent
                    piece = connection.piece()
                    self.assertTrue(piece, seen)
                    seen += piece

    def test_trailers_pass(self):
        with Upstream() as upstream:
            upstream.answer_with(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
                                 b"3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n")
            response = self.fetch(f"http://127.0.0.1:{upstream.port}/", [("TE", "trailers")])
            self.assertEqual((response.text(), response.trailers), ("abc", [("x-sum", "9")]))

    def test_large_bodies_both_ways(self):
        with Upstream() as upstream:
            worker = self.server.worker()
            url = f"http://127.0.0.1:{upstream.port}/"
            with Neighbour(self.server):
                for more in ({}, {"length": 1}):
                    response = self.fetch(url, method="POST", body=16 << 20, **more)
                    self.assertEqual(response.status, 200)
                    self.assertGreaterEqual(len(upstream.seen[-1].body), 16 << 20)
                upstream.answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n" + b"x" * (32 << 20))
                response = self.fetch(url)
                self.assertEqual(len(response.body), 32 << 20)
            self.assertLess(anonymous_mib(worker), 64)

    def test_many_at_once(self):
        with Upstream() as upstream, Neighbour(self.server):
            barrier = threading.Barrier(20, timeout=10)

            def together(connection, seen, more):
                barrier.wait()  # answered only when all twenty are here
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            upstream.behave = together
            response = self.server.get(f"/fetch-many?n=20&url=http://127.0.0.1:{upstream.port}/")
            self.assertEqual(response.text(), "200\n" * 20)

    def test_one_request_has_so_many_at_once_and_no_more(self):
        with Upstream() as upstream:
            gate = threading.Event()

            def wait(connection, seen, more):
                gate.wait(20)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            upstream.behave = wait
            with self.server.connect() as connection:
                connection.send(encode("GET", f"/fetch-many?url=http://127.0.0.1:{upstream.port}/&n=200"))
                wait_until(lambda: upstream.accepted >= 128, 20)
                self.server.wait_log("Outgoing request refused", error="connection_limit_reached")
                gate.set()
                connection.response()
            self.assertLessEqual(upstream.accepted, 129)

    def test_exchanges_leave_nothing_behind(self):
        worker = self.server.worker()
        with Upstream() as upstream:
            target = f"/fetch-many?n=50&url=http://127.0.0.1:{upstream.port}/"

            def round_(count):
                for _ in range(count):
                    self.assertEqual(self.server.get(target).text(), "200\n" * 50)
            round_(5)
            before = anonymous_mib(worker)
            round_(30)
            grown = anonymous_mib(worker) - before
            print(f"  1500 exchanges: {grown:+.2f} MiB", flush=True)
            self.assertLess(grown, 2)
        with Server(LAB, "--allow-host", "127.0.0.1") as server, Upstream() as upstream:
            self.fetch(f"http://127.0.0.1:{upstream.port}/", server=server)
            started = time.monotonic()
            server.stop()
            self.assertLess(time.monotonic() - started, 5)

    def test_shutdown_with_an_outgoing_request_in_flight(self):
        gate = threading.Semaphore(0)
        with Upstream() as upstream, Server(LAB, "--allow-host", "127.0.0.1") as server, server.connect() as connection:
            upstream.pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", [b"abc", b"def"], gate)
            connection.send(encode("GET", f"/fetch?url=http://127.0.0.1:{upstream.port}/"))
            gate.release()
            wait_until(lambda: upstream.seen, 10)
            server.signal()
            server.wait_log("Received SIGTERM")
            gate.release()
            self.assertEqual(connection.response().text(), "abcdef")
            self.assertEqual(server.wait_exit(), 0)


class TlsTest(OutboundCase):
    def certificate(self, folder, name):
        key, certificate = os.path.join(folder, name + ".key"), os.path.join(folder, name + ".pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}",
                        "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return certificate, context

    def test_https_with_a_ca_of_ones_own(self):
        certificate, context = self.certificate(temporary_folder(), "upstream")
        with Upstream(tls=context) as upstream:
            url = f"https://127.0.0.1:{upstream.port}/"
            with Server(LAB, "--allow-host", "127.0.0.1", env={"SSL_CERT_FILE": certificate}) as server:
                response = self.fetch(url, server=server)
                self.assertEqual((response.status, response.text()), (200, "ok"))
            response = self.fetch(url)  # a server that does not trust it
            self.assertEqual((response.status, response.text()), (502, "TLS-certificate-error\n"))


if __name__ == "__main__":
    main()
