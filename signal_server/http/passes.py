"""A pass for an operator's command, which knows the deployment's secret, to see what others are not shown."""

from __future__ import annotations

from typing import Final

from itsdangerous import BadSignature, TimestampSigner

PASS_SECONDS: Final = 60
SALT: Final = "spacerift operator"


def new_pass(secret: str) -> str:
    return TimestampSigner(secret, salt=SALT).sign("pools").decode()


def is_good_pass(secret: str | None, given: str) -> bool:
    """Was it made of this secret within the last minute? Without a secret none is."""
    if not secret:
        return False
    try:
        TimestampSigner(secret, salt=SALT).unsign(given, max_age=PASS_SECONDS)
    except BadSignature:
        return False
    return True
