"""The base's tokenizer and chat template, safe to use from any thread."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import mlx_lm.utils
from transformers import PreTrainedTokenizerBase

from adapters.base.detokenize import (
    Detokenizer,
    TableDetokenizer,
    WindowDetokenizer,
    byte_table,
    read_alphabet,
)
from adapters.base.dialect import Dialect, read_dialect
from adapters.errors import BaseError, ChatTemplateError

Ending = Literal["open", "continue", "closed"]
"""What a prompt ends with: an open turn, an unfinished message, or a finished one."""

# What a template may be told by name; the rest of the function's parameters are ours to set, and
# one of them is a template's source.
_TEMPLATE_PARAMETERS = {"tools", "documents"}
_RESERVED = (
    frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    - _TEMPLATE_PARAMETERS
) | {"messages", "self"}
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


class BaseTokenizer:
    """Text to tokens and back, as the base was trained to see them."""

    def __init__(self, wrapper: Any, *, vocab_size: int, max_context: int) -> None:
        self._wrapper = wrapper
        self._vocab_size = vocab_size
        self._max_context = max_context
        self._end_tokens = frozenset(wrapper.eos_token_ids)
        # A fast tokenizer sets truncation and padding on itself before it encodes: two threads at
        # once are refused ("Already borrowed").
        self._lock = threading.Lock()
        self._bytes, self._new_detokenizer = self._spelling()

    @property
    def vocab_size(self) -> int:
        """Number of rows of the model's output, which may be more than there are tokens."""
        return self._vocab_size

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation: those of generation_config and the tokenizer's own."""
        return self._end_tokens

    @functools.cached_property
    def end_token(self) -> int:
        """The end token that the chat template puts behind an answer.

        The tokenizer's own end of text where there is no template, or none in what it writes.
        """
        ask, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        try:
            asked = self.render([ask], tools=None, open_turn=True)
            told = self.render([ask, answer], tools=None, open_turn=False)
        except ChatTemplateError:
            told = asked = []
        for token in told[len(asked) :]:
            if token in self._end_tokens:
                return token
        own = self._wrapper.eos_token_id
        return min(self._end_tokens) if own is None else int(own)

    @property
    def max_context(self) -> int:
        """Prompt plus completion, in tokens."""
        return self._max_context

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, with the beginning-of-text token where the model has one.

        A text that begins with that token in words does not get a second one.
        """
        begin = self._wrapper.bos_token
        return self._encode(text, special=begin is None or not text.startswith(begin))

    @functools.cached_property
    def dialect(self) -> Dialect:
        """How the template and the model's answers write tools and reasoning."""
        return read_dialect(self._wrapper)

    @functools.cached_property
    def _thinks(self) -> bool:
        return bool(self.dialect.think_start) and "enable_thinking" in self.dialect.variables

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template_kwargs: Mapping[str, Any],
        ending: Ending = "open",
    ) -> list[int]:
        """Token ids of a conversation: ready for the assistant's turn, going on with its last
        message (``continue``), or ending as the template ends that message (``closed``).

        Raises ChatTemplateError where the base has no template, where its template refuses the
        conversation (with the template's words) and where ``template_kwargs`` names something that
        is not the template's.
        """
        if reserved := sorted(_RESERVED.intersection(template_kwargs)):
            raise ChatTemplateError(
                f"Not for a request to set: {', '.join(reserved)}. Chat template arguments are "
                "those that the model's template itself reads, such as enable_thinking."
            )
        return self._apply_template(messages, ending=ending, arguments=template_kwargs)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        open_turn: bool,
    ) -> list[int]:
        """Token ids of a conversation for training.

        With ``open_turn`` it ends where the assistant's next answer begins, and is what
        ``encode_chat`` gives. Raises ChatTemplateError where the base has no template or its
        template refuses the conversation.
        """
        arguments = {} if tools is None else {"tools": [dict(tool) for tool in tools]}
        ending: Ending = "open" if open_turn else "closed"
        return self._apply_template(messages, ending=ending, arguments=arguments)

    def _apply_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        ending: Ending,
        arguments: Mapping[str, Any],
    ) -> list[int]:
        if not self._wrapper.has_chat_template:
            raise ChatTemplateError(
                "This base has no chat template: use /v1/completions, train on rows of plain text, "
                "or serve an instruct model."
            )
        # mlx-lm thinks of markers that are tokens alone; a template may write others.
        thinks = {"enable_thinking": True} if self._thinks else {}
        try:
            text = self._wrapper.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=ending == "open",
                **({"continue_final_message": True} if ending == "continue" else {}),
                **{**thinks, **arguments},
            )
        except Exception as error:  # a template can fail in any way that Python can
            raise ChatTemplateError(
                f"The model's chat template refuses this conversation: {error}. Check the roles, "
                "their order and the content of the messages."
            ) from error
        tokens = self._encode(text, special=False)
        if not tokens:
            raise ChatTemplateError("The model's chat template makes nothing of these messages.")
        return tokens

    def detokenizer(self) -> Detokenizer:
        """A fresh one for one sequence."""
        return self._new_detokenizer()

    def token_bytes(self, token: int) -> bytes:
        """The bytes that ``token`` stands for; none for a row of the output that is no token.

        A special token stands for its name. Exact also where a token is part of a character, but
        for tokenizers that are neither byte-level nor sentencepiece, whose decoder is asked.
        Raises ValueError for an id outside the vocabulary.
        """
        if not 0 <= token < self._vocab_size:
            raise ValueError(f"token {token} is not in a vocabulary of {self._vocab_size}")
        return self._bytes[token] if token < len(self._bytes) else b""

    @property
    def special_tokens(self) -> frozenset[int]:
        """Ids that no plain text is encoded to: markers of turns, beginnings and ends."""
        return frozenset(self._wrapper.all_special_ids)

    def spell(self, text: str) -> list[int]:
        """Token ids of plain text and of nothing beside it."""
        return self._encode(text, special=False)

    def definition(self) -> str | None:
        """The content of tokenizer.json; None where the tokenizer is of another kind."""
        backend = getattr(self._wrapper, "backend_tokenizer", None)
        if backend is None:
            return None
        with self._lock:
            whole = copy.copy(backend)
        whole.no_padding()
        whole.no_truncation()
        return str(whole.to_str())

    def _encode(self, text: str, *, special: bool) -> list[int]:
        with self._lock:
            ids: list[int] = self._wrapper.encode(text, add_special_tokens=special)
        return ids

    def _decode(self, tokens: list[int]) -> str:
        with self._lock:
            text: str = self._wrapper.decode(tokens)
        return text

    def _spelling(self) -> tuple[Sequence[bytes], Callable[[], Detokenizer]]:
        """Bytes of each token, and what makes a detokenizer."""
        size = len(self._wrapper)
        backend = getattr(self._wrapper, "backend_tokenizer", None)
        decoder = getattr(backend, "decoder", None)
        alphabet = None if decoder is None else read_alphabet(json.loads(decoder.__getstate__()))
        if alphabet is None:
            decoded = tuple(self._decode([id_]).encode() for id_ in range(size))
            return decoded, lambda: WindowDetokenizer(self._decode)
        tokens = self._wrapper.convert_ids_to_tokens(list(range(size)))
        added = self._wrapper.added_tokens_decoder
        literal = {id_: str(token) for id_, token in added.items()}
        # Rows of the output without a token are empty text, should the model ever choose one.
        missing = [None] * max(0, self._vocab_size - size)
        table = byte_table([*tokens, *missing], literal, alphabet)
        return table, lambda: TableDetokenizer(table, strip=alphabet.strip)


