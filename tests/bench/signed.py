"""What signatures cost, in one run: for docs/signatures.md.

    python -m tests.bench.signed

The peers sign with Sequoia and Ed25519 keys, which costs them next to nothing; the server verifies with what
it is told to. Traffic goes to 127.0.0.1 only, and ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pysequoia

from crafted import Author, Rsa, armour
from live import Server
from signal_server.openpgp.gnupg import GnupgEngine
from signal_server.openpgp.keyring import Engine, Keyring
from signal_server.openpgp.message import read_message
from signal_server.openpgp.sequoia import SequoiaEngine
from signed_peer import SignedPeer, make_private_key

from .client import CLIENTS, HIGH, SIGNAL, Client, Player, machine, measure, pair
from .servers import ours

SECONDS = 6.0

# Sequoia would make one for each signature, and throw it away.
os.environ["RUST_BACKTRACE"] = os.environ["RUST_LIB_BACKTRACE"] = "0"


class QuickPeer:
    """Signs and writes a request in a tenth of a millisecond, so that the server is what is measured."""

    def __init__(self, room: str) -> None:
        key = pysequoia.Tsk.generate("x <x@x.invalid>", profile=pysequoia.Profile.RFC4880)
        self._signer = key.signer()
        known = {"SIGNED_NAMESPACE": self._sign(room), "PUBLIC_KEY": str(key.extract_certificate())}
        self._form = "TYPE=CONNECT&" + urlencode(known)
        self._says = f'{{"TYPE":"CONNECT","NAMESPACE":"{room}","SIGNAL":"{SIGNAL}"'

    def request(self, name: str, nonce: str = "") -> str:
        """An offer or, with a nonce, an answer, as the body of a request."""
        said = f',"NONCE":"{nonce}"' if nonce else ""
        signal = self._sign(f'{self._says}{said},"TIME":{round(time.time() * 1000)}}}')
        nonce = f"&NONCE={nonce}" if nonce else ""
        return f"{self._form}&FINGERPRINT={name}{nonce}&SIGNED_SIGNAL={quoted(signal)}"

    def _sign(self, text: str) -> str:
        return bytes(pysequoia.sign(self._signer, text.encode())).decode()


def quoted(armoured: str) -> str:
    """What urllib's quote_plus makes of a message, sooner."""
    for letter, code in (("+", "%2B"), (" ", "+"), ("/", "%2F"), ("=", "%3D"), ("\n", "%0A")):
        armoured = armoured.replace(letter, code)
    return armoured


async def signed_pair(port: int, until: float, number: int, waits: list[float]) -> int:
    """Two signed peers that meet again and again in a room of their own, each time in two new tabs."""
    done, run = 0, f"{until:.3f}"
    alice, bob = (QuickPeer(f"room{number}") for _ in range(2))
    async with Client(port) as one, Client(port) as other:
        while time.monotonic() < until:
            started = time.perf_counter()
            names = f"a{run}.{done}", f"b{run}.{done}"
            told = await asyncio.gather(play(one, alice, names[0]), play(other, bob, names[1]))
            if sorted(told) == ["ANSWER", "DELIVERED"]:
                waits.append(time.perf_counter() - started)
                done += 1
    return done


async def play(client: Client, peer: QuickPeer, name: str) -> str:
    told = await client.ask(peer.request(name))
    if told.startswith(b'{"TYPE":"DEMOTE"'):
        told = await client.ask(peer.request(name, json.loads(told)["NONCE"]))
    return str(json.loads(told)["TYPE"])


