"""The Arrow schemas of what is stored: the ledger and the metadata of a shard."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1
"""Enters the fingerprint: raise it when a stored column or file changes its meaning."""

BOX = pa.list_(pa.float32(), 4)

LEDGER = pa.schema(
    [
        ("row", pa.int64()),
        ("url", pa.string()),
        ("outcome", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("error", pa.string()),
        ("http_status", pa.int16()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        (
            "faces",
            pa.list_(
                pa.struct(
                    [
                        ("outcome", pa.string()),
                        ("stage", pa.string()),
                        ("reason", pa.string()),
                        ("error", pa.string()),
                        ("score", pa.float32()),
                        ("box", BOX),
                    ]
                )
            ),
        ),
    ]
)
"""One row per input URL, sorted by `row`; `faces` are in order of rank."""

METADATA = pa.schema(
    [
        ("key", pa.string()),
        ("row", pa.int64()),
        ("url", pa.string()),
        ("source_caption", pa.string()),
        ("caption", pa.string()),
        ("raw_caption", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("stated_labels", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float32())),
        ("box", BOX),
        ("landmarks", pa.list_(pa.list_(pa.float32(), 2), 5)),
        ("score", pa.float32()),
        ("faces_in_image", pa.int16()),
        ("face_rank", pa.int16()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("crop_width", pa.int32()),
        ("crop_height", pa.int32()),
        ("outside", pa.string()),
        ("sharpness", pa.float32()),
        ("brightness", pa.float32()),
        ("roll", pa.float32()),
        ("yaw", pa.float32()),
        ("inside", pa.float32()),
        ("phash", pa.string()),
        ("sha256", pa.string()),
    ]
)
"""One row per kept face, sorted by `key`; the input's other columns follow."""


def input_column_name(name: str) -> str:
    """The name under which an extra input column is stored in the metadata. No two columns get
    one name: `input_caption`, as in the metadata of another build, is moved aside, too."""
    base = name
    while base.startswith("input_"):
        base = base.removeprefix("input_")
    return f"input_{name}" if base in METADATA.names else name


def metadata_schema(extra: pa.Schema) -> pa.Schema:
    """METADATA with the input's extra columns behind it, renamed where they collide."""
    fields = [pa.field(input_column_name(f.name), f.type) for f in extra]
    return pa.schema([*METADATA, *fields])
