"""The self-test must fail where the device, or our code, computes something else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import mlx.core as mx
import pytest
from mlx_lm.models.base import create_causal_mask

from adapters.lora import router
from adapters.lora.routes import GatherRoute, Mixture, Route, Row
from server.engine import draw, sampling, selftest
from server.engine.ragged import RaggedKVCache
from server.engine.selftest import Check, run_selftest


def test_a_sound_device_passes_every_check() -> None:
    """Each check says what it compared."""
    checks = run_selftest()
    assert [check for check in checks if not check.passed] == []
    assert all(check.detail and not check.cure for check in checks)


def test_a_path_that_raises_fails_and_the_rest_is_still_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kernel that a device lacks does not end the self-test."""

    def broken(rows: Sequence[Row]) -> Iterator[tuple[Route, Sequence[Row]]]:
        raise RuntimeError("no kernel")

    monkeypatch.setitem(selftest.ROUTES, "uniform", broken)
    failed = _failed()
    assert failed
    assert all(check.name.startswith("uniform route") for check in failed)
    assert failed[0].detail == "RuntimeError: no kernel"
    assert failed[0].cure


def test_draws_that_depend_on_the_place_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded row that draws other numbers beside other rows fails the first sampling check."""
    counter = itertools.count()
    monkeypatch.setattr(sampling, "uniform", lambda seed, _: draw.uniform(seed, next(counter)))
    assert "sampling, any place in the batch" in {check.name for check in _failed()}


def test_draws_off_the_distribution_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that draws at another number than the row's own fails the second one."""
    monkeypatch.setattr(
        sampling, "uniform", lambda seed, position: draw.uniform(seed, position + 1)
    )
    assert {check.name for check in _failed()} == {"sampling, the right distribution"}


def test_rows_that_get_each_others_adapters_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose mixed batches swap rows fails the comparison with rows that ran alone."""

    class Reversed(GatherRoute):
        def __init__(self, rows: Sequence[Row], mixture: Mixture) -> None:
            super().__init__(list(reversed(rows)), mixture)

    monkeypatch.setattr(router, "GatherRoute", Reversed)
    failed = _failed()
    assert [check.name for check in failed] == ["mixed batch against one row alone"]
    assert "in the batch and" in failed[0].detail


def test_a_kv_cache_that_shows_a_row_its_padding_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of different lengths lie behind padding; a mask that forgets it fails each check."""

    def unpadded(cache: RaggedKVCache, tokens: int) -> mx.array:
        mask: mx.array = create_causal_mask(tokens, cache.size())
        return mask

    monkeypatch.setattr(RaggedKVCache, "make_mask", unpadded)
    names = {check.name for check in _failed()}
    assert {"KV cache of 8 bits, float32", "KV cache of 4 bits, float32"} <= names


def test_a_kv_cache_that_shows_a_row_what_it_took_back_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guess that was refused must not be seen by what follows."""
    monkeypatch.setattr(RaggedKVCache, "roll_back", lambda cache, counts: None)
    names = {check.name for check in _failed()}
    assert {"KV cache of 8 bits, float32", "KV cache of 4 bits, float32"} <= names


def _failed() -> list[Check]:
    return [check for check in run_selftest() if not check.passed]
