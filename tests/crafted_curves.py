"""Key pairs on curves, for `crafted`: what OpenPGP writes around the signatures of `cryptography`."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crafted import mpi

CURVES: Final[dict[str, tuple[str, ec.EllipticCurve]]] = {
    "P-256": ("2a8648ce3d030107", ec.SECP256R1()),
    "P-384": ("2b81040022", ec.SECP384R1()),
    "P-521": ("2b81040023", ec.SECP521R1()),
    "secp256k1": ("2b8104000a", ec.SECP256K1()),
}
"""The object identifier of each, and the curve itself."""

SHA: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class Ecdsa:
    algorithm = 19

    def __init__(self, curve: str) -> None:
        identifier, of = CURVES[curve]
        self._key = ec.generate_private_key(of)
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.public = _oid(identifier) + mpi(int.from_bytes(point, "big"))

    def values(self, digest: bytes, hash_: str, *, spoil: bool) -> bytes:
        signed = self._key.sign(digest, ec.ECDSA(utils.Prehashed(SHA[hash_])))
        r, s = utils.decode_dss_signature(signed)
        return mpi(r) + mpi(s ^ spoil << 100)


class Ed25519:
    """In its old form, or in that of RFC 9580."""

    def __init__(self, *, new: bool = False) -> None:
        self.algorithm = 27 if new else 22
        self._key = ed25519.Ed25519PrivateKey.generate()
        point = self._key.public_key().public_bytes_raw()
        old = _oid("2b06010401da470f01") + mpi(int.from_bytes(b"\x40" + point, "big"))
        self.public = point if new else old

    def values(self, digest: bytes, hash_: str, *, spoil: bool) -> bytes:
        signed = bytearray(self._key.sign(digest))
        signed[10] ^= spoil
        if self.algorithm == 27:
            return bytes(signed)
        return mpi(int.from_bytes(signed[:32], "big")) + mpi(int.from_bytes(signed[32:], "big"))


class Ed448:
    """In the form of RFC 9580; the old one was never in wide use."""

    algorithm = 28

    def __init__(self) -> None:
        self._key = ed448.Ed448PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def values(self, digest: bytes, hash_: str, *, spoil: bool) -> bytes:
        signed = bytearray(self._key.sign(digest))
        signed[10] ^= spoil
        return bytes(signed)


def _oid(identifier: str) -> bytes:
    return bytes((len(identifier) // 2,)) + bytes.fromhex(identifier)
