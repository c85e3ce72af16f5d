"""From samples to what is printed and stored. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.bench.plan import Scenario
from scripts.bench.stats import Sample, Spread, over, ratio, spread

_DISTURBED_CORES = 0.1
OURS, THEIRS = "chainlora", "mlx_lm.server"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of a sample, its unit for people, and whether more of it is better."""

    name: str
    unit: str
    more_is_better: bool
    of: Callable[[Sample], float]


OUTPUT = Figure("output", "tokens/s", True, lambda sample: sample.output_rate)
FIRST = Figure("first token p50", "s", False, lambda sample: sample.first_token_p50_s)
FIRST_P95 = Figure("first token p95", "s", False, lambda sample: sample.first_token_p95_s)
GAP = Figure("token gap p50", "s", False, lambda sample: sample.gap_p50_s)
FIGURES = (
    OUTPUT,
    FIRST,
    FIRST_P95,
    Figure("first token p99", "s", False, lambda sample: sample.first_token_p99_s),
    GAP,
    Figure("token gap p95", "s", False, lambda sample: sample.gap_p95_s),
    Figure("token gap p99", "s", False, lambda sample: sample.gap_p99_s),
    Figure("time per token", "s", False, lambda sample: sample.token_s),
)
_SHOWN = FIGURES[:-1]

_OWN_RATIOS = {
    "mixed over one adapter, 16 streams, output": ("eight-16", "one-16", OUTPUT),
    "one adapter over base, 16 streams, output": ("one-16", "base-16", OUTPUT),
    "one adapter over base, 256-token prompt, first token": ("prompt-one", "prompt-base", FIRST),
    "chats, no prefix kept over kept, first token": ("turns-none", "turns", FIRST),
    "system prompt, no prefix kept over kept, first token": ("system-none", "system", FIRST),
    "echo, 1 stream, guesses over none, output": ("echo-1", "echo-1-none", OUTPUT),
    "echo, 8 streams, guesses over none, output": ("echo-8", "echo-8-none", OUTPUT),
    "1,000 registered over 8, token gap": ("registered-1000", "registered-8", GAP),
    "64 adapters by Zipf, room for 16 over all, output": ("hits-64-room-16", "hits-64", OUTPUT),
    "8 free rows beside 8 constrained over 16 free, token gap": ("half-free", "free", GAP),
    "the same with guesses, output": ("half-free-guess", "free-guess", OUTPUT),
    "KV in 8 bits over float32, 16 streams, output": ("kv-8", "base-16", OUTPUT),
    "KV in 4 bits over float32, 16 streams, output": ("kv-4", "base-16", OUTPUT),
}
"""Ratios inside our own server: targets of DESIGN 9, and what a part gives over going without."""

