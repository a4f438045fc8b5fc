"""The house: which folder may import which, and what is pure."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from live import ROOT

PACKAGE = ROOT / "signal_server"

GROUND = {"errors", "messages", "readers", "settings"}

MAY_IMPORT = {
    "errors": set(),
    "messages": {"errors"},
    "readers": set(),
    "settings": {"errors", "readers"},
    "telemetry": {"errors", "messages"},
    "openpgp": GROUND,
    "matching": GROUND,
    "http": {*GROUND, "matching", "openpgp", "telemetry"},
    "commands": {*GROUND, "matching", "openpgp", "telemetry", "client"},
    "client": set(),
    "app": {*GROUND, "matching", "openpgp", "telemetry", "http", "commands"},
    "": {"app", "errors", "settings"},
}
"""By folder, or by module at the top: the others of ours that it may know."""

PACKAGES = {
    "errors": set(),
    "messages": set(),
    "readers": {"limits"},
    "settings": {"limits"},
    "telemetry": {"gevent", "prometheus_client"},
    "openpgp": {"gnupg", "pysequoia"},
    "matching": {"limits", "redis", "hiredis", "gevent"},
    "http": {
        "flask",
        "flask_limiter",
        "gevent",
        "greenlet",
        "gunicorn",
        "itsdangerous",
        "prometheus_client",
        "werkzeug",
    },
    "commands": {"click", "flask", "gunicorn", "limits", "prometheus_client"},
    "client": set(),
    "app": {"click", "flask", "limits", "werkzeug"},
    "": set(),
}
"""What each may import beside the standard library."""

PURE = {
    "errors",
    "messages",
    "matching.deadlines",
    "matching.identity",
    "matching.pairs",
    "matching.pool",
    "matching.rules",
}
"""These import nothing that waits, chooses or tells the time."""

IMPURE = {
    "datetime",
    "logging",
    "os",
    "random",
    "secrets",
    "select",
    "socket",
    "subprocess",
    "threading",
    "time",
}


def modules() -> dict[str, set[str]]:
    """Each module of ours, dotted from the package on, with all that it imports."""
    return {name_of(path): imports(path) for path in PACKAGE.rglob("*.py")}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(each for each in parts if each != "__init__")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    here = path.relative_to(PACKAGE).parts[:-1]
    tree = ast.parse(path.read_text())
    skipped = types_only(tree)
    for node in ast.walk(tree):
        if getattr(node, "lineno", 0) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            own = ".".join(filter(None, base))
            children = [".".join(filter(None, (own, name.name))) for name in node.names]
            modules = [each for each in children if exists(each)]
            found |= {f"signal_server.{each}" for each in modules or [own]}
    return found


def types_only(tree: ast.Module) -> set[int]:
    """Lines that only a type checker reads."""
    return {
        child.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body
    }


def exists(module: str) -> bool:
    path = PACKAGE.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


MODULES = modules()


def own(found: set[str]) -> set[str]:
    return {each.removeprefix("signal_server.") for each in found if each.startswith("signal_server.")}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def test_no_import_runs_in_a_circle() -> None:
    order = list(TopologicalSorter({name: own(found) for name, found in MODULES.items()}).static_order())
    down = ["matching.rules", "matching.matcher", "http.endpoint", "app"]
    assert sorted(down, key=order.index) == down


def test_every_room_is_on_the_map() -> None:
    assert {room_of(each) for each in MODULES} == set(MAY_IMPORT) == set(PACKAGES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_knows_only_whom_it_may(name: str) -> None:
    room = room_of(name)
    known = {room_of(each) for each in own(MODULES[name])} - {room}
    assert known <= MAY_IMPORT[room]
    outside = {each.partition(".")[0] for each in MODULES[name]} - {"signal_server"}
    assert outside - sys.stdlib_module_names <= PACKAGES[room]


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_modules_are_pure(name: str) -> None:
    found = MODULES[name]
    assert own(found) <= PURE
    outside = {each.partition(".")[0] for each in found if not each.startswith("signal_server")}
    assert outside <= sys.stdlib_module_names
    assert not outside & IMPURE


def test_only_the_stores_in_redis_know_of_redis() -> None:
    knowing = {name for name, found in MODULES.items() if {"redis", "hiredis"} & found}
    assert knowing
    assert all(name.startswith("matching.stores.redis") for name in knowing)


def test_only_the_package_itself_knows_the_app() -> None:
    assert {name for name, found in MODULES.items() if "app" in own(found)} == {""}


def test_the_walk_sees_imports() -> None:
    assert {"messages", "matching.pairs"} <= own(MODULES["matching.rules"])
    assert "flask" in MODULES["http.routes"]
