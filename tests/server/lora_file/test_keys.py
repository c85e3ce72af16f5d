"""Keys of ``mlx_lm.lora``: what they become, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import adapters  # noqa: F401  # before mlx

# isort: split
from mlx_lm.lora import CONFIG_DEFAULTS, build_parser
from mlx_lm.tuner.utils import build_schedule

from adapters.lineage import TrainSettings
from adapters.training.schedule import learning_rate
from server.lora_file.keys import KEYS, translate
from server.lora_file.values import Refused

WHOLE: dict[str, Any] = {
    "model": "mlx-community/Mistral-7B",
    "train": True,
    "fine_tune_type": "lora",
    "optimizer": "adamw",
    "optimizer_config": {"adamw": {"weight_decay": 0.02, "betas": [0.9, 0.999]}, "muon": {}},
    "data": "tickets",
    "seed": 7,
    "num_layers": 12,
    "batch_size": 4,
    "iters": 1000,
    "val_batches": 25,
    "learning_rate": 1e-5,
    "steps_per_report": 10,
    "steps_per_eval": 200,
    "resume_adapter_file": None,
    "adapter_path": "adapters",
    "save_every": 100,
    "test": False,
    "test_batches": 100,
    "max_seq_length": 1024,
    "grad_checkpoint": False,
    "lora_parameters": {
        "keys": ["self_attn.q_proj", "self_attn.v_proj"],
        "rank": 16,
        "scale": 20.0,
        "dropout": 0.1,
    },
    "mask_prompt": True,
}
"""As people have them."""

SAYS_NOTHING = {"fine_tune_type", "test", "trust_remote_code", "grad_accumulation_steps"}
"""Keys whose default is what a stage does anyway."""

REFUSED = {"train", "mask_prompt"}
"""Keys whose default is what a stage never does."""


def test_a_whole_file_becomes_a_stage() -> None:
    """Every key that a stage has; notes on every other."""
    made = translate(WHOLE)
    assert made.settings == {
        "seed": 7,
        "batch_size": 4,
        "iters": 1000,
        "learning_rate": 1e-5,
        "schedule": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.02,
        "eval_every": 200,
        "checkpoint_every": 100,
        "max_seq_length": 1024,
    }
    assert made.lora == {
        "keys": ["self_attn.q_proj", "self_attn.v_proj"],
        "rank": 16,
        "scale": 20.0,
        "dropout": 0.1,
        "num_layers": 12,
    }
    assert made.data == Path("tickets")
    noted = [note.partition(" ")[0] for note in made.notes]
    assert noted == [
        "model",
        "val_batches",
        "steps_per_report",
        "adapter_path",
        "test_batches",
        "grad_checkpoint",
    ]
    assert all(" has no effect: " in note for note in made.notes)


def test_every_key_that_mlx_lm_has_is_known() -> None:
    """A new one in a new release fails here, and is refused by name until it is mapped."""
    parser: Any = build_parser()  # type: ignore[no-untyped-call]
    flags = set(vars(parser.parse_args([])))
    assert (set(CONFIG_DEFAULTS) | flags) - set(KEYS) == set()


@pytest.mark.parametrize("key", sorted(CONFIG_DEFAULTS))
def test_every_default_of_mlx_lm_is_taken_or_refused_by_name(key: str) -> None:
    """Written out in a file, one at a time: nothing is dropped without a word.

    Parts of a key's value count too, so that a new one of ``lora_parameters`` or another default
    optimizer fails here.
    """
    default = CONFIG_DEFAULTS[key]
    if key in REFUSED:
        with pytest.raises(Refused, match=f"^{key} must be"):
            translate({key: default})
        return
    made = translate({key: default})
    noted = [note for note in made.notes if note.startswith(key)]
    nothing = default is None or default == CONFIG_DEFAULTS["optimizer_config"]
    assert made.settings or made.lora or made.data or noted or nothing or key in SAYS_NOTHING


def test_a_file_that_says_nothing_asks_for_nothing() -> None:
    """The server's defaults hold, not mlx-lm's; null is absence."""
    for config in ({}, dict.fromkeys(KEYS)):
        made = translate(config)
        assert (made.settings, made.lora, made.data, made.notes) == ({}, {}, None, [])


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({"optimizer": "adam"}, {"weight_decay": 0.0}),
        ({"optimizer": "adamw"}, {}),
        ({"optimizer": "adam", "optimizer_config": {"adam": {"eps": "1e-8"}}}, {"weight_decay": 0}),
        ({"learning_rate": "2e-4"}, None),
        ({"batch_size": 2, "grad_accumulation_steps": 4}, {"batch_size": 8}),
        (
            {"batch_size": 2, "grad_accumulation_steps": 4, "iters": 100, "save_every": 20},
            {"batch_size": 8, "iters": 25, "checkpoint_every": 5},
        ),
        ({"grad_accumulation_steps": 1}, {}),
    ],
)
def test_settings_are_translated(config: Any, settings: dict[str, Any] | None) -> None:
    """Into the stage's own words and units."""
    constant = {"learning_rate": 2e-4, "schedule": "constant", "warmup_steps": 0}
    assert translate(config).settings == (constant if settings is None else settings)


