"""The command line: arguments in, exit code out; the only place that prints or exits.

Exit codes: 0 done, 1 failed, 2 wrong usage, 70 the device failed, 128 + n ended by signal n.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from server.arguments import CommandFailed, Parser, UsageError

if TYPE_CHECKING:
    from server.chat import Chat
    from server.doctor import DoctorReport
    from server.settings import Settings

USAGE = """\
usage: chainlora COMMAND [options]

commands:
  serve     serve a base model and its adapters over HTTP
  doctor    say what this machine runs on, what is missing and the cure
  chat      talk to a server in the terminal
  stage     train a stage of a chain, follow it, steer it
  chain     look at chains; move heads, fork, label, delete
  convert   make an MLX model of a Hugging Face one, quantized if you like
  fuse      write a model with an adapter merged into it
  version   print the version

'chainlora COMMAND --help' lists a command's options.
"""
_MODULES = ("stage", "chain", "convert", "fuse")
"""Commands that have a module of their own, ``server.NAME_cli``."""
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors are one line on standard error."""
    # Imports are late throughout: 'version' and 'chat' need neither pydantic nor MLX.
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: Mapping[str, Callable[[list[str]], int]] = {
        "serve": _serve,
        "doctor": _doctor,
        "chat": _chat,
        **{name: partial(_administer, name) for name in _MODULES},
        "version": _version,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else EXIT_USAGE
    name = "version" if arguments[0] == "--version" else arguments[0]
    if name not in commands:
        _complain(f"there is no command {name!r}; the commands are {', '.join(commands)}")
        return EXIT_USAGE
    try:
        return commands[name](arguments[1:])
    except UsageError as error:
        _complain(str(error))
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone; flushing at exit must not fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else 0


def _serve(arguments: list[str]) -> int:
    flags, parent_fd = _serve_flags(arguments)
    settings = _settings(flags)
    from server.doctor import foreign_adapters

    foreign = foreign_adapters()
    if foreign is not None:
        _complain(f"{foreign.text} {foreign.cure}")
        return EXIT_FAILED
    if settings.supervise:
        return _supervise(arguments, settings)
    if parent_fd is not None:
        _watch_parent(parent_fd, settings)
    return _serve_here(settings)


def _serve_here(settings: Settings) -> int:
    """Serve in this process until it is asked to stop or its device fails."""
    from adapters.errors import AdapterError
    from server.app import serve
    from server.core.errors import ServeError
    from server.loading import load_parts

    try:
        return serve(settings, load_parts)
    except (AdapterError, ServeError, OSError) as error:
        _complain(str(error))
        return EXIT_FAILED


def _supervise(arguments: list[str], settings: Settings) -> int:
    from server.supervise import RestartPolicy, Supervisor

    # The form of the child's own lines: both end up in the same place.
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    command = [sys.executable, "-m", "server.cli", "serve", *arguments, "--no-supervise"]
    return Supervisor(command, policy=RestartPolicy(), clock=time.monotonic, log=_log).run()


def _watch_parent(fd: int, settings: Settings) -> None:
    from server.supervise import stop_orphan, watch_parent

    # The drain's own limit, and a little for what comes after it.
    grace_s = settings.shutdown_grace_s + 5
    try:
        watch_parent(fd, lambda: stop_orphan(grace_s))
    except OSError as error:
        raise UsageError(f"--parent-fd {fd}: {error}; only the supervisor gives it") from None


def _serve_flags(arguments: list[str]) -> tuple[dict[str, object], int | None]:
    """The settings that were given as flags, and the supervisor's pipe."""
    from server.settings import Settings
    from server.settings_text import flag_of, variable_of

    parser = Parser("serve", "Serve a base model and its adapters over an OpenAI-compatible API.")
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"; default: {field.default}"
        text = f"{field.description} [{variable_of(name)}{default}]"
        options: dict[str, Any] = {
            "dest": name,
            "default": argparse.SUPPRESS,
            "help": text.replace("%", "%%"),
        }
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif name == "adapters":
            options |= {"action": "append", "metavar": "NAME=DIR"}
        elif get_origin(field.annotation) is Literal:
            options["metavar"] = "|".join(get_args(field.annotation))
        else:
            options["metavar"] = name.rpartition("_")[2].upper()
        parser.add_argument(flag_of(name), **options)
    parser.add_argument("--parent-fd", type=int, default=None, help=argparse.SUPPRESS)
    known, unknown = parser.parse_known_args(arguments)
    flags = vars(known)
    parent_fd: int | None = flags.pop("parent_fd")
    # Left to the settings, which name the closest flag.
    named = [word[2:].partition("=")[0] for word in unknown if word.startswith("--")]
    flags |= {name.replace("-", "_"): "" for name in named}
    if unknown and not named:
        raise UsageError(f"{unknown[0]!r} belongs to no option; see 'chainlora serve --help'")
    return flags, parent_fd


def _settings(flags: Mapping[str, object]) -> Settings:
    from server.settings_text import SettingsError, from_environment_and_flags

    try:
        return from_environment_and_flags(os.environ, flags)
    except SettingsError as error:
        raise UsageError(str(error)) from None


def _doctor(arguments: list[str]) -> int:
    parser = Parser("doctor", "Say what this machine runs on, what is missing and the cure.")
    parser.add_argument("--selftest", action="store_true", help="also check every fast path")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--data-dir", default=argparse.SUPPRESS, help="the data directory to check")
    flags = vars(parser.parse_args(arguments))
    selftest, as_json = flags.pop("selftest"), flags.pop("json")
    settings = _settings(flags)
    from server.doctor import examine

    report = examine(settings.data_dir, selftest=selftest)
    if as_json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        _print_report(report)
    return EXIT_FAILED if report.failed else 0


def _print_report(report: DoctorReport) -> None:
    for finding in report.findings:
        print(f"{finding.level.value:7}  {finding.topic}: {finding.text}")
        if finding.cure:
            print(f"{'':7}  -> {finding.cure}")


def _chat(arguments: list[str]) -> int:
    parser = Parser("chat", "Talk to an OpenAI-compatible server; /help lists the commands.")
    parser.add_argument(
        "--url",
        default=os.environ.get("CHAINLORA_URL") or "http://127.0.0.1:8000",
        help="the server [CHAINLORA_URL]; default: %(default)s",
    )
    parser.add_argument("--model", default="", help="default: the first that the server lists")
    parser.add_argument(
        "--temperature", type=float, default=None, help="default: the server's, which is 1"
    )
    options = parser.parse_args(arguments)
    from server.chat import Chat, ChatError, Client

    def write(text: str) -> None:
        print(text, end="", flush=True)

    try:
        chat = Chat(
            Client(options.url, temperature=options.temperature), write, model=options.model
        )
    except ChatError as error:
        _complain(str(error))
        return EXIT_FAILED
    if sys.stdin.isatty():
        return _converse(chat)
    for line in sys.stdin:
        try:
            if not chat.handle(line):
                break
        except ChatError as error:
            # Whoever piped the lines in counts on every answer.
            _complain(str(error))
            return EXIT_FAILED
    return 0


def _converse(chat: Chat) -> int:
    import readline  # noqa: F401  # gives input() its line editing

    from server.chat import ChatError

    print(f"{chat.model} answers; /help lists the commands.")
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print("\n/quit or Ctrl-D ends the chat.")
            continue
        try:
            if not chat.handle(line):
                return 0
        except ChatError as error:
            _complain(str(error))


def _administer(command: str, arguments: list[str]) -> int:
    from server.admin_client import AdminError
    from server.screen import Screen

    def write(text: str) -> None:
        print(text, end="", flush=True)

    screen = Screen(write, input, is_terminal=sys.stdout.isatty())
    try:
        ended: int = import_module(f"server.{command}_cli").run(arguments, screen)
        return ended
    except (AdminError, CommandFailed) as error:
        _complain(" ".join(str(error).split()))
        return EXIT_FAILED


def _version(arguments: list[str]) -> int:
    Parser("version", "Print the version.").parse_args(arguments)
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"chainlora {version('chainlora')}")
    except PackageNotFoundError:
        _complain("not installed; run 'pip install .' in the clone, or use ./scripts/serve")
        return EXIT_FAILED
    return 0


def _log(event: str, fields: Mapping[str, object]) -> None:
    pairs = " ".join(f"{name}={json.dumps(value)}" for name, value in fields.items())
    logging.getLogger("server.supervise").info("%s %s", event, pairs)


def _complain(message: str) -> None:
    print(f"chainlora: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
