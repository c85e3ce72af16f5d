"""``chainlora stage add --config``: settings that people have from ``mlx_lm.lora``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.server.conftest import Shell

CONFIG = """\
model: mlx-community/Mistral-7B
train: true
data: {data}
iters: 40
batch_size: 2
learning_rate: 1e-4
steps_per_eval: 10
lora_parameters: {{rank: 4, scale: 10.0, dropout: 0.0}}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A file whose data directory has both sets."""
    data = tmp_path / "data"
    data.mkdir()
    for name, rows in (("train", 3), ("valid", 1)):
        (data / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * rows)
    file = tmp_path / "lora.yaml"
    file.write_text(CONFIG.format(data=data))
    return str(file)


def test_a_file_is_a_stage_with_its_data(shell: Shell, config: str) -> None:
    """Settings, shape and both sets; what has no effect is said."""
    said = shell("stage", "add", "support", "--config", config)
    assert "model has no effect: the server trains on the base that it serves\n" in said
    (asked,) = shell.behind.state.asked
    assert (asked.settings.iters, asked.settings.batch_size) == (40, 2)
    assert (asked.settings.learning_rate, asked.settings.schedule) == (1e-4, "constant")
    assert asked.settings.eval_every == 10
    assert asked.lora is not None
    assert (asked.lora.rank, asked.lora.scale) == (4, 10.0)
    sets = shell.behind.state.datasets
    assert asked.dataset is not None
    assert asked.validation is not None
    assert (sets[asked.dataset].rows, sets[asked.validation].rows) == (3, 1)


def test_flags_win_over_the_file(shell: Shell, config: str) -> None:
    """One by one; what they do not say stays the file's."""
    flags = ["--epochs", "2", "--rank", "8", "--batch-size", "16", "--validation-split", "0.5"]
    shell("stage", "add", "support", "--config", config, *flags)
    (asked,) = shell.behind.state.asked
    assert (asked.settings.epochs, asked.settings.iters) == (2, None)
    assert (asked.settings.batch_size, asked.settings.learning_rate) == (16, 1e-4)
    assert (asked.settings.validation_split, asked.validation) == (0.5, None)
    assert asked.lora is not None
    assert (asked.lora.rank, asked.lora.scale) == (8, 10.0)


def test_data_on_the_command_line_replace_the_file_s(shell: Shell, config: str) -> None:
    """Its validation rows too, which belong to other data; nothing is left to evaluate on."""
    row = json.loads(shell("stage", "add", "a", shell.rows, "--config", config, "--json"))
    assert row["validation_dataset"] is None
    assert row["settings"]["eval_every"] is None
    assert row["notes"] == [
        "model has no effect: the server trains on the base that it serves",
        "steps_per_eval has no effect: there are no validation rows",
    ]


def test_without_a_file_nothing_is_noted(shell: Shell) -> None:
    """The stage is printed as the server has it."""
    assert "notes" not in json.loads(shell("stage", "add", "a", shell.rows, "--json"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("iters: 40", "iters: 40\noptimizer: sgd", "optimizer: a stage is trained with"),
        ("/data\n", "/nowhere\n", "data: there is no"),
        ("data:", "adapter_path:", "give a JSONL file or --dataset ID"),
    ],
)
def test_a_file_that_is_refused_sends_nothing(
    shell: Shell, config: str, old: str, new: str, said: str
) -> None:
    """Exit code 2, one line."""
    file = Path(config)
    file.write_text(file.read_text().replace(old, new))
    assert said in shell.fails("stage", "add", "a", "--config", config, code=2)
    assert shell.behind.state.datasets == {}
