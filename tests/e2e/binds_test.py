"""Where it listens: TCP, IPv6, unix sockets, binds that change; and how many connections there is room for."""

import os
import re
import resource
import signal
import socket
from pathlib import Path

from harness import Case, Connection, Cut, alive, encode, main, temporary_folder, wait_until
from reload_test import SERVES, Configured


class UnixConnection(Connection):
    def __init__(self, path, patience=15.0):  # pylint: disable=super-init-not-called
        self.patience = patience
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(patience)
        self.socket.connect(str(path))
        self.buffer = b""
        self.deadline = None


def connects(path):
    try:
        UnixConnection(path).close()
    except OSError:
        return False
    return True


class BindTest(Case):
    def test_ipv4_ipv6_and_unix_at_once(self):
        path = Path(temporary_folder()) / "http.sock"
        with Configured(f'bind = ["127.0.0.1:0", "[::1]:0", "unix:{path}"]') as server:
            line = server.wait_log("[::1]:")["message"]
            port = int(line.rsplit(":", 1)[1])
            self.assertEqual(server.get("/hello").status, 200)
            with Connection(("::1", port)) as six:
                self.assertEqual(six.ask("GET", "/hello").status, 200)
            with UnixConnection(path) as local:
                self.assertEqual(local.ask("GET", "/hello").status, 200)
            server.wait_log("Request completed", remote_addr=re.compile(r"^unix:?"))
            self.assertEqual(path.stat().st_mode & 0o777, 0o660)
        self.assertFalse(path.exists(), "left behind at the end")

    def test_a_socket_file_that_was_left_behind_is_replaced(self):
        path = Path(temporary_folder()) / "http.sock"
        with Configured(f'bind = ["127.0.0.1:0", "unix:{path}"]') as server:
            workers = server.workers()
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not any(alive(pid) for pid in workers), 10, "the end of the workers")
            server.kill()
        self.assertTrue(path.exists())
        with Configured(f'bind = ["127.0.0.1:0", "unix:{path}"]') as server:
            with UnixConnection(path) as local:
                self.assertEqual(local.ask("GET", "/hello").status, 200)

    def test_a_reload_opens_what_is_new_and_closes_what_is_gone(self):
        with Configured() as server:
            first = server.folder / "first.sock"
            second = server.folder / "second.sock"
            server.write(f'bind = ["127.0.0.1:0", "unix:{first}"]')
            server.reload()
            self.assertEqual(server.get("/hello").status, 200, "the port that stayed")
            inode = first.stat().st_ino
            with UnixConnection(first) as kept:
                self.assertEqual(kept.ask("GET", "/hello").status, 200)
                server.write(f'bind = ["unix:{second}", "unix:{first}"]')
                server.reload()
                self.assertEqual(first.stat().st_ino, inode, "a bind that stays is the same socket")
                self.assertTrue(connects(first))
                self.assertTrue(connects(second))
                self.assertEqual(kept.ask("GET", "/hello").status, 200)

            def refused():
                try:
                    socket.create_connection(server.address, 2).close()
                except ConnectionRefusedError:
                    return True
                except OSError:
                    return False
                return False
            wait_until(refused, 10, "the end of the port")
            server.write(f'bind = ["unix:{second}"]')
            server.reload()
            self.assertFalse(first.exists())
            with UnixConnection(second) as local:
                self.assertEqual(local.ask("GET", "/hello").status, 200)

    def test_nothing_is_lost_on_a_bind_that_goes_while_it_is_asked(self):
        """What was connected before the switch is answered; later the file is gone."""
        with Configured() as server:
            path = server.folder / "goes.sock"
            server.write(f'bind = ["127.0.0.1:0", "unix:{path}"]')
            server.reload()
            server.write('bind = ["127.0.0.1:0"]')
            count = len(server.find_log(SERVES))
            server.signal(signal.SIGHUP)
            answered = 0
            while len(server.find_log(SERVES)) == count or path.exists():
                try:
                    local = UnixConnection(path)
                except OSError:
                    break
                with local:
                    self.assertEqual(local.ask("GET", "/hello").status, 200)
                answered += 1
            self.assertGreater(answered, 0)
            wait_until(lambda: not path.exists(), 10, "the end of the file")


class DescriptorTest(Case):
    def limited(self, descriptors, text=""):
        """The server under `ulimit -n`."""
        folder = Path(temporary_folder())
        wrapper = folder / "mik"
        wrapper.write_text(f'#!/bin/sh\nulimit -n {descriptors}\nexec "{os.environ["MIK_BINARY"]}" "$@"\n')
        wrapper.chmod(0o755)
        before = os.environ["MIK_BINARY"]
        os.environ["MIK_BINARY"] = str(wrapper)
        try:
            return Configured(f'bind = ["127.0.0.1:0"]\n{text}', workers=1)
        finally:
            os.environ["MIK_BINARY"] = before

    def test_max_connections_is_lowered_to_what_descriptors_there_are_for(self):
        with self.limited(300) as server:
            line = server.wait_log("max_connections is ")["message"]
            match = re.search(r"max_connections is (\d+) in place of 10000: a process may have 300 descriptors", line)
            self.assertIsNotNone(match, line)
            most = int(match.group(1))
            held = []
            try:
                for _ in range(most):
                    held.append(server.connect())
                for connection in held:
                    connection.send(encode("GET", "/hello"))
                for connection in held:
                    self.assertEqual(connection.response().status, 200)
                # One more is told so, and the others live on.
                refused = server.get("/hello")
                self.assert_problem(refused, 503)
                self.assertEqual(held[0].ask("GET", "/hello").status, 200)
                self.assertEqual(held[0].ask("GET", "/health").status, 200)
            finally:
                for connection in held:
                    connection.close()
            wait_until(lambda: server.get("/hello").status == 200, 10, "a place")
            self.assertEqual(server.metric("mik_accept_errors_total"), 0)

    def test_when_descriptors_run_out_clients_are_told_and_it_recovers(self):
        """By a limit that is lowered under a running worker: more connections than it can hold."""
        with Configured(workers=1) as server:
            worker = server.worker()
            used = len(os.listdir(f"/proc/{worker}/fd"))
            before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 20, before[1]))
            held = []
            try:
                for _ in range(40):
                    held.append(server.connect())
                told = 0
                served = 0
                for connection in held:
                    connection.send(encode("GET", "/hello"))
                for connection in held:
                    try:
                        status = connection.response(patience=2).status
                    except (OSError, Cut):
                        continue
                    served += status == 200
                    told += status == 503
                self.assertGreater(served, 5)
                self.assertGreater(told, 0)
                server.wait_log("Cannot accept connections")
            finally:
                for connection in held:
                    connection.close()

            def answers():
                try:
                    return server.get("/hello", patience=3).status == 200
                except (OSError, Cut):
                    return False
            wait_until(answers, 20, "an answer")
            resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
            self.assertEqual(server.worker(), worker)
            self.assertGreater(server.metric("mik_accept_errors_total"), 0)


if __name__ == "__main__":
    main()
