"""Parsers that are too lenient, or too strict, to show that tests/fuzz_framing.py notices them.

Each is gunicorn with one option set, or a copy of gunicorn or of our worker with one line changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gunicorn

import live


@dataclass(frozen=True)
class Mutant:
    """What is changed.

    Attributes:
        options: for gunicorn's command line.
        file: below the folder that has the packages `gunicorn` and `signal_server`.
        old, new: the text that is replaced in it, and by what.
    """

    options: tuple[str, ...] = ()
    file: str = ""
    old: str = ""
    new: str = ""

    @property
    def is_ours(self) -> bool:
        return self.file.startswith("signal_server")

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Let a server that is started now find the changed source."""
        with tempfile.TemporaryDirectory(prefix="spacerift-mutant-") as name:
            folder, root, path = Path(name), live.ROOT, os.environ.get("PYTHONPATH")
            sources = [root / "signal_server", root / "tests"] if self.is_ours else []
            for source in [*sources, Path(gunicorn.__file__).parent]:
                shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(root / "gunicorn.conf.py", folder)
            if self.file:
                text = (folder / self.file).read_text()
                assert self.old in text, f"the source has changed: {self.file} has no {self.old!r}"
                (folder / self.file).write_text(text.replace(self.old, self.new))
            try:
                os.environ["PYTHONPATH"] = name
                if self.is_ours:
                    live.ROOT = folder
                yield
            finally:
                live.ROOT = root
                os.environ.pop("PYTHONPATH")
                if path is not None:
                    os.environ["PYTHONPATH"] = path


def in_message(old: str, new: str) -> Mutant:
    return Mutant((), "gunicorn/http/message.py", old, new)


def in_body(old: str, new: str) -> Mutant:
    return Mutant((), "gunicorn/http/body.py", old, new)


def in_ordinary(old: str, new: str) -> Mutant:
    return Mutant((), "signal_server/http/ordinary.py", old, new)


def in_worker(old: str, new: str) -> Mutant:
    return Mutant((), "signal_server/http/worker.py", old, new)


def in_serving(old: str, new: str) -> Mutant:
    return Mutant((), "signal_server/http/serving.py", old, new)


UNTRUSTED_INPUT = "#  -> whatever happens next, remaining input must not be trusted\n                "

MUTANTS = {
    "spaces before a colon": Mutant(("--strip-header-spaces",)),
    "obsolete folding": Mutant(("--permit-obsolete-folding",)),
    "names with underscores": Mutant(("--header-map", "dangerous")),
    "any method": Mutant(("--permit-unconventional-http-method",)),
    "any version": Mutant(("--permit-unconventional-http-version",)),
    "methods in lower case": Mutant(("--casefold-http-method", "--permit-unconventional-http-method")),
    "one field more": Mutant(("--limit-request-fields", "65")),
    "a field one byte longer": Mutant(("--limit-request-field_size", "8191")),
    "a line one byte longer": Mutant(("--limit-request-line", "2049")),
    "the last of two lengths": in_message(
        "if content_length is not None:\n                    raise", "if False:\n                    raise"
    ),
    "a length as Python reads it": in_message(
        "if str(content_length).isnumeric():", "if int(content_length) >= 0:"
    ),
    "an empty length": in_message(
        "str(content_length).isnumeric()", "str(content_length := content_length or '0').isnumeric()"
    ),
    "a length beside chunks": in_message(
        UNTRUSTED_INPUT + 'raise InvalidHeader("CONTENT-LENGTH", req=self)', "pass"
    ),
    "chunks in HTTP/1.0": in_message("if self.version < (1, 1):\n                # framing", "if False:\n#"),
    "codings that are none": in_message("raise UnsupportedTransferCoding(value)", "pass"),
    "a coding without chunks": in_message("if transfer_encoding and not chunked:", "if False:"),
    "control bytes in values": in_message('r"[\\x00-\\x08\\x0a-\\x1f\\x7f]"', 'r"[\\x00\\x0a\\x0d]"'),
    "a target of any byte": in_message('re.compile(r"[^\\x21-\\x7e]")', 're.compile(r"[\\x00]")'),
    "a bare LF in a head": in_message(
        'bytes_to_str(line) for line in data.split(b"\\r\\n")',
        'bytes_to_str(line.rstrip(b"\\r")) for line in data.split(b"\\n")',
    ),
    "two hosts": in_message('"HOST",\n    "CONTENT-TYPE",', '"CONTENT-TYPE",'),
    "two empty lines before": in_message(
        'if buf[:2] == b"\\r\\n":\n            del', 'while buf[:2] == b"\\r\\n":\n            del'
    ),
    "close only in lower case": in_message('v = v.lower().strip(" \\t")', 'v = v.strip(" \\t")'),
    "an expectation is met": in_message("raise ExpectationFailed(value)", "pass"),
    "any trailer": in_message("if from_trailer and name in RFC9110_6_5_1_FORBIDDEN_TRAILER:", "if False:"),
    "chunk sizes as Python reads them": in_body(
        'if any(n not in b"0123456789abcdefABCDEF" for n in chunk_size):', "if False:"
    ),
    "any chunk extension": in_body("if chunk_ext and not CHUNK_EXT_RE", "if False and not CHUNK_EXT_RE"),
    "no end of a chunk": in_body("if rest[:2] != b'\\r\\n':", "if False:"),
    "a body one byte short": in_body("self.length = length", "self.length = length - (length > 40)"),
    "ours: any byte in a value": in_ordinary(r"[\t\x20-\x7e\x80-\xff]*", r"[^\r\n]*"),
    "ours: any byte in a name": in_ordinary(r"""[!#$%&'*+.^`|~0-9A-Za-z-]+""", r"[^:\r\n]+"),
    "ours: underscores in a name": in_ordinary("~0-9A-Za-z-]+", "~0-9A-Za-z_-]+"),
    "ours: names twice": in_ordinary("if len(fields) != len(lines) or", "if"),
    "ours: chunks are nothing unusual": in_ordinary('        b"transfer-encoding",\n', ""),
    "ours: expectations are nothing unusual": in_ordinary('        b"expect",\n', ""),
    "ours: schemes may contradict": in_ordinary(
        "if len(self._scheme_headers.intersection(fields)) > 1:", "if False:"
    ),
    "ours: HTTP/1.0": in_ordinary(
        "map(re.escape, self._first_lines)", '(re.escape(each)[:-1] + b"[01]" for each in self._first_lines)'
    ),
    "ours: one field more": in_ordinary("{1,%d})", r"{1,%d})(?:[A-Za-z0-9-]+: [^\r]*\r\n)?"),
    "ours: a longer head": in_ordinary(
        "min(MOST_HEAD_BYTES, bound) if bound > 0 else MOST_HEAD_BYTES", "1 << 16"
    ),
    "ours: a body of any length": in_ordinary("if length > self._max_body:", "if False:"),
    "ours: a body one byte longer": in_ordinary(
        "return found, end, end + length", "return found, end, end + length + 1"
    ),
    "ours: a length of any digits": in_ordinary(
        "not digits.isdigit()", "not digits.decode('latin-1').strip().isnumeric()"
    ),
    "ours: an unfinished body": in_ordinary("if len(data) < end + length:", "if len(data) < end:"),
    "ours: what is behind is lost": in_serving("connection.buffer = data[end:]", 'connection.buffer = b""'),
    "ours: what was read is lost": in_worker(
        "client.replay = data", 'client.replay = data[data[:3] != b"GET" :]'
    ),
    "ours: close is not heard": in_serving("closes = ordinary.closes or", "closes ="),
}
"""What each parser accepts, or does, that gunicorn's does not."""
