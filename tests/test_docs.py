"""What the documents say is so: the tables, the links, the examples."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest

from live import ROOT
from signal_server import errors, messages
from signal_server.settings import Settings, variable_of

README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def rows(heading: str) -> list[list[str]]:
    """The cells of all tables under a heading of the README."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line[:1] == "|"
    ]


def test_every_setting_stands_in_the_readme_with_its_default() -> None:
    told = {row[0].strip("`"): row[1] for row in rows("Settings") if row[0].startswith("`")}
    real = {variable_of(each.name): each.metadata["default"] for each in fields(Settings)}
    assert told.keys() - {"PORT", "WEB_CONCURRENCY"} == real.keys()
    for name, default in real.items():
        assert told[name] == default or (default is None and told[name] in ("none", "random")), name


def test_every_reply_stands_in_the_readme() -> None:
    told = {
        (int(status), name.strip("` "))
        for row in rows("The protocol")
        if row[0][:1].isdigit()
        for status, name in zip(re.findall(r"\d{3}", row[0]), row[1].split(","), strict=True)
    }
    replies = [
        messages.Reply(messages.DEMOTE, "nonce", '"SIGNAL":"offer"'),
        messages.Reply(messages.ANSWER, "nonce", '"SIGNAL":"answer"'),
        *(messages.Reply(kind) for kind in (messages.DELIVERED, messages.NO_PEER, messages.LEFT)),
    ]
    rendered = [
        messages.render(each, messages.pool_of(room), answer_within="5")
        for each in replies
        for room in (None, "room")
    ]
    bodies = [(int(status[:3]), json.loads(body)) for status, body in rendered]
    real = {(status, body["TYPE"]) for status, body in bodies}
    carried = {row[1].strip("`"): set(re.findall(r"`([A-Z_]+)`", row[2])) for row in rows("The protocol")}
    for _, body in bodies:
        assert carried[body["TYPE"]] == body.keys() - {"TYPE"}
    real |= {(int(each.status[:3]), each.code) for each in errors.SignalError.__subclasses__()}
    assert told == real


def test_every_parameter_stands_in_the_readme() -> None:
    told = {name for row in rows("The protocol") for name in re.findall(r"`([A-Z_]+)`", row[0])}
    assert told == set(messages.PARAMETERS)


def test_every_option_of_the_browser_client_stands_in_its_document() -> None:
    document = (ROOT / "docs" / "clients.md").read_text()
    table = document.split("| option |")[1].split("\n\n")[0]
    told = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1:2][0])}
    module = (ROOT / "signal_server" / "static" / "spacerift.js").read_text()
    options = module.split("@typedef {object} Options\n")[1].split("*/")[0]
    assert told == set(re.findall(r"@property \{.*\} \[(\w+)\]", options))
    link = document.split("| the link's |")[1].split("\n\n")[0]
    told = {re.split(r"\W", row.split("`")[1])[0] for row in link.splitlines() if "`" in row}
    constructor = module.split("export class Link ")[1].split("\n}\n")[0]
    public = set(re.findall(r"this\.(\w+) =", constructor)) - {"remoteId"}
    assert told == {*public, "close", "addEventListener"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document) -> None:  # type: ignore[no-untyped-def]
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        file = (document.parent / path) if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs, target


def test_the_readmes_application_runs() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    names: dict[str, object] = {"__name__": "example"}
    exec(code[1], names)
    client = names["app"].test_client()  # type: ignore[attr-defined]
    assert client.get("/rift/health").status_code == 200
    assert client.post("/rift/", data={"TYPE": "CONNECT"}).status_code == 499


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_line_of_flask_is_one(document) -> None:  # type: ignore[no-untyped-def]
    from signal_server.commands.group import group

    for name in re.findall(r"flask --app signal_server spacerift ([a-z]+)", document.read_text()):
        assert name in group.commands, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_is_one(document) -> None:  # type: ignore[no-untyped-def]
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", document.read_text()):
        assert f"def {name}(" in tests, name
