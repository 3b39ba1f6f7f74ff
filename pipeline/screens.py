"""The block lists of a build: read and checked before anything is written, then put where every
worker can map them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from facecap.pipeline.errors import UsageError
from facecap.pipeline.output import STAGED
from facecap.schemas.tables import stored_type
from facecap.transforms import block_list
from facecap.transforms.block_list import BlockList, BlockListError
from facecap.transforms.read_rows import InputOptions
from facecap.transforms.screen import HashList, ScreenConfig, ScreenOptions, unavailable_pictures
from facecap.transforms.store import Store

KINDS = {
    "block_urls": "urls",
    "block_domains": "domains",
    "block_hashes": "hashes",
    "unavailable_hashes": "hashes",
}
"""Setting -> kind of list."""


@dataclass(frozen=True)
class ScreenLists:
    """The lists named by the settings, in memory."""

    lists: dict[str, BlockList]
    unavailable: bool

    @property
    def hashes(self) -> dict[str, str]:
        """What enters the fingerprint: setting -> sha256 of the list's text."""
        found = {f"screen.{name}": found.sha256 for name, found in self.lists.items()}
        if self.unavailable:
            known = unavailable_pictures()
            found["screen.unavailable"] = f"{known.sha256} (version {known.version})"
        return found

    def stage(self, store: Store, hash_column: str | None) -> ScreenConfig:
        """Put the lists under OUT/_input, where the workers find them."""
        paths = {name: self._save(store, name) for name in self.lists}

        def hashes(name: str) -> HashList | None:
            return HashList(paths[name], self.lists[name].algorithms) if name in paths else None

        return ScreenConfig(
            urls=paths.get("block_urls"),
            domains=paths.get("block_domains"),
            hashes=hashes("block_hashes"),
            unavailable=self.unavailable,
            unavailable_hashes=hashes("unavailable_hashes"),
            hash_column=hash_column,
        )

    def _save(self, store: Store, name: str) -> str:
        target = f"{STAGED}/{name}-{self.lists[name].sha256[:16]}.npy"
        if not store.exists(target):
            with store.written_aside(target) as temporary:
                block_list.save(self.lists[name].keys, temporary)
        return store.url(target)


def read_lists(options: ScreenOptions) -> ScreenLists:
    """Raises UsageError naming the setting, the file and the line."""
    lists = {}
    for name, kind in KINDS.items():
        path = getattr(options, name)
        if path is not None:
            try:
                lists[name] = block_list.read_list(path, kind)
            except BlockListError as error:
                raise UsageError(f"screen.{name}: {error}") from None
    return ScreenLists(lists, options.unavailable)


def check_hash_column(extra: pa.Schema, options: InputOptions) -> None:
    """Raises UsageError when input.hash_column is no text column of the input."""
    name = options.hash_column
    if name is None:
        return
    if name not in extra.names:
        raise UsageError(
            f"input.hash_column: the input has no further column {name!r}; it has: "
            f"{', '.join(extra.names) or 'none'}"
        )
    kind = stored_type(extra.field(name).type)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise UsageError(f"input.hash_column: column {name!r} holds {kind}, not hashes in hex")
