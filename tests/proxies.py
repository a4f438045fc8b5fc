"""Real proxies before a real server, each with the settings that docs/proxies.md gives, and as it comes.

The suite runs those that tests/run installs (see test_proxies.py). By hand, with all of them,

    PYTHONPATH=. python tests/proxies.py --write

makes the table of docs/proxies.md. Varnish and hitch (`apt-get install varnish hitch`) are in that run only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live import ROOT, Server, free_port
from signal_server.commands.http2 import Http2
from signal_server.http.passes import new_pass
from signal_server.matching.stores.base import pool_hash
from signal_server.messages import pool_of

SECRET = "the secret of the tests of proxies"

SERVER: dict[str, object] = {"SECRET_KEY": SECRET, "TRUSTED_PROXIES": 1, "REQUEST_LIMIT": "1 per minute"}

PAGE = ROOT / "docs/proxies.md"

ENV_BIN = Path(sys.executable).parent

FOUND_SECONDS = 8.0
"""A client that left must be gone from the pool within this. Seen: some milliseconds, or never."""


@dataclass(frozen=True)
class Proxy:
    """A proxy, and how it is run.

    Attributes:
        name: the heading of its settings in docs/proxies.md.
        files: what its settings are called, in the folder that it runs in.
        command: run there; `{folder}` is that folder.
        version: a command that tells it.
        mends: parts of lines of the settings, which are left out to have it as it comes.
        before: what the settings go into, with `{settings}`, `{folder}`; for the first file.
        speaks: `h2` if it does.
        hears: does it, with its settings, pass hang-ups on?
        needs: replacements beside those for all.
    """

    name: str
    files: tuple[str, ...]
    command: str
    version: str
    mends: tuple[str, ...] = ()
    before: str = "{settings}"
    speaks: str = "h2"
    hears: bool = True
    needs: dict[str, str] = field(default_factory=dict)
    server: tuple[str, ...] = ()


NGINX_MAIN = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {settings}
}}
"""

APACHE_MAIN = """
ServerRoot {folder}
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
DefaultRuntimeDir {folder}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
ServerName rift.example
{settings}
"""

SQUID_MAIN = """
pid_filename {folder}/squid.pid
cache_log /dev/null
access_log none
coredump_dir {folder}
pinger_enable off
shutdown_lifetime 0 seconds
{settings}
"""

NGINX = Proxy(
    "nginx",
    ("nginx.conf",),
    "/usr/sbin/nginx -p {folder} -c {folder}/nginx.conf",
    "nginx -v",
    mends=("X-Forwarded-For", "error_page", "client_max_body_size"),
    before=NGINX_MAIN,
)

HAPROXY = Proxy(
    "HAProxy",
    ("haproxy.cfg",),
    "haproxy -db -q -f {folder}/haproxy.cfg",
    "haproxy -v",
    mends=("option forwardfor", "option abortonclose"),
)

HAPROXY_TCP = Proxy(
    "HAProxy, TCP",
    ("haproxy.cfg",),
    "haproxy -db -q -f {folder}/haproxy.cfg",
    "haproxy -v",
    speaks="http/1.1",
    server=("--proxy-protocol=v1",),
)

CADDY = Proxy(
    "Caddy",
    ("Caddyfile",),
    "caddy run --adapter caddyfile --config {folder}/Caddyfile",
    "caddy version",
    before="{{\n    admin off\n    auto_https disable_redirects\n}}\n{settings}",
    needs={
        "rift.example {": "https://localhost:{port} {{\n    bind 127.0.0.1\n"
        "    tls {folder}/fullchain.pem {folder}/privkey.pem"
    },
)

ENVOY = Proxy(
    "Envoy",
    ("envoy.yaml",),
    f"{ENV_BIN}/envoy -c {{folder}}/envoy.yaml --use-dynamic-base-id --concurrency 1 -l warning",
    f"{ENV_BIN}/envoy --version",
    mends=("use_remote_address", "timeout: 30s"),
)

TRAEFIK = Proxy(
    "Traefik",
    ("traefik.yaml", "rift.yaml"),
    f"{ENV_BIN}/traefik --configFile={{folder}}/traefik.yaml",
    f"{ENV_BIN}/traefik version",
    before="{settings}    watch: false\nlog:\n  level: ERROR\n",
    needs={"/etc/traefik/": "{folder}/", "rift.example": "localhost"},
)

NGHTTPX = Proxy(
    "nghttpx",
    ("nghttpx.conf",),
    "nghttpx --conf={folder}/nghttpx.conf --errorlog-file={folder}/error.log --workers=1",
    "nghttpx --version",
    mends=("x-forwarded-for",),
    needs={"frontend=*,443": "frontend=127.0.0.1,{port}"},
)

