"""Every knob of the server in one frozen object, with its unit in its name."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from server.core.names import is_chain_name

EMBEDDED_NAME = "smollm2-135m"
"""What the embedded model is called where ``served_name`` is not set (DESIGN 8)."""


class Settings(BaseModel):
    """What ``chainlora serve`` was asked to do. None is auto: chosen from what is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str | None = Field(
        default=None,
        min_length=1,
        description="Base model: a local MLX directory or a Hugging Face id. "
        "Default: the embedded SmolLM2-135M-Instruct.",
    )
    served_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Name of the base in requests and in /v1/models. Default: the hub id, the "
        f"directory's name, or {EMBEDDED_NAME} for the embedded model.",
    )
    host: str = Field(default="127.0.0.1", description="Loopback address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    data_dir: Path = Field(
        default=Path("~/.chainlora"),
        validate_default=True,
        description="Where the server keeps what must outlive it.",
    )
    adapters: tuple[tuple[str, Path], ...] = Field(
        default=(),
        description="NAME=DIR: serve the adapter DIR (mlx-lm, PEFT or an npz file) as BASE:NAME. "
        f"As a flag, repeat it; in the variable, separate with {os.pathsep!r}.",
    )
    adapter_import_dirs: tuple[Path, ...] = Field(
        default=(),
        description="Directories whose adapters POST /v1/load_lora_adapter may load while the "
        f"server runs, separated with {os.pathsep!r}; none: it loads nothing.",
    )
    max_body_bytes: int = Field(
        default=8 * 2**20, ge=1024, description="Largest request body; a larger one gets 413."
    )
    max_upload_bytes: int = Field(
        default=2**30, ge=1024, description="Largest file of training data; a larger one gets 413."
    )
    stored_response_bytes: int = Field(
        default=64 * 2**20,
        ge=0,
        description="Memory for responses of /v1/responses that are kept for later; the one that "
        "was not used for the longest time makes room, 0 keeps none.",
    )
    request_timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="Longest life of a request, from its headers to its last token.",
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, description="Time that a client may take to send a request's headers."
    )
    body_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Time that a client may take to send a request's body; of an upload, the "
        "longest pause.",
    )
    keep_alive_timeout_s: int = Field(
        default=5, ge=1, description="How long an idle connection stays open."
    )
    send_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="How long one chunk of a stream may wait for a slow reader before it is cut.",
    )
    event_queue_limit: int = Field(
        default=1024,
        ge=2,
        description="Tokens that may wait for one slow reader before its request is ended.",
    )
    queue_limit: int = Field(
        default=256, ge=1, description="Requests that may wait for the device; one more gets 429."
    )
    queue_kv_factor: int = Field(
        default=16,
        ge=0,
        description="Requests that wait may together need so many times the KV cache; one more "
        "gets 429.",
    )
    max_rows: int = Field(default=32, ge=1, description="Rows of a decode batch.")
    prefill_rows: int = Field(default=8, ge=1, description="Rows of a prefill batch.")
    prefill_block_ms: int = Field(
        default=250,
        ge=1,
        description="Longest piece of prefill between two decode steps; four times that while half "
        "as many rows wait for their first token as decode.",
    )
    train_block_ms: int = Field(
        default=250,
        ge=1,
        description="Longest piece of training that a request should have to wait for. A stage "
        "whose pieces take longer says so in a warning.",
    )
    train_share: float = Field(
        default=0.25,
        ge=0,
        le=0.9,
        description="Share of the device's time that training gets while requests are served; it "
        "gets all of it while none is.",
    )
    adapter_budget_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Memory for resident adapters; auto: a tenth of free memory. A batch that "
        "mixes adapters holds copies of theirs beside it.",
    )
    kv_budget_bytes: int | None = Field(
        default=None, ge=1, description="Memory for the KV cache; auto: from free memory."
    )
    kv_bits: Literal["off", "8", "4"] = Field(
        default="off",
        description="Keep keys and values in so many bits. With 8 the KV budget holds 3.5 times "
        "the tokens of float32, with 4 6.4 times; on a CPU at the price of speed.",
    )
    kv_group_size: Literal["32", "64", "128"] = Field(
        default="64",
        description="With --kv-bits: values that share a scale and a bias; it must divide the "
        "width of a head.",
    )
    prefix_cache_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Memory for the KV of prompts and answers, which requests that begin with them "
        "need not compute again; 0 keeps none; auto: a third of the KV cache's.",
    )
    speculate: Literal["auto", "off"] = Field(
        default="auto",
        description="Guess a row's next tokens where its last ones have stood before, and verify "
        "the guesses in one step. The tokens are the same; auto does so where steps are measured "
        "to gain by it.",
    )
    cpu_float32_bytes: int | None = Field(
        default=None,
        ge=0,
        description="On a CPU, memory for float32 copies of the quantized matrices, which are "
        "many times faster there; on x86-64 Linux a second copy, where it fits too, halves the "
        "time of a token; 0 keeps none; auto: a quarter of free memory.",
    )
    unknown_fields: Literal["ignore", "refuse"] = Field(
        default="ignore",
        description="A request field that nobody defines: ignore it and name it in the header "
        "x-chainlora-ignored, or refuse the request.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Further host names that the Host header may carry, comma-separated. "
        "localhost and loopback addresses always may.",
    )
    shutdown_grace_s: float = Field(
        default=10.0, ge=0, description="Time that running requests get to finish after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )
    supervise: bool = Field(
        default=True,
        description="Run under a small parent that restarts the server if the device fails. "
        "Switch it off under systemd, launchd or in a container.",
    )

    @property
    def base_name(self) -> str:
        """The served name of the base."""
        if self.served_name is not None:
            return self.served_name
        if self.model is None:
            return EMBEDDED_NAME
        local = Path(self.model).expanduser()
        return local.resolve().name if local.is_dir() else self.model

    @field_validator("served_name")
    @classmethod
    def _is_visible(cls, name: str | None) -> str | None:
        if name is not None and not all("!" <= character <= "~" for character in name):
            raise ValueError(f"{name!r} must be visible ASCII without spaces, as in mistral-7b")
        return name

    @field_validator("host")
    @classmethod
    def _is_loopback(cls, host: str) -> str:
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(
                f"{host!r} is not a loopback address, and API keys do not exist yet: whoever "
                "reached it could use the server. Use 127.0.0.1, ::1 or localhost, and a tunnel "
                "(ssh -L) or an authenticating proxy for other machines"
            )
        return host

    @field_validator("data_dir")
    @classmethod
    def _is_absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("adapters")
    @classmethod
    def _are_chains(cls, pairs: tuple[tuple[str, Path], ...]) -> tuple[tuple[str, Path], ...]:
        names = [name for name, _ in pairs]
        for name in names:
            if not is_chain_name(name):
                raise ValueError(
                    f"{name!r} cannot name an adapter: letters, digits, '.', '_' and '-', at most "
                    "64, the first a letter or digit"
                )
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is given twice; give each directory its own name")
        return tuple((name, path.expanduser().absolute()) for name, path in pairs)

    @field_validator("adapter_import_dirs")
    @classmethod
    def _are_directories(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        found = tuple(path.expanduser().absolute() for path in paths)
        for path in found:
            if not path.is_dir():
                raise ValueError(f"{str(path)!r} is no directory; make it, or leave it out")
        return found

    @field_validator("kv_group_size")
    @classmethod
    def _groups_something(cls, size: str, info: ValidationInfo) -> str:
        if info.data.get("kv_bits") == "off" and size != cls.model_fields["kv_group_size"].default:
            raise ValueError("it sets nothing without --kv-bits 8 or 4")
        return size

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not host or set(host) & set(" /@*") or not host.isprintable():
                raise ValueError(f"{host!r} is not a host name; give it without scheme and port")
        return tuple(host.lower() for host in hosts)