_COUNTED = (
    "steps",
    "guessed_tokens",
    "accepted_tokens",
    "adapter_hits",
    "adapter_misses",
    "adapter_loads",
    "adapter_evictions",
    "prefix_cache_hits",
    "prefix_cache_tokens",
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Peaks in bytes after all runs of a server process: of the process, of MLX's own arrays.

    None where they cannot be seen: a process of somebody else, a server that does not tell.
    """

    process_bytes: int | None
    device_bytes: int | None


@dataclass(slots=True)
class Results:
    """Samples by server and scenario, in the order of the runs, and each process's peak memory.

    ``counted`` is what our engine counted during each run. ``disturbed`` says of each run how many
    cores other programs took on average meanwhile: a matrix product whose threads wait for each
    other gets many times slower where one core is taken.
    """

    scenarios: Sequence[Scenario]
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    counted: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    memory: dict[str, list[Memory]] = field(default_factory=dict)
    disturbed: list[tuple[str, str, float]] = field(default_factory=list)

    def add(self, server: str, scenario: str, sample: Sample) -> None:
        """One more run of a scenario on a server."""
        self.samples.setdefault(server, {}).setdefault(scenario, []).append(sample)

    def count(
        self, server: str, scenario: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        """Keep what the engine's counters rose by in a run; nothing where it has none."""
        risen = {
            name: after[name] - before[name]
            for name in _COUNTED
            if name in before and name in after
        }
        if risen:
            self.counted.setdefault(server, {}).setdefault(scenario, []).append(risen)

    def of(self, server: str, scenario: str) -> list[Sample]:
        """The runs of a scenario on a server; none where it did not run."""
        return self.samples.get(server, {}).get(scenario, [])


def speedup(results: Results, scenario: str, figure: Figure) -> Spread | None:
    """How many times better ours is than theirs, over pairs.

    None where one side did not run or the figure does not exist, as pauses in a single chunk.
    """
    ours, theirs = results.of(OURS, scenario), results.of(THEIRS, scenario)
    count = min(len(ours), len(theirs))
    if not count or not all(figure.of(sample) for sample in (*ours, *theirs)):
        return None
    upper, lower = (ours, theirs) if figure.more_is_better else (theirs, ours)
    return ratio(upper[:count], lower[:count], figure.of)


def own_ratios(results: Results) -> dict[str, Spread]:
    """Ratios inside our own server, over runs of the same pair."""
    return {
        name: ratio(results.of(OURS, upper), results.of(OURS, lower), figure.of)
        for name, (upper, lower, figure) in _OWN_RATIOS.items()
        if all(map(figure.of, results.of(OURS, upper)))
        and all(map(figure.of, results.of(OURS, lower)))
        and results.of(OURS, upper)
        and results.of(OURS, lower)
    }


def as_dict(results: Results) -> dict[str, Any]:
    """For JSON: every sample, and the spreads that the table quotes."""
    return {
        "scenarios": [
            {
                **asdict(scenario),
                "servers": {
                    server: {
                        "spreads": {
                            figure.name: asdict(over(runs[scenario.key], figure.of))
                            for figure in FIGURES
                        },
                        "samples": [asdict(sample) for sample in runs[scenario.key]],
                        "counted": results.counted.get(server, {}).get(scenario.key, []),
                    }
                    for server, runs in results.samples.items()
                    if scenario.key in runs
                },
                "times_better": {
                    figure.name: asdict(gain)
                    for figure in FIGURES
                    if (gain := speedup(results, scenario.key, figure)) is not None
                },
            }
            for scenario in results.scenarios
        ],
        "disturbed": [list(each) for each in results.disturbed],
        "own_ratios": {name: asdict(value) for name, value in own_ratios(results).items()},
        "memory": {
            server: [asdict(each) for each in peaks] for server, peaks in results.memory.items()
        },
    }


def table(results: Results) -> str:
    """Markdown: for each scenario output rate and latencies of each server, and how many times."""
    servers = list(results.samples)
    both = OURS in servers and THEIRS in servers
    head = ["load", "figure", *servers, *(["times better"] if both else [])]
    lines = [_row(head), _row(["---"] * len(head))]
    for scenario in results.scenarios:
        for figure in (FIRST,) if scenario.output_is_trivial else _SHOWN:
            cells = [scenario.label, f"{figure.name}, {figure.unit}"]
            cells += [_shown(results.of(server, scenario.key), figure) for server in servers]
            if both:
                gain = speedup(results, scenario.key, figure)
                cells.append("" if gain is None else str(gain))
            lines.append(_row(cells))
    lines += _memory_lines(results.memory)
    for name, value in own_ratios(results).items():
        lines.append(f"\n{name}: {value}")
    over_limit = [cores for _, _, cores in results.disturbed if cores > _DISTURBED_CORES]
    if over_limit:
        lines.append(
            f"\n{len(over_limit)} of {len(results.disturbed)} runs shared the machine with other "
            f"work (up to {max(over_limit):.1f} cores): measure again on an idle machine"
        )
    return "\n".join(lines) + "\n"


def _shown(samples: Sequence[Sample], figure: Figure) -> str:
    return str(over(samples, figure.of)) if samples else ""


def _memory_lines(memory: Mapping[str, Sequence[Memory]]) -> Iterator[str]:
    for server, peaks in memory.items():
        for what, sizes in (
            ("memory", [peak.process_bytes for peak in peaks]),
            ("memory of MLX's arrays", [peak.device_bytes for peak in peaks]),
        ):
            seen = [size / 1e9 for size in sizes if size is not None]
            if seen:
                yield f"\npeak {what}, {server}: {spread(seen)} GB"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def bars(results: Results) -> list[tuple[str, Mapping[str, Spread]]]:
    """For the chart: output rate of each server, scenario by scenario."""
    return [
        (
            scenario.label,
            {
                server: over(runs[scenario.key], OUTPUT.of)
                for server, runs in results.samples.items()
                if scenario.key in runs
            },
        )
        for scenario in results.scenarios
        if not scenario.output_is_trivial
    ]
