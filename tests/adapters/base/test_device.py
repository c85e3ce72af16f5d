"""What is known of the device before a model is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import pytest

from adapters.base import device

GIB = 1 << 30
MEMINFO = "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\nHugePages_Total: 0\n"


def test_the_report_is_of_this_machine() -> None:
    """Kind, cores, memory and versions are there, and free memory is part of the whole."""
    report = device.describe_device()
    assert report.kind in {"cpu", "metal", "cuda"}
    assert report.cores >= 1
    assert 0 < report.memory_free_bytes <= report.memory_total_bytes
    assert dict(report.versions).keys() >= {"mlx", "mlx-lm"}
    assert report.name
    assert report.architecture


@pytest.mark.parametrize(("kind", "dtype"), [("cpu", mx.float32), ("metal", None), ("cuda", None)])
def test_a_cpu_computes_in_float32_and_others_as_the_model_says(
    kind: str, dtype: mx.Dtype | None
) -> None:
    """16-bit floats are emulated on a CPU."""
    assert device.compute_dtype(kind) == dtype


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (8 * GIB, 4 * GIB)),
        ({"memory.max": "max", "memory.current": "5"}, (8 * GIB, 4 * GIB)),
        ({"memory.max": f"{2 * GIB}", "memory.current": f"{GIB}"}, (2 * GIB, GIB)),
        ({"memory.max": f"{GIB}", "memory.current": f"{2 * GIB}"}, (GIB, 0)),
        (
            {
                "memory/memory.limit_in_bytes": f"{3 * GIB}",
                "memory/memory.usage_in_bytes": f"{GIB}",
            },
            (3 * GIB, 2 * GIB),
        ),
        ({"memory.max": f"{64 * GIB}", "memory.current": f"{GIB}"}, (8 * GIB, 4 * GIB)),
    ],
)
def test_a_container_s_limit_counts_where_it_is_less(
    limits: dict[str, str], expected: tuple[int, int], tmp_path: Path
) -> None:
    """The machine's memory is no use to a process that is ended at its container's limit."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert device._system_memory(meminfo, tmp_path) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="sysconf is POSIX")
def test_without_the_kernel_s_table_the_total_is_still_known(tmp_path: Path) -> None:
    """A system without /proc reports its physical memory."""
    total, free = device._system_memory(tmp_path / "none", tmp_path)
    assert total >= free > 0
