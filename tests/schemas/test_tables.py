"""The stored columns: the promised names, and no clash with the input's."""

from __future__ import annotations

import pyarrow as pa

from facecap.schemas.tables import LEDGER, METADATA, input_column_name, metadata_schema

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
    assert schema.names == [*METADATA.names, "similarity", "input_caption", "WIDTH"]
    assert schema.field("similarity").type == pa.float32()
    assert len(set(schema.names)) == len(schema.names)


def test_every_stored_name_is_moved_aside() -> None:
    assert [input_column_name(n) for n in METADATA.names] == [f"input_{n}" for n in METADATA.names]
    assert input_column_name("punsafe") == "punsafe"


def test_an_input_that_already_has_the_moved_name_does_not_clash() -> None:
    extra = pa.schema([("caption", pa.string()), ("input_caption", pa.string())])
    names = metadata_schema(extra).names
    assert len(set(names)) == len(names)
