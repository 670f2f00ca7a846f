"""The project's own rules, as functions over a tree of files: what compilers and clang-tidy do not know of.

A check takes a Tree and gives problems ("path:line: what, and what to do"). run.py runs them over the checkout,
lint_test.py over small made-up trees. Python's standard library only.
"""

import hashlib
import os
import re
import tomllib
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKIPPED_FOLDERS = {"build", ".git", "target", "node_modules", "__pycache__"}
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60


class Tree:
    """Text files by path from the root; binary ones are known by name only."""

    def __init__(self, files):
        self.files = files
        self.tests = None  # see test_files

    @staticmethod
    def of_folder(root):
        files = {}
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_symlink() or not path.is_file():
                    continue
                data = path.read_bytes()
                text = None if b"\0" in data else data.decode("utf-8", "replace")
                files[path.relative_to(root).as_posix()] = text
        return Tree(files)

    def text(self, *suffixes, under=()):
        """(path, text) of the text files with one of the suffixes, below one of the folders."""
        for path, text in self.files.items():
            if text is None or "_corpus/" in path:
                continue
            if suffixes and not path.endswith(suffixes):
                continue
            if under and not path.startswith(tuple(f + "/" for f in under)):
                continue
            yield path, text


def blank_comments_and_strings(text):
    """C++ text with comments and literals as blanks, so that line numbers stay."""
    pattern = re.compile(
        r'R"([^()\\ ]{0,16})\((?:.|\n)*?\)\1"'  # raw string
        r"|//[^\n]*|/\*(?:.|\n)*?\*/"
        r'|"(?:\\.|[^"\\\n])*"'
        r"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])+'"  # not a digit separator
    )
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)


def test_files(tree):
    """Tests and what serves them alone: sources among TESTS, headers that only tests include, and their sources."""
    if tree.tests is not None:
        return tree.tests
    tests = {p for p in tree.files if p.startswith("tests/") or p.endswith(("_test.cpp", "_bench.cpp", "_fuzz.cpp"))}
    for path, text in tree.text("CMakeLists.txt", under=["src"]):
        tests |= {f"{PurePosixPath(path).parent}/{name}" for call in library_lists(text) for name in call["TESTS"]}
    users = {}
    for path, text in tree.text(".cpp", ".hpp"):
        for match in INCLUDE.finditer(text):
            header = "src/" + match.group(2)
            if header in tree.files and header != path.removesuffix(".cpp") + ".hpp":
                users.setdefault(header, set()).add(path)
    before = None
    while before != len(tests):
        before = len(tests)
        for header, who in users.items():
            if who <= tests:
                tests |= {header, header.removesuffix(".hpp") + ".cpp"}
    tree.tests = tests
    return tests


def allowed(lines, number, name):
    """A waiver on the line or on the one before: // lint: allow NAME: reason"""
    waiver = re.compile(r"lint: allow " + re.escape(name) + r": \S")
    return any(waiver.search(lines[i]) for i in (number - 1, number - 2) if 0 <= i < len(lines))


# --- layers ---------------------------------------------------------------------------------------------------------

SYSTEM_FOLDERS = {"sys", "linux", "netinet", "arpa", "net", "asm", "bits", "experimental", "sanitizer"}


def layers(tree, layout=None):
    layout = layout or tomllib.loads((HERE / "layers.toml").read_text())
    row_of = {folder: i for i, row in enumerate(layout["rows"]) for folder in row}
    drawn = {(a["from"], a["to"]) for a in layout.get("arrows", [])}
    for path, text in tree.text(".hpp", ".cpp", ".def", under=["src"]):
        parts = path.split("/")
        if len(parts) < 3:
            yield f"{path}:1: a source belongs into a folder of src/"
            continue
        folder = parts[1]
        if folder not in row_of:
            yield f"{path}:1: tools/lint/layers.toml has no row for {folder}/"
            continue
        for match in INCLUDE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            problem = include_problem(path in test_files(tree), folder, match, row_of, drawn, layout)
            if problem:
                yield f"{path}:{line}: {problem}"


