"""Start, signals, deaths, artefacts: what happens to requests, ports and processes."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from harness import (HELLO, LAB, Case, Connection, Cut, Load, Server, alive, binary, encode, environment, free_port, main,
                     read_proc, run_command, shared_home, temporary_folder, wait_until)


def refuses(address):
    """Whether nobody listens there."""
    try:
        socket.create_connection(address, 2).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


class ShutdownTest(Case):
    def start_request(self, server, target):
        connection = server.connect()
        self.addCleanup(connection.close)
        active = server.metric("mik_active_requests")
        connection.send(encode("GET", target))
        wait_until(lambda: server.metric("mik_active_requests") > active, 10, "the start of a request")
        return connection

    def drain(self, server):
        server.signal(signal.SIGTERM)
        server.wait_log("Received SIGTERM")

    def test_a_request_in_flight_finishes_and_exit_is_0(self):
        with Server(LAB) as server:
            busy = self.start_request(server, "/sleep?ms=800")
            self.drain(server)
            response = busy.response()
            self.assertEqual((response.status, response.text()), (200, "slept\n"))
            self.assertFalse(response.keeps_alive(), response)
            self.assertTrue(busy.ended())
            busy.close()  # as clients do; one that does not is waited for a moment, and has a test of its own
            self.assertEqual(server.wait_exit(), 0)

    def test_a_stream_in_flight_finishes(self):
        with Server(LAB) as server:
            busy = self.start_request(server, "/stream?n=8&ms=100")
            self.assertIn(b"chunk 0", busy.until(b"chunk 0"))
            self.drain(server)
            rest = busy.rest()
            self.assertIn(b"chunk 7\n", rest)
            self.assertTrue(rest.endswith(b"0\r\n\r\n"))
            busy.close()
            self.assertEqual(server.wait_exit(), 0)

    def test_new_connections_are_refused_while_draining(self):
        with Server(LAB) as server:
            busy = self.start_request(server, "/sleep?ms=1200")
            self.drain(server)
            wait_until(lambda: refuses(server.address), 1, "the listener's close")
            self.assertEqual(busy.response().status, 200)

    def test_idle_connections_are_closed_at_once(self):
        with Server(LAB) as server:
            idle = server.connect()
            idle.ask("GET", "/hello")
            untouched = server.connect()
            started = time.monotonic()
            self.drain(server)
            self.assertTrue(idle.ended(5))
            self.assertTrue(untouched.ended(5))
            self.assertLess(time.monotonic() - started, 2)
            # A client that closes in turn, as all do, holds nothing up.
            idle.close()
            untouched.close()
            self.assertEqual(server.wait_exit(), 0)
            self.assertLess(time.monotonic() - started, 2.5)

    def test_clients_that_never_close_do_not_hold_up_the_end(self):
        with Server(LAB) as server, server.connect() as idle:
            idle.ask("GET", "/hello")
            started = time.monotonic()
            self.drain(server)
            self.assertEqual(server.wait_exit(), 0)
            self.assertLess(time.monotonic() - started, 6)

    def test_readiness_is_503_while_draining_and_the_client_is_told_to_close(self):
        """Asked on a connection that is held by a request that came before."""
        with Server(LAB) as server:
            busy = self.start_request(server, "/sleep?ms=1500")
            with server.connect() as probe:
                # A second request behind the first of this connection is answered before the connection closes.
                probe.send(encode("GET", "/sleep?ms=700") + encode("GET", "/health/ready"))
                wait_until(lambda: server.metric("mik_active_requests") >= 2, 10)
                self.drain(server)
                first = probe.response()
                self.assertEqual(first.status, 200)
                if first.keeps_alive():
                    ready = probe.response()
                    self.assertEqual(ready.status, 503)
                    self.assertEqual(json.loads(ready.body)["status"], "draining")
                    self.assertFalse(ready.keeps_alive())
            self.assertEqual(busy.response().status, 200)

    def test_a_body_that_is_still_being_sent_is_taken(self):
        with Server(LAB) as server:
            busy = server.connect()
            self.addCleanup(busy.close)
            busy.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
            wait_until(lambda: server.metric("mik_active_requests") >= 1, 10)
            self.drain(server)
            busy.send(b"def")
            self.assertEqual(busy.response("POST").text(), "abcdef")

    def test_a_second_signal_ends_now(self):
        with Server(LAB) as server:
            busy = self.start_request(server, "/sleep?ms=20000")
            self.drain(server)
            self.assertIsNone(server.process.poll())
            started = time.monotonic()
            server.signal(signal.SIGTERM)
            code = server.wait_exit(5)
            self.assertLess(time.monotonic() - started, 2)
            self.assertEqual(code, 0)
            self.assertFalse(server.family())
            self.assertEqual(busy.rest(), b"")
            server.kill()

    def test_sigint_drains_too(self):
        with Server(LAB) as server:
            busy = self.start_request(server, "/sleep?ms=500")
            server.signal(signal.SIGINT)
            self.assertEqual(busy.response().status, 200)
            busy.close()
            self.assertEqual(server.wait_exit(), 0)

    def test_g17_term_to_all_processes_at_once(self):
        """kill -TERM $(pgrep mik): one signal for each is one drain."""
        with Server(LAB, workers=2) as server:
            busy = [self.start_request(server, "/sleep?ms=800") for _ in range(4)]
            for pid in [server.pid, *server.workers()]:
                os.kill(pid, signal.SIGTERM)
            for connection in busy:
                self.assertEqual(connection.response().status, 200)
                connection.close()
            self.assertEqual(server.wait_exit(), 0)

    def test_term_to_workers_first_is_no_death(self):
        with Server(LAB, workers=2) as server:
            busy = self.start_request(server, "/sleep?ms=500")
            for pid in server.workers():
                os.kill(pid, signal.SIGTERM)
            server.signal()
            self.assertEqual(busy.response().status, 200)
            busy.close()
            self.assertEqual(server.wait_exit(), 0)
        self.assertEqual(server.find_log("restart"), [])

    def test_sigterm_under_load_loses_no_request(self):
        with Server(LAB, workers=2) as server:
            with Load(server.address, clients=6) as load:
                load.wait_answers(200)
                server.signal()
                self.assertEqual(server.wait_exit(), 0)
                load.stop()
            # A client that had begun to send on an idle connection as it was closed has seen no byte of an answer and
            # may ask again (RFC 9110 9.2.2); an answer that was begun is never cut, and none is an error.
            cut = [failure for failure in load.failures if not re.match(r"Cut\('the connection ended inside a line'|"
                                                                        r"ConnectionReset|BrokenPipe", failure)]
            self.assertEqual(cut, [])
            self.assertGreater(load.answered, 200)
            print(f"  answered {load.answered}, closed under a request's first bytes {len(load.failures)}, "
                  f"told to close {load.told_to_close}", flush=True)

    def test_sigterm_while_compiling(self):
        with Server(LAB, home=temporary_folder(), ready=False) as server:
            server.wait_log("compiling", 20)
            started = time.monotonic()
            server.signal()
            self.assertEqual(server.wait_exit(10), 0)
            self.assertLess(time.monotonic() - started, 8)
            self.assertFalse(server.family())

    def test_sigterm_before_anything(self):
        """A signal that comes while the process is starting ends it, whatever the moment."""
        for delay in (0.0, 0.002, 0.01, 0.05):
            process = subprocess.Popen([binary(), "run", str(LAB), "-w", "1", "-p", "0"], env=environment(shared_home()),
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            try:
                threading.Event().wait(delay)
                process.send_signal(signal.SIGTERM)
                self.assertIn(process.wait(15), (0, -signal.SIGTERM))
            finally:
                process.kill()
                process.wait()


class DeathTest(Case):
    def test_kill_9_of_a_worker_under_load(self):
        """Its connections break, the others go on, a new worker serves soon, and counters never go back."""
        with Server(LAB, workers=2) as server:
            with Load(server.address, clients=6, pause=0.002) as load:
                load.wait_answers(100)
                before = server.metrics()
                victim = server.workers()[0]
                killed = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                counters = {}
                back = None
                while time.monotonic() < killed + 15 and back is None:
                    try:
                        values = server.metrics()
                    except (OSError, Cut):
                        continue
                    for name, value in values.items():
                        if name.split("{")[0].endswith(("_total", "_count", "_bucket", "_sum")):
                            self.assertGreaterEqual(value, counters.get(name, before.get(name, 0)), name)
                            counters[name] = value
                    if values["mik_workers_ready"] == 2 and values["mik_worker_restarts_total"] >= 1:
                        back = time.monotonic() - killed
                self.assertIsNotNone(back, "the worker did not come back")
                answered = load.answered
                load.wait_answers(200)
                load.stop()
            print(f"  a new worker was ready {back * 1e3:.0f} ms after kill -9; {answered} and {load.answered} answers, "
                  f"{len(load.failures)} connections broke", flush=True)
            self.assertLess(back, 0.5 + self._slack())
            self.assertLessEqual(len(load.failures), 6)
            self.assertNotIn(victim, server.workers())
            # What the dead one held has come back.
            wait_until(lambda: server.metric("mik_active_requests") == 0, 5)
            wait_until(lambda: server.metric("mik_active_connections") <= 1, 5)

    def _slack(self):
        """The bar is for a machine of one's own: while others wait for CPUs, more is allowed."""
        return max(0.0, os.getloadavg()[0] - os.cpu_count()) * 0.25

    def test_permits_of_a_dead_worker_come_back(self):
        with Server(LAB, workers=1) as server:
            held = [server.connect() for _ in range(5)]
            for connection in held:
                connection.send(encode("GET", "/sleep?ms=60000"))
            wait_until(lambda: server.metric("mik_active_requests") == 5, 10)
            os.kill(server.worker(), signal.SIGKILL)
            for connection in held:
                self.assertEqual(connection.rest(10), b"")
                connection.close()
            server.wait_ready()
            self.assertEqual(server.metric("mik_active_requests"), 0)
            self.assertEqual(server.metric("mik_worker_restarts_total"), 1)
            server.wait_log("worker 0")

    def test_kill_9_of_the_supervisor(self):
        """The port is free for a restart within a second, and nothing is left running."""
        with Server(LAB, workers=2) as server:
            with server.connect() as busy:
                busy.send(encode("GET", "/sleep?ms=700"))
                wait_until(lambda: server.metric("mik_active_requests") >= 1, 10)
                workers = server.workers()
                killed = time.monotonic()
                os.kill(server.pid, signal.SIGKILL)
                while True:
                    try:
                        with socket.socket() as probe:
                            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                            probe.bind(server.address)
                            probe.listen()
                            break
                    except OSError:
                        self.assertLess(time.monotonic() - killed, 1 + self._slack())
                print(f"  the port was free {(time.monotonic() - killed) * 1e3:.0f} ms after kill -9", flush=True)
                self.assertEqual(busy.response().status, 200)  # in flight requests end well
            wait_until(lambda: not any(alive(pid) for pid in workers), 10, "the end of the workers")
            server.kill()

    def test_restart_on_the_same_port_after_kill_9(self):
        first = Server(HELLO, workers=2)
        try:
            os.kill(first.pid, signal.SIGKILL)
            started = time.monotonic()
            while True:
                try:
                    second = Server(HELLO, workers=2, port=first.port)
                    break
                except AssertionError:
                    self.assertLess(time.monotonic() - started, 10)
            self.assertEqual(second.get("/").status, 200)
            second.stop()
        finally:
            first.kill()

    def test_a_worker_that_dies_again_and_again(self):
        with Server(HELLO, workers=2) as server:
            for round_ in range(3):
                victim = server.workers()[0]
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda: server.metric("mik_worker_restarts_total") >= round_ + 1, 20)
                wait_until(lambda: server.metric("mik_workers_ready") == 2, 20)
                self.assertEqual(server.get("/").status, 200)


