"""Debian's nginx before us, with the site of docs/examples/nginx.conf: TLS, HTTP/2, tabs that close."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext

from live import ROOT, Reply, Server, eventually, free_port
from proxies import NGINX_MAIN
from redis_server import RedisServer
from tabs import Tab, new_context, talk

pytest_plugins = ["browser_fixtures"]

NGINX = "/usr/sbin/nginx"


class Nginx:
    """nginx with our site, as a context manager."""

    def __init__(self, folder: Path, server: int, *others: int) -> None:
        assert shutil.which(NGINX), "nginx is missing: apt-get install nginx-light"
        self.port = free_port()
        self.url = f"https://localhost:{self.port}/"
        self._folder = folder
        _make_certificate(folder)
        site = (ROOT / "docs/examples/nginx.conf").read_text()
        page = (ROOT / "docs/proxies.md").read_text()
        below = page.split("```nginx\n")[1].split("```")[0]
        self.plain = free_port()
        for old, new in {
            "    # For Prometheus": f"{below}\n    # For Prometheus",
            "limit_conn spacerift 512;": "limit_conn spacerift 64;",
            "listen 80;": f"listen 127.0.0.1:{self.plain};",
            "listen [::]:80;": f"listen [::1]:{self.plain};",
            "listen [::]:443 ssl": f"listen [::1]:{self.port} ssl",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "127.0.0.1:8000": f"127.0.0.1:{server}",
            "/etc/letsencrypt/live/rift.example": str(folder),
        }.items():
            assert old in site
            site = site.replace(old, new)
        if others:
            site = re.sub(r"upstream spacerift \{.*?\}", _upstream(server, *others), site, flags=re.DOTALL)
        (folder / "site.conf").write_text(site)
        (folder / "main.conf").write_text(
            NGINX_MAIN.format(folder=folder, settings=f"include {folder}/site.conf;")
        )

    def __enter__(self) -> Nginx:
        command = [NGINX, "-p", self._folder, "-c", self._folder / "main.conf"]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self._folder / "error.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise TimeoutError("nginx did not start")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)

    def ask(self, text: str, source: str = "127.0.0.1") -> socket.socket:
        """Send a request by HTTP/1.1, and do not wait for its reply."""
        context = ssl.create_default_context(cafile=str(self._folder / "fullchain.pem"))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(source, 0))
        client = context.wrap_socket(plain, server_hostname="localhost")
        client.sendall(text.encode())
        return client

    def post(self, body: str, *headers: str, source: str = "127.0.0.1") -> Reply:
        head = ["POST / HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}"]
        with self.ask("\r\n".join([*head, *headers, "", body]), source) as client:
            return read(client)


def _upstream(*servers: int) -> str:
    """As docs/operating.md has it for two machines."""
    page = (ROOT / "docs/operating.md").read_text()
    text = page.split("## Two machines with Redis")[1].split("```nginx\n")[1].split("```")[0]
    for number, port in enumerate(servers, 1):
        assert f"10.0.0.{number}:8000" in text
        text = text.replace(f"10.0.0.{number}:8000", f"127.0.0.1:{port}")
    return text.strip()


def read(client: socket.socket) -> Reply:
    received = b""
    while piece := client.recv(65536):
        received += piece
    return Reply(received)


def _make_certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    command += ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def behind() -> Iterator[Server]:
    """The server behind nginx."""
    with Server(TRUSTED_PROXIES=1, ADDRESS_LIMIT="20 per minute") as running:
        yield running


@pytest.fixture(scope="module")
def nginx(behind: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx"), behind.port) as running:
        yield running


@pytest.fixture(scope="module")
def trusting(chromium: Browser) -> Iterator[BrowserContext]:
    with new_context(chromium, ignore_https_errors=True) as made:
        yield made


def tab(context: BrowserContext, site: str, nginx: Nginx, namespace: str) -> Tab:
    return Tab(context.new_page(), f"{site}page.html?server={quote(nginx.url, safe='')}", namespace)


# --- browsers ----------------------------------------------------------------------------------------------


def test_two_tabs_link_by_http_2(trusting: BrowserContext, site: str, nginx: Nginx) -> None:
    alice, bob = (tab(trusting, site, nginx, "link") for _ in range(2))
    alice.meet()
    bob.meet()
    assert {alice.linked()["role"], bob.linked()["role"]} == {"initiator", "responder"}
    talk(alice, bob)
    for each in (alice, bob):
        each.page.close()
    page = trusting.new_page()
    page.goto(nginx.url)
    assert page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
    page.close()


def test_a_tab_that_is_closed_leaves_the_pool(
    trusting: BrowserContext, site: str, nginx: Nginx, behind: Server
) -> None:
    other = tab(trusting, site, nginx, "elsewhere")  # keeps the connection, which all tabs share, open
    leaver = tab(trusting, site, nginx, "closed")
    leaver.meet()
    behind.until(waiting=1)
    started = time.monotonic()
    leaver.page.close()
    behind.until(waiting=0)
    assert time.monotonic() - started < 5
    other.page.close()


def test_the_demo_page_works_where_its_path_is_cut_off(trusting: BrowserContext, nginx: Nginx) -> None:
    page = trusting.new_page()
    for path in ("rift", "rift/"):
        failed: list[str] = []
        page.on("response", lambda reply, failed=failed: reply.status < 400 or failed.append(reply.url))
        page.goto(nginx.url + path)
        page.wait_for_function("document.styleSheets.length === 1")
        with page.expect_request(lambda request: request.method == "POST") as asked:
            page.get_by_role("button", name="Meet a stranger").click()
        assert asked.value.url == f"{nginx.url}rift/"
        assert failed == []
    page.close()


# --- what passes through -----------------------------------------------------------------------------------

CONNECT = '{{"TYPE":"CONNECT","SIGNAL":"offer of {0}","FINGERPRINT":"{0}","NAMESPACE":"{1}"}}'


def test_a_client_that_leaves_is_seen_through_nginx(nginx: Nginx, behind: Server) -> None:
    body = CONNECT.format("leaver", "left")
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    client = nginx.ask(f"{head}Content-Type: text/plain\r\n\r\n{body}", source="127.0.0.4")
    behind.until(waiting=1)
    started = time.monotonic()
    client.close()
    behind.until(waiting=0)
    assert time.monotonic() - started < 5


def test_statuses_and_refusals_keep_their_form(nginx: Nginx) -> None:
    text = "Content-Type: text/plain"
    late = CONNECT.format("late", "late").replace("{", '{"NONCE":"of-nobody-who-is-there",')
    alone = nginx.post(late, text, "X-Request-Id: mine", source="127.0.0.5")
    assert alone.status_line == "298 No Namespace Peer"
    assert len(alone.headers["x-request-id"]) == 32  # nginx' own
    assert nginx.post("{}", text, source="127.0.0.5").status_line == "499 Missing Parameter"
    large = nginx.post(" " * 70_000, text, source="127.0.0.5")
    assert (large.status, large.type) == (413, "TOO_LARGE")


def test_who_comes_without_tls_keeps_the_method_and_the_body(nginx: Nginx) -> None:
    with socket.create_connection(("127.0.0.1", nginx.plain)) as client:
        client.sendall(
            b"POST /x HTTP/1.1\r\nHost: rift.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        moved = read(client)
    assert (moved.status, moved.headers["location"]) == (308, "https://rift.example/x")


def test_clients_count_by_their_own_address(nginx: Nginx) -> None:
    statuses = [nginx.post("{}", source="127.0.0.2").status for _ in range(21)]
    assert statuses == [415] * 20 + [297]
    forged = nginx.post("{}", "X-Forwarded-For: 198.51.100.1", source="127.0.0.2")
    assert forged.status == 297
    assert nginx.post("{}", source="127.0.0.3").status == 415


def test_an_address_has_so_many_connections_here_too(nginx: Nginx) -> None:
    slow = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(nginx.ask(slow, source="127.0.0.4"))
        assert eventually(lambda: nginx.post("{}", source="127.0.0.4").status == 503)
        told = nginx.post("{}", source="127.0.0.4")
        assert (told.status, told.type, told["RETRY_AFTER"]) == (503, "UNAVAILABLE", 2)
        assert nginx.post("{}", source="127.0.0.5").status == 415


@pytest.mark.parametrize("path", ["/metrics", "/pools"])
def test_what_is_for_the_operator_stays_inside(nginx: Nginx, behind: Server, path: str) -> None:
    with nginx.ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as client:
        assert read(client).status == 404
    assert behind.get("/metrics")[0] == 200


# --- two machines ------------------------------------------------------------------------------------------


def test_two_machines_with_redis_are_one_server(tmp_path: Path) -> None:
    """A request goes to either of them, and so does the answer."""
    with RedisServer() as redis:
        shared = {"REDIS_URL": redis.url, "SECRET_KEY": "the same on both", "TRUSTED_PROXIES": 1}
        with (
            Server(**shared) as one,
            Server(**shared) as other,
            Nginx(tmp_path, one.port, other.port) as nginx,
            ThreadPoolExecutor(1) as pool,
        ):
            for number in range(6):
                room, text = f"room {number}", "Content-Type: text/plain"
                first = pool.submit(nginx.post, CONNECT.format("alice", room), text)
                assert eventually(lambda: one.statistics()["waiting"] == 1)
                demoted = nginx.post(CONNECT.format("bob", room), text)
                answer = CONNECT.format("bob", room).replace("{", f'{{"NONCE":"{demoted["NONCE"]}",')
                assert nginx.post(answer, text).type == "DELIVERED"
                assert first.result().type == "ANSWER"
            assert eventually(lambda: sum(each.log.count("asked=") for each in (one, other)) == 18)
            assert all("asked=" in each.log for each in (one, other))
