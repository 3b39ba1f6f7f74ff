"""The Arrow schemas of what is stored: the ledger and the metadata of a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa

SCHEMA_VERSION = 2
"""Enters the fingerprint: raise it when a stored column or file changes its meaning."""

BOX = pa.list_(pa.float32(), 4)

CAPTION = [
    ("caption", pa.string()),
    ("caption_source", pa.string()),
    ("raw_caption", pa.string()),
    ("rewritten_caption", pa.string()),
    ("rewrite_fault", pa.string()),
    ("stated_labels", pa.list_(pa.string())),
]
"""Of one caption: its text and whose words they are (schemas.captions.CaptionSource); the grammar's
text; the rewrite that passed every check; else what was wrong with it (RewriteFault)."""

REWRITE = pa.struct(
    [
        ("model", pa.string()),
        ("prompts", pa.string()),
        ("style", pa.string()),
        ("seed", pa.int64()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_tokens", pa.int32()),
        ("tries", pa.int8()),
        ("key", pa.string()),
        ("error", pa.string()),
    ]
)
"""What a rewrite was asked with; `key` is the face it was asked for (faces may share one), `error`
the fault in words. Null where nothing was asked."""

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
        *CAPTION,
        ("captions", pa.list_(pa.struct([*CAPTION, ("rewrite", REWRITE)]))),
        ("labels", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float32())),
        ("looks_under_18", pa.bool_()),
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
"""One row per kept face, sorted by `key`; the input's other columns follow. `captions` are all of
the face (`caption.per_face`), of which the first is also in the columns of its own."""


def input_column_names(names: Iterable[str]) -> list[str]:
    """The names under which extra input columns are stored in the metadata, in order.

    A column named like one of ours, in whatever case (DuckDB and Spark tell no case), becomes
    `input_NAME`; so does whatever would still clash with another.
    """
    ours = {name.lower() for name in METADATA.names}
    taken, stored = set(ours), {}
    names = list(names)
    for name in sorted(names, key=lambda name: name.lower() not in ours):
        new = name
        while new.lower() in taken:
            new = f"input_{new}"
        taken.add(new.lower())
        stored[name] = new
    return [stored[name] for name in names]


def metadata_schema(extra: pa.Schema) -> pa.Schema:
    """METADATA with the input's extra columns behind it, renamed where they collide."""
    names = input_column_names(extra.names)
    fields = [pa.field(name, f.type) for name, f in zip(names, extra, strict=True)]
    return pa.schema([*METADATA, *fields])


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type in which an input column of type `kind` is stored.

    It is `kind`, but for what plain Python values cannot carry the same way on every machine:
    nanoseconds become microseconds, time zones UTC; dictionaries, views and extension types
    become what they stand for. Raises ValueError on a struct with two fields of one name.
    """
    return replace_leaves(kind, _stored_leaf)


def _stored_leaf(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return stored_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp(_stored_unit(kind), "UTC" if kind.tz else None)
    if pa.types.is_duration(kind):
        return pa.duration(_stored_unit(kind))
    if pa.types.is_time64(kind):
        return pa.time64("us")
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _stored_unit(kind: pa.TimestampType | pa.DurationType) -> str:
    return "us" if kind.unit == "ns" else str(kind.unit)


def replace_leaves(kind: pa.DataType, replace: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """`kind` with `replace` applied to every type in it that holds no others."""
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"has two fields named {twice!r}")
        return pa.struct([f.with_type(replace_leaves(f.type, replace)) for f in kind])
    if pa.types.is_map(kind):
        key, item = (replace_leaves(t, replace) for t in (kind.key_type, kind.item_type))
        return pa.map_(key, item)
    for is_list, make in (
        (pa.types.is_list, pa.list_),
        (pa.types.is_large_list, pa.large_list),
        (pa.types.is_fixed_size_list, lambda item: pa.list_(item, kind.list_size)),
    ):
        if is_list(kind):
            item = kind.value_field
            return make(item.with_type(replace_leaves(item.type, replace)))
    return replace(kind)
