"""Parsers that are too lenient, or too strict, to show that tests/fuzz_framing.py notices them.

Each is gunicorn with one option set, or with one line of its source changed in a copy of its package.
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


@dataclass(frozen=True)
class Mutant:
    """What is changed.

    Attributes:
        options: for gunicorn's command line.
        file: of gunicorn's package.
        old, new: the text that is replaced in it, and by what.
    """

    options: tuple[str, ...] = ()
    file: str = ""
    old: str = ""
    new: str = ""

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Let a server that is started now find the changed package."""
        if not self.file:
            yield
            return
        with tempfile.TemporaryDirectory(prefix="spacerift-mutant-") as folder:
            package = Path(folder) / "gunicorn"
            shutil.copytree(
                Path(gunicorn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
            )
            source = (package / self.file).read_text()
            assert source.count(self.old) >= 1, (
                f"gunicorn's source has changed: {self.file} has no {self.old!r}"
            )
            (package / self.file).write_text(source.replace(self.old, self.new))
            before = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = folder
            try:
                yield
            finally:
                os.environ.pop("PYTHONPATH")
                if before is not None:
                    os.environ["PYTHONPATH"] = before


def in_message(old: str, new: str) -> Mutant:
    return Mutant((), "http/message.py", old, new)


def in_body(old: str, new: str) -> Mutant:
    return Mutant((), "http/body.py", old, new)


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
}
"""What each parser accepts, or does, that gunicorn's does not."""
