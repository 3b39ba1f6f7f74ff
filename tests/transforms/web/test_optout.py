from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from facecap.transforms.web.optout import reservation


@pytest.mark.parametrize(
    ("headers", "reserved"),
    [
        ([], None),
        ([("X-Robots-Tag", "noai")], "X-Robots-Tag noai"),
        ([("x-robots-tag", "nofollow, NoImageAI")], "X-Robots-Tag noimageai"),
        ([("X-Robots-Tag", "noindex")], "X-Robots-Tag noindex"),
        ([("X-Robots-Tag", "noimageindex")], "X-Robots-Tag noimageindex"),
        ([("X-Robots-Tag", "none")], "X-Robots-Tag none"),
        ([("X-Robots-Tag", "all"), ("X-Robots-Tag", "noai")], "X-Robots-Tag noai"),
        ([("X-Robots-Tag", "nofollow, noarchive, noaiming")], None),
        ([("X-Robots-Tag", "FaceCap: noai")], "X-Robots-Tag noai"),
        ([("X-Robots-Tag", "facecap: nofollow, noai")], "X-Robots-Tag noai"),
        ([("X-Robots-Tag", "*: noai")], "X-Robots-Tag noai"),
        ([("X-Robots-Tag", "otherbot: noai, noindex")], None),
        ([("X-Robots-Tag", "otherbot: noai, facecap: noindex")], "X-Robots-Tag noindex"),
        ([("X-Robots-Tag", "noindex, otherbot: nofollow")], "X-Robots-Tag noindex"),
        (
            [("X-Robots-Tag", "unavailable_after: 25 Jun 2030 15:00:00 PST, noindex")],
            "X-Robots-Tag noindex",
        ),
        ([("X-Robots-Tag", "max-image-preview: none")], None),
        ([("TDM-Reservation", "1")], "TDM-Reservation"),
        ([("tdm-reservation", " 1 ")], "TDM-Reservation"),
        ([("X-Robots-Tag", "facecap/1.0: noai")], "X-Robots-Tag noai"),
        ([("X-Robots-Tag", "facecapper: noai")], None),
        ([("X-Robots-Tag", "facecap-2: noai")], None),
        ([("X-Robots-Tag", "noai noimageai")], "X-Robots-Tag noai"),
        ([("X-Robots-Tag", "nofollow noimageai")], "X-Robots-Tag noimageai"),
        ([("X-Robots-Tag", "facecap: nofollow noai")], "X-Robots-Tag noai"),
        ([("X-Robots-Tag", "otherbot: nofollow noai")], None),
        ([("TDM-Reservation", "0")], None),
        ([("TDM-Reservation", '"1"')], "TDM-Reservation"),
        ([("TDM-Reservation", "1, 1")], "TDM-Reservation"),
        ([("TDM-Reservation", "0, 1;policy=x")], "TDM-Reservation"),
        ([("TDM-Reservation", "10")], None),
    ],
)
def test_reservation(headers: list[tuple[str, str]], reserved: str | None) -> None:
    assert reservation(CIMultiDictProxy(CIMultiDict(headers)), "facecap") == reserved
