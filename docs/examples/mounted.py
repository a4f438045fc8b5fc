"""A signal server in an application of one's own: gunicorn -k gevent docs.examples.mounted:app"""

from flask import Flask

from signal_server import Spacerift

app = Flask(__name__)
app.config["SPACERIFT_URL_PREFIX"] = "/rift"
Spacerift(app)


@app.get("/")
def home() -> str:
    return '<script type="module" src="/rift/spacerift.js"></script>'
