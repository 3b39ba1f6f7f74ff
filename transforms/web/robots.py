"""robots.txt by RFC 9309, parsed by protego and kept per scheme, host and port."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from protego import Protego
from yarl import URL

from facecap.schemas.outcomes import Reason
from facecap.transforms.web.addresses import redirect_target
from facecap.transforms.web.cache import Entry, SharedCache
from facecap.transforms.web.client import REDIRECTS, Client, read_start
from facecap.transforms.web.failure import Failed
from facecap.transforms.web.limits import Limits
from facecap.transforms.web.optout import product_token

if TYPE_CHECKING:
    from facecap.transforms.download import DownloadOptions

MAX_BYTES = 500 * 1024
MAX_REDIRECTS = 5
KEEP_S = 6 * 3600.0
KEEP_UNREACHABLE_S = 120.0
MAX_KEPT_BYTES = 64 * 1024 * 1024
RULES_OVERHEAD = 1000
"""Bytes that the rules of one host take besides their text, roughly."""
RETRY_PAUSE_S = 0.5
KEEP_UNCONNECTED_S = 0.2
"""Shorter than every back-off, so that another attempt at the image is another here."""
LARGE = 32 * 1024

MAX_WILDCARDS = 1000
LARGE_MATCH = 100_000
"""Wildcard rules x characters of the URL from which matching takes over a millisecond or so."""

_USER_AGENT = re.compile(r"\s*user[- ]?agent(?:\s*:|\s)\s*([^#]*)", re.IGNORECASE)
_RULE = re.compile(r"\s*(allow|diss?all?ow|diasllow|disallaw)\b", re.IGNORECASE)
"""With the misspellings that protego understands."""


class HostRules(NamedTuple):
    """The rules of one host for our user agent; `wildcards` of them have an asterisk."""

    parsed: Protego
    wildcards: int

    def allow(self, url: str) -> bool:
        return bool(self.parsed.can_fetch(url, "*"))


Rules: TypeAlias = HostRules | Failed | None
"""The rules of a host, why they could not be had, or None: everything is allowed."""


class Robots:
    """Asks robots.txt before a URL is requested."""

    def __init__(self, options: DownloadOptions, client: Client) -> None:
        self._client = client
        self._product = options.product
        self._timeout_s = Limits.of(options).robots
        self._attempts = 1 + min(1, options.retries)
        self._matching = asyncio.Lock()
        self._cache: SharedCache[Rules] = SharedCache(self._load, MAX_KEPT_BYTES)

    async def check(self, url: URL) -> None:
        """Return when `url` may be fetched. Raises Failed: robots_disallowed,
        robots_unreachable, or why the host cannot be connected to at all."""
        rules = await self._cache.get(str(url.origin()))
        if isinstance(rules, Failed):
            failed = rules.copy()
            rules.attempted = False  # one load is one attempt, however many URLs wait for it
            raise failed
        if rules is None:
            return
        text = str(url)
        if rules.wildcards * len(text) > LARGE_MATCH:
            # A hostile file takes up to 80 ms for one URL; the loop has other work.
            async with self._matching:
                allowed = await asyncio.to_thread(rules.allow, text)
        else:
            allowed = rules.allow(text)
        if not allowed:
            raise Failed(Reason.ROBOTS_DISALLOWED, attempted=False)

    async def close(self) -> None:
        await self._cache.close()

    async def _load(self, origin: str) -> Entry[Rules]:
        url = URL(origin) / "robots.txt"
        failed = Failed(Reason.ROBOTS_UNREACHABLE, may_retry=False)
        try:
            async with asyncio.timeout(self._timeout_s):
                for attempt in range(self._attempts):
                    if attempt:
                        await asyncio.sleep(RETRY_PAUSE_S)
                    try:
                        return await self._fetch(url)
                    except Failed as error:
                        failed = error
                        if not error.may_retry or not error.connected:
                            break
        except TimeoutError:
            failed = Failed(Reason.ROBOTS_UNREACHABLE, may_retry=False)
        if failed.may_retry and not failed.connected:
            # The attempts at the image, with their back-off, are the retries.
            return Entry(failed, KEEP_UNCONNECTED_S, RULES_OVERHEAD)
        failed.may_retry = False
        return Entry(failed, KEEP_UNREACHABLE_S, RULES_OVERHEAD)

    async def _fetch(self, url: URL) -> Entry[Rules]:
        allow_all: Entry[Rules] = Entry(None, KEEP_S, RULES_OVERHEAD)
        at = url
        for _ in range(1 + MAX_REDIRECTS):
            try:
                async with self._client.get(at, self._client.hop(at)) as response:
                    if response.status in REDIRECTS and "Location" in response.headers:
                        at = redirect_target(at, response.headers["Location"])
                        continue
                    if response.status >= 500:
                        raise Failed(Reason.ROBOTS_UNREACHABLE, f"HTTP {response.status}")
                    if not 200 <= response.status <= 299:
                        return allow_all
                    body = await read_start(response, MAX_BYTES)
            except Failed as failed:
                raise self._unreachable(failed, moved=at != url) from failed
            if len(body) > LARGE:
                # Half a megabyte takes a third of a second; the loop has other work.
                rules = await asyncio.to_thread(parse_rules, body, self._product)
            else:
                rules = parse_rules(body, self._product)
            return Entry(rules, KEEP_S, RULES_OVERHEAD + len(body))
        return allow_all

    @staticmethod
    def _unreachable(failed: Failed, *, moved: bool) -> Failed:
        """A host that cannot be connected to is not a matter of manners: the image, on the
        same host, fails for the same reason, which says more."""
        if failed.drop.reason is Reason.ROBOTS_UNREACHABLE:
            return failed
        if not failed.connected and not moved:
            return failed
        return Failed(
            Reason.ROBOTS_UNREACHABLE, str(failed.drop.reason), may_retry=failed.may_retry
        )


def parse_rules(body: bytes, product: str) -> HostRules:
    """The rules for `product` in a robots.txt of at most MAX_BYTES; a line cut off at the end
    is left out. Raises Failed where matching them would take too long.

    Groups are told apart here, as RFC 9309 has it: names match whole, and no line but a rule
    ends the list of names. protego matches by prefix, lets other lines end the list, and keeps
    every rule once per name of its group, which a hostile file can make quadratic.
    """
    if len(body) >= MAX_BYTES:
        body = body[: body.rfind(b"\n") + 1]
    groups: dict[str, list[str]] = {"*": []}
    names: set[str] = set()
    in_rules = False
    for line in body.decode("utf-8-sig", "replace").splitlines():
        if agent := _USER_AGENT.match(line):
            if in_rules:
                names, in_rules = set(), False
            name = "*" if agent[1].split()[:1] == ["*"] else product_token(agent[1])
            if name in ("*", product.lower()):
                names.add(name)
                groups.setdefault(name, [])
        elif _RULE.match(line):
            in_rules = True
            for name in names:
                groups[name].append(line)
    rules = groups.get(product.lower(), groups["*"])
    wildcards = sum("*" in line for line in rules)
    if wildcards > MAX_WILDCARDS:
        raise Failed(Reason.ROBOTS_UNREACHABLE, "too many wildcards", may_retry=False)
    return HostRules(Protego.parse("\n".join(["User-agent: *", *rules])), wildcards)
