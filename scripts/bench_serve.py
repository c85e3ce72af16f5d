#!/usr/bin/env python3
"""The serving benchmark: this server and mlx_lm.server in turn on the same load and weights.

    python scripts/bench_serve.py             10 pairs, both at their best; hours on two cores
    python scripts/bench_serve.py --quick     one pair of small loads, minutes
    python scripts/bench_serve.py --list      every scenario by its key
    python scripts/bench_serve.py --scenario 'echo-*' turns      some of them
    python scripts/bench_serve.py --streams 1 4 16 --adapters 8 --choice zipf uniform
                                              a load of your own, in every combination
    python scripts/bench_serve.py --url http://127.0.0.1:8000 --url-model NAME   any other server

"At its best" gives mlx_lm.server our fast BLAS and the same weights written in float32, its fastest
form on a CPU; "as installed" is the 4-bit directory without help. Everything listens on loopback.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.bench import plan, prepare  # noqa: E402
from scripts.bench.asks import Talk  # noqa: E402
from scripts.bench.choice import CHOICES  # noqa: E402
from scripts.bench.compare import WHICH, Plan, compare  # noqa: E402
from scripts.bench.exchange import LoadError  # noqa: E402
from scripts.bench.load import Load  # noqa: E402
from scripts.bench.record import write  # noqa: E402
from scripts.bench.servers import ServerError  # noqa: E402

_PREPARE_S = 1800.0
_COMBINED = ("streams", "adapters", "choice")
_LOAD_OPTIONS = (
    *_COMBINED,
    *("requests", "prompt_words", "output_tokens", "rate", "system_words", "talk"),
)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one pair of small loads")
    parser.add_argument("--pairs", type=int, help="pairs at best (default 10, quick 1)")
    parser.add_argument("--installed-pairs", type=int, help="pairs as installed (default 2)")
    parser.add_argument("--only", choices=["best", "installed"], help="one comparison alone")
    parser.add_argument("--scenario", nargs="+", metavar="KEY", help="these; * is anything")
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    parser.add_argument("--servers", nargs="+", choices=WHICH, help="who runs, in this order")
    parser.add_argument("--minutes", type=float, help="start no pair later (default 240, quick 15)")
    parser.add_argument("--model", type=Path, help="an MLX directory instead of the embedded model")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench", help="work files")
    parser.add_argument("--out", type=Path, help="reports (default: WORK/reports)")
    parser.add_argument("--name", help="what the reports' files are called")
    parser.add_argument("--url", help="measure this server alone; beside others with --servers")
    parser.add_argument(
        "--url-model", action="append", default=[], help="its base, then its adapters, repeatable"
    )
    own = parser.add_argument_group("a load of your own: any of these, several in combination")
    own.add_argument("--streams", type=int, nargs="+", help="clients at once (default 1)")
    own.add_argument("--adapters", type=int, nargs="+", help="0 is the base (default 0)")
    own.add_argument("--choice", nargs="+", choices=CHOICES, help="of adapters (default distinct)")
    own.add_argument("--rate", type=float, help="Poisson arrivals, so many requests per second")
    own.add_argument("--requests", type=int, help="of each stream (default 1)")
    own.add_argument("--prompt-words", type=int, help="default 64")
    own.add_argument("--output-tokens", type=int, help="default 16")
    own.add_argument("--system-words", type=int, help="a system message for all (default 0)")
    own.add_argument("--talk", choices=get_args(Talk), help="what is asked (default apart)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 and one line where a server or a request failed, 2 for a misuse."""
    options = _arguments(argv)
    if options.list:
        _show(plan.catalogue(quick=options.quick))
        return 0
    # A polite end must run the context managers that end the servers.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        suites = _suites(options)
    except ValueError as error:
        print(f"bench_serve: {error}", file=sys.stderr)
        return 2
    try:
        prepared = None
        if set(suites[0][2].which) != {"url"}:
            scenarios = [each for _, _, suite in suites for each in suite.scenarios]
            prepared = _prepared(options.work, options.model, scenarios)
        for name, title, suite in suites:
            results = compare(replace(suite, prepared=prepared))
            write(options.out or options.work / "reports", options.name or name, title, results)
    except (LoadError, ServerError, OSError, subprocess.SubprocessError) as error:
        print(f"bench_serve: {error}", file=sys.stderr)
        return 1
    return 0


