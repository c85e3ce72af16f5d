"""What the parts are made from: the adapters that were given at start, and where this runs from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from adapters.errors import BaseError
from server import loading
from server.core.messages import Generate, Sampling, Token
from server.settings_text import from_environment_and_flags
from tests.adapters.store.rig import Rig, opened, unsynced


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A store on an empty data directory."""
    with unsynced(), opened(tmp_path / "data") as made:
        yield made


def test_a_chain_goes_on_without_the_directory_that_it_began_with(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store has its adapter: the flag may stay where a service names it."""
    gone = tmp_path / "gone"
    assert not loading._goes_on(rig.store, "pirate", gone)
    rig.bring_in("pirate", 1.0)
    assert loading._goes_on(rig.store, "pirate", gone)
    assert f"{gone} is gone; the chain pirate goes on with what it began with" in caplog.text
    assert not loading._goes_on(rig.store, "pirate", tmp_path)


def test_a_chain_that_was_trained_here_does_not_stand_for_a_missing_adapter(
    rig: Rig, tmp_path: Path
) -> None:
    """Another adapter was meant: the start must say so, as without a chain of that name."""
    rig.grow("pirate")
    assert not loading._goes_on(rig.store, "pirate", tmp_path / "gone")


def test_a_build_record_can_be_made_from_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is installed under our name, serving still starts."""

    def missing(name: str) -> str:
        if name == "chainlora":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(loading, "version", missing)
    versions = loading._build_record()["versions"]
    assert versions["chainlora"] == "from a clone"
    assert versions["mlx"] == version("mlx")


def test_a_kv_budget_holds_more_tokens_of_fewer_bits(tiny_model: Path) -> None:
    """In bytes: 4 for a float32; 8 or 4 bits and a scale and a bias for each 32."""
    tokens = {}
    for bits in ("off", "8", "4"):
        flags = {"kv_bits": bits, "kv_budget_bytes": "10000000"}
        if bits != "off":
            flags["kv_group_size"] = "32"
        settings = from_environment_and_flags({}, flags)
        tokens[bits] = loading._limits(settings, tiny_model, free=0).kv_budget_tokens
    # 4 layers, keys and values of 2 heads, 32 wide.
    values = 4 * 2 * 2 * 32
    assert tokens == {
        "off": 10_000_000 // (values * 4),
        "8": 10_000_000 // (values + values // 4),
        "4": 10_000_000 // (values // 2 + values // 4),
    }


@pytest.mark.anyio
async def test_kv_bits_that_the_base_cannot_have_end_the_start(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Its heads are 32 wide: the default groups do not fit, and nothing is served otherwise."""
    flags = {"model": str(tiny_model), "data_dir": str(tmp_path), "kv_bits": "8"}
    parts = loading.load_parts(from_environment_and_flags({}, flags))
    try:
        with pytest.raises(BaseError, match="--kv-group-size 32"):
            await parts.engine.start()
    finally:
        parts.close()


@pytest.mark.anyio
async def test_a_served_base_keeps_its_kv_in_the_bits_that_were_asked_for(
    tiny_model: Path, tmp_path: Path
) -> None:
    """One row: 4 layers, keys and values of 2 heads, room for 256 tokens, 20 bits for 32 values."""
    flags = {"model": str(tiny_model), "data_dir": str(tmp_path), "kv_bits": "4"}
    settings = from_environment_and_flags({}, flags | {"kv_group_size": "32"})
    parts = loading.load_parts(settings)
    await parts.engine.start()
    try:
        request = Generate("one", (1, 2, 3), 3, Sampling(seed=1), frozenset())
        sizes = {
            parts.engine.stats().kv_bytes
            async for event in parts.engine.submit(request)
            if isinstance(event, Token)
        }
        assert 4 * 2 * 2 * 32 * 258 * 6 // 8 in sizes
    finally:
        await parts.engine.stop(grace_s=0)
        parts.close()
