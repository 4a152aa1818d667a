"""Stream configurations: what nats-server 2.15 answered on the wire to the same requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.stream.config import (
    COMPATIBLE_VERSION,
    UNSUPPORTED,
    StreamConfig,
    check_overlap,
    check_update,
    decode_json,
    from_request,
    same_config,
)
from trimaran.actors.stream.errors import ApiError

MINIMAL: dict[str, Any] = {
    "name": "T",
    "subjects": ["t.>"],
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": 120000000000,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
    "metadata": {"_nats.level": "5", "_nats.req.level": "0", "_nats.ver": COMPATIBLE_VERSION},
}


def request(**fields: Any) -> StreamConfig:
    sealed = fields.get("sealed") is True  # no stream is born so
    return from_request("T", {"name": "T", "subjects": ["t.>"], **fields}, creates=not sealed)


def refusal(**fields: Any) -> str:
    with pytest.raises(ApiError) as caught:
        from_request("T", {"name": "T", "subjects": ["t.>"], **fields})
    return text(caught.value)


def text(error: ApiError) -> str:
    return f"{error.code}/{error.err_code} {error.description}"


def test_a_minimal_stream_is_echoed_with_every_default_in_order() -> None:
    assert list(request().to_json().items()) == list(MINIMAL.items())


def test_zero_and_negative_limits_mean_none() -> None:
    limits = ("max_consumers", "max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size")
    for value in (0, -1, -5, None):
        assert request(**dict.fromkeys(limits, value), num_replicas=0).to_json() == MINIMAL


def test_subjects_default_to_the_name() -> None:
    assert request(subjects=[]).subjects == ("T",)
    assert request(subjects=None).subjects == ("T",)


def test_optional_fields_are_echoed_where_nats_server_has_them() -> None:
    given_fields = {
        "description": "d",
        "first_seq": 3,
        "placement": {"cluster": "c"},
        "discard": "new",
        "max_msgs_per_subject": 2,
        "discard_new_per_subject": True,
        "no_ack": True,
        "metadata": {"z": "1", "_nats.ver": "0"},
    }
    echo = request(**given_fields).to_json()
    names = list(echo)
    for before, name in [
        ("name", "description"),
        ("num_replicas", "no_ack"),
        ("duplicate_window", "placement"),
        ("compression", "first_seq"),
        ("mirror_direct", "discard_new_per_subject"),
    ]:
        assert names.index(name) == names.index(before) + 1
    assert echo["metadata"] == {**MINIMAL["metadata"], "z": "1"}


def test_a_short_max_age_shortens_the_duplicate_window() -> None:
    assert request(max_age=10**9).duplicate_window == 10**9
    assert request(max_age=10**12).duplicate_window == 120 * 10**9


@pytest.mark.parametrize(
    ("field", "value", "shown", "go_type"),
    [
        ("max_msgs", "x", "string", "int64"),
        ("max_msgs", 1.5, "number 1.5", "int64"),
        ("max_msgs", True, "bool", "int64"),
        ("max_msgs", 2**63, f"number {2**63}", "int64"),
        ("max_msg_size", 2**31, f"number {2**31}", "int32"),
        ("max_age", 1e9, "number 1000000000.0", "time.Duration"),
        ("first_seq", -1, "number -1", "uint64"),
        ("subjects", "x", "string", "[]string"),
        ("subjects", [1], "array", "[]string"),
        ("sealed", 1, "number 1", "bool"),
        ("description", [], "array", "string"),
        ("metadata", {"a": 1}, "object", "map[string]string"),
        ("placement", "x", "string", "server.Placement"),
        ("placement.cluster", 10**40, f"number {10**40}", "string"),
        ("placement.tags", ["a", 1], "array", "[]string"),
        ("consumer_limits.max_ack_pending", 10**40, f"number {10**40}", "int"),
        ("consumer_limits.inactive_threshold", True, "bool", "time.Duration"),
    ],
)
def test_wrong_types_are_bad_json(field: str, value: Any, shown: str, go_type: str) -> None:
    where = f"Go struct field StreamConfigRequest.{field} of type {go_type}"
    name, _, inner = field.partition(".")
    given = {name: {inner: value} if inner else value}
    assert refusal(**given) == f"400/10025 invalid JSON: json: cannot unmarshal {shown} into {where}"


def test_unknown_fields_are_bad_json() -> None:
    for field in ("foo", "template_owner"):
        assert refusal(**{field: "x"}) == f'400/10025 invalid JSON: json: unknown field "{field}"'


@pytest.mark.parametrize("field", ["retention", "storage", "discard"])
def test_unknown_words_are_bad_json(field: str) -> None:
    assert refusal(**{field: "foo"}) == r'400/10025 invalid JSON: can not unmarshal "\"foo\""'
    assert refusal(compression="foo") == "400/10025 invalid JSON: unknown compression algorithm"


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"max_age": -1}, "max age can not be negative"),
        ({"max_age": 99999999}, "max age needs to be >= 100ms"),
        ({"duplicate_window": -1}, "duplicates window can not be negative"),
        ({"duplicate_window": 1000}, "duplicates window needs to be >= 100ms"),
        (
            {"max_age": 10**9, "duplicate_window": 2 * 10**9},
            "duplicates window can not be larger then max age",
        ),
        ({"num_replicas": 6}, "maximum replicas is 5"),
        ({"discard_new_per_subject": True}, "discard new per subject requires discard new policy to be set"),
        (
            {"discard": "new", "discard_new_per_subject": True},
            "discard new per subject requires max msgs per subject > 0",
        ),
        ({"description": "x" * 4097}, "stream description is too long, maximum allowed is 4096"),
        ({"metadata": {"é": "x" * 131_055}}, "stream metadata exceeds maximum size of 131072 bytes"),
        (
            {"mirror_direct": True, "description": "x" * 4097},
            "stream has no mirror but does have mirror direct",
        ),
        ({"sealed": True}, "stream configuration for create can not be sealed"),
        ({"mirror_direct": True}, "stream has no mirror but does have mirror direct"),
        ({"allow_rollup_hdrs": True, "deny_purge": True}, "roll-ups require the purge permission"),
        ({"subjects": ["a", "a"]}, 'subject "a" overlaps with "a"'),
        ({"subjects": ["a.>", "a.b"]}, 'subject "a.>" overlaps with "a.b"'),
        ({"subjects": ["a.*", "a.b"]}, 'subject "a.*" overlaps with "a.b"'),
        ({"subjects": ["a..b"]}, "invalid subject"),
        ({"subjects": [""]}, "invalid subject"),
        ({"subjects": ["a b"]}, "invalid subject"),
        ({"subjects": ["a.>.b"]}, "invalid subject"),
        ({"subjects": [">"]}, "capturing all subjects requires no-ack to be true"),
        ({"subjects": ["$JS.API.x"]}, "subjects that overlap with jetstream api require no-ack to be true"),
        ({"subjects": ["*.>"]}, "subjects that overlap with jetstream api require no-ack to be true"),
        ({"subjects": ["$SYS.x"]}, "subjects that overlap with system api require no-ack to be true"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], answer: str) -> None:
    assert refusal(**fields) == f"500/10052 {answer}"


@pytest.mark.parametrize("subject", ["$KV.a.>", "_INBOX.>", "$JS.EVENT.>", "*", "$foo", "a.*x"])
def test_subjects_that_only_look_reserved_are_taken(subject: str) -> None:
    assert request(subjects=[subject]).subjects == (subject,)


def test_names_lead_nowhere_else() -> None:
    def answer(name: str) -> str:
        with pytest.raises(ApiError) as caught:
            from_request(name, {"name": name, "subjects": ["q"]})
        return text(caught.value)

    for name in ("a/b", "a\\b", "/etc", "..\\x"):
        assert answer(name) == "400/10128 Stream name can not contain path separators"
    for name in ("a*", "a.b", "..", "a>", "a b", "a\tb", "a\0b", ""):
        assert answer(name).startswith("500/10052 stream name is required and can not contain")
    assert answer("x" * 256) == "500/10052 stream name is too long, maximum allowed is 255"
    for name in ("x" * 255, "ü", "a:b", "-"):
        assert from_request(name, {"name": name, "subjects": ["q"]}).name == name


def test_the_name_must_be_that_of_the_subject() -> None:
    for body in ({"name": "U"}, {"name": ""}, {}, {"name": None}):
        with pytest.raises(ApiError) as caught:
            from_request("T", body)
        assert text(caught.value) == "400/10056 stream name in subject does not match request"


def test_replicas_need_nodes() -> None:
    body = {"name": "T", "num_replicas": 3}
    assert from_request("T", body, nodes=3).num_replicas == 3
    answers = {
        1: "500/10074 replicas > 1 not supported in non-clustered mode",
        2: "400/10005 no suitable peers for placement",
    }
    for nodes, answer in answers.items():
        with pytest.raises(ApiError) as caught:
            from_request("T", body, nodes=nodes)
        assert text(caught.value) == answer
    assert refusal(num_replicas=-1) == "400/10133 replicas count cannot be negative"


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_what_is_not_done_yet_is_refused_and_its_zero_value_accepted(field: str) -> None:
    values: dict[str, tuple[Any, Any]] = {
        "mirror": ({"name": "X"}, None),
        "sources": ([{"name": "X"}], []),
        "republish": ({"src": ">", "dest": "x.>"}, None),
        "subject_transform": ({"src": ">", "dest": "x.>"}, None),
        "subject_delete_marker_ttl": (10**9, 0),
    }
    value, zero = values.get(field, (True, False))
    assert refusal(**{field: value}) == f"500/10052 {UNSUPPORTED[field]}"
    assert request(**{field: zero}).to_json() == MINIMAL


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b"{", "unexpected EOF"),
        (b"", "unexpected EOF"),
        (b'{"a": NaN}', "the value can not be read"),
        (b"[" * 100_000, "the value can not be read"),
        (b"\xff", "the value can not be read"),
        (b"9" * 10_000, "the value can not be read"),
        (b'{"a": ["\\uD800"]}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'"\xed\xa0\x80"', "the value can not be read"),
        ("[]".encode("utf-16"), "the value can not be read"),
    ],
)
def test_unreadable_json_is_told(payload: bytes, answer: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode_json(payload)
    assert text(caught.value) == f"400/10025 invalid JSON: {answer}"


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert decode_json(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_what_is_kept_of_a_request_fits_the_log() -> None:
    """Numbers beyond 64 bits and deep nesting have no form in a record: no kept field lets them in."""
    hostile: list[object] = [10**40, -(10**40), [[10**40]], {"a": 10**40}, {"a": {"b": [1.5, {"c": 10**30}]}}]
    nested: object = 1
    for _ in range(600):
        nested = {"cluster": nested}
    for field in ("placement", "consumer_limits", "metadata", "mirror", "sources", "republish", "first_seq"):
        for value in [*hostile, nested]:
            assert "10025" in refusal(**{field: value}) or "10052" in refusal(**{field: value})


def test_a_stream_begins_where_its_numbers_fit_the_acknowledgements() -> None:
    assert request(first_seq=1 << 55).first_seq == 1 << 55
    assert refusal(first_seq=(1 << 55) + 1).startswith("500/10052 first sequence is too high")


def test_subjects_are_compared_pair_by_pair_so_there_is_a_most() -> None:
    assert len(request(subjects=[f"s.{n}" for n in range(1000)]).subjects) == 1000
    many = [f"s.{n}" for n in range(1001)]
    assert refusal(subjects=many) == "500/10052 stream has too many subjects, maximum allowed is 1000"


def test_a_request_that_is_no_object_is_told() -> None:
    bodies: list[object] = [[], "x", 1, None]
    for body in bodies:
        with pytest.raises(ApiError) as caught:
            from_request("T", body)
        assert caught.value.err_code == 10025


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*MINIMAL, *UNSUPPORTED, "x"]), json_values, max_size=6), st.data())
def test_any_request_is_accepted_or_refused_in_words(fields: dict[str, Any], data: st.DataObject) -> None:
    """And what is accepted is understood again, in the same words, when it comes back from the log."""
    name = data.draw(st.sampled_from(["T", "a b", "ü"]))
    try:
        config = from_request(name, {"name": name, **{k: v for k, v in fields.items() if k != "name"}})
    except ApiError as error:
        assert error.description
        return
    echo = json.loads(json.dumps(config.to_json()))
    assert StreamConfig.from_json(echo) == config
    assert StreamConfig.from_json(echo).to_json() == config.to_json()


def test_creating_again_is_the_same_but_for_version_metadata() -> None:
    assert same_config(request(), request(metadata={"_nats.ver": "2.14.0"}))
    assert not same_config(request(), request(metadata={"a": "b"}))
    assert not same_config(request(), request(max_msgs=5))


def test_no_two_streams_take_one_subject() -> None:
    config = request(subjects=["e.a", "f.*"])
    check_overlap(config, [("T", ["e.>"]), ("U", ["g.>", "f"])])
    for subjects in (["e.>"], ["x", "f.1"], ["*.a"], [">"]):
        with pytest.raises(ApiError) as caught:
            check_overlap(config, [("U", subjects)])
        assert text(caught.value) == "400/10065 subjects overlap with an existing stream"


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ({}, {"storage": "memory"}, "stream configuration update can not change storage type"),
        ({"deny_delete": True}, {}, "stream configuration update can not cancel deny message deletes"),
        ({"deny_purge": True}, {}, "stream configuration update can not cancel deny purge"),
        ({"allow_msg_ttl": True}, {}, "message TTL status can not be disabled"),
        ({"sealed": True}, {}, "stream configuration update can not unseal a sealed stream"),
    ],
)
def test_what_can_not_be_changed(old: dict[str, Any], new: dict[str, Any], answer: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_update(request(**old), request(**new))
    assert text(caught.value) == f"500/10052 {answer}"


@pytest.mark.parametrize(
    "new",
    [
        {"max_msgs": 5},
        {"max_bytes": 500},
        {"max_age": 10**9},
        {"discard": "new"},
        {"deny_delete": True},
        {"max_consumers": 6},
        {"first_seq": 5},
        {"compression": "s2"},
        {"allow_rollup_hdrs": True},
        {"allow_direct": True},
        {"allow_msg_ttl": True},
        {"metadata": {"a": "1"}},
        {"subjects": ["u"]},
        {"num_replicas": 3},
    ],
)
def test_what_can_be_changed(new: dict[str, Any]) -> None:
    assert check_update(request(), request(**new)) == request(**new)


def test_sealing_closes_every_door() -> None:
    sealed = check_update(request(max_age=10**9), request(sealed=True, max_age=10**9))
    assert (sealed.discard, sealed.max_age, sealed.deny_delete, sealed.deny_purge) == ("new", 0, True, True)
