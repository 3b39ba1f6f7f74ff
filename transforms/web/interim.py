"""A bound on interim answers (1xx), which aiohttp reads for as long as a server sends them."""

from __future__ import annotations

from typing import Any

import aiohttp
from aiohttp.http_exceptions import BadHttpMessage

MAX_INTERIM = 32
"""Real servers send one or two: 100 Continue, 103 Early Hints."""


class BoundedResponse(aiohttp.ClientResponse):
    """A `response_class` that ends an answer of more than MAX_INTERIM interim ones with
    ClientResponseError. Unbounded, one server kept the event loop busy until the deadline."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        read = protocol.read
        left = 1 + MAX_INTERIM

        async def bounded_read() -> Any:
            nonlocal left
            if not left:
                raise BadHttpMessage("too many interim answers")
            left -= 1
            return await read()

        protocol.read = bounded_read
        try:
            return await super().start(connection)
        finally:
            del protocol.read  # the class's own again; a bound method would be a cycle
