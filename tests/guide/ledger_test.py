#!/usr/bin/env python3
"""Holds ledger.toml to guide.md: each row is sound, and no command, key, variable, path, port, field or directive of
the guide is without a row. Prints how many rows stand where."""

import collections
import re
import sys
import tomllib
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ISSUES = {4, 5, 6, "later"}
FIELDS = {
    "test": {"id", "quote", "status", "test", "note"},
    "issue": {"id", "quote", "status", "issue", "reason"},
    "deviation": {"id", "quote", "status", "reason"},
}
# What stands in the guide and asks nothing of mik, by section.
NOT_OURS = {
    "g9": {"events"},
    "g10": {"zone", "key", "events", "window"},
}


def squeeze(text):
    return re.sub(r"\s+", " ", text).strip()


def sections(text):
    """{"g9": the text from its mark to the next}. Several marks in one line start several sections there."""
    marks = list(re.finditer(r"^(?:### |- )?(g\d+) ", text, re.M))
    result = {}
    for mark, following in zip(marks, marks[1:] + [None]):
        result[mark.group(1)] = text[mark.start():following.start() if following else len(text)]
    return result


def blocks(section):
    return "\n".join(line[4:] for line in section.split("\n") if line.startswith("    "))


def tokens(name, section):
    """What a program or an operator types or reads, as far as patterns tell."""
    code = blocks(section) + "\n" + "\n".join(re.findall(r"`([^`]+)`", section))
    commands = "\n".join(line.split("#")[0] for line in code.split("\n"))
    found = set()
    found |= set(re.findall(r"^(\w+) = ", code, re.M))  # TOML keys
    found |= set(re.findall(r"^(\[\w+\])$", code, re.M))  # TOML tables
    found |= set(re.findall(r"\b(MIK_[A-Z_]+|RUST_LOG)\b", code))
    found |= set(re.findall(r"^(PORT|HOST|[a-z]+(?:_[a-z]+)+)$", code, re.M))  # a name alone between backticks
    found |= set(re.findall(r"listen (\d+)", code))
    found |= set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", commands))
    found |= set(re.findall(r"\b(mik (?:run|dev|daemon))\b", commands))
    found |= set(re.findall(r"\b((?:systemctl|cargo|chmod|openssl) [\w-]+|kill -TERM|pgrep mik)\b", commands))
    found |= set(re.findall(r"(?<![\w.:/*])(/(?:var|etc)/[\w./*-]*mik[\w./*-]*)", code))  # our files
    found |= set(re.findall(r"localhost:\d+(/\w+)", code)) | set(re.findall(r"location (/\w*)", code))
    found |= set(re.findall(r":(\d{2,5})\b", section)) | set(re.findall(r"^\| (\d{2,5}) \|", section, re.M))
    found |= set(re.findall(r"--port (\d+)", code))
    found |= set(re.findall(r'"(\w+)": ', code))  # JSON fields
    found |= set(re.findall(r"\b(X-[A-Z][\w-]+)", code))  # header fields
    found |= set(re.findall(r"(\.wasm\.aot)", code))
    if name in ("g9", "g10", "g14"):
        found |= set(re.findall(r"^ *([a-z_]+)\b(?=[^\n]*[;{]\s*$)", code, re.M))  # directives of the proxies
        found |= set(re.findall(r"^ *(header_up|rate_limit|reverse_proxy)\b", code, re.M))
    return found - NOT_OURS.get(name, set())


def problems(guide, rows, exists):
    """What is wrong with the rows. exists(path) gives a file's text, or None."""
    parts = {name: squeeze(text) for name, text in sections(guide).items()}
    seen = collections.Counter(row.get("id") for row in rows)
    quotes = collections.defaultdict(str)
    for row in rows:
        name = row.get("id", "")
        section = name.split(".")[0]
        if seen[name] > 1:
            yield f"{name}: twice"
        if section not in parts:
            yield f"{name}: the guide has no section {section}"
            continue
        quote = squeeze(row.get("quote", ""))
        if not quote or quote not in parts[section]:
            yield f"{name}: its quote does not stand in {section}: {quote!r}"
        quotes[section] += quote + "\n"
        yield from row_problems(name, row, exists)
    for section, text in sections(guide).items():
        if section not in quotes:
            yield f"{section}: no row"
        for token in sorted(tokens(section, text)):
            before = r"(?<![\w-])" if token[0].isalnum() else ""
            after = r"(?![\w-])" if token[-1].isalnum() else ""
            if not re.search(before + re.escape(token) + after, quotes[section]):
                yield f"{section}: no row quotes {token}"


