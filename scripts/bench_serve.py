#!/usr/bin/env python3
"""The serving benchmark: this server and mlx_lm.server in turn on the same load and weights.

    python scripts/bench_serve.py             10 pairs, both at their best; hours on two cores
    python scripts/bench_serve.py --quick     one pair of small loads, minutes
    python scripts/bench_serve.py --url http://127.0.0.1:8000 --url-model NAME   any other server

"At its best" gives mlx_lm.server our fast BLAS and the same weights written in float32, its fastest
form on a CPU; "as installed" is the 4-bit directory without help. Everything listens on loopback.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.bench import plan, prepare  # noqa: E402
from scripts.bench.chart import bar_chart  # noqa: E402
from scripts.bench.load import Load, LoadError, Target, run_load  # noqa: E402
from scripts.bench.report import FIGURES, OURS, THEIRS, Results, as_dict, bars, table  # noqa: E402
from scripts.bench.servers import Running, ServerError, free_port, machine_cpu_s, running  # noqa: E402
from scripts.bench.stats import summarise  # noqa: E402

_START_S = 300.0
_PREPARE_S = 1800.0
_NAME = "bench"


@dataclass(frozen=True, slots=True)
class UnderTest:
    """A running server and what its requests call each choice of models."""

    server: Running
    targets: Mapping[plan.Models, Target]


@contextmanager
def ours(prepared: prepare.Prepared, work: Path) -> Iterator[UnderTest]:
    """This server as it is installed, which is also its best."""
    port = free_port()
    names = [f"a{number}" for number in range(len(prepared.adapters))]
    arguments = ["server.cli", "serve", "--model", prepared.quantized, "--served-name", _NAME]
    arguments += ["--port", str(port), "--data-dir", str(work / "data"), "--no-supervise"]
    for name, directory in zip(names, prepared.adapters, strict=True):
        arguments += ["--adapter", f"{name}={directory}"]
    with running(
        arguments, port=port, ready="/health/ready", log=work / "ours.log", timeout_s=_START_S
    ) as server:
        chains = [{"model": f"{_NAME}:{name}"} for name in names]
        yield UnderTest(server, _targets(server.url, {"model": _NAME}, chains))


@contextmanager
def theirs(prepared: prepare.Prepared, work: Path, *, at_best: bool) -> Iterator[UnderTest]:
    """mlx_lm.server, at its best or as installed."""
    port = free_port()
    model = prepared.dequantized if at_best else prepared.quantized
    arguments = ["scripts.bench.peer", *([] if at_best else ["--no-blas"])]
    arguments += ["--model", model, "--port", str(port), "--log-level", "WARNING"]
    with running(
        arguments, port=port, ready="/health", log=work / "theirs.log", timeout_s=_START_S
    ) as server:
        # The model's name in full: "default_model" would drop the adapter in silence.
        chains = [{"model": model, "adapters": directory} for directory in prepared.adapters]
        yield UnderTest(server, _targets(server.url, {"model": model}, chains))


def _targets(
    url: str, base: Mapping[str, Any], chains: Sequence[Mapping[str, Any]]
) -> Mapping[plan.Models, Target]:
    return {
        "base": Target(url, [base]),
        "one": Target(url, chains[:1]),
        "eight": Target(url, chains),
    }


def measure(
    under_test: UnderTest,
    name: str,
    scenarios: Sequence[plan.Scenario],
    results: Results,
    seed: str,
) -> None:
    """One run of every scenario on a running server. The same ``seed`` asks the same prompts.

    Each scenario is warmed with a short request to each of its models, so that what is loaded once
    and kept is not counted; what a server loads again and again is.
    """
    for scenario in scenarios:
        target = under_test.targets[scenario.models]
        warm = Load(1, len(target.models), 6, 2)
        run_load(target, warm, seed=f"warm {seed} {scenario.key}", timeout_s=scenario.timeout_s)
        begin, used = time.monotonic(), _others_cpu_s(under_test.server)
        traces = run_load(
            target, scenario.load, seed=f"{seed} {scenario.key}", timeout_s=scenario.timeout_s
        )
        used = _others_cpu_s(under_test.server) - used
        results.disturbed.append((name, scenario.key, used / (time.monotonic() - begin)))
        sample = summarise(traces)
        results.add(name, scenario.key, sample)
        shown = ", ".join(f"{figure.name} {figure.of(sample):.3g}" for figure in FIGURES[:2])
        print(f"  {name}: {scenario.label}: {shown}", flush=True)
    results.peak_bytes.setdefault(name, []).append(under_test.server.peak_bytes())


def _others_cpu_s(server: Running) -> float:
    """Processor seconds of every program but the server and this one."""
    return machine_cpu_s() - server.cpu_s() - time.process_time()


def compare(
    prepared: prepare.Prepared,
    work: Path,
    scenarios: Sequence[plan.Scenario],
    *,
    pairs: int,
    at_best: bool,
    until: float,
) -> Results:
    """``pairs`` pairs in turn, A B A B; no further pair starts after ``until``."""
    results = Results(scenarios)
    for number in range(pairs):
        if number and time.monotonic() > until:
            print(f"out of time after {number} of {pairs} pairs", flush=True)
            break
        print(f"pair {number + 1} of {pairs}", flush=True)
        with ours(prepared, work) as server:
            measure(server, OURS, scenarios, results, f"pair {number}")
        with theirs(prepared, work, at_best=at_best) as server:
            measure(server, THEIRS, scenarios, results, f"pair {number}")
    return results


def measure_url(url: str, models: Sequence[str], pairs: int, *, quick: bool) -> Results:
    """Runs on a server that somebody else started: the first model, then all of them in turn."""
    scenarios = [
        scenario
        for scenario in plan.best(quick=quick)
        if scenario.models == "base" or (scenario.models == "eight" and len(models) > 1)
    ]
    named = [{"model": model} for model in models]
    targets: dict[plan.Models, Target] = {
        "base": Target(url, named[:1], exact=False),
        "eight": Target(url, named, exact=False),
    }
    results = Results(scenarios)
    for number in range(pairs):
        for scenario in scenarios:
            traces = run_load(
                targets[scenario.models],
                scenario.load,
                seed=f"run {number} {scenario.key}",
                timeout_s=scenario.timeout_s,
            )
            results.add(url, scenario.key, summarise(traces))
    return results


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
    """Print the table and leave JSON, table and chart in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    record = {"title": title, "machine": machine(), **as_dict(results)}
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / f"{name}.md").write_text(table(results))
    (out / f"{name}.svg").write_text(bar_chart(title, "output tokens per second", bars(results)))
    print(f"\n{title}\n\n{table(results)}\n{out / name}.{{json,md,svg}}", flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one pair of small loads")
    parser.add_argument("--pairs", type=int, help="pairs at best (default 10, quick 1)")
    parser.add_argument("--installed-pairs", type=int, help="pairs as installed (default 2)")
    parser.add_argument("--only", choices=["best", "installed"], help="one comparison alone")
    parser.add_argument("--minutes", type=float, help="start no pair later (default 240, quick 15)")
    parser.add_argument("--model", type=Path, help="an MLX directory instead of the embedded model")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench", help="work files")
    parser.add_argument("--out", type=Path, help="reports (default: WORK/reports)")
    parser.add_argument("--url", help="measure this server alone")
    parser.add_argument("--url-model", action="append", default=[], help="its models, repeatable")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 with one line where a server or a request failed."""
    options = _arguments(argv)
    out: Path = options.out or options.work / "reports"
    pairs: int = options.pairs or (1 if options.quick else 10)
    until = time.monotonic() + 60 * (options.minutes or (15 if options.quick else 240))
    # A polite end must run the context managers that end the servers.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.url:
            if not options.url_model:
                print("--url needs --url-model NAME, once for each model", file=sys.stderr)
                return 2
            results = measure_url(options.url, options.url_model, pairs, quick=options.quick)
            write(out, "url", options.url, results)
            return 0
        prepared = _prepared(options.work, options.model)
        if options.only != "installed":
            scenarios = plan.best(quick=options.quick)
            results = compare(
                prepared, options.work, scenarios, pairs=pairs, at_best=True, until=until
            )
            write(out, "best", "chainlora and mlx_lm.server at its best", results)
        if options.only != "best":
            scenarios = plan.installed(quick=options.quick)
            few: int = options.installed_pairs or (1 if options.quick else 2)
            results = compare(
                prepared, options.work, scenarios, pairs=few, at_best=False, until=until
            )
            write(out, "installed", "chainlora and mlx_lm.server as installed", results)
    except (LoadError, ServerError, subprocess.SubprocessError) as error:
        print(f"bench_serve: {error}", file=sys.stderr)
        return 1
    return 0


def _prepared(work: Path, model: Path | None) -> prepare.Prepared:
    out = work.resolve() / ("embedded" if model is None else model.resolve().name)
    command = [sys.executable, "-m", "scripts.bench.prepare", str(out)]
    subprocess.run(
        command + ([] if model is None else [str(model.resolve())]),
        cwd=ROOT,
        check=True,
        timeout=_PREPARE_S,
    )
    return prepare.read(out)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
