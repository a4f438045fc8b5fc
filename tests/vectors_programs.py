"""Signed messages by other programs, right and wrong: what each makes by default, and with its options.

`tests/run` installs them all.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import gnupg
import pysequoia

from vectors_core import DAY, SOME_TEXTS, TEXT, Vector

WHO = "p <p@example.invalid>"


QUICK_JAVA = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
"""Half the time of a program that lasts for a second."""


def run(*command: str, given: bytes = b"", **environment: str) -> bytes:
    done = subprocess.run(
        command, input=given, capture_output=True, check=False, env=os.environ | QUICK_JAVA | environment
    )
    assert done.returncode == 0, (command, done.stderr.decode(errors="replace"))
    return done.stdout


def told(name: str, sign: Callable[[bytes], bytes | str], key: bytes | str) -> Iterator[Vector]:
    """One for each text, all good."""
    for text in SOME_TEXTS:
        yield Vector(f"{name}: {text[:20]!r}", as_text(sign(text)), as_text(key), text)


def one(name: str, message: bytes | str, key: bytes | str, text: bytes | None = None) -> Vector:
    return Vector(name, as_text(message), as_text(key), text)


def as_text(block: bytes | str) -> str:
    return block.decode("utf-8", "replace") if isinstance(block, bytes) else block


# --- Sequoia: sq and sqop ----------------------------------------------------------------------------------


def by_sq() -> Iterator[Vector]:
    if b"sq 0." not in run("sq", "--version"):
        return  # the next one has other commands
    with tempfile.TemporaryDirectory() as folder:

        def key(name: str, *options: str) -> tuple[str, bytes]:
            path = f"{folder}/{name}.pgp"
            run("sq", "key", "generate", *options, "--export", path)
            return path, run("sq", "key", "extract-cert", path)

        def sign(path: str, text: bytes, *options: str) -> bytes:
            return run("sq", "sign", "--signer-key", path, *options, given=text)

        kinds = {
            "default": (),
            "cv25519": ("--cipher-suite=cv25519",),
            "rsa3k": ("--cipher-suite=rsa3k",),
            "a year": ("--expires-in=1y",),
            "three names": ("--userid=a <a@example.invalid>", "--userid=b"),
        }
        for name, options in kinds.items():
            path, public = key(name, f"--userid={WHO}", *options)
            yield from told(f"sq {name}", lambda text, path=path: sign(path, text), public)  # type: ignore[misc]
        path, public = key("own", f"--userid={WHO}")
        other, others = key("other", "--userid=o")
        yield one("sq a notation", sign(path, TEXT, "--notation", "a@example.invalid", "b"), public, TEXT)
        yield one("sq a critical notation", sign(path, TEXT, "--notation", "!a@example.invalid", "b"), public)
        yield one("sq clearsigned", sign(path, TEXT, "--cleartext-signature"), public)
        yield one("sq detached", sign(path, TEXT, "--detached"), public)
        yield one("sq by another", sign(other, TEXT), public)
        yield one("sq two keys", sign(path, TEXT), public + others)
        yield one("sq with the private key", sign(path, TEXT), Path(path).read_bytes())
        by_two = sign(path, TEXT, "--signer-key", other)
        yield one("sq by two", by_two, public)
        yield one("sq by two, the other's key", by_two, others)
        nameless, public = key("nameless")
        yield one("sq no name", sign(nameless, TEXT), public)


def by_sop(program: str, texts: list[bytes]) -> Iterator[Vector]:
    """A program with the Stateless OpenPGP command line: sqop, pgpainless-cli."""
    with tempfile.TemporaryDirectory() as folder:

        def key(name: str, *users: str) -> tuple[str, bytes]:
            secret = run(program, "generate-key", *users)
            path = Path(folder, name)
            path.write_bytes(secret)
            return str(path), run(program, "extract-cert", given=secret)

        def sign(path: str, text: bytes, *options: str) -> bytes:
            return run(program, "inline-sign", *options, path, given=text)

        path, public = key("own", WHO)
        for text in texts:
            yield one(f"{program}: {text[:20]!r}", sign(path, text), public, text)
        yield one(f"{program} as text", sign(path, TEXT, "--as=text"), public, TEXT)
        yield one(f"{program} clearsigned", sign(path, TEXT, "--as=clearsigned"), public)
        yield one(f"{program} detached", run(program, "sign", path, given=TEXT), public)
        two, public = key("two", WHO, "second")
        yield one(f"{program} two names", sign(two, TEXT), public, TEXT)
        yield one(f"{program} by another", sign(path, TEXT), public)
        nameless, public = key("nameless")
        yield one(f"{program} no name", sign(nameless, TEXT), public)


def by_pysequoia() -> Iterator[Vector]:
    suites = ("Cv25519", "P256", "P384", "P521", "RSA2k", "RSA3k")

    def key(**options: Any) -> tuple[Any, str]:
        secret = pysequoia.Tsk.generate(WHO, profile=pysequoia.Profile.RFC4880, **options)
        return secret.signer(), str(secret.extract_certificate())

    for suite in suites:
        signer, public = key(cipher_suite=getattr(pysequoia.CipherSuite, suite))
        yield from told(f"pysequoia {suite}", lambda text, by=signer: pysequoia.sign(by, text), public)  # type: ignore[misc]
    for name, seconds in {
        "a day": DAY,
        "3 years": 3 * 365 * DAY,
        "until 2106": (1 << 32) - 2_000_000_000,
    }.items():
        signer, public = key(validity_seconds=seconds)
        yield one(f"pysequoia {name}", pysequoia.sign(signer, TEXT), public, TEXT)
    signer, public = key(validity_seconds=100 * 365 * DAY)
    yield one("pysequoia 100 years", pysequoia.sign(signer, TEXT), public)
    modes = pysequoia.SignatureMode
    signer, public = key()
    yield one("pysequoia clear", pysequoia.sign(signer, TEXT, mode=modes.CLEAR), public)
    yield one("pysequoia detached", pysequoia.sign(signer, TEXT, mode=modes.DETACHED), public)
    yield from _new()
    yield from _prolonged()


def _new() -> Iterator[Vector]:
    """Keys of version 6, some without a name: RFC 9580 asks for none."""
    for suite in ("Cv25519", "Cv448", "P256", "P384", "P521", "RSA2k"):
        cipher_suite = getattr(pysequoia.CipherSuite, suite)
        for names in ([WHO], []):
            secret = pysequoia.Tsk.generate(
                *names, profile=pysequoia.Profile.RFC9580, cipher_suite=cipher_suite
            )
            signer, public = secret.signer(), str(secret.extract_certificate())
            name = f"pysequoia version 6 {suite}{'' if names else ', no name'}"
            for vector in told(name, lambda text, by=signer: pysequoia.sign(by, text), public):  # type: ignore[misc]
                yield replace(vector, is_new=True)
    old = pysequoia.Tsk.generate(
        WHO, profile=pysequoia.Profile.RFC4880, cipher_suite=pysequoia.CipherSuite.Cv448
    )
    message, key = pysequoia.sign(old.signer(), TEXT), str(old.extract_certificate())
    yield replace(one("pysequoia Ed448 of version 4", message, key, TEXT), is_new=True)
    other = pysequoia.Tsk.generate(WHO, profile=pysequoia.Profile.RFC9580)
    message = pysequoia.sign(other.signer(), TEXT)
    yield replace(one("pysequoia version 6 by another", message, public), is_new=True)
    post_quantum = pysequoia.Tsk.generate(
        WHO, profile=pysequoia.Profile.RFC9580, cipher_suite=pysequoia.CipherSuite.MLDSA65_Ed25519
    )
    message = pysequoia.sign(post_quantum.signer(), TEXT)
    yield one("pysequoia ML-DSA", message, str(post_quantum.extract_certificate()))


def _prolonged() -> Iterator[Vector]:
    """Sequoia keeps the older self-signature beside the newer one."""
    secret = pysequoia.Tsk.generate(WHO, profile=pysequoia.Profile.RFC4880, validity_seconds=DAY)
    later = datetime.now(UTC) + timedelta(days=300)
    prolonged = secret.extract_certificate().set_expiration(later, secret.certifier())
    message = pysequoia.sign(secret.signer(), TEXT)
    yield one("pysequoia prolonged", message, str(prolonged), TEXT)


# --- rnp ---------------------------------------------------------------------------------------------------


def by_rnp() -> Iterator[Vector]:
    with tempfile.TemporaryDirectory() as folder:

        def key(name: str, *options: str, answers: str = "") -> tuple[str, bytes]:
            home = f"--homedir={folder}/{name}"
            Path(folder, name).mkdir()
            make = ("--generate-key", f"--userid={WHO}", "--password=", *options)
            run("rnpkeys", home, *make, given=answers.encode())
            return home, run("rnpkeys", home, "--export-key", WHO)

        def sign(home: str, text: bytes, *options: str, how: str = "--sign") -> bytes:
            return run("rnp", home, "--password=", "--armor", how, *options, given=text)

        kinds = {
            "default": "1\n2048\n",
            "P-256": "19\n1\n",
            "P-384": "19\n2\n",
            "P-521": "19\n3\n",
            "EdDSA": "22\n",
        }
        homes = {name: key(name, "--expert", answers=answers) for name, answers in kinds.items()}
        for name, (home, public) in homes.items():
            yield from told(f"rnp {name}", lambda text, home=home: sign(home, text), public)  # type: ignore[misc]
        home, public = homes["EdDSA"]
        for name, options in {
            "zlib": ("--zlib",),
            "uncompressed": ("-z", "0"),
            "SHA-512": ("--hash=SHA512",),
            "SHA-384": ("--hash=SHA384",),
        }.items():
            yield one(f"rnp {name}", sign(home, TEXT, *options), public, TEXT)
        for name, options in {
            "bzip2": ("--bzip",),
            "SHA-1": ("--hash=SHA1",),
            "detached": ("--detach",),
        }.items():
            yield one(f"rnp {name}", sign(home, TEXT, *options), public)
        yield one("rnp clearsigned", sign(home, TEXT, how="--clearsign"), public)
        yield one("rnp by another", sign(home, TEXT), homes["P-256"][1])
        for name, answers in {
            "brainpool": "19\n4\n",
            "secp256k1": "19\n7\n",
            "DSA": "17\n2048\n",
            "SM2": "99\n",
        }.items():
            home, public = key(name, "--expert", answers=answers)
            yield one(f"rnp {name}", sign(home, TEXT), public)


# --- go-crypto ---------------------------------------------------------------------------------------------


def by_go() -> Iterator[Vector]:
    with tempfile.TemporaryDirectory() as folder:
        # Debian's packages of Go's libraries are sources in a path of their own.
        paths = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "", "CGO_ENABLED": "0"}
        paths.setdefault("GOCACHE", os.environ.get("GOCACHE", f"{Path.home()}/.cache/go-build"))
        run(
            "go",
            "build",
            "-o",
            f"{folder}/sign",
            str(Path(__file__).with_name("vectors_go") / "main.go"),
            **paths,
        )
        yield from read_lines(run(f"{folder}/sign", coded_texts()))


# --- in Python ---------------------------------------------------------------------------------------------


def by_pgpy() -> Iterator[Vector]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cryptography's, about what PGPy asks it for
        yield from _by_pgpy()


def _by_pgpy() -> Iterator[Vector]:
    import pgpy
    from pgpy.constants import (
        CompressionAlgorithm,
        EllipticCurveOID,
        HashAlgorithm,
        KeyFlags,
        PubKeyAlgorithm,
    )

    def key(algorithm: Any, size: Any, flags: set[Any], hash_: Any = HashAlgorithm.SHA512) -> Any:
        made = pgpy.PGPKey.new(algorithm, size)
        made.add_uid(pgpy.PGPUID.new("p", email="p@example.invalid"), usage=flags, hashes=[hash_])
        return made

    def sign(by: Any, text: bytes, compression: Any = CompressionAlgorithm.ZIP, **options: Any) -> str:
        message = pgpy.PGPMessage.new(text.decode(), compression=compression)
        message |= by.sign(message, **({"hash": HashAlgorithm.SHA512} | options))
        return str(message)

    signs = {KeyFlags.Sign, KeyFlags.Certify}
    kinds = {
        "RSA 2048": (PubKeyAlgorithm.RSAEncryptOrSign, 2048),
        "P-256": (PubKeyAlgorithm.ECDSA, EllipticCurveOID.NIST_P256),
        "P-384": (PubKeyAlgorithm.ECDSA, EllipticCurveOID.NIST_P384),
        "P-521": (PubKeyAlgorithm.ECDSA, EllipticCurveOID.NIST_P521),
        "EdDSA": (PubKeyAlgorithm.EdDSA, EllipticCurveOID.Ed25519),
    }
    keys = {name: key(*kind, signs) for name, kind in kinds.items()}
    for name, made in keys.items():
        yield from told(f"PGPy {name}", lambda text, by=made: sign(by, text), str(made.pubkey))  # type: ignore[misc]
    own = keys["EdDSA"]
    public = str(own.pubkey)
    yield one("PGPy uncompressed", sign(own, TEXT, CompressionAlgorithm.Uncompressed), public, TEXT)
    yield one("PGPy zlib", sign(own, TEXT, CompressionAlgorithm.ZLIB), public, TEXT)
    yield one("PGPy SHA-256", sign(own, TEXT, hash=HashAlgorithm.SHA256), public, TEXT)
    yield one("PGPy bzip2", sign(own, TEXT, CompressionAlgorithm.BZ2), public)
    yield one("PGPy SHA-1", sign(own, TEXT, hash=HashAlgorithm.SHA1), public)
    short = sign(keys["P-384"], TEXT, hash=HashAlgorithm.SHA256)
    yield one("PGPy P-384, SHA-256", short, str(keys["P-384"].pubkey))
    yield one("PGPy by another", sign(keys["P-256"], TEXT), public)
    yield one("PGPy detached", str(own.sign(TEXT.decode())), public)
    weak = key(*kinds["P-384"], signs, HashAlgorithm.SHA256)
    yield one("PGPy P-384, self-signed with SHA-256", sign(weak, TEXT), str(weak.pubkey))


def by_python_gnupg() -> Iterator[Vector]:
    with tempfile.TemporaryDirectory() as home:
        Path(home, "gpg-agent.conf").write_text("s2k-count 65536\n")
        gpg = gnupg.GPG(gnupghome=home, options=["--no-options"])
        gpg.encoding = "utf-8"
        wanted = ["Key-Type: EDDSA", "Key-Curve: ed25519", "Key-Usage: sign", "Name-Real: python"]
        wanted += ["%no-protection", "%commit", ""]
        key = gpg.gen_key("\n".join(wanted)).fingerprint
        public = gpg.export_keys(key)
        yield from told("python-gnupg", lambda text: str(gpg.sign(text.decode(), clearsign=False)), public)
        yield one("python-gnupg by default", str(gpg.sign(TEXT.decode())), public)
        subprocess.run(["gpgconf", f"--homedir={home}", "--kill", "all"], check=True)


# --- all ---------------------------------------------------------------------------------------------------


def coded_texts() -> str:
    return json.dumps([base64.b64encode(text).decode() for text in SOME_TEXTS])


def read_lines(lines: bytes) -> Iterator[Vector]:
    """Vectors as a program tells them: JSON, one a line."""
    for line in lines.splitlines():
        made = json.loads(line)
        text = None if made["text"] is None else base64.b64decode(made["text"])
        yield Vector(made["name"], made["message"], made["key"], text, is_new=made.get("isNew", False))


def by_javascript() -> Iterator[Vector]:
    script = Path(__file__).with_name("vectors.mjs")
    done = subprocess.run(
        ["node", str(script), coded_texts()], capture_output=True, check=True, cwd=script.parent
    )
    yield from read_lines(done.stdout)


def by_programs() -> list[Vector]:
    """Four at once: much of it is starting them."""
    makers: list[Callable[[], Iterator[Vector]]] = [
        by_javascript,
        by_go,
        lambda: by_sop("pgpainless-cli", SOME_TEXTS[1:3]),
        by_rnp,
        by_sq,
        lambda: by_sop("sqop", SOME_TEXTS),
        by_pysequoia,
        by_pgpy,
        by_python_gnupg,
    ]
    with ThreadPoolExecutor(4) as pool:
        return [each for made in pool.map(lambda maker: list(maker()), makers) for each in made]