class ArtefactTest(Case):
    def artefacts(self, home):
        return sorted(Path(home, "cache/aot").glob("*.aot"))

    def test_folder_and_key_are_private(self):
        home = Path(temporary_folder()) / "state"
        with Server(HELLO, home=home) as server:
            self.assertEqual(server.get("/").status, 200)
        for path in (home / "cache", home / "cache/aot"):
            self.assertEqual(path.stat().st_mode & 0o777, 0o700, path)
        self.assertEqual((home / "cache/key").stat().st_mode & 0o777, 0o600)
        (artefact,) = self.artefacts(home)
        self.assertEqual(artefact.stat().st_mode & 0o022, 0)
        left = [path.name for path in (home / "cache/aot").iterdir() if path.suffix not in (".aot", ".lock")]
        self.assertEqual(left, [])

    def test_the_second_start_compiles_nothing(self):
        home = temporary_folder()
        with Server(HELLO, home=home):
            pass
        before = self.artefacts(home)[0].stat()
        with Server(HELLO, home=home) as server:
            pass
        self.assertEqual(server.find_log("compiling"), [])
        self.assertEqual(self.artefacts(home)[0].stat().st_ino, before.st_ino)

    def test_two_servers_in_one_state_folder(self):
        """Started at once and cold: both serve, one artefact, and neither knows of the other."""
        home = temporary_folder()
        one = Server(LAB, workers=2, home=home, ready=False)
        try:
            with Server(LAB, workers=2, home=home) as two:
                one.wait_ready()
                self.assertNotEqual(one.port, two.port)
                one.get("/hello")
                self.assertEqual(two.metric("mik_guest_requests_total"), 0)
            self.assertEqual(one.get("/hello").status, 200)
            one.stop()
        finally:
            one.kill()
        self.assertEqual(len(self.artefacts(home)), 1)

    def damaged(self, damage):
        """A start with an artefact on which `damage` was done: compiled again, said, and served."""
        home = temporary_folder()
        with Server(HELLO, home=home):
            pass
        (path,) = self.artefacts(home)
        good = path.read_bytes()
        damage(path)
        with Server(HELLO, home=home) as server:
            self.assertEqual(server.get("/").text().strip(), "Hello, World!")
        self.assertTrue(server.find_log("compiling"))
        said = server.find_log("Artefact refused")
        self.assertEqual(len(path.read_bytes()), len(good))
        return said

    def test_a_corrupt_artefact_is_compiled_again_and_said(self):
        def flip(path):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        self.assertTrue(self.damaged(flip))

    def test_a_truncated_artefact(self):
        for size in (0, 10, 1000):
            self.assertTrue(self.damaged(lambda path, size=size: os.truncate(path, size)))

    def test_a_forged_artefact_is_never_mapped(self):
        """One with a signature of another key: that of somebody who can write files, and not read ours."""
        other = temporary_folder()
        with Server(HELLO, home=other):
            pass
        (forged,) = self.artefacts(other)
        said = self.damaged(lambda path: path.write_bytes(forged.read_bytes()))
        self.assertIn("signature", said[0]["error"])

    def test_an_artefact_that_others_can_write_is_not_trusted(self):
        self.assertTrue(self.damaged(lambda path: path.chmod(0o666)))

    def test_an_artefact_that_is_a_link_is_not_followed(self):
        def link(path):
            path.rename(path.with_suffix(".moved"))
            path.symlink_to(path.with_suffix(".moved"))
        home = temporary_folder()
        with Server(HELLO, home=home):
            pass
        (path,) = self.artefacts(home)
        link(path)
        with Server(HELLO, home=home) as server:
            self.assertEqual(server.get("/").status, 200)
            maps = read_proc(server.worker(), "maps").decode()
            self.assertNotIn(".moved", maps)
        self.assertFalse(path.is_symlink())

    def test_a_key_that_others_can_read_is_refused_with_help(self):
        home = temporary_folder()
        with Server(HELLO, home=home):
            pass
        Path(home, "cache/key").chmod(0o644)
        done = run_command("run", "-p", "0", HELLO, home=home)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cache/key", done.stderr)
        self.assertIn("help: ", done.stderr)

    def test_requests_while_compiling_wait_within_their_deadline(self):
        with Server(LAB, home=temporary_folder(), ready=False) as server:
            def connected():
                try:
                    return server.connect()
                except ConnectionRefusedError:
                    return None
            connection = wait_until(connected, 10)
            connection.send(encode("GET", "/hello"))
            with server.connect() as probe:
                response = probe.ask("GET", "/health/ready")
                if response.status == 503:
                    self.assertEqual(json.loads(response.body)["status"], "starting")
                self.assertEqual(probe.ask("GET", "/health/live").status, 200)
            self.assertEqual(connection.response(patience=60).status, 200)
            connection.close()


