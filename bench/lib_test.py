#!/usr/bin/env python3
"""Parsers and verdicts of the bench, without any server."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

import load  # noqa: E402
import report  # noqa: E402
import rows  # noqa: E402
import tools  # noqa: E402

STRACE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.006000           3      2000           sendmsg
 30.00    0.003000           3      2100       100 recvfrom
 10.00    0.001000           1       700           clock_nanosleep
------ ----------- ----------- --------- --------- ----------------
100.00    0.010000           2      4800       100 total
"""


class Parsing(unittest.TestCase):
    def test_strace_table_with_and_without_errors(self):
        self.assertEqual(load.parse_strace(STRACE), {"sendmsg": 2000, "recvfrom": 2100, "clock_nanosleep": 700})

    def test_nothing_is_nothing(self):
        self.assertEqual(load.parse_strace("strace: attach failed"), {})


class Answers(unittest.TestCase):
    WHOLE = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 3\r\n\r\nabc"
    CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

    def test_an_answer_is_whole_with_its_last_byte(self):
        for whole in (self.WHOLE, self.CHUNKED):
            for cut in range(len(whole)):
                self.assertFalse(load.is_whole(whole[:cut]), whole[:cut])
            self.assertTrue(load.is_whole(whole))

    def test_another_status_is_said(self):
        with self.assertRaises(tools.Missing):
            load.is_whole(self.WHOLE.replace(b"200 OK", b"503 No"))


class Verdicts(unittest.TestCase):
    def test_at_the_bar_is_met_on_both_sides(self):
        self.assertEqual(rows.Bar("x", 4, 10, 4.0).verdict, "pass")
        self.assertEqual(rows.Bar("x", 4, 10, 3.99).verdict, "MISS")
        self.assertEqual(rows.Bar("x", 0.28, 0.15, 0.28, low=True).verdict, "pass")
        self.assertEqual(rows.Bar("x", 0.28, 0.15, 0.281, low=True).verdict, "MISS")

    def test_unmeasured_is_no_pass(self):
        self.assertEqual(rows.Bar("x", 4, 10, None).verdict, "not measured")

    def test_ratios_are_taken_within_rounds(self):
        samples = {"a": [{"rps": 10}, {"rps": 40}, {"rps": 30}], "b": [{"rps": 5}, {"rps": 10}, {"rps": 10}]}
        self.assertEqual(rows.ratio(samples, "a", "b", "rps"), (3, (2, 4)))


class Page(unittest.TestCase):
    def test_text_around_the_measured_part_stays(self):
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "performance.md"
            page.write_text(f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\n## Why\n")
            report.write_page(page, f"{report.BEGIN}\nnew\n{report.END}")
            self.assertEqual(page.read_text(), f"# Title\n\n{report.BEGIN}\nnew\n{report.END}\n\n## Why\n")


if __name__ == "__main__":
    unittest.main()
