"""What the benchmark asks, of which model and when: pure parts, and the scenarios by key."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.bench import plan
from scripts.bench.arrivals import poisson
from scripts.bench.asks import messages, prompt, question
from scripts.bench.choice import CHOICES, Choice, pick, weights
from scripts.bench.load import Load

MODELS = st.integers(1, 64)
ANY_CHOICE = st.sampled_from(CHOICES)
SEED = st.text(max_size=8)


@given(st.floats(0.01, 1000), st.integers(0, 20), SEED)
def test_arrivals_rise_and_depend_on_the_seed_alone(rate: float, count: int, seed: str) -> None:
    """As many as asked for, none before the start, none before the one ahead of it."""
    found = poisson(rate, count, seed)
    assert len(found) == count
    assert all(earlier <= later for earlier, later in pairwise((0.0, *found)))
    assert found == poisson(rate, count, seed)


@settings(max_examples=20)
@given(st.floats(0.1, 100), SEED)
def test_arrivals_keep_their_rate_and_are_as_uneven_as_poissons(rate: float, seed: str) -> None:
    """Pauses have the mean 1 / rate, and a standard deviation that equals it.

    5,000 pauses: the bounds are seven standard errors wide.
    """
    found = poisson(rate, 5000, seed)
    pauses = [(later - earlier) * rate for earlier, later in pairwise((0.0, *found))]
    mean = sum(pauses) / len(pauses)
    deviation = (sum((pause - mean) ** 2 for pause in pauses) / len(pauses)) ** 0.5
    assert mean == pytest.approx(1, abs=0.1)
    assert deviation == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_brings_nothing_is_refused(rate: float) -> None:
    """It would wait for ever."""
    with pytest.raises(ValueError, match="never arrive"):
        poisson(rate, 1, "")


@given(ANY_CHOICE, MODELS)
def test_shares_are_probabilities_that_never_rise(choice: Choice, models: int) -> None:
    """They sum to 1, and an earlier model gets no less than a later one."""
    shares = weights(choice, models)
    assert len(shares) == models
    assert sum(shares) == pytest.approx(1)
    assert all(earlier >= later for earlier, later in pairwise(shares))


@given(st.integers(2, 64), st.integers(1, 63))
def test_zipf_falls_with_the_power_of_one_and_a_half(models: int, rank: int) -> None:
    """The k-th model is asked k ** 1.5 times less than the first."""
    shares = weights("zipf", models)
    rank = min(rank, models - 1)
    assert shares[0] / shares[rank] == pytest.approx((rank + 1) ** 1.5)


@given(ANY_CHOICE, MODELS, st.integers(0, 31), st.integers(0, 31), SEED)
def test_a_pick_is_a_model_and_a_function_of_its_place(
    choice: Choice, models: int, stream: int, index: int, seed: str
) -> None:
    """Whatever order threads run in, the same request asks the same model."""
    found = pick(choice, models, stream=stream, index=index, seed=seed)
    assert 0 <= found < models
    assert found == pick(choice, models, stream=stream, index=index, seed=seed)


@given(st.integers(1, 32), st.integers(0, 9), st.integers(32, 64))
def test_distinct_streams_ask_distinct_models(streams: int, index: int, models: int) -> None:
    """At any moment no two streams ask the same one, where there are enough."""
    asked = {pick("distinct", models, stream=number, index=index, seed="") for number in range(32)}
    assert len(asked) == 32
    assert pick("identical", models, stream=streams, index=index, seed="") == 0


@pytest.mark.parametrize("choice", ["uniform", "zipf"])
def test_drawn_models_come_as_often_as_their_shares_say(choice: Choice) -> None:
    """4,000 draws from 8 models, each within 0.04 of its share (five standard errors)."""
    drawn = Counter(
        pick(choice, 8, stream=stream, index=index, seed="s")
        for stream in range(20)
        for index in range(200)
    )
    for model, share in enumerate(weights(choice, 8)):
        assert drawn[model] / 4000 == pytest.approx(share, abs=0.04)


def test_a_choice_among_none_is_refused() -> None:
    """There is always a model."""
    with pytest.raises(ValueError, match="among 0 models"):
        weights("zipf", 0)


def test_a_chat_holds_its_system_message_and_its_turns() -> None:
    """In the order in which they were said, and an echo asks for its own text."""
    rows = messages("be short", [("a", "b")], "c")
    assert [row["role"] for row in rows] == ["system", "user", "assistant", "user"]
    assert [row["content"] for row in rows] == ["be short", "a", "b", "c"]
    assert [row["role"] for row in messages("", [], "c")] == ["user"]
    assert question("echo", "s", 20).endswith(prompt("s", 20))
    assert question("turns", "s", 20) == prompt("s", 20)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"streams": 0}, "streams is 0"),
        ({"requests": 0}, "requests is 0"),
        ({"prompt_words": 0}, "prompt_words is 0"),
        ({"output_tokens": -1}, "output_tokens is -1"),
        ({"rate": -0.5}, "at least 0"),
        ({"system_words": -1}, "at least 0"),
        ({"streams": 2, "constrained": 3}, "3 of 2"),
        ({"constrained": -1}, "-1 of 1"),
        ({"rate": 1.0, "talk": "turns"}, "no rate"),
    ],
)
def test_a_load_that_cannot_be_is_refused(change: dict[str, object], said: str) -> None:
    """Before a server is started for it."""
    fields = {"streams": 1, "requests": 1, "prompt_words": 8, "output_tokens": 4} | change
    with pytest.raises(ValueError, match=said):
        Load(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("quick", [True, False])
def test_keys_and_labels_name_one_scenario_each(*, quick: bool) -> None:
    """A key chooses one of the catalogue; within a report a label is one line of the table."""
    every = plan.catalogue(quick=quick)
    assert len({scenario.key for scenario in every}) == len(every)
    for preset in (plan.best, plan.installed, plan.open_loads, plan.parts_of_ours):
        labels = [scenario.label for scenario in preset(quick=quick)]
        assert len(set(labels)) == len(labels)


def test_scenarios_are_chosen_by_key_or_pattern() -> None:
    """In the catalogue's order, each once; a key that fits none is named."""
    every = plan.catalogue(quick=True)
    found = plan.by_keys(every, ["turns*", "base-1", "turns"])
    assert [scenario.key for scenario in found] == ["base-1", "turns", "turns-none"]
    with pytest.raises(ValueError, match=r"'nothing-\*'"):
        plan.by_keys(every, ["base-1", "nothing-*"])


