"""``chainlora stage`` against a real server: what it asks and prints; usage of ``chain`` too."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import DataError, LineFault
from adapters.lineage import Fault, LoraRequest, TrainSettings
from adapters.states import StageState
from server import stage_cli
from server.settings_text import from_environment_and_flags
from tests.server.conftest import Shell
from tests.terminal import Terminal


def test_a_stage_is_added_from_a_file(shell: Shell) -> None:
    """The file becomes a data set, and the set a stage."""
    said = shell("stage", "add", "support", shell.rows)
    (stage,) = shell.behind.state.stages.values()
    (dataset,) = shell.behind.state.datasets.values()
    assert said == f"{stage.id} is queued; it becomes tiny:support@1\n"
    (asked,) = shell.behind.state.asked
    assert (asked.dataset, asked.settings) == (dataset.id, TrainSettings(epochs=1))
    assert dataset.name == "rows.jsonl"


def test_every_setting_has_a_flag() -> None:
    """What the trainer can be told, the command line can tell it."""
    assert set(stage_cli.SETTINGS) - {"priority"} == set(TrainSettings.__dataclass_fields__)
    assert {*stage_cli.LORA, "keys"} == set(LoraRequest.__dataclass_fields__)


def test_flags_reach_the_trainer(shell: Shell, tmp_path: Path) -> None:
    """All of them, with their types."""
    settings: dict[str, Any] = {
        "iters": 7,
        "batch_size": 3,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.5,
        "max_grad_norm": 0.0,
        "max_seq_length": 99,
        "micro_batch_tokens": 77,
        "eval_every": 4,
        "checkpoint_every": 5,
        "sample_every": 6,
        "seed": 11,
        "strategy": "continue",
    }
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text("{}\n")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    shell.add(
        *flags, "--validation", str(held_out), "--parent", "1", "--priority", "-3",
        "--rank", "4", "--scale", "2", "--num-layers", "-1", "--dropout", "0.1",
        "--key", "self_attn.q_proj", "--key", "mlp.up_proj", "--sample", "hi", "--sample=-x",
    )  # fmt: skip
    (asked,) = shell.behind.state.asked
    assert asked.settings == TrainSettings(**settings)
    assert asked.lora == LoraRequest(4, 2.0, -1, ("self_attn.q_proj", "mlp.up_proj"), 0.1)
    assert (asked.samples, asked.parent, asked.priority) == (("hi", "-x"), "1", -3)
    assert asked.validation is not None
    assert shell.behind.state.contents[asked.validation] == b"{}\n"


def test_a_data_set_can_be_used_again(shell: Shell) -> None:
    """Without sending it again."""
    shell.add()
    (dataset,) = shell.behind.state.datasets
    shell("stage", "add", "other", "--dataset", dataset)
    assert [new.dataset for new in shell.behind.state.asked] == [dataset, dataset]


def test_an_idempotency_key_makes_a_repeated_command_one_stage(shell: Shell) -> None:
    """A script that was cut off can run again."""
    assert shell.add("--idempotency-key", "k") == shell.add("--idempotency-key", "k")
    assert "used before" in shell.fails(
        "stage", "add", "support", shell.rows, "--idempotency-key", "k", "--iters", "9"
    )


def test_adding_and_watching_ends_with_the_stage(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 where it is published, 1 where it failed."""
    stages = shell.behind.stages

    def train(ends: StageState) -> None:
        stages.wait_for_readers(1)
        (stage,) = [one for one in shell.behind.state.stages.values() if not one.state.is_final]
        stages.reach(stage.id, StageState.RUNNING)
        stages.step(stage.id, 1, 1)
        stages.reach(stage.id, ends, error=Fault("non_finite", "lower the rate"))
        stages.wait_for_readers(0)

    for ends, code, said in (
        (StageState.SUCCEEDED, 0, "tiny:support@1 is served"),
        (StageState.FAILED, 1, "failed (non_finite): lower the rate"),
    ):
        trainer = threading.Thread(target=train, args=(ends,))
        trainer.start()
        text = shell("stage", "add", "support", shell.rows, "--watch", code=code)
        trainer.join(20)
        assert "step 1/1  100 %  loss 1.0000  1,234 tokens/s  0 s left" in text.splitlines()
        assert text.splitlines()[-1] == said


def test_watching_in_json_is_a_line_an_event(shell: Shell) -> None:
    """For jq: events first, the stage last."""
    (stage,) = shell.publish("support")
    *events, last = map(json.loads, shell("stage", "watch", stage, "--json").splitlines())
    assert [event["object"] for event in events] == ["stage.event"] * 4
    assert (last["object"], last["status"]) == ("stage", "succeeded")


def test_a_terminal_shows_a_bar(shell: Shell) -> None:
    """Drawn over itself, above it what else happens."""
    stage, stages = shell.add(), shell.behind.stages
    with Terminal(["stage", "watch", stage, "--url", shell.url]) as terminal:
        terminal.expect("stage 1 of support, tiny:support@1\r\nqueued\r\n")
        stages.step(stage, 12, 48)
        terminal.expect("\r[####............] step 12/48   25 %  loss 1.7500")
        stages.happen(stage, "warning", message="careful")
        terminal.expect("\rwarning: careful")
        terminal.expect("\n[####......")
        stages.succeed(stage)
        terminal.expect("tiny:support@1 is served\r\n")
        assert terminal.exit_code() == 0


