"""A real coturn: tabs that may use nothing but a relay link through it; an expired credential is refused."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Server, free_port
from signal_server.http.ice import CREDENTIAL_SECONDS, turn_credential
from tabs import OpenTab, talk

pytest_plugins = ["browser_fixtures"]

SECRET = "only for this test"
RELAY = {"iceTransportPolicy": "relay"}

SELECTED = """async () => {
    const stats = [...(await tab.link.peer.getStats()).values()];
    const { selectedCandidatePairId } = stats.find(each => each.type === "transport");
    const { localCandidateId } = stats.find(each => each.id === selectedCandidatePairId);
    return stats.find(each => each.id === localCandidateId).candidateType;
}"""

GATHERED = """async iceServers => {
    const peer = new RTCPeerConnection({ iceServers, iceTransportPolicy: "relay" });
    const found = { candidates: 0, errors: [] };
    peer.onicecandidate = ({ candidate }) => candidate?.candidate && found.candidates++;
    peer.onicecandidateerror = ({ errorCode }) => found.errors.push(errorCode);
    peer.createDataChannel("test");
    await peer.setLocalDescription();
    while (!found.candidates && !found.errors.length) await new Promise(resolve => setTimeout(resolve, 10));
    peer.close();
    return found;
}"""


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """coturn on a free port of loopback; its address as `TURN_URLS` has it."""
    folder, port = tmp_path_factory.mktemp("turn"), free_port()
    options = [f"--listening-port={port}", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--realm=test"]
    options += ["--use-auth-secret", f"--static-auth-secret={SECRET}", "--allow-loopback-peers", "--no-cli"]
    options += ["--no-tls", "--no-dtls", f"--userdb={folder / 'db'}", f"--pidfile={folder / 'pid'}"]
    log = folder / "log"
    with log.open("w") as output:
        command = ["turnserver", "-n", "--log-file=stdout", *options]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        await_answer(port, process, log)
        yield f"turn:127.0.0.1:{port}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def await_answer(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask for our own address, as STUN has it, until it is told."""
    binding_request = bytes.fromhex("0001 0000 2112a442") + b"a test of 12"
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.1)
        asking.connect(("127.0.0.1", port))
        for _ in range(100):
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                asking.send(binding_request)
                asking.recv(1500)
                return
            time.sleep(0.02)
    raise TimeoutError(log.read_text())


def ice_server(url: str, now: float) -> dict[str, object]:
    return {"urls": [url], **turn_credential(SECRET, now)}


def test_two_tabs_link_through_the_relay_that_the_server_tells_them_of(open_tab: OpenTab, turn: str) -> None:
    with Server(TURN_URLS=turn, TURN_SECRET=SECRET) as server:
        alice, bob = open_tab(server.url), open_tab(server.url)
        alice.meet(rtc=RELAY)
        server.until(waiting=1)
        bob.meet(rtc=RELAY)
        alice.linked()
        bob.linked()
        assert alice.page.evaluate(SELECTED) == bob.page.evaluate(SELECTED) == "relay"
        talk(alice, bob)


def test_an_expired_credential_is_refused_and_does_not_link(open_tab: OpenTab, turn: str) -> None:
    tab, now = open_tab(), time.time()
    assert tab.page.evaluate(GATHERED, [ice_server(turn, now)])["candidates"] > 0
    expired = ice_server(turn, now - CREDENTIAL_SECONDS - 1)
    found = tab.page.evaluate(GATHERED, [expired])
    assert (found["candidates"], set(found["errors"])) == (0, {401})

    other = open_tab()
    tab.page.clock.install()
    for each in (tab, other):
        each.meet(rtc={**RELAY, "iceServers": [expired]})
    tab.reaches("connecting")
    tab.page.clock.run_for(11_000)
    assert tab.pauses[0]["type"] == "LINK_LOST"
