"""The static catalog: which names resolve, and how long a revision counts as used."""

import threading

import pytest

from server.core.errors import TwoAdapters, UnknownModel
from server.core.ports import Model, Target
from tests.static_catalog import NamedAdapter, StaticCatalog

BASE = Model(id="org/base:v1", created=7)


def catalog() -> StaticCatalog:
    """A base whose name holds both separators, with two adapters."""
    pirate = NamedAdapter("pirate", "sha256-p", created=8, root="pirate")
    return StaticCatalog(BASE, [pirate, NamedAdapter("judge", "sha256-j", created=9)])


def test_the_base_is_listed_first_and_every_adapter_after_it() -> None:
    """Clients that take the first model get the base."""
    assert catalog().models() == (
        BASE,
        Model(id="org/base:v1:pirate", created=8, parent="org/base:v1", root="pirate"),
        Model(id="org/base:v1:judge", created=9, parent="org/base:v1"),
    )


def test_every_listed_name_can_be_pinned() -> None:
    """A listed id that does not work is worse than none."""
    names = catalog()
    for model in names.models():
        with names.pin(model.id) as target:
            assert target.name == model.id


def test_a_name_resolves_to_its_revision_and_the_base_to_none() -> None:
    """What the engine is told to add to the base."""
    names = catalog()
    with names.pin("org/base:v1") as target:
        assert target == Target("org/base:v1", flow="", revision=None)
    with names.pin("org/base:v1:judge") as target:
        assert target == Target("org/base:v1:judge", flow="judge", revision="sha256-j")


def test_a_revision_is_in_use_until_its_last_context_closes() -> None:
    """Two requests may share a revision; the first to end must not free it."""
    names = catalog()
    with names.pin("org/base:v1:pirate"):
        with names.pin("org/base:v1:pirate"), names.pin("org/base:v1"):
            assert names.pinned() == {"sha256-p": 2}
        assert names.pinned() == {"sha256-p": 1}
    assert names.pinned() == {}


def test_a_failing_request_gives_its_pin_back() -> None:
    """The pin must not survive the request, whatever happened to it."""
    names = catalog()
    with pytest.raises(RuntimeError), names.pin("org/base:v1:pirate"):
        raise RuntimeError
    assert names.pinned() == {}


def test_pins_of_many_threads_are_all_given_back() -> None:
    """A lost update would keep a revision for ever or free it too early."""
    names = catalog()

    def use() -> None:
        for _ in range(200):
            with names.pin("org/base:v1:pirate"):
                pass

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names.pinned() == {}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("base", "another base"),
        ("org/base:v1:nobody", "has no chain 'nobody'"),
        ("org/base:v1:pirate@1", "neither stages nor labels"),
        ("org/base:v1:pirate@stable", "neither stages nor labels"),
    ],
)
def test_an_unknown_name_is_refused_on_entry_with_the_reason(name: str, why: str) -> None:
    """An unknown chain must never be answered by the base."""
    with pytest.raises(UnknownModel, match=why) as caught, catalog().pin(name):
        pytest.fail("the context was entered")
    assert caught.value.param == "model"


def test_two_adapters_are_refused_on_entry() -> None:
    """Parameters would be applied twice."""
    with pytest.raises(TwoAdapters), catalog().pin("org/base:v1:pirate,judge"):
        pytest.fail("the context was entered")


def test_two_adapters_cannot_have_one_name() -> None:
    """The second would replace the first in silence."""
    twice = [NamedAdapter("a", "r1", created=1), NamedAdapter("a", "r2", created=1)]
    with pytest.raises(ValueError, match="same name"):
        StaticCatalog(BASE, twice)
