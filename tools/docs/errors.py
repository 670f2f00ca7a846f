#!/usr/bin/env python3
"""Makes docs/reference/errors.md from src/base/error_codes.def; with --check: is it current?"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "src/base/error_codes.def"
PAGE = ROOT / "docs/reference/errors.md"
ROW = re.compile(r'MIK_ERROR_CODE\(\s*(k\w+),\s*(\d+),\s*"([^"]*)",\s*"([^"]*)"\s*\)')


def page(table):
    rows = [(int(number), label, name, meaning) for name, number, label, meaning in ROW.findall(table)]
    if len(rows) != len(re.findall(r"^MIK_ERROR_CODE", table, re.M)):
        raise SystemExit(f"{TABLE}: a row that tools/docs/errors.py does not understand")
    for column, what in ((0, "number"), (1, "label")):
        values = [row[column] for row in rows]
        if len(values) != len(set(values)):
            raise SystemExit(f"{TABLE}: a {what} that is used twice")
    lines = [
        "# Error codes",
        "",
        "Made from `src/base/error_codes.def` by `tools/docs/errors.py`; do not edit. A number or label never changes and",
        "is never used again.",
        "",
        "| code | label | meaning | in C++ |",
        "|---|---|---|---|",
    ]
    lines += [f"| {n} | `{label}` | {meaning} | `ErrorCode::{name}` |" for n, label, name, meaning in sorted(rows)]
    return "\n".join(lines) + "\n"


def main():
    text = page(TABLE.read_text())
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text() != text:
            print(f"{PAGE.relative_to(ROOT)} is stale: run tools/docs/errors.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
