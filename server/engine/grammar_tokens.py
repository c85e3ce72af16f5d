"""A tokenizer as llguidance sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from llguidance import LLTokenizer, TokenizerWrapper


class SpelledTokens(Protocol):
    """What llguidance must know of a tokenizer; ``adapters.base.tokenizer`` says what each is."""

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    @property
    def end_tokens(self) -> frozenset[int]: ...  # noqa: D102

    @property
    def special_tokens(self) -> frozenset[int]: ...  # noqa: D102

    def definition(self) -> str | None: ...  # noqa: D102

    def token_bytes(self, token: int) -> bytes: ...  # noqa: D102

    def spell(self, text: str) -> Sequence[int]: ...  # noqa: D102


def grammar_tokens(tokenizer: SpelledTokens) -> Any:
    """llguidance's tokenizer; takes up to a second for a large vocabulary.

    Made from tokenizer.json where llguidance can read it, else from the bytes of each token. Raises
    ValueError where the model can draw none of its end tokens: no text could end.
    """
    end = sorted(token for token in tokenizer.end_tokens if token < tokenizer.vocab_size)
    if not end:
        raise ValueError("none of its end tokens is in its vocabulary; check its files")
    definition = tokenizer.definition()
    if definition is not None:
        try:
            return LLTokenizer(definition, n_vocab=tokenizer.vocab_size, eos_token=end)
        except ValueError:  # a decoder that it does not know
            pass
    return LLTokenizer(
        TokenizerWrapper(_Spelling(tokenizer, end[0])), n_vocab=tokenizer.vocab_size, eos_token=end
    )


class _Spelling:
    """What llguidance's wrapper asks for."""

    def __init__(self, tokenizer: SpelledTokens, end: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end
        self.bos_token_id = None
        self.tokens = [
            tokenizer.token_bytes(token) or f"<no-text-{token}>".encode()
            for token in range(tokenizer.vocab_size)
        ]
        nameless = {t for t in range(tokenizer.vocab_size) if not tokenizer.token_bytes(t)}
        self.special_token_ids = sorted(tokenizer.special_tokens | tokenizer.end_tokens | nameless)

    def __call__(self, text: str | bytes) -> list[int]:
        """Token ids of plain text."""
        if isinstance(text, bytes):
            text = text.decode()
        return list(self._tokenizer.spell(text))
