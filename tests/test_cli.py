"""`flask spacerift …` and `flask shell`, as an operator types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import Result
from itsdangerous import TimestampSigner

from live import ROOT, Call, Server, environment
from redis_server import RedisServer
from signal_server import Settings, create_app
from signal_server.http.passes import SALT, is_good_pass, new_pass

SECRET = "an operator's secret"

Ran = subprocess.CompletedProcess[str]


def flask(*words: str, typed: str = "", port: int = 1, **settings: object) -> Ran:
    environ = environment(**settings) | {"PORT": str(port)}
    command = [sys.executable, "-m", "flask", "--app", "signal_server", *words]
    return subprocess.run(command, cwd=ROOT, env=environ, input=typed, capture_output=True, text=True)


def run(*words: str, port: int = 1, **settings: object) -> Result:
    """The same for `spacerift`, in this process, which is quicker."""
    app = create_app(Settings.from_env(environment(**settings)))
    environ = {"PORT": str(port), "WEB_CONCURRENCY": str(settings.get("WEB_CONCURRENCY", 1))}
    return app.test_cli_runner().invoke(args=["spacerift", *words], env=environ)


def spacerift(*words: str, port: int = 1, **settings: object) -> Any:
    """What the command says to a program."""
    ran = run(*words, "--json", port=port, **settings)
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def busy() -> Iterator[Server]:
    """One waits in the default pool; in a namespace one is offered, and two have met."""
    with Server(SECRET_KEY=SECRET, ANSWER_TIMEOUT=60, REQUEST_TIMEOUT=60) as running:
        calls = [running.offer("alice")]
        for initiator, responder in (("ann", "ben"), ("cat", "dan")):
            calls.append(running.offer(initiator, NAMESPACE="chess"))
            running.until(waiting=2)
            calls.append(running.offer(responder, NAMESPACE="chess"))
            told = calls[-1].reply()
            if initiator == "ann":
                answer = {"TYPE": "CONNECT", "SIGNAL": "answer", "NONCE": told["NONCE"]}
                assert running.post(answer | {"NAMESPACE": "chess", "FINGERPRINT": responder}).status == 200
        running.post({"TYPE": "X"})
        Call.open.difference_update(calls)  # they outlive the first test
        yield running
        for each in calls:
            each.close()


# --- config ------------------------------------------------------------------------------------------------


def test_config_shows_every_setting_and_where_it_comes_from() -> None:
    shown = json.loads(flask("spacerift", "config", "--json", REQUEST_TIMEOUT=2.5, ADDRESS_LIMIT="").stdout)
    assert shown["SPACERIFT_REQUEST_TIMEOUT"] == {"value": 2.5, "from": "environment"}
    assert shown["SPACERIFT_ADDRESS_LIMIT"] == {"value": None, "from": "environment"}
    assert shown["SPACERIFT_PAIR_LIMIT"] == {"value": "1 per 5 second", "from": "default"}
    assert shown["SPACERIFT_CORS_ORIGINS"] == {"value": ["*"], "from": "default"}
    assert "REDIS_URL" in shown


def test_config_masks_secrets() -> None:
    secrets = {
        "SECRET_KEY": "hidden-1",
        "TURN_SECRET": "hidden-2",
        "PRIVATE_KEY_PASSPHRASE": "hidden-3",
        "REDIS_URL": "redis://:hidden-4@127.0.0.1:1/0",
        "ICE_SERVERS": '[{"urls": "turn:t.example", "username": "u", "credential": "hidden-5"}]',
    }
    for form in ((), ("--json",)):
        ran = run("config", *form, **secrets, TURN_URLS="turn:t.example")
        assert ran.exit_code == 0, ran.output
        assert "hidden" not in ran.output
        assert ran.stdout.count("***") == 5
        assert "turn:t.example" in ran.stdout


@pytest.mark.parametrize("words", [("spacerift", "config"), ("run",)])
def test_a_bad_setting_ends_a_command_in_one_line(words: tuple[str, ...]) -> None:
    ran = flask(*words, REQUEST_TIMEOUT="soon")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "Error: SPACERIFT_REQUEST_TIMEOUT must be a number of seconds\n"


# --- stats, pools ------------------------------------------------------------------------------------------


def test_stats_tells_what_the_server_has_counted(busy: Server) -> None:
    shown = spacerift("stats", port=busy.port)
    assert shown["now"] == {"waiting": 1, "offered": 1, "pools": 2, "pairs_remembered": 1}
    assert shown["so far"] == {"pairs": 1, "answers_lost": 0, "ghosts": 0}
    assert shown["replies"] == {"DEMOTE": 2, "ANSWER": 1, "DELIVERED": 1, "BAD_REQUEST": 1}
    words = run("stats", "--url", busy.url).stdout
    assert "pairs_remembered  1" in words


def test_pools_are_shown_to_who_knows_the_secret(busy: Server) -> None:
    shown = spacerift("pools", port=busy.port, SECRET_KEY=SECRET)
    assert [list(each.values())[1:] for each in shown] == [[1, 0, 0], [0, 1, 1]]
    (chess,) = spacerift("pools", "--namespace", "chess", port=busy.port, SECRET_KEY=SECRET)
    assert chess == shown[1]
    words = run("pools", port=busy.port, SECRET_KEY=SECRET).stdout
    assert words.splitlines()[1].split() == ["default", "1", "0", "0"]
    assert "chess" not in words


def test_pools_are_shown_to_nobody_else(busy: Server) -> None:
    assert busy.get("/pools")[0] == 404
    ran = run("pools", port=busy.port, SECRET_KEY="another")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "404" in ran.stderr
    assert "SPACERIFT_SECRET_KEY" in run("pools", port=busy.port).stderr


def test_a_pass_is_of_its_secret_and_its_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_good_pass("one", new_pass("one"))
    assert not is_good_pass("other", new_pass("one"))
    for secret in (None, ""):
        assert not is_good_pass(secret, TimestampSigner("", salt=SALT).sign("pools").decode())
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda self: 1_000_000)
    old = new_pass("one")
    monkeypatch.undo()
    assert not is_good_pass("one", old)


def test_with_redis_the_pools_are_there_without_a_server() -> None:
    with RedisServer() as redis, Server(REDIS_URL=redis.url, SECRET_KEY=SECRET) as server:
        server.offer("alice", NAMESPACE="chess")
        server.until(waiting=1)
        (pool,) = spacerift("pools", "--namespace", "chess", REDIS_URL=redis.url, SECRET_KEY=SECRET)
        assert (pool["waiting"], pool["offered"], pool["pairs"]) == (1, 0, 0)
    ran = run("pools", REDIS_URL=redis.url, SECRET_KEY=SECRET)
    assert (ran.exit_code, ran.stderr) == (1, "Error: Redis does not answer\n")


def test_no_server_is_one_line() -> None:
    ran = run("stats")
    assert ran.exit_code == 1
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("Error: no server answers at http://127.0.0.1:1/metrics")


def test_the_commands_of_the_document_work(busy: Server) -> None:
    document = (ROOT / "docs/operating.md").read_text()
    commands = re.findall(r"^flask --app signal_server spacerift (.*)$", document, re.MULTILINE)
    assert len(commands) == 4
    for each in commands:
        ran = run(*each.split(), port=busy.port, SECRET_KEY=SECRET)
        assert ran.exit_code == 0, (each, ran.output)
        assert ran.stdout


# --- doctor ------------------------------------------------------------------------------------------------


def states(ran: Result) -> dict[str, str]:
    return {each["about"]: each["state"] for each in json.loads(ran.stdout)}


def test_the_doctor_finds_nothing_wrong_here() -> None:
    with Server(REQUEST_TIMEOUT=3, SECRET_KEY=SECRET) as server:
        ran = run("doctor", "--json", "--url", server.url, SECRET_KEY=SECRET)
    assert ran.exit_code == 0, ran.output
    found = states(ran)
    assert "fault" not in found.values()
    on_the_way = ["pairing", "hang-ups", "long requests", "addresses", "large bodies", "refusals"]
    assert [found[each] for each in ("running server", *on_the_way)] == ["ok"] * 7
    assert {"settings", "workers", "store", "signatures", "proxies", "open files", "clock"} < set(found)


@pytest.mark.parametrize(
    ("about", "state", "settings"),
    [
        ("workers", "warning", {"WEB_CONCURRENCY": 3}),
        ("workers", "fault", {"WEB_CONCURRENCY": 0}),
        ("workers", "fault", {"WEB_CONCURRENCY": "two"}),
        ("workers", "fault", {"WEB_CONCURRENCY": ""}),
        ("store", "fault", {"REDIS_URL": "redis://127.0.0.1:1/0", "SECRET_KEY": SECRET}),
        ("secret", "warning", {"SECRET_KEY": "short"}),
        ("signatures", "warning", {"TRUSTED_KEYS": "/nowhere"}),
        ("open files", "warning", {"MAX_WAITING": 2_000_000_000}),
        ("running server", "fault", {}),
    ],
)
def test_the_doctor_finds_what_is_wrong(about: str, state: str, settings: dict[str, object]) -> None:
    ran = run("doctor", "--json", "--url", "http://127.0.0.1:1/", **settings)
    assert ran.exit_code == 1
    assert states(ran)[about] == state


def test_the_doctor_looks_whether_redis_may_forget() -> None:
    with RedisServer() as redis:
        settings = {"REDIS_URL": redis.url, "SECRET_KEY": SECRET}
        assert states(run("doctor", "--json", **settings))["store"] == "ok"
        redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        assert states(run("doctor", "--json", **settings))["store"] == "warning"


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"TRUSTED_PROXIES": 1}, "anybody may claim any"),  # as here, where no proxy is
        ({"TRUSTED_PROXIES": 1, "SECRET_KEY": "another secret of 16"}, "not probed"),
    ],
)
def test_the_doctor_says_whose_address_is_believed(seen: dict[str, object], words: str) -> None:
    with Server(REQUEST_TIMEOUT=1, **{"SECRET_KEY": SECRET} | seen) as server:
        assert server.get("/seen")[0] == 404
        ran = run("doctor", "--json", "--url", server.url, SECRET_KEY=SECRET)
    (found,) = [each for each in json.loads(ran.stdout) if each["about"] == "addresses"]
    assert found["state"] != "ok"
    assert words in found["words"]


def test_a_url_needs_no_last_slash(quick: Server) -> None:
    url = f"http://127.0.0.1:{quick.port}"
    assert run("stats", "--url", f"{url}/").exit_code == run("stats", "--url", url).exit_code == 0
    assert states(run("doctor", "--json", "--url", url))["running server"] == "ok"


@pytest.mark.parametrize("url", ["http://127.0.0.1:x/", "no url", "http://[", "ftp://127.0.0.1/"])
def test_what_is_no_url_is_told_in_one_line(url: str) -> None:
    ran = run("stats", "--url", url)
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 1)
    assert ran.stderr.startswith("Error: no server answers at ")


def test_the_doctor_knows_a_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNO", "web.1")
    ran = run("doctor", "--json")
    assert (ran.exit_code, states(ran)["proxies"]) == (1, "fault")
    assert states(run("doctor", "--json", TRUSTED_PROXIES=1))["proxies"] == "ok"


def test_the_doctor_misses_gpg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ran = flask("spacerift", "doctor", SIGNATURES="optional")
    assert ran.returncode == 1
    assert "gpg" in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


# --- flask shell -------------------------------------------------------------------------------------------


def test_the_shell_knows_the_servers_parts_by_name() -> None:
    program = (
        "import json\n"
        "print([type(each).__name__ for each in (exchange, store, settings, spacerift)], keyring)\n"
        "print(json.dumps(spacerift.snapshot()))\n"
    )
    told = flask("shell", typed=program).stdout.replace(">>> ", "").strip().splitlines()
    assert told[-2] == "['Exchange', 'MemoryStore', 'Settings', 'SignalServer'] None"
    snapshot = json.loads(told[-1])
    assert snapshot["counts"]["waiting"] == 0
    assert snapshot["limits"]["pair_limit"] == "1 per 5 second"
    assert (snapshot["pools"], snapshot["refused"]) == ([], {})
