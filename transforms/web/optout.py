"""Reservations in the headers of an answer: X-Robots-Tag and the TDM Reservation Protocol."""

from __future__ import annotations

import re

from multidict import CIMultiDictProxy

RESERVED = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Directives that close an image to us; `none` is Google's short form of noindex, nofollow."""

_AGENT = re.compile(r"([\w./*-]+)\s*:\s*(.*)\Z", re.DOTALL)
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def reservation(headers: CIMultiDictProxy[str], product: str) -> str | None:
    """The directive that reserves the image against `product`, the name of our user agent,
    or None. A directive behind `NAME:` holds for that user agent alone.
    """
    if any(value.strip() == "1" for value in headers.getall("TDM-Reservation", ())):
        return "TDM-Reservation"
    for value in headers.getall("X-Robots-Tag", ()):
        for_us = True
        for part in value.lower().split(","):
            directive = part.strip()
            scoped = _AGENT.match(directive)
            if scoped and scoped[1] not in _VALUED:
                for_us = scoped[1] in ("*", product.lower())
                directive = scoped[2].strip()
            if for_us and directive in RESERVED:
                return f"X-Robots-Tag {directive}"
    return None
