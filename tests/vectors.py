"""Signed messages, right and wrong, made by a dozen programs and by hand.

    PYTHONPATH=. python tests/vectors.py               every vector with every engine
    PYTHONPATH=. python tests/vectors.py --flips all   and every bit of a few messages and keys, turned

A wrong acceptance ends it with exit code 1: a text that nobody signed, or somebody else's name.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import itertools
import os
import pickle
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pysequoia

from crafted import armour
from signal_server.errors import Untrusted
from signal_server.openpgp.certificate import NEEDS_SEQUOIA
from signal_server.openpgp.certificate_reader import read_public_key
from signal_server.openpgp.gnupg import GnupgEngine
from signal_server.openpgp.keyring import Engine, Keyring
from signal_server.openpgp.sequoia import SequoiaEngine
from vectors_by_hand import crafted
from vectors_core import Vector, key_armour
from vectors_gpg import by_gpg
from vectors_programs import by_programs
from vectors_statements import statements
from vectors_version6 import version_6


def all_vectors() -> tuple[Vector, ...]:
    """It takes half a minute of CPU."""
    return (*crafted(), *statements(), *version_6(), *by_gpg(), *by_programs())


def shared_vectors(base: Path) -> tuple[Vector, ...]:
    """All vectors, made once for all processes of one test run. Those of an earlier run would be too old.

    base: pytest's folder for this process, which stands in one of the run where there are several.
    """
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (folder / "vectors.pickle").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        if found := file.read():
            made: tuple[Vector, ...] = pickle.loads(found)
        else:
            made = all_vectors()
            pickle.dump(made, file)
    return made


# --- flips -------------------------------------------------------------------------------------------------


def flips(vectors: Iterable[Vector], *, step: int = 1) -> Iterator[Vector]:
    """These messages and keys with one bit turned, each in turn: inside the armour, and of the armour."""
    places = itertools.count()
    for vector in vectors:
        message, key, armoured = _dearmoured(vector.message), _dearmoured(vector.key), vector.message.encode()
        for part, data in {"message": message, "key": key, "armour": armoured}.items():
            for bit in range(8 * len(data)):
                if next(places) % step == 0:
                    turned = _turned(data, bit)
                    name = f"{vector.name}, bit {bit} of the {part}"
                    yield Vector(
                        name,
                        {"message": armour(turned), "armour": turned.decode("latin-1")}.get(
                            part, vector.message
                        ),
                        key_armour(turned) if part == "key" else vector.key,
                        vector.text,
                        vector.signer,
                        is_flip=True,
                        is_new=vector.is_new,
                    )


def _turned(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes((data[bit // 8] ^ 1 << bit % 8,)) + data[bit // 8 + 1 :]


def _dearmoured(text: str) -> bytes:
    return base64.b64decode("".join(re.split(r"\n=|\n-", text.split("\n\n", 1)[1])[0].split()))


# --- the verdict -------------------------------------------------------------------------------------------


def verdict(engine: Engine, vector: Vector) -> tuple[bytes, str] | str:
    """What an engine reads, and whose name it tells; or why it refuses."""
    try:
        signed = Keyring(engine, None).verify(vector.message, vector.key)
    except Untrusted as refusal:
        return refusal.reason
    return signed.text, signed.fingerprint


def complaint(vector: Vector, found: tuple[bytes, str] | str) -> str | None:
    """What is wrong with a verdict, if anything is."""
    if isinstance(found, str):
        return None if vector.text is None or vector.is_flip else f"refused: {found}"
    if vector.text is None:
        return f"accepted: {found}"
    if found[0] != vector.text or vector.signer not in (None, found[1]):
        return f"something else was read: {found}"
    return None


def as_it_came(vector: Vector) -> tuple[bytes, str] | None:
    """What Sequoia itself reads in the message and the key: the other opinion where gpg has none.

    What a key says with a broken hash it may count, and we do not; so that is left out.
    """
    ours = read_public_key(vector.key)
    try:
        certificate = pysequoia.Cert.from_bytes(ours.whole if ours.has_weak else vector.key.encode())
        read = pysequoia.verify(vector.message.encode(), store=lambda _: [certificate])
        (signature,) = read.valid_sigs
    except Exception:  # noqa: BLE001 - it raises many kinds
        return None
    return bytes(read.bytes or b""), signature.certificate.upper()


def for_gpg(vector: Vector) -> Vector:
    """What gpg is to say of it: nothing that is new is good."""
    return replace(vector, text=None) if vector.is_new else vector


def compare(engines: dict[str, Engine], vectors: Iterable[Vector]) -> tuple[list[str], Counter[str]]:
    """Ask every engine about every vector.

    Returns:
        What is wrong, in words; and how many were accepted, refused before the engine, and refused by it.
    """
    wrong, counts = [], Counter[str]()
    for vector in vectors:
        found = {name: verdict(engine, vector) for name, engine in engines.items()}
        said = [
            complaint(vector if engine.takes_new else for_gpg(vector), found[name])
            for name, engine in engines.items()
        ]
        wrong += [f"{vector.name}: {name}: {each}" for name, each in zip(found, said, strict=True) if each]
        words = {each if isinstance(each, str) else "" for each in found.values()}
        is_apart = len({isinstance(each, str) for each in found.values()}) > 1
        if is_apart and not (vector.is_new and words == {"", NEEDS_SEQUOIA}):
            wrong.append(f"{vector.name}: the engines differ: {found}")
        if vector.is_new and not isinstance(found["sequoia"], str) and found["sequoia"] != as_it_came(vector):
            wrong.append(f"{vector.name}: Sequoia reads something else in it as it came")
        counts["vectors"] += 1
        counts["accepted"] += any(not isinstance(each, str) for each in found.values())
        counts["for Sequoia alone"] += words == {"", NEEDS_SEQUOIA}
        counts["refused by the engine"] += str(found.get("sequoia", "")).startswith("sequoia")
    return wrong, counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", default="97", help="every Nth bit, or 'all' (default: %(default)s)")
    chosen = parser.parse_args()
    engines: dict[str, Engine] = {"gnupg": GnupgEngine(), "sequoia": SequoiaEngine()}
    try:
        made = all_vectors()
        turned = flips(to_flip(made), step=1 if chosen.flips == "all" else int(chosen.flips))
        wrong = []
        for name, vectors in {"vectors": made, "flips": turned}.items():
            started = time.monotonic()
            found, counts = compare(engines, vectors)
            print(f"{name}: {dict(counts)}, {len(found)} wrong, {time.monotonic() - started:.0f} s")
            wrong += found
    finally:
        for engine in engines.values():
            engine.close()
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def to_flip(vectors: Iterable[Vector]) -> list[Vector]:
    """One of each kind: compressed and not, RSA and both sorts of curves, with and without a subkey."""
    names = ("gpg rsa2048: b'chess'", "gpg uncompressed", "gpg with a subkey: b'chess'", "kbpgp one: chess")
    names += ("openpgp.js ed25519: chess", "openpgp.js NIST P-256: chess")
    names += ("openpgp.js version 6 Ed25519: chess", "new: by a subkey bound")
    return [each for each in vectors if each.name in names]


if __name__ == "__main__":
    sys.exit(main())
