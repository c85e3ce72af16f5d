"""The operations that generate, embed, tokenize, and name models."""

from __future__ import annotations

from server.api.openapi.operation import (
    BASE,
    COUNT,
    FLAG,
    TEXT,
    Json,
    Operation,
    list_of,
    nullable,
    obj,
    ref,
    told,
)
from server.api.schema.chat import ChatRequest
from server.api.schema.completions import CompletionRequest
from server.api.schema.embeddings import EmbeddingsRequest
from server.api.schema.loads import LoadRequest, UnloadRequest
from server.api.schema.messages import CountTokensRequest, MessagesRequest
from server.api.schema.responses import PromptRequest, ResponsesRequest
from server.api.schema.tokens import DetokenizeRequest, TokenizeRequest

_USER: Json = {"role": "user", "content": "What is a rudder?"}
_RESPONSE = {"response_id": told(TEXT, "The id of a response that is kept")}
_ENGINE = (429,)
_INCLUDE: Json = {"include_obfuscation": FLAG, "starting_after": COUNT, "stream": FLAG}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a conversation",
        "OpenAI",
        ref("ChatCompletion"),
        body=ChatRequest,
        example={"model": BASE, "messages": [_USER], "max_tokens": 8},
        statuses=_ENGINE,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue texts",
        "OpenAI",
        ref("Completion"),
        body=CompletionRequest,
        example={"model": BASE, "prompt": "The cat sat", "max_tokens": 4},
        statuses=_ENGINE,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Embed texts",
        "OpenAI",
        list_of(
            ref("Embedding"),
            {"model": TEXT, "usage": obj({"prompt_tokens": COUNT, "total_tokens": COUNT})},
        ),
        body=EmbeddingsRequest,
        example={"model": BASE, "input": ["The cat sat.", "Fetch me the invoice."]},
        statuses=_ENGINE,
    ),
    Operation(
        "post",
        "/v1/responses",
        "Make a response",
        "OpenAI",
        ref("Response"),
        body=ResponsesRequest,
        example={"model": BASE, "input": "What is a rudder?", "max_output_tokens": 8},
        statuses=_ENGINE,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/responses/input_tokens",
        "Count the tokens that a response would read",
        "OpenAI",
        obj({"object": {"const": "response.input_tokens"}, "input_tokens": COUNT}),
        body=PromptRequest,
        example={"model": BASE, "input": "What is a rudder?"},
    ),
    Operation(
        "get",
        "/v1/responses/{response_id}",
        "A response that is kept",
        "OpenAI",
        ref("Response"),
        path=_RESPONSE,
        query=_INCLUDE,
    ),
    Operation(
        "delete",
        "/v1/responses/{response_id}",
        "Forget a response",
        "OpenAI",
        ref("Deleted"),
        path=_RESPONSE,
    ),
    Operation(
        "post",
        "/v1/responses/{response_id}/cancel",
        "Stop a response that runs in the background",
        "OpenAI",
        ref("Response"),
        optional_body=True,
        path=_RESPONSE,
    ),
    Operation(
        "get",
        "/v1/responses/{response_id}/input_items",
        "What a response answers",
        "OpenAI",
        list_of({"type": "object"}, {"first_id": nullable(TEXT), "has_more": FLAG}),
        path=_RESPONSE,
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": 100},
            "order": {"enum": ["asc", "desc"]},
            "after": TEXT,
        },
    ),
    Operation(
        "get",
        "/v1/models",
        "The names that work as model",
        "OpenAI",
        list_of(ref("Model")),
        query={"pins": told({"enum": ["0", "1"]}, "1 lists the pin of every stage, too")},
    ),
    Operation(
        "get",
        "/v1/models/{name}",
        "One of them",
        "OpenAI",
        ref("Model"),
        path={"name": told(TEXT, "A name; it may contain / and :", BASE)},
    ),
    Operation(
        "post",
        "/v1/messages",
        "Answer a conversation",
        "Anthropic",
        ref("Message"),
        body=MessagesRequest,
        example={"model": BASE, "messages": [_USER], "max_tokens": 8},
        statuses=_ENGINE,
        streams=True,
        errors="AnthropicError",
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "Count the tokens that an answer would read",
        "Anthropic",
        obj({"input_tokens": COUNT}),
        body=CountTokensRequest,
        example={"model": BASE, "messages": [_USER]},
        errors="AnthropicError",
    ),
    Operation(
        "post",
        "/tokenize",
        "The tokens of a text or a conversation",
        "vLLM",
        obj(
            {
                "count": COUNT,
                "max_model_len": COUNT,
                "tokens": {"type": "array", "items": COUNT},
                "token_strs": nullable({"type": "array", "items": TEXT}),
            }
        ),
        body=TokenizeRequest,
        example={"model": BASE, "messages": [_USER], "return_token_strs": True},
    ),
    Operation(
        "post",
        "/detokenize",
        "The text of tokens",
        "vLLM",
        obj({"prompt": TEXT}),
        body=DetokenizeRequest,
        example={"model": BASE, "tokens": [72, 105]},
    ),
    Operation(
        "post",
        "/v1/load_lora_adapter",
        "Serve an adapter that lies on this machine",
        "vLLM",
        "text/plain",
        body=LoadRequest,
        example={"lora_name": "loaded", "lora_path": "loaded"},
        statuses=(409, 507),
    ),
    Operation(
        "post",
        "/v1/unload_lora_adapter",
        "Serve it no longer",
        "vLLM",
        "text/plain",
        body=UnloadRequest,
        example={"lora_name": "loaded"},
        statuses=(409, 507),
    ),
    Operation(
        "get", "/health/live", "200 while the process answers", "Health", obj({"status": TEXT})
    ),
    Operation(
        "get",
        "/health/ready",
        "200 while requests are admitted",
        "Health",
        obj({"status": TEXT}),
    ),
    Operation("get", "/openapi.json", "This document", "Health", obj({"openapi": TEXT})),
)