def include_problem(in_test, folder, include, row_of, drawn, layout):
    quote, header = include.groups()
    first = header.split("/")[0]
    name = PurePosixPath(header).name
    outside = layout.get("headers", {}) | layout.get("test_headers", {})
    key = name if name in outside and "/" not in name else first
    if key in outside:
        if key in layout.get("test_headers", {}) and not in_test:
            return f"{header} is for tests only"
        if "*" not in outside[key] and folder not in outside[key]:
            return f"{header} stops at {', '.join(outside[key])} (tools/lint/layers.toml)"
        return None
    if quote == "<":
        if "." not in name and "/" not in header:  # standard C++
            return None
        if first in SYSTEM_FOLDERS or ("/" not in header and header.endswith(".h")):
            return None
        return f"<{header}> is not in tools/lint/layers.toml: name the folder that adapts it"
    if "/" not in header or header.startswith("."):
        return f'"{header}" is not written from the src root'
    if first not in row_of:
        return f'"{header}": no folder {first} in tools/lint/layers.toml'
    if first == folder or row_of[first] < row_of[folder] or (folder, first) in drawn:
        return None
    if row_of[first] == row_of[folder]:
        return f"{folder} and {first} are neighbours: no arrow is drawn between them (tools/lint/layers.toml)"
    return f"{folder} lies below {first}: ask upward through an interface that {folder} owns"


# --- coroutines -----------------------------------------------------------------------------------------------------


def coroutines(tree):
    pattern = re.compile(r"\bco_(await|return|yield)\b|#\s*include\s*<coroutine>")
    for path, text in tree.text(".hpp", ".cpp", under=["src"]):
        for number, line in enumerate(blank_comments_and_strings(text).split("\n"), 1):
            if pattern.search(line):
                yield (f"{path}:{number}: a coroutine: g++ 12 miscompiles some, and we write state machines "
                       "(docs/adr/0005)")


# --- what targets build ---------------------------------------------------------------------------------------------


def cmake_words(text):
    return re.findall(r'"[^"]*"|[^\s()"]+|[()]', re.sub(r"#[^\n]*", "", text))


def library_lists(text):
    """Of each mik_library call: {KEYWORD: [words]}."""
    keywords = {"SOURCES", "HEADERS", "DEPS", "LIBS", "TESTS", "FUZZ"}
    calls, words = [], cmake_words(text)
    for i, word in enumerate(words):
        if word != "mik_library":
            continue
        lists, current = {k: [] for k in keywords}, None
        for item in words[i + 2:]:
            if item == ")":
                break
            if item in keywords:
                current = item
            elif current:
                lists[current].append(item)
        calls.append(lists)
    return calls


def cmake_above(tree, path):
    """CMakeLists.txt of the folder and of those above, nearest first: (folder, text)."""
    for folder in PurePosixPath(path).parents:
        text = tree.files.get(str(folder / "CMakeLists.txt").removeprefix("./"))
        if text is not None:
            yield folder, text


def built(tree):
    """No file that no target builds; each header of src/ is compiled alone."""
    for path, text in tree.text(".cpp", ".hpp", ".c", under=["src", "tests", "bench"]):
        if path.startswith(("tests/components/", "tests/guests/")):
            continue  # guests: their own script builds them
        listed = False
        for folder, cmake in cmake_above(tree, path):
            relative = PurePosixPath(path).relative_to(folder).as_posix()
            if any(w.strip('"').removeprefix("${CMAKE_CURRENT_SOURCE_DIR}/") == relative or
                   w.endswith("}/" + path) for w in cmake_words(cmake)):
                listed = True
                break
        if not listed and path.endswith(".hpp") and path in test_files(tree):
            listed = any(re.search(r'include "[^"]*' + re.escape(PurePosixPath(path).name) + '"', t)
                         for _, t in tree.text(".cpp", ".hpp"))
        if not listed and any(path in cmake for p, cmake in tree.text(".cmake")):
            listed = True
        if not listed:
            yield f"{path}:1: no CMakeLists.txt names this file"
    for path, text in tree.text("CMakeLists.txt", under=["src"]):
        folder = PurePosixPath(path).parent
        lists = library_lists(text)
        headers = {h for call in lists for h in call["HEADERS"]}
        if not lists:
            continue
        for other, _ in tree.text(".hpp", under=[str(folder)]):
            relative = PurePosixPath(other).relative_to(folder).as_posix()
            if relative not in headers and other not in test_files(tree):
                yield f"{other}:1: not among HEADERS of {path}, so nothing compiles it alone"
    yield from built_folders(tree)
    yield from built_rust(tree)