def row_problems(name, row, exists):
    status = row.get("status")
    if status not in FIELDS:
        yield f"{name}: status is test, issue or deviation, not {status!r}"
        return
    for field in sorted(set(row) - FIELDS[status]):
        yield f"{name}: {field} has no place in a row of status {status}"
    if status == "test":
        for test in [row["test"]] if isinstance(row.get("test"), str) else row.get("test") or [""]:
            path, _, case = test.partition(":")
            text = exists(path) if re.search(r"_test\.(py|cpp|rs)$", path) else None
            if text is None or not case or not re.search(r"\b" + re.escape(case) + r"\b", text):
                yield f"{name}: there is no test {test!r} (write path/x_test.py:test_name or path/x_test.cpp:Name)"
    if status == "issue" and row.get("issue") not in ISSUES:
        yield f"{name}: issue is one of 4, 5, 6 or later"
    if (status == "deviation" or row.get("issue") == "later") and len(row.get("reason", "")) < 10:
        yield f"{name}: it needs a reason"


def read_file(path):
    file = ROOT / path
    return file.read_text() if file.is_file() else None


class Ledger(unittest.TestCase):
    def setUp(self):
        self.guide = (HERE / "guide.md").read_text()
        self.rows = tomllib.loads((HERE / "ledger.toml").read_text())["rows"]

    def test_each_row_is_sound_and_no_token_is_without_one(self):
        self.assertEqual(list(problems(self.guide, self.rows, read_file)), [])

    def test_sections_are_all_there(self):
        self.assertEqual(set(sections(self.guide)), {f"g{i}" for i in range(1, 23)})

    def test_the_extractor_sees_what_it_is_for(self):
        found = {name: tokens(name, text) for name, text in sections(self.guide).items()}
        for name, token in [
            ("g1", "cargo build"), ("g3", ".wasm.aot"), ("g3", "max_cache_mb"), ("g4", "3000"), ("g5", "9919"),
            ("g5", "443"), ("g6", "--api-key"), ("g6", "mik dev"), ("g6", "MIK_API_KEY"), ("g6", "X-API-Key"),
            ("g6", "/instances"), ("g7", "/etc/mik/mik.toml"), ("g7", "chmod 700"), ("g8", "http_allowed"),
            ("g9", "keepalive"), ("g9", "proxy_read_timeout"), ("g9", "/health"), ("g9", "X-Forwarded-For"),
            ("g10", "reverse_proxy"), ("g10", "header_up"), ("g11", "execution_timeout_secs"), ("g11", "[tracing]"),
            ("g11", "4317"), ("g12", "PORT"), ("g12", "MIK_HOT_RELOAD"), ("g14", "least_conn"), ("g14", "3002"),
            ("g15", "--detach"), ("g16", "cache_capacity"), ("g16", "/health"), ("g17", "pgrep mik"),
            ("g17", "shutdown_timeout_secs"), ("g18", "/var/lib/mik/data/"), ("g19", "systemctl stop"),
        ]:
            self.assertIn(token, found[name], name)

    def test_finds_what_is_wrong(self):
        guide = "### g1 A\nUse `mik run --port 3000` and\n\n    retries = 3\n"
        good = {"id": "g1.a", "quote": "`mik run --port 3000` and retries = 3", "status": "issue", "issue": 4}
        self.assertEqual(list(problems(guide, [good], lambda path: None)), [])
        for change, what in [
            ({"quote": "`mik run --port 3000`"}, "no row quotes retries"), ({"quote": "other"}, "does not stand in"),
            ({"issue": 7}, "issue is one of"), ({"issue": "later"}, "needs a reason"), ({"status": "done"}, "status is"),
            ({"status": "test", "test": "tests/e2e/a_test.py:test_x"}, "there is no test"),
            ({"status": "deviation"}, "needs a reason"), ({"id": "g2.a"}, "no section g2"),
        ]:
            self.assertIn(what, "\n".join(problems(guide, [good | change], lambda path: None)), change)
        tested = {"id": "g1.a", "quote": good["quote"], "status": "test", "test": "tests/e2e/a_test.py:test_x"}
        self.assertEqual(list(problems(guide, [tested], lambda path: "def test_x(self):")), [])
        self.assertEqual(len(list(problems(guide, [tested], lambda path: "def test_xy(self):"))), 1)
        self.assertIn("twice", "\n".join(problems(guide, [good, good], lambda path: None)))
        self.assertIn("g1: no row", "\n".join(problems(guide, [], lambda path: None)))


def summary():
    rows = tomllib.loads((HERE / "ledger.toml").read_text())["rows"]
    counts = collections.Counter(f"issue {r['issue']}" if r["status"] == "issue" else r["status"] for r in rows)
    return f"{len(rows)} rows: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))


if __name__ == "__main__":
    print(summary())
    sys.stdout.flush()
    unittest.main()
