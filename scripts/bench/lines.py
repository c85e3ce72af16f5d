"""From samples to lines over the number of streams or adapters, for charts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from scripts.bench.plan import Scenario
from scripts.bench.report import Figure, Results
from scripts.bench.stats import Spread, over

Axis = Literal["streams", "adapters"]
Line = Sequence[tuple[int, Spread]]
_ANY = 1000
"""Stands for the number that changes along a line; more than the constrained streams of a load."""


def lines(results: Results, axis: Axis, figure: Figure) -> Mapping[str, Line]:
    """A line for each server and each load that ran with several numbers of ``axis``.

    Scenarios stand on one line where they differ in nothing else; the base is no number of
    adapters. Points are in the order of their numbers.
    """
    found: dict[tuple[str, Scenario], dict[int, Spread]] = {}
    for server, runs in results.samples.items():
        for scenario in results.scenarios:
            if scenario.key in runs and _at(scenario, axis):
                line = found.setdefault((server, _without(scenario, axis)), {})
                line[_at(scenario, axis)] = over(runs[scenario.key], figure.of)
    return {
        f"{server}, {_name(scenario, axis)}": sorted(points.items())
        for (server, scenario), points in found.items()
        if len(points) > 1
    }


def _at(scenario: Scenario, axis: Axis) -> int:
    return scenario.load.streams if axis == "streams" else scenario.adapters


def _without(scenario: Scenario, axis: Axis) -> Scenario:
    """The scenario with what may differ along a line made the same."""
    same = replace(scenario, key="", label="", timeout_s=0, peer="none")
    if axis == "streams":
        return replace(same, load=replace(scenario.load, streams=_ANY))
    return replace(same, adapters=_ANY)


def _name(scenario: Scenario, axis: Axis) -> str:
    load = scenario.load
    models = f"{scenario.adapters} adapters" if scenario.adapters else "base"
    parts = [load.choice if scenario.adapters else "", scenario.host.label]
    parts.append(models if axis == "streams" else f"{load.streams} streams")
    if load.rate:
        parts.append(f"{load.rate:g}/s")
    return ", ".join(part for part in parts if part)
