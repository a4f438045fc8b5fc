"""How gunicorn runs the server: `gunicorn`, and nothing more."""

import _thread
import atexit
import gc
import json
import logging
import os
import resource
import shutil
import signal
import socket
import tempfile
import time
import weakref

import gunicorn.sock
import gunicorn.util

wsgi_app = "signal_server.app:serve()"

# gunicorn's gevent worker, in which a request that waits costs 3 KiB. On plain `gevent` it costs a greenlet
# of 20 KiB, and several times the time; on `gthread` it costs a thread.
worker_class = "signal_server.http.worker.Worker"


def platforms(name, default):
    """A number that the platform sets, and may leave empty."""
    text = os.environ.get(name, "").strip() or default
    return int(text) if text.isascii() and text.isdigit() else None


def all_addresses(port):
    """Every address of this machine, of IPv6 too where the kernel has it."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return [f"0.0.0.0:{port}"]
    if port == 0:  # any free one: of each family it would be another
        return ["0.0.0.0:0"]
    return [f"0.0.0.0:{port}", f"[::]:{port}"]


# A platform says where to listen; at home it is the port of the README.
port = platforms("PORT", "8000")
if port is None or port > 65535:
    raise SystemExit("PORT must be a number up to 65535")
bind = all_addresses(port)

# Processes find each other's peers through Redis only.
shared = bool(os.environ.get("REDIS_URL", "").strip())
asked = platforms("WEB_CONCURRENCY", "1")
if not asked:
    raise SystemExit("WEB_CONCURRENCY must be a number from 1 on")
workers = asked if shared else 1

# Connections, of which SPACERIFT_MAX_WAITING may be held; past these, the kernel's queue keeps newcomers.
# Empty, it is off. A bad value is the application's to refuse.
held = os.environ.get("SPACERIFT_MAX_WAITING", "20000")
worker_connections = (int(held) if held.isdecimal() else 1_000_000) + 1000
backlog = 2048

# Time for the headers too, so a client that dribbles them is cut off; longer than a responder's pause between
# its two requests. A proxy keeps its connections, and must be the one that closes them: nginx' after 60 s,
# Heroku's after 90, Caddy's after 120. If we did, just as it sends a request, it could not tell whether to
# send it again.
proxied = os.environ.get("SPACERIFT_TRUSTED_PROXIES", "0") not in ("", "0")
keepalive = 130 if proxied else 3

# A blocked event loop is a dead worker. Held requests do not block it, so this need not exceed their wait.
timeout = 30

# A worker ends long before this (see answer_before_the_end), unless there are very many to answer. A platform
# kills after 30 s.
graceful_timeout = 20

# One user's servers would share its path, and nobody asked for it.
control_socket_disable = True

# Enough for any browser, little for an attacker.
limit_request_line = 2048
limit_request_fields = 64
limit_request_field_size = 8190

# No header says which path was asked for: from an address that is trusted with more, SCRIPT_NAME would.
forwarder_headers = ""

# SPACERIFT_LOG has a line for each request, at a tenth of what this would cost. Errors go to the terminal.
accesslog = None

# A container with a read-only root still has this, for gunicorn's heartbeat and the counts of /metrics.
try:
    tempfile.gettempdir()
except FileNotFoundError:
    os.environ["TMPDIR"] = "/dev/shm"

METRICS = "spacerift-metrics-"

# The open connections of this worker.
connections = weakref.WeakSet()


TOO_LONG = f"the request line has more than {limit_request_line} bytes"
TOO_MANY = (
    f"there are more than {limit_request_fields} fields, or one of over {limit_request_field_size} bytes"
)


def refuse(sock, status, reason, detail):
    """What gunicorn itself refuses, before it is a request, in the form of all other refusals."""
    why = {414: TOO_LONG, 431: TOO_MANY}.get(int(status), "not HTTP as it should be")
    body = json.dumps({"TYPE": reason.upper().replace(" ", "_"), "DETAIL": why})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n\r\n"
    gunicorn.util.write_nonblock(sock, (head + body).encode())


gunicorn.util.write_error = refuse


def bind_one_family(listener, sock):
    """Leave IPv4 to the socket of `0.0.0.0`, if there is one.

    To `[::]` alone IPv4 clients come as ::ffff:192.0.2.1, and gunicorn trusts no proxy at ::ffff:127.0.0.1.
    """
    host, port = listener.cfg_addr[:2]
    if ("0.0.0.0", port) in listener.conf.address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, port))


gunicorn.sock.TCP6Socket.bind = bind_one_family


def without_client(record):
    """gunicorn logs the address and the words of whom it refuses, and a stack for whom it gives up."""
    if record.exc_info and isinstance(record.exc_info[1], TimeoutError):
        return False
    if str(record.msg).startswith("Invalid request from ip="):
        record.msg = "refused what was not HTTP as it should be"
    return True


logging.getLogger("gunicorn.error").addFilter(without_client)


def on_starting(server):
    if server.cfg.worker_class_str == "sync":
        raise RuntimeError(
            "a sync worker could hold one request at a time: use gevent, or gthread with --threads"
        )
    if not shared and server.cfg.workers > 1:
        # gunicorn prints a RuntimeError's text, and no stack.
        raise RuntimeError("more than one worker needs REDIS_URL, or they will not find each other's peers")
    if not shared and asked > 1:
        server.log.warning("WEB_CONCURRENCY is brought back to 1: more workers need REDIS_URL")
    if shared and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        # Where workers leave their counts for whichever of them is asked for /metrics.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix=METRICS)
    # Not in on_exit, which gunicorn leaves out where two workers fail at the start.
    atexit.register(remove_counts, server, os.getpid())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def nworkers_changed(server, new_value, old_value):
    # SIGTTIN adds a worker while the server runs.
    if not shared and new_value > 1 and old_value is not None:
        server.log.warning("one worker stays one: more need REDIS_URL")
        server.num_workers = 1


NOW = {"drain_seconds": 0}


def post_worker_init(worker):
    from signal_server.http import intake

    intake.install()
    spare_the_collector()
    answer_before_the_end(worker)
    _thread.start_new_thread(worker.wsgi.extensions["spacerift"].look_at_store, ())


def spare_the_collector():
    """Walk over what lives long less often: at the defaults it costs a fifth of each pair's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Listener:
    """What gunicorn asks of a listener for each connection, one accepted just before it was closed, too."""

    def __init__(self, sock):
        self._name = sock.getsockname()

    def getsockname(self):
        return self._name


