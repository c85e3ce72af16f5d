"""Settings: where they come from, what they refuse, and how they say so."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import EMBEDDED_NAME, Settings
from server.settings_text import SettingsError, flag_of, from_environment_and_flags, variable_of


def test_without_anything_the_embedded_model_is_served_on_loopback() -> None:
    """``chainlora serve`` alone must work, and be reachable from this machine only."""
    settings = from_environment_and_flags({}, {})
    assert (settings.base_name, settings.host, settings.port) == (EMBEDDED_NAME, "127.0.0.1", 8000)
    assert settings.data_dir == Path("~/.chainlora").expanduser()


def test_a_flag_wins_over_its_variable() -> None:
    """The command line is closer to the user than the environment."""
    environ = {"CHAINLORA_PORT": "1111", "CHAINLORA_QUEUE_LIMIT": "7"}
    settings = from_environment_and_flags(environ, {"port": "2222"})
    assert (settings.port, settings.queue_limit) == (2222, 7)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_can_be_set_by_its_variable_to_its_default(field: str) -> None:
    """Each field has a variable, and the text form of its default is accepted there."""
    default = getattr(Settings(), field)
    text = "auto" if default is None else str(default)
    if field in ("model", "served_name"):
        text = "mistral-7b"
    if field in ("adapters", "adapter_import_dirs", "allowed_hosts"):
        text = ""
    settings = from_environment_and_flags({variable_of(field): text}, {})
    expected = "mistral-7b" if field in ("model", "served_name") else default
    assert getattr(settings, field) == expected


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_says_what_it_does(field: str) -> None:
    """The description is the help text of the flag."""
    assert (Settings.model_fields[field].description or "").endswith(".")


def test_settings_cannot_change_after_they_are_read() -> None:
    """Two parts that read a setting at different times must see the same value."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_a_variable_that_sets_nothing_is_an_error_with_the_near_name() -> None:
    """A misspelled variable must not be dropped in silence."""
    with pytest.raises(SettingsError, match=r"CHAINLORA_QUEUE_LIMITS.*CHAINLORA_QUEUE_LIMIT\?"):
        from_environment_and_flags({"CHAINLORA_QUEUE_LIMITS": "3"}, {})


def test_a_variable_in_lower_case_is_not_taken_for_the_right_one() -> None:
    """Two spellings of one variable could contradict each other."""
    with pytest.raises(SettingsError, match=r"CHAINLORA_port"):
        from_environment_and_flags({"CHAINLORA_port": "3"}, {})


def test_a_flag_that_sets_nothing_is_an_error_with_the_near_name() -> None:
    """A caller that builds the flags by hand is told as well."""
    with pytest.raises(SettingsError, match=r"--quue-limit.*--queue-limit\?"):
        from_environment_and_flags({}, {"quue_limit": 3})


def test_what_is_read_before_settings_exist_is_left_alone() -> None:
    """The BLAS is opened before MLX; its two variables are not settings."""
    environ = {"CHAINLORA_BLAS": "x", "CHAINLORA_THREADS": "2", "HOME": "/"}
    assert from_environment_and_flags(environ, {}) == Settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_addresses_are_listened_on(host: str) -> None:
    """Every way to say "this machine" works."""
    assert from_environment_and_flags({}, {"host": host}).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_other_addresses_are_refused_with_the_reason(host: str) -> None:
    """Until keys exist, whoever reaches the port may use the server."""
    with pytest.raises(SettingsError, match=r"--host.*API keys do not exist yet"):
        from_environment_and_flags({}, {"host": host})


def test_adapters_come_as_pairs_from_flags_and_from_the_variable() -> None:
    """One flag for each, or one variable for all."""
    pairs = (("a", Path("/x")), ("b", Path("/y")))
    assert from_environment_and_flags({}, {"adapters": ["a=/x", "b=/y"]}).adapters == pairs
    variable = {"CHAINLORA_ADAPTERS": f"a=/x{os.pathsep}b=/y"}
    assert from_environment_and_flags(variable, {}).adapters == pairs


