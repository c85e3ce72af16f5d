"""Checks everything about a stage before it is queued: whatever can be refused is refused here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from adapters.errors import (
    ChainNotFound,
    ChatTemplateError,
    DataError,
    LineFault,
    MemoryExceeded,
    ParentMoved,
    RevisionNotFound,
)
from adapters.growth import resolve_shape
from adapters.lineage import Dataset, Idempotency, NewStage, Stage, StageRequest, TrainSettings
from adapters.ports import Tokenizer
from adapters.shape import BaseShape, LoraShape
from adapters.store import Store
from adapters.training.batches import Example, make_plan
from adapters.training.dataset import check_dataset, tokenise, write_rows
from adapters.training.memory import estimate


class Intake:
    """Turns what was asked for into a queued stage, or refuses it and queues nothing.

    ``base`` is known once the engine has loaded it; ``free_bytes`` says how much memory a stage may
    take now.
    """

    def __init__(
        self,
        store: Store,
        tokenizer: Tokenizer,
        base: Callable[[], BaseShape],
        free_bytes: Callable[[], int],
    ) -> None:
        self._store = store
        self._tokenizer = tokenizer
        self._base = base
        self._free_bytes = free_bytes

    def add(self, new: NewStage, idempotency: Idempotency | None) -> Stage:
        """Queue a stage; raises as ``server.api.admin.ports.Stages.add`` says."""
        if idempotency is not None:
            known = self._store.stages.find_idempotent(idempotency)
            if known is not None:
                return known
        head = self._head(new)
        shape = resolve_shape(None if head is None else head.shape, new.lora)
        self._check_samples(new.samples)
        dataset = self._dataset(new)
        examples = self._examples(dataset.id, new.settings, "dataset")
        validation = new.validation
        if validation is not None:
            self._examples(
                self._store.datasets.get(validation).id, new.settings, "validation_dataset"
            )
        self._check_memory(examples, shape, new.settings)
        self._check_split(examples, new.settings)
        request = StageRequest(
            chain=new.chain,
            dataset=dataset.id,
            settings=new.settings,
            validation=validation,
            parent=None if new.parent is None or head is None else head.revision,
            lora=new.lora,
            samples=new.samples,
            priority=new.priority,
            job=new.job,
        )
        return self._store.stages.add(request, idempotency)

    def add_dataset(self, file: Path, *, name: str | None) -> Dataset:
        """Check and keep an uploaded file, which is gone afterwards; raises DataError."""
        try:
            rows = check_dataset(file)
            return self._store.datasets.add(file, rows=rows, name=name)
        finally:
            file.unlink(missing_ok=True)

    def _head(self, new: NewStage) -> Stage | None:
        """The stage whose revision is the head now, which a named parent must be."""
        try:
            head = self._store.chains.resolve(new.chain, None)
        except (ChainNotFound, RevisionNotFound):
            head = None
        if head is not None and head.unavailable is not None:
            raise RevisionNotFound(
                f"{new.chain!r} cannot be continued from its head. {head.unavailable}",
                param="chain",
            )
        if new.parent is None:
            return head
        named = self._store.chains.resolve(new.chain, pin_of(new.parent))
        if head is None or named.revision != head.revision:
            at = "no revision" if head is None else f"stage {head.number}"
            raise ParentMoved(
                f"The head of {new.chain!r} is {at}, not {new.parent!r}: a stage continues the "
                "head. Roll the chain back to that revision first, fork it, or leave parent out.",
                param="parent",
            )
        return named

    def _dataset(self, new: NewStage) -> Dataset:
        if new.dataset is not None:
            return self._store.datasets.get(new.dataset)
        if not new.examples:
            raise DataError("There are no rows: give a data set's id or examples.")
        file = self._store.incoming()
        write_rows(file, new.examples)
        return self.add_dataset(file, name=None)

    def _examples(self, dataset: str, settings: TrainSettings, field: str) -> list[Example]:
        try:
            examples = tokenise(self._store.datasets.path(dataset), self._tokenizer, settings)
        except DataError as error:
            error.param = field
            raise
        if faults := tuple(self._misfits(examples)):
            raise DataError(
                f"{len(faults)} rows do not fit the base, the first: line {faults[0].line} "
                f"{faults[0].reason}.",
                faults=faults,
                param=field,
            )
        return examples

    def _misfits(self, examples: Sequence[Example]) -> Iterator[LineFault]:
        """Rows that the base cannot see whole, or not at all: MLX does not check an index."""
        context, vocabulary = self._tokenizer.max_context, self._tokenizer.vocab_size
        for each in examples:
            if len(each.tokens) > context:
                why = f"has {len(each.tokens)} tokens, the base's context of {context} tokens less"
                yield LineFault(each.line, why)
            elif max(each.tokens) >= vocabulary:
                why = (
                    f"has the token {max(each.tokens)}, and the base's output ends at "
                    f"{vocabulary - 1}: its tokenizer is not the one that it was made with"
                )
                yield LineFault(each.line, why)

    def _check_samples(self, prompts: Sequence[str]) -> None:
        """Whether serving can answer them: a sample that never comes is found out too late."""
        most = self._tokenizer.max_context
        for place, prompt in enumerate(prompts):
            turn = [{"role": "user", "content": prompt}]
            try:
                tokens = self._tokenizer.render(turn, tools=None, open_turn=True)
            except ChatTemplateError as error:
                raise DataError(
                    f"samples[{place}] cannot be answered. {error}", param="samples"
                ) from error
            if len(tokens) >= most:
                raise DataError(
                    f"samples[{place}] has {len(tokens)} tokens, the base's context {most}, which "
                    "leaves no room for an answer. Shorten it.",
                    param="samples",
                )

    def _check_split(self, examples: list[Example], settings: TrainSettings) -> None:
        plan = make_plan([len(each.tokens) for each in examples], settings, stage_number=1)
        if settings.validation_split > 0 and not plan.validation:
            raise DataError(
                f"validation_split is {settings.validation_split:g} and the data set has "
                f"{len(examples)} row: give at least two, or leave the split out.",
                param="validation_split",
            )

    def _check_memory(
        self, examples: list[Example], shape: LoraShape, settings: TrainSettings
    ) -> None:
        base = self._base()
        needed = estimate(
            base.config,
            base.linears,
            shape,
            settings,
            longest_row=max(len(each.tokens) for each in examples),
            itemsize=base.itemsize,
        )
        free = self._free_bytes()
        if needed > free:
            raise MemoryExceeded(
                f"The stage needs about {needed / 1e9:.1f} GB beside serving, {free / 1e9:.1f} GB "
                "are free. Lower micro_batch_tokens, the rank or num_layers, or shorten the rows."
            )


def pin_of(text: str) -> int | str:
    """A stage number where ``text`` is one, else a revision id or a label."""
    return int(text) if text.isascii() and text.isdecimal() else text
