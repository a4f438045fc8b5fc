"""Signed peers in a real Chromium, with the real kbpgp and openpgp.js, through gunicorn and gpg."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import select
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote

import pysequoia
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from live import ROOT, Server
from signed_peer import SignedPeer, make_private_key
from tabs import new_context

pytest_plugins = ["browser_fixtures"]

LIBRARIES = ["kbpgp", "openpgp.js"]

Reply = dict[str, Any]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that signs its replies."""
    with Server(SIGNATURES="required", PRIVATE_KEY=make_private_key("")) as running:
        yield running


@pytest.fixture(scope="module")
def server_key(server: Server) -> str:
    return server.get("/key")[2].decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another web site, with both libraries. kbpgp needs stand-ins for what Node has."""
    folder = tmp_path_factory.mktemp("signed")
    (folder / "signed.html").write_bytes((ROOT / "tests/browser/signed.html").read_bytes())
    # As the recipe for kbpgp does it; node finds the packages in the folders above.
    command = [
        "node",
        "docs/examples/kbpgp/build.js",
        "tests/browser/signed.js",
        f"{folder}/signed.bundle.js",
    ]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="module")
def context(chromium: Browser) -> Iterator[BrowserContext]:
    with new_context(chromium) as made:
        yield made


class SignedTab:
    """A tab with a key of its own."""

    def __init__(self, page: Page, site: str, server: str, library: str) -> None:
        self.page = page
        page.goto(f"{site}signed.html?server={quote(server, safe='')}")
        page.wait_for_function("window.tab")
        key = page.evaluate("library => tab.key(library)", library)
        self.public_key, self.fingerprint = str(key["publicKey"]), str(key["fingerprint"])

    def trust(self, *keys: str) -> None:
        self.page.evaluate("keys => tab.trust(keys)", list(keys))

    def meet(self, **options: Any) -> None:
        self.page.evaluate("options => void tab.meet(options)", options)

    def linked(self) -> dict[str, str]:
        found: dict[str, str] = self.page.evaluate("tab.linked()")
        return found

    def refused(self) -> dict[str, str]:
        reason: dict[str, str] = self.page.evaluate("tab.refused()")
        return reason

    def stop(self) -> None:
        self.page.evaluate("tab.stop()")

    def says(self, text: str, to: SignedTab) -> None:
        self.page.evaluate("text => tab.say(text)", text)
        assert to.page.evaluate("tab.hears()") == text


Opened = Callable[..., SignedTab]


@pytest.fixture
def open_tab(context: BrowserContext, site: str, server: Server) -> Iterator[Opened]:
    pages: list[Page] = []

    def opened(library: str, url: str = server.url) -> SignedTab:
        pages.append(context.new_page())
        return SignedTab(pages[-1], site, url, library)

    yield opened
    for page in pages:
        page.close()


@pytest.mark.parametrize("first", LIBRARIES)
def test_a_kbpgp_tab_and_an_openpgp_tab_link_and_everybody_is_verified(
    open_tab: Opened, server: Server, server_key: str, first: str
) -> None:
    (second,) = set(LIBRARIES) - {first}
    one, other = open_tab(first), open_tab(second)
    one.trust(other.public_key)
    other.trust(one.public_key)
    pinned = {"namespace": "chess ☕", "serverKey": server_key}
    one.meet(**pinned)
    server.until(waiting=1)
    other.meet(**pinned)
    assert one.linked() == {"role": "initiator", "remoteKey": other.fingerprint}
    assert other.linked() == {"role": "responder", "remoteKey": one.fingerprint}
    one.says("hello", to=other)
    other.says("good day", to=one)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_peer_that_is_not_trusted_gets_no_link(open_tab: Opened, server: Server, library: str) -> None:
    (second,) = set(LIBRARIES) - {library}
    one, stranger = open_tab(library), open_tab(second)
    one.trust(one.public_key)
    stranger.meet(namespace=library)
    server.until(waiting=1)
    one.meet(namespace=library)  # it bounces what it cannot trust, and waits for somebody else
    one.page.wait_for_function("tab.states.filter(each => each === 'waiting').length > 1")
    assert "connecting" not in one.page.evaluate("tab.states")


WRONG_CLOCK = """{
    const Right = Date;
    window.Date = class extends Right {
        constructor(...given) {
            if (given.length) super(...given);
            else super(Right.now() + OFF);
        }
        static now() { return Right.now() + OFF; }
    };
}"""


@pytest.mark.parametrize("seconds", [-600, 600])
def test_a_wrong_clock_is_corrected_by_the_server_s(
    open_tab: Opened, context: BrowserContext, site: str, server: Server, server_key: str, seconds: int
) -> None:
    page = context.new_page()
    page.add_init_script(WRONG_CLOCK.replace("OFF", str(seconds * 1000)))
    late, right = SignedTab(page, site, server.url, "openpgp.js"), open_tab("openpgp.js")
    room = {"namespace": f"off by {seconds}", "serverKey": server_key}
    late.meet(**room)
    server.until(waiting=1)
    right.meet(**room)
    assert late.linked()["remoteKey"] == right.fingerprint
    assert right.linked()["remoteKey"] == late.fingerprint
    page.close()


class ModernPeer(SignedPeer):
    """Signs with a subkey of Sequoia's, which kbpgp does not find."""

    def __init__(self, namespace: str) -> None:
        key = pysequoia.Tsk.generate("x <x@x.invalid>", profile=pysequoia.Profile.RFC4880)
        self._signer = key.signer()
        self.namespace, self.public_key = namespace, str(key.extract_certificate())
        self.signed_namespace = self.sign(namespace)

    def sign(self, text: str, *, at: float | None = None) -> str:
        return bytes(pysequoia.sign(self._signer, text.encode())).decode()