def built_folders(tree):
    for path, _ in tree.text("CMakeLists.txt", under=["src", "tests", "tools"]):
        folder = PurePosixPath(path).parent
        for above, text in cmake_above(tree, str(folder)):
            if re.search(r"add_subdirectory\(\s*" + re.escape(folder.relative_to(above).as_posix()) + r"[\s)]", text):
                break
        else:
            yield f"{path}:1: no add_subdirectory leads here"


def built_rust(tree):
    mod = re.compile(r'^\s*(?:pub(?:\([a-z]+\))?\s+)?mod\s+(\w+)\s*;', re.M)
    path_mod = re.compile(r'#\[path\s*=\s*"([^"]+)"\]')
    sources = dict(tree.text(".rs", under=["engine"]))
    reached = {p for p in sources if p.endswith(("/lib.rs", "/main.rs", "/build.rs"))}
    reached |= {p for p in sources if re.search(r"/(tests|benches|examples|bin)/[^/]+\.rs$", p)}
    queue = list(reached)
    while queue:
        path = queue.pop()
        here = PurePosixPath(path)
        root_like = here.name in ("lib.rs", "main.rs", "mod.rs") or here.parent.name in ("tests", "benches", "bin")
        base = here.parent if root_like else here.parent / here.stem
        names = [f"{base}/{m}.rs" for m in mod.findall(sources[path])]
        names += [f"{base}/{m}/mod.rs" for m in mod.findall(sources[path])]
        names += [os.path.normpath(f"{here.parent}/{m}") for m in path_mod.findall(sources[path])]
        names += [os.path.normpath(f"{here.parent}/{m}") for m in re.findall(r'include!\("([^"]+)"\)', sources[path])]
        for name in names:
            if name in sources and name not in reached:
                reached.add(name)
                queue.append(name)
    for path in sorted(set(sources) - reached):
        yield f"{path}:1: no `mod` leads to this file"


# --- calls, markers, sizes, words -------------------------------------------------------------------------------------


def bans(tree, table=None):
    table = table or tomllib.loads((HERE / "bans.toml").read_text())["bans"]
    for ban in table:
        pattern = re.compile(ban["pattern"])
        for path, text in tree.text(".hpp", ".cpp", under=["src", "tests"]):
            if path in test_files(tree) and not ban.get("tests", False):
                continue
            if any(path == e or path.startswith(e + "/") for e in ban.get("except", [])):
                continue
            lines = text.split("\n")
            for number, line in enumerate(blank_comments_and_strings(text).split("\n"), 1):
                if pattern.search(line) and not allowed(lines, number, ban["name"]):
                    yield f"{path}:{number}: {ban['name']}: {ban['why']}"


def opening(tree):
    """Headers of src/ say first what they are for, and have #pragma once; a source includes its own header first."""
    for path, text in tree.text(".hpp", under=["src"]):
        if not text.startswith("//"):
            yield f"{path}:1: open with two lines of comment: what it is for, and who may touch it"
        if "#pragma once" not in text:
            yield f"{path}:1: no #pragma once"
    for path, text in tree.text(".cpp", under=["src"]):
        own = path.removeprefix("src/").removesuffix(".cpp") + ".hpp"
        first = INCLUDE.search(text)
        if "src/" + own in tree.files and first and first.group(2) != own:
            line = text.count("\n", 0, first.start()) + 1
            yield f'{path}:{line}: the first include is not its own header "{own}"'