def test_ctrl_c_ends_watching_and_not_the_stage(shell: Shell) -> None:
    """Exit code 130, and how to go on."""
    stage = shell.add()
    with Terminal(["stage", "watch", stage, "--url", shell.url]) as terminal:
        terminal.expect("queued\r\n")
        terminal.interrupt(f"'chainlora stage watch {stage}' goes on")
        assert terminal.exit_code() == 130
    assert shell.behind.stages.get(stage).state is StageState.QUEUED


def test_stages_are_listed_as_a_table(shell: Shell) -> None:
    """Newest first, with what is left out at its end."""
    (done,) = shell.publish("a")
    waiting = shell.add(chain="b")
    shell.behind.stages.step(waiting, 3, 10)
    table = shell("stage", "list").splitlines()
    assert table[0].split() == ["ID", "MODEL", "STATUS", "STEP", "LOSS", "CREATED"]
    assert [line.split()[:3] for line in table[1:]] == [
        [waiting, "tiny:b@1", "queued"],
        [done, "tiny:a@1", "succeeded"],
    ]
    assert "3/10" in table[1]
    assert shell("stage", "list", "--limit", "1").endswith(f"older ones: --after {waiting}\n")
    older = json.loads(shell("stage", "list", "--after", waiting, "--json"))
    assert [row["id"] for row in older["data"]] == [done]
    narrow = shell("stage", "list", "--chain", "b", "--status", "succeeded")
    assert len(narrow.splitlines()) == 1


def test_a_stage_is_shown_with_what_is_known(shell: Shell) -> None:
    """And nothing that is not."""
    stage = shell.add("--rank", "8", "--iters", "10")
    assert "finished" not in shell("stage", "show", stage)
    shell.behind.stages.step(stage, 3, 10)
    assert "step 3 of 10, 7 s left" in shell("stage", "show", stage)
    shell.behind.stages.reach(stage, StageState.FAILED, error=Fault("data_error", "no rows"))
    text = shell("stage", "show", stage)
    assert "outcome   failed (data_error): no rows\n" in text
    assert "lora      rank 8\n" in text
    assert "learning_rate 0.0002" in text
    assert json.loads(shell("stage", "show", stage, "--json"))["id"] == stage


def test_a_stage_is_steered(shell: Shell) -> None:
    """Each command says what the stage is then."""
    stage = shell.add()
    assert shell("stage", "pause", stage) == f"{stage} is paused\n"
    assert json.loads(shell("stage", "resume", stage, "--json"))["status"] == "queued"
    assert shell("stage", "cancel", stage) == f"{stage} is cancelled\n"
    assert "cannot become paused" in shell.fails("stage", "pause", stage)


def test_bad_data_is_told_line_by_line_on_one_line(shell: Shell, tmp_path: Path) -> None:
    """The server's own words; nothing is queued."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\nx\n[]\n")
    said = shell.fails("stage", "add", "a", str(bad))
    assert said.startswith("chainlora: line 2: is no JSON object; line 3: is no JSON object")
    faults = DataError("line 1: no\nline 2: no", faults=(LineFault(1, "no"), LineFault(2, "no")))
    shell.behind.state.refusals.append(faults)
    assert shell.fails("stage", "add", "a", shell.rows) == "chainlora: line 1: no line 2: no\n"
    assert shell.behind.state.asked == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stage"], "there are add, watch, list"),
        (["stage", "ad"], "there is no command 'stage ad'"),
        (["chain", "\x1b[2J"], "there is no command 'chain  [2J'"),
        (["stage", "add", "a"], "give a JSONL file or --dataset ID"),
        (["stage", "add", "a", "x", "--dataset", "y"], "one of them"),
        (["stage", "add", "a", "x", "--learning-rate", "nan"], "'nan' is no number"),
        (["stage", "add", "a", "x", "--learning-rate", "x"], "'x' is no number"),
        (["stage", "add", "a", "x", "--iters", "1.5"], "--iters"),
        (["stage", "add", "a", "x", "--iter", "5"], "--iter"),
        (["stage", "watch"], "stage"),
        (["stage", "list", "more"], "more"),
        (["chain", "label", "a", "b"], "give a revision or --remove"),
        (["chain", "label", "a", "b", "1", "--remove"], "one of them"),
        (["chain", "prune", "a"], "--keep-last"),
    ],
)
def test_wrong_usage_is_one_line(shell: Shell, arguments: list[str], said: str) -> None:
    """Exit code 2, before anything is sent."""
    assert said in shell.fails(*arguments, code=2)
    assert shell.behind.state.datasets == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stage", "add", "a", "nowhere.jsonl"], "Cannot read nowhere.jsonl: No such file"),
        (["stage", "show", "stage_9999"], "There is no stage"),
        (["stage", "list", "--limit", "1000"], "limit: must be from 1 to 100."),
        (["chain", "list", "--url", "nonsense"], "no server address"),
    ],
)
def test_a_failure_is_one_line(shell: Shell, arguments: list[str], said: str) -> None:
    """Exit code 1, the server's own words, no traceback."""
    assert said in shell.fails(*arguments)


@pytest.mark.parametrize("command", ["stage", "chain"])
@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_lists_the_commands(shell: Shell, command: str, word: str) -> None:
    """And each of them has its own."""
    usage = shell(command, word)
    names = [line.split()[0] for line in usage.splitlines() if line.startswith("  ")]
    assert len(set(names)) == len(names) >= 7
    for name in names:
        assert "--json" in shell(command, name, "--help")


def test_the_address_of_a_server_is_no_setting_of_one() -> None:
    """A machine that has CHAINLORA_URL set can still serve."""
    assert from_environment_and_flags({"CHAINLORA_URL": "http://box:1"}, {}).port == 8000
