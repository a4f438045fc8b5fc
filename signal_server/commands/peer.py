"""`flask spacerift peer`: a peer in a terminal that tells each step, to debug a server or another client."""

from __future__ import annotations

import os
import re
import secrets
import signal as signals
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import click
from flask import current_app

from ..client import Exchange, SpaceriftError, connect
from ..errors import ConfigurationError
from ..openpgp.signer import OpenpgpSigner

BOUNCE_WORD: Final = "bounce"

WHY: Final = {
    "NO_PEER": "Nobody else came in time.",
    "NO_NAMESPACE_PEER": "Nobody else came to this namespace in time.",
    "RATE_LIMIT": "That was too fast for the server's limits.",
    "UNAVAILABLE": "The server cannot take us just now.",
    "UNTRUSTED": "A signature does not hold.",
    "ANSWER_LATE": "That answer came too late: the server has given the offer back.",
}


@click.command("peer")
@click.argument("url", required=False)
@click.option("--namespace", help="The pool to meet in; the default pool without it.")
@click.option(
    "--rematch/--no-rematch",
    default=None,
    help="Meet again whom we were linked with, if nobody new waits; by default in a namespace only.",
)
@click.option("--fingerprint", help="Who we say that we are; a random text without it.")
@click.option("--signal", help="The offer and the answer to send; a made-up text without it.")
@click.option("--by-hand", is_flag=True, help="Ask for the offer and the answer, to paste them.")
@click.option("--private-key", help="Meet signed peers: our armored key, as text or a path.")
@click.option("--passphrase", help="Of that key.")
@click.option("--trusted", help="A folder of armored keys, or their text: whose signals we take.")
@click.option("--once", is_flag=True, help="Do not try again.")
def peer(
    url: str | None,
    namespace: str | None,
    rematch: bool | None,
    fingerprint: str | None,
    signal: str | None,
    by_hand: bool,
    private_key: str | None,
    passphrase: str | None,
    trusted: str | None,
    once: bool,
) -> None:
    """Meet another peer, and tell each step.

    Start it twice, and the first is Alice, who waits with her offer; the second is Bob, who answers it.
    URL is where the server is mounted: by default, on this machine, as it is set up here. HTTP_PROXY,
    HTTPS_PROXY and NO_PROXY are heeded.
    """
    signals.signal(signals.SIGTERM, lambda *_: sys.exit(128 + signals.SIGTERM))  # and so the server is told
    name = fingerprint or secrets.token_urlsafe(6)
    url = url or own_url()
    where = f"the namespace {namespace!r}" if namespace else "the default pool"
    click.echo(f"I am {name}, and look for a peer in {where} of {url}")
    player = Player(name, signal, by_hand=by_hand)
    try:
        with _signer(private_key, passphrase, trusted) as signer:
            exchange = connect(
                url,
                offer=player.offer,
                answer=player.answer,
                namespace=namespace,
                rematch=rematch,
                fingerprint=name,
                signer=signer,
                retry=not once,
                on_state=player.reach,
            )
    except SpaceriftError as error:
        raise click.ClickException(f"{_why(error)} ({error})") from None
    except (ValueError, ConfigurationError) as error:
        raise click.ClickException(str(error)) from None
    player.conclude(exchange)


def _signer(
    private_key: str | None, passphrase: str | None, trusted: str | None
) -> AbstractContextManager[OpenpgpSigner | None]:
    if private_key is None:
        return nullcontext()
    engine = current_app.extensions["spacerift"].settings.openpgp
    signer = OpenpgpSigner(private_key, passphrase=passphrase, trusted=trusted, openpgp=engine)
    click.echo(f"My key is {signer.fingerprint}")
    return signer


@dataclass
class Player:
    """Plays Alice or Bob, as the server decides.

    Attributes:
        signal: what to send, or None for a made-up text.
    """

    name: str
    signal: str | None
    by_hand: bool

    def offer(self) -> str:
        made_up = self.signal or f"a made-up offer of {self.name}"
        return self._ask("Your offer", made_up) if self.by_hand else made_up

    def answer(self, offer: str, within: float) -> str | None:
        click.echo(
            f"DEMOTE: somebody waits with this offer, so I drop mine and answer it:\n  {_plain(offer)}"
        )
        answer = self.signal or f"a made-up answer of {self.name}"
        if self.by_hand:
            answer = self._ask(f"Your answer, within {within:g} s, or {BOUNCE_WORD!r}", answer)
        if answer == BOUNCE_WORD:
            click.echo("BOUNCE: not this one, another one, please. Here is a new offer of mine.")
            return None
        click.echo(f"CONNECT, with the NONCE of that offer and my answer:\n  {_plain(answer)}")
        return answer

    def reach(self, state: str, why: SpaceriftError | None) -> None:
        if state == "waiting":
            click.echo("I send my offer. If nobody else is there, the server lets me wait ...")
        elif why is not None:
            click.echo(f"{_why(why)} ({why}) I try again in {why.retry_after or 0:.1f} s.")

    def conclude(self, exchange: Exchange) -> None:
        if exchange.role == "initiator":
            click.echo(f"ANSWER: somebody answered my offer. I was Alice.\n  {_plain(exchange.answer)}")
        else:
            click.echo("DELIVERED: my answer was written to their open connection. I was Bob.")
        if exchange.remote_key:
            click.echo(f"Their key is {exchange.remote_key}")

    def _ask(self, what: str, default: str) -> str:
        prompt = f"{what} (one line; nothing for {_plain(default)!r})"
        given: str = click.prompt(prompt, default, show_default=False)
        return given


def own_url() -> str:
    prefix = current_app.extensions["spacerift"].settings.url_prefix or ""
    return f"http://127.0.0.1:{os.environ.get('PORT') or '8000'}{prefix}/"


def _why(error: SpaceriftError) -> str:
    return WHY.get(error.type, "The server refuses." if error.status else "There is no way to the server.")


def _plain(text: str) -> str:
    """A stranger's text, without what a terminal would obey."""
    return re.sub(r"[^\x20-\x7e]", lambda found: ascii(found[0])[1:-1], text)
