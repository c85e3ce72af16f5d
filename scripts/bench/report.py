"""From samples to what is printed and stored. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


FIGURES = (
    Figure("output", "tokens/s", True, lambda sample: sample.output_rate),
    Figure("first token p50", "s", False, lambda sample: sample.first_token_p50_s),
    Figure("first token p95", "s", False, lambda sample: sample.first_token_p95_s),
    Figure("token gap p50", "s", False, lambda sample: sample.gap_p50_s),
    Figure("token gap p95", "s", False, lambda sample: sample.gap_p95_s),
    Figure("time per token", "s", False, lambda sample: sample.token_s),
)


@dataclass(slots=True)
class Results:
    """Samples by server and scenario, in the order of the runs, and each run's peak memory.

    ``disturbed`` says of each run how many cores other programs took on average meanwhile: a matrix
    product whose threads wait for each other gets many times slower where one core is taken.
    """

    scenarios: Sequence[Scenario]
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    peak_bytes: dict[str, list[int]] = field(default_factory=dict)
    disturbed: list[tuple[str, str, float]] = field(default_factory=list)

    def add(self, server: str, scenario: str, sample: Sample) -> None:
        """One more run of a scenario on a server."""
        self.samples.setdefault(server, {}).setdefault(scenario, []).append(sample)

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
    """Ratios inside our own server that DESIGN 9 sets targets for, over runs of one process."""
    output, first = FIGURES[0], FIGURES[1]
    wanted = {
        "mixed over one adapter, 16 streams, output": ("eight-16", "one-16", output),
        "one adapter over base, 16 streams, output": ("one-16", "base-16", output),
        "one adapter over base, 256-token prompt, first token": (
            "prompt-one",
            "prompt-base",
            first,
        ),
    }
    return {
        name: ratio(results.of(OURS, upper), results.of(OURS, lower), figure.of)
        for name, (upper, lower, figure) in wanted.items()
        if results.of(OURS, upper) and results.of(OURS, lower)
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
        "peak_bytes": {
            server: asdict(spread(sizes)) for server, sizes in results.peak_bytes.items()
        },
    }


def table(results: Results) -> str:
    """Markdown: for each scenario output rate and latencies of each server, and how many times."""
    servers = list(results.samples)
    both = len(servers) == 2
    head = ["load", "figure", *servers, *(["times better"] if both else [])]
    lines = [_row(head), _row(["---"] * len(head))]
    for scenario in results.scenarios:
        for figure in FIGURES[1:2] if scenario.output_is_trivial else FIGURES[:5]:
            cells = [scenario.label, f"{figure.name}, {figure.unit}"]
            cells += [_shown(results.of(server, scenario.key), figure) for server in servers]
            if both:
                gain = speedup(results, scenario.key, figure)
                cells.append("" if gain is None else str(gain))
            lines.append(_row(cells))
    for server, sizes in results.peak_bytes.items():
        lines.append(f"\npeak memory of {server}: {spread([size / 1e9 for size in sizes])} GB")
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


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def bars(results: Results) -> list[tuple[str, Mapping[str, Spread]]]:
    """For the chart: output rate of each server, scenario by scenario."""
    return [
        (
            scenario.label,
            {
                server: over(runs[scenario.key], FIGURES[0].of)
                for server, runs in results.samples.items()
                if scenario.key in runs
            },
        )
        for scenario in results.scenarios
        if not scenario.output_is_trivial
    ]
