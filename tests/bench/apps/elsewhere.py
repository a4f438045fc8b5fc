"""Somebody's own application with the signal server mounted in it."""

from flask import Flask

from signal_server import Spacerift

app = Flask(__name__)
Spacerift(app)
