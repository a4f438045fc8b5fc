"""The map of the modules: who may import whom."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter

import pytest

from live import ROOT

PACKAGE = ROOT / "signal_server"
PURE = {"errors", "messages", "pairs", "rules", "identity"}
"""These import the standard library and one another, and nothing that waits, chooses or tells the time."""

IMPURE = {
    "time",
    "random",
    "secrets",
    "threading",
    "socket",
    "os",
    "logging",
    "select",
    "subprocess",
    "datetime",
}

TRANSPORT = {"flask", "werkzeug", "gunicorn", "redis"}


def modules() -> dict[str, set[str]]:
    """Each module of ours, dotted from the package on, with all that it imports."""
    return {
        ".".join(
            each for each in path.relative_to(PACKAGE).with_suffix("").parts if each != "__init__"
        ): imports(path)
        for path in PACKAGE.rglob("*.py")
    }


def imports(path) -> set[str]:  # type: ignore[no-untyped-def]
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


def test_no_import_runs_in_a_circle() -> None:
    order = list(TopologicalSorter({name: own(found) for name, found in MODULES.items()}).static_order())
    assert order.index("rules") < order.index("matcher") < order.index("endpoint") < order.index("app")


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_modules_are_pure(name: str) -> None:
    found = MODULES[name]
    assert own(found) <= PURE
    outside = {each.partition(".")[0] for each in found if not each.startswith("signal_server")}
    assert outside <= sys.stdlib_module_names
    assert not outside & IMPURE


EDGES = {
    "app": TRANSPORT,
    "cli": TRANSPORT,
    "routes": TRANSPORT,
    "terminal": {"flask"},
    "keys": {"flask"},
    "stores.redis": {"redis"},
    "stores.link": {"redis"},
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_the_edges_know_of_http_and_redis(name: str) -> None:
    outside = {each.partition(".")[0] for each in MODULES[name]}
    assert not outside & TRANSPORT - EDGES.get(name, set())


def test_only_the_app_knows_the_app() -> None:
    knowing = {name for name, found in MODULES.items() if "app" in own(found)}
    assert knowing <= {"", "cli"}


def test_the_walk_sees_imports() -> None:
    assert {"errors", "messages", "pairs"} <= own(MODULES["rules"]) | own(MODULES["messages"])
    assert "flask" in MODULES["routes"]
