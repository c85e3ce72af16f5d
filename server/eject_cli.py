"""``chain fuse`` and ``chain eject``: a chain's revision leaves for programs without chains.

The server says which revision is meant; its files are read from the data directory, which must be
on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server.admin_client import AdminClient, Json
from server.arguments import CommandFailed, Parser, UsageError
from server.fuse_cli import add_options, check_options, fuse
from server.screen import Screen, shown
from server.stage_cli import common, put_json

if TYPE_CHECKING:
    from adapters.formats.mlx_lm import AdapterFiles
    from server.settings import Settings

CONFIG = "lora.yaml"
COMMANDS = "COMMANDS.md"


def fuse_chain(arguments: Sequence[str], screen: Screen) -> int:
    """``chain fuse``; its exit code. Raises UsageError, AdminError and CommandFailed."""
    parser = _parser("chain fuse", "Write a model with a chain's revision merged into it.")
    add_options(parser)
    options = parser.parse_args(arguments)
    check_options(options)
    model, files, _ = _local(options)
    return fuse(screen, model, files, options)


def eject(arguments: Sequence[str], screen: Screen) -> int:
    """``chain eject``; its exit code. Raises UsageError, AdminError and CommandFailed."""
    parser = _parser(
        "chain eject",
        "Write a chain's revision as an mlx-lm adapter directory, with the commands that use it.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the new directory; must not exist")
    options = parser.parse_args(arguments)
    model, files, stage = _local(options)
    from adapters.errors import AdapterError

    out = options.out.absolute()
    commands = commands_of(model, out)
    try:
        _write(out, files, commands, stage)
    except (AdapterError, OSError) as error:
        raise CommandFailed(str(error)) from error
    if options.json:
        row = {"path": str(out), "model": stage["model"], "revision": stage["revision"]}
        put_json(screen, {**row, "commands": commands})
        return 0
    screen.line(f"{shown(stage['model'])} is in {shown(out)}; to use it without chainlora:")
    for command in commands:
        screen.line(f"  {command}")
    return 0


def commands_of(model: Path, out: Path) -> list[str]:
    """The two commands of mlx-lm: to generate with the adapter, and to train it on.

    ``lora.yaml`` beside the adapter carries the shape, which mlx_lm.lora does not take from there.
    """
    generate = ["mlx_lm.generate", "--model", str(model), "--adapter-path", str(out)]
    train = ["mlx_lm.lora", "--model", str(model), "--config", str(out / CONFIG)]
    train += ["--resume-adapter-file", str(out / "adapters.safetensors")]
    train += ["--adapter-path", f"{out}-next", "--train", "--data", "data"]
    return [shlex.join([*generate, "--prompt", "Hello"]), shlex.join(train)]


def _parser(command: str, description: str) -> Parser:
    parser = common(command, description)
    parser.add_argument("chain", help="the chain's name")
    parser.add_argument("--revision", help="stage number, revision id or label; default: the head")
    parser.add_argument(
        "--data-dir",
        default=argparse.SUPPRESS,
        help="the server's data directory [CHAINLORA_DATA_DIR; default: ~/.chainlora]",
    )
    parser.add_argument(
        "--model",
        default=argparse.SUPPRESS,
        help="the server's base, as 'serve' takes it [CHAINLORA_MODEL; default: the embedded one]",
    )
    return parser


def _local(options: argparse.Namespace) -> tuple[Path, AdapterFiles, Json]:
    """The base's directory, the revision's files and its stage, each checked by its hash."""
    settings = _settings(options)
    if os.path.lexists(options.out):
        raise CommandFailed(f"{options.out} exists and is not overwritten: give another name.")
    chain = AdminClient(options.url).get("chains", options.chain)
    stage = chosen(chain, options.revision)
    from adapters.base.fingerprint import fingerprint
    from adapters.base.load import resolve_model
    from adapters.errors import AdapterError
    from adapters.formats.mlx_lm import read_adapter
    from adapters.formats.revision import revision_id

    directory = settings.data_dir / "revisions" / stage["revision"]
    if not directory.is_dir():
        raise CommandFailed(
            f"{settings.data_dir} does not hold {stage['model']}: give the server's own "
            "--data-dir, which must be on this machine."
        )
    try:
        files = read_adapter(directory)
        if revision_id(files) != stage["revision"]:
            raise CommandFailed(
                f"{directory} is not what was published as {stage['model']}: its files have "
                "changed since. Roll back to another revision."
            )
        model = resolve_model(settings.model, settings.data_dir)
        if fingerprint(model) != chain["base"]:
            raise CommandFailed(
                f"{model} is not the base of chain {options.chain}: give the one that the server "
                "serves with --model."
            )
    except (AdapterError, OSError) as error:
        raise CommandFailed(str(error)) from error
    return model, files, stage


def chosen(chain: Json, revision: str | None) -> Json:
    """The stage that ``revision`` means, a label first; None is the head. Raises CommandFailed."""
    name = str(chain["head"]) if revision is None else revision
    number = str(chain["labels"].get(name, name))
    if revision is None and chain["head"] is None:
        raise CommandFailed(f"{chain['id']} has no revision yet.")
    for stage in chain["stages"]:
        if number not in (str(stage["number"]), stage["revision"]):
            continue
        if stage["revision"] is None or stage["revision_deleted_at"] is not None:
            gone = "deleted" if stage["revision"] else stage["status"]
            raise CommandFailed(f"{stage['model']} has no revision: it is {gone}.")
        found: Json = stage
        return found
    raise CommandFailed(
        f"{chain['id']} has no revision {shown(name)}; 'chainlora chain show' lists them."
    )


def _settings(options: argparse.Namespace) -> Settings:
    from server.settings_text import SettingsError, from_environment_and_flags

    flags = {name: vars(options)[name] for name in ("data_dir", "model") if name in options}
    try:
        return from_environment_and_flags(os.environ, flags)
    except SettingsError as error:
        raise UsageError(str(error)) from None


def _write(out: Path, files: AdapterFiles, commands: Sequence[str], stage: Json) -> None:
    from adapters.formats.mlx_lm import config_of, write_adapter
    from adapters.formats.new_directory import new_directory

    with new_directory(out) as part:
        part.rmdir()  # it makes its directory itself
        write_adapter(part, files)
        # JSON is YAML, and mlx_lm.lora reads numbers such as 1e-05 in it.
        (part / CONFIG).write_text(json.dumps(config_of(files.shape), indent=2) + "\n")
        lines = "\n".join(f"    {command}" for command in commands)
        (part / COMMANDS).write_text(
            f"# {stage['model']}\n\nRevision `{stage['revision']}`, an mlx-lm adapter directory. "
            f"To generate with it, and to train it on:\n\n{lines}\n"
        )