def markers(tree):
    # Put together here, so that this file does not find itself.
    words = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b")
    conflict = re.compile(r"^(<{7}|>{7}) ")
    for path, text in tree.text():
        if path.endswith((".lock", "LICENSE")):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if words.search(line):
                yield f"{path}:{number}: a leftover marker: do it, or file an issue"
            if conflict.match(line):
                yield f"{path}:{number}: a merge conflict"


def sizes(tree):
    for path, text in tree.text(".hpp", ".cpp", ".rs", ".py", ".sh", under=["src", "engine", "tests", "tools", "bench"]):
        count = text.count("\n")
        if count > FILE_LINES_MAX:
            yield f"{path}:1: {count} lines, at most {FILE_LINES_MAX}: split it by what it does"


def long_functions(tree):
    """Functions over the limit, found by the format (a body opens at the end of a line, closes at its indentation)."""
    start = re.compile(r"^( {0,2})(?!namespace|class|struct|enum|union|extern|\s)[^#/}].*\{$")
    for path, text in tree.text(".cpp", ".hpp", under=["src"]):
        lines = blank_comments_and_strings(text).split("\n")
        for i, line in enumerate(lines):
            match = start.match(line.rstrip())
            if not match or line.rstrip().endswith(("= {", "({")) or "(" not in "".join(lines[max(0, i - 4):i + 1]):
                continue
            if re.match(r"\s*(namespace|class|struct|enum|union|extern)\b", line):
                continue
            close = re.compile("^" + match.group(1) + r"\}[;,)]*\s*$")
            end = next((j for j in range(i + 1, len(lines)) if close.match(lines[j])), None)
            if end and end - i > FUNCTION_LINES_MAX:
                yield f"{path}:{i + 1}: a function of {end - i} lines; {FUNCTION_LINES_MAX} is the aim"


# Names of tools that do not belong into a tree, as digests so that they are not in this file either.
WORD_DIGESTS = set("""
6b40605f79adc1ad
f9a4422552296984
17ab1c2eb12b5dc4
f484ebfb64b9b06b
1b781c6de686a82f
fb0b42ffb722e7b0
2de09cf618f22f71
539fcbb08c7a6fa3
2256b6aaf0943ef8
ed0f7acd08db17c0
442c998b620c0997
""".split())


def digest(word):
    return hashlib.sha256(("mik lint " + word.lower()).encode()).hexdigest()[:16]


def words(tree, digests=None):
    digests = WORD_DIGESTS if digests is None else digests
    machine = re.compile("(?<![\\w.])/(" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me/(?!USER|user|you|mik)[a-z]+"]) +
                         r")/(?=\w|\.)")
    for path, text in tree.text():
        if path.endswith(".lock"):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            match = machine.search(line)
            if match:
                yield f"{path}:{number}: {match.group(0)} is a path of one machine"
            for word in re.findall(r"[A-Za-z]{3,}", line):
                if digest(word) in digests:
                    yield f"{path}:{number}: the name of a tool that is no part of the project: {word}"


def links(tree):
    """Relative links of documents lead to something."""
    known = set(tree.files) | {p.as_posix() for f in tree.files for p in PurePosixPath(f).parents}
    for path, text in tree.text(".md"):
        for number, line in enumerate(text.split("\n"), 1):
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
                if re.match(r"[a-z]+:", target):
                    continue
                found = os.path.normpath(PurePosixPath(path).parent / target)
                if found not in known:
                    yield f"{path}:{number}: nothing is at {target}"


# name: (check, is it an error)
CHECKS = {
    "layers": (layers, True),
    "coroutines": (coroutines, True),
    "built": (built, True),
    "bans": (bans, True),
    "opening": (opening, True),
    "markers": (markers, True),
    "sizes": (sizes, True),
    "functions": (long_functions, False),
    "words": (words, True),
    "links": (links, True),
}
