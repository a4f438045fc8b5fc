"""Proves: whom we trust, what they signed, and what we sign.

armour       base64 between two lines
packets      read strictly, with what is in two of them: `key_packet`, `signature_packet`
message      one signed message
certificate  one public key and what it allows; `certificate_reader` reads it
keyring      the seam: `Keyring`, and the `Engine` behind it
gnupg        the default engine, and `gnupg_helper`, the process in which gpg is run
sequoia      the other engine
trust        the settings: which keys, and where they lie
signatures   what a signed request must say
signer       signs for the Python client
"""
