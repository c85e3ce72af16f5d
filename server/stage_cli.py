"""The command ``stage``: ask for training, follow it, steer it."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.admin_client import AdminClient, Json
from server.arguments import Parser, UsageError
from server.lora_file.options import stage_file
from server.lora_file.values import StageFile
from server.screen import Screen, clock, figure, moment, shown, table
from server.watch import outcome, watch

URL_VARIABLE = "CHAINLORA_URL"
DEFAULT_URL = "http://127.0.0.1:8000"
FAILED = 1

USAGE = """\
usage: chainlora stage COMMAND [options]

commands:
  add       train a stage of a chain on a JSONL file
  watch     follow a stage to its end
  list      the newest stages
  show      one stage
  pause     stop after a checkpoint
  resume    queue a paused stage again
  cancel    end a stage; nothing is published

'chainlora stage COMMAND --help' lists a command's options.
"""


def finite(text: str) -> float:
    """A number for argparse; NaN and infinity are none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return value


SETTINGS: Mapping[str, tuple[Callable[[str], object], str]] = {
    "iters": (int, "optimizer steps; instead of --epochs"),
    "epochs": (int, "times through the data; default: 1"),
    "batch_size": (int, "rows of an optimizer step"),
    "learning_rate": (finite, "highest learning rate"),
    "schedule": (str, "constant, linear or cosine"),
    "warmup_steps": (int, "steps until the learning rate is at its highest"),
    "weight_decay": (finite, "of AdamW"),
    "max_grad_norm": (finite, "longest gradient; 0 does not clip"),
    "max_seq_length": (int, "longest row, in tokens"),
    "micro_batch_tokens": (int, "tokens that are computed together"),
    "validation_split": (finite, "share of the rows that is held out"),
    "eval_every": (int, "steps between validations"),
    "checkpoint_every": (int, "steps between checkpoints"),
    "sample_every": (int, "steps between sample answers"),
    "seed": (int, "of order and dropout"),
    "strategy": (str, "continue"),
    "priority": (int, "higher runs first among chains"),
}
"""Flags whose values go to the server as they are; it knows the defaults and the bounds."""
LORA: Mapping[str, tuple[Callable[[str], object], str]] = {
    "rank": (int, "rank of a first stage, or growth; default: the chain's"),
    "scale": (finite, "scale of a first stage"),
    "num_layers": (int, "adapted blocks from the last one up; -1 for all"),
    "dropout": (finite, "share of the input that is dropped while training"),
}


def common(command: str, description: str) -> Parser:
    """A parser with the options of every command that speaks to a server."""
    parser = Parser(command, description)
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE) or DEFAULT_URL,
        help=f"the server; default: {DEFAULT_URL} [{URL_VARIABLE}]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def put_json(screen: Screen, value: Json) -> None:
    """``value`` as one document on one line."""
    screen.line(json.dumps(value))


def run(arguments: Sequence[str], screen: Screen) -> int:
    """One ``stage`` command; its exit code. Raises UsageError and AdminError."""
    commands: Mapping[str, Callable[[list[str], Screen], int]] = {
        "add": _add,
        "watch": _watch,
        "list": _list,
        "show": _show,
        "pause": _steering("pause", "Stop a stage after a checkpoint."),
        "resume": _steering("resume", "Queue a paused stage again."),
        "cancel": _steering("cancel", "End a stage; nothing is published."),
    }
    return dispatch("stage", USAGE, commands, arguments, screen)


def dispatch(
    name: str,
    usage: str,
    commands: Mapping[str, Callable[[list[str], Screen], int]],
    arguments: Sequence[str],
    screen: Screen,
) -> int:
    """The command that the first argument names, on the rest."""
    if arguments and arguments[0] in ("-h", "--help", "help"):
        screen.write(usage)
        return 0
    if not arguments or arguments[0] not in commands:
        given = shown(arguments[0]) if arguments else "..."
        raise UsageError(f"there is no command '{name} {given}'; there are {', '.join(commands)}")
    return commands[arguments[0]](list(arguments[1:]), screen)


def _add(arguments: list[str], screen: Screen) -> int:
    parser = common("stage add", "Train a stage of a chain; a new chain starts with its first.")
    parser.add_argument("chain", help="the chain's name")
    parser.add_argument("data", nargs="?", type=Path, help="JSONL file of training rows")
    parser.add_argument("--dataset", metavar="ID", help="uploaded before, instead of a file")
    parser.add_argument("--validation", type=Path, metavar="FILE", help="JSONL file to measure on")
    parser.add_argument("--parent", metavar="REVISION", help="fail if the head has moved from it")
    parser.add_argument("--sample", action="append", metavar="PROMPT", help="answered on the way")
    parser.add_argument("--key", action="append", metavar="PATH", help="adapted module of a block")
    for name, (kind, text) in {**LORA, **SETTINGS}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="VALUE", help=text)
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings of mlx_lm.lora")
    parser.add_argument("--idempotency-key", metavar="KEY", help="repeat the command safely")
    parser.add_argument("--watch", action="store_true", help="follow it to its end")
    options = parser.parse_args(arguments)
    file = stage_file(options)
    if (options.data is None) == (options.dataset is None):
        raise UsageError("give a JSONL file or --dataset ID, one of them")
    client = AdminClient(options.url)
    body = _stage_body(client, options, file)
    key = options.idempotency_key
    headers = {} if key is None else {"Idempotency-Key": key}
    stage = client.post("stages", body=body, headers=headers)
    if options.json:
        put_json(screen, stage | ({"notes": file.notes} if options.config else {}))
    else:
        for note in file.notes:
            screen.line(note)
        screen.line(f"{stage['id']} is {stage['status']}; it becomes {stage['model']}")
    return _watched(client, stage["id"], screen, options.json) if options.watch else 0


