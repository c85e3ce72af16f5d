"""The keys of an ``mlx_lm.lora`` file as settings of a stage: each is mapped or refused by name.

What mlx-lm 0.32 knows is known here (``mlx_lm/lora.py``, ``CONFIG_DEFAULTS``). A key that has no
effect on what is learned is accepted with a note; one that would change it and that a stage does
not have is refused. Only keys that the file has are mapped: for the others the server's defaults
hold, not mlx-lm's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from server.lora_file.rate import put_schedule
from server.lora_file.values import Refused, StageFile, mapping, number, positive, whole
from server.screen import shown


def translate(config: Mapping[str, Any], *, iters: int | None = None) -> StageFile:
    """``config`` as stage settings; keys whose value is null count as absent.

    ``iters`` is the length that the command line gives instead. Raises Refused.
    """
    made = StageFile()
    given = {key: value for key, value in config.items() if value is not None}
    for key, value in given.items():
        _key(key)(made, key, value)
    if iters is not None:
        made.settings["iters"] = iters
    _optimizer(made, given)
    _accumulate(made, given.get("grad_accumulation_steps", 1), flagged=iters is not None)
    put_schedule(made, given)
    return made


def _key(key: str) -> Callable[[StageFile, str, Any], None]:
    if key in KEYS:
        return KEYS[key]
    close = difflib.get_close_matches(key, KEYS, n=1)
    meant = f"; is {close[0]} meant?" if close else ""
    raise Refused(f"{shown(key, most=60)}: mlx_lm.lora has no such key{meant}")


def _setting(name: str, read: Callable[[str, Any], Any]) -> Callable[[StageFile, str, Any], None]:
    def put(made: StageFile, key: str, value: Any) -> None:
        made.settings[name] = read(key, value)

    return put


def _without_effect(reason: str) -> Callable[[StageFile, str, Any], None]:
    def note(made: StageFile, key: str, _: Any) -> None:
        made.notes.append(f"{key} has no effect: {reason}")

    return note


def _only(wanted: Any, reason: str) -> Callable[[StageFile, str, Any], None]:
    """The key may say what a stage does anyway, and nothing else."""

    def check(_: StageFile, key: str, value: Any) -> None:
        if type(value) is not type(wanted) or value != wanted:
            raise Refused(f"{key} must be {_yaml(wanted)} or left out: {reason}")

    return check


def _refused(reason: str) -> Callable[[StageFile, str, Any], None]:
    def refuse(_: StageFile, key: str, __: Any) -> None:
        raise Refused(f"{key}: {reason}")

    return refuse


def _layers(made: StageFile, key: str, value: Any) -> None:
    # 0 is all blocks to mlx-lm, as -1 is.
    made.lora["num_layers"] = whole(key, value) or -1


def _lora(made: StageFile, key: str, value: Any) -> None:
    for part, each in mapping(key, value).items():
        name = f"{key}.{shown(part, most=60)}"
        match part:
            case "rank":
                made.lora[part] = positive(name, each)
            case "scale" | "dropout":
                made.lora[part] = number(name, each)
            case "keys":
                if not isinstance(each, list) or not all(isinstance(one, str) for one in each):
                    raise Refused(f"{name} must be a list of module paths")
                made.lora[part] = list(each)
            case "alpha":
                raise Refused(f"{name}: mlx_lm.lora has none; write scale, which is alpha / rank")
            case _:
                raise Refused(f"{name}: a stage has rank, scale, dropout and keys")


def _data(made: StageFile, key: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise Refused(f"{key} must be the path of a directory")
    made.data = Path(value)


def _optimizer(made: StageFile, given: Mapping[str, Any]) -> None:
    """Weight decay; of ``optimizer_config``, the options of the optimizer in use are looked at."""
    name = given.get("optimizer")
    if name not in (None, "adam", "adamw"):
        raise Refused("optimizer: a stage is trained with adam or adamw")
    if name == "adam":
        made.settings["weight_decay"] = 0.0
    for other, options in mapping("optimizer_config", given.get("optimizer_config", {})).items():
        path = f"optimizer_config.{shown(other, most=60)}"
        if other != name:
            if options:
                made.notes.append(f"{path} has no effect: it is not the optimizer in use")
            continue
        for option, value in mapping(path, options).items():
            _adam_option(made, other, f"{path}.{shown(option, most=60)}", option, value)


def _adam_option(made: StageFile, optimizer: str, path: str, option: str, value: Any) -> None:
    if option == "weight_decay" and optimizer == "adamw":
        made.settings["weight_decay"] = number(path, value)
    elif option == "bias_correction":
        if value is not True:
            raise Refused(f"{path}: a stage always corrects the bias; remove the key")
    elif option == "betas":
        if not isinstance(value, list) or [number(path, each) for each in value] != [0.9, 0.999]:
            raise Refused(f"{path}: a stage has [0.9, 0.999]")
    elif option == "eps":
        if number(path, value) != 1e-8:
            raise Refused(f"{path}: a stage has 1e-8")
    else:
        raise Refused(f"{path}: a stage has no such option")


def _accumulate(made: StageFile, steps: Any, *, flagged: bool) -> None:
    """mlx-lm counts micro-steps, a stage optimizer steps over all of their rows."""
    many = positive("grad_accumulation_steps", steps)
    if many == 1:
        return
    settings = made.settings
    if "batch_size" not in settings:
        raise Refused("grad_accumulation_steps needs batch_size beside it: a stage has one number")
    settings["batch_size"] *= many
    for name in ("iters", "eval_every", "checkpoint_every"):
        # What the command line gives is in optimizer steps already.
        if name not in settings or (name == "iters" and flagged):
            continue
        if settings[name] % many:
            raise Refused(
                f"grad_accumulation_steps: {name} is {settings[name]} iterations, which {many} "
                "does not divide into optimizer steps"
            )
        settings[name] //= many


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nothing(_: StageFile, __: str, ___: Any) -> None:
    """Read where other keys are known too."""


_MEMORY = "the server keeps within its memory by itself"
_FIELDS = "rows have the fields messages, prompt and completion, or text"

KEYS: Mapping[str, Callable[[StageFile, str, Any], None]] = {
    "model": _without_effect("the server trains on the base that it serves"),
    "train": _only(True, "a stage trains"),
    "fine_tune_type": _only("lora", "the server serves LoRA adapters alone"),
    "optimizer": _nothing,
    "optimizer_config": _nothing,
    "data": _data,
    "hf_dataset": _refused("no data set is fetched from a hub; write it as a JSONL file"),
    "prompt_feature": _only("prompt", _FIELDS),
    "completion_feature": _only("completion", _FIELDS),
    "chat_feature": _only("messages", _FIELDS),
    "text_feature": _only("text", _FIELDS),
    "seed": _setting("seed", whole),
    "num_layers": _layers,
    "batch_size": _setting("batch_size", positive),
    "iters": _setting("iters", positive),
    "val_batches": _without_effect("every row of the validation set is used"),
    "learning_rate": _setting("learning_rate", number),
    "steps_per_report": _without_effect("every step is reported"),
    "steps_per_eval": _setting("eval_every", positive),
    "resume_adapter_file": _refused(
        "a stage continues its chain; bring the adapter in with 'chainlora chain import' first"
    ),
    "adapter_path": _without_effect("the server keeps the revision in its data directory"),
    "save_every": _setting("checkpoint_every", positive),
    "test": _only(False, "a stage has validation rows and no test"),
    "test_batches": _without_effect("a stage has validation rows and no test"),
    "max_seq_length": _setting("max_seq_length", positive),
    "config": _refused("a file names no other file"),
    "grad_checkpoint": _without_effect(_MEMORY),
    "grad_accumulation_steps": _nothing,
    "clear_cache_threshold": _without_effect(_MEMORY),
    "lr_schedule": _nothing,
    "lora_parameters": _lora,
    "lora_layers": _refused("mlx_lm.lora calls it num_layers now"),
    "mask_prompt": _only(True, "a prompt is never trained; rows of text are trained whole"),
    "report_to": _refused("a stage reports to nobody else; 'chainlora stage watch' follows it"),
    "project_name": _without_effect("a stage reports to nobody else"),
    "trust_remote_code": _only(False, "the server runs no code of a model's"),
}
"""What becomes of each key that mlx_lm.lora reads."""
