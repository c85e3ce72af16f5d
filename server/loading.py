"""The real parts behind ``server.app``'s seam: base, tokenizer, store, training and MLX engine."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from adapters.base.blas import preload
from adapters.base.device import describe_device
from adapters.base.fingerprint import fingerprint
from adapters.base.load import Base, load_base, resolve_model
from adapters.base.quantized_kv import KVQuantization
from adapters.base.tokenizer import BaseTokenizer, load_tokenizer
from adapters.formats.foreign import Told
from adapters.formats.oldest import Heads
from adapters.lora.targets import linear_targets
from adapters.pins import Pins
from adapters.shape import BaseShape
from adapters.stages.archives import ArchiveService
from adapters.stages.files import FileService
from adapters.stages.imports import began_elsewhere, bring_in, read_arrival
from adapters.stages.intake import Intake
from adapters.stages.loads import FoundAdapters, LoadService
from adapters.stages.run import Host
from adapters.stages.runner import Runner
from adapters.stages.service import ChainService, DatasetService, StageService
from adapters.stages.transfers import TransferService
from adapters.store import Store
from server.app import Loaded, Management
from server.catalog import ChainCatalog
from server.core.ports import Model
from server.engine.device import Limits, LoadedModel
from server.engine.engine import MlxEngine
from server.engine.grammar_tokens import grammar_tokens
from server.engine.grammars import Grammars
from server.samples import Candidates, EngineSampler
from server.settings import Settings
from server.sources import StoredAdapters

log = logging.getLogger(__name__)

_FLOAT32_BYTES = 4
_TRAINING_SHARE = 0.5
"""Of the memory that is free when a stage is added: the rest is for rows and their caches."""


class _BaseShapeLater:
    """What the device thread finds out when it loads the base."""

    def __init__(self) -> None:
        self._found: BaseShape | None = None

    def found(self, base: Base) -> None:
        """Called once, on the device thread."""
        itemsize = 4 if base.compute.dtype == "float32" else 2
        self._found = BaseShape(base.config, linear_targets(base.model), itemsize)

    def __call__(self) -> BaseShape:
        if self._found is None:
            raise RuntimeError("the base is not loaded yet")
        return self._found


def load_parts(settings: Settings) -> Loaded:
    """Everything but the arrays, which the device thread loads when the engine starts.

    Raises AdapterError where the base, an adapter or the data directory cannot be used.
    """
    path = resolve_model(settings.model, settings.data_dir, progress=log.info)
    tokenizer = load_tokenizer(path)
    identity = fingerprint(path)
    store = Store(settings.data_dir, clock=time.time, base=identity)
    told = Told(heads=Heads.of(json.loads((path / "config.json").read_text())))
    arrivals = [
        (name, source, read_arrival(source, told, follow_links=True))
        for name, source in reversed(settings.adapters)
        if not _goes_on(store, name, source)
    ]
    facts: dict[str, Any] = {}
    build = _build_record()
    kv = _kv_quantization(settings)
    shape = _BaseShapeLater()

    def load() -> LoadedModel:
        base = load_base(path, cpu_float32_bytes=settings.cpu_float32_bytes)
        if kv is not None:
            kv.refuse_unfit(base.model, path)
        facts["compute"] = dataclasses.asdict(base.compute)
        build["matrices"] = base.compute.form
        shape.found(base)
        while arrivals:  # emptied, since this closure lives as long as the engine
            name, source, arrival = arrivals.pop()
            bring_in(store, name, source, shape(), arrival=arrival)
        return LoadedModel(base.model, tokenizer.vocab_size, base.compute.dtype, kv)

    free = describe_device().memory_free_bytes
    candidates = Candidates(StoredAdapters(store))
    grammars = Grammars(lambda: grammar_tokens(tokenizer))
    engine = MlxEngine(load, _limits(settings, path, free), candidates, grammars=grammars)
    sampler = EngineSampler(engine, tokenizer, candidates, engine.forget, lambda: engine.loop)
    block_s = settings.train_block_ms / 1000
    host = Host(store, engine.device, sampler, tokenizer, shape, build=build, block_s=block_s)
    pins = Pins()
    facts.update(
        base={"path": path.name, "fingerprint": identity},
        device=dataclasses.asdict(describe_device()),
        blas=dataclasses.asdict(preload()),
    )
    return Loaded(
        engine=engine,
        tokenizer=tokenizer,
        catalog=ChainCatalog(Model(settings.base_name, created=int(time.time())), store, pins),
        fingerprint=f"fp_{identity[:16]}",
        facts=lambda: dict(facts),
        management=_management(host, tokenizer, pins, engine, settings.adapter_import_dirs),
        close=store.close,
    )


def _management(
    host: Host,
    tokenizer: BaseTokenizer,
    pins: Pins,
    engine: MlxEngine,
    import_dirs: Sequence[Path],
) -> Management:
    runner = Runner(host)
    intake = Intake(host.store, tokenizer, host.base, _free_for_training)
    chains = ChainService(host.store, pins, engine.forget)
    return Management(
        stages=StageService(host.store, intake, runner),
        chains=chains,
        datasets=DatasetService(host.store, intake),
        transfers=TransferService(host.store, host.base),
        archives=ArchiveService(host.store, host.base, pins),
        loads=LoadService(host.store, host.base, chains, FoundAdapters(import_dirs)),
        files=FileService(host.store),
        jobs=host.store.jobs,
        start=runner.start,
        stop=runner.stop,
    )


def _goes_on(store: Store, name: str, source: Path) -> bool:
    """Whether the adapter that was given is gone, and its chain has it from an earlier start."""
    if source.exists() or not began_elsewhere(store, name):
        return False
    log.warning("%s is gone; the chain %s goes on with what it began with", source, name)
    return True


def _free_for_training() -> int:
    return int(describe_device().memory_free_bytes * _TRAINING_SHARE)


def _build_record() -> dict[str, Any]:
    """What bit-equality depends on besides a stage's own settings and the form of the base."""
    blas = preload()
    return {
        "versions": {name: _version(name) for name in ("mlx", "mlx-lm", "chainlora")},
        "device": describe_device().kind,
        "machine": platform.machine(),
        "blas": {"source": blas.source, "config": blas.config, "threads": blas.threads},
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # ours, where it runs from a clone
        return "from a clone"


def _limits(settings: Settings, path: Path, free: int) -> Limits:
    """The engine's bounds; automatic budgets are shares of the free memory."""
    kv_bytes = settings.kv_budget_bytes or max(free * 3 // 10, 1 << 28)
    prefix_bytes = settings.prefix_cache_bytes
    adapter_bytes = settings.adapter_budget_bytes or max(free // 10, 1 << 28)
    return Limits(
        max_rows=settings.max_rows,
        prefill_rows=settings.prefill_rows,
        prefill_block_s=settings.prefill_block_ms / 1000,
        train_share=settings.train_share,
        queue_limit=settings.queue_limit,
        queue_kv_factor=settings.queue_kv_factor,
        event_queue_limit=settings.event_queue_limit,
        adapter_budget_bytes=adapter_bytes,
        kv_budget_tokens=max(256, kv_bytes // _kv_bytes_per_token(settings, path)),
        prefix_cache_bytes=kv_bytes // 3 if prefix_bytes is None else prefix_bytes,
        speculate=settings.speculate == "auto",
    )


def _kv_quantization(settings: Settings) -> KVQuantization | None:
    if settings.kv_bits == "off":
        return None
    return KVQuantization(int(settings.kv_bits), int(settings.kv_group_size))


def _kv_bytes_per_token(settings: Settings, path: Path) -> int:
    """Bytes that one token takes in the KV caches of all layers, at most (in float32)."""
    kv = _kv_quantization(settings)
    per_value = _FLOAT32_BYTES if kv is None else kv.bytes_per_value(_FLOAT32_BYTES)
    config = json.loads((path / "config.json").read_text())
    config = {**config, **config.get("text_config", {})}
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    width = int(config.get("head_dim") or config["hidden_size"] // heads)
    return math.ceil(int(config["num_hidden_layers"]) * 2 * kv_heads * width * per_value)
