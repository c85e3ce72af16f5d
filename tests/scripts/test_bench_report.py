"""The benchmark's figures: statistics, ratios, table, record and chart."""

from __future__ import annotations

import json
import statistics
import xml.etree.ElementTree as ET
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench import plan
from scripts.bench.chart import bar_chart
from scripts.bench.line_chart import Panel, line_chart
from scripts.bench.lines import Axis, lines
from scripts.bench.load import Load
from scripts.bench.report import (
    FIRST,
    GAP,
    OURS,
    OUTPUT,
    THEIRS,
    Memory,
    Results,
    as_dict,
    own_ratios,
    speedup,
    table,
)
from scripts.bench.stats import Sample, Spread, Trace, percentile, ratio, spread, summarise

VALUES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50)


@given(VALUES, st.floats(0, 100))
def test_a_percentile_lies_between_its_neighbours(values: list[float], percent: float) -> None:
    """At most that share of the values is below it, and at most the rest above."""
    at = percentile(values, percent)
    tolerance = 1e-9 * max(values)
    below = sum(value < at - tolerance for value in values)
    above = sum(value > at + tolerance for value in values)
    span = len(values) - 1
    assert below <= span * percent / 100 + 1
    assert above <= span * (1 - percent / 100) + 1


@given(VALUES)
def test_the_fiftieth_percentile_is_the_median(values: list[float]) -> None:
    """And 0 and 100 are the extremes."""
    assert percentile(values, 50) == pytest.approx(statistics.median(values))
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_a_percentile_of_nothing_is_refused(values: list[float], percent: float) -> None:
    """No value, or no percentage."""
    with pytest.raises(ValueError, match=r"percent"):
        percentile(values, percent)


def test_a_sample_counts_from_the_first_request_to_the_last_chunk() -> None:
    """Two overlapping requests: rates over the whole time, latencies for each."""
    sample = summarise(
        [
            Trace(sent=10.0, chunks=(11.0, 11.5, 12.0), prompt_tokens=7, output_tokens=3),
            Trace(sent=10.0, chunks=(13.0, 14.0), prompt_tokens=5, output_tokens=5),
        ]
    )
    assert sample.wall_s == 4.0
    assert sample.output_tokens == 8
    assert sample.output_rate == 2.0
    assert sample.first_token_p50_s == 2.0
    assert sample.gap_p50_s == 0.5
    assert sample.token_s == (0.5 + 0.25) / 2
    assert (sample.requests, sample.prompt_tokens) == (2, 12)


def test_beside_constrained_rows_the_free_ones_are_watched() -> None:
    """Every token counts for the rate; waits and pauses are those of the rows without a schema."""
    free = Trace(sent=0.0, chunks=(1.0, 1.5), prompt_tokens=1, output_tokens=2)
    held = Trace(sent=0.0, chunks=(3.0, 4.0), prompt_tokens=1, output_tokens=2, constrained=True)
    sample = summarise([held, free])
    assert (sample.first_token_p99_s, sample.gap_p99_s, sample.token_s) == (1.0, 0.5, 0.5)
    assert sample.output_rate == 1.0
    assert summarise([held]).first_token_p50_s == 3.0


def test_a_run_without_requests_is_refused() -> None:
    """Nothing is no sample."""
    with pytest.raises(ValueError, match="no request"):
        summarise([])


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=20))
def test_a_ratio_is_taken_pair_by_pair(pairs: list[tuple[float, float]]) -> None:
    """The median of quotients, with the smallest and the largest of them."""
    found = ratio(
        [_sample(rate=above) for above, _ in pairs],
        [_sample(rate=below) for _, below in pairs],
        lambda sample: sample.output_rate,
    )
    quotients = [above / below for above, below in pairs]
    assert found == Spread(statistics.median(quotients), min(quotients), max(quotients), len(pairs))


