"""Identifiers that sort by the time they were made, so that one index serves lookup and paging."""

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """Make an id such as ``fact_01jd2v…``: 52 bits of microseconds, then 68 random bits."""
    number = time.time_ns() // 1_000 << 68 | secrets.randbits(68)
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(115, -1, -5))