SQUID = Proxy(
    "Squid",
    ("squid.conf",),
    "squid -N -f {folder}/squid.conf -n s{port}",
    "squid -v",
    before=SQUID_MAIN,
    speaks="http/1.1",
)

APACHE = Proxy(
    "Apache",
    ("httpd.conf",),
    "apache2 -X -f {folder}/httpd.conf",
    "apache2 -v",
    before=APACHE_MAIN,
    hears=False,
)

VARNISH = Proxy(
    "Varnish with hitch",
    ("rift.vcl", "hitch.conf"),
    "sh {folder}/both.sh",
    "varnishd -V",
    mends=("return (pipe);",),
    speaks="http/1.1",
)

SUITE = (NGINX, HAPROXY, CADDY, ENVOY, TRAEFIK, NGHTTPX, SQUID, APACHE)


class Running:
    """A proxy before a server, as a context manager.

    Args:
        as_it_comes: without the settings that mend something.
    """

    def __init__(self, proxy: Proxy, server: int, folder: Path, *, as_it_comes: bool = False) -> None:
        self.proxy = proxy
        self.port = free_port()
        self._inner = free_port()
        self.url = f"https://localhost:{self.port}/"
        self.folder = folder
        folder.mkdir(exist_ok=True)
        _make_certificate(folder)
        blocks = settings_of(proxy)
        if as_it_comes:
            blocks = [without(each, proxy.mends) for each in blocks]
        for number, (name, block) in enumerate(zip(proxy.files, blocks, strict=True)):
            before = "{settings}" if number else proxy.before
            text = before.format(settings=self._placed(block, server), folder=folder)
            (folder / name).write_text(text)
        if proxy is VARNISH:
            self._write_both()

    def _placed(self, text: str, server: int) -> str:
        """The settings with ports of ours and a certificate of ours."""
        places = {
            "/etc/letsencrypt/live/rift.example/": f"{self.folder}/",
            "/etc/haproxy/": f"{self.folder}/",
            "/etc/hitch/": f"{self.folder}/",
            "listen 80;": f"listen 127.0.0.1:{self._inner};",
            "listen [::]:80;": "",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "listen [::]:443 ssl http2;": "",
            "Listen 443": f"Listen 127.0.0.1:{self.port}",
            "*:443": f"*:{self.port}",
            "https_port 443": f"https_port 127.0.0.1:{self.port}",
            "bind :443": f"bind 127.0.0.1:{self.port}",
            '":443"': f'"127.0.0.1:{self.port}"',
            "[*]:443": f"[127.0.0.1]:{self.port}",
            "address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {self.port}",
            "127.0.0.1:8000": f"127.0.0.1:{server}",
            "127.0.0.1,8000": f"127.0.0.1,{server}",
            "parent 8000": f"parent {server}",
            "port_value: 8000": f"port_value: {server}",
            '.port = "8000"': f'.port = "{server}"',
            "[127.0.0.1]:6086": f"[127.0.0.1]:{self._inner}",
        }
        places |= {
            old: new.format(folder=self.folder, port=self.port) for old, new in self.proxy.needs.items()
        }
        for old, new in places.items():
            text = text.replace(old, new)
        return text

    def _write_both(self) -> None:
        script = (
            f"varnishd -j none -F -n {self.folder}/varnish -a 127.0.0.1:{self._inner},PROXY "
            f"-f {self.folder}/rift.vcl -s malloc,32m & varnish=$!\n"
            f"hitch --daemon=off --config={self.folder}/hitch.conf --user=root & hitch=$!\n"
            "trap 'kill $varnish $hitch' TERM\nwait\nwait\n"
        )
        (self.folder / "both.sh").write_text(script)

    def __enter__(self) -> Running:
        command = self.proxy.command.format(folder=self.folder, port=self.port).split()
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder)}
        self._log = (self.folder / "output.log").open("w")
        self.process = subprocess.Popen(
            command, env=environ, cwd=self.folder, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"{self.proxy.name}: {self.last_words()}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health").status == 200:
                    return self
            time.sleep(0.05)
        self.__exit__()
        raise TimeoutError(f"{self.proxy.name} did not start: {self.last_words()}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self._log.close()

    def last_words(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{each.name}: {each.read_text()[-2000:]}" for each in logs)

    def version(self) -> str:
        command = self.proxy.version.split()
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        told = subprocess.run(command, env=environ, capture_output=True, text=True)
        found = re.search(r"\d+\.\d+(\.\d+)?", told.stdout + told.stderr)
        assert found, told
        return found[0]

    # --- requests ------------------------------------------------------------------------------------------

    def connect(self, *, alpn: str = "http/1.1", source: str = "127.0.0.1") -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.folder / "fullchain.pem"))
        context.set_alpn_protocols([alpn])
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=40, source_address=(source, 0))
        return context.wrap_socket(plain, server_hostname="localhost")

    def send(
        self, parameters: object, *, source: str = "127.0.0.1", **headers: str
    ) -> http.client.HTTPConnection:
        """A POST whose reply is not waited for."""
        body = parameters if isinstance(parameters, str) else json.dumps(parameters)
        return self._sent("POST", "/", body, source, {"Content-Type": "application/json"} | headers)

    def _sent(
        self, method: str, path: str, body: str | None, source: str, headers: dict[str, str]
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", self.port, timeout=40)
        connection.sock = self.connect(source=source)
        with contextlib.suppress(OSError):  # a refusal may be there before all is sent
            connection.request(
                method, path, body, {name.replace("_", "-"): each for name, each in headers.items()}
            )
        return connection

    def post(self, parameters: object, *, source: str = "127.0.0.1", **headers: str) -> Told:
        return told(self.send(parameters, source=source, **headers))

    def ask(self, method: str, path: str, *, source: str = "127.0.0.1", **headers: str) -> Told:
        return told(self._sent(method, path, None, source, headers))


@dataclass(frozen=True)
class Told:
    """A response."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Empty if it is none of ours."""
        with contextlib.suppress(ValueError):
            found = json.loads(self.body)
            if isinstance(found, dict) and "TYPE" in found:
                return found
        return {}

    @property
    def type(self) -> str:
        return str(self.json.get("TYPE", ""))

    @property
    def short(self) -> tuple[int, str]:
        return self.status, self.type


CUT = Told(0, "", {}, b"")


def told(connection: http.client.HTTPConnection) -> Told:
    with contextlib.closing(connection):
        try:
            response = connection.getresponse()
            headers = {name.lower(): each for name, each in response.getheaders()}
            return Told(response.status, response.reason, headers, response.read())
        except (OSError, http.client.HTTPException):
            return CUT


def settings_of(proxy: Proxy) -> list[str]:
    """What docs/proxies.md gives for it."""
    if proxy is NGINX:
        return [(ROOT / "docs/examples/nginx.conf").read_text()]
    section = re.split(r"\n###? ", PAGE.read_text().split(f"\n### {proxy.name}\n")[1])[0]
    return re.findall(r"^```\w*\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def without(text: str, parts: tuple[str, ...]) -> str:
    return "".join(line for line in text.splitlines(True) if not any(each in line for each in parts))


def _make_certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    command += ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run(command, check=True, capture_output=True)
    both = (folder / "privkey.pem").read_text() + (folder / "fullchain.pem").read_text()
    (folder / "rift.example.pem").write_text(both)


# --- what is looked at -------------------------------------------------------------------------------------


class Look:
    """Asks through a proxy what an operator wants to know of it."""

    def __init__(self, running: Running, server: Server, source: str) -> None:
        self._running = running
        self._server = server
        self._source = source

    def offer(self, name: str, namespace: str | None, **extra: object) -> dict[str, object]:
        name = f"{name} of {namespace} behind {self._running.port}"
        parameters: dict[str, object] = {"TYPE": "CONNECT", "SIGNAL": f"offer of {name}", "FINGERPRINT": name}
        return parameters | ({} if namespace is None else {"NAMESPACE": self._room(namespace)}) | extra

    def _room(self, namespace: str) -> str:
        return f"{self._running.port} {namespace}"

    def post(self, parameters: object, **headers: str) -> Told:
        return self._running.post(parameters, source=self._source, **headers)

    def send(self, parameters: object, **headers: str) -> http.client.HTTPConnection:
        return self._running.send(parameters, source=self._source, **headers)

    def waiting(self, namespace: str) -> int:
        """Of the server itself, past the proxy."""
        passed = self._server.get("/pools", Authorization=f"Bearer {new_pass(SECRET)}")
        wanted = pool_hash(pool_of(self._room(namespace)))
        return sum(each["waiting"] for each in json.loads(passed[2])["pools"] if each["pool"] == wanted)

    def until(self, namespace: str, count: int, seconds: float) -> float | None:
        """How long it took until so many waited; None: it never came to that."""
        started = time.monotonic()
        while self.waiting(namespace) != count:
            if time.monotonic() - started > seconds:
                return None
            time.sleep(0.02)
        return time.monotonic() - started

    # --- the looks -------------------------------------------------------------------------------------

    def links(self) -> tuple[str, ...]:
        first = self.send(self.offer("alice", "link"))
        assert self.until("link", 1, 10) is not None
        demoted = self.post(self.offer("bob", "link"))
        answer = self.offer("bob", "link", NONCE=demoted.json.get("NONCE"), SIGNAL="a" * 5000)
        delivered = self.post(answer, Accept_Encoding="gzip")
        answered = told(first)
        assert answered.json.get("SIGNAL") == "a" * 5000
        return demoted.type, delivered.type, answered.type

    def links_by_http2(self) -> tuple[str, ...]:
        with self._running.connect(alpn="h2", source=self._source) as connection:
            http2 = self._held(connection, "by HTTP/2")
            demoted = self.post(self.offer("bob of 2", "by HTTP/2"))
            answer = self.offer("bob of 2", "by HTTP/2", NONCE=demoted.json.get("NONCE"), SIGNAL="an answer")
            delivered = self.post(answer)
            return demoted.type, delivered.type, json.loads(http2.body(10))["TYPE"]

    def closed(self) -> float | None:
        """A tab that closes its connection of HTTP/1.1, without a word."""
        connection = self.send(self.offer("leaver", "closed"))
        assert self.until("closed", 1, 10) is not None
        connection.close()
        return self.until("closed", 0, FOUND_SECONDS)

    def cancelled(self) -> float | None:
        """A tab that is closed, of a browser that keeps its connection of HTTP/2."""
        with self._running.connect(alpn="h2", source=self._source) as connection:
            self._held(connection, "cancelled").cancel()
            return self.until("cancelled", 0, FOUND_SECONDS)

    def said_goodbye(self) -> float | None:
        """A client that ends its connection of HTTP/2 politely, with TLS' close_notify."""
        connection = self._running.connect(alpn="h2", source=self._source)
        self._held(connection, "goodbye")
        connection.settimeout(0.1)
        with contextlib.suppress(OSError, ValueError):
            connection.unwrap()
        connection.close()
        return self.until("goodbye", 0, FOUND_SECONDS)

    def _held(self, connection: ssl.SSLSocket, namespace: str) -> Http2:
        assert connection.selected_alpn_protocol() == "h2"
        http2 = Http2(connection)
        body = json.dumps(self.offer("leaver", namespace)).encode()
        http2.post(f"localhost:{self._running.port}", "/", {"content-type": "application/json"}, body)
        assert self.until(namespace, 1, 10) is not None
        return http2

    def is_ghost_met(self) -> bool:
        """Does a newcomer hear DELIVERED for an answer to somebody who left?"""
        first = self.send(self.offer("ghost", "ghost"))
        assert self.until("ghost", 1, 10) is not None
        first.close()
        time.sleep(0.3)
        newcomer = self.send(self.offer("newcomer", "ghost"))
        assert newcomer.sock is not None
        newcomer.sock.settimeout(8)  # whoever is not matched waits; on a busy machine a match takes a while
        demoted = told(newcomer)
        if demoted.type != "DEMOTE":
            return False
        answer = self.offer("newcomer", "ghost", NONCE=demoted.json["NONCE"], SIGNAL="an answer")
        return self.post(answer).type == "DELIVERED"

    def long(self) -> tuple[int, str, float]:
        started = time.monotonic()
        last = self.post(self.offer("patient", "long"))
        return *last.short, round(time.monotonic() - started, 1)

    def refusals(self) -> dict[str, Told]:
        late = "a-nonce-of-nobody-who-is-there"
        twice = self.offer("twice", "twice", NONCE=late)
        return {
            "499": self.post({}, Origin="https://page.example"),
            "298": self.post(self.offer("late", "late", NONCE=late)),
            "299": self.post(self.offer("later", None, NONCE=late)),
            "297": [self.post(twice) for _ in range(2)][1],
            "413": self.post(self.offer("large", "large", SIGNAL="x" * 100_000)),
            "413, larger": self.post(self.offer("larger", "large", SIGNAL="x" * 1_500_000)),
        }

    def claims(self) -> str:
        """Whose address counts: `client`, `claimed` (by the client itself), or `proxy`."""

        def seen(source: str, claimed: str) -> str:
            passed = {"Authorization": f"Bearer {new_pass(SECRET)}"}
            if claimed:
                passed["X_Forwarded_For"] = claimed
            return str(self._running.ask("GET", "/seen", source=source, **passed).json["ADDRESS"])

        own = seen(self._source, "")
        if seen(self._source, "203.0.113.7") != seen(self._source, "203.0.113.8"):
            return "claimed"
        return "proxy" if seen("127.9.9.9", "") == own else "client"


def looked_at(look: Look, proxy: Proxy) -> dict[str, Any]:
    """All looks, at once: most of each is waiting."""
    looks: dict[str, Callable[[], Any]] = {
        "links": look.links,
        "closed": look.closed,
        "ghost": look.is_ghost_met,
        "long": look.long,
        "refusals": look.refusals,
        "claims": look.claims,
    }
    if proxy.speaks == "h2":
        looks |= {
            "links by HTTP/2": look.links_by_http2,
            "cancelled": look.cancelled,
            "goodbye": look.said_goodbye,
        }
    with ThreadPoolExecutor(len(looks)) as pool:
        results = {name: pool.submit(each) for name, each in looks.items()}
        return {name: each.result() for name, each in results.items()}


@contextlib.contextmanager
def all_running(
    proxies: tuple[Proxy, ...], server: Server, folder: Path, *, as_it_comes: bool = False
) -> Iterator[list[Running]]:
    """Started at once."""
    made = [
        Running(each, server.port, folder / f"{number}", as_it_comes=as_it_comes)
        for number, each in enumerate(proxies)
    ]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(made)) as pool:
        started = [pool.submit(each.__enter__) for each in made]
        wait(started)
        for one, each in zip(made, started, strict=True):
            if each.exception() is None:
                stack.push(one.__exit__)
        for each in started:
            each.result()
        yield made


# --- by hand -----------------------------------------------------------------------------------------------

MADE = "<!-- made by tests/proxies.py -->\n"
END = "<!-- end -->"

HEADS = (
    "proxy",
    "a closed tab is seen, as it comes",
    "with the settings below",
    "whose address counts, as it comes",
    "a wait of 15 s, as it comes",
    "1.5 MB, as it comes",
    "the words of a status",
)


def main() -> None:
    """Look through all of them, twice, and write the table."""
    proxies = (*SUITE, VARNISH)
    seen = {comes: _all_looked_at(proxies, as_it_comes=comes) for comes in (True, False)}
    rows = [HEADS, ("---",) * len(HEADS)]
    rows += [_row(each, seen[True][each.name], seen[False][each.name]) for each in proxies]
    made = f"Seen on {time.strftime('%Y-%m-%d')}, with these versions from Debian 12 and PyPI:\n\n"
    made += "".join(f"| {' | '.join(row)} |\n" for row in rows)
    print(made)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text().partition(MADE)
        PAGE.write_text(f"{before}{MADE}{made}{END}{rest.partition(END)[2]}")


def _all_looked_at(proxies: tuple[Proxy, ...], *, as_it_comes: bool) -> dict[str, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(**SERVER) as server,
        all_running(proxies, server, Path(folder), as_it_comes=as_it_comes) as running,
        ThreadPoolExecutor(len(proxies)) as pool,
    ):
        looks = [(each, Look(each, server, f"127.0.{number}.1")) for number, each in enumerate(running, 10)]
        begun = [(each, pool.submit(looked_at, look, each.proxy)) for each, look in looks]
        return {
            each.proxy.name: each_look.result() | {"version": each.version()} for each, each_look in begun
        }


def _row(proxy: Proxy, comes: dict[str, Any], mended: dict[str, Any]) -> tuple[str, ...]:
    status, type_, seconds = comes["long"]
    large = comes["refusals"]["413, larger"]
    return (
        f"{proxy.name} {mended['version']}",
        _heard(comes),
        _heard(mended),
        {"client": "its own", "claimed": "**what it claims**", "proxy": "the proxy's"}[comes["claims"]],
        "ends by itself" if type_ else f"**cut by {status} after {seconds:.0f} s**",
        "the server's 413" if large.type else f"**{large.status or 'closed'}, no JSON**",
        {"Missing Parameter": "kept", "": "left out"}.get(
            mended["refusals"]["499"].reason, f"`{mended['refusals']['499'].reason}`"
        ),
    )


def _heard(seen: dict[str, Any]) -> str:
    """A closed connection of HTTP/1.1; of HTTP/2 a closed tab, and a closed connection."""
    ways = {"closed": "HTTP/1.1", "cancelled": "HTTP/2", "goodbye": "HTTP/2 at its end"}
    asked = {way: seen[name] is not None for name, way in ways.items() if name in seen}
    if all(asked.values()):
        return "yes"
    if not any(asked.values()):
        return "**no**"
    return "**" + ", ".join(f"{way}: {'yes' if heard else 'no'}" for way, heard in asked.items()) + "**"


if __name__ == "__main__":
    main()
