"""How gunicorn runs the server: `gunicorn`, and nothing more."""

import _thread
import os
import resource
import signal

wsgi_app = "signal_server.app:serve()"

# A held request costs a greenlet here, and a thread anywhere else.
worker_class = "gevent"

# A platform says where to listen; at home it is the port of the README.
bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"

# Processes find each other's peers through Redis only.
shared = bool(os.environ.get("REDIS_URL"))
workers = int(os.environ.get("WEB_CONCURRENCY") or 1) if shared else 1

# Connections, of which SPACERIFT_MAX_WAITING may be held; past these, the kernel's queue keeps newcomers.
worker_connections = int(os.environ.get("SPACERIFT_MAX_WAITING") or 20000) + 1000
backlog = 2048

# Time for the headers too, so a client that dribbles them is cut off; longer than a responder's pause between
# its two requests.
keepalive = 3

# A blocked event loop is a dead worker. Held requests do not block it, so this need not exceed their wait.
timeout = 30

# Held requests are answered at once (see post_worker_init); this is for the slowest write, and within the
# 30 s after which a platform kills.
graceful_timeout = 10

# One user's servers would share its path, and nobody asked for it.
control_socket_disable = True

# Enough for any browser, little for an attacker.
limit_request_line = 2048
limit_request_fields = 64
limit_request_field_size = 8190

# A line for each request would cost as much as the request. Errors go to the terminal.
accesslog = None


def on_starting(server):
    if not shared and server.cfg.workers > 1:
        # gunicorn prints a RuntimeError's text, and no stack.
        raise RuntimeError("more than one worker needs REDIS_URL, or they will not find each other's peers")
    if not shared and int(os.environ.get("WEB_CONCURRENCY") or 1) > 1:
        server.log.warning("WEB_CONCURRENCY is brought back to 1: more workers need REDIS_URL")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def nworkers_changed(server, new_value, old_value):
    # SIGTTIN adds a worker while the server runs.
    if not shared and new_value > 1 and old_value is not None:
        server.log.warning("one worker stays one: more need REDIS_URL")
        server.num_workers = 1


def post_worker_init(worker):
    """Let a signal that ends the worker answer every held request at once; gunicorn would let them run on."""
    shutdown = worker.wsgi.extensions["spacerift"].shutdown
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
        before = signal.getsignal(number)

        def handle(signum, frame, before=before):
            # On a thread of its own (a greenlet, under gevent): a handler must not wait for a lock.
            _thread.start_new_thread(shutdown, ())
            before(signum, frame)

        signal.signal(number, handle)
        signal.siginterrupt(number, False)


def post_request(worker, req, environ, resp):
    # A busy connection's next request is there already, and its greenlet would never let the others run.
    # Measured at 64 connections: p99 of 25 ms instead of 300 and more.
    if worker.cfg.worker_class_str == "gevent":
        import gevent

        gevent.sleep(0)
