"""Shards on object stores and web servers, read through a bounded local cache.

1. `list_remote`   a URL pattern -> URLs of shards, from a listing or the set's `index.json`
2. `ShardCache`    the URL of a shard -> a whole, checked local file, read like any other shard

How stores are asked, and for how long, is the matter of `stores.py`.
"""

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import filelock

from worldmodel.data.index import INDEX_NAME, read_index
from worldmodel.data.stores import (
    WEB,
    RefusedError,
    RemoteError,
    list_store,
    opened,
    persist,
    scheme_of,
    shown,
)
from worldmodel.errors import InputError

_STEP_BYTES = 16 << 20  # room taken at a time where the server does not state a size
_MAX_INDEX_BYTES = 64 << 20  # an index has some 250 bytes for each shard
_RECENT_SECONDS = 5.0  # between a file's being fetched and its being opened
_SHARD_IN_INDEX = re.compile(r"(?!\.)[^/?#%\\]+/(?!\.)[^/?#%\\]+\.tar")


def is_url(name: str) -> bool:
    """Whether a shard's name is a URL, of a scheme that is read or another; `pipe:` is none."""
    return re.match(r"(?!pipe:)[a-z][a-z0-9+.:-]*://", name, re.IGNORECASE) is not None


def list_remote(pattern: str, timeout_seconds: float = 30.0, retries: int = 3) -> list[str]:
    """The URLs of the shards that a URL pattern stands for, sorted and without repetition.

    Args:
        pattern: the URL of one tar, which is not looked for; a glob (`*`, `?`, `**`), for https
            answered from the `index.json` one folder above the split's; the folder of a split; or
            that of a set, which stands for its `train/`. Folders are answered from the set's
            `index.json`, or by their `*.tar` where there is none but the store can list.
        timeout_seconds: longest silence of the server.
        retries: further tries after one that failed.

    Raises:
        InputError: nothing matches, or the URL cannot be read.
    """
    web = scheme_of(pattern) in WEB
    path = pattern.partition("?")[0] if web else pattern
    is_glob = re.search(r"[*?[]", path.partition("://")[2]) is not None
    if path.endswith(".tar") and not is_glob:
        return [pattern]
    limits = (timeout_seconds, retries)
    if is_glob and not web:
        found = list_store(pattern, *limits)
    else:
        found = _list_by_index(path.rstrip("/"), is_glob, *limits)
    if not found:
        raise InputError(f"no shards match {shown(pattern)}; check the spelling")
    return sorted(set(found))


def _list_by_index(url: str, is_glob: bool, timeout_seconds: float, retries: int) -> list[str]:
    parent, _, last = url.rpartition("/")
    places = [(url, "train/*"), (parent, f"{last}/*")]
    if is_glob:
        root, _, split = parent.rpartition("/")
        places = [(root, f"{split}/{last}")]
    reasons = []
    for root, names in places:
        if is_url(root):  # no longer so above a bucket or host
            try:
                return _match_index(root, names, timeout_seconds, retries)
            except RefusedError as error:
                reasons.append(str(error))
    if scheme_of(url) not in WEB:
        return list_store(f"{url}/*.tar", timeout_seconds, retries)
    raise InputError(
        f"{shown(url)} is no tar, and only the index of a set could tell what it stands for: "
        f"{'; '.join(reasons) or 'it lies in none'}; name the tars, as in {{000000..000009}}.tar"
    )


def _match_index(root: str, pattern: str, timeout_seconds: float, retries: int) -> list[str]:
    found = []
    for shard in read_remote_index(root, timeout_seconds, retries)["shards"]:
        name = shard.get("path") if isinstance(shard, dict) else shard
        # An index is as little to be trusted as any other text from the network.
        if not isinstance(name, str) or not _SHARD_IN_INDEX.fullmatch(name):
            raise InputError(
                f"{shown(root)}/{INDEX_NAME} names a shard {name!r}, which is not of the form "
                "SPLIT/NAME.tar; make the index again"
            )
        if fnmatchcase(name, pattern):
            found.append(f"{root}/{name}")
    return found


