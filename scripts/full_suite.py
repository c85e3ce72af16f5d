"""Every test, the slow ones too, one file at a time: resumable, with a report at the end.

Which files have passed is remembered in ``.cache/full`` under the hash of the tree, so a run that
was interrupted or failed starts again where it has to, and any change of the tree starts over. What
was skipped is named with its reason, and tried again by the next run.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from scripts.check_tree import tracked_files

ROOT = Path(__file__).resolve().parent.parent
REPORT = Path("docs/reports/full.md")
NO_TESTS = 5
"""pytest's exit status for a file in which nothing was selected."""


@dataclass(frozen=True)
class FileResult:
    """What one test file came to; ``status`` is pytest's exit status."""

    name: str
    status: int
    passed: int
    failed: int
    skipped: int
    seconds: float
    reasons: tuple[str, ...] = ()
    """Why tests of it were skipped, each reason once."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed; a file without a test to run has nothing to fail."""
        return self.status in (0, NO_TESTS)


def tree_hash(root: Path) -> str:
    """SHA-256 of every file that git tracks or would track, less the report itself."""
    digest = hashlib.sha256()
    for path in tracked_files(root):
        if path != REPORT:
            content = hashlib.sha256((root / path).read_bytes()).hexdigest()
            digest.update(f"{path}\0{content}\n".encode())
    return digest.hexdigest()


def files_of_tests(root: Path) -> list[str]:
    """Every test file, as pytest would find them."""
    tracked = tracked_files(root)
    return [str(p) for p in tracked if p.parts[0] == "tests" and p.match("test_*.py")]


def skips(junit: Path) -> tuple[str, ...]:
    """Why tests of a JUnit report were skipped, each reason once."""
    found = ElementTree.parse(junit).getroot().iter("skipped")
    return tuple(sorted({each.get("message", "no reason given") for each in found}))


def count(junit: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of a JUnit report; errors count as failed."""
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    if suite is None:
        raise ValueError(f"{junit} holds no testsuite: pytest did not finish; run the file alone")
    total, failures, errors, skipped = (
        int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")
    )
    return total - failures - errors - skipped, failures + errors, skipped


def run_file(root: Path, name: str, scratch: Path, arguments: Sequence[str]) -> FileResult:
    """Run one test file in a process of its own."""
    junit = scratch / "junit.xml"
    junit.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "slow or not slow", f"--junitxml={junit}"]
    started = time.monotonic()
    done = subprocess.run([*command, *arguments, name], cwd=root, check=False)
    seconds = time.monotonic() - started
    passed, failed, skipped = count(junit) if junit.exists() else (0, 1, 0)
    reasons = skips(junit) if skipped else ()
    return FileResult(name, done.returncode, passed, failed, skipped, round(seconds, 1), reasons)


def render(results: Sequence[FileResult], tree: str) -> str:
    """The report as a Markdown page."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("mlx", "mlx-lm", "pytest"))
    total = FileResult(
        "all",
        int(not all(result.ok for result in results)),
        sum(result.passed for result in results),
        sum(result.failed for result in results),
        sum(result.skipped for result in results),
        round(sum(result.seconds for result in results), 1),
    )
    rows = "\n".join(
        f"| {row.name} | {row.passed} | {row.failed} | {row.skipped} | {row.seconds} |"
        for row in [*results, total]
    )
    verdict = "Some failed."
    if total.ok:
        verdict = f"All passed but {total.skipped} not run." if total.skipped else "All passed."
    return (
        "# Full test run\n\n"
        "Written by `./scripts/test --full`: every test, the slow ones too.\n\n"
        f"{verdict} Tree `{tree[:16]}`, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}.\n\n"
        "| file | passed | failed | skipped | seconds |\n| --- | ---: | ---: | ---: | ---: |\n"
        f"{rows}\n{not_run(results)}"
    )


def not_run(results: Sequence[FileResult]) -> str:
    """The section of the report that says what was skipped and why; empty where nothing was."""
    lines = [f"* {row.name}: {reason}\n" for row in results for reason in row.reasons]
    return "\n## Not run\n\n" + "".join(lines) if lines else ""


def run(root: Path, arguments: Sequence[str]) -> bool:
    """Run what has not passed on this tree yet, write the report, return whether all passed."""
    scratch = root / ".cache" / "full"
    scratch.mkdir(parents=True, exist_ok=True)
    tree = tree_hash(root)
    memory = scratch / f"{hashlib.sha256(repr((tree, *arguments)).encode()).hexdigest()}.json"
    remembered = json.loads(memory.read_text()) if memory.exists() else []
    done = {
        row["name"]: FileResult(**row | {"reasons": tuple(row["reasons"])}) for row in remembered
    }
    names = files_of_tests(root)
    for number, name in enumerate(names, start=1):
        if name in done and done[name].ok and not done[name].skipped:
            print(f"[{number}/{len(names)}] {name} passed before on this tree", flush=True)
            continue
        print(f"[{number}/{len(names)}] {name}", flush=True)
        done[name] = run_file(root, name, scratch, arguments)
        unfinished = memory.with_suffix(".new")
        unfinished.write_text(json.dumps([asdict(result) for result in done.values()]))
        unfinished.replace(memory)
    results = [done[name] for name in names]
    (root / REPORT).parent.mkdir(parents=True, exist_ok=True)
    (root / REPORT).write_text(render(results, tree))
    failed = sum(result.failed for result in results)
    skipped = sum(result.skipped for result in results)
    print(f"{sum(result.passed for result in results)} passed, {failed} failed, {skipped} skipped")
    print(f"report: {REPORT}")
    return all(result.ok for result in results)


if __name__ == "__main__":
    sys.exit(0 if run(ROOT, sys.argv[1:]) else 1)
