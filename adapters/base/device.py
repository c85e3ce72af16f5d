"""What MLX computes on, how much memory it has, and in which number format.

Everything comes from MLX's own report of its default device, and on a CPU from the kernel.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from adapters.base.blas import usable_cores

_DISTRIBUTIONS = ("mlx", "mlx-cpu", "mlx-metal", "mlx-cuda-12", "mlx-cuda-13", "mlx-lm")


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The device as it is now. Sizes are bytes; ``versions`` holds (distribution, version).

    ``kind`` is "metal", "cuda" or "cpu". ``memory_free_bytes`` is what a new allocation can use
    without pushing others out, as far as the system tells; 0 where it does not.
    """

    kind: str
    name: str
    architecture: str
    memory_total_bytes: int
    memory_free_bytes: int
    cores: int
    versions: tuple[tuple[str, str], ...]


def describe_device() -> DeviceReport:
    """The device that this process's MLX uses by default."""
    kind = device_kind()
    facts = mx.device_info()
    total, free = _device_memory(kind)
    return DeviceReport(
        kind=kind,
        name=str(facts.get("device_name", platform.processor())),
        architecture=str(facts.get("architecture", platform.machine())),
        memory_total_bytes=total,
        memory_free_bytes=free,
        cores=usable_cores(),
        versions=_versions(),
    )


def device_kind() -> str:
    """ "metal", "cuda" or "cpu"."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def compute_dtype(kind: str) -> mx.Dtype | None:
    """The format that weights and activations are computed in; None for the model's own.

    float32 on a CPU, where 16-bit floats are emulated, up to fifty times slower.
    """
    return mx.float32 if kind == "cpu" else None


def _device_memory(kind: str) -> tuple[int, int]:
    facts = mx.device_info()
    if kind == "cpu":
        return _system_memory(Path("/proc/meminfo"), Path("/sys/fs/cgroup"))
    if kind == "cuda":
        return int(facts.get("total_memory", 0)), int(facts.get("free_memory", 0))
    usable = int(facts.get("max_recommended_working_set_size", 0))
    return int(facts.get("memory_size", 0)), max(0, usable - mx.get_active_memory())


def _system_memory(meminfo: Path, cgroup: Path) -> tuple[int, int]:
    """Total and available bytes of the machine, or of the container where that is less."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, max(0, total - mx.get_active_memory())
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split()[1].isdigit()}
    total, free = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = int((cgroup / limit_file).read_text())
            used = int((cgroup / used_file).read_text())
        except (OSError, ValueError):
            continue
        total, free = min(total, limit), min(free, max(0, limit - used))
    return total, free


def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for distribution in _DISTRIBUTIONS:
        try:
            found.append((distribution, importlib.metadata.version(distribution)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)