def test_all_blocks_have_two_spellings() -> None:
    """0 and -1."""
    assert [translate({"num_layers": n}).lora["num_layers"] for n in (0, -1, 4)] == [-1, -1, 4]


def test_another_optimizer_s_options_are_noted() -> None:
    """mlx-lm does not read them either."""
    made = translate({"optimizer_config": {"muon": {"momentum": 0.9}, "sgd": {}}})
    assert made.notes == ["optimizer_config.muon has no effect: it is not the optimizer in use"]


@pytest.mark.parametrize("name", ["cosine_decay", "linear_schedule"])
@pytest.mark.parametrize("warmup", [0, 100])
def test_a_schedule_is_the_rate_that_mlx_lm_has(name: str, warmup: int) -> None:
    """Within two percent of the peak at every step after the warm-up's first."""
    steps = 1000 - warmup
    arguments = [2e-4, steps, 0.0] if name == "cosine_decay" else [2e-4, 0.0, steps]
    asked = {"name": name, "arguments": arguments, "warmup": warmup}
    theirs: Any = build_schedule(asked)
    settings = TrainSettings(**translate({"lr_schedule": asked, "iters": 1000}).settings)
    for step in range(1, 1000, 7):
        ours = learning_rate(step, 1000, settings)
        assert ours == pytest.approx(theirs(step).item(), abs=4e-6)


def test_the_schedule_of_mlx_lm_s_own_example_is_taken() -> None:
    """Its fall is as long as the stage, its last rate is nearly zero; both are noted."""
    asked = {"name": "cosine_decay", "warmup": 100, "warmup_init": 1e-7}
    asked |= {"arguments": ["1e-5", 1000, "1e-7"]}
    made = translate({"lr_schedule": asked, "iters": 1000, "learning_rate": 1})
    assert made.settings == {
        "iters": 1000,
        "learning_rate": 1e-5,
        "schedule": "cosine",
        "warmup_steps": 100,
    }
    assert len(made.notes) == 2
    assert len(translate({"lr_schedule": asked}).notes) == 3


