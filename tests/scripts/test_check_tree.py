"""The check of sizes and words finds what it should and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.check_tree import (
    FUNCTION_LINES,
    MODULE_LINES,
    complaints,
    forbidden_words,
    long_parts,
    tracked_files,
)

HERE = "/wo" + "rk/main"
INDEX = "py" + "pi.org"


def function(lines: int, note: str = "") -> str:
    """Source of a function that is ``lines`` long, its ``def`` line included."""
    return f"def f():{note}\n" + "    pass\n" * (lines - 1)


def test_a_module_at_the_limit_passes_and_one_line_more_does_not() -> None:
    """The limit itself is allowed."""
    assert list(long_parts("x = 1\n" * MODULE_LINES, "m.py")) == []
    assert len(list(long_parts("x = 1\n" * (MODULE_LINES + 1), "m.py"))) == 1


def test_a_function_at_the_limit_passes_and_one_line_more_is_named_with_its_line() -> None:
    """The complaint says where to look."""
    assert list(long_parts(function(FUNCTION_LINES), "m.py")) == []
    found = list(long_parts("\n" + function(FUNCTION_LINES + 1), "m.py"))
    assert [line.partition(" has")[0] for line in found] == ["m.py:2: f"]


def test_a_reason_beside_it_excuses_length() -> None:
    """On the def line for a function, on the first line for a module; an empty one is none."""
    assert list(long_parts(function(FUNCTION_LINES + 1, "  # long: a table"), "m.py")) == []
    assert list(long_parts("# long: a table\n" + "x = 1\n" * MODULE_LINES, "m.py")) == []
    assert len(list(long_parts(function(FUNCTION_LINES + 1, "  # long:"), "m.py"))) == 1


@pytest.mark.parametrize("line", [f"open('{HERE}')", f"a\ncd {HERE}/x", f"https://{INDEX}/simple"])
def test_an_index_and_a_path_of_one_machine_are_found(line: str) -> None:
    """Both tie the project to where it was written."""
    assert len(list(forbidden_words(line, "m.py"))) == 1


@pytest.mark.parametrize(
    "line", ["~/.chainlora", "site/tmp/x", "http://host/home", "${root}/work/x", "a/home/b", "/etc"]
)
def test_ordinary_paths_and_addresses_pass(line: str) -> None:
    """Relative paths, addresses and paths that every machine has are nobody's machine."""
    assert list(forbidden_words(line, "m.py")) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty git repository."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def test_the_tree_is_what_git_tracks_or_would_track(repository: Path) -> None:
    """New files count before they are added; ignored ones never do."""
    (repository / ".gitignore").write_text("ignored.py\n")
    (repository / "ignored.py").write_text(f"'{HERE}'\n")
    (repository / "new.py").write_text(f"'{HERE}'\n")
    assert tracked_files(repository) == [Path(".gitignore"), Path("new.py")]
    assert [line.partition(": ")[0] for line in complaints(repository)] == ["new.py:1"]


def test_binary_files_are_left_alone(repository: Path) -> None:
    """Tensors and pictures have no lines."""
    (repository / "tensor.bin").write_bytes(b"\0" + HERE.encode())
    assert list(complaints(repository)) == []
