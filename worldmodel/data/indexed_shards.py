"""What indices say of shards, so that these need not be opened to know their samples."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.data.index import INDEX_NAME, read_index
from worldmodel.data.remote import is_url, read_remote_index
from worldmodel.data.shards import Length, is_length
from worldmodel.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """What is known of one shard.

    Attributes:
        name: path or URL.
        num_samples: how many it holds.
        lengths: of each of its samples, or the one that all of them have.
        num_bytes: its size, where an index says so.
        sha256: its hash, where an index says so.
        headers_sha256: of what its headers say, where no index says anything: its samples' names
            and where their members lie.
    """

    name: str
    num_samples: int
    lengths: tuple[Length, ...]
    num_bytes: int | None = None
    sha256: str | None = None
    headers_sha256: str | None = None

    def length(self, sample: int) -> Length:
        """That of one sample."""
        return self.lengths[sample if len(self.lengths) > 1 else 0]


class BlocksError(InputError):
    """Somebody wants to train on what is for evaluation."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"shard {name} holds blocks (pairs of worlds from which impossible clips are made) and "
            "is for evaluation only; name the clips alone, such as 'train/clips-*.tar'"
        )


class Indices:
    """The `index.json` of each set that shards belong to, read once."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, dict[str, Any]]] = {}

    def find(self, name: str) -> Shard | None:
        """What an index says of a shard; None where there is none or it does not know it."""
        root, _, place = _up(name)
        if root not in self._entries:
            self._entries[root] = self._read(root)
        entry = self._entries[root].get(place)
        if entry is None:
            return None
        if entry.get("kind") == "blocks":
            raise BlocksError(name)
        shard = _from_entry(name, entry)
        if shard is not None and not is_url(name) and shard.num_bytes is not None:
            size = os.path.getsize(name)
            if size != shard.num_bytes:
                raise InputError(
                    f"shard {name} has been cut short or altered: it has {size} bytes, the index "
                    f"says {shard.num_bytes}; copy or make it again"
                )
        return shard

    def _read(self, root: str) -> dict[str, dict[str, Any]]:
        remote = is_url(root)
        if not remote and not (Path(root) / INDEX_NAME).is_file():
            return {}
        try:
            index = read_remote_index(root) if remote else read_index(Path(root))
        except InputError as error:
            logger.warning("shards are read without an index: %s", error)
            return {}
        entries = [entry for entry in index["shards"] if isinstance(entry, dict)]
        return {str(entry.get("path")): entry for entry in entries}


def _up(name: str) -> tuple[str, str, str]:
    """The set's folder, the split, and the shard's name within the set."""
    if not is_url(name):
        # Not by pathlib, which takes 6 s for 10^5 shards.
        folder, last = os.path.split(os.path.join(os.getcwd(), name))
        root, split = os.path.split(folder)
        return root, split, f"{split}/{last}"
    root, split, last = name.rsplit("/", 2)
    return root, split, f"{split}/{last}"


def _from_entry(name: str, entry: dict[str, Any]) -> Shard | None:
    """An index's entry as a Shard; None where it does not say enough to do without reading."""
    count, size, digest = entry.get("num_samples"), entry.get("bytes"), entry.get("sha256")
    if not isinstance(count, int) or not isinstance(size, int) or not isinstance(digest, str):
        return None
    columns = []
    for column in ("num_frames", "fps"):
        values = entry.get(column)
        values = values if isinstance(values, list) else [values]
        if len(values) not in (1, count) or not all(is_length(value) for value in values):
            return None
        columns.append(values)
    rows = max(map(len, columns))
    frames, fps = (values if len(values) == rows else values * rows for values in columns)
    lengths = tuple((int(each), float(rate)) for each, rate in zip(frames, fps, strict=True))
    return Shard(name, count, lengths, size, digest)
