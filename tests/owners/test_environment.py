"""The owners' environment is described in full, and a run without it says so."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from tests.owners import environment
from tests.owners.environment import (
    LANGCHAIN_PROGRAM,
    PROGRAM,
    ROOT,
    langchain_tools,
    run_langchain,
    run_lm_eval,
    run_openai_cli,
    run_openai_node,
    run_peft,
)

PINS = Path(__file__).with_name("requirements.txt").read_text().splitlines()
CLI_PINS = Path(__file__).with_name("openai_cli.txt").read_text().splitlines()


@pytest.mark.parametrize("pins", [PINS, CLI_PINS], ids=["owners", "openai-cli"])
def test_the_requirements_are_exact_versions_and_nothing_else(pins: list[str]) -> None:
    """Where packages come from is the user's business."""
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9.a-z]*", line)] == []
    assert sorted(set(pins)) == pins


def test_the_lock_of_node_says_what_and_not_from_where() -> None:
    """Exact versions and hashes, without an address."""
    lock = json.loads((Path(__file__).parent / "node" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert "node_modules/openai" in packages
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert all("integrity" in entry for entry in packages.values())


@pytest.mark.parametrize(
    ("program", "packages"),
    [
        (PROGRAM, {"numpy", "peft", "torch", "transformers"}),
        (LANGCHAIN_PROGRAM, {"langchain-core", "langchain-openai", "langchain-tests"}),
    ],
)
def test_the_programs_import_what_they_pin(program: Path, packages: set[str]) -> None:
    """They run there alone."""
    named = set()
    for node in ast.walk(ast.parse(program.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named.add(node.module.partition(".")[0])
    found = {name.replace("_", "-") for name in named - sys.stdlib_module_names}
    assert found == packages
    pinned = {line.partition("==")[0] for line in PINS}
    assert packages | {"lm-eval", "pytest", "pytest-asyncio"} <= pinned


def test_a_missing_environment_is_said_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason stands in the report of the full run."""
    monkeypatch.setattr(environment, "STAMP", tmp_path / "installed")
    monkeypatch.setattr(environment, "CLI", ROOT / ".cache" / "nowhere")
    monkeypatch.setattr(environment, "NODE_STAMP", ROOT / ".cache" / "nowhere" / "installed")
    with pytest.raises(pytest.skip.Exception, match=r"\./scripts/test --full installs"):
        run_peft({}, tmp_path)
    with pytest.raises(pytest.skip.Exception, match="lm-eval"):
        run_lm_eval([], tmp_path)
    with pytest.raises(pytest.skip.Exception, match="LangChain"):
        langchain_tools(tmp_path)
    with pytest.raises(pytest.skip.Exception, match="LangChain"):
        run_langchain(tmp_path)
    with pytest.raises(pytest.skip.Exception, match="where node and npm are on PATH"):
        run_openai_node("chat", "", "", tmp_path)
    with pytest.raises(pytest.skip.Exception, match="no command line of OpenAI's"):
        run_openai_cli("", "models.list")
    assert list(tmp_path.iterdir()) == []
