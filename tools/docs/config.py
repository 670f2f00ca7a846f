#!/usr/bin/env python3
"""Makes docs/reference/config.md from the table of keys in src/config, by a program that is built from it. The test
mik_config_test (Reference.ThePageIsTheModels) says when the page is stale."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/reference/config.md"


def main():
    build = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build/dev"
    subprocess.run(["ninja", "-C", build, "mik_config_reference"], check=True, stdout=sys.stderr)
    PAGE.write_bytes(subprocess.run([build / "src/config/mik_config_reference"], check=True, capture_output=True).stdout)


if __name__ == "__main__":
    main()