def test_a_relative_adapter_directory_is_bound_to_where_the_server_started() -> None:
    """A later change of directory must not change what is loaded."""
    (pair,) = from_environment_and_flags({}, {"adapters": ["a=x"]}).adapters
    assert pair == ("a", Path.cwd() / "x")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["pirate"], "is not NAME=DIR"),
        (["pirate="], "is not NAME=DIR"),
        (["a:b=/x"], "cannot name an adapter"),
        (["=/x"], "cannot name an adapter"),
        (["a=/x", "a=/y"], "given twice"),
    ],
)
def test_adapters_that_cannot_be_named_are_refused(given: list[str], why: str) -> None:
    """The name is used in requests as base:NAME, once."""
    with pytest.raises(SettingsError, match=rf"--adapter.*{why}"):
        from_environment_and_flags({}, {"adapters": given})


def test_directories_to_load_from_are_a_list_of_those_that_exist(tmp_path: Path) -> None:
    """A misspelled one is told at the start, not by every request."""
    there = os.pathsep.join([str(tmp_path), str(tmp_path)])
    found = from_environment_and_flags({"CHAINLORA_ADAPTER_IMPORT_DIRS": there}, {})
    assert found.adapter_import_dirs == (tmp_path, tmp_path)
    with pytest.raises(SettingsError, match=r"--adapter-import-dirs.*is no directory"):
        from_environment_and_flags({}, {"adapter_import_dirs": [tmp_path / "gone"]})


def test_hosts_are_a_comma_separated_list_without_case() -> None:
    """Host names do not distinguish case."""
    environ = {"CHAINLORA_ALLOWED_HOSTS": "Box.local, llm.test"}
    assert from_environment_and_flags(environ, {}).allowed_hosts == ("box.local", "llm.test")


@pytest.mark.parametrize("host", ["http://box", "*", "*.local", "a b", "a\nb"])
def test_hosts_that_are_no_names_are_refused(host: str) -> None:
    """A wildcard or a URL would never match a Host header, or match too much."""
    with pytest.raises(SettingsError, match="is not a host name"):
        from_environment_and_flags({}, {"allowed_hosts": [host]})


@pytest.mark.parametrize("name", ["", "a b", "ä", "a\n", "x" * 201])
def test_a_served_name_is_short_visible_text(name: str) -> None:
    """It stands in URLs, logs and headers."""
    with pytest.raises(SettingsError, match="--served-name"):
        from_environment_and_flags({}, {"served_name": name})


def test_every_wrong_value_is_reported_at_once_with_flag_and_variable() -> None:
    """One run shows all that has to be mended."""
    environ = {"CHAINLORA_PORT": "x", "CHAINLORA_SEND_TIMEOUT_S": "inf"}
    with pytest.raises(SettingsError) as caught:
        from_environment_and_flags(environ, {"queue_limit": 0})
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"{flag_of(field)} / {variable_of(field)}"
        for field in ("port", "send_timeout_s", "queue_limit")
    ]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Settings(model="org/Some-Model-4bit"), "org/Some-Model-4bit"),
        (Settings(model="org/Some-Model-4bit", served_name="some"), "some"),
    ],
)
def test_a_base_is_served_under_its_hub_id_or_the_name_given(settings: Settings, name: str) -> None:
    """Users type the name that they know."""
    assert settings.base_name == name


def test_a_local_base_is_served_under_its_directory_s_name(tmp_path: Path) -> None:
    """A path would tell clients where the server keeps its files."""
    (tmp_path / "tiny").mkdir()
    assert Settings(model=str(tmp_path / "tiny")).base_name == "tiny"


def test_auto_is_for_settings_that_the_server_can_choose() -> None:
    """``--port auto`` means nothing."""
    assert from_environment_and_flags({}, {"kv_budget_bytes": "auto"}).kv_budget_bytes is None
    with pytest.raises(SettingsError, match="--port"):
        from_environment_and_flags({}, {"port": "auto"})


def test_a_group_size_without_kv_bits_is_refused_rather_than_ignored() -> None:
    """The user believes that something is quantized."""
    both = from_environment_and_flags({"CHAINLORA_KV_BITS": "8"}, {"kv_group_size": "32"})
    assert (both.kv_bits, both.kv_group_size) == ("8", "32")
    with pytest.raises(SettingsError, match=r"--kv-group-size.*sets nothing without --kv-bits"):
        from_environment_and_flags({}, {"kv_group_size": "32"})
    with pytest.raises(SettingsError, match="--kv-bits"):
        from_environment_and_flags({}, {"kv_bits": "6"})
