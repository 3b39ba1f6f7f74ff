"""Options: frozen, bounded, finite, tagged; a typing error in a name is never ignored."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from facecap.schemas.options import Options, content, run


class Example(Options):
    size: int = content(3, "a size", ge=1)
    share: float = run(0.5, "a share")


def test_a_setting_carries_its_description_and_tag() -> None:
    fields = Example.model_fields
    assert (fields["size"].description, fields["share"].description) == ("a size", "a share")
    assert fields["size"].json_schema_extra == {"tag": "content"}
    assert fields["share"].json_schema_extra == {"tag": "run"}


@pytest.mark.parametrize(
    "values",
    [{"size": 0}, {"siez": 3}, {"size": "big"}, {"share": float("nan")}, {"share": float("inf")}],
)
def test_wrong_values_and_names_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Example.model_validate(values)


def test_settings_cannot_change_under_way() -> None:
    with pytest.raises(ValidationError):
        Example().size = 4


def test_a_default_out_of_its_own_bounds_is_noticed() -> None:
    class Wrong(Options):
        size: int = content(0, "a size", ge=1)

    with pytest.raises(ValidationError):
        Wrong()
