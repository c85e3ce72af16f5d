"""Sizes and words of the tree: no long module or function, no package index, no machine's path."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES = 300
FUNCTION_LINES = 60
EXCUSE = re.compile(r"#\s*long:\s*\S+")
"""In a module's first line or on a function's ``def`` line: ``# long: the reason``."""

# Written in pieces, so that this file passes its own check.
WORDS = {
    "names a package index (the user's own configuration decides)": re.compile(
        r"\b(py" + r"pi\.org|python" + r"hosted\.org|npm" + r"js\.(com|org)|index" + r"-url)\b"
    ),
    "names a path of one machine": re.compile(
        r"(?<![\w.~}/-])/(wo" + r"rk|t" + r"mp|ro" + r"ot|ho" + r"me|Us" + r"ers)/\w"
    ),
}


def long_parts(source: str, name: str) -> Iterator[str]:
    """Complaints about the length of a Python module and of its functions."""
    lines = source.splitlines()
    if len(lines) > MODULE_LINES and not EXCUSE.search(lines[0]):
        yield f"{name}: {len(lines)} lines, at most {MODULE_LINES}: split it by what it does"
    for node in ast.walk(ast.parse(source, name)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES and not EXCUSE.search(lines[node.lineno - 1]):
            yield (
                f"{name}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}: "
                "take a part out that has a name"
            )


def forbidden_words(text: str, name: str) -> Iterator[str]:
    """Complaints about lines that tie the project to one index or machine."""
    for number, line in enumerate(text.splitlines(), start=1):
        for complaint, pattern in WORDS.items():
            if found := pattern.search(line):
                yield f"{name}:{number}: {complaint}: {found[0]!r}"


def tracked_files(root: Path) -> list[Path]:
    """Files that git tracks or would track, relative to ``root``."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted({name for name in listing.stdout.split("\0") if name})
    return [Path(name) for name in names if (root / name).is_file()]


def complaints(root: Path) -> Iterator[str]:
    """Everything that is wrong with the tree under ``root``, in order of path."""
    for path in tracked_files(root):
        content = (root / path).read_bytes()
        if b"\0" in content:
            continue
        text = content.decode("utf-8")
        yield from forbidden_words(text, str(path))
        if path.suffix == ".py":
            yield from long_parts(text, str(path))


def main() -> int:
    """Print every complaint; 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", default=Path())
    found = list(complaints(parser.parse_args().root))
    print("\n".join(found) if found else "sizes and words: nothing to complain about")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
