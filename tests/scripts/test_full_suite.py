"""The full run remembers what passed on this tree, and only that."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.full_suite import REPORT, files_of_tests, run, tree_hash

PASSES = "import pytest\n\n\n@pytest.mark.slow\ndef test_it():\n    assert True\n"
SKIPS = "import pytest\n\n\ndef test_it():\n    pytest.skip('no torch here')\n"
FAILS = "def test_it():\n    assert False\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two test files, both slow, both passing; its pytest loads no plugins."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text(".cache/\n__pycache__/\n.pytest_cache/\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\naddopts = -m 'not slow'\n")
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests" / "test_top.py").write_text(PASSES)
    (tmp_path / "tests" / "deep" / "test_low.py").write_text(PASSES)
    return tmp_path


def output(project: Path, capfd: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    """Whether a run passed, and what it printed."""
    passed = run(project, ["-p", "no:cacheprovider"])
    return passed, capfd.readouterr().out


def test_slow_tests_run_and_the_report_counts_them(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The full run is every test; its last lines are the sum."""
    passed, said = output(project, capfd)
    assert passed
    assert "2 passed, 0 failed, 0 skipped" in said
    assert "| tests/deep/test_low.py | 1 | 0 | 0 |" in (project / REPORT).read_text()


def test_a_second_run_on_the_same_tree_runs_nothing_again(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What passed is remembered; the report that the first run wrote changes nothing."""
    output(project, capfd)
    passed, said = output(project, capfd)
    assert passed
    assert said.count("passed before on this tree") == 2
    assert "2 passed, 0 failed, 0 skipped" in said


def test_a_failed_file_runs_again_and_the_others_do_not(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A failure is never remembered as done."""
    (project / "tests" / "test_top.py").write_text(FAILS)
    first, _ = output(project, capfd)
    second, said = output(project, capfd)
    assert (first, second) == (False, False)
    assert said.count("passed before on this tree") == 1
    assert "1 passed, 1 failed, 0 skipped" in said
    assert "Some failed." in (project / REPORT).read_text()


def test_a_file_that_cannot_be_imported_is_a_failure(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error outside every test still fails the run."""
    (project / "tests" / "test_top.py").write_text("raise RuntimeError\n")
    passed, said = output(project, capfd)
    assert not passed
    assert "1 passed, 1 failed, 0 skipped" in said


def test_what_was_not_run_is_named_with_its_reason_and_tried_again(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A library that is missing is no pass."""
    (project / "tests" / "test_top.py").write_text(SKIPS)
    for _ in range(2):
        passed, said = output(project, capfd)
        assert passed
        assert "1 passed, 0 failed, 1 skipped" in said
    assert said.count("passed before on this tree") == 1
    report = (project / REPORT).read_text()
    assert "All passed but 1 not run." in report
    assert report.endswith("## Not run\n\n* tests/test_top.py: no torch here\n")


def test_any_change_of_the_tree_is_another_tree(project: Path) -> None:
    """Code, data and new files count; the report does not."""
    before = tree_hash(project)
    (project / REPORT).parent.mkdir(parents=True)
    (project / REPORT).write_text("anything")
    assert tree_hash(project) == before
    (project / "data.txt").write_text("new")
    assert tree_hash(project) != before


def test_test_files_are_found_at_every_depth(project: Path) -> None:
    """The top of tests and folders below it, in order."""
    assert files_of_tests(project) == ["tests/deep/test_low.py", "tests/test_top.py"]
