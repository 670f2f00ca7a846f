#!/usr/bin/env python3
"""Each lint finds what it is for, and lets pass what is right."""

import tomllib
import unittest

import lint

LAYOUT = tomllib.loads("""
rows = [["base"], ["net", "telemetry", "config"], ["http", "engine"], ["cli"]]
[[arrows]]
from = "telemetry"
to = "config"
reason = "test"
[headers]
"engine.h" = ["engine"]
"nghttp2" = ["http"]
"fmt" = ["*"]
[test_headers]
"gtest" = ["*"]
""")


def problems(check, files, *arguments):
    return list(check(lint.Tree(files), *arguments))


class Layers(unittest.TestCase):
    def one(self, path, include):
        return problems(lint.layers, {path: f"// text\n#include {include}\n"}, LAYOUT)

    def test_lets_arrows_point_down_and_inside(self):
        for path, include in [("src/http/a.cpp", '"net/loop.hpp"'), ("src/http/a.cpp", '"http/b.hpp"'),
                              ("src/cli/a.cpp", '"base/b.hpp"'), ("src/net/a.cpp", "<vector>"),
                              ("src/net/a.cpp", "<sys/epoll.h>"), ("src/net/a.cpp", "<unistd.h>"),
                              ("src/telemetry/a.cpp", '"config/b.hpp"')]:
            self.assertEqual(self.one(path, include), [], (path, include))

    def test_finds_arrows_that_point_up_or_aside(self):
        self.assertIn("src/net/a.cpp:2: net lies below http", self.one("src/net/a.cpp", '"http/b.hpp"')[0])
        self.assertIn("neighbours", self.one("src/config/a.cpp", '"telemetry/b.hpp"')[0])
        self.assertIn("neighbours", self.one("src/http/a.cpp", '"engine/b.hpp"')[0])

    def test_finds_folders_without_a_row(self):
        self.assertIn("no row for", self.one("src/odd/a.cpp", "<vector>")[0])
        self.assertIn("no folder odd", self.one("src/net/a.cpp", '"odd/b.hpp"')[0])

    def test_keeps_headers_of_others_in_their_folder(self):
        self.assertEqual(self.one("src/http/a.cpp", "<nghttp2/nghttp2.h>"), [])
        self.assertEqual(self.one("src/net/a.cpp", "<fmt/format.h>"), [])
        self.assertIn("stops at http", self.one("src/cli/a.cpp", "<nghttp2/nghttp2.h>")[0])
        self.assertIn("not in tools/lint", self.one("src/cli/a.cpp", "<boost/asio.hpp>")[0])

    def test_keeps_the_engine_contract_in_src_engine(self):
        for include in ['"engine.h"', "<engine.h>", '"engine/include/engine.h"']:
            self.assertEqual(self.one("src/engine/a.cpp", include), [], include)
            self.assertIn("stops at engine", self.one("src/cli/a.cpp", include)[0], include)

    def test_keeps_test_headers_in_tests(self):
        self.assertEqual(self.one("src/net/a_test.cpp", "<gtest/gtest.h>"), [])
        self.assertIn("tests only", self.one("src/net/a.cpp", "<gtest/gtest.h>")[0])

    def test_knows_what_serves_tests_alone(self):
        rig = {"src/net/rig.hpp": "#include <gtest/gtest.h>", "src/net/rig.cpp": '#include "net/rig.hpp"',
               "src/net/a_test.cpp": '#include "net/rig.hpp"', "src/net/main.cpp": "#include <gtest/gtest.h>",
               "src/net/CMakeLists.txt": "mik_library(net TESTS a_test.cpp main.cpp)"}
        self.assertEqual(problems(lint.layers, rig, LAYOUT), [])
        user = {"src/net/a.cpp": '#include "net/rig.hpp"'}
        self.assertIn("src/net/rig.hpp:1: gtest", problems(lint.layers, rig | user, LAYOUT)[0])

    def test_wants_paths_from_the_src_root(self):
        self.assertIn("src root", self.one("src/net/a.cpp", '"loop.hpp"')[0])
        self.assertIn("src root", self.one("src/net/a.cpp", '"../net/loop.hpp"')[0])

    def test_the_layout_of_the_project_names_each_folder_once(self):
        layout = tomllib.loads((lint.HERE / "layers.toml").read_text())
        folders = [f for row in layout["rows"] for f in row]
        self.assertEqual(len(folders), len(set(folders)))
        for arrow in layout["arrows"]:
            self.assertTrue(arrow["reason"])


class Coroutines(unittest.TestCase):
    def test_finds_each_keyword(self):
        for text in ["co_await x;", "co_return 1;", "co_yield 1;", "#include <coroutine>"]:
            self.assertIn("0005", problems(lint.coroutines, {"src/net/a.cpp": "\n" + text})[0])

    def test_does_not_look_at_comments_strings_and_probes(self):
        self.assertEqual(problems(lint.coroutines, {"src/net/a.cpp": '// co_await\nf("co_return");'}), [])
        self.assertEqual(problems(lint.coroutines, {"tests/toolchain/a.cpp": "co_await x;"}), [])


class Built(unittest.TestCase):
    CMAKE = "mik_library(net SOURCES a.cpp\n  HEADERS a.hpp sub/b.hpp TESTS a_test.cpp)  # c.cpp"
    ABOVE = {"src/CMakeLists.txt": "add_subdirectory(net)", "CMakeLists.txt": "add_subdirectory(src)"}

    def run_on(self, **files):
        tree = self.ABOVE | {"src/net/CMakeLists.txt": self.CMAKE}
        return problems(lint.built, tree | {k.replace("__", "/"): v for k, v in files.items()})

    def test_lets_listed_files_pass(self):
        self.assertEqual(self.run_on(**{"src/net/a.cpp": "", "src/net/a.hpp": "", "src/net/sub/b.hpp": "",
                                        "src/net/a_test.cpp": ""}), [])

    def test_finds_a_source_that_no_target_builds(self):
        self.assertIn("src/net/c.cpp:1: no CMakeLists", self.run_on(**{"src/net/c.cpp": ""})[0])

    def test_finds_a_header_that_nothing_compiles_alone(self):
        cmake = "mik_library(net SOURCES a.cpp b.hpp HEADERS a.hpp)"
        found = problems(lint.built, self.ABOVE | {"src/net/CMakeLists.txt": cmake, "src/net/b.hpp": ""})
        self.assertEqual(len(found), 1)
        self.assertIn("not among HEADERS", found[0])

    def test_finds_a_folder_that_is_not_added(self):
        tree = {"src/CMakeLists.txt": "", "CMakeLists.txt": "add_subdirectory(src)",
                "src/net/CMakeLists.txt": self.CMAKE}
        self.assertIn("no add_subdirectory", problems(lint.built, tree)[0])

    def test_follows_rust_modules(self):
        tree = {"engine/src/lib.rs": "mod a;\npub(crate) mod b;", "engine/src/a.rs": "mod c;", "engine/src/b/mod.rs": "",
                "engine/src/a/c.rs": "", "engine/tests/t.rs": ""}
        self.assertEqual(problems(lint.built, tree), [])
        found = problems(lint.built, tree | {"engine/src/lost.rs": ""})
        self.assertEqual(found, ["engine/src/lost.rs:1: no `mod` leads to this file"])


class Bans(unittest.TestCase):
    def names(self, path, text):
        return [p.split(": ")[1] for p in problems(lint.bans, {path: text})]

    def test_finds_each_call(self):
        for text, name in [
            ("usleep(10);", "sleep"), ("std::this_thread::sleep_for(x);", "sleep"), ("strcpy(a, b);", "unbounded"),
            ("std::sprintf(a, b);", "unbounded"), ("atoi(x);", "atoi"), ("std::stoi(x);", "atoi"),
            ("std::system(x);", "shell"), ("popen(x, y);", "shell"), ("mktemp(x);", "temporary"),
            ("std::rand();", "rand"), ("std::cout << 1;", "output"), ("printf(x);", "output"),
            ("std::thread t;", "thread"), ("t.detach();", "detach"), ("signal(SIGTERM, f);", "signal"),
            ("std::atomic<std::shared_ptr<int>> x;", "atomic_shared_ptr"), ("getenv(x);", "environment"),
            ("std::abort();", "exit"), ("_exit(1);", "exit"), ("exit(1);", "exit"),
        ]:
            self.assertEqual(self.names("src/http/a.cpp", text), [name], text)

    def test_lets_pass_what_only_looks_alike(self):
        for text in ["std::system_error e;", "fprintf(stderr, x);", "snprintf(a, n, b);", "// usleep(1)",
                     'say("system(1)");', "virtual void abort() = 0;", "exchange.abort();", "abort();", "fmt::print(x);",
                     "std::thread::id id;", "loop.signal(x);", "::signal(SIGPIPE, SIG_IGN);", "my::system(x);", "'\"'; x", "strand(1);",
                     "std::generic_category().message(1);", "std::this_thread::get_id();", "operand(2);"]:
            self.assertEqual(self.names("src/http/a.cpp", text), [], text)

    def test_honours_exceptions_and_waivers_with_a_reason(self):
        self.assertEqual(self.names("src/cli/a.cpp", "std::cout << 1;"), [])
        self.assertEqual(self.names("src/http/a.cpp", "usleep(1);  // lint: allow sleep: a test of time"), [])
        self.assertEqual(self.names("src/http/a.cpp", "// lint: allow sleep: because\nusleep(1);"), [])
        self.assertEqual(self.names("src/http/a.cpp", "usleep(1);  // lint: allow sleep:"), ["sleep"])
        self.assertEqual(self.names("src/http/a.cpp", "usleep(1);  // lint: allow rand: because"), ["sleep"])

    def test_tests_may_use_threads_but_not_sleep(self):
        self.assertEqual(self.names("src/net/a_test.cpp", "std::thread t;"), [])
        self.assertEqual(self.names("src/net/a_test.cpp", "usleep(1);"), ["sleep"])