def rates(seconds: float, trees: Mapping[str, Path]) -> dict[tuple[str, str], tuple[float, float]]:
    """Signed pairs a second, and ms of the worker's CPU for one, by commit and engine; in turns."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for engine in ("sequoia", "gnupg"):
        for _ in range(3):
            for name, tree in trees.items():
                server = ours(name, tree, SIGNATURES="required", OPENPGP=engine)
                try:
                    each = measure(server.port, server.pids[1:], signed_pair, seconds, 16)
                finally:
                    server.stop()
                found.setdefault((name, engine), []).append((each.rate, each.cpu_us / 1000))
    return {key: sorted(rounds)[1] for key, rounds in found.items()}


def beside_forgeries(seconds: float) -> dict[str, list[float]]:
    """The p99 in ms of one unsigned pair after the other: alone, and beside 500 bad signatures a second."""
    bad = forgeries()
    found = {}
    for engine in ("sequoia", "gnupg"):
        server = ours(engine, SIGNATURES="optional", OPENPGP=engine)
        try:
            found[engine] = [
                measure(server.port, server.pids[1:], flooded(bad[:count], 500), seconds, 1).p99_ms
                for count in (0, len(bad))
            ]
        finally:
            server.stop()
    return found


def forgeries() -> list[str]:
    author = Author(Rsa())
    peer = SignedPeer("", author)
    bad = []
    for number in range(200):
        spoiled = armour(author.message(peer.statement(SIGNAL=f"{SIGNAL}{number}").encode(), spoil=True))
        bad.append(urlencode(peer.request(SIGNED_SIGNAL=spoiled)))
    return bad


def flooded(bad: list[str], per_second: float) -> Player:
    """One unsigned pair after the other, beside so many bad signatures a second."""

    async def player(port: int, until: float, number: int, waits: list[float]) -> int:
        told: dict[str, int] = {}

        async def strike(client: Client, body: str) -> None:
            kind = json.loads(await client.ask(body))["TYPE"]
            told[kind] = told.get(kind, 0) + 1

        async def flood() -> None:
            clients = [Client(port) for _ in range(96)]
            for each in clients:
                await each.__aenter__()
            idle, busy, sent, started = list(clients), set(), 0, time.monotonic()
            while time.monotonic() < until:
                due = (time.monotonic() - started) * per_second
                while sent < due and idle:
                    client, sent = idle.pop(0), sent + 1  # in turn, so that none is idle for long
                    task = asyncio.ensure_future(strike(client, bad[sent % len(bad)]))
                    busy.add(task)
                    task.add_done_callback(
                        lambda task, client=client: (busy.discard(task), idle.append(client))
                    )
                await asyncio.sleep(0.002)
            await asyncio.gather(*busy)
            for each in clients:
                await each.__aexit__()

        flooding = asyncio.ensure_future(flood()) if bad else None
        done = await pair(port, until, number, waits)
        if flooding is not None:
            await flooding
            told_rate = {kind: round(count / SECONDS) for kind, count in sorted(told.items())}
            print(f"    of the flood, answered a second: {told_rate}", flush=True)
        return done

    return player


def timed(call: Callable[[], object], seconds: float = 2.0) -> float:
    """A call's time in ms: the tenth part that was quickest ends here, for the rest is other people's."""
    times, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 10] * 1000


def parts() -> None:
    """What one verification and one signature cost, one at a time."""
    keys = {name: make_private_key("", name) for name in ("ed25519", "rsa2048", "nistp256")}
    text = json.dumps({"TYPE": "CONNECT", "NAMESPACE": "chess", "SIGNAL": SIGNAL, "TIME": 1})
    print("one at a time, ms:     sign   verify   of which our own reading")
    for name, private_key in keys.items():
        engines: dict[str, Engine] = {
            "gnupg": GnupgEngine(private_key),
            "sequoia": SequoiaEngine(private_key),
        }
        for engine_name, engine in engines.items():
            keyring = Keyring(engine, None)
            public_key, message = keyring.public_key() or "", keyring.sign(text)
            signing = timed(partial(keyring.sign, text))
            verifying = timed(partial(keyring.verify, message, public_key))
            reading = timed(partial(read_message, message), 0.5)
            print(f"  {name:8} {engine_name:8} {signing:8.2f} {verifying:8.2f} {reading:8.2f}")
            engine.close()
    print("floor: starting /bin/true", f"{timed(lambda: subprocess.run(['/bin/true'], check=True)):.2f} ms")


def main() -> None:
    print(machine())
    parts()
    own = make_private_key("")
    print(f"pairs a second, {CLIENTS} at once, and the worker's CPU:")
    with Server(limits=True, **HIGH) as server:
        show("unsigned", server, pair)
    for engine in ("gnupg", "sequoia"):
        for name, key in {"": {}, ", replies signed": {"PRIVATE_KEY": own}}.items():
            with Server(limits=True, SIGNATURES="required", OPENPGP=engine, **key, **HIGH) as server:
                show(engine + name, server, signed_pair, 16)
    bad = forgeries()
    print("one unsigned pair after the other, while bad signatures come in:")
    for engine in ("gnupg", "sequoia"):
        for rate in (0, 100, 500):
            with Server(limits=True, SIGNATURES="optional", OPENPGP=engine, **HIGH) as server:
                show(f"{engine}, {rate}/s", server, flooded(bad if rate else [], rate), 1)
    with Server(limits=True, SIGNATURES="optional", **{**HIGH, "ADDRESS_LIMIT": "50 per second"}) as server:
        told = asyncio.run(struck(server.port, bad))
    print(f"500/s from one address with the default ADDRESS_LIMIT are answered: {told}")


async def struck(port: int, bad: list[str]) -> dict[str, int]:
    told: dict[str, int] = {}
    async with Client(port) as client:
        for body in bad:
            kind = json.loads(await client.ask(body))["TYPE"]
            told[kind] = told.get(kind, 0) + 1
    return told


def show(name: str, server: Server, player: Player, count: int = CLIENTS) -> None:
    found = measure(server.port, server.workers[:1], player, SECONDS, count)
    print(
        f"  {name:24} {found.rate:8.1f}/s  {found.cpu_us / 1000:6.2f} ms CPU each"
        f"  p50 {found.p50_ms:6.1f}  p99 {found.p99_ms:6.1f} ms"
    )


if __name__ == "__main__":
    main()
