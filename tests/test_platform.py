"""What a Heroku-style platform does with us: it installs, starts the Procfile's command, routes and stops."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from urllib.request import urlopen

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from live import ROOT, Call, environment, eventually, free_port
from redis_server import RedisServer
from router import Router
from signal_server import Settings
from signal_server.http.connection import WRITE_SECONDS
from signal_server.settings import variable_of
from slug import Slug

ROUTER_SECONDS = 30
"""After which Heroku's router gives up on a request."""

KILL_SECONDS = 30
"""After which the platform ends by force what it has asked to end."""


def connect(name: str, **extra: object) -> dict[str, object]:
    return {"TYPE": "CONNECT", "SIGNAL": f"offer of {name}", "FINGERPRINT": name, **extra}


def answer(name: str, nonce: str) -> dict[str, object]:
    return {"TYPE": "CONNECT", "SIGNAL": f"answer of {name}", "NONCE": nonce, "FINGERPRINT": name}


class Dyno:
    """The Procfile's command, with what app.json and the platform put into its environment."""

    def __init__(self, slug: Slug, folder: Path, **settings: object) -> None:
        self.port = free_port()
        self.log = folder / f"dyno-{self.port}.log"
        kind, _, self._command = (slug.source / "Procfile").read_text().strip().partition(":")
        assert kind == "web"
        given = {
            name: each.get("value") or secrets.token_hex(32)
            for name, each in json.loads((slug.source / "app.json").read_text())["env"].items()
        }
        self._environ = environment() | given | {"PORT": str(self.port)}
        self._environ |= {name: str(value) for name, value in settings.items()}
        self._environ["PATH"] = f"{slug.bin}:{os.environ['PATH']}"
        self._source = slug.source

    def __enter__(self) -> Dyno:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", f"exec {self._command}"],
                cwd=self._source,
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError), Call(self.port, None, method="GET", path="/ready") as call:
                if call.reply().status == 200:
                    return self
            time.sleep(0.05)
        raise TimeoutError(self.log.read_text())

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> float:
        """TERM to all processes, KILL after a while. Returns how long it took."""
        started = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        return time.monotonic() - started


@pytest.fixture(scope="module")
def slug(tmp_path_factory: pytest.TempPathFactory) -> Slug:
    return Slug(tmp_path_factory.mktemp("slug"))


# --- what is installed -------------------------------------------------------------------------------------


def test_an_installation_has_everything(slug: Slug) -> None:
    program = (
        "import pathlib, signal_server\n"
        "package = pathlib.Path(signal_server.__file__).parent\n"
        "assert 'site-packages' in str(package), package\n"
        "print('\\n'.join(str(each.relative_to(package)) for each in package.rglob('*') if each.is_file()))\n"
        "client = signal_server.create_app().test_client()\n"
        "assert client.get('/').status_code == client.get('/spacerift.js').status_code == 200\n"
    )
    installed = set(slug.run(program).splitlines())
    kept = subprocess.check_output(["git", "ls-files", "signal_server"], cwd=ROOT, text=True)
    expected = {name.removeprefix("signal_server/") for name in kept.splitlines() if (ROOT / name).is_file()}
    assert expected <= installed


def test_the_operators_commands_are_installed(slug: Slug) -> None:
    command = [slug.bin / "flask", "--app", "signal_server", "spacerift", "doctor", "--json"]
    found = json.loads(subprocess.check_output(command, cwd="/", env=environment(), text=True))
    assert "fault" not in {each["state"] for each in found}


def test_the_command_of_the_wheel_serves(slug: Slug, tmp_path: Path) -> None:
    """`pip install spacerift-….whl && spacerift`, in a folder that has nothing of ours."""
    port = free_port()
    command = [slug.bin / "spacerift", "--log-level", "warning"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment() | {"PORT": str(port)}) as running:
        try:
            assert eventually(lambda: is_ready(port))
            with Call(port, None, method="GET", path="/spacerift.js") as call:
                assert call.reply().status == 200
            told = [Call(port, connect(name)) for name in ("alice", "bob")]
            demoted = told[1].reply()
            assert Call(port, answer("bob", demoted["NONCE"])).reply().type == "DELIVERED"
            assert told[0].reply()["SIGNAL"] == "answer of bob"
        finally:
            running.terminate()
    assert running.returncode == 0


