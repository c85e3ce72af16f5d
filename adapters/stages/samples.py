"""What a stage answers while it learns, beside what its parent answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adapters.errors import AdapterError, DeviceGone
from adapters.formats.mlx_lm import AdapterFiles
from adapters.ports import Sampler
from adapters.stages.journal import Journal
from adapters.training.trainer import Interrupted

_MOST_TOKENS = 64


class Samples:
    """Answers the stage's prompts and tells of it; without prompts it does nothing.

    Raises Interrupted soon after ``should_stop`` says yes.
    """

    def __init__(
        self,
        sampler: Sampler,
        journal: Journal,
        prompts: Sequence[str],
        should_stop: Callable[[], bool],
    ) -> None:
        self._sampler = sampler
        self._journal = journal
        self._prompts = prompts
        self._should_stop = should_stop
        self._before: dict[str, str | None] = {}

    def ask_parent(self, parent: AdapterFiles | None) -> None:
        """Remember what the parent answers; None is the bare base."""
        self._before = {prompt: self._answer(prompt, parent) for prompt in self._prompts}

    def ask(
        self, candidate: Callable[[], AdapterFiles], step: int, parent: AdapterFiles | None
    ) -> None:
        """Tell what the stage answers now."""
        if not self._prompts:
            return
        if not self._before:  # a resumed stage asks its parent again
            self.ask_parent(parent)
        files = candidate()
        for prompt in self._prompts:
            answer = self._answer(prompt, files)
            if answer is not None:
                self._journal.tell(
                    "sample",
                    step=step,
                    prompt=prompt,
                    answer=answer,
                    parent_answer=self._before[prompt],
                )

    def _answer(self, prompt: str, adapter: AdapterFiles | None) -> str | None:
        """An answer, or a warning: a sample that fails is no reason to stop training."""
        if self._should_stop():
            raise Interrupted
        try:
            return self._sampler.answer(
                prompt, adapter, max_tokens=_MOST_TOKENS, should_stop=self._should_stop
            )
        except DeviceGone:
            raise
        except AdapterError as error:
            if self._should_stop():
                raise Interrupted from error
            self._journal.warn(str(error))
            return None
