"""The doctor: what it finds on this machine, and that it sees what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from adapters.lora.routes import GatherRoute, Mixture, Route, Row
from server import doctor
from server.doctor import DoctorReport, Finding, Level, examine, foreign_adapters
from server.engine import selftest
from tests.adapters.store.rig import opened, unsynced


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory that does not exist yet."""
    return tmp_path / "data"


def test_a_sound_machine_has_no_error(data_dir: Path) -> None:
    """Every topic is looked at, and nothing here is an error."""
    report = examine(data_dir, selftest=False)
    topics = {finding.topic for finding in report.findings}
    assert topics >= {"python", "packages", "device", "memory", "BLAS", "data", "embedded model"}
    assert not report.failed


def test_the_report_is_json(data_dir: Path) -> None:
    """--json prints findings with level, text and cure."""
    shown = json.loads(json.dumps(examine(data_dir, selftest=False).as_dict()))
    assert shown["failed"] is False
    assert set(shown["findings"][0]) == {"topic", "level", "text", "cure"}


def test_every_finding_that_is_not_ok_has_a_cure(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every threshold out of reach each warning still says what to do."""
    for name in ("_NEEDED_DISK_BYTES", "_NEEDED_MEMORY_BYTES", "_SLOW_GFLOPS"):
        monkeypatch.setattr(doctor, name, 10**15)
    monkeypatch.setenv("PATH", "")
    report = examine(data_dir, selftest=False)
    warned = [finding for finding in report.findings if finding.level is not Level.OK]
    assert {finding.topic for finding in warned} >= {"memory", "data"}
    assert all(finding.cure for finding in warned)


@pytest.mark.skipif(sys.platform != "linux", reason="MLX computes on Metal there")
def test_a_slow_blas_and_a_missing_compiler_are_warnings(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Linux CPU both cost speed, so both are named."""
    monkeypatch.setattr(doctor, "_SLOW_GFLOPS", 10**15)
    monkeypatch.setenv("PATH", "")
    report = examine(data_dir, selftest=False)
    assert _finding(report, "BLAS").level is Level.WARNING
    assert "g++" in _finding(report, "compiler").cure


def test_a_missing_package_is_an_error(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is named, and how to install it."""
    monkeypatch.setattr(doctor, "_PACKAGES", ("pydantic", "no-such-distribution"))
    finding = _finding(examine(data_dir, selftest=False), "packages")
    assert finding.level is Level.ERROR
    assert "no-such-distribution" in finding.text
    assert "pydantic" not in finding.text


def test_the_other_distribution_called_adapters_is_an_error(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shares our import name; nothing of ours is imported before that is said."""
    metadata = tmp_path / "site" / "adapters-1.2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: adapters\nVersion: 1.2.0\n")
    assert foreign_adapters() is None
    monkeypatch.syspath_prepend(str(metadata.parent))
    report = examine(data_dir, selftest=True)
    assert report.failed
    assert any("'adapters' 1.2.0" in finding.text for finding in report.findings)
    assert not {"device", "BLAS"} & {finding.topic for finding in report.findings}


def test_mlx_without_a_backend_is_an_error(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MLX cannot be imported the doctor still speaks, and names the extra to install."""
    monkeypatch.setitem(sys.modules, "adapters.base.device", None)
    finding = _finding(examine(data_dir, selftest=True), "device")
    assert finding.level is Level.ERROR
    assert "mlx[cpu]" in finding.cure


def test_a_data_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A file where a directory should be."""
    (tmp_path / "file").write_text("")
    finding = _finding(examine(tmp_path / "file" / "data", selftest=False), "data")
    assert finding.level is Level.ERROR
    assert "--data-dir" in finding.cure


@pytest.mark.parametrize(("mode", "level"), [(0o700, Level.OK), (0o755, Level.WARNING)])
def test_a_data_directory_that_others_can_read_is_a_warning(
    data_dir: Path, mode: int, level: Level
) -> None:
    """Adapters and data sets are private."""
    data_dir.mkdir()
    data_dir.chmod(mode)
    assert _finding(examine(data_dir, selftest=False), "data").level is level


def test_the_embedded_model_is_found_where_it_is_made(data_dir: Path) -> None:
    """Present or not is told apart by the directory that a start would use."""
    before = _finding(examine(data_dir, selftest=False), "embedded model").text
    directory = data_dir / "models" / "smollm2-135m"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    after = _finding(examine(data_dir, selftest=False), "embedded model").text
    assert "not made yet" in before
    assert str(directory) in after


def test_every_fast_path_passes_on_this_device(data_dir: Path) -> None:
    """The self-test has no complaint about the device that runs the tests."""
    report = examine(data_dir, selftest=True)
    checks = [each for each in report.findings if each.topic.startswith("selftest ")]
    assert [each.text for each in checks if each.level is not Level.OK] == []
    names = " ".join(each.topic for each in checks)
    assert all(word in names for word in ("uniform", "gather", "sampling", "mixed"))


def _shifted(rows: Sequence[Row]) -> Iterator[tuple[Route, Sequence[Row]]]:
    adapters = [row for row in rows if row is not None]
    yield GatherRoute([*rows[1:], rows[0]], Mixture(list(dict.fromkeys(adapters)))), rows


def test_a_route_that_mixes_up_rows_is_an_error(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that gives a row its neighbour's update fails, and the others still pass."""
    monkeypatch.setitem(selftest.ROUTES, "gather", _shifted)
    report = examine(data_dir, selftest=True)
    failed = {each.topic for each in report.findings if each.level is Level.ERROR}
    assert report.failed
    assert all(topic.startswith("selftest gather route") for topic in failed)


def _finding(report: DoctorReport, topic: str) -> Finding:
    return next(finding for finding in report.findings if finding.topic == topic)


def test_a_revision_whose_files_are_lost_is_an_error(data_dir: Path) -> None:
    """By the names that lead to it, with the cure; the rest is counted."""
    with unsynced(), opened(data_dir) as rig:
        lost = rig.grow("a")
        rig.grow("a")
        shutil.rmtree(rig.store.revision_path(str(lost.revision)))
    report = examine(data_dir, selftest=False)
    found = [finding for finding in report.findings if finding.topic == "chains"]
    assert [finding.level for finding in found] == [Level.ERROR, Level.OK]
    assert found[0].text == "a@1 cannot be served: Its files are missing."
    assert found[0].cure.startswith(f"Put {data_dir}/revisions/")
    assert found[1].text == "1 of 2 revisions are there"


def test_a_database_that_cannot_be_read_is_an_error(data_dir: Path) -> None:
    """In the words of the server that would refuse to start on it."""
    data_dir.mkdir()
    (data_dir / "chainlora.db").write_bytes(b"no database at all" * 99)
    finding = _finding(examine(data_dir, selftest=False), "chains")
    assert finding.level is Level.ERROR
    assert "Restore it from a backup" in finding.text
