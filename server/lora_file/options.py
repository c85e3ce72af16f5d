"""How a file's settings and the flags of ``stage add`` go together: flags win."""

from __future__ import annotations

import argparse
from pathlib import Path

from server.arguments import UsageError
from server.lora_file.read import read_stage_file
from server.lora_file.values import StageFile
from server.screen import shown

_TRAIN, _VALID = "train.jsonl", "valid.jsonl"


def stage_file(options: argparse.Namespace) -> StageFile:
    """What ``--config`` asks for, empty without it.

    Where no data are given, ``options.data`` and ``options.validation`` become the files of its
    ``data`` directory, which is looked for from here, as mlx_lm.lora does. Raises UsageError.
    """
    if options.config is None:
        return StageFile()
    file = read_stage_file(options.config, iters=options.iters)
    if options.epochs is not None:
        file.settings.pop("iters", None)
    if options.data is None and options.dataset is None and file.data is not None:
        _use_data(options, file.data)
    held_out = options.validation is not None or bool(options.validation_split)
    if "eval_every" in file.settings and options.eval_every is None and not held_out:
        del file.settings["eval_every"]
        file.notes.append("steps_per_eval has no effect: there are no validation rows")
    return file


def _use_data(options: argparse.Namespace, directory: Path) -> None:
    train, valid = directory / _TRAIN, directory / _VALID
    if not train.is_file():
        raise UsageError(
            f"{shown(options.config)}: data: there is no {shown(train)}; data sets of a hub are "
            "not fetched: give a JSONL file beside --config"
        )
    options.data = train
    if options.validation is None and options.validation_split is None and valid.is_file():
        options.validation = valid
