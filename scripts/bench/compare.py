"""The servers under test, and every scenario on each of them in turn."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from scripts.bench.load import Load, Target, run_load
from scripts.bench.plan import Host, Peer, Scenario
from scripts.bench.prepare import Prepared
from scripts.bench.report import FIRST, OURS, OUTPUT, THEIRS, Memory, Results
from scripts.bench.servers import Running, free_port, machine_cpu_s, running
from scripts.bench.stats import summarise

_START_S = 300.0
_NAME = "bench"
_EIGHT = 8
"""Adapters that our server always has, asked or not."""

Which = Literal["ours", "theirs", "url"]
WHICH: tuple[Which, ...] = get_args(Which)


@dataclass(frozen=True, slots=True)
class UnderTest:
    """A server that answers: the request fields that name its base and its adapters.

    ``process`` is None for a server that somebody else started.
    """

    name: str
    url: str
    base: Mapping[str, Any]
    adapters: Sequence[Mapping[str, Any]]
    process: Running | None = None
    exact: bool = True

    def target(self, scenario: Scenario) -> Target:
        """Where a scenario's requests go."""
        models = self.adapters[: scenario.adapters] if scenario.adapters else [self.base]
        return Target(self.url, models, self.exact)


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs where: ``pairs`` times every scenario on every server of ``which``, in turn.

    No further pair starts after ``until`` (``time.monotonic``). ``prepared`` may be None where
    only the server of ``url`` runs, whose first model is its base.
    """

    scenarios: Sequence[Scenario]
    which: Sequence[Which]
    pairs: int
    until: float
    work: Path
    prepared: Prepared | None = None
    url: str = ""
    url_models: Sequence[str] = ()


def compare(plan: Plan) -> Results:
    """Run the plan; A B A B, so that what drifts drifts for both."""
    results = Results(plan.scenarios)
    for number in range(plan.pairs):
        if number and time.monotonic() > plan.until:
            print(f"out of time after {number} of {plan.pairs} pairs", flush=True)
            break
        print(f"pair {number + 1} of {plan.pairs}", flush=True)
        for which in plan.which:
            _run(plan, which, results, f"pair {number}")
    return results


def _run(plan: Plan, which: Which, results: Results, seed: str) -> None:
    """Every scenario that a server takes part in, with a new process for each form of it."""
    if which == "url":
        base, *adapters = [{"model": model} for model in plan.url_models]
        measure(UnderTest(plan.url, plan.url, base, adapters, exact=False), plan, results, seed)
        return
    assert plan.prepared is not None
    if which == "ours":
        for host in dict.fromkeys(scenario.host for scenario in plan.scenarios):
            mine = [scenario for scenario in plan.scenarios if scenario.host == host]
            with ours(plan.prepared, plan.work, host, most=_most(mine)) as server:
                measure(server, replace(plan, scenarios=mine), results, seed)
        return
    for peer in dict.fromkeys(scenario.peer for scenario in plan.scenarios):
        if peer != "none":
            its = [scenario for scenario in plan.scenarios if scenario.peer == peer]
            with theirs(plan.prepared, plan.work, peer) as server:
                measure(server, replace(plan, scenarios=its), results, seed)


def _most(scenarios: Sequence[Scenario]) -> int:
    return max(_EIGHT, *(scenario.adapters for scenario in scenarios))


@contextmanager
def ours(prepared: Prepared, work: Path, host: Host, *, most: int) -> Iterator[UnderTest]:
    """This server, with the ``most`` adapters that are asked and what ``host`` adds."""
    port = free_port()
    asked = prepared.adapters[:most]
    small = prepared.small[: max(host.registered - most, 0)]
    model = prepared.plain if host.ends else prepared.quantized
    # A data directory keeps its chains: each base and each number of them has its own.
    of_base = Path(prepared.quantized).parent.name + ("-plain" if host.ends else "")
    data = work / f"data-{of_base}-{most + len(small)}"
    banned = {"logit_bias": {str(end): -100 for end in prepared.ends}} if host.ends else {}
    arguments = ["server.cli", "serve", "--model", model, "--served-name", _NAME]
    arguments += ["--port", str(port), "--data-dir", str(data), "--no-supervise"]
    for number, directory in enumerate(asked):
        arguments += ["--adapter", f"a{number}={directory}"]
    for number, directory in enumerate(small):
        arguments += ["--adapter", f"small{number}={directory}"]
    if host.resident:
        size = (Path(asked[0]) / "adapters.safetensors").stat().st_size
        arguments += ["--adapter-budget-bytes", str(host.resident * size)]
    with running(
        [*arguments, *host.options],
        port=port,
        ready="/health/ready",
        log=work / "ours.log",
        timeout_s=_START_S,
    ) as server:
        chains = [{"model": f"{_NAME}:a{number}", **banned} for number in range(most)]
        name = f"{OURS} {host.label}".strip()
        yield UnderTest(name, server.url, {"model": _NAME, **banned}, chains, server)


@contextmanager
def theirs(prepared: Prepared, work: Path, peer: Peer) -> Iterator[UnderTest]:
    """mlx_lm.server, at its best or as installed."""
    port = free_port()
    at_best = peer == "best"
    model = prepared.dequantized if at_best else prepared.quantized
    arguments = ["scripts.bench.peer", *([] if at_best else ["--no-blas"])]
    arguments += ["--model", model, "--port", str(port), "--log-level", "WARNING"]
    with running(
        arguments, port=port, ready="/health", log=work / "theirs.log", timeout_s=_START_S
    ) as server:
        # The model's name in full: "default_model" would drop the adapter in silence.
        chains = [{"model": model, "adapters": directory} for directory in prepared.adapters]
        yield UnderTest(THEIRS, server.url, {"model": model}, chains, server)


def measure(under_test: UnderTest, plan: Plan, results: Results, seed: str) -> None:
    """One run of every scenario on a running server. The same ``seed`` asks the same prompts.

    Each scenario is warmed with a short request to each of its models, so that what is loaded once
    and kept is not counted; what a server loads again and again is.
    """
    process = under_test.process
    column = under_test.url if process is None else under_test.name.split(" ")[0]
    for scenario in plan.scenarios:
        target, limit = under_test.target(scenario), scenario.timeout_s
        warm = Load(1, len(target.models), 6, 2)
        run_load(target, warm, seed=f"warm {seed} {scenario.key}", timeout_s=limit)
        counted = engine_stats(under_test.url)
        begin, used = time.monotonic(), _others_cpu_s(process)
        traces = run_load(target, scenario.load, seed=f"{seed} {scenario.key}", timeout_s=limit)
        used = _others_cpu_s(process) - used
        if process is not None:
            results.disturbed.append((column, scenario.key, used / (time.monotonic() - begin)))
        sample = summarise(traces)
        results.add(column, scenario.key, sample)
        results.count(column, scenario.key, counted, engine_stats(under_test.url))
        shown = ", ".join(f"{figure.name} {figure.of(sample):.3g}" for figure in (OUTPUT, FIRST))
        print(f"  {under_test.name}: {scenario.label}: {shown}", flush=True)
    device = engine_stats(under_test.url).get("peak_memory_bytes")
    peak = None if process is None else process.peak_bytes()
    results.memory.setdefault(under_test.name, []).append(Memory(peak, device))


def engine_stats(url: str) -> Mapping[str, Any]:
    """What ``GET /admin/engine`` counts; empty for a server without it."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", "/admin/engine")
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            return {}
        stats: Mapping[str, Any] = json.loads(answer.read())["stats"]
        return stats
    except (ValueError, KeyError, TypeError):
        return {}
    finally:
        connection.close()


def _others_cpu_s(server: Running | None) -> float:
    """Processor seconds of every program but the server and this one."""
    return machine_cpu_s() - (server.cpu_s() if server else 0.0) - time.process_time()
