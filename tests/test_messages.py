"""Parsing and rendering, by tables."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from signal_server.errors import BadRequest, MissingParameter, SignalError, UnsupportedMediaType
from signal_server.messages import (
    ANSWER,
    DELIVERED,
    DEMOTE,
    NO_PEER,
    Reply,
    Request,
    decode,
    parse,
    pool_of,
    render,
)

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
OFFER = {"TYPE": "CONNECT", "SIGNAL": "offer"}


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
    assert decode(content_type, body.encode()) == OFFER


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
        decode(content_type, b"{}")


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
        b"\xef\xbb\xbf{}",
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
        decode(JSON, body)


@pytest.mark.parametrize("body", [b"TYPE=%ff", b"\xff=1", b"TYPE=%ED%A0%80", b"a=1&a=2"])
def test_what_is_not_a_clean_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(FORM, body)


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "\\u0000", "é", '\\"', "a" * 60_000])
def test_any_text_that_is_utf8_is_a_signal(text: str) -> None:
    body = f'{{"TYPE": "CONNECT", "SIGNAL": "{text}"}}'.encode()
    assert parse(decode(JSON, body)).signal == json.loads(body)["SIGNAL"]


def test_nesting_within_bounds_and_unknown_parameters_are_ignored() -> None:
    body = b'{"TYPE": "CONNECT", "SIGNAL": "s", "x": {"y": [[[1.5, 1e10, "z"]]]}, "w": null}'
    assert parse(decode(JSON, body)) == Request("CONNECT", "s")


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
            parse(decode(JSON, body))
        assert "<b>" not in json.dumps(refusal.value.fields())


@pytest.mark.parametrize(
    ("reply", "namespace", "status", "fields"),
    [
        (Reply(DEMOTE, "n", "s"), None, "200 OK", {"TYPE": "DEMOTE", "NONCE": "n", "SIGNAL": "s"}),
        (Reply(ANSWER, "n", "s"), "chess", "200 OK", {"TYPE": "ANSWER", "SIGNAL": "s"}),
        (Reply(DELIVERED), None, "200 OK", {"TYPE": "DELIVERED"}),
        (Reply(NO_PEER), None, "299 No Peer", {"TYPE": "NO_PEER", "RETRY_AFTER": 0}),
        (Reply(NO_PEER), ":", "298 No Namespace Peer", {"TYPE": "NO_NAMESPACE_PEER", "RETRY_AFTER": 0}),
    ],
)
def test_replies(reply: Reply, namespace: str | None, status: str, fields: dict[str, Any]) -> None:
    assert render(reply, pool_of(namespace)) == (status, fields)


def test_pools_never_mix() -> None:
    names = [None, "a", "open:a", "signed:a", ":", " "]
    pools = {pool_of(name, signed=signed) for name in names for signed in (False, True)}
    assert len(pools) == 2 * len(names)
