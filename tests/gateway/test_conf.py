"""nats-server's configuration syntax, and what it says of users and certificates."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.gateway.access import Candidate, Permissions, Responses, Rules
from trimaran.actors.gateway.conf import BadConf, Value, load_conf, parse_conf
from trimaran.actors.security import access_from, seconds, tls_from

HASH = "$2a$11$W2zko751KUvVy59mUTWmpOdWjpEm5qhcCZRd05GjI/sSOT.xtiHyG"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a = 1", 1),
        ("a: -1", -1),
        ("a 1.5", 1.5),
        ("A: 1", 1),
        ("a: 10k", 10_000),
        ("a: 64MB", 64 << 20),
        ("a: 1GiB", 1 << 30),
        ("a: yes", True),
        ("a: off", False),
        ("a: text", "text"),
        ("a: two words # and a comment", "two words"),
        ("a: nats://h:1", "nats://h:1"),
        ("a: 2s", "2s"),
        (r'a: "x\ty\x41\""', 'x\tyA"'),
        (r"a: 'x\t'", r"x\t"),
        ("a {}", {}),
        ("a { b: 1, c = 2; d 3\n e: f }", {"b": 1, "c": 2, "d": 3, "e": "f"}),
        ("a: [1, x, 'y'\n z]", [1, "x", "y", "z"]),
        ("a: [{b: 1}, {b: 2}]", [{"b": 1}, {"b": 2}]),
        ("a (\n one\n two\n)", " one\n two"),
        ("x: 5\na: $x", 5),
        ("x: 5\na { y: $x }", {"y": 5}),
        ("a: $HOME", "/home/me"),
        (f"a: {HASH}", HASH),
        (f'a: "{HASH}"', HASH),
        ("// c\n# d\n a: 1 // e", 1),
        ("{ a: 1 }", 1),
    ],
)
def test_values(text: str, value: Value) -> None:
    assert parse_conf(text, {"HOME": "/home/me"})["a"] == value


@pytest.mark.parametrize(
    "text",
    [
        "a {",
        "a: [1",
        "= 1",
        'a: "x',
        "a: $nothing",
        "a: }",
        "a (\n x",
        r'a: "\q"',
        r'a: "\xg"',
        "a:",
        "{" * 100,
        "a: " + "[" * 100,
    ],
)
def test_what_is_no_configuration_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(BadConf, match=r"^configuration:\d+: "):
        parse_conf(text)


@given(st.text(alphabet="ab{}[]()=:,;#/\"'\\$ \n1k.", max_size=60))
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    try:
        parse_conf(text)
    except BadConf:
        pass


names = st.text(alphabet="abcdefgh_", min_size=1, max_size=8).filter(lambda name: name != "include")
values: st.SearchStrategy[Value] = st.recursive(
    st.booleans() | st.integers(-10000, 10000) | st.text(alphabet="abc \n\t\"\\'{}", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def written(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return '"' + value.translate({ord(each): f"\\x{ord(each):02x}" for each in '\\"\n\t'}) + '"'
        case list():
            return "[" + ", ".join(map(written, value)) + "]"
        case dict():
            return "{" + "\n".join(f"{name}: {written(inner)}" for name, inner in value.items()) + "}"


@given(st.dictionaries(names, values, max_size=4))
def test_what_is_written_is_read(value: dict[str, Value]) -> None:
    assert parse_conf(written(value)) == value


def test_files_include_others(tmp_path: Path) -> None:
    (tmp_path / "users.conf").write_text("users = [{user: a, password: $p}]")
    main = tmp_path / "main.conf"
    main.write_text("p: x\nauthorization { include './users.conf' }")
    assert load_conf(main)["authorization"] == {"users": [{"user": "a", "password": "x"}]}
    main.write_text("include 'main.conf'")
    with pytest.raises(BadConf, match="too deep"):
        load_conf(main)
    with pytest.raises(BadConf, match="No such file"):
        load_conf(tmp_path / "nothing.conf")


def test_users_and_permissions() -> None:
    access = access_from(
        parse_conf(
            """
            authorization {
              default_permissions { subscribe: "public.>" }
              users = [
                { user: a, pass: p, permissions: { pub: [x, "y.>"], sub: { allow: "z q", deny: w } } }
                { user: b, password: p }
                { user: c, password: p, permissions: { allow_responses: { max: 3, expires: "1m" } } }
              ]
            }"""
        )
    )
    assert access is not None
    found = {name: access.identify({"user": name, "pass": "p"}, b"", None) for name in "abc"}
    users = {name: each.user for name, each in found.items() if isinstance(each, Candidate)}
    assert users["a"].permissions == Permissions(Rules(("x", "y.>")), Rules(("z q",), ("w",)))
    assert users["b"].permissions == Permissions(subscribe=Rules(("public.>",)))
    assert users["c"].permissions == Permissions(Rules(()), Rules(), Responses(3, 60.0))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("authorization { users = [{password: p}] }", "neither a name nor an nkey"),
        ("authorization { users = [{nkey: UABC}] }", "no public nkey"),
        ("authorization { users = [{user: a}, {user: a}] }", "twice"),
        ("authorization { user: a, token: t }", "either a token or users"),
        ("authorization { users = [{user: a, permissions {publish: 'a..b'}}] }", "no subject"),
        ("authorization { users = [{user: a, permissions {publsh: a}}] }", "publsh means nothing"),
        ("authorization: 5", "a block is expected"),
        ("authorization { users: 5 }", "a list of blocks"),
        ("no_auth_user: nobody", "there is no user"),
        ("accounts { A { users = [{user: a}], exports = [{stream: x}] } }", "exports is not supported"),
    ],
)
def test_users_that_make_no_sense_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadConf, match=reason):
        access_from(parse_conf(text))


def test_nobody_is_asked_where_nothing_is_said() -> None:
    assert access_from(parse_conf("port: 4222")) is None
    assert tls_from(parse_conf("port: 4222")) is None


@pytest.mark.parametrize(
    ("value", "wanted"), [(2, 2.0), (0.5, 0.5), ("2s", 2.0), ("1m30s", 90.0), ("100ms", 0.1)]
)
def test_times(value: Value, wanted: float) -> None:
    assert seconds(value) == pytest.approx(wanted)


@pytest.mark.parametrize("value", ["", "x", "2", "2s3", True])
def test_what_is_no_time(value: Value) -> None:
    with pytest.raises(BadConf):
        seconds(value)
