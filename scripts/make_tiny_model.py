"""Make the tests' tiny base: a quantized llama trained for some seconds on ``examples/text``.

``make_tiny_model.py OUT`` writes an mlx-lm directory; ``--adapters DIR`` also trains LoRA adapters
on it, as mlx-lm directories ``DIR/a4``, ``b8``, ``c16`` and ``d8``. The model learns its few pages
nearly by heart, so that its greedy paths are not ties: the printed report says how often the two
best tokens lie within 2e-3 on paths that it generates itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Products this small are slower on two threads than on one, eight times so on a busy machine.
os.environ.setdefault("CHAINLORA_THREADS", "1")

import adapters  # noqa: E402, F401  # opens the BLAS, which must precede every import of mlx

# isort: split
import mlx.core as mx  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
import mlx_lm  # noqa: E402
import numpy as np  # noqa: E402
from mlx.nn.layers.base import Module  # noqa: E402
from mlx.nn.layers.quantized import quantize  # noqa: E402
from mlx.nn.losses import cross_entropy  # noqa: E402
from mlx.nn.utils import value_and_grad  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.models import cache, llama  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402
from mlx_lm.utils import dequantize_model  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

TEXT = ROOT / "examples" / "text"
PROSE = ("harbour.txt", "workshop.txt")
START, TURN_END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VOCAB = 640
ROW, BATCH = 96, 3
SEED = 7
NEAR = 2e-3

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role not in ['system', 'user', 'assistant', 'tool'] -%}
{{ raise_exception('unknown role: ' ~ message.role) }}
{%- endif -%}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QUANTIZATION: dict[str, Any] = {"group_size": 64, "bits": 4, "mode": "affine"}

ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))


@dataclass(frozen=True)
class Recipe:
    """One adapter: its text, its LoRA shape (layers counted from the last) and its training."""

    text: str
    rank: int
    scale: float
    num_layers: int
    keys: tuple[str, ...]
    rate: float
    steps: int


RECIPES = {
    "a4": Recipe("pirate.txt", 4, 10.0, 2, (ATTENTION[0], ATTENTION[2]), 1e-2, 160),
    "b8": Recipe("poet.txt", 8, 20.0, 4, ATTENTION + MLP, 2e-3, 80),
    "c16": Recipe("clerk.txt", 16, 4.0, 4, MLP, 4e-3, 100),
    "d8": Recipe("coach.txt", 8, 2.0, 4, ATTENTION, 1e-2, 160),
}

Turn = tuple[str, str]


def read_turns(path: Path) -> list[Turn]:
    """The (question, answer) pairs of a dialogue file."""
    turns = []
    for block in path.read_text("utf-8").strip().split("\n\n"):
        user, assistant = block.split("\n", 1)
        turns.append((user.removeprefix("User: "), assistant.removeprefix("Assistant: ")))
    return turns


def read_paragraphs() -> list[str]:
    """Every paragraph of the prose files."""
    texts = ((TEXT / name).read_text("utf-8").strip() for name in PROSE)
    return [paragraph for text in texts for paragraph in text.split("\n\n")]


def prompt(question: str) -> str:
    """A question as the chat template renders it, up to the assistant's turn."""
    return f"{START}user\n{question}{TURN_END}\n{START}assistant\n"


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of VOCAB entries, trained on every file of ``examples/text``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[TEXT_END, START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (path.read_text("utf-8") for path in sorted(TEXT.glob("*.txt")))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def dialogue(name: str) -> list[str]:
    """The turns of a dialogue file as the chat template renders them."""
    return [f"{prompt(ask)}{answer}{TURN_END}\n" for ask, answer in read_turns(TEXT / name)]


def draw_rows(documents: list[list[int]], count: int) -> np.ndarray:
    """(count, ROW + 1) ids: all documents, shuffled anew in each epoch, joined and cut."""
    draw = np.random.default_rng(SEED)
    ids: list[int] = []
    while len(ids) <= count * ROW:
        ids += [token for i in draw.permutation(len(documents)) for token in documents[i]]
    return np.stack([ids[i * ROW : (i + 1) * ROW + 1] for i in range(count)])


def train(model: Module, documents: list[list[int]], *, steps: int, rate: float) -> float:
    """Train what is trainable on every token; return the last loss in nats a token."""
    warm = optim.linear_schedule(0.0, rate, steps // 10)
    fall = optim.cosine_decay(rate, steps - steps // 10, 0.02 * rate)
    schedule = optim.join_schedules([warm, fall], [steps // 10])
    optimizer = optim.AdamW(
        learning_rate=schedule, betas=[0.9, 0.98], weight_decay=0.0, bias_correction=True
    )

    def loss(ids: mx.array) -> mx.array:
        return cross_entropy(model(ids[:, :-1]), ids[:, 1:], reduction="mean")

    clip: Any = optim.clip_grad_norm  # MLX gives it no types
    value_and_gradient = value_and_grad(model, loss)
    value = mx.array(0.0)
    for rows in np.split(draw_rows(documents, steps * BATCH), steps):
        value, gradient = value_and_gradient(mx.array(rows))
        gradient, _ = clip(gradient, 1.0)
        optimizer.update(model, gradient)
        mx.eval(value, model.state, optimizer.state)
    return float(np.array(value))


def make_base(out: Path, *, steps: int) -> None:
    """Train, quantize and write the base model and its tokenizer to ``out``."""
    tokenizer = make_tokenizer()
    texts = [paragraph + TEXT_END for paragraph in read_paragraphs()] + dialogue("questions.txt")
    documents = [tokenizer.encode(text).ids for text in texts]
    mx.random.seed(SEED)
    parse: Any = llama.ModelArgs.from_dict  # mlx-lm gives it no types
    model = llama.Model(parse(CONFIG))
    last = train(model, documents, steps=steps, rate=5e-3)
    print(f"base: {sum(map(len, documents))} tokens, {steps} steps, last loss {last:.3f}")
    quantize(model, **QUANTIZATION)
    model.set_dtype(mx.bfloat16)
    out.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})
    write_texts(out, tokenizer)


def write_texts(out: Path, tokenizer: Tokenizer) -> None:
    """Write the model's configuration and its tokenizer, in the forms that mlx-lm reads."""
    end = tokenizer.token_to_id(TURN_END)
    config = CONFIG | {"eos_token_id": end, "quantization": QUANTIZATION}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": TURN_END,
        "pad_token": TEXT_END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2))
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2))
    tokenizer.save(str(out / "tokenizer.json"))


