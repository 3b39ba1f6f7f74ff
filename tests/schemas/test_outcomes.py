"""Stages and reasons: the words of counters, ledger and audit."""

from __future__ import annotations

import pickle

import pytest

from facecap.schemas.outcomes import Drop, Reason, Stage


def test_stages_compare_in_flow_order() -> None:
    flow = ["read", "download", "screen", "decode", "detect", "crop", "attributes", "caption"]
    assert sorted(Stage, key=lambda s: s.order) == [Stage(name) for name in flow]


def test_a_reason_is_its_word_and_knows_its_meaning() -> None:
    assert f"{Stage.DOWNLOAD}/{Reason.DNS}" == "download/dns"
    assert Reason("dns") is Reason.DNS and Reason.DNS.retryable
    assert not Reason.NOT_FOUND.retryable
    meanings = {reason.meaning for reason in Reason}
    assert len(meanings) == len(Reason) and all(meanings)


@pytest.mark.parametrize("reason", [Reason.NO_FACE, Reason.TIMEOUT])
def test_drops_travel_between_processes(reason: Reason) -> None:
    drop = pickle.loads(pickle.dumps(Drop(Stage.DETECT, reason, "why")))
    assert drop == Drop(Stage.DETECT, reason, "why")
    assert drop.reason is reason and drop.reason.meaning == reason.meaning
