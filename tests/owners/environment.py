"""The Pythons that have torch, PEFT, lm-eval and LangChain, and OpenAI's command line, and the Node
that has OpenAI's client.

``./scripts/test --full`` makes them from the lists of versions here and ``node/``. Apart from ours,
because transformers works otherwise where torch is installed, and no user has to have any of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".cache" / "owners"
PYTHON = HOME / "bin" / "python"
STAMP = HOME / "installed"
"""Made last, when everything is installed."""
NODE_STAMP = ROOT / ".cache" / "owners-node" / "installed"
CLI = ROOT / ".cache" / "openai-cli"
"""With the last version of OpenAI's package that has a command line; later ones have none."""
NODE_PROGRAM = Path(__file__).parent / "node" / "openai_program.mjs"
PROGRAM = Path(__file__).with_name("peft_program.py")
LANGCHAIN_PROGRAM = Path(__file__).with_name("langchain_program.py")


class Refused(Exception):
    """The command line ended with an error; what it said is the text."""


def run_peft(plan: dict[str, Any], folder: Path) -> None:
    """Carry out a plan, as ``peft_program.py`` explains it; skips where there is no PEFT."""
    _skip_where_missing()
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    _run([str(PROGRAM), str(file)], folder)


def run_lm_eval(arguments: list[str], folder: Path) -> None:
    """``lm_eval run`` in ``folder``, with its caches there; skips where it is not installed."""
    _skip_where_missing()
    _run(["-m", "lm_eval", "run", *arguments], folder)


def langchain_tools(folder: Path) -> list[dict[str, Any]]:
    """The tools of LangChain's standard tests; skips where LangChain is not installed."""
    _skip_where_missing()
    tools: list[dict[str, Any]] = json.loads(_run([str(LANGCHAIN_PROGRAM)], folder))
    return tools


def run_langchain(folder: Path, **variables: str) -> dict[str, str]:
    """The tests of ``langchain_program.py``, which must pass: each with why it was skipped, or "".

    Skips where LangChain is not installed.
    """
    _skip_where_missing()
    # Ours is no root directory of theirs: pytest would take our settings and conftest.py.
    program = str(shutil.copy(LANGCHAIN_PROGRAM, folder))
    options = ("asyncio_mode=auto", "asyncio_default_test_loop_scope=session")
    given = [part for option in options for part in ("-o", option)]
    arguments = ["-m", "pytest", *given, "-q", "--rootdir=.", "--junitxml=junit.xml", program]
    _run(arguments, folder, variables)
    cases = ElementTree.parse(folder / "junit.xml").getroot().iter("testcase")
    skipped = {case.get("name", ""): case.find("skipped") for case in cases}
    return {
        name: "" if reason is None else reason.get("message", "")
        for name, reason in skipped.items()
    }


def run_openai_node(task: str, url: str, model: str, folder: Path) -> Any:
    """What a task of ``openai_program.mjs`` found; skips where there is no Node with the client."""
    if not NODE_STAMP.exists():
        pytest.skip(
            f"no OpenAI client of Node in {NODE_STAMP.parent.relative_to(ROOT)}: "
            "./scripts/test --full installs it where node and npm are on PATH"
        )
    # Node looks for packages beside the program.
    program = Path(shutil.copy(NODE_PROGRAM, folder))
    (folder / "node_modules").symlink_to(NODE_STAMP.parent / "node_modules")
    done = subprocess.run(
        ["node", str(program), task, url, model],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        pytest.fail(f"{task} failed:\n{done.stdout}{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def run_openai_cli(url: str, *arguments: str) -> str:
    """What ``openai api ARGUMENTS`` prints about the server at ``url``; raises Refused.

    Skips where there is no such command.
    """
    if not (CLI / "installed").exists():
        pytest.skip(
            f"no command line of OpenAI's in {CLI.relative_to(ROOT)}: ./scripts/test --full "
            "installs it"
        )
    done = subprocess.run(
        [str(CLI / "bin" / "openai"), "api", *arguments],
        env=os.environ | {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def _skip_where_missing() -> None:
    if not STAMP.exists():
        pytest.skip(
            f"no torch, PEFT, lm-eval and LangChain in {HOME.relative_to(ROOT)}: "
            "./scripts/test --full installs them"
        )


def _run(arguments: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> str:
    """What the owners' Python wrote to its output."""
    ours = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
    }
    environment = {**os.environ, **ours, **(variables or {})}
    command = [str(PYTHON), "-I", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"{command[2:]} failed:\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout
