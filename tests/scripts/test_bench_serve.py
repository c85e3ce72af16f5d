"""The serving benchmark: its load against a real server, and what it leaves behind."""

from __future__ import annotations

import itertools
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.bench.arrivals import poisson
from scripts.bench.asks import prompt
from scripts.bench.exchange import LoadError, trace_of
from scripts.bench.load import Load, Target, run_load
from scripts.bench.prepare import _without_end
from scripts.bench.servers import Running, ServerError, free_port, machine_cpu_s, running
from scripts.bench.stats import summarise
from tests.live_server import live_server


def test_prompts_differ_from_their_first_words_on() -> None:
    """No server's prefix cache can answer one request with another's work."""
    texts = [prompt(f"{pair}/{stream}", 40) for pair in range(20) for stream in range(16)]
    assert len({" ".join(text.split()[:6]) for text in texts}) == len(texts)
    assert {len(text.split()) for text in texts} == {40}
    assert prompt("a", 40) == prompt("a", 40)


def test_every_stream_sends_its_requests_and_models_take_turns() -> None:
    """Request k of stream s asks model s + k, and every answer has the length asked for."""
    with live_server(_endless, adapters=("a0", "a1")) as server:
        target = Target(server.url, [{"model": f"tiny:a{number}"} for number in range(2)])
        traces = run_load(target, Load(16, 2, 8, 5), seed="s", timeout_s=20)
        asked = [request.revision for request in server.engine.submitted]
    assert len(traces) == 32
    assert {trace.output_tokens for trace in traces} == {5}
    assert asked.count("rev-a0") == asked.count("rev-a1") == 16
    sample = summarise(traces)
    assert sample.output_tokens == 160
    assert 0 < sample.first_token_p50_s <= sample.wall_s


def test_arrivals_do_not_wait_for_answers() -> None:
    """While the engine answers nothing, every request of an open load still comes."""
    with live_server(_endless, adapters=("a0", "a1")) as server:
        target = Target(server.url, [{"model": f"tiny:a{number}"} for number in range(2)])
        server.do(server.engine.hold)
        load = Load(6, 2, 8, 5, rate=200.0)
        with ThreadPoolExecutor(1) as pool:
            traces = pool.submit(run_load, target, load, seed="s", timeout_s=20)
            server.wait_until(lambda: len(server.engine.submitted) == 12)
            server.do(server.engine.release)
            sent = sorted(trace.sent for trace in traces.result())
    due = poisson(200.0, 12, "s/arrivals")
    assert [moment - sent[0] for moment in sent] == pytest.approx([at - due[0] for at in due])


def test_the_turns_of_a_chat_hold_what_was_said() -> None:
    """Each request repeats the one before it and its answer, on the model that began the chat."""
    with live_server(_endless, adapters=("a0", "a1")) as server:
        target = Target(server.url, [{"model": f"tiny:a{number}"} for number in range(2)])
        traces = run_load(target, Load(2, 3, 8, 5, talk="turns"), seed="s", timeout_s=20)
        asked = server.engine.submitted
    for revision in ("rev-a0", "rev-a1"):
        prompts = [request.prompt for request in asked if request.revision == revision]
        assert len(prompts) == 3
        assert len(prompts[0]) < len(prompts[1]) < len(prompts[2])
    assert {trace.text for trace in traces} == {"abcde"}


