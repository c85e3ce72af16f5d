#!/usr/bin/env python3
"""The benchmark of training beside serving: what one costs the other, on one copy of the base.

    python scripts/bench_extend.py              5 runs on the embedded model, about 10 minutes
    python scripts/bench_extend.py --runs 1 --model DIR

Each run starts a server and measures, in this order: a stream alone, training alone, both together,
and eight streams across a publication. Ratios are taken within a run; the spread is over runs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.bench.asks import prompt  # noqa: E402
from scripts.bench.load import Load, Target, run_load  # noqa: E402
from scripts.bench.servers import ServerError, free_port, running  # noqa: E402
from scripts.bench.stats import Spread, Trace, percentile, spread, summarise  # noqa: E402
from server.admin_client import AdminClient  # noqa: E402

_NAME = "bench"
_START_S, _TIMEOUT_S = 300.0, 600.0
_ALONE = Load(streams=1, requests=1, prompt_words=64, output_tokens=120)
_EIGHT = Load(streams=8, requests=2, prompt_words=32, output_tokens=120)
_TRAINING_S = 20.0
_RUNNING_S = 4.0
"""After so long all eight streams are past their prompts."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run's figures: seconds, tokens per second and bytes.

    ``training_*`` are shares of the time that the device spent on pieces of training.
    """

    step_s: float
    gap_p95_alone_s: float
    gap_p95_beside_s: float
    serving_alone: float
    serving_beside: float
    training_alone: float
    training_beside: float
    longest_piece_s: float
    publish_gap_s: float
    eight_step_s: float
    peak_serving: int
    peak_both: int

    def ratios(self) -> Mapping[str, float]:
        """What the budgets speak of."""
        return {
            "one stream's p95 gap, beside / alone": self.gap_p95_beside_s / self.gap_p95_alone_s,
            "one stream's tokens/s, beside / alone": self.serving_beside / self.serving_alone,
            "training's pace, beside a stream / alone": self.training_beside / self.training_alone,
            "longest gap at a publication, in decode steps": self.publish_gap_s / self.eight_step_s,
            "device memory at its peak, both / serving": self.peak_both / self.peak_serving,
        }


class Steps:
    """Follows a stage to its end, and knows when that was."""

    def __init__(self, client: AdminClient, stage: str) -> None:
        self.published_at = 0.0
        self._has_stepped = False
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(client, stage))
        self._thread.start()

    def wait_for_training(self) -> None:
        """Return after the first step."""
        if not self._first.wait(_TIMEOUT_S) or not self._has_stepped:
            raise ServerError("the stage made no step; the server's log says why")

    def join(self) -> None:
        """Wait for the stage's end."""
        self._thread.join(_TIMEOUT_S)

    def _follow(self, client: AdminClient, stage: str) -> None:
        try:
            for event in client.events(stage):
                now = time.perf_counter()
                if event["kind"] == "step":
                    self._has_stepped = True
                    self._first.set()
                elif event["data"].get("state") in ("succeeded", "failed", "cancelled"):
                    self.published_at = now
                    return
        finally:
            self._first.set()  # whoever waits for a server that has died would wait for long


def rows(count: int, seed: str) -> list[dict[str, Any]]:
    """Texts of 40 to 200 words."""
    draw = random.Random(seed)
    return [{"text": prompt(f"{seed} {i}", draw.randint(40, 200))} for i in range(count)]