# --- what it is made of ------------------------------------------------------------------------------------


def test_every_package_has_its_hash() -> None:
    """For each Python that is supported: pip takes nothing without one, once a single one is given."""
    listed: dict[str, Requirement] = {}
    for entry in (ROOT / "requirements.txt").read_text().replace("\\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            line, *hashes = entry.split(" --hash=")
            assert hashes, line
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64} *", each) for each in hashes), line
            requirement = Requirement(line.strip())
            listed[canonicalize_name(requirement.name)] = requirement
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert all("==" in each for each in wanted)
    for version in ("3.11.2", "3.11.9", "3.12.3", "3.13.5", "3.14.0"):
        here = {"python_full_version": version, "python_version": version.rpartition(".")[0], "extra": ""}
        needed = [Requirement(each) for each in wanted]
        seen: set[str] = set()
        while needed:
            one = needed.pop()
            name = canonicalize_name(one.name)
            if one.marker is not None and not one.marker.evaluate(here):
                continue
            (pinned,) = listed[name].specifier
            assert one.specifier.contains(pinned.version), one
            assert listed[name].marker is None or listed[name].marker.evaluate(here), (one, version)
            if name not in seen:
                seen.add(name)
                with contextlib.suppress(PackageNotFoundError):  # a package for other Pythons than this one
                    needed += map(Requirement, requires(name) or ())


