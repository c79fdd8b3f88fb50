"""The index of a set: `index.json`, which names its shards with their hashes and lengths.

A set is a folder with `index.json` and `{train,val,test,ood}/{clips,blocks}-NNNNNN.tar`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldmodel.data.shards import (
    SPLITS,
    SampleRef,
    file_sha256,
    known_length,
    parse_int,
    read_metadata,
    scan_shard,
    written_whole,
)
from worldmodel.errors import InputError

FORMAT_VERSION = 1
INDEX_NAME = "index.json"
KINDS = ("clips", "blocks")


def write_index(root: Path, arguments: Mapping[str, object]) -> None:
    """Write `index.json` for the shards that lie under `root`, from what they really hold.

    Args:
        root: the set's folder.
        arguments: what the set was made with; no times, hosts, paths or process counts, since
            equal arguments must give an equal index.

    Raises:
        InputError: a shard cannot be read or the index cannot be written.
    """
    root = Path(root)
    shards = []
    for split in SPLITS:
        for path in sorted((root / split).glob("*.tar")):
            kind = path.name.split("-")[0]
            if kind in KINDS:
                refs = scan_shard(path)
                entry = {
                    "path": f"{split}/{path.name}",
                    "split": split,
                    "kind": kind,
                    "num_samples": len(refs),
                    "bytes": path.stat().st_size,
                    "sha256": file_sha256(path),
                }
                shards.append(entry | (lengths_of(refs) if kind == "clips" else {}))
    index = {"format_version": FORMAT_VERSION, "arguments": dict(arguments), "shards": shards}
    # A line for each shard: the lengths of its samples do not get a line each.
    lines = ",\n  ".join(json.dumps(shard, sort_keys=True) for shard in shards)
    head = json.dumps(index | {"shards": []}, indent=1, sort_keys=True)
    before, _, after = head.rpartition("[]")
    text = f"{before}[\n  {lines}\n ]{after}\n"
    with written_whole(root / INDEX_NAME, "index") as file:
        file.write(text.encode())


def lengths_of(refs: Sequence[SampleRef]) -> dict[str, object]:
    """Frames of the longest scene of each sample and their rate; one number where all are equal.

    With these a reader knows which samples give a clip of a length without opening any.

    Returns:
        `num_frames` and `fps`, as an index names them.

    Raises:
        InputError: a sample's metadata cannot be read.
    """
    lengths = [known_length(read_metadata(ref)) for ref in refs]
    columns = zip(*((None, None) if length is None else length for length in lengths), strict=True)
    named = dict(zip(("num_frames", "fps"), map(list, columns), strict=False))
    return {name: each[0] if len(set(each)) == 1 else each for name, each in named.items()}


def read_index(root: Path) -> dict[str, Any]:
    """The set's `index.json`: `format_version`, `arguments` and `shards`.

    Raises:
        InputError: it is missing, malformed, or of a later version than this program knows.
    """
    path = Path(root) / INDEX_NAME
    try:
        index = json.loads(path.read_bytes(), parse_int=parse_int)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; {root} is not a finished set") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON: {error}; copy it again, or remove the set and "
            "make it anew"
        ) from error
    version = index.get("format_version") if isinstance(index, dict) else None
    if not isinstance(version, int) or not isinstance(index.get("shards"), list):
        raise InputError(f"{path} is no index of a set: no format_version or no shards in it")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} is of format version {version}, this program knows up to {FORMAT_VERSION}; "
            "update the program"
        )
    return index


def has_all_shards(root: Path, index: Mapping[str, Any]) -> bool:
    """Whether each shard that a set's index names is there, of the size that it says.

    Raises:
        InputError: the index does not say of each shard what it is called and how large it is.
    """
    places = []
    for entry in index["shards"]:
        known = entry if isinstance(entry, dict) else {}
        name, size = known.get("path"), known.get("bytes")
        if not isinstance(name, str) or not isinstance(size, int):
            raise InputError(
                f"{root / INDEX_NAME} is no index of a set: for a shard it has {str(entry)[:100]}, "
                "with no path or no bytes; copy it again, or remove the set and make it anew"
            )
        places.append((root / name, size))
    return all(path.is_file() and path.stat().st_size == size for path, size in places)


def index_sha256(root: Path) -> str:
    """SHA-256 of the bytes of `index.json`, which names the whole set.

    Raises:
        InputError: there is no index.
    """
    path = Path(root) / INDEX_NAME
    if not path.is_file():
        raise InputError(f"{path} does not exist; {root} is not a finished set")
    return file_sha256(path)


def check_shards(root: Path, splits: Iterable[str], read: Iterable[Path]) -> None:
    """Refuse a set whose shards are not those that its index names.

    Names and sizes are compared for all of some splits; what is in them only for the shards that
    are read anyway, at some GB a second.

    Args:
        root: folder of the set.
        splits: whose shards there must be.
        read: shards whose SHA-256 is compared too.

    Raises:
        InputError: a shard is missing, is not in the index, or is another one than that.
    """
    root, wanted, hashed = Path(root), set(splits), {Path(shard).resolve() for shard in read}
    named = {
        str(entry.get("path")): entry
        for entry in read_index(root)["shards"]
        if isinstance(entry, dict) and entry.get("split") in wanted
    }
    there = {
        f"{split}/{path.name}"
        for split in wanted
        for kind in KINDS
        for path in (root / split).glob(f"{kind}-*.tar")
    }
    for name in sorted(named.keys() | there):
        path, entry = root / name, named.get(name)
        reason = None
        if entry is None:
            reason = "is not in it"
        elif name not in there:
            reason = "is missing"
        elif (size := path.stat().st_size) != entry.get("bytes"):
            reason = f"has {size} bytes, not {entry.get('bytes')}"
        elif path.resolve() in hashed and (found := file_sha256(path)) != entry.get("sha256"):
            reason = f"has the SHA-256 {found:.12}…, not {entry.get('sha256')!s:.12}…"
        if reason is not None:
            raise InputError(
                f"{root} is not the set that its {INDEX_NAME} describes: {name} {reason}; make or "
                "copy the set again (`worldmodel verify` names all that differs)"
            )


def left_out_kinds(shards: Iterable[str]) -> list[str]:
    """Kinds of event that none of the sets of some shards shows (`--leave_out`).

    Args:
        shards: local files. Where there is no readable index, nothing is known to be left out.
    """
    kinds: set[str] | None = None
    for root in {Path(name).absolute().parent.parent for name in shards}:
        try:
            arguments = read_index(root).get("arguments")
        except InputError:
            return []
        left_out = arguments.get("leave_out") if isinstance(arguments, dict) else None
        named = {kind for kind in left_out or () if isinstance(kind, str)}
        kinds = named if kinds is None else kinds & named
    return sorted(kinds or ())
