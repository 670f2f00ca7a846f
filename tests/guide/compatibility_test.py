#!/usr/bin/env python3
"""Holds docs/compatibility.md: every gap once, every row shown by a test that exists or open with what brings it."""

import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GAPS = 62
OPEN = {"open: issue 6", "open: later"}


def rows(text):
    for line in text.split("\n"):
        if re.match(r"\| G\d+ \|", line):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def problems(text, read):
    seen = []
    for cells in rows(text):
        if len(cells) != 4:
            yield f"{cells[0]}: a row has four cells"
            continue
        gap, _, ours, shown = (cell.strip("| ") for cell in cells)
        seen.append(int(gap[1:]))
        if shown in OPEN:
            continue
        names = re.findall(r"`([^`]+):(\w+)`", shown)
        if not names or ours == "-":
            yield f"{gap}: neither shown by a test nor open: {shown!r}"
        for path, case in names:
            body = read(path) if re.search(r"_test\.(py|cpp|rs)$|^engine/tests/\w+\.rs$", path) else None
            if body is None or not re.search(r"\b" + case + r"\b", body):
                yield f"{gap}: there is no test {path}:{case}"
    for gap in range(1, GAPS + 1):
        if seen.count(gap) != 1:
            yield f"G{gap}: {seen.count(gap)} rows"


def read_file(path):
    file = ROOT / path
    return file.read_text() if file.is_file() else None


class Compatibility(unittest.TestCase):
    def test_every_row_is_shown(self):
        self.assertEqual(list(problems(read_file("docs/compatibility.md"), read_file)), [])

    def test_what_is_wrong_is_found(self):
        text = "| G1 | a | b | `x_test.py:gone` |\n| G1 | a | - | `x_test.py:here` |\n| G2 | a | b | soon |"
        found = list(problems(text, {"x_test.py": "def here"}.get))
        self.assertIn("G1: there is no test x_test.py:gone", found)
        self.assertIn("G1: 2 rows", found)
        self.assertIn("G2: neither shown by a test nor open: 'soon'", found)
        self.assertIn("G62: 0 rows", found)


if __name__ == "__main__":
    unittest.main()
