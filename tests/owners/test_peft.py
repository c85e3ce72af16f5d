"""PEFT's adapters are served as PEFT computes them, and PEFT computes ours as they are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.base.tokenizer import load_tokenizer
from adapters.errors import AdapterFileError
from adapters.formats import peft
from adapters.formats.peft import read_peft
from tests.acceptance.elsewhere.test_transfer import exported, sent
from tests.acceptance.extending.product import Product
from tests.acceptance.extending.test_rules import QUESTIONS, served_tokens
from tests.equality import assert_equal, assert_same_tokens, solo_logprobs
from tests.owners.environment import run_peft
from tests.owners.twin import make_twin

pytestmark = pytest.mark.slow

TOKENS = [1, *range(3, 60), *range(300, 340)]
STEPS = 16
PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
MADE: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "everywhere": {**PLAIN, "target_modules": "all-linear", "lora_dropout": 0.1},
    "head": {**PLAIN, "target_modules": ["lm_head", "down_proj"]},
    "last-blocks": {**PLAIN, "layers_to_transform": [2, 3]},
    "rslora": {**PLAIN, "r": 8, "use_rslora": True},
    "ranks": {**PLAIN, "rank_pattern": {"v_proj": 2}},
    "ranks-alphas": {
        **PLAIN,
        "rank_pattern": {"v_proj": 2, r"layers\.0\.self_attn\.q_proj": 1},
        "alpha_pattern": {"v_proj": 4},
    },
    "alphas": {**PLAIN, "alpha_pattern": {"layers.3.self_attn.q_proj": 32, "v_proj": 4}},
    "whole-path": {**PLAIN, "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 64}},
    "gaussian": {**PLAIN, "init_lora_weights": "gaussian"},
    "orthogonal": {**PLAIN, "init_lora_weights": "orthogonal"},
    "mica": {**PLAIN, "init_lora_weights": "mica"},
}
"""What peft makes and we serve."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "use_dora: DoRA"),
    "saved": ({"modules_to_save": ["lm_head"]}, "modules_to_save are whole layers"),
    "copied-head": ({"target_modules": ["lm_head"]}, "save_embedding_layers=False"),
    "tied": ({"target_modules": ["embed_tokens"]}, "only linear layers are served"),
    "added": ({"added": 3}, "added vocabulary"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "trained tokens change the embedding"),
    "biased": ({"bias": "all"}, "trained biases"),
    "lora-bias": ({"lora_bias": True}, "lora_bias adds a vector"),
    "pissa": ({"init_lora_weights": "pissa"}, "changes the base's own weights"),
    "olora": ({"init_lora_weights": "olora"}, "changes the base's own weights"),
    "kasa": ({"kasa_config": {}}, "KaSA"),
    "activated": ({"alora_invocation_tokens": [5]}, "from a token on"),
    "regex": ({"alpha_pattern": {r".*\.[qv]_proj": 4}}, "is a regular expression"),
    "thirds": ({"alpha_pattern": {"v_proj": 24}}, "different scales"),
    "ia3": (
        {"kind": "IA3Config", "feedforward_modules": []},
        "only 'LORA' is served",
    ),
}  # fmt: skip
"""What peft makes and we refuse."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What PEFT makes of one adapter."""

    logprobs: np.ndarray
    greedy: list[list[int]]
    margins: list[list[float]]


@dataclass(frozen=True, slots=True)
class Peft:
    """PEFT on the float32 form of the tiny base, the prompts, and what it has made and computed."""

    folder: Path
    plan: Mapping[str, Any]
    made: Path
    computed: Mapping[str, Computed]

    def loads(self, directories: Mapping[str, Path], folder: Path) -> dict[str, Computed]:
        """What it computes with adapters that it loads."""
        load = {name: str(path) for name, path in directories.items()}
        return results_of({**self.plan, "load": load}, folder)


