"""`Spacerift(app)` under other WSGI servers: what they cannot do is told, and nothing untrue is said."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from live import ROOT, Call, Reply, environment, free_port
from redis_server import RedisServer
from signal_server import Spacerift

WITHOUT_EPOLL = """
import select, socket, sys
for name in [each for each in dir(select) if each.startswith(("epoll", "EPOLL")) or each == "POLLRDHUP"]:
    delattr(select, name)
for name in ("TCP_KEEPIDLE", "MSG_NOSIGNAL"):
    delattr(socket, name)
    socket.__all__.remove(name)
sys.argv = ["gunicorn"]
from gunicorn.app.wsgiapp import run
run()
"""
"""gunicorn, with the names taken away that Python has not got on macOS."""

APP = "docs.examples.mounted:app"

PYTHON = (sys.executable, "-m")
GUNICORN = (*PYTHON, "gunicorn", "--config", "/dev/null", APP, "--bind")

UWSGI = (
    str(Path(sys.executable).parent / "uwsgi"),
    "--need-app",
    "--die-on-term",
    "--master",
    "--worker-reload-mercy=2",
)
UWSGI += ("--http-socket", "127.0.0.1:{port}", "--module", APP)

MOD_WSGI = Path(f"/usr/lib/apache2/modules/mod_wsgi.so-{sys.version_info.major}.{sys.version_info.minor}")

APACHE = """
ServerRoot {folder}
PidFile {folder}/httpd.pid
ErrorLog {folder}/log
DefaultRuntimeDir {folder}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module {module}
ServerName rift.example
Listen 127.0.0.1:{port}
ServerLimit 1
WSGIPythonHome /usr
WSGIPythonPath {path}
WSGIApplicationGroup %{{GLOBAL}}
WSGIScriptAlias / {folder}/rift.wsgi
"""
"""One process of Apache's, with the application in it. Its daemon processes would not run as root."""

SEVERAL = "several processes"
ONE = "one request at a time"
NO_SOCKET = "lends no socket"

