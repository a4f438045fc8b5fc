"""What an operator sees from outside: /metrics, /health, /ready and the log, with no secret in any."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from live import ROOT, Server, eventually
from redis_server import RedisServer
from signal_server import Settings, create_app
from signal_server.errors import BadRequest, Full, Unavailable
from signal_server.messages import ANSWER, DEMOTE, Reply, Request
from signal_server.telemetry.metrics import process_metrics
from signal_server.telemetry.request_log import RequestLog

SECRETS = {
    "SECRET_KEY": "the-deployments-secret",
    "TURN_SECRET": "the-turn-secret",
    "TURN_URLS": "turn:t.test",
}


def connect(name: str, **extra: object) -> dict[str, object]:
    return {"TYPE": "CONNECT", "SIGNAL": f"offer-of-{name}", "FINGERPRINT": f"finger-{name}", **extra}


def answer(name: str, nonce: str, **extra: object) -> dict[str, object]:
    return connect(name, SIGNAL=f"answer-of-{name}", NONCE=nonce, **extra)


def metrics(server: Server) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """By name, and by labels."""
    status, headers, text = server.get("/metrics")
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/plain")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(server: Server, name: str, **labels: str) -> float:
    return metrics(server)[f"spacerift_{name}"].get(tuple(sorted(labels.items())), 0)


def replies(server: Server) -> dict[str, float]:
    return {
        f"{dict(labels)['status']} {dict(labels)['reply']}": count
        for labels, count in metrics(server)["spacerift_request_seconds_count"].items()
    }


def link(server: Server, name: str, **extra: object) -> None:
    """Two peers meet."""
    with server.call(connect(f"{name}-a", **extra)) as alice:
        server.until(waiting=1)
        with server.call(connect(f"{name}-b", **extra)) as bob:
            bob.send(answer(f"{name}-b", bob.reply()["NONCE"], **extra))
            assert bob.reply().type == "DELIVERED"
        assert alice.reply().type == "ANSWER"


# --- what is counted ---------------------------------------------------------------------------------------


def test_each_outcome_is_counted() -> None:
    limits = {"REQUEST_LIMIT": "1 per minute", "PAIR_LIMIT": "1 per minute", "HELD_PER_ADDRESS": 2}
    with Server(limits=True, REQUEST_TIMEOUT=0.3, ANSWER_TIMEOUT=0.3, **limits) as server:
        link(server, "ok")
        assert server.post(connect("late")).status == 299
        assert server.post(connect("late")).type == "RATE_LIMIT"
        assert server.post(connect("ok-a")).type == "RATE_LIMIT"
        server.post({"TYPE": "X"})
        server.post({"TYPE": "CONNECT"})
        with server.call(connect("leaver")):
            server.until(waiting=1)
        server.until(waiting=0)
        held = [server.call(connect(f"full-{i}", NAMESPACE=str(i))) for i in range(3)]
        told = sorted(each.reply().type for each in held)
        assert told == ["NO_NAMESPACE_PEER", "NO_NAMESPACE_PEER", "RATE_LIMIT"]
        assert replies(server) == {
            "200 ANSWER": 1,
            "200 DELIVERED": 1,
            "200 DEMOTE": 1,
            "299 NO_PEER": 1,
            "298 NO_NAMESPACE_PEER": 2,
            "297 RATE_LIMIT": 3,
            "400 BAD_REQUEST": 1,
            "499 MISSING_PARAMETER": 1,
            " HUNG_UP": 1,
        }
        for limit in ("request", "pair", "held"):
            assert value(server, "limits_hit_total", limit=limit) == 1, limit
        assert value(server, "pairs_total") == value(server, "pairs_remembered") == 1
        seconds = metrics(server)["spacerift_request_seconds_sum"]
        (waited,) = [spent for labels, spent in seconds.items() if ("reply", "NO_PEER") in labels]
        assert 0.29 <= waited < 5


def test_a_full_server_counts_as_a_limit() -> None:
    before = process_metrics().refusals().get("waiting", 0)
    request_log = RequestLog(process_metrics(), form="off", trusts_ids=False)
    for refusal in (Full(), Unavailable("shutting down")):
        request_log.open(None).refused(refusal)
    assert process_metrics().refusals()["waiting"] == before + 1


def test_what_reached_nobody_is_counted() -> None:
    counts = process_metrics()
    before = counts.answers_lost._value.get(), counts.ghosts._value.get()
    matcher = create_app(Settings.from_env({})).extensions["spacerift"].matcher
    matcher.finish(Reply(ANSWER, "nonce", "answer"), written=False)
    matcher.finish(Reply(DEMOTE, "nonce", "offer"), written=False)
    matcher.finish(Reply(DEMOTE, "nonce", "offer"), written=True)
    after = counts.answers_lost._value.get(), counts.ghosts._value.get()
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1]


def test_all_workers_are_added_up_and_the_dead_ones_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        shared = {"REDIS_URL": redis.url, "SECRET_KEY": "the same", "WEB_CONCURRENCY": 2}
        server = stack.enter_context(Server(**shared))
        for number in range(4):
            link(server, f"pair-{number}", NAMESPACE=f"room-{number}")
        for _ in range(5):  # whoever answers
            assert value(server, "pairs_total") == 4
            assert replies(server) == {"200 ANSWER": 4, "200 DELIVERED": 4, "200 DEMOTE": 4}
        waiting = server.call(connect("waits"))
        server.until(waiting=1)
        assert value(server, "waiting") == 1
        waiting.close()
        (folder,) = tmp_path.glob("spacerift-metrics-*")
        (folder / "counter_1.db").touch()  # as a worker leaves it for a moment when it begins
        assert value(server, "pairs_total") == 4
        old = set(server.workers)
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while old & {*server.workers}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert value(server, "pairs_total") == 4
        redis.kill()
        assert (server.get("/health")[0], server.get("/ready")[0], value(server, "store_up")) == (200, 503, 0)
        redis.start()
        deadline = time.monotonic() + 10
        while server.get("/ready")[0] != 200 or value(server, "store_up") != 1:
            assert time.monotonic() < deadline
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert not list(tmp_path.glob("spacerift-metrics-*"))


def test_no_label_tells_who_or_where(server: Server) -> None:
    link(server, "labels", NAMESPACE="a-room")
    names = {name for samples in metrics(server).values() for labels in samples for name, _ in labels}
    assert names <= {"reply", "status", "limit", "operation", "le"}
    assert b"a-room" not in server.get("/metrics")[2]


def test_the_documents_know_every_metric(server: Server) -> None:
    text = server.get("/metrics")[2].decode()
    families = {each.name: each.type for each in text_string_to_metric_families(text)}
    ours = {
        f"{name}_total" if kind == "counter" else name
        for name, kind in families.items()
        if name.startswith("spacerift_") and not name.endswith("_created")
    }
    table = (ROOT / "docs/operating.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(spacerift_\w+)(?:\{\w+(?:,\w+)*\})?`", table)) == ours
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    drawn = {
        name.removesuffix("_bucket").removesuffix("_count") for name in re.findall(r"\w+(?=\{)", queries)
    }
    process = {name for name in families if name.startswith("process_")}
    assert drawn <= ours | process | {"process_cpu_seconds_total"}
    assert ours - drawn == {"spacerift_pools", "spacerift_pairs_remembered"}


# --- the log -----------------------------------------------------------------------------------------------


def outcomes(server: Server) -> list[dict[str, str]]:
    return [
        dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
        for line in server.log.splitlines()
        if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO id=", line)
    ]


def test_one_line_for_each_outcome_and_nothing_secret_in_any() -> None:
    with Server(REQUEST_TIMEOUT=0.2, **SECRETS) as server:
        link(server, "one", NAMESPACE="secret-room")
        asked = server.call(
            connect("two", SIGNAL="v=0 candidate 203.0.113.7"), headers={"User-Agent": "Agent-X"}
        )
        assert asked.reply().status == 299
        server.post(connect("three"), headers={"X-Request-Id": "chosen-by-the-client"})
        server.post({"TYPE": "X\r\n2026-01-01T00:00:00.000Z INFO id=forged", "SIGNAL": "s"})
        nonces = [server.post(connect("never", NONCE="n0nce-that-was-never-given", NAMESPACE="secret-room"))]
        assert nonces[0].status == 298
        server.get("/ice")
        assert eventually(lambda: len(outcomes(server)) == 7)
        lines = outcomes(server)
        assert [(each["asked"], each["reply"], each["status"]) for each in lines] == [
            ("CONNECT", "DEMOTE", "200"),
            ("CONNECT", "ANSWER", "200"),
            ("ANSWER", "DELIVERED", "200"),
            ("CONNECT", "NO_PEER", "299"),
            ("CONNECT", "NO_PEER", "299"),
            ("-", "BAD_REQUEST", "400"),
            ("ANSWER", "NO_NAMESPACE_PEER", "298"),
        ] or sorted(each["reply"] for each in lines[:3]) == ["ANSWER", "DELIVERED", "DEMOTE"]
        assert len({each["id"] for each in lines}) == len(lines)
        hidden = [
            *SECRETS.values(),
            "offer-of",
            "answer-of",
            "finger-",
            "secret-room",
            "203.0.113",
            "127.0.0.1",
        ]
        hidden += ["candidate", "Agent-X", "chosen-by-the-client", "forged", "n0nce"]
        log = "\n".join(line for line in server.log.splitlines() if "Listening at" not in line)
        assert not [each for each in hidden if each in log]
        assert "Traceback" not in log


def lines(form: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What our own server writes to the terminal."""
    request_log = RequestLog(process_metrics(), form=form, trusts_ids=False)
    request_log._terminal = True
    entry = request_log.open(None)
    entry.asked = Request(type="BOUNCE", signal="offer", signer="its key")
    entry.replied(DEMOTE, "200 OK", written=False)
    request_log.open(None).refused(BadRequest('not "JSON"'))
    request_log.open(None).hung_up()
    return capsys.readouterr().err.splitlines()


