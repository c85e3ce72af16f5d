"""What the project says about itself is true: README, changelog, constraints, docs, docstrings."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from scripts.check_tree import tracked_files
from server.cli import USAGE
from server.settings import Settings
from server.settings_text import flag_of

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), *(ROOT / "docs").glob("*.md")]
SHIPPED = ("server", "adapters", "scripts")
OTHER_PYTHON = {Path("tests/owners/peft_program.py"), Path("tests/owners/langchain_program.py")}
"""Run in an environment of its own, with pins of its own (``tests/owners/requirements.txt``)."""
CLIENTS = Path("scripts/clients")
"""Each script with a client library, which is not here."""
OTHER_PROGRAMS = {"curl", "pip", "kill", "lm_eval", "openai"}


def commands(text: str) -> Iterator[list[str]]:
    """Every command of a page's ``sh`` blocks, as a shell would split it."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        lexer = shlex.shlex(block.replace("\\\n", " "), posix=True, punctuation_chars="\n;&|")
        lexer.whitespace = " \t"
        lexer.whitespace_split = True
        lexer.commenters = ""  # shlex would swallow the end of the line with the comment
        command: list[str] = []
        comment = False
        for word in [*lexer, "\n"]:
            comment = (comment or word.startswith("#")) and "\n" not in word
            if word.strip("\n;&|") and not comment:
                command.append(word)
            elif command and not comment:
                yield command
                command = []


def requirement_names(*extras: str) -> set[str]:
    """The distributions that pyproject names in its base dependencies and in these extras."""
    optional = [item for extra in extras for item in PROJECT["optional-dependencies"][extra]]
    wanted = [*PROJECT["dependencies"], *optional]
    return {re.split(r"[\[<>=!~; ]", item)[0].lower() for item in wanted}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_exists(page: Path) -> None:
    """A reader can run what a page shows: a script, the entry point or a common program."""
    for program, *arguments in commands((ROOT / page).read_text()):
        if program.startswith("./"):
            assert os.access(ROOT / program, os.X_OK), f"{program} is not an executable file"
        elif program == ".venv/bin/python":
            assert (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]} to run"
        else:
            name = program.removeprefix(".venv/bin/")
            assert name in {*PROJECT["scripts"], *OTHER_PROGRAMS}, f"{program} is unknown"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_on_a_page_exists(page: Path) -> None:
    """The commands and options of ``chainlora`` on a page are those that the program has."""
    flags = {flag_of(name) for name in Settings.model_fields}
    for program, *arguments in commands((ROOT / page).read_text()):
        if program == "./scripts/serve":
            arguments = ["serve", *arguments]
        elif Path(program).name != "chainlora":
            continue
        assert f"\n  {arguments[0]} " in USAGE
        if arguments[0] == "serve":
            given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
            assert given - flags == set()


def test_the_command_reader_sees_every_command_of_a_block() -> None:
    """The test above would be empty if commands were missed: comments, quotes and lines count."""
    text = "```sh\na --x 'two\nlines' # c\n.venv/bin/b \\\n  e; c && d\n```\n```python\nno\n```\n"
    assert [command[0] for command in commands(text)] == ["a", ".venv/bin/b", "c", "d"]
    assert ["./scripts/serve"] in list(commands(README))
    assert ["./scripts/test"] in list(commands(README))


def test_every_folder_that_holds_files_has_its_line_in_the_readme() -> None:
    """One line for each folder; below tests and docs the parent's line is enough."""
    folders = {parent for path in tracked_files(ROOT) for parent in path.parents}
    named = {folder for folder in folders if folder.parts and folder.parts[0] != "tests"}
    missing = sorted(str(f) for f in named if f"| `{f}/` |" not in README and f.parts[0] != "docs")
    assert missing == []
    assert "| `tests/` |" in README
    assert "| `docs/` |" in README


def test_every_folder_of_the_readme_exists() -> None:
    """The table of folders has no line for a folder that is gone."""
    named = re.findall(r"^\| `([^`]+)/` \|", README, flags=re.MULTILINE)
    assert named
    assert [name for name in named if not (ROOT / name).is_dir()] == []


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    """No address, hash, marker or option: where packages come from is the user's business."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    line_form = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+")
    assert [line for line in lines if not line_form.fullmatch(line)] == []
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines]
    assert len(set(names)) == len(names)


def test_every_dependency_is_pinned() -> None:
    """What pyproject names, constraints.txt pins."""
    pinned = re.findall(r"^([^=]+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    wanted = requirement_names(*PROJECT["optional-dependencies"])
    assert wanted - {name.lower().replace("_", "-") for name in pinned} == set()


def is_other(path: Path) -> bool:
    """Whether a file runs in a Python that has other packages."""
    return path in OTHER_PYTHON or path.parent == CLIENTS


def imports_of(folder: str) -> set[str]:
    """Top-level names that the Python files of a folder import, standard library left out."""
    names: set[str] = set()
    for path in tracked_files(ROOT):
        if path.suffix == ".py" and path.parts[0] == folder and not is_other(path):
            for node in ast.walk(ast.parse((ROOT / path).read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {*SHIPPED, "tests"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("server", []), ("adapters", []), ("scripts", ["test", "docs"]), ("tests", ["test"])],
)
def test_what_the_code_imports_is_declared(folder: str, extras: list[str]) -> None:
    """A package that only another package brings along can vanish with that one's next release."""
    declared = requirement_names(*extras)
    distributions = {**packages_distributions(), "pydantic_core": ["pydantic"]}
    undeclared = {
        name
        for name in imports_of(folder)
        if declared.isdisjoint(item.lower().replace("_", "-") for item in distributions[name])
    }
    assert undeclared == set()


def test_nothing_pins_torch() -> None:
    """Torch is gigabytes that this project never needs."""
    assert "torch" not in (ROOT / "constraints.txt").read_text().lower()


def test_the_changelog_starts_with_the_version_of_the_project() -> None:
    """A release cannot forget its entry."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"]


def test_the_navigation_of_the_docs_and_the_pages_are_the_same_set() -> None:
    """No page without a way to it, no entry without a page."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = set(re.findall(r"^  - [^:]+: (\S+\.md)$", navigation, flags=re.MULTILINE))
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_every_module_says_what_it_is() -> None:
    """A module's docstring is its first documentation; an empty package file needs none."""
    silent = [
        str(path)
        for path in tracked_files(ROOT)
        if path.suffix == ".py" and path.parts[0] in (*SHIPPED, "tests")
        if (source := (ROOT / path).read_text().strip())
        and not ast.get_docstring(ast.parse(source))
    ]
    assert silent == []


def test_every_test_states_its_rule() -> None:
    """Each test has a docstring of its own."""
    silent = [
        f"{path}::{node.name}"
        for path in tracked_files(ROOT)
        if path.parts[0] == "tests" and path.match("test_*.py")
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_importing_adapters_brings_no_mlx() -> None:
    """The BLAS must be open before MLX is loaded, so the package that opens it cannot load MLX."""
    code = "import sys, adapters; print([m for m in sys.modules if m.partition('.')[0] == 'mlx'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
