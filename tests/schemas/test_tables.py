"""The stored columns: the promised names, and no clash with the input's."""

from __future__ import annotations

import pyarrow as pa
import pytest

from facecap.schemas.tables import (
    LEDGER,
    METADATA,
    input_column_names,
    metadata_schema,
    stored_type,
)

LEDGER_NAMES = (
    "row url outcome stage reason error http_status format width height bytes sha256 faces"
)
FACE_NAMES = "outcome reason score box"
METADATA_NAMES = (
    "key row url width height phash caption raw_caption source_caption labels stated_labels "
    "probabilities box landmarks score sha256"
)


def test_the_promised_columns_are_there() -> None:
    assert set(LEDGER_NAMES.split()) <= set(LEDGER.names)
    face = LEDGER.field("faces").type.value_type
    assert set(FACE_NAMES.split()) <= {face.field(i).name for i in range(face.num_fields)}
    assert set(METADATA_NAMES.split()) <= set(METADATA.names)


def test_input_columns_follow_under_names_of_their_own() -> None:
    extra = pa.schema(
        [("similarity", pa.float32()), ("caption", pa.string()), ("WIDTH", pa.int8())]
    )
    schema = metadata_schema(extra)
    assert schema.names == [*METADATA.names, "similarity", "input_caption", "input_WIDTH"]
    assert schema.field("similarity").type == pa.float32()
    assert len(set(schema.names)) == len(schema.names)


def test_every_stored_name_is_moved_aside() -> None:
    assert input_column_names(METADATA.names) == [f"input_{n}" for n in METADATA.names]
    assert input_column_names(["punsafe"]) == ["punsafe"]


def test_an_input_that_already_has_the_moved_name_does_not_clash() -> None:
    extra = pa.schema([("caption", pa.string()), ("input_caption", pa.string())])
    names = metadata_schema(extra).names
    assert len(set(names)) == len(names)


def test_no_two_columns_differ_only_in_case() -> None:
    names = ["input_caption", "similarity", "Similarity", "caption", "Caption", "HEIGHT"]
    stored = input_column_names(names)
    assert stored == [
        "input_input_input_caption",
        "similarity",
        "input_Similarity",
        "input_caption",
        "input_input_Caption",
        "input_HEIGHT",
    ]
    everything = [name.lower() for name in [*METADATA.names, *stored]]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (pa.int8(), pa.int8()),
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("s", "Europe/Berlin"), pa.timestamp("s", "UTC")),
        (pa.duration("ns"), pa.duration("us")),
        (pa.time64("ns"), pa.time64("us")),
        (pa.dictionary(pa.int8(), pa.string_view()), pa.string()),
        (pa.uuid(), pa.binary(16)),
        (pa.list_(pa.duration("ns"), 2), pa.list_(pa.duration("us"), 2)),
        (
            pa.struct([("a", pa.large_list(pa.map_(pa.string(), pa.timestamp("ns"))))]),
            pa.struct([("a", pa.large_list(pa.map_(pa.string(), pa.timestamp("us"))))]),
        ),
    ],
)
def test_types_are_stored_as_python_carries_them(kind: pa.DataType, stored: pa.DataType) -> None:
    assert stored_type(kind) == stored


def test_a_struct_with_two_fields_of_one_name_is_refused() -> None:
    with pytest.raises(ValueError, match="two fields named 'a'"):
        stored_type(pa.list_(pa.struct([("a", pa.int8()), ("a", pa.int8())])))
