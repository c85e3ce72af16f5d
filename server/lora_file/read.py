"""A YAML file of ``mlx_lm.lora``, read as the settings of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.arguments import UsageError
from server.lora_file.keys import translate
from server.lora_file.values import Refused, StageFile
from server.screen import shown

MOST_BYTES = 64 * 1024
MOST_DEPTH = 16


def read_stage_file(file: Path, *, iters: int | None = None) -> StageFile:
    """The settings in ``file``; ``iters`` is the length that the command line gives instead.

    Raises UsageError, which names the file, the key and the reason.
    """
    try:
        return translate(_parsed(file), iters=iters)
    except Refused as refused:
        raise UsageError(f"{shown(file)}: {refused}") from None


def _check_tokens(data: bytes) -> None:
    """Refuse aliases, which can unfold without end, and nesting, which the reader is slow at."""
    import yaml

    depth = 0
    for token in yaml.scan(data, yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            raise Refused("has aliases (*name); write the values out")
        name = type(token).__name__
        depth += name.endswith(("SequenceStartToken", "MappingStartToken"))
        depth -= name.endswith(("SequenceEndToken", "MappingEndToken", "BlockEndToken"))
        if depth > MOST_DEPTH:
            raise Refused(f"has more than {MOST_DEPTH} levels; settings have three")


def _parsed(file: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file."""
    # Late: whoever gives no file needs no package.
    import yaml

    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise Refused(f"has more than {MOST_BYTES // 1024} KiB; settings are shorter")
    try:
        _check_tokens(data)
        root = yaml.compose(data, yaml.SafeLoader)
        config = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Refused(f"is no YAML: {shown(error, most=200)}") from None
    if config is None:
        return {}
    keys = [node.value for node, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
        raise Refused(f"{shown(twice[0], most=60)} stands there twice")
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise Refused("must be a mapping of names, as mlx_lm.lora --config reads it")
    return config