def _suites(options: argparse.Namespace) -> list[tuple[str, str, Plan]]:
    """What to run: the name of its report, its title, the plan. Raises ValueError for a misuse."""
    quick: bool = options.quick
    which = tuple(options.servers or (("url",) if options.url else ("ours", "theirs")))
    if ("url" in which) != bool(options.url) or bool(options.url) != bool(options.url_model):
        raise ValueError(
            "--url ADDRESS needs --url-model NAME, once for each model, and --servers "
            "names url where it runs beside others"
        )
    until = time.monotonic() + 60 * (options.minutes or (15 if quick else 240))
    pairs: int = options.pairs or (1 if quick else 10)
    few: int = options.installed_pairs or (1 if quick else 2)
    base = Plan(
        (), which, pairs, until, options.work, url=options.url, url_models=options.url_model
    )
    chosen = _chosen(options)
    spare = len(options.url_model) - 1
    if chosen:
        if options.url and (most := max(each.adapters for each in chosen)) > spare:
            raise ValueError(f"--url-model names {spare} adapters behind the base, not {most}")
        return [("chosen", "chosen scenarios", replace(base, scenarios=chosen))]
    if options.url:
        scenarios = plan.for_names(plan.best(quick=quick), spare)
        return [("url", options.url, replace(base, scenarios=scenarios))]
    best = replace(base, scenarios=plan.best(quick=quick))
    installed = replace(base, scenarios=plan.installed(quick=quick), pairs=few)
    both = [
        ("best", "chainlora and mlx_lm.server at its best", best),
        ("installed", "chainlora and mlx_lm.server as installed", installed),
    ]
    return [suite for suite in both if options.only in (None, suite[0])]


def _chosen(options: argparse.Namespace) -> tuple[plan.Scenario, ...]:
    """The scenarios that were asked for by key or described by flags; none for the presets."""
    own = [name for name in _LOAD_OPTIONS if getattr(options, name) is not None]
    if (options.only is not None) + bool(options.scenario) + bool(own) > 1:
        raise ValueError("--only, --scenario and a load of your own exclude each other")
    if options.scenario:
        return plan.by_keys(plan.catalogue(quick=options.quick), options.scenario)
    if not own:
        return ()
    given = {name: getattr(options, name) for name in own if name not in _COMBINED}
    load = Load(**{"streams": 1, "requests": 1, "prompt_words": 64, "output_tokens": 16} | given)
    return plan.own_loads(
        load, options.streams or [1], options.adapters or [0], options.choice or ["distinct"]
    )


def _show(scenarios: Sequence[plan.Scenario]) -> None:
    for scenario in scenarios:
        peer = {"best": "", "installed": "; the peer as installed", "none": "; ours alone"}
        print(f"{scenario.key:16} {scenario.label}{peer[scenario.peer]}")


def _prepared(
    work: Path, model: Path | None, scenarios: Sequence[plan.Scenario]
) -> prepare.Prepared:
    """What the scenarios need on disk, made where it is missing."""
    out = work.resolve() / ("embedded" if model is None else model.resolve().name)
    adapters = max(prepare.ADAPTERS, *(scenario.adapters for scenario in scenarios))
    small = max(scenario.host.registered for scenario in scenarios)
    command = [sys.executable, "-m", "scripts.bench.prepare", str(out)]
    command += [] if model is None else [str(model.resolve())]
    command += ["--adapters", str(adapters), "--small", str(small)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=_PREPARE_S)
    return prepare.read(out)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
