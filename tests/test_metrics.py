"""What an operator sees from outside: /metrics, /health, /ready and the log, with no secret in any."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from live import ROOT, Server, eventually
from redis_server import RedisServer
from signal_server import Settings, create_app
from signal_server.errors import BadRequest, Full, Unavailable
from signal_server.messages import ANSWER, DEMOTE, Reply, Request, Sealed
from signal_server.telemetry.metrics import PUBLISH_SECONDS, Metrics, exposition, process_metrics
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


@dataclass
class Asked:
    """A request, as the log has it."""

    asks: str = "-"
    id: str = "id"
    received: float = field(default_factory=time.monotonic)


def test_a_full_server_counts_as_a_limit() -> None:
    counts = Metrics()
    request_log = RequestLog(counts, form="off", trusts_ids=False)
    for refusal in (Full(), Unavailable("shutting down")):
        request_log.refused(Asked(), refusal)
    assert counts.refusals == {"waiting": 1}


def test_what_reached_nobody_is_counted() -> None:
    before = process_metrics().totals.copy()
    exchange = create_app(Settings.from_env({})).extensions["spacerift"].exchange
    exchange.finish(Reply(ANSWER, "nonce", "answer"), written=False)
    exchange.finish(Reply(DEMOTE, "nonce", "offer"), written=False)
    exchange.finish(Reply(DEMOTE, "nonce", "offer"), written=True)
    assert process_metrics().totals - before == {"answers_lost": 1, "ghosts": 1}


def test_counts_are_what_prometheus_reads() -> None:
    """Every bucket has those below it too, and the last one has all."""
    counts = Metrics()
    for seconds in (0.001, 0.005, 0.006, 0.5, 99):
        counts.request("NO_PEER", "299", seconds)
    with counts.openpgp("verify"):
        pass
    counts.limit_hit("pair")
    counts.paired()
    text = exposition(counts, lambda: {"waiting": 3})
    read = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    labels = ("reply", "NO_PEER"), ("status", "299")
    buckets = [
        read["spacerift_request_seconds_bucket", ("le", le), *labels]
        for le in ("0.005", "0.02", "0.5", "20.0", "+Inf")
    ]
    assert buckets == [2, 3, 4, 4, 5]
    assert read["spacerift_request_seconds_count", *labels] == 5
    assert read["spacerift_request_seconds_sum", *labels] == pytest.approx(99.512)
    assert read["spacerift_openpgp_seconds_count", ("operation", "verify")] == 1
    assert read["spacerift_limits_hit_total", ("limit", "pair")] == 1
    assert [read[f"spacerift_{name}_total",] for name in ("pairs", "answers_lost", "ghosts")] == [1, 0, 0]
    assert [read[f"spacerift_{name}",] for name in ("waiting", "store_up")] == [3, 1]


def test_a_worker_finds_what_the_others_have_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    own, other = Metrics(), Metrics()
    for counts in (own, other):
        counts.paired()
        counts.request("DEMOTE", "200", 0.01)
    other.request("ANSWER", "200", 0.01)
    other.limit_hit("held")
    other.publish(now=True)
    (written,) = tmp_path.iterdir()
    written.rename(tmp_path / "spacerift-1.json")
    text = exposition(own, dict).decode()
    assert 'spacerift_request_seconds_count{reply="DEMOTE",status="200"} 2.0' in text
    assert 'spacerift_request_seconds_count{reply="ANSWER",status="200"} 1.0' in text
    assert 'spacerift_limits_hit_total{limit="held"} 1.0' in text
    assert "spacerift_pairs_total 2.0" in text
    assert "spacerift_store_up 0.0" in text


def test_counts_are_published_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Metrics()
    counts.publish()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    counts.publish()
    (path,) = tmp_path.glob("*.json")
    path.unlink()
    counts.publish()
    assert not list(tmp_path.iterdir())
    counts._published -= PUBLISH_SECONDS
    counts.publish()
    assert path.exists()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "gone"))
    counts.publish(now=True)  # and nobody falls over


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
        linked = {"200 ANSWER": 4, "200 DELIVERED": 4, "200 DEMOTE": 4}
        for _ in range(5):  # whichever worker answers, once each has written its counts
            assert eventually(lambda: value(server, "pairs_total") == 4)
            assert eventually(lambda: replies(server) == linked)
        waiting = server.call(connect("waits"))
        server.until(waiting=1)
        assert value(server, "waiting") == 1
        waiting.close()
        (folder,) = tmp_path.glob("spacerift-metrics-*")
        (folder / "spacerift-1.new").touch()  # as a worker leaves it for a moment when it writes
        assert eventually(lambda: value(server, "pairs_total") == 4)
        old = set(server.workers)
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while old & {*server.workers}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert eventually(lambda: value(server, "pairs_total") == 4)
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
    signs = {"spacerift_unnamed_requests_total", "spacerift_hours_without_hang_ups_total"}
    assert ours - drawn == {"spacerift_pools", "spacerift_pairs_remembered", *signs}


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
    bounced = Request("BOUNCE", nonce="n", sealed=Sealed("", "", ""))
    request_log.replied(Asked(bounced.asks), DEMOTE, "200 OK", written=False)
    request_log.refused(Asked(), BadRequest('not "JSON"'))
    request_log.hung_up(Asked())
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
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1:5555", False),
        ("192.0.2.1-1700000000", False),
        ("v1.2.3", True),
        ('"', False),
        ("", False),
    ],
)
def test_a_request_id_of_a_trusted_proxy_is_kept_if_it_is_harmless(given: str, taken: bool) -> None:
    for trusts in (True, False):
        request_log = RequestLog(process_metrics(), form="off", trusts_ids=trusts)
        assert (request_log.id(given) == given) is (taken and trusts)
        assert request_log.id(given)


def test_the_host_decides_where_the_lines_go(caplog: pytest.LogCaptureFixture) -> None:
    request_log = RequestLog(process_metrics(), form="text", trusts_ids=False)
    for level, count in (("WARNING", 0), ("INFO", 1)):
        with caplog.at_level(level, logger="signal_server"):
            request_log.replied(Asked(Request("CONNECT", "offer").asks), "NO_PEER", "299 No Peer")
        assert len(caplog.messages) == count
    assert re.fullmatch(r"id=\S+ asked=CONNECT reply=NO_PEER status=299 ms=\d+\.\d", caplog.messages[0])


# --- what it costs -----------------------------------------------------------------------------------------


def test_counting_and_logging_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times what we measured, which is little beside a request; see docs/operating.md."""
    asked = Request("CONNECT", "offer")
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr("sys.stderr", log)
        request_log = RequestLog(process_metrics(), form="text", trusts_ids=False)
        request_log._terminal = True
        spent = []
        for _ in range(20):
            started = time.perf_counter()
            for _ in range(100):
                request_log.replied(Asked(asked.asks, request_log.id("")), "DEMOTE", "200 OK")
            spent.append((time.perf_counter() - started) * 1e4)
    assert (tmp_path / "log").read_text().count("reply=DEMOTE") == 2000
    assert min(spent) < 70
