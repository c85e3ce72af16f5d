"""A checkpoint: all that an interrupted stage needs to go on as if nothing had happened.

One safetensors file: the parameters, both moments of each, and in its header the number of steps
done and the digests of plan, settings and content. Everything random in a stage is a function of
its settings and the step, so nothing else has a state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adapters.errors import AdapterFileError
from adapters.formats.arrays import HostArray
from adapters.formats.files import sync, unwritten
from adapters.formats.safetensors_file import read_tensors, write_tensors
from adapters.lineage import TrainSettings
from adapters.shape import LoraShape

_FORMAT = "chainlora checkpoint 1"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The state after ``step`` optimizer steps, on the host.

    ``parameters`` and ``moments`` are float32; a moment's name is ``m.`` or ``v.`` and its
    parameter's. ``plan`` and ``settings`` are the digests that a resumed stage must have too.
    """

    step: int
    plan: str
    settings: str
    parameters: Mapping[str, HostArray]
    moments: Mapping[str, HostArray]

    def misfits(
        self, *, plan: str, settings: str, steps: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> list[str]:
        """Why a stage cannot go on from here, in words; empty where it can.

        ``shapes`` are those of the stage's parameters.
        """
        found = []
        if self.plan != plan:
            found.append("it belongs to another plan of batches (other data or settings)")
        if self.settings != settings:
            found.append("it was written under other settings")
        if not 0 <= self.step <= steps:
            found.append(f"it claims step {self.step} of {steps}")
        moments = {
            f"{moment}.{name}": shape for moment in ("m", "v") for name, shape in shapes.items()
        }
        for what, held, wanted in (
            ("parameters", self.parameters, shapes),
            ("moments", self.moments, moments),
        ):
            if held.keys() != wanted.keys():
                found.append(f"its {what} are not those of this stage")
                continue
            found += [
                f"{name} is {array.dtype} {array.shape}, not F32 {wanted[name]}"
                for name, array in held.items()
                if (array.dtype, array.shape) != ("F32", wanted[name])
            ]
            found += [f"{name} is not finite" for name, a in held.items() if not a.is_finite()]
        return found


def settings_digest(settings: TrainSettings, shape: LoraShape, stage_number: int) -> str:
    """SHA-256 over all that decides what a stage computes from its plan and its parent."""
    content = {
        "settings": dataclasses.asdict(settings),
        "shape": dataclasses.asdict(shape),
        "stage": stage_number,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_checkpoint(file: Path, checkpoint: Checkpoint) -> None:
    """Put the checkpoint at ``file`` durably; whatever was there stays until it is whole.

    Raises StorageFull where the disk is, StoreError where it cannot be written.
    """
    tensors = {f"p.{name}": array for name, array in checkpoint.parameters.items()}
    tensors |= checkpoint.moments
    header = {
        "checkpoint": _FORMAT,
        "step": str(checkpoint.step),
        "plan": checkpoint.plan,
        "settings": checkpoint.settings,
        "content": _content_digest(str(checkpoint.step), tensors),
    }
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.stem}-", suffix=".part", dir=file.parent)
        os.close(handle)
        part = Path(name)
        write_tensors(part, tensors, metadata=header)
        sync(part)
        part.replace(file)
        sync(file.parent)
    except (OSError, SafetensorError) as error:
        raise unwritten(file, error) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def read_checkpoint(file: Path) -> Checkpoint:
    """The checkpoint in ``file``; whether a stage can go on from it is the trainer's question.

    Raises AdapterFileError for a file that is missing, damaged or no checkpoint.
    """
    # The reader sets aside as much as it may read.
    tensors = read_tensors(file, most=file.stat().st_size if file.is_file() else 0)
    with safe_open(file, framework="numpy") as opened:
        header = opened.metadata() or {}
    step = header.get("step", "")
    if header.get("checkpoint") != _FORMAT or not (step.isascii() and step.isdecimal()):
        raise AdapterFileError(f"{file} is no checkpoint of this version.")
    groups: dict[str, dict[str, HostArray]] = {"p": {}, "m": {}, "v": {}}
    for name, array in tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise AdapterFileError(f"{file}: the tensor {name!r} is no part of a checkpoint.")
        groups[group][rest if group == "p" else name] = array
    if header.get("content") != _content_digest(step, tensors):
        raise AdapterFileError(f"{file} is damaged: the disk may be failing.")
    return Checkpoint(
        step=int(step),
        plan=header.get("plan", ""),
        settings=header.get("settings", ""),
        parameters=groups["p"],
        moments=groups["m"] | groups["v"],
    )


def _content_digest(step: str, tensors: Mapping[str, HostArray]) -> str:
    """SHA-256 over the step and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(f"{step}\n".encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
