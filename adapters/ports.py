"""What training asks of the process that it runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Device(Protocol):
    """The thread that owns the base, lent for one piece of work at a time."""

    def run(self, piece: Callable[[Any], Result]) -> Result:
        """``piece(model)`` on the device thread, between two steps of serving; waits for it.

        ``model`` is the served base (an ``mlx.nn`` module whose linear layers are wrapped by the
        router): to be read, never changed. A piece keeps to ``train_block_ms``: MLX cannot be
        interrupted. No lazy array may leave it. What it raises of ``AdapterError`` is raised here
        and harms nothing; anything else poisons the device. Raises DeviceGone where the device has
        failed or stops.
        """
        ...


class Sampler(Protocol):
    """Answers prompts beside the requests that are being served."""

    def answer(
        self,
        prompt: str,
        adapter: Any | None,
        *,
        max_tokens: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> str:
        """The greedy answer of the base with ``adapter`` (AdapterFiles; None: bare); waits for it.

        Raises AdapterError where it cannot be had, and soon after ``should_stop`` says yes.
        """
        ...


class Tokenizer(Protocol):
    """The base's tokenizer and chat template, as training needs them; safe from any thread."""

    @property
    def end_token(self) -> int:
        """The id that ends an answer, as the chat template spells it."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """All ids at which serving ends an answer."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of rows of the model's output; a token id beyond has no meaning to it."""
        ...

    @property
    def max_context(self) -> int:
        """Tokens that the base can see at once."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, with the beginning-of-text token where the model has one."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        open_turn: bool,
    ) -> list[int]:
        """Token ids of a conversation by the chat template.

        With ``open_turn`` it ends where the assistant's next answer begins. Raises
        ChatTemplateError where there is no template or it refuses the conversation.
        """
        ...
