"""A bound on the idle connections that a client keeps."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

MAX_IDLE = 256
"""Of the 1,024 file descriptors that a process often has, which no list may use up."""


class BoundedConnector(aiohttp.TCPConnector):
    """Closes the connection that was idle for longest when more than MAX_IDLE are. aiohttp
    bounds only those in use: a list of many hosts left one open for each, for all the time of
    `keepalive_timeout`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._idle: OrderedDict[ResponseHandler, None] = OrderedDict()

    async def connect(self, *arguments: Any, **named: Any) -> Connection:
        # Nothing is awaited between the choice of an idle connection and its removal here, so
        # none is closed that a request was just given.
        connection = await super().connect(*arguments, **named)
        protocol = connection.protocol
        if protocol is not None:
            self._idle.pop(protocol, None)
            connection.add_callback(partial(self._released, protocol))
        return connection

    def _released(self, protocol: ResponseHandler) -> None:
        self._idle[protocol] = None
        while len(self._idle) > MAX_IDLE:
            self._idle.popitem(last=False)[0].close()