def test_the_sweeps_reach_from_one_to_the_most() -> None:
    """1 to 32 streams, and 1 to 64 adapters by each of the four choices."""
    found = plan.sweeps(quick=True)
    assert {scenario.load.streams for scenario in found} >= {1, 32}
    reach = {(each.load.choice, each.adapters) for each in found if each.load.streams == 16}
    assert reach >= {(choice, count) for choice in CHOICES for count in (1, 64)}


def test_a_load_of_ones_own_runs_in_every_combination() -> None:
    """Streams by adapters by choices; the base has nothing to choose from."""
    load = Load(1, 2, 8, 4, rate=0.5)
    found = plan.own_loads(load, [1, 16], [0, 8], ["zipf", "uniform"])
    assert [(each.adapters, each.load.streams, each.load.choice) for each in found] == [
        (0, 1, "zipf"),
        (0, 16, "zipf"),
        (8, 1, "zipf"),
        (8, 16, "zipf"),
        (8, 1, "uniform"),
        (8, 16, "uniform"),
    ]
    assert len({each.key for each in found}) == len({each.label for each in found}) == 6
    assert found[3].label == "8 adapters by Zipf, 32 requests at 0.5/s"
    with pytest.raises(ValueError, match="-1 adapters"):
        plan.own_loads(load, [1], [8, -1], ["zipf"])
