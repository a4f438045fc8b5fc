"""The Python client behind an HTTP proxy that the environment names: a real tinyproxy."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from live import Server, free_port
from signal_server.client import Cancel, Cancelled, Exchange, SpaceriftError, connect, connect_async
from signal_server.client.target import Target
from test_client import Line, certificate  # noqa: F401, a fixture

VARIABLES = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"]
SOON = 10


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Tinyproxy:
    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self._log = folder / f"{self.port}.log"
        about = [f"Port {self.port}", "Listen 127.0.0.1", "Timeout 60", f'LogFile "{self._log}"']
        self._settings = folder / f"{self.port}.conf"
        self._settings.write_text("\n".join([*about, "LogLevel Info", "MaxClients 50", *lines, ""]))

    @property
    def requests(self) -> list[str]:
        """The methods and targets of the requests that it had."""
        lines = self._log.read_text().splitlines()
        return [line.split("): ", 1)[1].rpartition(" ")[0] for line in lines if "Request (file" in line]

    def __enter__(self) -> Tinyproxy:
        self._process = subprocess.Popen(["tinyproxy", "-d", "-c", self._settings], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + SOON
        while "Accepting connections" not in (self._log.read_text() if self._log.exists() else ""):
            if time.monotonic() > deadline:
                self.__exit__()
                raise TimeoutError("tinyproxy did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tinyproxy]:
    with Tinyproxy(tmp_path_factory.mktemp("tinyproxy")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tinyproxy]:
    with Tinyproxy(tmp_path_factory.mktemp("guarded"), "BasicAuth alice s3cr3t") as running:
        yield running


def blocking(url: str, name: str, **options: Any) -> Exchange:
    whole = {"offer": lambda: name, "answer": str.upper, "fingerprint": name, **options}
    return connect(url, **whole, timeout=SOON)


def asynchronous(url: str, name: str, **options: Any) -> Exchange:
    whole = {"offer": lambda: name, "answer": str.upper, "fingerprint": name, **options}

    async def run() -> Exchange:
        async with asyncio.timeout(SOON):
            return await connect_async(url, **whole)

    return asyncio.run(run())


@pytest.fixture(params=[blocking, asynchronous], ids=["blocking", "asyncio"])
def client(request: pytest.FixtureRequest) -> Callable[..., Exchange]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["http", "https"])
def way(
    request: pytest.FixtureRequest,
    server: Server,
    certificate: tuple[Path, Path],  # noqa: F811
) -> Iterator[tuple[str, ssl.SSLContext | None]]:
    """A URL of the server's, and what is needed to trust it."""
    if request.param == "http":
        yield server.url, None
        return
    key, chain = certificate
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(chain, key)
    with contextlib.closing(Line(server.port, own)) as line:
        yield line.url, ssl.create_default_context(cafile=str(chain))


def link(client: Callable[..., Exchange], server: Server, url: str, room: str, **options: Any) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client, url, "alice", namespace=room, **options)
        server.until(waiting=1)
        assert client(url, "bob", namespace=room, **options).role == "responder"
        assert waiting.result(SOON).answer == "ALICE"


@pytest.mark.parametrize("has_password", [False, True])
def test_two_peers_link_through_a_proxy(
    server: Server,
    client: Callable[..., Exchange],
    way: tuple[str, ssl.SSLContext | None],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    has_password: bool,
) -> None:
    proxy: Tinyproxy = request.getfixturevalue("guarded" if has_password else "proxy")
    url, tls = way
    address = f"{'alice:s3cr3t@' if has_password else ''}127.0.0.1:{proxy.port}"
    scheme = urlsplit(url).scheme
    monkeypatch.setenv(f"{scheme}_proxy", address if has_password else f"http://{address}")
    before = len(proxy.requests)
    link(client, server, url, request.node.name[:200], tls=tls)
    seen = proxy.requests[before:]
    if scheme == "https":  # one tunnel for each peer
        assert seen == [f"CONNECT {urlsplit(url).netloc}"] * 2
    else:
        assert seen
        assert set(seen) == {f"POST {url}"}


def test_a_proxy_that_refuses_is_named_but_not_its_password(
    client: Callable[..., Exchange],
    way: tuple[str, ssl.SSLContext | None],
    guarded: Tinyproxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, tls = way
    monkeypatch.setenv("ALL_PROXY", f"http://alice:wr0ng@127.0.0.1:{guarded.port}")
    with pytest.raises(SpaceriftError) as raised:
        client(url, "alice", tls=tls, retry=False)
    words = str(raised.value)
    assert "wr0ng" not in words
    # This one may reset the connection before its reply is read: it does not wait for a request's body.
    is_reply = raised.value.status in (401, 407)
    assert is_reply or f"through the proxy 127.0.0.1:{guarded.port}" in words
    assert not tls or "40" in words


def test_a_proxy_that_is_not_there_is_named(
    client: Callable[..., Exchange], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    with pytest.raises(SpaceriftError, match=f"cannot be reached through the proxy 127.0.0.1:{port}: "):
        client(server.url, "alice", retry=False)


def proxied(url: str) -> bool:
    return Target(url, None).proxy is not None


@pytest.mark.parametrize(
    ("url", "no_proxy", "goes_through_it"),
    [
        ("http://rift.example.com/", "", True),
        ("http://rift.example.com/", "*", False),
        ("http://rift.example.com/", "localhost,rift.example.com", False),
        ("http://rift.example.com/", ".example.com", False),
        ("http://rift.example.com/", "example.com", False),
        ("http://example.company/", "example.com", True),
        ("http://rift.example.com:8000/", "rift.example.com:8000", False),
        ("http://rift.example.com:8001/", "rift.example.com:8000", True),
        ("http://10.1.2.3/", "10.0.0.0/8", False),
        ("http://11.1.2.3/", "10.0.0.0/8, 11.1.2.4", True),
        ("http://[fd00::1]/", "::1,fd00::/8", False),
        ("http://[::1]:8000/", "::1", False),
        ("http://[2001:db8::1]/", "::1,fd00::/8", True),
        ("https://rift.example.com/", "", False),
    ],
)
def test_no_proxy_names_who_is_asked_directly(
    monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: str, goes_through_it: bool
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxied(url) == goes_through_it


@pytest.mark.parametrize("address", ["socks5://127.0.0.1:1080", "https://127.0.0.1:3128", "http://"])
def test_another_kind_of_proxy_is_refused(
    client: Callable[..., Exchange], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", address)
    with pytest.raises(ValueError, match="HTTP_PROXY must be http://host:port"):
        client("http://rift.example.com/", "alice")


def test_a_peer_behind_a_proxy_that_passes_no_hang_up_on_leaves_at_once(
    client: Callable[..., Exchange], server: Server, proxy: Tinyproxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")

    async def cancelled() -> None:
        task = asyncio.create_task(connect_async(server.url, offer=lambda: "offer", answer=str))
        await asyncio.to_thread(server.until, waiting=1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    cancel = Cancel()
    with ThreadPoolExecutor(1) as threads:
        if client is blocking:
            call = threads.submit(blocking, server.url, "alice", cancel=cancel)
            server.until(waiting=1)
            cancel.cancel()
            assert isinstance(call.exception(SOON), Cancelled)
        else:
            asyncio.run(cancelled())
    server.until(waiting=0)
