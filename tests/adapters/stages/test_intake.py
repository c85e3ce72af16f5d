"""Whatever can be refused is refused before anything is queued."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.base.load import load_base
from adapters.base.tokenizer import BaseTokenizer, load_tokenizer
from adapters.errors import (
    AdapterError,
    AdapterMismatch,
    ChainNotFound,
    ChatTemplateError,
    DataError,
    DatasetNotFound,
    MemoryExceeded,
    RevisionNotFound,
    ShapeContradiction,
)
from adapters.lineage import Idempotency, LoraRequest, NewStage, TrainSettings
from adapters.lora.targets import linear_targets
from adapters.shape import BaseShape
from adapters.stages.intake import Intake
from adapters.store import Store
from tests.adapters.store.rig import Clock, Rig

ROW = {
    "messages": [
        {"role": "user", "content": "What is a sail?"},
        {"role": "assistant", "content": "A cloth."},
    ]
}
ONCE = TrainSettings(epochs=1)


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> BaseShape:
    """What the engine finds out about the tiny model."""
    loaded = load_base(tiny_model)
    return BaseShape(loaded.config, linear_targets(loaded.model), 4)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> BaseTokenizer:
    """The tiny model's."""
    return load_tokenizer(tiny_model)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty one."""
    opened = Store(tmp_path, clock=lambda: 1.0, base="b" * 64)
    yield opened
    opened.close()


@pytest.fixture
def intake(store: Store, tokenizer: BaseTokenizer, base: BaseShape) -> Intake:
    """With a gigabyte to train in."""
    return Intake(store, tokenizer, lambda: base, lambda: 10**9)


def new(**fields: Any) -> NewStage:
    """The smallest stage, changed."""
    return NewStage(**{"chain": "boat", "settings": ONCE, "examples": [ROW], **fields})


def refused(intake: Intake, store: Store, error: type[AdapterError], stage: NewStage) -> str:
    """The reason; nothing may be queued, and no chain begun."""
    with pytest.raises(error) as caught:
        intake.add(stage, None)
    page = store.stages.list(chain=None, state=None, after=None, limit=10)
    assert page.data == []
    assert store.chains.list() == []
    assert list(store.incoming().parent.iterdir()) == []
    return str(caught.value)


def test_a_good_stage_is_queued_with_its_data_kept(intake: Intake, store: Store) -> None:
    """The same rows give the same data set."""
    first, second = intake.add(new(), None), intake.add(new(), None)
    assert (first.number, second.number) == (1, 2)
    assert first.request is not None
    assert second.request is not None
    assert first.request.dataset == second.request.dataset
    assert store.datasets.get(first.request.dataset).rows == 1


def test_memory_that_cannot_fit_is_refused_with_the_estimate(
    store: Store, tokenizer: BaseTokenizer, base: BaseShape
) -> None:
    """Before a stage fails in the middle, or takes the server with it."""
    small = Intake(store, tokenizer, lambda: base, lambda: 1000)
    message = refused(small, store, MemoryExceeded, new())
    assert "GB beside serving" in message


def test_every_bad_line_is_named(intake: Intake, store: Store) -> None:
    """One refusal for all of them."""
    rows = [ROW, {"text": 1}, ROW, {"prompt": "no completion"}]
    with pytest.raises(DataError) as caught:
        intake.add(new(examples=rows), None)
    assert [fault.line for fault in caught.value.faults] == [2, 4]
    assert store.chains.list() == []


def test_a_row_beyond_the_bases_context_is_named(
    intake: Intake, store: Store, tokenizer: BaseTokenizer
) -> None:
    """However long a row the settings allow."""
    long = {"text": "sail " * tokenizer.max_context}
    settings = TrainSettings(epochs=1, max_seq_length=10**6)
    message = refused(intake, store, DataError, new(examples=[long], settings=settings))
    assert f"context of {tokenizer.max_context} tokens" in message
    assert "line 1" in message


def test_a_sample_that_can_have_no_answer_is_refused(
    intake: Intake, store: Store, tokenizer: BaseTokenizer
) -> None:
    """Not hours later, as a warning among the events."""
    fits, long = "What is a sail?", "sail " * tokenizer.max_context
    message = refused(intake, store, DataError, new(samples=(fits, long)))
    assert message.startswith("samples[1] has ")
    assert f"context {tokenizer.max_context}" in message


def test_samples_need_a_chat_template(
    store: Store, tokenizer: BaseTokenizer, base: BaseShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain text can be learned without one."""

    def refuse(*_: object, **__: object) -> list[int]:
        raise ChatTemplateError("This base has no chat template.")

    monkeypatch.setattr(tokenizer, "render", refuse)
    intake = Intake(store, tokenizer, lambda: base, lambda: 10**9)
    rows = [{"text": "A sail is a cloth."}]
    message = refused(intake, store, DataError, new(examples=rows, samples=("hi",)))
    assert message == "samples[0] cannot be answered. This base has no chat template."
    assert intake.add(new(examples=rows), None).number == 1


def test_a_module_that_the_base_lacks_is_refused(intake: Intake, store: Store) -> None:
    """Never an adapter that does nothing."""
    lora = LoraRequest(keys=("self_attn.no_such_proj",))
    assert "no_such_proj" in refused(intake, store, AdapterMismatch, new(lora=lora))


def test_a_shape_that_cannot_be_is_refused(intake: Intake, store: Store) -> None:
    """A scale of zero would train nothing."""
    refused(intake, store, ShapeContradiction, new(lora=LoraRequest(scale=0.0)))


def test_a_parent_in_a_chain_that_is_not_there_is_refused(intake: Intake, store: Store) -> None:
    """A typing error must not begin a chain."""
    refused(intake, store, ChainNotFound, new(parent="1"))


def test_an_unknown_data_set_is_refused(intake: Intake, store: Store) -> None:
    """For training and for validation."""
    missing = "0" * 64
    refused(intake, store, DatasetNotFound, new(examples=None, dataset=missing))
    refused(intake, store, DatasetNotFound, new(validation=missing))


def test_a_split_of_one_row_is_refused(intake: Intake, store: Store) -> None:
    """Nothing would be held out, and the loss that was asked for would never come."""
    settings = TrainSettings(epochs=1, validation_split=0.5)
    assert "at least two" in refused(intake, store, DataError, new(settings=settings))


def test_a_repeated_key_gives_the_first_stage_without_a_second_look(
    intake: Intake, store: Store
) -> None:
    """Also where the data would be refused by now."""
    key = Idempotency("POST /admin/stages", "k1", "digest")
    first = intake.add(new(), key)
    assert intake.add(new(examples=[{"text": 1}]), key) == first


def test_a_token_beyond_the_models_output_is_refused(
    store: Store, tokenizer: BaseTokenizer, base: BaseShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX checks no index: such a row would write over the process's memory."""
    monkeypatch.setattr(BaseTokenizer, "vocab_size", property(lambda _: 100))
    intake = Intake(store, tokenizer, lambda: base, lambda: 10**9)
    message = refused(intake, store, DataError, new())
    assert "the base's output ends at 99" in message


def test_a_head_whose_files_are_lost_is_not_continued(
    store: Store, intake: Intake, tmp_path: Path
) -> None:
    """The stage would fail once its turn comes; it is refused now, with what to do."""
    rig = Rig(tmp_path, store, Clock())
    lost = str(rig.bring_in("boat", 1.0).revision)
    store.unavailable.lost(lost, "Its files are missing.")
    with pytest.raises(RevisionNotFound, match=r"'boat' cannot be continued.*files are missing"):
        intake.add(new(), None)
    assert len(store.chains.stages("boat")) == 1