def measure(model: str, endless: Mapping[str, Any], work: Path, number: int) -> Run:
    """One run on a server of its own; ``endless`` are request fields that ban the end tokens."""
    port = free_port()
    arguments = ["server.cli", "serve", "--model", model, "--served-name", _NAME]
    arguments += ["--port", str(port), "--data-dir", str(work / "data"), "--no-supervise"]
    log = work / "server.log"
    with running(
        arguments, port=port, ready="/health/ready", log=log, timeout_s=_START_S
    ) as server:
        client = AdminClient(server.url, timeout_s=_TIMEOUT_S)
        base = Target(server.url, [{"model": _NAME, **endless}])
        run_load(base, Load(1, 1, 8, 4), seed=f"warm {number}", timeout_s=_TIMEOUT_S)
        alone = run_load(base, _ALONE, seed=f"alone {number}", timeout_s=_TIMEOUT_S)
        peak_serving = _stats(client)["peak_memory_bytes"]

        steps = _train(client, iters=10_000)
        begin = _lent(client)
        time.sleep(_TRAINING_S)
        middle = _lent(client)
        beside = run_load(base, _ALONE, seed=f"alone {number}", timeout_s=_TIMEOUT_S)
        end = _lent(client)
        stats = _stats(client)
        _end_stage(client)
        steps.join()

        both = [_NAME, f"{_NAME}:first"]
        eight = Target(server.url, [{"model": name, **endless} for name in both])
        _train(client, iters=1, chain="first").join()
        quiet = run_load(eight, _EIGHT, seed=f"eight {number}", timeout_s=_TIMEOUT_S)
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(
                run_load, eight, _EIGHT, seed=f"publish {number}", timeout_s=_TIMEOUT_S
            )
            time.sleep(_RUNNING_S)
            published = _train(client, iters=1, rows_a_step=1, chain="first")
            published.join()
            traces = load.result()
    together = [_gaps(trace) for trace in alone], [_gaps(trace) for trace in beside]
    return Run(
        step_s=summarise(alone).gap_p50_s,
        gap_p95_alone_s=percentile(together[0][0], 95),
        gap_p95_beside_s=percentile(together[1][0], 95),
        serving_alone=1 / summarise(alone).token_s,
        serving_beside=1 / summarise(beside).token_s,
        training_alone=_share(begin, middle),
        training_beside=_share(middle, end),
        longest_piece_s=stats["longest_piece_s"],
        publish_gap_s=_gap_at(traces, published.published_at),
        eight_step_s=summarise(quiet).gap_p50_s,
        peak_serving=peak_serving,
        peak_both=stats["peak_memory_bytes"],
    )


def _train(client: AdminClient, *, iters: int, rows_a_step: int = 4, chain: str = "long") -> Steps:
    body = {
        "chain": chain,
        "examples": rows(64, "bench"),
        "iters": iters,
        "schedule": "constant",
        "batch_size": rows_a_step,
        "checkpoint_every": 10_000,
    }
    steps = Steps(client, client.post("stages", body=body)["id"])
    steps.wait_for_training()
    return steps


def _end_stage(client: AdminClient) -> None:
    stage = client.get("stages", query={"status": "running"})["data"][0]
    client.post("stages", stage["id"], "cancel", body={})


def _stats(client: AdminClient) -> dict[str, Any]:
    stats: dict[str, Any] = client.get("engine")["stats"]
    return stats


def _lent(client: AdminClient) -> tuple[float, float]:
    """(now, seconds that the device has spent on training so far)."""
    lent: float = _stats(client)["lent_s"]
    return time.perf_counter(), lent


def _share(begin: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - begin[1]) / (end[0] - begin[0])


def _gaps(trace: Trace) -> list[float]:
    return [b - a for a, b in zip(trace.chunks, trace.chunks[1:], strict=False)]


def _gap_at(traces: Sequence[Trace], moment: float) -> float:
    """The longest pause of any stream that a second around ``moment`` touches."""
    near = [
        b - a
        for trace in traces
        for a, b in zip(trace.chunks, trace.chunks[1:], strict=False)
        if a - 1 <= moment <= b + 1
    ]
    if not near:
        last = max(trace.chunks[-1] for trace in traces)
        raise ValueError(f"the stage was published {moment - last:.1f} s after the last stream")
    return max(near)


def main() -> int:
    """Measure, print the ratios with their spread, and write them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", type=Path, default=None, help="default: the embedded model")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "bench")
    options = parser.parse_args()
    import adapters  # noqa: F401  # opens the fast BLAS before MLX
    from adapters.base.embedded import ensure_embedded
    from adapters.base.tokenizer import load_tokenizer

    options.out.mkdir(parents=True, exist_ok=True)
    model = str(options.model or ensure_embedded(options.out, progress=print))
    ends = load_tokenizer(Path(model)).end_tokens
    endless = {"logit_bias": {str(token): -100 for token in ends}}
    runs: list[Run] = []
    for number in range(options.runs):
        with tempfile.TemporaryDirectory(dir=options.out) as work:
            runs.append(measure(model, endless, Path(work), number))
        found = {name: round(value, 3) for name, value in runs[-1].ratios().items()}
        print(f"run {number + 1}: {json.dumps(found)}", flush=True)
    spreads: dict[str, Spread] = {
        name: spread([run.ratios()[name] for run in runs]) for name in runs[0].ratios()
    }
    for name, value in spreads.items():
        print(f"{name:50} {value}")
    for name in ("step_s", "training_alone", "longest_piece_s", "eight_step_s", "publish_gap_s"):
        print(f"{name:50} {spread([getattr(run, name) for run in runs])}")
    record = {name: [run.ratios()[name] for run in runs] for name in spreads}
    (options.out / "extend.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
