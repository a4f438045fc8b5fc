"""OpenPGP: whom we trust, what they signed, and what we sign.

packets      armour, packets and signatures, read strictly
message      one signed message
certificate  one public key
base         the seam: `Keyring`, and the `Engine` behind it
gnupg        the default engine, and `helper`, the process in which gpg is run
sequoia      the other engine
trust        the settings: which keys, and where they lie
"""

from .base import Engine, Keyring, Signed
from .trust import open_keyring

__all__ = ["Engine", "Keyring", "Signed", "open_keyring"]