def test_unpaired_runs_have_no_ratio() -> None:
    """A pair that is missing a side is an error, not a smaller sample."""
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ratio([_sample()], [_sample(), _sample()], lambda sample: sample.output_rate)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_times_better_means_the_same_for_rates_and_for_waits() -> None:
    """Twice the rate is 2, and so is half the wait."""
    results = _results()
    assert speedup(results, "base-1", OUTPUT) == Spread(2.0, 2.0, 2.0, 1)
    assert speedup(results, "base-1", FIRST) == Spread(4.0, 4.0, 4.0, 1)
    assert speedup(results, "one-1", OUTPUT) is None


def test_a_figure_that_does_not_exist_has_no_ratio() -> None:
    """A single chunk has no pauses: no division by zero, no number."""
    results = Results(plan.best(quick=True)[:1])
    results.add(OURS, "base-1", _sample(gap=0.0))
    results.add(THEIRS, "base-1", _sample(gap=0.0))
    assert speedup(results, "base-1", GAP) is None


def test_own_ratios_compare_runs_of_our_server() -> None:
    """Mixed over one adapter is what DESIGN sets a target for."""
    results = Results(plan.best(quick=True))
    results.add(OURS, "one-16", _sample(rate=10.0))
    results.add(OURS, "eight-16", _sample(rate=9.5))
    assert list(own_ratios(results)) == ["mixed over one adapter, 16 streams, output"]
    assert next(iter(own_ratios(results).values())).median == pytest.approx(0.95)


def test_the_table_and_the_record_hold_every_run() -> None:
    """Both servers, every scenario that ran, and the peaks of memory."""
    results = _results()
    results.memory = {OURS: [Memory(2 * 10**9, 10**9)], THEIRS: [Memory(3 * 10**9, None)]}
    results.count(OURS, "base-1", {"steps": 3}, {"steps": 10, "waiting": 1})
    results.count(THEIRS, "base-1", {}, {})
    shown = table(results)
    assert "| base, 1 stream | output, tokens/s | 20 [20-20] | 10 [10-10] | 2 [2-2] |" in shown
    assert "peak memory, chainlora: 2 [2-2] GB" in shown
    assert "peak memory of MLX's arrays, chainlora: 1 [1-1] GB" in shown
    assert shown.count("mlx_lm.server: ") == 1
    record = json.loads(json.dumps(as_dict(results)))
    first = record["scenarios"][0]
    assert first["servers"][THEIRS]["samples"][0]["output_rate"] == 10.0
    assert first["servers"][OURS]["counted"] == [{"steps": 7}]
    assert first["servers"][THEIRS]["counted"] == []
    assert first["times_better"]["output"]["median"] == 2.0


def test_the_table_says_where_other_work_disturbed_a_run() -> None:
    """Figures of a machine that was not idle are marked; a quiet machine is not mentioned."""
    results = _results()
    results.disturbed = [(OURS, "base-1", 0.02), (THEIRS, "base-1", 0.01)]
    assert "idle machine" not in table(results)
    results.disturbed[1] = (THEIRS, "base-1", 1.5)
    assert "1 of 2 runs shared the machine with other work (up to 1.5 cores)" in table(results)


def test_the_chart_is_sound_svg_with_a_bar_for_each_number() -> None:
    """Names are escaped, and the longest bar is the largest number."""
    groups = [
        ("a < b", {"x": Spread(2.0, 1.0, 3.0, 3), "y": Spread(1.0, 1.0, 1.0, 3)}),
        ("c", {"x": Spread(4.0, 4.0, 4.0, 1)}),
    ]
    root = ET.fromstring(bar_chart("title", "tokens/s", groups))
    name = "{http://www.w3.org/2000/svg}"
    bars = [
        float(rect.attrib["width"])
        for rect in root.iter(f"{name}rect")
        if rect.attrib["height"] == "13.0"
    ]
    assert bars == [240.0, 120.0, 480.0]
    assert "a < b" in [text.text for text in root.iter(f"{name}text")]


