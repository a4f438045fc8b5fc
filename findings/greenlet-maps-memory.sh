#!/usr/bin/env bash
# On CPython 3.11 and newer each new greenlet maps memory and unmaps it at its end, even if it only calls one function:
# CPython keeps the frames of Python code in pieces of 16 KB that it asks of the kernel, and greenlet gives each
# greenlet pieces of its own. So the kernel clears a page for each short greenlet, while a greenlet that is kept and
# handed one call after the other costs it none. One would guess that a raw greenlet without an Event or a Greenlet
# object is but a small object of Python's heap, and that to keep it saves next to nothing.
#
# Needs python3, 3.11 or newer, with venv. Prints the pages that the kernel had to make for each call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gevent==26.9.0 greenlet==3.5.6
"$folder/venv/bin/python" - <<'PYTHON'
import platform
from resource import RUSAGE_SELF, getrusage

import gevent
import greenlet

CALLS = 20_000
hub = gevent.get_hub()
calls = 0


def call():
    global calls
    calls += 1


def anew():
    gevent.spawn_raw(call)
    gevent.sleep(0)


def go_on():
    while True:
        call()
        hub.switch()


kept = greenlet.greenlet(go_on, hub)


def again():
    hub.loop.run_callback(kept.switch)
    gevent.sleep(0)


def pages(way):
    for _ in range(1_000):  # what is made once is made by then
        way()
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(CALLS):
        way()
    return (getrusage(RUSAGE_SELF).ru_minflt - before) / CALLS


new, old = pages(anew), pages(again)
assert calls == 2 * (CALLS + 1_000)
print(f"CPython {platform.python_version()}, gevent {gevent.__version__}, greenlet {greenlet.__version__}:")
print(f"pages for a call in a new greenlet {new:.2f}, in one that is kept {old:.2f}")
raise SystemExit(not (new > 0.9 and old < 0.1))
PYTHON
