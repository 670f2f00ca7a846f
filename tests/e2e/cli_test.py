"""The command line: what it refuses and how it says so, the environment, `mik health`, log lines."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
import unittest
from pathlib import Path

from harness import (HELLO, INPUTS, LAB, Case, Server, binary, environment, free_port, main, run_command, shared_home,
                     temporary_folder)


class RefusedTest(Case):
    def refused(self, *arguments, code=1, **more):
        """Runs what must fail: `error:`, then `cause:` lines, then at most one `help:`, on stderr alone."""
        done = run_command(*arguments, **more)
        self.assertEqual(done.returncode, code, done)
        lines = done.stderr.splitlines()
        self.assertRegex("\n".join(lines), r"^error: [^\n]+(\n(?!error: |help: )[^\n]*)*(\nhelp: [^\n]+)?$")
        self.assertNotIn("panicked", done.stderr)
        return done.stderr

    def input_file(self, name):
        (path,) = INPUTS.glob(name + ".wasm")
        return path

    def folder_with(self, name, content):
        path = Path(temporary_folder()) / name
        path.write_bytes(content)
        return path

    def test_a_missing_file(self):
        text = self.refused("run", "-p", "0", "/nonexistent/app.wasm")
        self.assertIn("no such file: /nonexistent/app.wasm", text)
        self.assertIn("help: ", text)

    def test_nothing_given_and_nothing_found(self):
        text = self.refused("run", "-p", "0", cwd=temporary_folder())
        self.assertIn("no component given", text)
        self.assertIn("help: ", text)

    def test_a_pattern_that_matches_nothing(self):
        self.assertIn("*.wasm", self.refused("run", "-p", "0", "/nonexistent/*.wasm"))

    def test_a_folder_that_a_pattern_matches_is_no_component(self):
        self.assertIn("is a directory", self.refused("run", "-p", "0", temporary_folder()[:-1] + "*"))

    def test_what_is_no_webassembly(self):
        for content in (b"", b"\0as", b"#!/bin/sh\necho hello\n", b"\x7fELF" + b"\0" * 100):
            path = self.folder_with("app.wasm", content)
            self.assertIn("is not WebAssembly", self.refused("run", "-p", "0", path))

    def test_a_core_module(self):
        text = self.refused("run", "-p", "0", self.input_file("core-module"))
        self.assertIn("core WebAssembly module, not a component", text)
        self.assertIn("wasm-tools component new", text)

    def test_a_component_without_an_http_handler(self):
        text = self.refused("run", "-p", "0", self.input_file("no-handler"))
        self.assertIn("wasi:http/incoming-handler", text)

    def test_a_handler_of_another_type(self):
        self.assertIn("incoming-handler", self.refused("run", "-p", "0", self.input_file("wrong-type")))

    def test_a_component_for_wasi_http_0_3(self):
        self.assertIn("0.3", self.refused("run", "-p", "0", self.input_file("http-0.3")))

    def test_an_import_that_is_not_offered_is_named(self):
        self.assertIn("acme:widgets/store", self.refused("run", "-p", "0", self.input_file("unknown-import")))

    def test_field_4_a_function_that_no_release_has_is_named(self):
        text = self.refused("run", "-p", "0", self.input_file("newer-function"))
        self.assertRegex(text, r"[a-z-]+ of wasi:[a-z]+/[a-z-]+@0\.2")
        self.assertIn("is offered", text)
        self.assertIn("build the guest for", text)

    def test_field_4_a_newer_0_2_runs(self):
        with Server(self.input_file("newer-version")) as server:
            self.assertEqual(server.get("/").status, 200)

    def test_truncated_and_damaged_files(self):
        whole = HELLO.read_bytes()
        for content in (whole[:8], whole[:len(whole) // 2], whole[:-1], whole[:8] + b"\xff" * 200,
                        whole[:2000] + b"\0" * 500 + whole[2500:]):
            path = self.folder_with("cut.wasm", content)
            with self.subTest(size=len(content)):
                text = self.refused("run", "-p", "0", path)
                self.assertIn("cut.wasm", text)

    def test_field_3_a_start_memory_over_the_limit(self):
        text = self.refused("run", "-p", "0", "--memory-limit", "67108864", self.input_file("large-start"))
        self.assertIn("131072000", text)
        self.assertIn("67108864", text)
        self.assertRegex(text, r"memory[_-]limit")

    def test_field_3_the_same_within_the_limit_runs(self):
        with Server(self.input_file("large-start")) as server:
            self.assertEqual(server.get("/").status, 200)

    def test_unknown_options_and_commands(self):
        for arguments, near in ((["run", "--prot", "3000", "app.wasm"], "--port"), (["run", "--memorylimit=1"], "--memory-limit"),
                                (["rnu", "app.wasm"], "run"), (["health", "--redy"], "--ready")):
            text = self.refused(*arguments, code=2)
            self.assertIn("unknown", text)
            self.assertIn(f"did you mean '{near}'?", text)
        self.refused(code=2)

    def test_bad_values(self):
        for arguments in (["-p", "65536"], ["-p", "x"], ["-w", "1000"], ["--timeout", "0"], ["--timeout", "301"],
                          ["--memory-limit", "1000"], ["--env", "NOVALUE"], ["--env", "=x"], ["--reuse", "0"],
                          ["--host", "127.0.0.1", "--local"]):
            with self.subTest(arguments=arguments):
                self.refused("run", *arguments, str(HELLO), code=2)

    def test_field_26_allow_list_patterns_that_can_match_nothing(self):
        for pattern in ("https://api.example.com", "api.*.com", "", "host:0", "host:99999", "a b"):
            with self.subTest(pattern=pattern):
                text = self.refused("run", "-p", "0", "--allow-host", pattern, str(HELLO), code=2)
                self.assertTrue(text.startswith(f'error: --allow-host: "{pattern}": '), text)

    def test_hosts_that_are_no_address(self):
        self.assertIn("300.1.2.3", self.refused("run", "-p", "0", "--host", "300.1.2.3", HELLO, code=2))
        self.assertIn("HOST", self.refused("run", "-p", "0", HELLO, env={"HOST": "no.such.host.invalid"}, code=2))

    def test_ports_of_the_environment(self):
        for value in ("x", "70000", "-1", "3000x"):
            self.assertIn("PORT", self.refused("run", HELLO, env={"PORT": value}, code=2))

    def test_a_port_in_use_names_who_has_it(self):
        with Server(HELLO) as server:
            text = self.refused("run", "-p", server.port, HELLO)
            self.assertIn(f":{server.port}", text)
            self.assertRegex(text, rf"\b{server.pid}\b")

    def test_a_state_folder_that_cannot_be(self):
        blocked = self.folder_with("file", b"")
        text = self.refused("run", "-p", "0", HELLO, home=blocked / "home")
        self.assertIn(str(blocked / "home"), text)
        self.assertIn("MIK_HOME", text)

    def test_a_manifest_that_is_not_there(self):
        text = self.refused("config", "check", "nosuch")
        self.assertRegex(text, r"^error: no such file: /\S+/nosuch\nhelp: name a manifest that is there")


class InformationTest(Case):
    def test_help_and_version(self):
        for arguments in (["--help"], ["run", "--help"], ["health", "--help"], ["-h"]):
            done = run_command(*arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""), arguments)
            self.assertIn("--", done.stdout)
        for arguments in (["--version"], ["-V"], ["version"]):
            self.assertRegex(run_command(*arguments).stdout, r"^mik \d+\.\d+\.\d+\n")
        self.assertIn("engine: ", run_command("version", "--verbose").stdout)

    def test_help_has_what_the_specification_names(self):
        text = run_command("run", "--help").stdout
        for option in ("-p", "--port", "--host", "-l", "--local", "-w", "--workers", "--timeout", "--memory-limit",
                       "--allow-host", "--env", "--reuse", "-c", "--config", "--api-key", "--lb"):
            self.assertRegex(text, rf"(?m)(^|[\s,]){re.escape(option)}\b")


class HealthTest(Case):
    def test_exit_codes(self):
        with Server(HELLO) as server:
            for arguments in (["--port", server.port], ["--url", f"http://127.0.0.1:{server.port}"],
                              ["--url", f"http://localhost:{server.port}/"], ["--ready", "--port", server.port]):
                done = run_command("health", *arguments)
                self.assertEqual(done.returncode, 0, done)
                self.assertIn("status", json.loads(done.stdout))
            self.assertEqual(run_command("health", env={"PORT": str(server.port)}).returncode, 0)
        done = run_command("health", "--port", server.port)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("error: no server on 127.0.0.1", done.stderr)
        self.assertEqual(run_command("health", "--url", "ftp://x").returncode, 2)

    def test_draining_is_not_ready(self):
        with Server(LAB) as server, server.connect() as busy:
            busy.send(b"GET /sleep?ms=1500 HTTP/1.1\r\nHost: a\r\n\r\n")
            self._until_active(server)
            with server.connect() as early:
                early.ask("GET", "/health/ready")
                server.signal(signal.SIGTERM)
                server.wait_log("Received")
            self.assertEqual(run_command("health", "--ready", "--port", server.port).returncode, 1)
            self.assertEqual(busy.response().status, 200)
            busy.close()
            self.assertEqual(server.wait_exit(), 0)

    def _until_active(self, server):
        deadline = time.monotonic() + 10
        while server.metric("mik_active_requests") < 1:
            self.assertLess(time.monotonic(), deadline)

    def test_silent_servers_are_given_up(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            started = time.monotonic()
            done = run_command("health", "--port", silent.getsockname()[1])
            self.assertEqual(done.returncode, 1)
            self.assertLess(time.monotonic() - started, 12)


class EnvironmentTest(Case):
    def test_port_and_host_of_the_environment(self):
        port = free_port()
        with Server(HELLO, env={"HOST": "127.0.0.2"}) as server:
            self.assertEqual(server.address[0], "127.0.0.2")
        with Server(HELLO, "--host", "127.0.0.3", env={"HOST": "127.0.0.2"}) as server:
            self.assertEqual(server.address[0], "127.0.0.3")
        with Server(HELLO, "--local", env={"HOST": "0.0.0.0"}) as server:
            self.assertEqual(server.address[0], "127.0.0.1")
        with Server(HELLO, env={"PORT": "1"}) as server:  # the flag -p 0 beats it
            self.assertNotEqual(server.port, 1)
        process = subprocess.Popen([binary(), "run", str(HELLO), "-w", "1"], env=environment(shared_home(), {"PORT": str(port)}),
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            line = json.loads(process.stdout.readline())
            self.assertIn(f"http://127.0.0.1:{port}", line["message"])
        finally:
            process.terminate()
            process.stdout.read()
            process.stdout.close()
            self.assertEqual(process.wait(20), 0)

    def test_the_default_is_loopback_alone(self):
        with Server(HELLO) as server:
            self.assertEqual(server.address[0], "127.0.0.1")

    def test_ipv6(self):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            self.skipTest("no IPv6 here")
        for host in ("::1", "[::1]"):
            with Server(HELLO, "--host", host) as server:
                self.assertEqual(server.address[0], "::1")
                self.assertEqual(server.get("/", host="[::1]").status, 200)

    def test_rust_log(self):
        for value, completed in (("info", 1), ("warn", 0), ("mik=debug", 1), ("off", 0), ("error,mik=info", 1)):
            with self.subTest(value=value):
                if value in ("warn", "off"):
                    self._quiet(value)
                    continue
                with Server(LAB, env={"RUST_LOG": value}) as server:
                    server.get("/hello")
                    server.wait_log("Request completed", path="/hello")

    def _quiet(self, value):
        """Nothing tells the address here."""
        port = free_port()
        process = subprocess.Popen([binary(), "run", str(LAB), "-w", "1", "-p", str(port)],
                                   env=environment(shared_home(), {"RUST_LOG": value}), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        try:
            deadline = time.monotonic() + 30
            while run_command("health", "--ready", "--port", port).returncode != 0:
                self.assertLess(time.monotonic(), deadline)
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                for path in (b"/hello", b"/trap"):
                    client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                    self.assertTrue(client.recv(65536))
        finally:
            process.terminate()
            out, _ = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 0)
        self.assertNotIn(b"Request completed", out)
        self.assertEqual(b"Request failed" in out, value == "warn")

    def test_an_unparsable_rust_log_warns_and_means_info(self):
        with Server(LAB, env={"RUST_LOG": "loud"}) as server:
            self.assertEqual(server.wait_log("RUST_LOG 'loud'")["level"], "WARN")
            server.get("/hello")
            server.wait_log("Request completed")

    def test_log_lines_are_json_with_time_and_level(self):
        with Server(LAB, "--verbose") as server:
            server.get("/print?text=%22a%0ab%5c%01")
            server.wait_log("Request completed")
        self.assertGreater(len(server.log), 3)
        for line in server.log:
            self.assertRegex(line["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
            self.assertIn(line["level"], ("ERROR", "WARN", "INFO", "DEBUG", "TRACE"))
            self.assertTrue(line["message"])
            self.assertNotIn("", line.values())
        start = next(line for line in server.log if line["message"].startswith("Starting server on"))
        self.assertEqual((start["module"], start.get("modules")), ("lab", None))

    def test_on_a_terminal_there_is_a_banner_and_text(self):
        ours, theirs = pty.openpty()
        process = subprocess.Popen([binary(), "run", str(LAB), "-w", "1", "-p", "0"], env=environment(shared_home()),
                                   stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(theirs)
        text = ""
        try:
            text = self._read_until(ours, text, r"Metrics: /metrics\r\n")
            self.assertRegex(text, r"Starting server on http://127\.0\.0\.1:\d+\r\n")
            for line in ("Routes: /run/lab/* -> component", "Health: /health", "Metrics: /metrics"):
                self.assertIn(line, text)
            text = self._read_until(ours, text, r"INFO mik::server Ready")
            self.assertNotIn('{"timestamp"', text)
        finally:
            process.terminate()
            self._read_until(ours, "", r"(?!)")
            os.close(ours)
            self.assertEqual(process.wait(20), 0)

    def _read_until(self, fd, text, pattern):
        deadline = time.monotonic() + 30
        while not re.search(pattern, text):
            readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise AssertionError(f"no {pattern} in {text!r}")
            try:
                data = os.read(fd, 65536)
            except OSError:  # the other end is gone
                return text
            if not data:
                return text
            text += data.decode(errors="replace")
        return text

    def test_component_names_and_globs(self):
        folder = Path(temporary_folder())
        (folder / "target/wasm32-wasip2/release").mkdir(parents=True)
        for name in ("target/wasm32-wasip2/release/api-composed.wasm", "odd+name.WASM", "noext"):
            (folder / name).write_bytes(HELLO.read_bytes())
        for argument, name, warned in ((None, "api", False), ("odd*", "odd+name", False), ("noext", "noext", True)):
            with self.subTest(argument=argument):
                with Server(argument if argument is not None else "", cwd=folder) as server:
                    response = server.get(f"/run/{name.replace(' ', '%20')}/")
                    self.assertEqual((response.status, response.one("x-mik-handler")), (200, name))
                    self.assertEqual(bool(server.find_log("does not end in .wasm")), warned)


class ImitatorTest(unittest.TestCase):
    def test_arguments_of_children_do_not_start_a_server(self):
        """Somebody who calls the entries of children by hand gets an error, not a crash."""
        for arguments in (["__worker"], ["__worker", "1.0.1.1.1"], ["__compile"], ["__compile", "x", "3", "4"]):
            done = run_command(*arguments)
            self.assertGreater(done.returncode, 0, done)


if __name__ == "__main__":
    main()
