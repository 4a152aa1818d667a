"""The table of options: one truth for code, flags, TOML and documentation, and no invalid Options object."""

import dataclasses
import re
import tomllib
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.node import NodeRemoved
from trimaran.actors.options import Options, from_mapping, setting, settings
from trimaran.actors.setting import BadOption, Unit, parse, render
from trimaran.actors.units import format_duration, format_size, parse_duration, parse_size, split_address
from trimaran.commands import Failure
from trimaran.commands.node import (
    EXIT_BAD_OPTION,
    EXIT_BUG,
    EXIT_CANNOT_LISTEN,
    EXIT_FAILED,
    load_config,
    node,
    options_from,
)
from trimaran.commands.options import markdown
from trimaran.storage.errors import StorageError

DOCS = Path(__file__).parents[2] / "docs" / "options.md"
FLAGS = [each.flag for each in settings()]


TLS = ("tls-cert", "tls-key", "tls-ca")
PEER_TLS = ("peer-tls-cert", "peer-tls-key", "peer-tls-ca")
NEEDED = {
    **dict.fromkeys([*TLS[:2], "tls-first", "tls-verify"], TLS),
    **dict.fromkeys(PEER_TLS, PEER_TLS),
}
"""Options that mean nothing alone."""


def other_value(flag: str) -> str:
    """A valid value that is not the default, as text."""
    each = setting(flag)
    if each.choices:
        return next(choice for choice in each.choices if choice != each.default)
    special = {
        "name": "a",
        "data": "/var/lib/trimaran",
        "cluster-name": "harbour",
        "jetstream-domain": "hub",
        "peer": "b=127.0.0.1:6223",
        "election-min": "600ms",
        "election-max": "3s",
        "heartbeat": "50ms",
        "batch-bytes": "5MiB",
        "segment-bytes": "32MiB",
        "max-connections": "7",
        "max-subscriptions": "7",
        "max-payload": "2MiB",
        "max-control-line": "8KiB",
    }
    by_unit = {
        Unit.ADDRESS: "127.0.0.1:9999",
        Unit.FILE: "/etc/trimaran/x",
        Unit.SIZE: "128MiB",
        Unit.DURATION: "3s",
    }
    return special.get(flag) or by_unit[each.unit]


def test_every_field_has_one_setting_with_help_and_reason() -> None:
    assert [each.field for each in settings()] == [each.name for each in dataclasses.fields(Options)]
    for each in settings():
        assert each.help.endswith("."), each.flag
        assert each.reason.endswith("."), each.flag


def test_no_flag_names_a_unit() -> None:
    """A duration comes with its unit: `--quiet-after-ms 2s` would be two of them."""
    assert not [each.flag for each in settings() if each.unit is Unit.DURATION and each.flag.endswith("-ms")]


def test_every_default_is_valid_and_survives_writing_and_reading() -> None:
    assert from_mapping({}) == Options()
    for each in settings():
        if each.default not in (None, ()):
            assert parse(each, render(each, each.default)) == each.default, each.flag


def test_command_line_has_exactly_these_flags_with_their_help_and_default() -> None:
    shown = {param.opts[0]: param for param in node.params if isinstance(param, click.Option)}
    assert list(shown) == ["--config", *(f"--{flag}" for flag in FLAGS)]
    # click keeps the help option of whoever asks first.
    context = click.Context(node, help_option_names=["-h", "--help"])
    text = " ".join(node.get_help(context).split())
    for each in settings():
        assert f"--{each.flag} {each.metavar}" in text
        assert f"{each.help} [default: {each.default_text}]" in text


def test_documentation_has_exactly_this_table() -> None:
    begin, end = "<!-- options: begin -->\n", "<!-- options: end -->\n"
    documented = DOCS.read_text().partition(begin)[2].partition(end)[0]
    assert documented == markdown(), "write the output of `trimaran options` between the markers"


def test_documentation_has_a_toml_file_that_is_valid() -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert examples
    for example in examples:
        assert from_mapping(tomllib.loads(example)) != Options()


@pytest.mark.parametrize("flag", FLAGS)
def test_flag_and_toml_key_mean_the_same(flag: str, tmp_path: Path) -> None:
    value = other_value(flag)
    beside = {each: "/etc/trimaran/x" for each in NEEDED.get(flag, ()) if each != flag}
    from_flag = options_from({flag: (value,) if flag == "peer" else value, **beside})
    assert from_flag != Options()
    file = tmp_path / "node.toml"
    for key in (flag, flag.replace("-", "_")):
        file.write_text(f'{key} = "{value}"\n')
        assert options_from(beside, file) == from_flag


def test_flag_wins_over_toml_which_wins_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('name = "file"\nheartbeat = "50ms"\nmax-payload = 2097152\npeer = ["b=127.0.0.1:1"]\n')
    options = options_from({"name": "flag", "peer": ("c=127.0.0.1:2",)}, file)
    assert options.name == "flag"
    assert options.heartbeat_ms == 50
    assert options.max_payload == 2 * 1024 * 1024
    assert options.peers == (("c", "127.0.0.1:2"),)
    assert options.election_min_ms == Options().election_min_ms


def test_port_0_is_a_free_one_each_time_and_an_unused_address_no_clash() -> None:
    assert from_mapping({"listen": 0, "http": 0, "peer": "b=127.0.0.1:1", "peer-listen": 0}).http
    assert from_mapping({"listen": Options().peer_address}).listen == Options().peer_address