SERVERS = {
    "gevent": (*GUNICORN, "127.0.0.1:{port}", "--worker-class", "gevent"),
    "gthread": (*GUNICORN, "127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "20"),
    "two workers": (*GUNICORN, "127.0.0.1:{port}", "--worker-class", "gevent", "--workers", "2"),
    "sync": (*GUNICORN, "127.0.0.1:{port}", "--worker-class", "sync"),
    "flask run": (*PYTHON, "flask", "--app", "docs.examples.mounted", "run", "--port", "{port}"),
    "waitress": (*PYTHON, "waitress", "--host", "127.0.0.1", "--port", "{port}", "--threads", "20", APP),
    "uWSGI": (*UWSGI, "--threads", "20"),
    "uWSGI, 2 processes": (*UWSGI, "--threads", "20", "--processes", "2"),
    "uWSGI, one thread": UWSGI,
    "uWSGI, greenlets": (*UWSGI, "--gevent", "20", "--gevent-monkey-patch"),
    "mod_wsgi": ("/usr/sbin/apache2", "-X", "-f", "{folder}/httpd.conf"),
}

WITHOUT_SOCKETS = [
    "waitress",
    "uWSGI",
    "uWSGI, greenlets",
    pytest.param(
        "mod_wsgi", marks=pytest.mark.skipif(not MOD_WSGI.exists(), reason="Debian's is of another Python")
    ),
]


class Hosted:
    """A server of somebody's choice with somebody's application."""

    def __init__(self, name: str, folder: Path, **settings: object) -> None:
        self._port = free_port()
        self._path = folder / "log"
        self._command = [each.format(port=self._port, folder=folder) for each in SERVERS[name]]
        if name == "mod_wsgi":
            path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
            settings_of_apache = APACHE.format(folder=folder, module=MOD_WSGI, port=self._port, path=path)
            (folder / "httpd.conf").write_text(settings_of_apache)
            (folder / "rift.wsgi").write_text("from docs.examples.mounted import app as application\n")
        limits = {"REQUEST_LIMIT": "", "PAIR_LIMIT": "", "REQUEST_TIMEOUT": 2}
        self._environ = environment(**limits, **settings) | {"PYTHONPATH": str(ROOT)}
        self._folder = folder

    def __enter__(self) -> Hosted:
        with self._path.open("w") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environ, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            with contextlib.suppress(OSError):
                if self.get("/rift/health").status == 200:
                    return self
            time.sleep(0.05)
        self.__exit__()
        raise TimeoutError(self.log)

    def __exit__(self, *_: object) -> None:
        for each in list(Call.open):
            each.close()
        self.process.terminate()
        self.process.wait(20)

    @property
    def log(self) -> str:
        return self._path.read_text()

    def get(self, path: str) -> Reply:
        with Call(self._port, {}, body=b"", method="GET", path=path) as call:
            return call.reply()

    def call(self, name: str, **extra: object) -> Call:
        asked = {"TYPE": "CONNECT", "SIGNAL": f"signal of {name}", "FINGERPRINT": name, **extra}
        return Call(self._port, asked, path="/rift/")

    def until_one_waits(self) -> None:
        deadline = time.monotonic() + 20
        while b"spacerift_waiting 1.0" not in self.get("/rift/metrics").body:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def link(self) -> tuple[str, str]:
        """What the answering peer hears, and the other one."""
        alice = self.call("alice")
        self.until_one_waits()
        demoted = self.call("bob").reply()
        assert demoted.type == "DEMOTE"
        answered = self.call("bob", NONCE=demoted["NONCE"]).reply()
        return answered.type, alice.reply().type


@contextlib.contextmanager
def hosted(name: str, folder: Path, **settings: object) -> Iterator[Hosted]:
    with Hosted(name, folder, **settings) as running:
        yield running


@pytest.mark.parametrize("name", ["gevent", "gthread", "flask run"])
def test_a_server_that_can_do_it_all(name: str, tmp_path: Path) -> None:
    with hosted(name, tmp_path) as server:
        assert server.link() == ("DELIVERED", "ANSWER")
        assert server.get("/rift/ready").status == 200
        assert not any(words in server.log for words in (SEVERAL, ONE, NO_SOCKET))


@pytest.mark.parametrize("name", WITHOUT_SOCKETS)
def test_without_a_socket_nothing_is_said_to_be_delivered(name: str, tmp_path: Path) -> None:
    with hosted(name, tmp_path) as server:
        assert server.link() == ("NO_PEER", "ANSWER")
        assert server.get("/rift/ready").status == 200
        server.call("leaver", NAMESPACE="left").close()
        server.until_one_waits()
        assert server.call("newcomer", NAMESPACE="left").reply().type == "DEMOTE"  # nobody saw it leave
        assert server.log.count(NO_SOCKET) == 1
        assert not any(words in server.log for words in (SEVERAL, ONE))


@pytest.mark.parametrize("name", ["two workers", "uWSGI, 2 processes"])
def test_several_processes_without_redis_are_not_ready(name: str, tmp_path: Path) -> None:
    with hosted(name, tmp_path) as server:
        assert server.get("/rift/ready").status == 503
        for number in range(20):
            server.call(f"peer {number}", TYPE="").reply()
        assert server.log.count(SEVERAL) in (1, 2)  # one of each process that was asked
        assert server.get("/rift/health").status == 200


def test_several_processes_with_redis_are_ready(tmp_path: Path) -> None:
    with RedisServer() as redis:
        shared = {"REDIS_URL": redis.url, "SECRET_KEY": "the same for all of them"}
        with hosted("two workers", tmp_path, **shared) as server:
            assert server.get("/rift/ready").status == 200
            assert server.link() == ("DELIVERED", "ANSWER")
            assert SEVERAL not in server.log


def test_no_thread_is_there_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may fork then, and threads do not come along: a worker of uWSGI would wait for its end."""
    started: list[str] = []
    start, own = threading.Thread.start, threading.current_thread()

    def note(thread: threading.Thread) -> None:
        if threading.current_thread() is own:
            started.append(thread.name)
        else:  # what a test before this one has left behind
            start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    for more in ({}, {"REDIS_URL": "redis://127.0.0.1:1", "SECRET_KEY": "x"}, {"SIGNATURES": "optional"}):
        app = Flask("host")
        app.config |= {f"SPACERIFT_{name}": value for name, value in more.items()}
        Spacerift(app)
        if app.extensions["spacerift"].signatures is not None:
            app.extensions["spacerift"].signatures.close()
    assert not started


@pytest.mark.parametrize("name", ["sync", "uWSGI, one thread"])
def test_a_server_that_holds_one_request_is_told(name: str, tmp_path: Path) -> None:
    with hosted(name, tmp_path) as server:
        assert server.call("alone", TYPE="").reply().status == 499
        assert server.log.count(ONE) == 1


def test_without_epoll_it_runs_as_on_macos(tmp_path: Path) -> None:
    port, settings = free_port(), {"REQUEST_LIMIT": "", "PAIR_LIMIT": "", "REQUEST_TIMEOUT": 60}
    command = [sys.executable, "-c", WITHOUT_EPOLL]
    environ = environment(**settings) | {"PORT": str(port)}
    log = (tmp_path / "log").open("w+")

    def call(name: str, **extra: object) -> Call:
        return Call(port, {"TYPE": "CONNECT", "SIGNAL": name, "FINGERPRINT": name, **extra})

    def waiting(count: int) -> bool:
        with Call(port, {}, body=b"", method="GET", path="/metrics") as asked:
            return f"spacerift_waiting {count}.0" in asked.reply().body.decode()

    with log, subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log) as running:
        try:
            until(lambda: is_listening(port))
            leaver = call("leaver")
            until(lambda: waiting(1))
            leaver.close()
            started = time.monotonic()
            until(lambda: waiting(0))
            assert time.monotonic() - started < 30  # of its 60 s
            alice = call("alice")
            until(lambda: waiting(1))
            nonce = call("bob").reply()["NONCE"]
            assert call("bob", NONCE=nonce).reply().type == "DELIVERED"
            assert alice.reply().type == "ANSWER"
        finally:
            for each in list(Call.open):
                each.close()
            running.terminate()
    assert running.returncode == 0


def until(says: Callable[[], bool]) -> None:
    """Return once it says so. A machine that is busy with other tests takes its time."""
    deadline = time.monotonic() + 40
    while not says():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