def read_remote_index(root: str, timeout_seconds: float = 30.0, retries: int = 3) -> dict[str, Any]:
    """The `index.json` of a remote set, as `index.read_index` gives it; never from the cache.

    Args:
        root: URL of the set's folder.
        timeout_seconds: longest silence of the server.
        retries: further tries after one that failed.

    Raises:
        InputError: it is missing, cannot be read, or is no index that this program knows.
    """
    url = f"{root.rstrip('/')}/{INDEX_NAME}"

    def read() -> bytes:
        content = bytearray()
        with opened(url, timeout_seconds) as (_, chunks):
            for chunk in chunks:
                content += chunk
                if len(content) > _MAX_INDEX_BYTES:
                    raise RemoteError(f"it has over {_MAX_INDEX_BYTES} bytes", "check it", False)
        return bytes(content)

    content = persist(read, url, retries)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / INDEX_NAME).write_bytes(content)
        try:
            return read_index(Path(folder))
        except InputError as error:
            raise RefusedError(str(error).replace(folder, shown(root.rstrip("/")))) from error


class ShardCache:
    """A folder of downloaded shards, shared by any number of processes and bounded in size.

    Holds plain values only: it may be pickled, and used on both sides of a fork. A file is removed
    only when room is needed, the least recently fetched first. Whoever has it open can read on;
    between `fetch` and opening it is safe for 5 seconds, unless room cannot be had otherwise for
    `timeout_seconds`: who finds it gone fetches it again.

    Args:
        folder: where the files lie; by default `$WORLDMODEL_CACHE`, else
            `~/.cache/worldmodel/shards`. Files that are not the cache's own are left alone.
        max_bytes: most bytes of all files together, those in progress with their full size.
        timeout_seconds: longest silence of a server.
        retries: further tries after one that failed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        max_bytes: int = 50_000_000_000,
        timeout_seconds: float = 30.0,
        retries: int = 3,
    ) -> None:
        default = os.environ.get("WORLDMODEL_CACHE") or Path.home() / ".cache/worldmodel/shards"
        self.folder = Path(folder or default)
        self.max_bytes = max_bytes
        self.timeout_seconds = timeout_seconds
        self.retries = retries

    def fetch(self, url: str, size: int | None = None, sha256: str | None = None) -> Path:
        """A whole local copy of a remote file, downloaded unless it is there.

        A copy from before is taken as it is where its size is right: its bytes are not hashed anew.

        Args:
            url: the file.
            size: bytes it must have, from the set's index; by default what the server states.
            sha256: its hash, from the set's index; by default not checked.

        Raises:
            InputError: it cannot be had, or is not what it should be, or does not fit in.
        """
        scheme_of(url)
        stem = re.sub(r"[^\w-]", "_", re.split(r"[?#]", url)[0].rpartition("/")[2])
        name = hashlib.sha256(f"{url}\n{sha256 or ''}".encode()).hexdigest()
        path = self.folder / f"{name}-{stem.removesuffix('_tar')[-80:]}.tar"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._use(path, size):
                with self._alone(path, url):
                    if not self._use(path, size):  # else another process has just fetched it
                        path.unlink(missing_ok=True)
                        persist(lambda: self._download(url, path, size, sha256), url, self.retries)
        except OSError as error:
            raise InputError(
                f"cannot keep {shown(url)} in the cache {self.folder}: {error.strerror or error}; "
                "set WORLDMODEL_CACHE to a folder with room that can be written to"
            ) from error
        return path

    def _use(self, path: Path, size: int | None) -> bool:
        try:
            if size is not None and path.stat().st_size != size:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _alone(self, path: Path, url: str) -> Iterator[None]:
        """Wait for other processes that fetch the same file, as long as they get on with it."""
        lock = filelock.FileLock(f"{path}.lock")
        # The longest quiet of a sound one: for room, connecting, reading, and between its tries.
        patience = 4 * self.timeout_seconds + 2**self.retries / 2
        last_write, since = -1.0, time.monotonic()
        while True:
            try:
                lock.acquire(timeout=min(1.0, self.timeout_seconds))
                break
            except filelock.Timeout:
                times = [stat.st_mtime for part, stat in self._files() if _whole(part) == path]
                if max(times, default=0.0) != last_write:
                    last_write, since = max(times, default=0.0), time.monotonic()
                if time.monotonic() - since > patience:
                    raise InputError(
                        f"another process has been fetching {shown(url)} for {patience:.0f} s "
                        f"without getting on; end it (it holds {lock.lock_file})"
                    ) from None
        try:
            for part, _ in self._files():  # of processes that died over this file
                if part != path and _whole(part) == path:
                    part.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def _download(self, url: str, path: Path, size: int | None, sha256: str | None) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        digest = hashlib.sha256()
        num_bytes = room = 0
        try:
            with opened(url, self.timeout_seconds) as (stated, chunks), part.open("wb") as file:
                _check_size(stated, size)
                expected = stated if size is None else size
                self._make_room(part, room := expected or 0)
                for chunk in chunks:
                    num_bytes += len(chunk)
                    if expected is not None and num_bytes > expected:
                        _check_size(num_bytes, expected)
                    if num_bytes > room:
                        room = max(num_bytes, min(num_bytes + _STEP_BYTES, self.max_bytes))
                        self._make_room(part, room)
                    file.write(chunk)
                    digest.update(chunk)
                if num_bytes < (expected or 0):
                    what = f"the connection was cut after {num_bytes} of {expected} bytes"
                    raise RemoteError(what, "try later")
                if sha256 is not None and digest.hexdigest() != sha256.lower():
                    what = f"its SHA-256 is {digest.hexdigest()}, the set's index says {sha256}"
                    raise RemoteError(what, "upload shards and index of one set together", False)
                file.truncate(num_bytes)
                # Before the rename, or a power cut could leave the final name on missing bytes.
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, part: Path, num_bytes: int) -> None:
        """Grow a file in progress to its size to be, so that nobody else counts on that room."""
        deadline = time.monotonic() + self.timeout_seconds
        while num_bytes <= self.max_bytes:
            late = time.monotonic() > deadline
            with filelock.FileLock(self.folder / "cache.lock", timeout=self.timeout_seconds):
                if self._evict(part, self.max_bytes - num_bytes, not late):
                    os.truncate(part, num_bytes)
                    return
            if late:
                break
            time.sleep(min(0.2, self.timeout_seconds / 10))
        raise InputError(
            f"{_whole(part).name[65:]} of {num_bytes} bytes does not fit in the cache "
            f"{self.folder}, limited to {self.max_bytes} bytes together with what is being "
            "fetched; raise the limit or make smaller shards"
        )

    def _evict(self, part: Path, max_bytes: int, spare_recent: bool) -> bool:
        """Whether all other files are within `max_bytes`, after removing what may be removed."""
        files = [(path, stat) for path, stat in self._files() if path != part]
        excess = sum(stat.st_size for _, stat in files) - max_bytes
        for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
            if path.suffix == ".part":
                removable = _is_abandoned(path)
            else:
                recent = time.time() - stat.st_mtime < _RECENT_SECONDS
                removable = excess > 0 and not (recent and spare_recent)
            if removable:
                path.unlink(missing_ok=True)
                excess -= stat.st_size
        return excess <= 0

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        files = []
        for path in self.folder.iterdir():
            if re.fullmatch(r"[0-9a-f]{64}-.*\.tar(\.\d+\.part)?", path.name):
                with contextlib.suppress(FileNotFoundError):  # removed by another process
                    files.append((path, path.stat()))
        return files


def _whole(part: Path) -> Path:
    return part.with_name(re.sub(r"\.\d+\.part$", "", part.name))


def _is_abandoned(part: Path) -> bool:
    # Who downloads holds the lock, and the system takes it from the dead. A process number would
    # tell less: another machine that shares the folder counts its own.
    try:
        with filelock.FileLock(f"{_whole(part)}.lock", timeout=0):
            return True
    except filelock.Timeout:
        return False


def _check_size(found: int | None, expected: int | None) -> None:
    if found is not None and expected is not None and found != expected:
        what = f"it has {found} bytes or more, but {expected} were expected"
        raise RemoteError(what, "upload shards and index of one set together", again=False)
