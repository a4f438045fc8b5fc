"""Parsing and rendering, by tables."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signal_server.errors import BadRequest, MissingParameter, SignalError, UnsupportedMediaType
from signal_server.messages import (
    ANSWER,
    BYTE_ORDER_MARK,
    DELIVERED,
    DEMOTE,
    LEFT,
    NO_PEER,
    Reply,
    Request,
    Sealed,
    decode,
    digest_of,
    encode_text,
    media_type,
    parse,
    parse_ordinary,
    pool_of,
    render,
)

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
OFFER = {"TYPE": "CONNECT", "SIGNAL": "offer"}
NAME = "a-name_of-22-characters"[:22]


def json_of(body: bytes) -> dict[str, Any]:
    return decode(body, is_json=True)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, json.dumps(OFFER)),
        ("application/json; charset=utf-8", json.dumps(OFFER)),
        ("Application/JSON;charset=UTF-8", json.dumps(OFFER)),
        ("text/plain", json.dumps(OFFER)),
        ("text/plain;charset=UTF-8", json.dumps(OFFER)),
        (FORM, urlencode(OFFER)),
        ('application/x-www-form-urlencoded; charset="utf-8"', urlencode(OFFER)),
    ],
)
def test_all_three_forms_say_the_same(content_type: str, body: str) -> None:
    assert decode(body.encode(), is_json=media_type(content_type) == "json") == OFFER


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/html",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/jsonp",
    ],
)
def test_other_content_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        media_type(content_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"text"',
        b"null",
        b"{",
        b"{}{}",
        b"\xff",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        b" \xef\xbb\xbf{}",
        b"\xef\xbb\xbf",
        b"{}\xef\xbb\xbf",
        b"\xff\xfe{}",
        '{"TYPE": "CONNECT"}'.encode("utf-16"),
        b'{"SIGNAL": "\xed\xa0\x80"}',
        b'{"SIGNAL": "\\ud800"}',
        b'{"x": "\\uDFFF"}',
        b'{"\\ud800": 1}',
        b'{"x": NaN}',
        b'{"x": Infinity}',
        b'{"x": -Infinity}',
        b'{"x": 1e999}',
        b'{"x": ' + b"9" * 5000 + b"}",
        b'{"TYPE": "CONNECT", "TYPE": "CONNECT"}',
        b'{"x": {"y": 1, "y": 2}}',
        b'{"x": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" * 60_000,
        b'{"a":' * 20_000,
    ],
)
def test_what_is_not_a_clean_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        json_of(body)


@pytest.mark.parametrize("body", [b"TYPE=%ff", b"\xff=1", b"TYPE=%ED%A0%80", b"a=1&a=2"])
def test_what_is_not_a_clean_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(body, is_json=False)


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "\\u0000", "é", '\\"', "a" * 60_000])
def test_any_text_that_is_utf8_is_a_signal(text: str) -> None:
    body = f'{{"TYPE": "CONNECT", "SIGNAL": "{text}"}}'.encode()
    assert parse(json_of(body)).signal == json.loads(body)["SIGNAL"]


def test_nesting_within_bounds_and_unknown_parameters_are_ignored() -> None:
    body = b'{"TYPE": "CONNECT", "SIGNAL": "s", "x": {"y": [[[1.5, 1e10, "z"]]]}, "w": null}'
    assert parse(json_of(body)) == Request("CONNECT", "s")
    assert parse(json_of(b" \n" + body + b"\t")) == Request("CONNECT", "s")


@pytest.mark.parametrize(
    ("parameters", "request_"),
    [
        (OFFER, Request("CONNECT", "offer")),
        (OFFER | {"NONCE": ""}, Request("CONNECT", "offer")),
        (OFFER | {"NAMESPACE": "", "FINGERPRINT": ""}, Request("CONNECT", "offer")),
        (OFFER | {"NONCE": "n"}, Request("CONNECT", "offer", nonce="n")),
        (OFFER | {"NAMESPACE": "é" * 256}, Request("CONNECT", "offer", namespace="é" * 256)),
        (OFFER | {"TYPE": "BOUNCE", "NONCE": "n"}, Request("BOUNCE", "offer", nonce="n")),
        (OFFER | {"FINGERPRINT": "f", "other": 1}, Request("CONNECT", "offer", fingerprint="f")),
        (OFFER | {"REMATCH": "1"}, Request("CONNECT", "offer", rematch=True)),
        (OFFER | {"REMATCH": "", "REQUEST": ""}, Request("CONNECT", "offer")),
        (OFFER | {"REQUEST": NAME}, Request("CONNECT", "offer", name=NAME)),
        (OFFER | {"REQUEST": "x" * 64}, Request("CONNECT", "offer", name="x" * 64)),
        ({"TYPE": "LEAVE", "REQUEST": NAME}, Request("LEAVE", name=NAME)),
        (
            {"TYPE": "LEAVE", "REQUEST": NAME, "FINGERPRINT": "f"},
            Request("LEAVE", name=NAME, fingerprint="f"),
        ),
        ({"TYPE": "LEAVE", "REQUEST": NAME, "SIGNAL": "s", "NONCE": "n"}, Request("LEAVE", name=NAME)),
    ],
)
def test_good_parameters(parameters: dict[str, Any], request_: Request) -> None:
    assert parse(parameters) == request_


@pytest.mark.parametrize(
    ("parameters", "missing"),
    [
        ({}, "TYPE"),
        ({"TYPE": ""}, "TYPE"),
        ({"SIGNAL": "s"}, "TYPE"),
        ({"TYPE": "CONNECT"}, "SIGNAL"),
        ({"TYPE": "CONNECT", "SIGNAL": ""}, "SIGNAL"),
        ({"TYPE": "BOUNCE"}, "SIGNAL"),
        ({"TYPE": "BOUNCE", "SIGNAL": "s"}, "NONCE"),
        ({"TYPE": "BOUNCE", "SIGNAL": "s", "NONCE": ""}, "NONCE"),
        ({"TYPE": "LEAVE"}, "REQUEST"),
        ({"TYPE": "LEAVE", "REQUEST": "", "SIGNAL": "s"}, "REQUEST"),
    ],
)
def test_the_first_missing_parameter_is_named(parameters: dict[str, Any], missing: str) -> None:
    with pytest.raises(MissingParameter) as refusal:
        parse(parameters)
    assert refusal.value.fields() == {"TYPE": "MISSING_PARAMETER", "PARAMETER": missing}


@pytest.mark.parametrize(
    "parameters",
    [
        {"TYPE": 1},
        {"TYPE": None},
        {"TYPE": "connect"},
        {"TYPE": "X"},
        {"TYPE": "CONNECT", "SIGNAL": {"type": "offer"}},
        {"SIGNAL": None},
        {"SIGNAL": True},
        {"NONCE": 1},
        {"NAMESPACE": None},
        {"NAMESPACE": ["a"]},
        {"NAMESPACE": "a" * 257},
        {"FINGERPRINT": "é" * 257},
        {"PUBLIC_KEY": 1},
        {"REMATCH": 1},
        {"REMATCH": True},
        {"REMATCH": None},
        {"REMATCH": "0"},
        {"REMATCH": "true"},
        {"REMATCH": "11"},
        {"REQUEST": None},
        {"REQUEST": 22},
        {"REQUEST": "x" * 21},
        {"REQUEST": "x" * 65},
        {"REQUEST": "x" * 21 + "+"},
        {"REQUEST": "x" * 21 + "é"},
        {"REQUEST": "x" * 22 + "\n"},
        {"TYPE": "LEAVE", "REMATCH": "2"},
        {"TYPE": "LEAVE", "REQUEST": "short"},
        {"TYPE": "LEAVE", "FINGERPRINT": "f" * 257},
        OFFER | {"PUBLIC_KEY": "k"},
        OFFER | {"SIGNED_SIGNAL": "k"},
        {"TYPE": "CONNECT", "NAMESPACE": "a", "SIGNED_NAMESPACE": "k"},
    ],
)
def test_bad_comes_before_missing(parameters: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        parse(parameters)


def test_a_refusal_never_repeats_the_clients_text() -> None:
    for body in (b'{"TYPE": "<b>X"}', b'{"<b>X": 1, "<b>X": 2}', b'{"TYPE": "CONNECT", "SIGNAL": ["<b>"]}'):
        with pytest.raises(SignalError) as refusal:
            parse(json_of(body))
        assert "<b>" not in json.dumps(refusal.value.fields())


@pytest.mark.parametrize(
    ("reply", "namespace", "status", "fields"),
    [
        (
            Reply(DEMOTE, "n", '"SIGNAL":"s"'),
            None,
            "200 OK",
            {"TYPE": "DEMOTE", "NONCE": "n", "ANSWER_WITHIN": 2.5, "SIGNAL": "s"},
        ),
        (Reply(ANSWER, "n", '"SIGNAL":"s"'), "chess", "200 OK", {"TYPE": "ANSWER", "SIGNAL": "s"}),
        (Reply(DELIVERED), None, "200 OK", {"TYPE": "DELIVERED"}),
        (Reply(LEFT), None, "200 OK", {"TYPE": "LEFT"}),
        (Reply(NO_PEER), None, "299 No Peer", {"TYPE": "NO_PEER", "RETRY_AFTER": 0}),
        (Reply(NO_PEER), ":", "298 No Namespace Peer", {"TYPE": "NO_NAMESPACE_PEER", "RETRY_AFTER": 0}),
    ],
)
def test_replies(reply: Reply, namespace: str | None, status: str, fields: dict[str, Any]) -> None:
    told = render(reply, pool_of(namespace), answer_within="2.5")
    assert (told[0], json.loads(told[1])) == (status, fields)
    if status == "200 OK":
        signed = render(reply, pool_of(namespace), answer_within="2.5", signed="-----\nBEGIN é")
        assert json.loads(signed[1]) == fields | {"SIGNED_REPLY": "-----\nBEGIN é"}


FORM_PIECES = [*"%%%+=&4aFg0 \r\n;é", "%41", "%2b", "%0A", "%C3%A9", "%3D", "&b="]


@given(st.lists(st.sampled_from(FORM_PIECES), max_size=12).map("".join))
@example("a=%%41")
@example("a=%\nb&c=%")
@example("a==41%zz")
@example("a=x%\r")
def test_a_form_is_read_as_urllib_reads_it(text: str) -> None:
    def urllib_reads() -> dict[str, str] | None:
        try:
            fields = parse_qsl(text, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            return None
        return dict(fields) if len(dict(fields)) == len(fields) else None

    try:
        ours = decode(text.encode(), is_json=False)
    except BadRequest:
        ours = None
    assert ours == urllib_reads()


def test_a_signed_payload_comes_out_as_it_went_in() -> None:
    sealed = Sealed("a\nb", '"é\\', "\U0001f600")
    status, body = render(Reply(DEMOTE, "n", sealed.payload()), "signed:chess", answer_within="5")
    assert status == "200 OK"
    assert json.loads(body) == {
        "TYPE": "DEMOTE",
        "NONCE": "n",
        "ANSWER_WITHIN": 5,
        "SIGNED_NAMESPACE": "a\nb",
        "SIGNED_SIGNAL": '"é\\',
        "PUBLIC_KEY": "\U0001f600",
    }
    assert Sealed.of_payload(sealed.payload()) == sealed


def test_a_digest_is_of_the_answer() -> None:
    assert digest_of("a") == digest_of("a") != digest_of("b")
    assert len(digest_of("é")) == 16


def test_pools_never_mix() -> None:
    names = [None, "a", "open:a", "signed:a", ":", " "]
    pools = {pool_of(name, signed=signed) for name in names for signed in (False, True)}
    assert len(pools) == 2 * len(names)


# --- the short way through an ordinary body ----------------------------------------------------------------

WORDS = ["CONNECT", "BOUNCE", "LEAVE", "connect", "", "1", "0", NAME, "x" * 257]
TEXTS = (
    st.sampled_from(WORDS)
    | st.text(string.printable, max_size=12)
    | st.text(max_size=12)
    | st.sampled_from(
        ['"SIGNAL":"', '\\"SIGNAL\\":\\"', '","SIGNAL":"x', "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\n"]
    )
)
VALUES = TEXTS | st.none() | st.booleans() | st.integers() | st.lists(TEXTS, max_size=2)
KEYS = st.sampled_from(
    ["TYPE", "SIGNAL", "NONCE", "NAMESPACE", "FINGERPRINT", "REMATCH", "REQUEST", "PUBLIC_KEY", "other"]
)
GOOD = st.fixed_dictionaries(
    {"TYPE": st.sampled_from(["CONNECT", "BOUNCE"]), "SIGNAL": TEXTS},
    optional={
        "NONCE": TEXTS,
        "NAMESPACE": TEXTS,
        "FINGERPRINT": TEXTS,
        "REMATCH": st.sampled_from(["", "1", "2"]),
        "REQUEST": st.sampled_from(["", NAME, "short"]),
    },
)


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """Objects as JSON, by any writer: with escapes that need not be, spaces, and keys that stand twice."""
    pairs = list(draw(GOOD | st.dictionaries(KEYS, VALUES)).items())
    pairs = draw(st.permutations(pairs))
    if draw(st.booleans()) and draw(st.booleans()):
        pairs += [(draw(KEYS), draw(VALUES))]
    space = st.sampled_from(["", "", " ", "\n\t"])

    def literal(value: object) -> str:
        if not isinstance(value, str):
            return json.dumps(value)
        written = json.dumps(value, ensure_ascii=draw(st.booleans()))
        if draw(st.booleans()) and value:
            place = draw(st.integers(0, len(value) - 1))
            escaped = "".join(f"\\u{unit:04x}" for unit in utf16(value[place]))
            written = json.dumps(value[:place])[:-1] + escaped + json.dumps(value[place + 1 :])[1:]
        return written.replace("/", "\\/") if draw(st.booleans()) else written

    members = [
        f"{draw(space)}{literal(key)}{draw(space)}:{draw(space)}{literal(value)}{draw(space)}"
        for key, value in pairs
    ]
    mark = BYTE_ORDER_MARK if draw(st.integers(0, 9)) == 0 else ""
    return f"{mark}{draw(space)}{{{','.join(members)}}}{draw(space)}"


def utf16(character: str) -> list[int]:
    encoded = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded), 2)]


@given(json_texts())
@example('{"TYPE":"CONNECT","SIGNAL":"s"}')
@example('{"NONCE":"\\"SIGNAL\\":\\"no\\"","TYPE":"CONNECT","SIGNAL":"yes"}')
@example('{"NONCE":"SIGNAL\\\\","TYPE":"CONNECT","SIGNAL":"yes"}')
@example('{"TYPE":"CONNECT","\\u0053IGNAL":"s","NONCE":"\\u0022SIGNAL\\u0022:\\u0022x"}')
@example('{"TYPE":"CONNECT","SIGNAL" :"s"}')
@example('{"TYPE":"CONNECT","SIGNAL":"s","SIGNAL":"t"}')
@example('{"TYPE":"CONNECT","SIGNAL":"\\ud83d\\ude00"}')
@example('{"TYPE":"CONNECT","SIGNAL":"\\ud800"}')
@example('{"TYPE":"CONNECT","SIGNAL":"a\\/b\\u0061\\u0000\\""}')
def test_the_short_way_says_the_same_as_the_long_one(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    short = parse_ordinary(body)
    if short is None:
        return
    long = parse(json_of(body))
    literal, short.literal = short.literal, ""
    assert short == long
    short.literal = literal
    payload = '"SIGNAL":' + (literal or encode_text(short.signal))  # as `Endpoint` has it
    assert payload.isascii()
    _, told = render(Reply(DEMOTE, "n", payload), "open:", answer_within="5")
    assert json_of(told)["SIGNAL"] == long.signal
    if literal:
        assert literal in text


@given(GOOD)
def test_the_short_way_is_taken_for_what_browsers_send(fields: dict[str, str]) -> None:
    body = json.dumps(fields, separators=(",", ":")).encode()
    ordinary = (
        all(value.isascii() for value in fields.values())
        and fields["SIGNAL"]
        and (fields.get("NONCE") or fields["TYPE"] == "CONNECT")
        and max(len(fields.get(name, "")) for name in ("NAMESPACE", "FINGERPRINT")) <= 256
        and fields.get("REMATCH") != "2"
        and fields.get("REQUEST") != "short"
    )
    short = parse_ordinary(body)
    assert (short is not None) == bool(ordinary)
    assert short is None or short.literal == json.dumps(fields["SIGNAL"])


@pytest.mark.parametrize("separator", [":", ": "])
@pytest.mark.parametrize("signal", ["s", 'quo"ted', "back\\", '\\"', "a/b", "v=0\r\n"])
def test_the_signal_goes_on_in_the_letters_in_which_it_came(separator: str, signal: str) -> None:
    for fields in (OFFER | {"SIGNAL": signal}, {"NONCE": '"SIGNAL":"no"'} | OFFER | {"SIGNAL": signal}):
        short = parse_ordinary(json.dumps(fields, separators=(",", separator)).encode())
        assert short is not None
        assert short.literal == json.dumps(signal)
