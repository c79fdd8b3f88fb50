"""Object stores and web servers: open and list what is there, and never wait for too long.

Whatever a server does, no call hangs: each read is awaited for `timeout_seconds`, a download must
keep up `MIN_BYTES_PER_SECOND`, and tries are counted. Keys and endpoints come from where each
store's own tools look (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`),
and anything else from fsspec's configuration (`FSSPEC_S3_ANON=true`, `~/.config/fsspec/*.json`).
"""

import contextlib
import functools
import os
import queue
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import fsspec

from worldmodel.errors import InputError

SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "https": "aiohttp", "http": "aiohttp"}
"""Schemes that are read, each with the package it needs; no other ever is, `file` least of all."""

MIN_BYTES_PER_SECOND = 50_000  # else a server that sends a byte now and then would never time out

WEB = ("http", "https")  # cannot list, and a "?" begins a query
_CHUNK_BYTES = 4 << 20  # one range request to an object store
_FIRST_WAIT_SECONDS = 0.5  # before the second try; doubled for each further one
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true if it is public",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or FSSPEC_GS_TOKEN=anon if it is public",
}

T = TypeVar("T")


class RemoteError(Exception):
    """A remote call failed: what happened, what to do, and whether another try could help."""

    def __init__(self, what: str, remedy: str, again: bool = True) -> None:
        super().__init__(what)
        self.what, self.remedy, self.again = what, remedy, again


class RefusedError(InputError):
    """Nothing that can be read is there, however often one asks."""


def list_store(pattern: str, timeout_seconds: float, retries: int) -> list[str]:
    """URLs of the files that match, of a store that can list."""
    scheme = scheme_of(pattern)

    def glob() -> dict[str, dict[str, Any]]:
        files = _file_system(scheme, timeout_seconds, os.getpid())
        # A listing is many requests, each with a time limit of its own: 10 is some 10 000 names.
        found = _guard(10 * timeout_seconds, scheme, files.glob, pattern, detail=True)
        return dict(found)

    found = persist(glob, pattern, retries)
    names = [name for name, details in found.items() if details["type"] == "file"]
    return [f"{scheme}://{name.lstrip('/')}" for name in names]


def scheme_of(url: str) -> str:
    """The URL's scheme, if it is one that is read."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or rest[:1] in ("", "/") or re.search(r"::\w+(://|$)", rest):
        raise InputError(
            f"{shown(url)!r} cannot be read: only {'://, '.join(SCHEMES)}:// followed by a host "
            "or bucket are, and nothing is chained with '::'"
        )
    return scheme


def shown(url: str) -> str:
    """The URL without its signature and password, since errors end up in logs."""
    if not url.startswith(("https://", "http://")):
        return url
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", re.sub(r"\?.*", "?...", url))


@functools.cache
def _file_system(scheme: str, timeout_seconds: float, process: int) -> Any:
    # One for each process, since its connections and its thread do not survive a fork, and never
    # dropped: a child that collects its parent's waits a second for connections to close that it
    # has not. Nor does gRPC survive, over which gcsfs would first ask for each bucket's kind; who
    # has zonal buckets sets "true".
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = SCHEMES[scheme]
        raise InputError(
            f"{scheme}:// needs the package {package}: run 'pip install {package}'"
        ) from error
    options = _time_limits(scheme, timeout_seconds)
    for name, given in fsspec.config.apply_config(kind, {}).items():
        if name in options and isinstance(given, dict):
            options[name] |= given
    always = {"skip_instance_cache": True, "use_listings_cache": False}
    return _guard(timeout_seconds, scheme, kind, **always, **options)


def _time_limits(scheme: str, seconds: float) -> dict[str, Any]:
    if scheme == "s3":
        limits = {"connect_timeout": seconds, "read_timeout": seconds}
        return {"config_kwargs": {**limits, "retries": {"total_max_attempts": 1}}}
    import aiohttp  # only here: nothing local needs it

    silence = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
    if scheme in WEB:
        # Not compressed on the way, or the stated size would not be that of the file.
        headers = {"Accept-Encoding": "identity"}
        return {"client_kwargs": {"timeout": silence, "headers": headers}}
    return {"requests_timeout": silence} if scheme in ("gs", "gcs") else {}


@contextlib.contextmanager
def opened(url: str, timeout_seconds: float) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    """A remote file's size, where the server states one, and its bytes."""
    scheme = scheme_of(url)
    files = _file_system(scheme, timeout_seconds, os.getpid())
    # On the web, no blocks: one request, read as it comes, and no size asked for beforehand (any
    # size given does), which signed URLs would refuse and which hides errors behind "not found".
    options = {"block_size": 0, "size": 1} if scheme in WEB else {"cache_type": "none"}
    file = _guard(timeout_seconds, scheme, files.open, url, "rb", **options)
    try:
        yield _stated_size(file), _chunks(file, scheme, timeout_seconds)
    finally:
        with contextlib.suppress(RemoteError):
            _guard(1.0, scheme, file.close)