def _stage_body(
    client: AdminClient, options: argparse.Namespace, file: StageFile
) -> dict[str, Any]:
    given = vars(options)
    lora = file.lora | {name: given[name] for name in LORA if given[name] is not None}
    if options.key:
        lora["keys"] = options.key
    body = file.settings | {name: given[name] for name in SETTINGS if given[name] is not None}
    body |= {"lora": lora} if lora else {}
    body |= {"samples": options.sample} if options.sample else {}
    body |= {"parent": options.parent} if options.parent else {}
    # Validation first: what is wrong with the short file is known before the long one is sent.
    if options.validation is not None:
        body["validation_dataset"] = client.upload(options.validation)["id"]
    dataset = options.dataset or client.upload(options.data)["id"]
    return {"chain": options.chain, "dataset": dataset, **body}


def _watch(arguments: list[str], screen: Screen) -> int:
    parser = common("stage watch", "Follow a stage to its end; exit code 1 if it does not succeed.")
    parser.add_argument("stage", help="the stage's id")
    options = parser.parse_args(arguments)
    return _watched(AdminClient(options.url), options.stage, screen, options.json)


def _watched(client: AdminClient, stage: str, screen: Screen, as_json: bool) -> int:
    ended = watch(client, stage, screen, as_json=as_json)
    return 0 if ended["status"] in ("succeeded", "held") else FAILED


def _list(arguments: list[str], screen: Screen) -> int:
    parser = common("stage list", "The newest stages.")
    parser.add_argument("--chain", help="of this chain alone")
    parser.add_argument("--status", help="in this state alone")
    parser.add_argument("--after", metavar="ID", help="older than this stage")
    parser.add_argument("--limit", type=int, default=20, help="at most so many; default: 20")
    options = parser.parse_args(arguments)
    names = ("chain", "status", "after", "limit")
    query = {name: getattr(options, name) for name in names}
    page = AdminClient(options.url).get("stages", query=query)
    if options.json:
        put_json(screen, page)
        return 0
    screen.write(stage_table(page["data"]))
    if page["has_more"]:
        screen.line(f"older ones: --after {page['data'][-1]['id']}")
    return 0


def stage_table(stages: Sequence[Json]) -> str:
    """Stages as a table with a heading."""
    rows: list[Sequence[object]] = [("ID", "MODEL", "STATUS", "STEP", "LOSS", "CREATED")]
    for stage in stages:
        progress = stage["progress"]
        state = ", deleted" if stage["revision_deleted_at"] else ""
        state = ", unavailable" if stage["unavailable"] else state
        rows.append(
            (
                stage["id"],
                stage["model"],
                stage["status"] + state,
                f"{progress['step']}/{progress['steps']}" if progress["steps"] else None,
                figure(stage["metrics"].get("loss")),
                moment(stage["created_at"]),
            )
        )
    return table(rows, right=(3, 4))


def _show(arguments: list[str], screen: Screen) -> int:
    parser = common("stage show", "One stage: what was asked, how far it is, how it ended.")
    parser.add_argument("stage", help="the stage's id")
    options = parser.parse_args(arguments)
    stage = AdminClient(options.url).get("stages", options.stage)
    if options.json:
        put_json(screen, stage)
    else:
        screen.write(table(_facts(stage)))
    return 0


def _facts(stage: Json) -> list[Sequence[object]]:
    progress = stage["progress"]
    left = "" if stage["finished_at"] else clock(progress["left_s"])
    step = f"step {progress['step']} of {progress['steps']}" + (f", {left} left" if left else "")
    rows: list[tuple[str, object]] = [
        ("id", stage["id"]),
        ("model", stage["model"]),
        ("status", stage["status"]),
        ("progress", step if progress["steps"] else None),
        ("outcome", outcome(stage)[0] if stage["finished_at"] or stage["error"] else None),
        ("revision", stage["revision"]),
        ("deleted", moment(stage["revision_deleted_at"])),
        ("unavailable", stage["unavailable"]),
        ("parent", stage["parent"]),
        ("data set", stage["dataset"]),
        ("validation", stage["validation_dataset"]),
        ("lora", _pairs(stage["lora"])),
        ("settings", _pairs(stage["settings"])),
        ("metrics", _pairs(stage["metrics"])),
        ("created", moment(stage["created_at"])),
        ("started", moment(stage["started_at"])),
        ("finished", moment(stage["finished_at"])),
    ]
    return [(name, value) for name, value in rows if value not in (None, "")]


def _pairs(values: Mapping[str, object] | None) -> str:
    """Settings and figures on one line; what is not set is left out."""
    given = {name: value for name, value in (values or {}).items() if value is not None}
    return ", ".join(f"{name} {_plain(value)}" for name, value in given.items())


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _steering(verb: str, description: str) -> Callable[[list[str], Screen], int]:
    def steer(arguments: list[str], screen: Screen) -> int:
        parser = common(f"stage {verb}", description)
        parser.add_argument("stage", help="the stage's id")
        options = parser.parse_args(arguments)
        stage = AdminClient(options.url).post("stages", options.stage, verb, body={})
        if options.json:
            put_json(screen, stage)
        else:
            screen.line(f"{stage['id']} is {stage['status']}")
        return 0

    return steer