def load_tokenizer(path: Path) -> BaseTokenizer:
    """The tokenizer in a model directory. Touches no network and runs none of the model's code.

    Raises BaseError where it cannot be loaded, or where config.json says neither the vocabulary's
    size nor the context's length.
    """
    load: Any = mlx_lm.utils.load_tokenizer
    try:
        config = mlx_lm.utils.load_config(path)
        wrapper = load(
            path,
            {"local_files_only": True, "trust_remote_code": False},
            eos_token_ids=config.get("eos_token_id"),
        )
    except Exception as error:  # transformers raises whatever the files make it meet
        raise BaseError(
            f"{path} has no tokenizer that can be loaded ({type(error).__name__}: {error}): fetch "
            "or convert the model again, with its tokenizer files."
        ) from error
    return BaseTokenizer(
        wrapper,
        vocab_size=_number(config, ("vocab_size",), path),
        max_context=_number(config, _CONTEXT_KEYS, path),
    )


def _number(config: Mapping[str, Any], keys: Sequence[str], path: Path) -> int:
    """The first of ``keys`` in a model's configuration, or in that of its text part."""
    for part in (config, config.get("text_config") or {}):
        for key in keys:
            if isinstance(part.get(key), int) and part[key] > 0:
                return int(part[key])
    raise BaseError(f"{path / 'config.json'} does not say {keys[0]}: add it to the file.")
