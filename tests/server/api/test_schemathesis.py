"""schemathesis, which makes requests from the OpenAPI document, finds nothing to complain about."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.server.api.admin.conftest import serving
from tests.server.api.test_openapi import Loads

pytestmark = pytest.mark.slow

HOME = Path(__file__).resolve().parents[3] / ".cache" / "schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
ENDLESS = "events$"
"""A stream of a stage's events ends with the stage alone."""


def test_no_request_gets_a_500_or_what_is_not_documented(tmp_path: Path) -> None:
    """Thousands of requests, good and bad, by the document's examples, bounds and types."""
    if not (HOME / "installed").exists():
        pytest.skip("no schemathesis in .cache/schemathesis: ./scripts/test --full installs it")
    with serving(tmp_path, loads=Loads()) as site:
        site.published("support")
        done = subprocess.run(
            [
                str(HOME / "bin" / "schemathesis"),
                "run",
                f"{site.server.url}/openapi.json",
                f"--checks={','.join(CHECKS)}",
                "--phases=examples,coverage,fuzzing",
                "--max-examples=10",
                "--seed=1",
                "--request-timeout=20",
                f"--exclude-path-regex={ENDLESS}",
                "--no-color",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stdout + done.stderr
