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


class Logs(unittest.TestCase):
    def test_messages_exist(self):
        sources = "".join(p.read_text() for p in (ROOT / "src" / "runtime").glob("*.cpp"))
        for row in re.findall(r"^\| (`.+?) \| \w+ \|", (REFERENCE / "logs.md").read_text(), re.M):
            for message in re.findall(r"`([A-Z][\w ]+)`", row):
                self.assertIn(f'"{message}"', sources)

    def test_fields_exist(self):
        text = "".join(p.read_text() for p in (ROOT / "src" / "runtime").glob("guest_exchange*.cpp"))
        documented = (REFERENCE / "logs.md").read_text()
        for field in re.findall(r'\.(?:str|num|ms)\("(\w+)"', text):
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
