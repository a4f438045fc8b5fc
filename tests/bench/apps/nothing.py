"""N, the measure of the benchmark: a Flask view that does nothing."""

from flask import Flask

app = Flask(__name__)


@app.post("/")
def view() -> bytes:
    return b""