def test_peers_can_be_a_toml_table() -> None:
    written = tomllib.loads('[peer]\nb = "127.0.0.1:6223"\nc = "127.0.0.1:6224"\n')
    assert from_mapping(written).peers == (("b", "127.0.0.1:6223"), ("c", "127.0.0.1:6224"))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 67108864),
        ("64 mib", 67108864),
        ("1.5KiB", 1536),
        ("100kB", 100_000),
        ("7", 7),
        (7, 7),
        ("0B", 0),
    ],
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("100ms", 100), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("0 ms", 0)],
)
def test_durations_are_read(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1e3", "1.5B", "12 parsecs", "1MiB2", "٣", True, None, "9" * 30]
)
def test_nonsense_is_no_size(text: object) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize("text", ["100", 100, "0.5ms", "ms", "-5s", "1d", True])
def test_nonsense_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@given(st.integers(0, 10**17))
def test_quantities_survive_writing_and_reading(value: int) -> None:
    assert parse_size(format_size(value)) == value
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4222", ("127.0.0.1", 4222)),
        ("localhost:0", ("localhost", 0)),
        ("0.0.0.0:-1", ("0.0.0.0", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("8222", ("127.0.0.1", 8222)),
        ("-1", ("127.0.0.1", 0)),
    ],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "localhost:",
        ":4222",
        "a:b",
        "a:65536",
        "a:-2",
        "::1:4222",
        "a b:1",
        "a\x1b:1",
        "a:¹",
        "a..b:1",
        f"{'x' * 64}:1",
    ],
)
def test_nonsense_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        split_address(text)


@pytest.mark.parametrize(
    ("values", "flag", "words"),
    [
        ({"nmae": "a"}, "nmae", "no such option"),
        ({"name": ""}, "name", "characters"),
        ({"name": "a.b"}, "name", "blank"),
        ({"name": "a\nb"}, "name", "control character"),
        ({"listen": "nowhere"}, "listen", "HOST:PORT"),
        ({"http": 65_536}, "http", "port from 0 to 65535"),
        ({"http": "127.0.0.1:4222"}, "http", "own --listen"),
        ({"peer": "b=127.0.0.1:1", "peer-listen": "127.0.0.1:4222"}, "peer-listen", "own --listen"),
        ({"data": ""}, "data", "no directory"),
        ({"data": "a\0b"}, "data", "no directory"),
        ({"data": "~nobody-of-this-name/x"}, "data", "home directory"),
        ({"heartbeat": "100"}, "heartbeat", "a duration such as"),
        ({"heartbeat": "1ms"}, "heartbeat", "between 5ms and 10s"),
        ({"heartbeat": "250ms"}, "election-min", "twice the heartbeat"),
        ({"election-max": "500ms"}, "election-max", "above --election-min"),
        ({"batch-bytes": "1MiB"}, "batch-bytes", "could never be stored"),
        ({"max-payload": "4MiB"}, "batch-bytes", "below 4168KiB"),
        ({"max-payload": "1GiB"}, "max-payload", "between 1KiB and 32MiB"),
        ({"uncommitted-bytes": "2MiB"}, "uncommitted-bytes", "never fit"),
        ({"segment-bytes": "4MiB"}, "segment-bytes", "never fit"),
        ({"max-pending": "512KiB"}, "max-pending", "never be delivered"),
        ({"max-connections": "many"}, "max-connections", "whole number"),
        ({"max-connections": "0"}, "max-connections", "between 1 and 1000000"),
        ({"wal-sync": "never"}, "wal-sync", "none of thread, uring, inline"),
        ({"log-level": True}, "log-level", "not text"),
        ({"peer": "b"}, "peer", "NAME=HOST:PORT"),
        ({"peer": "trimaran=127.0.0.1:1"}, "peer", "this node itself"),
        ({"peer": ["b=127.0.0.1:1", "b=127.0.0.1:2"]}, "peer", "there already"),
        ({"peer": ["b=127.0.0.1:1", "c=127.0.0.1:1"]}, "peer", "there already"),
        ({"peer": "b=127.0.0.1:0"}, "peer", "needs the port"),
        ({"peer": "b=127.0.0.1:6222"}, "peer", "own --peer-listen"),
        ({"peer": "b c=127.0.0.1:1"}, "peer", "blank"),
        ({"peer": 7}, "peer", "NAME=HOST:PORT"),
    ],
)
def test_invalid_options_are_refused_with_flag_and_reason(
    values: dict[str, object], flag: str, words: str
) -> None:
    with pytest.raises(BadOption) as refusal:
        from_mapping(values)
    assert refusal.value.flag == flag
    assert words in refusal.value.reason


def test_fault_in_the_file_is_told_from_a_fault_in_a_flag(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('heartbeat = "soon"\n')
    with pytest.raises(Failure) as refusal:
        options_from({}, file)
    assert refusal.value.message.startswith(f"{file}: heartbeat: 'soon'")
    with pytest.raises(Failure) as refusal:
        options_from({"heartbeat": "now"}, file)
    assert refusal.value.message.startswith("--heartbeat: 'now'")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", None])
def test_unreadable_file_is_a_bad_option(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Failure) as refusal:
        load_config(file)
    assert refusal.value.code == 2
    assert str(file) in refusal.value.message


def test_documentation_has_every_exit_code() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", DOCS.read_text(), re.MULTILINE)}
    kinds: list[type[StorageError]] = [StorageError, *StorageError.__subclasses__()]
    storage = {each.exit_code for each in kinds}
    own = {0, EXIT_FAILED, EXIT_BAD_OPTION, EXIT_CANNOT_LISTEN, EXIT_BUG, NodeRemoved.exit_code}
    assert not own & storage
    assert documented == own | storage