def test_lines_join_runs_that_differ_in_one_number() -> None:
    """A line for each server and choice; the base is no number of adapters, one point no line."""
    results = Results(plan.own_loads(Load(1, 1, 8, 4), [1, 4], [0, 2, 8], ["zipf", "uniform"]))
    for scenario in results.scenarios:
        results.add(OURS, scenario.key, _sample(rate=scenario.adapters + scenario.load.streams))
    results.add(THEIRS, results.scenarios[0].key, _sample())
    over_streams, over_adapters = (lines(results, axis, OUTPUT) for axis in get_args(Axis))
    assert set(over_streams) == {
        "chainlora, base",
        *(f"chainlora, {how}, {count} adapters" for how in ("zipf", "uniform") for count in (2, 8)),
    }
    assert [number for number, _ in over_streams["chainlora, base"]] == [1, 4]
    assert set(over_adapters) == {
        f"chainlora, {how}, {count} streams" for how in ("zipf", "uniform") for count in (1, 4)
    }
    line = over_adapters["chainlora, zipf, 4 streams"]
    assert [(number, value.median) for number, value in line] == [(2, 6.0), (8, 12.0)]


@pytest.mark.parametrize("axis", get_args(Axis))
def test_every_scenario_can_be_asked_for_its_line(axis: Axis) -> None:
    """The whole catalogue in one report."""
    results = Results(plan.catalogue(quick=True))
    for scenario in results.scenarios:
        results.add(OURS, scenario.key, _sample())
    longest = max(len(line) for line in lines(results, axis, OUTPUT).values())
    assert longest == len({"streams": plan.STREAMS, "adapters": plan.ADAPTERS}[axis])


def test_loads_of_another_size_stand_on_no_common_line() -> None:
    """Longer answers are another load, whatever the number of streams."""
    few, many = plan.own_load("a", 8, Load(1, 1, 8, 4)), plan.own_load("b", 8, Load(4, 1, 8, 5))
    results = Results([few, many])
    results.add(OURS, "a", _sample())
    results.add(OURS, "b", _sample())
    assert lines(results, "streams", OUTPUT) == {}


def test_a_line_chart_doubles_across_and_starts_at_zero() -> None:
    """Equal factors are equal distances; the largest value is at the top; names are escaped."""
    line = [(number, Spread(value, value, value, 1)) for number, value in ((1, 0.0), (2, 5.0))]
    panel = Panel("streams", "tokens/s", {"a < b": [*line, (4, Spread(10.0, 10.0, 10.0, 1))]})
    root = ET.fromstring(line_chart("title", (panel, panel)))
    drawn = [
        [tuple(map(float, point.split())) for point in path.attrib["d"][1:].split("L")]
        for path in root.iter("{http://www.w3.org/2000/svg}path")
        if "L" in path.attrib["d"]
    ]
    (first, second, third), other = drawn
    assert second[0] - first[0] == pytest.approx(third[0] - second[0])
    assert (first[1] + third[1]) / 2 == pytest.approx(second[1])
    assert third[1] < first[1]
    assert [point[1] for point in other] == [point[1] for point in drawn[0]]
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("a < b") == 1


@pytest.mark.parametrize("panels", [(), (Panel("streams", "tokens/s", {}),)])
def test_a_line_chart_of_nothing_is_still_a_chart(panels: tuple[Panel, ...]) -> None:
    """No line: no division by zero."""
    assert ET.fromstring(line_chart("title", panels)).tag.endswith("svg")


def test_a_chart_of_nothing_is_still_a_chart() -> None:
    """No group: no division by zero."""
    assert ET.fromstring(bar_chart("title", "tokens/s", [])).tag.endswith("svg")


def _sample(*, rate: float = 1.0, first: float = 1.0, gap: float = 0.1) -> Sample:
    return Sample(
        requests=1,
        prompt_tokens=1,
        output_tokens=1,
        cached_tokens=0,
        wall_s=1.0,
        output_rate=rate,
        first_token_p50_s=first,
        first_token_p95_s=first,
        first_token_p99_s=first,
        token_s=0.1,
        gap_p50_s=gap,
        gap_p95_s=gap,
        gap_p99_s=gap,
    )


def _results() -> Results:
    results = Results(plan.best(quick=True))
    results.add(OURS, "base-1", _sample(rate=20.0, first=0.5))
    results.add(THEIRS, "base-1", _sample(rate=10.0, first=2.0))
    return results
