"""Reservations in the headers of an answer: X-Robots-Tag and the TDM Reservation Protocol."""

from __future__ import annotations

import re

from multidict import CIMultiDictProxy

RESERVED = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
"""Directives that close an image to us; `none` is Google's short form of noindex, nofollow."""

_AGENT = re.compile(r"([\w./*-]+)\s*:\s*(.*)\Z", re.DOTALL)
_PRODUCT = re.compile(r"[a-z_-]*")
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def product_token(name: str) -> str:
    """The product token of RFC 9309 that a user agent's name begins with, in small letters:
    `mybot` of `MyBot/1.0`, and nothing of `*`."""
    match = _PRODUCT.match(name.strip().lower())
    return match[0] if match else ""


def reservation(headers: CIMultiDictProxy[str], product: str) -> str | None:
    """The directive that reserves the image against `product`, the name of our user agent,
    or None. A directive behind `NAME:` holds for that user agent alone.
    """
    for value in headers.getall("TDM-Reservation", ()):
        # One value is meant; lists, quotes and parameters are met all the same.
        if any(item.partition(";")[0].strip(' \t"') == "1" for item in value.split(",")):
            return "TDM-Reservation"
    for value in headers.getall("X-Robots-Tag", ()):
        for_us = True
        for part in value.lower().split(","):
            directive = part.strip()
            scoped = _AGENT.match(directive)
            if scoped and scoped[1] in _VALUED:
                continue
            if scoped:
                for_us = scoped[1] == "*" or product_token(scoped[1]) == product.lower()
                directive = scoped[2]
            for word in directive.split():
                if for_us and word in RESERVED:
                    return f"X-Robots-Tag {word}"
    return None