def results_of(plan: Mapping[str, Any], folder: Path) -> dict[str, Computed]:
    """Carry out a plan and read its results."""
    file = folder / "results.npz"
    run_peft({**plan, "results": str(file), "out": str(folder)}, folder)
    with np.load(file) as found:
        names = {key.partition(".")[0] for key in found}
        return {
            name: Computed(
                found[f"{name}.logprobs"],
                found[f"{name}.greedy"].tolist(),
                found[f"{name}.margins"].tolist(),
            )
            for name in names
        }


@pytest.fixture(scope="module")
def owner(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Peft:
    """What is in ``MADE`` made and computed, what is in ``REFUSED`` written, the base computed."""
    folder = tmp_path_factory.mktemp("peft")
    tokenizer = load_tokenizer(tiny_model)
    asked = [[{"role": "user", "content": question}] for question in QUESTIONS]
    plan = {
        "model": str(make_twin(tiny_model, folder / "twin")),
        "tokens": TOKENS,
        "prompts": [tokenizer.encode_chat(each, template_kwargs={}) for each in asked],
        "forbidden": sorted(tokenizer.end_tokens),
        "steps": STEPS,
    }
    save = {name: {**PLAIN, **fields} for name, (fields, _) in REFUSED.items()}
    for name in ("r", "lora_alpha"):
        del save["ia3"][name]
    computed = results_of({**plan, "base": True, "make": MADE, "save": save}, folder)
    return Peft(folder, plan, folder, computed)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two sets of log-probabilities."""
    return float(np.abs(one - other).max())


def hold(name: str, reference: np.ndarray, candidate: np.ndarray) -> None:
    """Hold one to the other by the equality rule, and print how far they lie apart."""
    print(f"{name}: log-probabilities at most {apart(reference, candidate):.1e} apart")  # noqa: T201
    assert_equal(reference, candidate)


def test_the_bases_are_one(owner: Peft, tiny_model: Path) -> None:
    """Torch's float32 llama and the 4-bit base: whatever differs below is the adapter's."""
    ours = solo_logprobs(tiny_model, None, TOKENS)
    hold("base", owner.computed["base"].logprobs, ours)


@pytest.mark.parametrize("name", MADE)
def test_an_adapter_of_peft_is_served_as_peft_computes_it(
    owner: Peft, product: Product, name: str
) -> None:
    """Log-probabilities of the stored revision, and the tokens that the server gives."""
    stage = product.ok(sent(product, name, owner.made / name))
    theirs = owner.computed[name]
    assert apart(theirs.logprobs, owner.computed["base"].logprobs) > 0.1, "it does nothing"
    ours = solo_logprobs(product.model_dir, product.revision_dir(stage["revision"]), TOKENS)
    hold(name, theirs.logprobs, ours)
    served = served_tokens(product, f"tiny:{name}", STEPS)
    assert_same_tokens(theirs.greedy, served, theirs.margins)


def test_peft_computes_our_exports_as_they_are_served(
    owner: Peft, product: Product, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Adapters of mlx-lm that leave as PEFT's, and PEFT's own after they were here."""
    sources = {f"mlx-{name}": path for name, path in tiny_adapters.items()}
    sources |= {f"again-{name}": owner.made / name for name in MADE}
    out = {}
    for name, path in sources.items():
        product.ok(sent(product, name, path))
        out[name] = exported(product, name, tmp_path, format="peft", base_model="tiny")
    loaded = owner.loads(out, tmp_path)
    for name in tiny_adapters:
        ours = solo_logprobs(product.model_dir, tiny_adapters[name], TOKENS)
        hold(name, ours, loaded[f"mlx-{name}"].logprobs)
    for name in MADE:
        hold(name, owner.computed[name].logprobs, loaded[f"again-{name}"].logprobs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_peft_makes_beyond_lora_is_refused(owner: Peft, name: str) -> None:
    """From the files that it writes, not from our idea of them."""
    assert (owner.made / name / peft.CONFIG).exists()
    with pytest.raises(AdapterFileError) as caught:
        read_peft(owner.made / name)
    assert REFUSED[name][1] in str(caught.value)
