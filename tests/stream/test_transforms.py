"""Subject transforms: what comes of a subject, and which destinations are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.stream.subjects import subject_matches
from trimaran.actors.stream.transforms import BadTransform, SubjectTransform, fnv1a


@pytest.mark.parametrize(
    ("source", "destination", "subject", "made"),
    [
        ("s.*", "t.{{wildcard(1)}}", "s.a", "t.a"),
        ("s.*", "t.$1", "s.a", "t.a"),
        ("s.*.*", "{{Wildcard( 2 )}}.{{wildcard(1)}}", "s.a.b", "b.a"),
        ("s.>", "t.>", "s.a.b", "t.a.b"),
        ("s.>", "", "s.a.b", "a.b"),
        ("", "t.>", "s.a", "t.s.a"),
        ("s.*.>", "$1.x.>", "s.a.b.c", "a.x.b.c"),
        ("s.*", "t", "s.a", "t"),
        ("s", "t", "s", "t"),
        ("s.*", "t", "s", None),
        ("s.*", "t", "s.a.b", None),
        ("s.>", "t.>", "s", None),
        ("s.*", "t", "x.a", None),
        ("s.*", "t.$1", "s.*", None),
        ("s.>", "t.>", "s.a.>", None),
        # As nats-server 2.15 made them.
        ("s.*.*", "s.p.{{partition(10,1,2)}}.{{partition(7)}}.$2", "s.a.b", "s.p.6.4.b"),
        ("s.*.*", "s.p.{{partition(10,1,2)}}.{{partition(7)}}.$2", "s.foo.bar", "s.p.0.6.bar"),
        ("s.*.*", "s.p.{{partition(10,1,2)}}.{{partition(7)}}.$2", "s.1.2", "s.p.0.1.2"),
    ],
)
def test_what_becomes_of_a_subject(source: str, destination: str, subject: str, made: str | None) -> None:
    transform = SubjectTransform(source, destination)
    assert transform(subject.encode()) == (made.encode() if made is not None else None)
    if made is not None:
        assert subject_matches(transform.widest, made)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        *(("s.*", "$2"), ("s.*", "$0"), ("s", "{{wildcard(1)}}"), ("s.*", "{{nonsense(1)}}")),
        *(
            ("s.*", "{{wildcard()}}"),
            ("s.*", "t.>"),
            ("s.>", "t"),
            ("s.*", ""),
            ("s.*", "a..b"),
            ("s.*", "a b"),
        ),
        *(("s..", "t"), ("s.*", "t.*"), ("s.*", "{{partition(0,1)}}"), ("s.*", "{{wildcard(1)")),
        *(("s.*", "a b"), ("a." * 100 + "a", "b"), ("s", "b." * 100 + "b")),
    ],
)
def test_what_is_no_transform(source: str, destination: str) -> None:
    with pytest.raises(BadTransform):
        SubjectTransform(source, destination)


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        *(("a b", "invalid mapping destination: invalid transform"), ("x..$1", "invalid transform")),
        *(
            ("x.*", "^invalid subject"),
            ("x.>", "^invalid subject"),
            ("x.{{foo(1)}}", "unknown function in {{foo"),
        ),
    ],
)
def test_why_it_is_none_is_said_as_by_the_reference(destination: str, reason: str) -> None:
    with pytest.raises(BadTransform, match=reason):
        SubjectTransform("s.*", destination)


def test_the_hash_is_the_published_one() -> None:
    assert (fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")) == (0x811C9DC5, 0xE40C292C, 0xBF9CF968)


tokens = st.text(alphabet="ab$*>{}()12.,", min_size=0, max_size=12)


@given(tokens, tokens, tokens)
def test_nothing_does_worse_than_being_refused(source: str, destination: str, subject: str) -> None:
    try:
        made = SubjectTransform(source, destination)(subject.encode())
    except BadTransform:
        return
    assert made is None or isinstance(made, bytes)
