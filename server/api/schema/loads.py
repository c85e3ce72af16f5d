"""The bodies of vLLM's ``POST /v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from server.api.schema.fields import MODEL_LENGTH, FalseOnly, Schema, Unsupported

Name = Annotated[str, Field(min_length=1, max_length=MODEL_LENGTH)]


class LoadRequest(Schema):
    """An adapter on the operator's disk, and the name to serve it under."""

    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False
    base_model_name: Name | None = None
    is_3d_lora_weight: FalseOnly = None
    is_mm_lora: FalseOnly = None


class UnloadRequest(Schema):
    """A name to serve no more."""

    lora_name: Name
    lora_int_id: Unsupported = None
