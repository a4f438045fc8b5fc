"""Breaks every line of the Lua in turn, and looks whether the tests notice. By hand, for it takes hours:

    PYTHONPATH=. python tests/mutate_lua.py [file.lua[:first-last] ...]      all, or these lines

A line is taken out, or an operator of it is turned round. What does not load is skipped; what survives is
printed, and is either a gap in the tests or something that makes no difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hypothesis.stateful import run_state_machine_as_test
from redis.exceptions import RedisError, ResponseError

import signal_server.matching.stores.redis_scripts as scripts
import test_store_model as model
from redis_server import RedisServer

LUA = scripts.FOLDER
LIMITS = ("counts.lua", "hit.lua", "unhit.lua", "hold.lua")
ALONE = (*LIMITS, "take_name.lua", "leave_name.lua")
"""Scripts that are not of the library."""

PATIENCE = 2
"""What is broken may also go on for ever. A test may take so many times what all take with what is whole."""

TURNS = [
    (" <= ", " < "),
    (" < ", " <= "),
    (" > ", " >= "),
    (" >= ", " > "),
    (" == ", " ~= "),
    (" ~= ", " == "),
    (" and ", " or "),
    (" or ", " and "),
    (" + ", " - "),
    (" - ", " + "),
    ("not ", ""),
    ("true", "false"),
    ("'('", "'['"),
    ("'['", "'('"),
    (", 1)", ", 2)"),
]


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Each line's number, what was made of it, and the whole."""
    lines = source.split("\n")
    for number, line in enumerate(lines):
        code = line.partition("--")[0]
        if not code.strip() or code.strip() in ("end", "else", "})", "}", "}, false)"):
            continue
        made = [""] + [code.replace(old, new, 1) for old, new in TURNS if old in code]
        if re.match(r"\s*(else)?if .* then$", code):
            made += [re.sub(r"if .* then$", f"if {value} then", code) for value in ("true", "false")]
        for each in made:
            yield (
                number + 1,
                each.strip() or "(nothing)",
                "\n".join([*lines[:number], each, *lines[number + 1 :]]),
            )


def loads(redis: RedisServer, folder: Path) -> bool:
    common = "".join((folder / f"{name}.lua").read_text() for name in scripts.COMMON)
    events = [common + (folder / f"{name}.lua").read_text() for name in (*scripts.EVENTS, *scripts.VIEWS)]
    try:
        for source in [*events, *((folder / name).read_text() for name in ALONE)]:
            redis.call("SCRIPT", "LOAD", source)
    except ResponseError:
        return False
    return True


def revive(redis: RedisServer) -> None:
    """What was broken before may run for ever."""
    try:
        redis.call("PING")
    except RedisError:
        redis.kill()
        redis.start()


def is_noticed_by_machine(redis: RedisServer, seconds: float) -> bool:
    """In a child, for Hypothesis would begin once more after a time-out."""
    for processes in (1, 3):
        child = os.fork()
        if child == 0:
            try:
                run_state_machine_as_test(model.machine_of(redis, processes), settings=model.BITES)
            except BaseException:  # noqa: BLE001  whatever it is, it was noticed
                os._exit(1)
            os._exit(0)
        until = time.monotonic() + seconds
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        if ended[1] != 0:
            return True
    return False


def is_noticed_by(tests: str, seconds: float) -> bool:
    begin = "import pathlib, sys, pytest, signal_server.matching.stores.redis_scripts as scripts"
    point = f"scripts.FOLDER = pathlib.Path({str(scripts.FOLDER)!r})"
    file = str(Path(__file__).with_name(tests))
    test = f"sys.exit(pytest.main(['-x', '-q', '-p', 'no:cacheprovider', {file!r}]))"
    command = [sys.executable, "-c", f"{begin}; {point}; {test}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def is_noticed(redis: RedisServer, name: str, seconds: float) -> bool:
    if name in LIMITS:
        return is_noticed_by("test_counts.py", seconds)
    if name.removesuffix(".lua") in scripts.VIEWS:  # which the machine does not ask for
        return is_noticed_by("test_store_redis.py", seconds)
    return is_noticed_by_machine(redis, seconds) or any(
        is_noticed_by(tests, seconds) for tests in ("test_store_redis.py", "test_counts.py")
    )


def patience(redis: RedisServer) -> float:
    """How many seconds each test may take. What is whole must pass."""
    started = time.monotonic()
    with silence():
        noticed = [is_noticed(redis, name, 3600) for name in ("rules.lua", LIMITS[0])]
    assert noticed == [False, False], "the tests fail with the scripts as they are"
    return PATIENCE * (time.monotonic() - started)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def main() -> None:
    files = sys.argv[1:] or sorted(each.name for each in LUA.glob("*.lua"))
    tried = survived = 0
    with RedisServer() as redis, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "lua"
        scripts.FOLDER = folder
        shutil.copytree(LUA, folder)
        seconds = patience(redis)
        for each in files:
            name, _, lines = each.partition(":")
            first, _, last = lines.partition("-")
            for number, made, source in mutants((LUA / name).read_text()):
                if not int(first or 1) <= number <= int(last or number):
                    continue
                revive(redis)
                shutil.copytree(LUA, folder, dirs_exist_ok=True)
                (folder / name).write_text(source)
                if not loads(redis, folder):
                    continue
                tried += 1
                with silence():
                    noticed = is_noticed(redis, name, seconds)
                if not noticed:
                    survived += 1
                    print(f"{name}:{number} survived: {made}", flush=True)
            print(f"{each}: {tried} broken so far, {survived} of them not noticed", flush=True)


if __name__ == "__main__":
    main()