def test_a_page_bounces_a_peer_that_kbpgp_cannot_verify_once(open_tab: Opened, server: Server) -> None:
    modern, page = ModernPeer("modern"), open_tab("kbpgp")
    with server.call(modern.request(SDP)) as call:
        server.until(waiting=1)
        page.meet(namespace="modern")
        page.page.wait_for_function("tab.states.filter(each => each === 'waiting').length > 1")
        server.until(waiting=2, offered=0)
        assert call.is_held()
    server.until(waiting=1)
    with server.call(modern.request(SDP)):  # and when it comes again, they are kept apart
        server.until(waiting=2, offered=0)
    server.until(waiting=1)
    other = open_tab("openpgp.js")
    other.meet(namespace="modern")
    assert page.linked()["remoteKey"] == other.fingerprint
    assert page.page.evaluate("tab.states").count("connecting") == 1


# --- a server that tampers ---------------------------------------------------------------------------------


class Dishonest:
    """Stands between a page and the server, and changes what the server says.

    Attributes:
        change: makes another reply of one of status 200.
        answers: how many answers the page has sent.
    """

    def __init__(self, server: Server, attacker: SignedPeer) -> None:
        self.server = server
        self.attacker = attacker
        self.change = self.as_it_is
        self.answers = 0
        self._seen: list[Reply] = []
        outer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                outer.forward(self)

            def do_POST(self) -> None:
                outer.forward(self)

        self._web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._web.server_port}/"

    def __enter__(self) -> Dishonest:
        threading.Thread(target=self._web.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._web.shutdown()
        self._web.server_close()

    def forward(self, page: http.server.BaseHTTPRequestHandler) -> None:
        body = page.rfile.read(int(page.headers.get("Content-Length", 0)))
        asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.answers += asked.get("TYPE") == "CONNECT" and "NONCE" in asked
        line = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        line.request(page.command, page.path, body, {"Content-Type": page.headers.get("Content-Type", "")})
        ready, _, _ = select.select([page.connection, line.sock], [], [], 30)
        if line.sock not in ready:
            line.close()  # the page has left
            return
        response = line.getresponse()
        content = response.read()
        if page.command == "POST" and response.status == 200 and asked.get("TYPE") != "LEAVE":
            reply = json.loads(content)
            self._seen.append(reply)
            content = json.dumps(self.change(dict(reply))).encode()
        with contextlib.suppress(OSError):  # the page may have left
            page.send_response(response.status, response.reason)
            page.send_header("Access-Control-Allow-Origin", "*")
            page.send_header("Content-Type", response.getheader("Content-Type", ""))
            page.end_headers()
            page.wfile.write(content)
        line.close()

    # --- what it may do ------------------------------------------------------------------------------------

    def as_it_is(self, reply: Reply) -> Reply:
        return reply

    def other_sdp(self, reply: Reply) -> Reply:
        """The attacker's offer, said to be by the same key."""
        return reply | {"SIGNED_SIGNAL": self.attacker.sign(self.attacker.statement(SIGNAL=SDP))}

    def other_bytes(self, reply: Reply) -> Reply:
        """A few characters of what was signed."""
        signed = reply["SIGNED_SIGNAL"]
        middle = signed.index("\n\n") + 150
        return reply | {"SIGNED_SIGNAL": signed[:middle] + "AAAA" + signed[middle + 4 :]}

    def other_key(self, reply: Reply) -> Reply:
        """The attacker's key and messages, in order by themselves."""
        request = self.attacker.request(SDP)
        return reply | {name: request[name] for name in ("SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY")}

    def only_key(self, reply: Reply) -> Reply:
        return reply | {"PUBLIC_KEY": self.attacker.public_key}

    def unsigned(self, reply: Reply) -> Reply:
        """As if the pool were open."""
        return {"TYPE": reply["TYPE"], "NONCE": reply.get("NONCE"), "SIGNAL": SDP}

    def other_namespace(self, reply: Reply) -> Reply:
        """What the attacker signed for another pool, whose key is trusted here."""
        return reply | {"SIGNED_NAMESPACE": self._seen[0]["SIGNED_SIGNAL"]}

    def replayed(self, reply: Reply) -> Reply:
        """What this page was told before."""
        return self._seen[0]

    def without_its_signature(self, reply: Reply) -> Reply:
        return {name: value for name, value in reply.items() if name != "SIGNED_REPLY"}


SDP = json.dumps({"type": "offer", "sdp": "v=0"})
OF_PEERS = ["other_sdp", "other_bytes", "other_key", "only_key", "unsigned", "other_namespace"]
"""What a page notices by the keys of its peers."""

OF_THE_SERVER = ["other_sdp", "other_bytes", "other_key", "unsigned", "replayed", "without_its_signature"]
"""What it notices by the pinned key of the server, before it looks any further."""


@pytest.fixture(scope="module")
def honest() -> SignedPeer:
    return SignedPeer("tampered")


@pytest.fixture
def dishonest(server: Server) -> Iterator[Dishonest]:
    with Dishonest(server, SignedPeer("tampered")) as running:
        yield running


def real_offer(tab: SignedTab) -> str:
    return json.dumps(
        tab.page.evaluate("new RTCPeerConnection().createOffer().then(({type, sdp}) => ({type, sdp}))")
    )


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_changed_offer_is_never_answered(
    open_tab: Opened, server: Server, server_key: str, honest: SignedPeer, dishonest: Dishonest, library: str
) -> None:
    tab = open_tab(library, dishonest.url)
    tab.trust(honest.public_key)
    offer = real_offer(tab)
    # As it is, it is answered: so it is the change that is refused below.
    with server.call(honest.request(offer)) as call:
        server.until(waiting=1)
        tab.meet(namespace="tampered", serverKey=server_key)
        assert call.reply().type == "ANSWER"
        tab.stop()
    answered = dishonest.answers
    assert answered >= 1  # Chromium itself sends a request again when a kept connection closes
    for name in OF_THE_SERVER:
        dishonest.change = getattr(dishonest, name)
        with server.call(honest.request(offer, FINGERPRINT=name)):
            server.until(waiting=1)
            tab.meet(namespace="tampered", serverKey=server_key)
            assert tab.refused()["type"] == "UNTRUSTED", name
        server.until(waiting=0)
    for name in OF_PEERS:
        dishonest.change = getattr(dishonest, name)
        with server.call(honest.request(offer, FINGERPRINT=f"{name}, not pinned")):
            server.until(waiting=1)
            tab.meet(namespace="tampered")
            tab.page.wait_for_function("tab.states.filter(each => each === 'waiting').length > 1")  # bounced
            tab.stop()
        server.until(waiting=0)
    assert dishonest.answers == answered


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_changed_answer_is_never_used(
    open_tab: Opened, server: Server, server_key: str, honest: SignedPeer, dishonest: Dishonest, library: str
) -> None:
    tab = open_tab(library, dishonest.url)
    tab.trust(honest.public_key)

    def told(name: str, **options: str) -> str:
        """Why a tab rejects the answer to its offer, changed."""
        dishonest.change = getattr(dishonest, name)
        tab.meet(namespace="tampered", retry=False, **options)
        server.until(waiting=1)
        own = {"FINGERPRINT": f"{name} {len(options)}"}  # one that the tab has not met
        demote = server.post(honest.request(**own))
        assert demote.type == "DEMOTE"
        server.post(honest.request(SDP, nonce=demote["NONCE"], **own))
        return tab.refused()["type"]

    assert (
        told("as_it_is", serverKey=server_key) == "BAD_SIGNAL"
    )  # it is no answer, but it is the honest peer's
    for name in OF_THE_SERVER:
        assert told(name, serverKey=server_key) == "UNTRUSTED", name
    for name in OF_PEERS:
        assert told(name) == "BAD_SIGNAL", name
    assert "connecting" not in tab.page.evaluate("tab.states")
