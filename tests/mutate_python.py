"""Breaks each statement and each condition of what decides, and looks whether the tests notice. By hand:

    PYTHONPATH=. python tests/mutate_python.py [rules.py[:first-last] ...]    all five modules, or these lines

A statement is taken out, or an operator, a condition or a number of it is turned. What survives is printed,
and is either a gap in the tests or something that makes no difference.
"""

from __future__ import annotations

import ast
import importlib
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"serving.py": "http"}
"""The other modules are in `matching`."""

RULES = ["test_rules.py test_store_memory.py", "test_rules_model.py -k invariants"]
TESTS = {
    "rules.py": RULES,
    "pool.py": RULES,
    "matcher.py": ["test_matcher.py"],
    "serving.py": ["test_serving.py"],
    "limits.py": ["test_counts.py::TestWindows", "test_matcher.py", "test_counts.py -k memory"],
}
"""For each module its tests, the quick ones first."""

PATIENCE = 3
"""What is broken may also go on for ever. It may take so many times what all tests of what is whole take."""

TURNS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NOT_CODE = (
    ast.ClassDef,
    ast.FunctionDef,
    ast.Import,
    ast.ImportFrom,
    ast.Pass,
    ast.If,
    ast.For,
    ast.While,
    ast.With,
)


class Edit(NamedTuple):
    """One change of a tree: a field of a node, or an item of a list in that field."""

    node: ast.AST
    field: str
    index: int | None
    new: ast.AST | object

    @property
    def old(self) -> object:
        value = getattr(self.node, self.field)
        return value if self.index is None else value[self.index]

    def carry_out(self) -> None:
        if self.index is None:
            setattr(self.node, self.field, self.new)
        else:
            getattr(self.node, self.field)[self.index] = self.new


class Mutant(NamedTuple):
    line: int
    what: str
    source: str


def edits(tree: ast.AST) -> Iterator[Edit]:
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases", "type_comment"):
                continue
            for index, each in enumerate(value) if isinstance(value, list) else [(None, value)]:
                for new in turned(each):
                    yield Edit(node, field, index, new)
                if field == "test":
                    yield Edit(node, field, index, ast.Constant(True))
                    yield Edit(node, field, index, ast.Constant(False))


def turned(node: object) -> Iterator[ast.AST]:
    """What may stand in its place."""
    match node:
        case ast.Expr(value=ast.Constant()):  # a docstring
            return
        case ast.Return(value=ast.expr() as value) if not (
            isinstance(value, ast.Constant) and value.value is None
        ):
            yield ast.Return(ast.Constant(None))
        case ast.stmt() if not isinstance(node, NOT_CODE):
            yield ast.Pass()
        case ast.Compare(left=left, ops=[op], comparators=right):
            for each in TURNS[type(op)]:
                yield ast.Compare(left, [each()], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for each in range(len(values)):
                rest = values[:each] + values[each + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            yield ast.BinOp(left, ARITHMETIC[type(op)](), right)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)


def mutants(source: str) -> Iterator[Mutant]:
    whole = ast.unparse(ast.parse(source)).split("\n")
    for number in range(sum(1 for _ in edits(ast.parse(source)))):
        tree = ast.parse(source)
        edit = next(each for at, each in enumerate(edits(tree)) if at == number)
        line = getattr(edit.old, "lineno", getattr(edit.node, "lineno", 0))
        edit.carry_out()
        broken = ast.unparse(ast.fix_missing_locations(tree)).split("\n")
        first = next(at for at, (one, other) in enumerate(zip(broken, whole, strict=False)) if one != other)
        yield Mutant(line, f"{whole[first].strip()} -> {broken[first].strip()}", "\n".join(broken))


def path_of(name: str) -> Path:
    return Path("signal_server", FOLDERS.get(name, "matching"), name)


class Workplace:
    """A copy of the project, in which one module is broken.

    The tests run in a fork of this process, which has imported whatever they need by then: to begin anew each
    time would take longer than the tests themselves.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.patience_seconds = 0  # none: as long as it takes
        for each in ("signal_server", "tests", "docs"):
            shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def is_noticed(self, name: str, source: str) -> bool:
        file = self._folder / path_of(name)
        whole = file.read_text()
        file.write_text(source)
        try:
            return any(map(self._fails, TESTS[name]))
        finally:
            file.write_text(whole)

    def _fails(self, tests: str) -> bool:
        first, *others = tests.split()
        paths = [f"tests/{each}" if each.startswith("test_") else each for each in (first, *others)]
        child = os.fork()
        if child == 0:
            words = ["-x", "-q", "-n0", "--assert=plain", "-p", "no:cacheprovider"]
            os._exit(self._run([*words, f"--timeout={self.patience_seconds}", *paths]))
        return os.waitpid(child, 0)[1] != 0

    def _run(self, words: list[str]) -> int:
        """In the child."""
        sys.dont_write_bytecode = True
        ours = str(ROOT / "signal_server"), str(ROOT / "tests")
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(ours) and name != "__main__":
                del sys.modules[name]
        sys.path = [str(self._folder)] + [
            each for each in sys.path if Path(each).resolve() not in (ROOT, ROOT / "tests")
        ]
        os.chdir(self._folder)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        try:
            return int(pytest.main(words))
        except BaseException:  # noqa: BLE001  whatever it is, it was noticed
            return 1


def main() -> None:
    for each in (
        *(word for tests in TESTS.values() for test in tests for word in test.split()),
        "conftest.py",
    ):
        if ".py" in each:
            importlib.import_module(each.partition(".py")[0])
    with tempfile.TemporaryDirectory(prefix="spacerift-mutant-") as temporary:
        place = Workplace(Path(temporary) / "project")
        for each in sys.argv[1:] or TESTS:
            name, _, lines = each.partition(":")
            first, _, last = lines.partition("-")
            whole = (ROOT / path_of(name)).read_text()
            place.patience_seconds, started = 0, time.monotonic()
            assert not place.is_noticed(name, whole), f"the tests fail with {name} as it is"
            place.patience_seconds = math.ceil(PATIENCE * (time.monotonic() - started))
            tried = survived = 0
            for mutant in sorted(mutants(whole)):
                if int(first or 1) <= mutant.line <= int(last or first or mutant.line):
                    tried += 1
                    if not place.is_noticed(name, mutant.source):
                        survived += 1
                        print(f"{name}:{mutant.line} survived: {mutant.what}", flush=True)
            print(f"{each}: {tried} broken, {survived} of them not noticed", flush=True)


if __name__ == "__main__":
    main()
