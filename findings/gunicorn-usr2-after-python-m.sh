#!/usr/bin/env bash
# gunicorn that was started as `python -m gunicorn` with gevent workers cannot be upgraded by USR2. It starts itself
# again by its own first argument, which is then the file gunicorn/__main__.py; so the new process has the package's
# folder first in its path, and finds `gunicorn/http` when gevent wants Python's `http`. Started by its script it comes
# up. One would guess that both ways to start are the same for USR2, as they are for HUP and TERM.
#
# Needs python3 with venv. Prints what the new process of each says.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(cat "$folder"/*.pid* 2>/dev/null) 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gunicorn==27.0.1 gevent==26.9.0 packaging==26.4
cat >"$folder/app.py" <<'PYTHON'
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PYTHON
cd "$folder"

booted() { # how many workers came up within 15 s after USR2
    local name=$1
    shift
    "$@" -k gevent --no-control-socket -b "unix:$folder/$name.socket" --pid "$folder/$name.pid" app:app \
        >"$folder/$name.log" 2>&1 &
    for _ in $(seq 100); do grep -q "Booting worker" "$name.log" && break || sleep 0.1; done
    kill -USR2 "$(cat "$name.pid")"
    for _ in $(seq 150); do
        [ "$(grep -c "Booting worker" "$name.log")" -ge 2 ] && break
        grep -q "ImportError" "$name.log" && break
        sleep 0.1
    done
    grep -c "Booting worker" "$name.log" || true
}

script=$(booted script venv/bin/gunicorn)
module=$(booted module venv/bin/python -m gunicorn)
error=$(grep "^ImportError" module.log | tail -1 || true)
echo "gunicorn 27.0.1, gevent 26.9.0: workers that booted, by the script $script, by python -m $module; $error"
[ "$script" = 2 ] && [ "$module" = 1 ] && [[ "$error" == *"cannot import name 'client' from 'http'"* ]]
