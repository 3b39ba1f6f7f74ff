"""The time limits of one URL, derived together, so that the truest reason wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facecap.transforms.download import DownloadOptions


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. Each limit ends before the one that contains it: a name server that does not
    answer is `dns`, an address that does not is `timeout`, and only a host that was reached
    is `robots_unreachable`. All leave time for another attempt.
    """

    dns: float
    """One name resolution."""
    address: float
    """One try of the addresses of a host, TLS included."""
    connect: float
    """From nothing to a connection: resolution and all tries."""
    read: float
    """Between two pieces of an answer."""
    robots: float
    """robots.txt with its redirects and attempts."""

    @classmethod
    def of(cls, options: DownloadOptions) -> Limits:
        total = options.timeout_s
        return cls(
            dns=min(options.dns_timeout_s, total / 4),
            address=total / 6,
            connect=total / 2,
            read=total / 2,
            robots=total * 2 / 3,
        )