def make_adapter(base: Path, out: Path, recipe: Recipe) -> None:
    """Train one adapter on ``base`` and write it to ``out``, an mlx-lm adapter directory."""
    model, tokenizer = mlx_lm.load(str(base))[:2]
    model.set_dtype(mx.float32)  # first: 16-bit scales would round the dequantized weights
    model = dequantize_model(model)
    model.freeze()
    mx.random.seed(SEED)
    lora = {"rank": recipe.rank, "scale": recipe.scale, "dropout": 0.0, "keys": list(recipe.keys)}
    linear_to_lora_layers(model, recipe.num_layers, lora)
    documents = [tokenizer.encode(text) for text in dialogue(recipe.text)]
    last = train(model, documents, steps=recipe.steps, rate=recipe.rate)
    print(f"{out.name}: {recipe.text}, {recipe.steps} steps, last loss {last:.3f}")
    out.mkdir(parents=True, exist_ok=True)
    tensors = dict(tree_flatten(model.trainable_parameters()))
    mx.save_safetensors(str(out / "adapters.safetensors"), tensors)
    config = {"fine_tune_type": "lora", "num_layers": recipe.num_layers, "lora_parameters": lora}
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2))


def report(base: Path, adapter: Path | None, questions: Sequence[str], *, tokens: int) -> None:
    """Print how often greedy choices are near ties, and one answer."""
    model, tokenizer = mlx_lm.load(
        str(base), adapter_path=None if adapter is None else str(adapter)
    )[:2]
    model.set_dtype(mx.float32)
    model = dequantize_model(model)
    margins: list[float] = []
    shown = ""
    for question in questions:
        state = cache.make_prompt_cache(model)
        ids = tokenizer.encode(prompt(question))
        path: list[int] = []
        for _ in range(tokens):
            logits = model(mx.array([ids]), cache=state)[0, -1]
            second, first = np.sort(np.array(logits))[-2:]
            margins.append(float(first - second))
            ids = [int(np.array(mx.argmax(logits)))]
            path += ids
        shown = shown or tokenizer.decode(path[: tokens // 2])
    near = sum(margin < NEAR for margin in margins)
    name = "base" if adapter is None else adapter.name
    print(
        f"{name}: {near} of {len(margins)} greedy positions within {NEAR} "
        f"({100 * near / len(margins):.3f} %), median margin {np.median(margins):.2f}\n  {shown!r}"
    )


def main() -> None:
    """Parse arguments, make the files, print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory of the base model")
    parser.add_argument("--adapters", type=Path, help="directory of the adapters a4, b8, c16, d8")
    parser.add_argument("--steps", type=int, default=500, help="training steps of the base")
    parser.add_argument("--report", action="store_true", help="measure near ties (slower)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    make_base(arguments.out, steps=arguments.steps)
    print(f"{time.perf_counter() - start:.1f} s")
    made: list[Path | None] = [None]
    for name, recipe in RECIPES.items() if arguments.adapters else ():
        make_adapter(arguments.out, arguments.adapters / name, recipe)
        made.append(arguments.adapters / name)
    print(f"{time.perf_counter() - start:.1f} s")
    if arguments.report:
        questions = [question for question, _ in read_turns(TEXT / "questions.txt")]
        questions += ["Where is the bread?", "Why do clocks stop?", "Tell me about snow."]
        for adapter in made:
            report(arguments.out, adapter, questions, tokens=60)


if __name__ == "__main__":
    main()
