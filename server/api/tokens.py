"""vLLM's ``POST /tokenize`` and ``POST /detokenize``, which need no engine."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from server.api.chat_conversation import conversation_of
from server.api.conversing import encoding
from server.api.generation import check_vocabulary
from server.api.parts import Parts
from server.api.reading import json_response, read_body
from server.api.schema.chat import ChatRequest
from server.api.schema.check_chat import check_chat
from server.api.schema.tokens import DetokenizeRequest, TokenizeRequest
from server.api.wire import Body
from server.core.errors import InvalidRequest
from server.core.ports import Tokenizer

_OF_MESSAGES = ("add_generation_prompt", "continue_final_message", "tools", "chat_template_kwargs")


def token_routes(parts: Parts) -> APIRouter:
    """``/tokenize`` and ``/detokenize``."""
    router = APIRouter()

    @router.post("/tokenize", response_model=None)
    async def tokenize(request: Request) -> Response:
        asked, headers = await read_body(TokenizeRequest, request, parts)
        _check_model(parts, asked.model)
        _check_kind(asked)
        body = await anyio.to_thread.run_sync(
            _tokenized, asked, parts.tokenizer, abandon_on_cancel=True
        )
        return json_response(body, headers)

    @router.post("/detokenize", response_model=None)
    async def detokenize(request: Request) -> Response:
        asked, headers = await read_body(DetokenizeRequest, request, parts)
        _check_model(parts, asked.model)
        check_vocabulary(asked.tokens, "tokens", parts.tokenizer.vocab_size)
        text = await anyio.to_thread.run_sync(
            _text_of, asked.tokens, parts.tokenizer, abandon_on_cancel=True
        )
        return json_response({"prompt": text}, headers)

    return router


def _check_model(parts: Parts, name: str | None) -> None:
    """Every chain has the base's tokenizer, but a name must be one; raises UnknownModel."""
    if name is not None:
        parts.catalog.model(name)


def _check_kind(asked: TokenizeRequest) -> None:
    if (asked.prompt is None) == (not asked.messages):
        raise InvalidRequest("Give either prompt or messages.", param="prompt")
    if asked.prompt is not None:
        for name in _OF_MESSAGES:
            if getattr(asked, name) is not None:
                raise InvalidRequest(f"{name} has no meaning without messages.", param=name)
    elif asked.add_special_tokens:
        raise InvalidRequest(
            "add_special_tokens: the chat template writes the special tokens of messages; leave "
            "it out.",
            param="add_special_tokens",
        )


def _tokenized(asked: TokenizeRequest, tokenizer: Tokenizer) -> Body:
    tokens = _tokens_of(asked, tokenizer)
    strings = [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in tokens]
    return {
        "count": len(tokens),
        "max_model_len": tokenizer.max_context,
        "tokens": list(tokens),
        "token_strs": strings if asked.return_token_strs else None,
    }


def _tokens_of(asked: TokenizeRequest, tokenizer: Tokenizer) -> Sequence[int]:
    if asked.prompt is not None:
        plain = asked.add_special_tokens is False
        return tokenizer.spell(asked.prompt) if plain else tokenizer.encode(asked.prompt)
    chat = ChatRequest(
        model="any",
        messages=asked.messages,
        tools=asked.tools,
        add_generation_prompt=asked.add_generation_prompt,
        continue_final_message=asked.continue_final_message,
        chat_template_kwargs=asked.chat_template_kwargs,
    )
    check_chat(chat)
    return encoding(conversation_of(chat))(tokenizer).tokens


def _text_of(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    detokenizer = tokenizer.detokenizer()
    return "".join([*map(detokenizer.add, tokens), detokenizer.finish()])
