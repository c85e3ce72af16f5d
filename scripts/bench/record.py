"""What a run leaves behind: the machine, a JSON record, a table and charts."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any, get_args

from scripts.bench.chart import bar_chart
from scripts.bench.line_chart import Panel, line_chart
from scripts.bench.lines import Axis, lines
from scripts.bench.report import FIRST_P95, OUTPUT, Results, as_dict, bars, table


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    packages = ("mlx", "mlx-lm", "cmeel-openblas", "fastapi", "uvicorn")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "system": platform.platform(),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def write(out: Path, name: str, title: str, results: Results) -> None:
    """Print the table and leave JSON, table and charts in ``out``.

    A chart over streams or adapters is there where a load ran with several numbers of them.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = {"title": title, "machine": machine(), **as_dict(results)}
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / f"{name}.md").write_text(table(results))
    (out / f"{name}.svg").write_text(bar_chart(title, "output tokens per second", bars(results)))
    for axis in get_args(Axis):
        panels = tuple(
            Panel(axis, f"{figure.name}, {figure.unit}", found)
            for figure in (OUTPUT, FIRST_P95)
            if (found := lines(results, axis, figure))
        )
        chart = out / f"{name}-{axis}.svg"
        chart.unlink(missing_ok=True)  # one of an earlier run would pass for this one's
        if panels:
            chart.write_text(line_chart(title, panels))
    print(f"\n{title}\n\n{table(results)}\n{out / name}.{{json,md,svg}}", flush=True)