def answer_before_the_end(worker):
    """Let whatever ends the worker answer every held request at once; gunicorn would let them run on.

    After that, the connections on which nothing is asked are closed, for which gunicorn would wait, too. Our
    own worker does all that by itself.
    """
    from signal_server.http.connection import stop_reading
    from signal_server.http.crowd import REFUSAL

    if worker.cfg.worker_class_str == worker_class and worker.serves_by_callbacks():
        return
    is_gevent = hasattr(worker, "timeout_ctx")

    server = worker.wsgi.extensions["spacerift"]

    def drain(options):
        server.shutdown(**options)
        while True:  # until the process is gone
            time.sleep(
                1.2
            )  # within a second gunicorn takes no more connections; on these a request would be here
            for each in list(connections):
                stop_reading(each)

    if is_gevent:
        serve = worker.handle
        listeners = {each: Listener(each) for each in worker.sockets}

        def remember(listener, client, addr):
            if not isinstance(addr, tuple):  # a UNIX socket's
                serve(listeners.get(listener, listener), client, addr)
                return
            if not server.crowd.enter(addr[0]):
                gunicorn.util.write_nonblock(client, REFUSAL)
                gunicorn.util.close(client)
                return
            connections.add(client)
            try:
                serve(listeners.get(listener, listener), client, addr)
            finally:
                server.crowd.leave(addr[0])

        worker.handle = remember

    # After the other two gunicorn ends a worker within 0.1 s.
    # Threads read no more once it is told to end, so no answer could come.
    gently = {} if is_gevent else NOW
    told = []

    def end_by_itself():
        # --max-requests and --reload send no signal.
        while worker.alive:
            time.sleep(0.1)
        if not told:
            if worker.cfg.workers == 1:  # the next one must not wait until this one is gone
                os.kill(worker.ppid, signal.SIGHUP)
            drain(gently)

    for number, options in ((signal.SIGTERM, gently), (signal.SIGQUIT, NOW), (signal.SIGINT, NOW)):
        before = signal.getsignal(number)

        def handle(signum, frame, before=before, options=options):
            told.append(signum)
            # On a thread of its own (a greenlet, under gevent): a handler must not wait for a lock.
            _thread.start_new_thread(drain, (options,))
            before(signum, frame)

        signal.signal(number, handle)
        signal.siginterrupt(number, False)
    if not worker.alive:  # it was told before it could hear it, by a reload that followed on another
        told.append(signal.SIGTERM)
    _thread.start_new_thread(end_by_itself, ())


def post_request(worker, req, environ, resp):
    # A busy connection's next request is there already, and its greenlet would never let the others run.
    # Measured at 64 connections: p99 of 25 ms instead of 300 and more.
    if hasattr(worker, "timeout_ctx"):
        import gevent

        gevent.sleep(0)


post_request.is_for_greenlets = True  # what our worker serves by callbacks does not miss it


def worker_exit(server, worker):
    # What it has counted since it last wrote it down.
    served = getattr(worker, "wsgi", None)
    if served is not None and "spacerift" in getattr(served, "extensions", {}):
        served.extensions["spacerift"].request_log.metrics.publish(now=True)


def remove_counts(server, master):
    # Not in a worker, and not if a new master (USR2) uses them.
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
    if os.path.basename(folder).startswith(METRICS) and os.getpid() == master and not server.reexec_pid:
        shutil.rmtree(folder, ignore_errors=True)
