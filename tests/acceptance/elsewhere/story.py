"""A page's commands in a folder of their own, with a real server, and what it says on the way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.acceptance.extending.product import FINAL, Json
from tests.acceptance.serving.process import ServerProcess

WRITTEN_URL = "http://127.0.0.1:8000"
MODEL, HEAD = "mistral-7b", "mistral-7b:chainX"
PROMPTS = (
    "Q: Which bin holds the hinges?\nA:",
    "The harbour lies at the end of the road, and",
    "User: What is a rudder?\nAssistant:",
    "Every morning the workshop",
    "The saw hangs beside the",
)
MOST_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Said:
    """A greedy completion: the prompt, and for each token its text and the best five."""

    prompt: str
    tokens: tuple[str, ...]
    best: tuple[Mapping[str, float], ...]


@dataclass(slots=True)
class Story:
    """A folder in which the page's commands run, and what they led to.

    ``answers`` has what the head said to PROMPTS after each command, by the command's words.
    """

    folder: Path
    environment: dict[str, str]
    server: ServerProcess | None = None
    url: str = ""
    printed: dict[str, str] = field(default_factory=dict)
    answers: dict[str, list[Said]] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The converted model."""
        return self.folder / MODEL

    def run(self, words: Sequence[str]) -> None:
        """One command of the page, which must go well; what it started is done afterwards."""
        program, *arguments = words
        name = " ".join(each for each in arguments[:2] if not each.startswith("-"))
        if arguments[0] == "serve":
            self._serve(arguments)
            return
        if program == "curl":
            name, printed = self._curl(arguments)
        else:
            printed = self.chainlora(words)
        self.printed[name] = printed
        if self.url and self._get("/admin/chains")["data"]:
            self._wait_for_stages()
            self.answers[name] = self.ask(HEAD)

    def chainlora(self, words: Sequence[str]) -> str:
        """What a command that must go well prints."""
        program, *arguments = words
        assert program == "chainlora"
        return self._finished([sys.executable, "-m", "server.cli", *arguments])

    def run_python(self, code: str) -> None:
        """A program of the page."""
        self.printed["python"] = self._finished([sys.executable, "-c", self._here(code)])

    def ask(self, model: str) -> list[Said]:
        """What a model says to PROMPTS."""
        return [self._complete(model, prompt) for prompt in PROMPTS]

    def _serve(self, arguments: list[str]) -> None:
        # A free port instead of the page's, which somebody may use. Without a supervisor, a start
        # that fails ends at once and is not tried again.
        environment = self.environment | {"CHAINLORA_PORT": "0", "CHAINLORA_SUPERVISE": "false"}
        self.server = ServerProcess(["server.cli", *arguments], environment, folder=self.folder)
        self.url = self.server.said(rf"serving {MODEL} at (http://\S+)/v1")[1]
        self.environment["CHAINLORA_URL"] = self.url

    def _curl(self, arguments: list[str]) -> tuple[str, str]:
        """The request that curl would send: its path, and the answer."""
        silent, url, option, header, data_option, data = arguments
        assert (silent, option, data_option) == ("-s", "-H", "-d"), arguments
        name, _, value = header.partition(": ")
        answer = httpx.post(self._here(url), headers={name: value}, content=data, timeout=60)
        assert answer.is_success, answer.text
        return answer.request.url.path, answer.text

    def _finished(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _here(self, text: str) -> str:
        assert WRITTEN_URL in text
        return text.replace(WRITTEN_URL, self.url)

    def _get(self, path: str) -> Json:
        body: Json = httpx.get(self.url + path, timeout=60).raise_for_status().json()
        return body

    def _wait_for_stages(self) -> None:
        """A stream of events ends with its stage."""
        for stage in self._get("/admin/stages")["data"]:
            if stage["status"] not in FINAL:
                httpx.get(f"{self.url}/admin/stages/{stage['id']}/events", timeout=60)
                stage = self._get(f"/admin/stages/{stage['id']}")
            assert stage["status"] == "succeeded", stage["error"]

    def _complete(self, model: str, prompt: str) -> Said:
        wanted = {"temperature": 0, "max_tokens": MOST_TOKENS, "logprobs": 5}
        body = {"model": model, "prompt": prompt, **wanted}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, timeout=60)
        report = answer.raise_for_status().json()["choices"][0]["logprobs"]
        return Said(prompt, tuple(report["tokens"]), tuple(report["top_logprobs"]))