def test_a_length_from_the_command_line_counts_in_optimizer_steps() -> None:
    """It wins, and it is what a schedule is compared with."""
    config = {"iters": 100, "batch_size": 1, "grad_accumulation_steps": 2}
    assert translate(config, iters=30).settings == {"iters": 30, "batch_size": 2}
    schedule = {"name": "cosine_decay", "arguments": [1e-5, 30]}
    assert translate({"lr_schedule": schedule, "iters": 9}, iters=30).settings["iters"] == 30


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"iter": 3}, "iter: mlx_lm.lora has no such key; is iters meant?"),
        ({"zzz\x1b[2J": 3}, "zzz [2J: mlx_lm.lora has no such key"),
        ({"iters": "many"}, "iters must be a whole number"),
        ({"iters": 10.0}, "iters must be a whole number"),
        ({"iters": True}, "iters must be a whole number"),
        ({"iters": 0}, "iters must be at least 1"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number"),
        ({"learning_rate": 10**400}, "learning_rate must be a number"),
        ({"learning_rate": True}, "learning_rate must be a number"),
        ({"train": False}, "train must be true or left out: a stage trains"),
        ({"train": 1}, "train must be true"),
        ({"test": True}, "test must be false"),
        ({"trust_remote_code": True}, "trust_remote_code must be false"),
        ({"mask_prompt": False}, "mask_prompt must be true"),
        ({"fine_tune_type": "dora"}, "fine_tune_type must be lora"),
        ({"text_feature": "body"}, "text_feature must be text"),
        ({"optimizer": "muon"}, "optimizer: a stage is trained with adam or adamw"),
        ({"optimizer": ["adam"]}, "optimizer: a stage is trained with adam or adamw"),
        ({"optimizer_config": 3}, "optimizer_config must be a mapping"),
        (
            {"optimizer": "adam", "optimizer_config": {"adam": {"betas": [0.9, 0.99]}}},
            "optimizer_config.adam.betas: a stage has [0.9, 0.999]",
        ),
        (
            {"optimizer": "adam", "optimizer_config": {"adam": {"bias_correction": False}}},
            "optimizer_config.adam.bias_correction: a stage always corrects",
        ),
        (
            {"optimizer": "adam", "optimizer_config": {"adam": {"eps": 1}}},
            "optimizer_config.adam.eps: a stage has 1e-8",
        ),
        (
            {"optimizer": "adam", "optimizer_config": {"adam": {"weight_decay": 1}}},
            "optimizer_config.adam.weight_decay: a stage has no such option",
        ),
        ({"data": 3}, "data must be the path of a directory"),
        ({"hf_dataset": {"path": "x"}}, "hf_dataset: no data set is fetched"),
        ({"resume_adapter_file": "a"}, "resume_adapter_file: a stage continues its chain"),
        ({"report_to": "wandb"}, "report_to: a stage reports to nobody"),
        ({"config": "x"}, "config: a file names no other file"),
        ({"lora_layers": 4}, "lora_layers: mlx_lm.lora calls it num_layers now"),
        ({"lora_parameters": [8]}, "lora_parameters must be a mapping"),
        ({"lora_parameters": {"alpha": 16}}, "lora_parameters.alpha: mlx_lm.lora has none"),
        ({"lora_parameters": {"r": 8}}, "lora_parameters.r: a stage has rank"),
        ({"lora_parameters": {"rank": 0}}, "lora_parameters.rank must be at least 1"),
        ({"lora_parameters": {"keys": "q_proj"}}, "lora_parameters.keys must be a list"),
        ({"grad_accumulation_steps": 2}, "grad_accumulation_steps needs batch_size"),
        (
            {"grad_accumulation_steps": 2, "batch_size": 1, "iters": 3},
            "grad_accumulation_steps: iters is 3 iterations",
        ),
    ],
    ids=str,
)
def test_what_a_stage_does_not_have_is_refused_by_name(config: Any, said: str) -> None:
    """With the reason."""
    with pytest.raises(Refused) as refused:
        translate(config)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("cosine", "lr_schedule must be a mapping"),
        ({"name": "cosine_decay"}, "lr_schedule.arguments must be a list"),
        ({"name": "cosine_decay", "arguments": [1]}, "lr_schedule.arguments must be a list"),
        ({"name": "cosine_decay", "arguments": [1, "x"]}, "lr_schedule.arguments must be a number"),
        ({"name": "step_decay", "arguments": [1, 2, 3]}, "lr_schedule.name: a stage has"),
        ({"name": ["cosine_decay"], "arguments": [1, 2]}, "lr_schedule.name: a stage has"),
        ({"name": "linear_schedule", "arguments": [1, 0]}, "lr_schedule.arguments of linear"),
        (
            {"name": "linear_schedule", "arguments": [0.1, 1, 50]},
            "lr_schedule.arguments: a stage's",
        ),
        ({"name": "cosine_decay", "arguments": [1, 50], "warm": 3}, "lr_schedule.warm: mlx_lm"),
        (
            {"name": "cosine_decay", "arguments": [1, 50], "warmup": -3},
            "lr_schedule.warmup must not",
        ),
        ({"name": "cosine_decay", "arguments": [1, 20]}, "lr_schedule.arguments: the rate falls"),
    ],
    ids=str,
)
def test_a_schedule_that_a_stage_cannot_have_is_refused(schedule: Any, said: str) -> None:
    """By its part."""
    with pytest.raises(Refused) as refused:
        translate({"lr_schedule": schedule, "iters": 50})
    assert str(refused.value).startswith(said)
