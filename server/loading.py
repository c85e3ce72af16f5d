"""The real parts behind ``server.app``'s seam: base, tokenizer, adapters and the MLX engine."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.base.blas import preload
from adapters.base.device import describe_device
from adapters.base.fingerprint import fingerprint
from adapters.base.load import load_base, resolve_model
from adapters.base.tokenizer import load_tokenizer
from adapters.formats.mlx_lm import AdapterFiles, read_adapter
from adapters.formats.revision import revision_id
from server.app import Loaded
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine
from server.settings import Settings

log = logging.getLogger(__name__)

_KV_BYTES_PER_VALUE = 4


class DirectoryAdapters:
    """Adapters that lie in directories, by revision id; each is read when it is wanted."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = dict(directories)

    def read(self, revision: str) -> AdapterFiles:
        """The adapter's arrays; OSError where the directory holds another one by now."""
        directory = self._directories[revision]
        files = read_adapter(directory)
        if revision_id(files) != revision:
            raise OSError(f"{directory} changed after the server started; restart the server.")
        return files

    def registered(self) -> int:
        """How many adapters there are."""
        return len(self._directories)


def load_parts(settings: Settings) -> Loaded:
    """Everything but the arrays, which the device thread loads when the engine starts.

    Raises AdapterError where the base or an adapter cannot be used.
    """
    path = resolve_model(settings.model, settings.data_dir, progress=log.info)
    tokenizer = load_tokenizer(path)
    revisions: dict[str, str] = {}
    directories: dict[str, Path] = {}
    for name, directory in settings.adapters:
        revisions[name] = revision_id(read_adapter(directory))
        directories[revisions[name]] = directory
    facts: dict[str, Any] = {}

    def load() -> LoadedModel:
        base = load_base(path, cpu_float32_bytes=settings.cpu_float32_bytes)
        facts["compute"] = dataclasses.asdict(base.compute)
        return LoadedModel(base.model, tokenizer.vocab_size, base.compute.dtype)

    free = describe_device().memory_free_bytes
    identity = fingerprint(path)
    engine = MlxEngine(load, _limits(settings, path, free), DirectoryAdapters(directories))
    facts.update(
        base={"path": path.name, "fingerprint": identity},
        device=dataclasses.asdict(describe_device()),
        blas=dataclasses.asdict(preload()),
    )
    return Loaded(
        engine=engine,
        tokenizer=tokenizer,
        fingerprint=f"fp_{identity[:16]}",
        revisions=revisions,
        facts=lambda: dict(facts),
    )


def _limits(settings: Settings, path: Path, free: int) -> Limits:
    """The engine's bounds; automatic budgets are shares of the free memory."""
    kv_bytes = settings.kv_budget_bytes or max(free * 3 // 10, 1 << 28)
    adapter_bytes = settings.adapter_budget_bytes or max(free // 10, 1 << 28)
    return Limits(
        max_rows=settings.max_rows,
        prefill_rows=settings.prefill_rows,
        prefill_block_s=settings.prefill_block_ms / 1000,
        train_share=settings.train_share,
        queue_limit=settings.queue_limit,
        event_queue_limit=settings.event_queue_limit,
        adapter_budget_bytes=adapter_bytes,
        kv_budget_tokens=max(256, kv_bytes // _kv_bytes_per_token(path)),
    )


def _kv_bytes_per_token(path: Path) -> int:
    """Bytes that one token takes in the KV caches of all layers, at most (float32)."""
    config = json.loads((path / "config.json").read_text())
    config = {**config, **config.get("text_config", {})}
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    width = int(config.get("head_dim") or config["hidden_size"] // heads)
    return int(config["num_hidden_layers"]) * 2 * kv_heads * width * _KV_BYTES_PER_VALUE