class AddressSpaceTest(Case):
    def test_field_33_little_address_space(self):
        """Served with a smaller pool and said so, or exit 1 with a sentence; never a crash."""
        for kib in (8000000, 2000000):
            with self.subTest(kib=kib):
                process = subprocess.Popen(["sh", "-c", f"ulimit -v {kib}; exec \"$0\" run -w 1 -p 0 \"$1\"", binary(), HELLO],
                                           env=environment(shared_home()), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                           start_new_session=True)
                try:
                    address = None
                    lines = []
                    for raw in process.stdout:
                        lines.append(json.loads(raw))
                        message = lines[-1]["message"]
                        if match := re.search(r"http://127\.0\.0\.1:(\d+)$", message):
                            address = ("127.0.0.1", int(match.group(1)))
                        if message == "Ready":
                            break
                    if address is not None and lines[-1]["message"] == "Ready":
                        self.assertEqual(Connection(address).ask("GET", "/").status, 200)
                        process.terminate()
                        lines += [json.loads(raw) for raw in process.stdout]
                        self.assertEqual(process.wait(15), 0)
                        self.assertTrue([line for line in lines if "ddress space" in line["message"]], lines)
                        print(f"  ulimit -v {kib}: serves", flush=True)
                    else:
                        self.assertEqual(process.wait(15), 1)
                        text = process.stderr.read().decode()
                        self.assertRegex(text, r"(?i)address space|memory")
                        print(f"  ulimit -v {kib}: {text!r}", flush=True)
                finally:
                    process.kill()
                    process.communicate(timeout=10)


class OddParentTest(Case):
    """What a launcher or a log collector does to us."""

    def start(self, port, **more):
        process = subprocess.Popen([binary(), "run", "--port", str(port), "--workers", "1", HELLO],
                                   env=environment(shared_home()), **more)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def answers():
            try:
                with Connection(("127.0.0.1", port)) as connection:
                    return connection.ask("GET", "/").status == 200
            except OSError:
                return False
        wait_until(answers, 30, "the first answer")
        return process

    def test_without_standard_streams(self):
        process = self.start(free_port(), preexec_fn=lambda: os.closerange(0, 3))
        for fd in range(3):
            self.assertEqual(os.readlink(f"/proc/{process.pid}/fd/{fd}"), "/dev/null")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(10), 0)

    def test_an_error_that_nobody_takes(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([binary(), "run", "/nonexistent"], stderr=full, env=environment(shared_home()))
        self.assertEqual(result.returncode, 1)

    def test_nobody_reads_the_log(self):
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        process = self.start(free_port(), stdout=writing)
        os.close(writing)
        filling = os.open(f"/proc/self/fd/{reading}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(filling, b"x" * 4096)
        except BlockingIOError:
            pass
        finally:
            os.close(filling)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(15), 0)


if __name__ == "__main__":
    main()
