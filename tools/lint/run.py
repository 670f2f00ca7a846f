#!/usr/bin/env python3
"""Runs the lints over the checkout: run.py [NAME...]; exit 1 if one finds something. See README.md."""

import sys

import lint


def main(names):
    unknown = [n for n in names if n not in lint.CHECKS]
    if unknown:
        print(f"no lint named {unknown[0]}; there are: {' '.join(lint.CHECKS)}", file=sys.stderr)
        return 2
    tree = lint.Tree.of_folder(lint.ROOT)
    failed = False
    for name in names or lint.CHECKS:
        check, is_error = lint.CHECKS[name]
        problems = list(check(tree))
        for problem in problems:
            print(f"{problem} [{name if is_error else 'warning: ' + name}]")
        failed |= is_error and bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
