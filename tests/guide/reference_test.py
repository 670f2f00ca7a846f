"""docs/reference says what the code has, and nothing else: options, metrics, log messages."""
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


def read(*parts):
    return ROOT.joinpath(*parts).read_text()


class Metrics(unittest.TestCase):
    def test_every_metric_is_documented_and_exists(self):
        code = set(re.findall(r'"(mik_[a-z_]+)"', read("src", "runtime", "metrics_text.cpp")))
        documented = set(re.findall(r"`(mik_[a-z_]+)(?:\{\w+\})?`", (REFERENCE / "metrics.md").read_text()))
        self.assertGreater(len(code), 50)
        self.assertEqual(code, documented)

    def test_reasons(self):
        documented = (REFERENCE / "metrics.md").read_text()
        for names in ("kFailureNames", "kSpanDropNames"):
            code = re.search(names + r" = \{(.*?)\};", read("src", "runtime", "metrics_text.cpp"), re.S).group(1)
            for reason in re.findall(r'"(\w+)"', code):
                self.assertIn(f"`{reason}`", documented)


def sources(folder):
    """The texts of what is built into the binary."""
    files = sorted((ROOT / "src" / folder).glob("*.cpp"))
    return [path.read_text() for path in files if not re.search(r"_test|_fuzz|_bench|^test_|^fake_", path.name)]


def arguments(text, start):
    """What stands from `start` on up to the closing parenthesis."""
    depth, end = 1, start
    while depth:
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return text[start:end - 1]


def outline(expression):
    """The literals of a C++ expression, with `…` for what is put between them."""
    parts = re.split(r'"((?:[^"\\]|\\.)*)"', expression.replace("std::string(", ""))
    return re.sub("…+", "…", "".join(part if i % 2 else "…" if part.strip(" )\n") else "" for i, part in enumerate(parts)))


def fits(row_level, row_message, level, message):
    """Whether a line of the code, whose level is None where it depends, is what a row of the document says."""
    pattern = ".*".join(re.escape(part) for part in row_message.split("…"))
    return level in (None, row_level) and re.fullmatch(pattern, message, re.S) is not None


LEVELS = {"Info": "info", "Warning": "warn", "Error": "error"}


class Logs(unittest.TestCase):
    def documented(self):
        """(level, message) of the tables."""
        for row, level in re.findall(r"^\| (`.+?) \| (\w+) \|", (REFERENCE / "logs.md").read_text(), re.M):
            for message in re.findall(r"`([^`]+)`", row):
                yield level, message

    def workers_lines(self):
        """Those of Log::line with a message that is written there."""
        for folder in ("runtime", "telemetry", "cli"):
            for text in sources(folder):
                for call in re.finditer(r"\b(?:request_)?line\((?=[^;]*[Ll]evel)", text):
                    said = re.findall(r'"([A-Z][^"]+)"', arguments(text, call.end()))
                    level = re.match(r"\s*(?:telemetry::)?Level::k(\w+)", text[call.end():])
                    yield from ((level and level.group(1).lower(), message) for message in said)
        for message in re.findall(r'"(\w[\w ]+ on )"', read("src", "cli", "run.cpp")):
            yield "info", message + "…"

    def supervisors_lines(self):
        for text in sources("supervisor"):
            for call in re.finditer(r"\b(?:(?:say|on_event)\(Severity::k(\w+),|say_once\()", text):
                said = arguments(text, call.end()).strip()
                if said.startswith("who"):
                    said = re.findall(r"\bwho =([^;]*);", text[:call.start()])[-1] + said[3:]
                if '"' in said:  # else it is passed on
                    yield LEVELS[call.group(1) or "Warning"], outline(said)

    def test_every_message_is_documented_and_exists(self):
        code = {*self.workers_lines(), *self.supervisors_lines()}
        self.assertGreater(len(code), 60)
        documented = {*self.documented()}
        for level, message in code:
            self.assertTrue(any(fits(*row, level, message) for row in documented), f"not documented: {level} {message}")
        for row in documented:
            self.assertTrue(any(fits(*row, *line) for line in code), f"not in the code: {row}")

    def test_fields_exist(self):
        text = "".join((ROOT / "src" / "runtime" / name).read_text()
                       for name in ("guest_exchange.cpp", "guest_exchange_end.cpp", "request_end.cpp"))
        documented = (REFERENCE / "logs.md").read_text()
        fields = set(re.findall(r'\.(?:str|num|ms)\("(\w+)"', text))
        self.assertGreater(len(fields), 10)
        for field in fields:
            self.assertIn(f"`{field}`", documented)


class CommandLine(unittest.TestCase):
    def test_every_option_is_documented_and_exists(self):
        code = read("src", "cli", "command_line.cpp")
        options = set(re.findall(r"--[a-z][a-z-]+", " ".join(re.findall(r'add_(?:option|flag)\("([^"]+)"', code))))
        documented = set(re.findall(r"--[a-z][a-z-]+", (REFERENCE / "cli.md").read_text())) - {"--help"}
        self.assertGreater(len(options), 10)
        self.assertEqual(options, documented)

    def test_help_of_the_binary_names_them(self):
        binary = os.environ.get("MIK_BINARY")
        if not binary:
            self.skipTest("MIK_BINARY is not set")
        text = subprocess.run([binary, "run", "--help"], capture_output=True, text=True, check=True).stdout
        for option in ("--port", "--host", "--allow-host", "--reuse"):
            self.assertIn(option, text)


if __name__ == "__main__":
    sys.exit(unittest.main())
