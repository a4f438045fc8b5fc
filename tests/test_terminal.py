"""`flask spacerift peer`, in two terminals."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

from live import ROOT, Server, environment


class Terminal:
    """The command, with what it prints, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen = ""

    def until(self, words: str) -> str:
        """Its output up to and with the line that has these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen += line
            if words in line:
                return self.seen
        raise AssertionError(f"{words!r} was never said, but:\n{self.seen}")

    def types(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def peer(*arguments: str, **variables: object) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "flask", "--app", "signal_server.app", "spacerift", "peer", *arguments]
    environ = environment() | {name: str(value) for name, value in variables.items()}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield Terminal(process)
        finally:
            process.kill()


def test_alice_and_bob_tell_each_step(server: Server) -> None:
    with peer(server.url, "--namespace", "terminal", "--fingerprint", "alice") as alice:
        server.until(waiting=1)
        with peer(server.url, "--namespace", "terminal", "--fingerprint", "bob") as bob:
            seen = bob.until("I was Bob")
            assert "I am bob, and look for a peer in the namespace 'terminal'" in seen
            assert "DEMOTE" in seen
            assert "a made-up offer of alice" in seen
            assert bob.process.wait(5) == 0
        assert "a made-up answer of bob" in alice.until("made-up answer")
        assert "I was Alice" in alice.seen
        assert alice.process.wait(5) == 0


def test_by_hand_one_may_bounce_an_offer_and_answer_the_next(server: Server) -> None:
    with server.offer("first", NAMESPACE="by hand") as first:
        server.until(waiting=1)
        with peer(server.url, "--namespace", "by hand", "--by-hand") as bob:
            bob.types("my offer")
            bob.until("first")
            bob.types("bounce")
            bob.types("my other offer")
            bob.until("I send my offer")
            server.until(waiting=2)
            first.close()
            server.until(waiting=1)
            whose = {"TYPE": "CONNECT", "NAMESPACE": "by hand", "FINGERPRINT": "mallory"}
            demote = server.post(whose, SIGNAL="second")
            assert demote["SIGNAL"] == "my other offer"
            assert server.post(whose, SIGNAL="an answer", NONCE=demote["NONCE"]).type == "DELIVERED"
            assert "an answer" in bob.until("an answer")


def test_by_hand_the_answer_is_what_was_typed(server: Server) -> None:
    with server.offer("first", NAMESPACE="typed") as first:
        server.until(waiting=1)
        with peer(server.url, "--namespace", "typed", "--by-hand") as bob:
            bob.types("")
            bob.until("first")
            bob.types("typed")
            assert first.reply()["SIGNAL"] == "typed"
            bob.until("I was Bob")


def test_a_strangers_text_does_not_command_the_terminal(server: Server) -> None:
    with server.offer("\x1b[2J\u202eoffer", NAMESPACE="escape") as alice:
        server.until(waiting=1)
        with peer(server.url, "--namespace", "escape", "--signal", '{"type": "answer"}') as bob:
            assert r"\x1b[2J\u202eoffer" in bob.until("I was Bob")
        assert alice.reply()["SIGNAL"] == '{"type": "answer"}'


def test_once_ends_with_the_reason(quick: Server) -> None:
    with peer(quick.url, "--once", "--namespace", "empty") as alice:
        alice.until("Nobody else came to this namespace in time. (NO_NAMESPACE_PEER")
        assert alice.process.wait(5) == 1


def test_without_a_url_it_asks_this_machine_and_ctrl_c_leaves(server: Server) -> None:
    with peer(PORT=server.port) as alice:
        assert server.url in alice.until("I am ")
        server.until(waiting=1)
        alice.process.send_signal(signal.SIGINT)
        server.until(waiting=0)
        assert alice.process.wait(5) == 1


def test_sigterm_leaves_too_and_an_empty_namespace_is_an_error(server: Server) -> None:
    with peer(server.url, "--namespace", "ended") as alice:
        server.until(waiting=1)
        alice.process.send_signal(signal.SIGTERM)
        server.until(waiting=0)
        assert alice.process.wait(5) == 128 + signal.SIGTERM
    with peer(server.url, "--namespace", "") as nobody:
        nobody.until("the namespace is empty")
        assert nobody.process.wait(5) == 1