class Opening(unittest.TestCase):
    def test_wants_a_comment_first_and_the_guard(self):
        self.assertEqual(problems(lint.opening, {"src/a/b.hpp": "// For x.\n#pragma once\n"}), [])
        self.assertEqual(len(problems(lint.opening, {"src/a/b.hpp": "#include <x>\n"})), 2)

    def test_wants_the_own_header_first(self):
        header = {"src/a/b.hpp": "// For x.\n#pragma once\n"}
        good = {"src/a/b.cpp": '#include "a/b.hpp"\n#include <vector>\n'}
        bad = {"src/a/b.cpp": '#include <vector>\n#include "a/b.hpp"\n'}
        self.assertEqual(problems(lint.opening, header | good), [])
        self.assertIn("own header", problems(lint.opening, header | bad)[0])
        self.assertEqual(problems(lint.opening, {"src/a/c.cpp": "#include <vector>\n"}), [])


class Texts(unittest.TestCase):
    def test_markers(self):
        for word in ["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]:
            self.assertEqual(len(problems(lint.markers, {"a.md": f"x\n{word}: y"})), 1, word)
        self.assertEqual(len(problems(lint.markers, {"a.cpp": "<" * 7 + " mine"})), 1)
        self.assertEqual(problems(lint.markers, {"a.cpp": 'mkdtemp("/tmp/a.XXXXXX"); hackney todo'}), [])
        self.assertEqual(problems(lint.markers, {"src/a_corpus/x": "TO" + "DO"}), [])

    def test_sizes(self):
        self.assertEqual(problems(lint.sizes, {"src/a.cpp": "\n" * lint.FILE_LINES_MAX}), [])
        self.assertEqual(len(problems(lint.sizes, {"src/a.cpp": "\n" * (lint.FILE_LINES_MAX + 1)})), 1)

    def test_functions(self):
        def source(lines):
            return "namespace a {\nvoid f(int x) {\n" + "  g();\n" * (lines - 1) + "}\n}\n"
        self.assertEqual(problems(lint.long_functions, {"src/a/b.cpp": source(60)}), [])
        self.assertIn("61 lines", problems(lint.long_functions, {"src/a/b.cpp": source(61)})[0])
        members = "class A {\n public:\n" + "  void f() {\n    g();\n  }\n" * 40 + "};\n"
        self.assertEqual(problems(lint.long_functions, {"src/a/b.hpp": members}), [])

    def test_words(self):
        self.assertEqual(len(problems(lint.words, {"a.md": "see /wo" + "rk/x"})), 1)
        self.assertEqual(len(problems(lint.words, {"a.md": "see /ro" + "ot/.cache"})), 1)
        self.assertEqual(problems(lint.words, {"a.md": "/var/lib/mik http://a/network/work/x ~/.cache"}), [])
        digests = {lint.digest("gizmo")}
        self.assertEqual(len(problems(lint.words, {"a.md": "made by Gizmo"}, digests)), 1)
        self.assertEqual(problems(lint.words, {"a.md": "made by hand"}, digests), [])

    def test_links(self):
        tree = {"docs/a.md": "[b](b.md#x) [c](../c/) [d](https://d.example/) [e](e.md)", "docs/b.md": "", "c/f.txt": ""}
        self.assertEqual(problems(lint.links, tree), ["docs/a.md:1: nothing is at e.md"])


if __name__ == "__main__":
    unittest.main()