def test_the_parts_and_their_licences_are_listed(slug: Slug) -> None:
    """And a software bill of materials is made, `build/spacerift.cdx.json`, for whoever collects them."""
    made = ROOT / "build" / "spacerift.cdx.json"
    made.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--validate"]
    command += ["--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(made)]
    subprocess.run([*command, str(slug.bin / "python")], check=True, capture_output=True)
    parts = [each for each in json.loads(made.read_text())["components"] if each["name"] != "spacerift"]
    real = {each["name"]: set(map(licence, each["licenses"])) for each in parts}
    table = (ROOT / "docs/security.md").read_text().split("| package |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    told = {name: {said} for name, said in rows}
    assert told.items() >= real.items()
    assert told.keys() - real.keys() <= {"async-timeout"}  # for a Python before 3.11.3


def licence(entry: dict[str, object]) -> object:
    if "expression" in entry:
        return entry["expression"]
    named = entry["license"]
    assert isinstance(named, dict)
    return named.get("id") or named["name"].rpartition(":: ")[2]


def test_the_descriptions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    described = json.loads((ROOT / "app.json").read_text())
    assert described["description"] == project["description"]
    assert described["env"]["SPACERIFT_SECRET_KEY"]["generator"] == "secret"
    assert any(each.startswith("heroku-redis") for each in described["addons"])
    version = (ROOT / ".python-version").read_text().strip()
    assert version == project["requires-python"].removeprefix(">=")


def test_no_request_is_held_longer_than_a_router_waits() -> None:
    settings = Settings.from_env({})
    longest = settings.request_timeout + settings.answer_timeout + WRITE_SECONDS
    assert longest < ROUTER_SECONDS - 5


def test_the_examples_name_real_files_and_settings() -> None:
    examples = ROOT / "docs" / "examples"
    known = {variable_of(each.name) for each in fields(Settings)}
    for example in examples.iterdir():
        if example.is_file():
            assert set(re.findall(r"SPACERIFT_[A-Z_]+", example.read_text())) <= known, example.name
    image = (examples / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*)$", image, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(examples / "spacerift.service")
    assert unit["Service"]["ExecStart"].split()[0].endswith("/bin/gunicorn")
    assert int(unit["Service"]["TimeoutStopSec"]) > 5
    if shutil.which("systemd-analyze"):
        command = ["systemd-analyze", "verify", str(examples / "spacerift.service")]
        said = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
        assert [line for line in said if "spacerift" in line and "is not executable" not in line] == []


# --- the recipes of docs/operating.md ----------------------------------------------------------------------

OPERATING = ROOT / "docs/operating.md"

NOT_HERE = ("apt-get", "git clone", "python3 -m venv", "certbot", "systemctl", "nginx", "ufw")
"""What the recipe for a VPS does to a machine, and what the slug has done already."""


def recipe(heading: str, language: str = "sh") -> str:
    section = OPERATING.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return section.split(f"```{language}\n")[1].split("```")[0]


def test_the_recipe_for_a_vps(slug: Slug, tmp_path: Path) -> None:
    """In a folder instead of /, and without what needs a machine of its own: packages, certbot, systemd."""
    script = recipe("A small VPS")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for folder in ("opt", "etc/systemd/system", "etc/nginx/sites-enabled"):
        (tmp_path / folder).mkdir(parents=True)
    home = tmp_path / "opt/spacerift"
    home.symlink_to(slug.source)
    if not (home / ".venv").exists():
        (home / ".venv").symlink_to(slug.bin.parent)
    assert "/opt/spacerift/.venv/bin/pip install -r /opt/spacerift/requirements.txt" in script
    here = [
        each for each in script.splitlines() if not each.startswith(NOT_HERE) and "pip install" not in each
    ]
    assert len(here) == 5
    placed = "\n".join(here).replace("/opt/", f"{tmp_path}/opt/").replace("/etc/", f"{tmp_path}/etc/")
    subprocess.run(["bash", "-eu"], input=placed, text=True, check=True)

    env_file = tmp_path / "etc/spacerift.env"
    assert env_file.stat().st_mode & 0o777 == 0o600
    given = dict(line.split("=", 1) for line in env_file.read_text().splitlines())
    assert re.fullmatch("[0-9a-f]{64}", given["SPACERIFT_SECRET_KEY"])
    assert "rift.example" in (tmp_path / "etc/nginx/sites-enabled/spacerift").read_text()  # see test_nginx.py

    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(tmp_path / "etc/systemd/system/spacerift.service")
    service, port = unit["Service"], free_port()
    name, _, value = service["Environment"].partition("=")
    environ = environment() | given | {name: value}

    def command(line: str) -> list[str]:
        return line.lstrip("-").replace("/opt/", f"{tmp_path}/opt/").replace(":8000", f":{port}").split()

    said = subprocess.check_output(command(service["ExecStartPre"]), cwd=home, env=environ, text=True)
    assert "fault" not in said
    becomes_ready(command(service["ExecStart"]), port, cwd=home, env=environ)


def becomes_ready(command: list[str], port: int, *, cwd: Path, env: dict[str, str]) -> None:
    """A server starts with this command, says that it is ready, and ends well when it is told to."""
    with subprocess.Popen(command, cwd=cwd, env=env) as running:
        try:
            deadline = time.monotonic() + 30
            while not is_ready(port):
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            running.terminate()
    assert running.returncode == 0


def is_ready(port: int) -> bool:
    with contextlib.suppress(OSError), Call(port, None, method="GET", path="/ready") as call:
        return call.reply().status == 200
    return False


def test_the_recipe_for_a_platform_sets_what_a_plain_push_leaves_out() -> None:
    lines = [each for each in recipe("A Heroku-style platform").splitlines() if "config:set" in each]
    given = dict(re.findall(r"([A-Z_]+)=(\$\(.*?\)|\S+)", " ".join(lines)))
    described = json.loads((ROOT / "app.json").read_text())["env"]
    assert given.keys() == described.keys()
    for name, each in described.items():
        assert each.get("generator") == "secret" or given[name] == each["value"]


READ_ONLY = """
mount --make-rprivate /
mount --bind / / && mount -o remount,ro,bind /
for each in /tmp /var/tmp; do mountpoint -q $each && mount -o remount,ro,bind $each; done
touch /tmp/mark 2>/dev/null && exit 3
exec "$@"
"""


def test_a_read_only_root_is_enough() -> None:
    """In a mount namespace, with /dev/shm as the only place that can be written."""
    port = free_port()
    command = ["unshare", "--mount", "bash", "-c", READ_ONLY, "-", sys.executable, "-m", "gunicorn"]
    becomes_ready(command, port, cwd=ROOT, env=environment() | {"PORT": str(port)})


# --- what runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dyno(slug: Slug, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dyno]:
    """Two workers on one Redis."""
    limits = {"REQUEST_LIMIT": "", "PAIR_LIMIT": "", "ADDRESS_LIMIT": "60 per minute", "REQUEST_TIMEOUT": "3"}
    given = {f"SPACERIFT_{name}": value for name, value in limits.items()}
    with (
        RedisServer() as redis,
        Dyno(slug, tmp_path_factory.mktemp("dyno"), REDIS_URL=redis.url, **given) as dyno,
    ):
        yield dyno


@pytest.fixture(scope="module")
def router(dyno: Dyno) -> Iterator[Router]:
    with Router(dyno.port) as running:
        yield running


def test_two_workers_behind_the_router(dyno: Dyno, router: Router) -> None:
    for number in range(5):
        link(router, f"pair {number}")
    alone = Call(router.port, connect("alone")).reply()
    assert alone.status == 299
    assert alone.headers["x-request-id"].startswith("router-")
    assert eventually(lambda: f"id={alone.headers['x-request-id']} " in dyno.log.read_text())  # after a tick
    leaver = Call(router.port, connect("leaver", NAMESPACE="room"))
    assert eventually(lambda: waiting(dyno) == 1)
    leaver.close()  # the router closes its connection to us, too
    assert eventually(lambda: waiting(dyno) == 0)
    told = Call(router.port, connect("newcomer", NAMESPACE="room")).reply()
    assert told.status == 298
    assert not router.cuts


def waiting(dyno: Dyno) -> int:
    with urlopen(f"http://127.0.0.1:{dyno.port}/metrics") as response:
        (line,) = re.findall(r"^spacerift_waiting (\d+)", response.read().decode(), re.MULTILINE)
    return int(line)


def link(router: Router, room: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda name: meet(router, name, room), ("alice", "bob")))
    assert sorted(told) == ["ANSWER", "DELIVERED"]


def meet(router: Router, name: str, room: str) -> str:
    told = Call(router.port, connect(name, NAMESPACE=room)).reply()
    if told.type == "DEMOTE":
        told = Call(router.port, answer(name, told["NONCE"]) | {"NAMESPACE": room}).reply()
    return told.type


def test_clients_count_by_the_address_that_the_router_saw(router: Router) -> None:
    def status(source: str, claimed: str = "") -> int:
        with socket.create_connection(("127.0.0.1", router.port), source_address=(source, 0)) as client:
            forged = f"X-Forwarded-For: {claimed}\r\n" if claimed else ""
            client.sendall(f"POST / HTTP/1.1\r\nHost: t\r\n{forged}Content-Length: 0\r\n\r\n".encode())
            return int(client.recv(65536).split(b" ")[1])

    assert [status("127.0.0.2") for _ in range(61)] == [415] * 60 + [297]
    assert status("127.0.0.3") == 415
    assert status("127.0.0.2", claimed="198.51.100.1") == 297


def test_a_restart_answers_who_is_held_and_is_quick(dyno: Dyno, router: Router) -> None:
    held = [Call(router.port, connect(f"p {i}", NAMESPACE=str(i))) for i in range(20)]
    assert eventually(lambda: waiting(dyno) == 20)
    assert dyno.stop() < 10
    told = {(each.status, each.type) for each in (call.reply() for call in held)}
    assert told == {(503, "UNAVAILABLE")}
    assert dyno.process.returncode == 0
    assert "Traceback" not in dyno.log.read_text()


def test_without_the_redis_addon_it_is_one_process(slug: Slug, tmp_path: Path) -> None:
    with Dyno(slug, tmp_path, WEB_CONCURRENCY=4, SPACERIFT_REQUEST_LIMIT="") as dyno:
        with Router(dyno.port) as router:
            link(router, "room")
        log = dyno.log.read_text()
        assert "REDIS_URL" in log
        assert log.count("Booting worker") == 1
