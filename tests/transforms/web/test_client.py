from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from facecap.schemas.outcomes import Reason
from facecap.transforms.download import DownloadOptions
from facecap.transforms.web.client import Client, retry_after
from facecap.transforms.web.failure import Failed


def test_retry_after() -> None:
    assert retry_after("12") == 12
    assert retry_after(" 0 ") == 0
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = retry_after(in_a_minute)
    assert seconds is not None and 55 < seconds <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    for nonsense in ("", "soon", "-1", "1.5", "9" * 400, "٣", "Wed, 99 Oct 2015 07:28:00 GMT"):
        assert (retry_after(nonsense) or 0) >= 0


@pytest.mark.parametrize(
    "date",
    [
        "Wed, 99999999999999999999 Oct 2015 07:28:00 GMT",
        "Wed, 21 Oct 99999999999 07:28:00 GMT",
        "Wed, 21 Oct 2015 99999999999:28:00 GMT",
        "Wed, 21 Oct 2015 07:28:00 +99999999999999",
    ],
)
def test_a_date_with_a_number_too_large_is_no_date(date: str) -> None:
    assert retry_after(date) is None


KEY = ConnectionKey("a.test", 443, True, True, None, None, None)
SYSCALL = (ssl.SSL_ERROR_SYSCALL, "Some I/O error occurred")


async def failed_inside(error: Exception) -> None:
    client = Client(DownloadOptions(allow_private_hosts=("127.0.0.1",)))
    listening = await asyncio.start_server(answer, "127.0.0.1", 0, family=socket.AF_INET)
    url = URL(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
    try:
        async with client.get(url, client.hop(url)):
            raise error
    finally:
        await client.close()
        listening.close()


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ssl.SSLError(*SYSCALL), Reason.TRUNCATED_BODY),
        (ssl.SSLSyscallError(*SYSCALL), Reason.TRUNCATED_BODY),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLSyscallError(*SYSCALL)), Reason.TLS),
    ],
)
def test_a_tls_error_is_the_host_s_fault(error: Exception, reason: Reason) -> None:
    assert ssl.SSL_ERROR_SYSCALL == errno.EIO, "else there is nothing to confuse"
    with pytest.raises(Failed) as failed:
        asyncio.run(failed_inside(error))
    assert failed.value.drop.reason is reason


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_lack_of_file_descriptors_is_not(number: int) -> None:
    with pytest.raises(OSError) as raised:
        asyncio.run(failed_inside(OSError(number, "failed")))
    assert raised.value.errno == number