def test_the_log_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    bounced, refused, left = (json.loads(line) for line in lines("json", capsys))
    assert list(bounced) == ["time", "level", "id", "asked", "reply", "status", "ms", "why"]
    assert (bounced["asked"], bounced["reply"], bounced["status"]) == ("signed-BOUNCE", "DEMOTE", 200)
    assert bounced["why"] == "not written, the client had left"
    assert (refused["asked"], refused["reply"], refused["why"]) == ("-", "BAD_REQUEST", 'not "JSON"')
    assert (left["reply"], left["status"], "why" in left) == ("HUNG_UP", 0, False)


def test_the_log_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines("off", capsys) == []


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("router-1.a_b:c", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ('"', False),
        ("", False),
    ],
)
def test_a_request_id_of_a_trusted_proxy_is_kept_if_it_is_harmless(given: str, taken: bool) -> None:
    for trusts in (True, False):
        entry = RequestLog(process_metrics(), form="off", trusts_ids=trusts).open(given)
        assert (entry.id == given) is (taken and trusts)


def test_the_host_decides_where_the_lines_go(caplog: pytest.LogCaptureFixture) -> None:
    request_log = RequestLog(process_metrics(), form="text", trusts_ids=False)
    for level, count in (("WARNING", 0), ("INFO", 1)):
        with caplog.at_level(level, logger="signal_server"):
            entry = request_log.open(None)
            entry.asked = Request(type="CONNECT", signal="offer")
            entry.replied("NO_PEER", "299 No Peer")
        assert len(caplog.messages) == count
    assert re.fullmatch(r"id=\S+ asked=CONNECT reply=NO_PEER status=299 ms=\d+\.\d", caplog.messages[0])


# --- what it costs -----------------------------------------------------------------------------------------


def test_counting_and_logging_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times what we measured, which is little beside a request; see docs/operating.md."""
    asked = Request(type="CONNECT", signal="offer")
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr("sys.stderr", log)
        request_log = RequestLog(process_metrics(), form="text", trusts_ids=False)
        request_log._terminal = True
        spent = []
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(100):
                entry = request_log.open(None)
                entry.asked = asked
                entry.replied("DEMOTE", "200 OK")
            spent.append((time.perf_counter() - started) * 1e4)
    assert (tmp_path / "log").read_text().count("reply=DEMOTE") == 2000
    assert min(spent) < 70
