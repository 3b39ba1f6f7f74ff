from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from facecap.transforms.web.client import retry_after


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
