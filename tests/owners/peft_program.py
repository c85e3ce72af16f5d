"""Adapters made, loaded and computed by PEFT. Runs in the owners' environment, not in ours.

``peft_program.py PLAN``, a JSON object: ``model`` is a Hugging Face directory, computed in float32.
Each of ``make`` (name to LoraConfig fields) becomes the directory ``out/name``, with noise for
what training would have learned. Each of ``load`` (name to directory) is loaded as it is.
The file ``results`` gets of both, as ``NAME.logprobs`` (positions, vocabulary), the
log-probabilities after ``tokens``, and as ``NAME.greedy`` and ``NAME.margins`` (prompts, steps) the
greedy tokens after each of ``prompts``, without ``forbidden`` ones, and how far they lie above the
second best. Each of ``save``
(name to fields) is only written; ``kind`` there is the class of the configuration.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

Plan = dict[str, Any]


def base_of(plan: Plan) -> Any:
    """The base, fresh: PEFT changes the tree that it is given."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        plan["model"], dtype=torch.float32
    )
    return model.eval()


def made(plan: Plan, fields: Plan, kind: str = "LoraConfig", *, added: int = 0) -> Any:
    """A new adapter on the base, as if it were trained; ``added`` tokens widen the vocabulary."""
    torch.manual_seed(len(json.dumps(fields)))
    model = base_of(plan)
    if added:
        model.resize_token_embeddings(model.config.vocab_size + added)
    if "kasa_config" in fields:
        fields = {**fields, "kasa_config": peft.KasaConfig(**fields["kasa_config"])}
    adapted = peft.get_peft_model(model, getattr(peft, kind)(task_type="CAUSAL_LM", **fields))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return adapted.eval()


def computed(model: Any, plan: Plan) -> dict[str, Any]:
    """What the results hold of one model."""
    with torch.inference_mode():
        logits = model(torch.tensor([plan["tokens"]])).logits[0]
        paths, gaps = [], []
        for prompt in plan["prompts"]:
            ids, margins = list(prompt), []
            for _ in range(plan["steps"]):
                last = model(torch.tensor([ids])).logits[0, -1]
                last[plan["forbidden"]] = -torch.inf
                best = torch.topk(last, 2)
                ids.append(int(best.indices[0]))
                margins.append(float(best.values[0] - best.values[1]))
            paths.append(ids[len(prompt) :])
            gaps.append(margins)
    return {
        "logprobs": torch.log_softmax(logits, -1).numpy(),
        "greedy": np.array(paths),
        "margins": np.array(gaps),
    }


def main(plan: Plan) -> None:
    """Make, load, compute and save what the plan says."""
    results: dict[str, Any] = {}
    out = Path(plan["out"])
    models = {"base": base_of(plan)} if plan.get("base") else {}
    for name, fields in plan.get("make", {}).items():
        models[name] = made(plan, fields)
        # Else an adapter on the output layer comes with a copy of that layer.
        models[name].save_pretrained(out / name, save_embedding_layers=False)
    for name, fields in plan.get("save", {}).items():
        own = dict(fields)
        kind, added = own.pop("kind", "LoraConfig"), own.pop("added", 0)
        made(plan, own, kind, added=added).save_pretrained(out / name)
    for name, directory in plan.get("load", {}).items():
        models[name] = peft.PeftModel.from_pretrained(base_of(plan), directory).eval()
    for name, model in models.items():
        results |= {f"{name}.{key}": value for key, value in computed(model, plan).items()}
    np.savez(plan["results"], **results)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