def _stated_size(file: Any) -> int | None:
    response = getattr(file, "r", None)  # aiohttp's, where this is a file on the web
    if response is None:
        return file.size
    return None if response.headers.get("Content-Encoding") else response.content_length


def _chunks(file: Any, scheme: str, timeout_seconds: float) -> Iterator[bytes]:
    started, num_bytes = time.monotonic(), 0
    while chunk := _guard(timeout_seconds, scheme, file.read, _CHUNK_BYTES):
        yield chunk
        num_bytes += len(chunk)
        seconds = time.monotonic() - started
        if seconds > timeout_seconds + num_bytes / MIN_BYTES_PER_SECOND:
            raise RemoteError(f"sent only {num_bytes} bytes in {seconds:.0f} s", "try later")


def _guard(seconds: float, scheme: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a file system and wait for it so long, whether or not it keeps time limits itself.

    Raises:
        RemoteError: it failed or did not answer; its thread is then left to itself.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(*args, **kwargs), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        error = TimeoutError()
    if error is not None:
        raise _explain(error, scheme, seconds) from error
    return answer  # type: ignore[return-value]


def _explain(error: BaseException, scheme: str, seconds: float) -> RemoteError:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    kinds = {type(one).__name__ for one in chain}
    status = getattr(error, "status", None) or getattr(error, "code", None)
    remedy = _CREDENTIALS.get(scheme.replace("gcs", "gs"), "check that it is public")
    if isinstance(error, FileNotFoundError):
        return RemoteError("it is not there", "check the spelling", again=False)
    what = re.sub(r"\?\S+", "?...", " ".join(f"{type(error).__name__}: {error}".split()))
    # The last is gcsfs' way of saying so.
    if isinstance(error, PermissionError) or status in (401, 403) or ": Forbidden" in what:
        return RemoteError("access was denied", remedy, again=False)
    if kinds & {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}:
        return RemoteError("no credentials were found", remedy, again=False)
    if any("Timeout" in kind for kind in kinds):
        return RemoteError(f"nothing came for {seconds:g} s", "check the network and the server")
    if any(isinstance(one, socket.gaierror) for one in chain):
        return RemoteError("its host is unknown", "check the host's name and the network")
    if "ClientPayloadError" in kinds:
        return RemoteError("the connection was cut", "try later")
    if any(type(one).__module__ == "aiohttp.http_exceptions" for one in chain):
        return RemoteError("what it answers is not HTTP", "check the URL and its port")
    if isinstance(status, int):
        again = status >= 500 or status in (408, 425, 429)
        return RemoteError(f"the server answered {status}", "try later", again)
    again = not isinstance(error, ValueError)  # a pattern or URL that the library refuses
    return RemoteError(what, "check the URL, the network and the server", again)


def persist(attempt: Callable[[], T], url: str, retries: int) -> T:
    """Try, and after a failure that may pass try again, each time after twice the wait."""
    started = time.monotonic()
    number = 1
    while True:
        try:
            return attempt()
        except RemoteError as error:
            if number > retries or not error.again:
                tries = f"{number} {'try' if number == 1 else 'tries'}"
                seconds = time.monotonic() - started
                raise (InputError if error.again else RefusedError)(
                    f"{shown(url)} cannot be read: {error.what} ({tries} in {seconds:.1f} s); "
                    f"{error.remedy}"
                ) from error
        # Uneven, so that many workers do not come back at one moment; not from the seeded numbers.
        wait = _FIRST_WAIT_SECONDS * 2 ** (number - 1)
        time.sleep(wait * random.SystemRandom().uniform(0.75, 1.25))
        number += 1