def test_requests_share_a_system_message() -> None:
    """The same for all of a run, before what each of them asks."""
    with live_server(_endless) as server:
        target = Target(server.url, [{"model": "tiny"}])
        load = Load(2, 2, 8, 5, system_words=20)
        run_load(target, load, seed="s", timeout_s=20)
        prompts = [request.prompt for request in server.engine.submitted]
    columns = zip(*prompts, strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    assert shared > len(prompt("s/system", 20))
    assert all(len(each) > shared for each in prompts)


def test_the_first_streams_are_constrained() -> None:
    """So many of them ask by a schema, with every request; the rest are free."""
    with live_server(_endless) as server:
        load = Load(4, 2, 8, 5, constrained=1)
        target = Target(server.url, [{"model": "tiny"}], exact=False)
        traces = run_load(target, load, seed="s", timeout_s=20)
        asked = [request.constraint is not None for request in server.engine.submitted]
    assert sorted(asked) == [False] * 6 + [True] * 2
    assert sorted(trace.constrained for trace in traces) == sorted(asked)


def test_an_answer_that_ends_early_is_an_error() -> None:
    """Another length would be another load; where that is expected it is allowed."""
    with live_server() as server:
        load = Load(1, 1, 8, 50)
        with pytest.raises(LoadError, match="5 tokens, not 50"):
            run_load(Target(server.url, [{"model": "tiny"}]), load, seed="s", timeout_s=20)
        loose = Target(server.url, [{"model": "tiny"}], exact=False)
        assert run_load(loose, load, seed="s", timeout_s=20)[0].output_tokens == 5


def test_a_refused_request_ends_the_load() -> None:
    """The server's status and words are in the error."""
    with live_server() as server:
        target = Target(server.url, [{"model": "tiny:nobody"}])
        with pytest.raises(LoadError, match=r"HTTP 404.*tiny:nobody"):
            run_load(target, Load(4, 3, 8, 5), seed="s", timeout_s=20)


def test_a_load_ends_at_its_limit() -> None:
    """A server that accepts and never answers costs the time limit, not for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target(f"http://127.0.0.1:{listener.getsockname()[1]}", [{}])
        with pytest.raises(LoadError, match=r"timed out|out of time"):
            run_load(target, Load(2, 1, 8, 5), seed="s", timeout_s=0.2)


def test_a_server_that_is_not_up_is_tried_until_the_limit() -> None:
    """A refused connection is tried again, since a short backlog refuses some of many clients."""
    target = Target(f"http://127.0.0.1:{free_port()}", [{}])
    with pytest.raises(LoadError, match="out of time"):
        run_load(target, Load(1, 1, 8, 5), seed="s", timeout_s=0.1)


@pytest.mark.parametrize(
    ("payloads", "said"),
    [
        ([{"choices": [{"delta": {"content": "a"}}]}], "usage"),
        ([{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}], "without text"),
        ([{"error": {"message": "device failed"}}], "device failed"),
    ],
)
def test_half_an_answer_is_no_trace(payloads: list[object], said: str) -> None:
    """Text and a usage report are both needed, and an error in the stream is one."""
    lines = [(1.0, f"data: {json.dumps(payload)}\n".encode()) for payload in payloads]
    with pytest.raises(LoadError, match=said):
        trace_of(0.0, [*lines, (2.0, b"data: [DONE]\n")])


def test_a_server_is_ended_with_its_context(tmp_path: Path) -> None:
    """Nothing is left behind, also where the run fails."""
    port = free_port()
    arguments = ["http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    seen: list[Running] = []

    def fail() -> None:
        log = tmp_path / "log"
        with running(arguments, port=port, ready="/", log=log, timeout_s=20) as server:
            seen.append(server)
            assert server.peak_bytes() > 2**20
            raise RuntimeError("the run failed")

    with pytest.raises(RuntimeError, match="the run failed"):
        fail()
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0].pid, 0)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_work_is_counted_for_the_machine_and_for_a_process() -> None:
    """What this process burns shows in both counts, to a clock tick."""
    here = Running("", os.getpid())
    before, machine_before = here.cpu_s(), machine_cpu_s()
    while here.cpu_s() < before + 0.1:
        sum(range(10_000))
    assert machine_cpu_s() - machine_before >= 0.05


def test_a_server_that_does_not_come_up_shows_its_last_words(tmp_path: Path) -> None:
    """The end of its output is in the error."""
    with (
        pytest.raises(ServerError, match=r"ended with 2[\s\S]*unrecognized arguments"),
        running(
            ["http.server", "--nonsense"], port=1, ready="/", log=tmp_path / "log", timeout_s=20
        ),
    ):
        pass


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """It is ended too."""
    port = free_port()
    arguments = ["http.server", str(port), "--bind", "127.0.0.1"]
    with (
        pytest.raises(ServerError, match=r"not up after 0\.3 s"),
        running(arguments, port=port, ready="/nowhere", log=tmp_path / "log", timeout_s=0.3),
    ):
        pass


def test_the_benched_model_cannot_draw_its_end_token(tmp_path: Path) -> None:
    """Configuration and tokenizer name a token behind the last; every other file is the model's."""
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text('{"eos_token_id": [0, 2], "vocab_size": 4}')
    (source / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    (source / "tokenizer.json").write_text(
        json.dumps(
            {
                "model": {"vocab": {"a": 0, "b": 1}},
                "added_tokens": [{"id": 3, "content": "<end>", "special": True}],
            }
        )
    )
    (source / "model.safetensors").write_bytes(b"weights")
    target = tmp_path / "quantized"
    _without_end(source, target)
    assert json.loads((target / "config.json").read_text()) == {"eos_token_id": 4, "vocab_size": 4}
    end = json.loads((target / "tokenizer_config.json").read_text())["eos_token"]
    added = json.loads((target / "tokenizer.json").read_text())["added_tokens"]
    assert {"id": 4, "content": end, "special": True} in added
    assert (target / "model.safetensors").read_bytes() == b"weights"
    assert not (target / "generation_config.json").exists()


def _endless(_: object) -> itertools.cycle[int]:
    return itertools.cycle(range(ord("a"), ord("z")))
