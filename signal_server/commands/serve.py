"""`spacerift`: `gunicorn` with our configuration, where there is no folder of the project to run it in."""

from __future__ import annotations

import sys
from importlib.metadata import files

from gunicorn.app.wsgiapp import run


def configuration() -> str:
    """The path of the gunicorn.conf.py that was installed with us."""
    for each in files("spacerift") or ():
        if each.name == "gunicorn.conf.py":
            return str(each.locate())
    raise SystemExit("gunicorn.conf.py is not installed; in the project's folder the command is: gunicorn")


def main() -> None:
    """Takes the options that `gunicorn` takes, which win over the configuration's."""
    sys.argv[1:1] = ["--config", configuration()]
    run(prog="spacerift")
