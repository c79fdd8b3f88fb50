import errno
import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
from servers import BadServer, serve, serve_s3

from worldmodel.data import remote, stores
from worldmodel.data.remote import ShardCache, is_url, list_remote, read_remote_index
from worldmodel.errors import InputError

TAR = bytes(range(256)) * 40
SHA256 = hashlib.sha256(TAR).hexdigest()
# What the tests hold of a set: names alone, the tars need not be any.
SHARDS = [
    {"path": f"{split}/{kind}-00000{i}.tar", "split": split, "kind": kind, "bytes": len(TAR)}
    for split, kind in (("train", "clips"), ("val", "clips"), ("val", "blocks"))
    for i in range(2)
]
INDEX = json.dumps({"format_version": 1, "arguments": {}, "shards": SHARDS}).encode()
FORK = multiprocessing.get_context("fork")

needs_s3 = pytest.mark.skipif(
    not (find_spec("moto") and find_spec("s3fs") and find_spec("flask_cors")),
    reason="needs s3fs, moto[s3], flask and flask-cors",
)


@pytest.fixture(scope="module")
def running() -> Iterator[BadServer]:
    with serve({}) as server:
        yield server


@pytest.fixture
def server(running: BadServer) -> BadServer:
    """The server with nothing asked of it yet, and `x.tar` and a set in `set/`."""
    running.files.clear()
    running.files.update({f"{name}.tar": TAR for name in "abcdx"})
    running.files["set/index.json"] = INDEX
    running.requests.clear()
    return running


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    tars = {f"bucket/set/{shard['path']}": TAR for shard in SHARDS}
    plain = {"bucket/plain/0.tar": TAR, "bucket/plain/more/1.tar": TAR, "bucket/plain/a.txt": b""}
    with serve_s3({"bucket/set/index.json": INDEX, **tars, **plain}) as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(remote, "_RECENT_SECONDS", 0.0)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    stores._file_system.cache_clear()


@pytest.fixture
def use_s3(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's file system in this process' memory, which is read only here."""
    monkeypatch.setitem(stores.SCHEMES, "memory", "fsspec")
    files = fsspec.filesystem("memory")
    files.pipe({f"/m/{shard['path']}": TAR for shard in SHARDS})
    yield files
    files.rm("/m", recursive=True)


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "cache", timeout_seconds=5.0, retries=2)


def kept(cache: ShardCache) -> list[str]:
    """People's part of the names of all files that take room."""
    names = [name for name in os.listdir(cache.folder) if not name.endswith(".lock")]
    return sorted(name[65:] if name[64:65] == "-" else name for name in names)


def start(function: Callable[..., object], *args: object) -> "multiprocessing.process.BaseProcess":
    # Or the child would collect file systems that earlier tests dropped, a second for each, since
    # their connections belong to a thread that only this process has.
    gc.collect()
    process = FORK.Process(target=function, args=args)
    process.start()
    return process


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("s3://bucket/x.tar", True),
        ("https://host/x.tar", True),
        ("HTTP://host/x.tar", True),
        ("file:///etc/passwd", True),
        ("simplecache::s3://bucket/x.tar", True),
        ("pipe:cat s3://bucket/x.tar", False),
        ("pipe://x", False),
        ("folder/x.tar", False),
        ("folder/s3://x.tar", False),
        ("", False),
    ],
)
def test_is_url__is_about_the_form_alone(name: str, answer: bool) -> None:
    assert is_url(name) == answer


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "local:///etc/passwd",
        "pipe:cat /etc/passwd",
        "simplecache::s3://bucket/x.tar",
        "zip://x.tar::s3://bucket/x.zip",
        "s3://bucket/x.tar::file:///etc/passwd",
        "reference://x",
        "memory://m/x.tar",
        "HTTPS://host/x.tar",
        "https:///x.tar",
        "s3://",
        "x.tar",
    ],
)
def test_fetch__refuses_other_schemes_and_chains(cache: ShardCache, url: str) -> None:
    for refuse in (cache.fetch, list_remote):
        with pytest.raises(InputError, match=r"cannot be read: only s3://, gs://, .*chained"):
            refuse(url)
    assert not cache.folder.exists()


def test_list_remote__one_tar_is_itself_and_not_asked_for(server: BadServer) -> None:
    for url in (f"{server.url}/plain/x.tar", f"{server.url}/plain/x.tar?Signature=a*b"):
        assert list_remote(url) == [url]
    assert not server.requests


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("set", ["train/clips-000000.tar", "train/clips-000001.tar"]),
        ("set/train/", ["train/clips-000000.tar", "train/clips-000001.tar"]),
        ("set/val/blocks-*.tar", ["val/blocks-000000.tar", "val/blocks-000001.tar"]),
        ("set/*/*-000001.tar", [f"{s['path']}" for s in SHARDS if "1" in str(s["path"])]),
        ("set/**/clips-000000.tar", ["train/clips-000000.tar", "val/clips-000000.tar"]),
    ],
)
def test_list_remote__the_index_lists_for_the_web(
    server: BadServer, pattern: str, found: list[str]
) -> None:
    root = f"{server.url}/plain/set"
    urls = list_remote(f"{server.url}/plain/{pattern}")
    assert urls == sorted(f"{root}/{name}" for name in found)


def test_list_remote__says_why_nothing_matches(server: BadServer) -> None:
    base = f"{server.url}/plain"
    with pytest.raises(InputError, match=r"no shards match http.*set/train/no-\*\.tar"):
        list_remote(f"{base}/set/train/no-*.tar")
    with pytest.raises(InputError, match=r"no shards match http.*set/test"):
        list_remote(f"{base}/set/test")
    with pytest.raises(
        InputError, match=r"only the index .*none/index\.json.*not there.*name the tars"
    ):
        list_remote(f"{base}/none/train/*.tar")
    with pytest.raises(InputError, match=r"is no tar.*none/index\.json.*plain/index\.json"):
        list_remote(f"{base}/none")


def test_list_remote__does_not_trust_the_index(server: BadServer) -> None:
    for path in ("../up.tar", "a/../../up.tar", "file:///etc/x.tar", "/a/b.tar", "a/b?.tar", 7):
        shards = [{"path": path}]
        server.files["set/index.json"] = json.dumps(
            {"format_version": 1, "shards": shards}
        ).encode()
        with pytest.raises(InputError, match=r"set/index\.json names a shard .*SPLIT/NAME\.tar"):
            list_remote(f"{server.url}/plain/set")


def test_read_remote_index__names_the_url_and_not_where_it_was_put(server: BadServer) -> None:
    root = f"{server.url}/plain/set"
    assert read_remote_index(f"{root}/")["shards"] == SHARDS
    server.files["set/index.json"] = b"<html>"
    with pytest.raises(InputError, match=f"^{root}/index.json cannot be read as JSON"):
        read_remote_index(root)
    server.files["set/index.json"] = b'{"format_version": 99, "shards": []}'
    with pytest.raises(InputError, match=f"^{root}/index.json is of format version 99"):
        read_remote_index(root)


def test_read_remote_index__stops_at_what_is_no_index(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MAX_INDEX_BYTES", 100)
    with pytest.raises(InputError, match="it has over 100 bytes"):
        read_remote_index(f"{server.url}/plain/set")


def test_list_remote__stores_that_list_need_no_index(memory: fsspec.AbstractFileSystem) -> None:
    assert list_remote("memory://m/train/clips-00000?.tar") == [
        "memory://m/train/clips-000000.tar",
        "memory://m/train/clips-000001.tar",
    ]
    assert list_remote("memory://m/**/*.tar") == sorted(f"memory://m/{s['path']}" for s in SHARDS)
    assert list_remote("memory://m/train") == list_remote("memory://m/train/*.tar")
    with pytest.raises(InputError, match=r"no shards match memory://m/\*"):
        list_remote("memory://m/*")  # folders are no shards


def test_list_remote__names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, cache: ShardCache
) -> None:
    def missing(scheme: str) -> type:
        raise ImportError("Install it")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(InputError, match="s3:// needs the package s3fs: run 'pip install s3fs'"):
        list_remote("s3://bucket/*.tar")
    with pytest.raises(InputError, match="gs:// needs the package gcsfs"):
        cache.fetch("gs://bucket/x.tar")


def test_fetch__unknown_host_and_closed_port(
    cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1/x\.tar cannot .*onnect.*\(3 tries in"):
        cache.fetch("http://127.0.0.1:1/x.tar")

    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match=r"http://nowhere/x\.tar .*host is unknown \(3 tries"):
        cache.fetch("http://nowhere/x.tar")


@pytest.mark.parametrize("manner", ["plain", "chunked"])
def test_fetch__downloads_once_and_checks(
    server: BadServer, cache: ShardCache, manner: str
) -> None:
    url = f"{server.url}/{manner}/x.tar"
    path = cache.fetch(url, len(TAR), SHA256)
    assert path.read_bytes() == TAR
    assert path.parent == cache.folder and path.name.endswith("-x.tar")
    assert pickle.loads(pickle.dumps(cache)).fetch(url, len(TAR), SHA256) == path
    assert server.requests == {f"/{manner}/x.tar": 1}
    assert cache.fetch(url).read_bytes() == TAR  # without a hash it is another promise
    assert kept(cache) == ["x.tar", "x.tar"]


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_fetch__any_size(server: BadServer, cache: ShardCache, size: int) -> None:
    server.files["x.tar"] = os.urandom(size)
    for manner in ("plain", "chunked"):
        path = cache.fetch(f"{server.url}/{manner}/x.tar")
        assert path.read_bytes() == server.files["x.tar"]


@pytest.mark.parametrize(
    "name", ["..%2f..%2fup.tar", "..%00.tar", "a" * 300, "x.lock", "x.1.part", "%20;$(x)'.tar", ""]
)
def test_fetch__a_copy_stays_within_the_folder(
    server: BadServer, cache: ShardCache, name: str
) -> None:
    path = cache.fetch(f"{server.url}/any/{name}")
    assert path.read_bytes() == TAR
    assert path.parent == cache.folder
    assert re.fullmatch(r"[0-9a-f]{64}-[\w-]*\.tar", path.name)
    assert os.listdir(cache.folder.parent) == ["cache"]


def test_fetch__tries_again_after_failures_that_pass(server: BadServer, cache: ShardCache) -> None:
    assert cache.fetch(f"{server.url}/flaky/x.tar").read_bytes() == TAR
    assert server.requests["/flaky/x.tar"] == 3


@pytest.mark.parametrize(
    ("manner", "size", "words", "num_requests"),
    [
        ("plain/no.tar", None, r"it is not there \(1 try in .*check the spelling", 1),
        ("denied/x.tar", None, r"access was denied \(1 try in .*check that it is public", 1),
        ("failing/x.tar", None, r"the server answered 500 \(3 tries in .*try later", 3),
        ("cut/x.tar", None, r"the connection was cut \(3 tries", 3),
        ("long/x.tar", None, r"the connection was cut \(3 tries", 3),
        ("short/x.tar", len(TAR), r"it has 10140 bytes.* 10240 were expected \(1 try", 1),
        ("plain/x.tar", 10239, r"it has 10240 bytes.* 10239 were expected \(1 try", 1),
        ("chunked/x.tar", 10241, r"cut after 10240 of 10241 bytes \(3 tries", 3),
        ("chunked/x.tar", 10239, r"10239 were expected \(1 try", 1),
        ("garbage/x.tar", None, r"what it answers is not HTTP \(3 tries", 3),
        ("redirect/x.tar", None, "file:///etc/hostname", 3),
    ],
)
def test_fetch__names_what_a_server_did(
    server: BadServer,
    cache: ShardCache,
    manner: str,
    size: int | None,
    words: str,
    num_requests: int,
) -> None:
    with pytest.raises(InputError, match=f"/{manner} cannot be read: .*{words}"):
        cache.fetch(f"{server.url}/{manner}", size)
    assert server.requests[f"/{manner}"] == num_requests
    assert kept(cache) == []


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("silent", r"nothing came for 0\.3 s \(2 tries in"),
        ("stall", r"nothing came for 0\.3 s \(2 tries in"),
        ("drip", r"sent only \d+ bytes in .* \(2 tries in"),
    ],
)
def test_fetch__does_not_wait_for_ever(
    server: BadServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    manner: str,
    words: str,
) -> None:
    cache = ShardCache(tmp_path / "cache", timeout_seconds=0.3, retries=1)
    server.files["x.tar"] = TAR[:100]
    started = time.monotonic()
    with pytest.raises(InputError, match=words):
        cache.fetch(f"{server.url}/{manner}/x.tar")
    assert time.monotonic() - started < 2.0
    assert kept(cache) == []


def test_fetch__waits_no_longer_for_a_file_system_without_limits(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "glob"):
        monkeypatch.setattr(type(memory), name, lambda *args, **kwargs: time.sleep(3))
    cache = ShardCache(tmp_path / "cache", timeout_seconds=0.1, retries=1)
    with pytest.raises(InputError, match=r"nothing came for 0\.1 s \(2 tries in"):
        cache.fetch("memory://m/train/clips-000000.tar")
    with pytest.raises(InputError, match=r"nothing came for 1 s \(1 try in"):
        list_remote("memory://m/*", timeout_seconds=0.1, retries=0)


def test_fetch__names_both_hashes(server: BadServer, cache: ShardCache) -> None:
    other = "0" * 64
    with pytest.raises(InputError, match=f"SHA-256 is {SHA256}, the set's index says {other}"):
        cache.fetch(f"{server.url}/plain/x.tar", len(TAR), other)
    assert kept(cache) == []


def test_fetch__keeps_signatures_and_passwords_out_of_errors(
    server: BadServer, cache: ShardCache
) -> None:
    host = server.url.removeprefix("http://")
    for manner in ("denied", "failing", "redirect", "cut", "plain/no"):
        with pytest.raises(InputError) as caught:
            cache.fetch(f"http://me:secret@{host}/{manner}/x.tar?Signature=secret")
        assert "secret" not in str(caught.value)
        assert f"/{manner}/x.tar?..." in str(caught.value)


def test_fetch__an_altered_file_is_fetched_again(server: BadServer, cache: ShardCache) -> None:
    url = f"{server.url}/plain/x.tar"
    path = cache.fetch(url, len(TAR), SHA256)
    path.write_bytes(TAR[:-1])
    assert cache.fetch(url, len(TAR), SHA256).read_bytes() == TAR
    assert server.requests["/plain/x.tar"] == 2


def test_fetch__removes_the_least_recently_fetched(server: BadServer, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", max_bytes=3 * len(TAR))
    cache.folder.mkdir()
    (cache.folder / "mine.tar").write_bytes(bytes(10 * len(TAR)))
    paths = {name: cache.fetch(f"{server.url}/plain/{name}.tar") for name in "abc"}
    for age, name in enumerate("cba"):
        os.utime(paths[name], (0, time.time() - 100 - age))
    cache.fetch(f"{server.url}/plain/a.tar")  # the oldest becomes the newest
    with paths["b"].open("rb") as opened:
        cache.fetch(f"{server.url}/plain/d.tar")
        assert kept(cache) == ["a.tar", "c.tar", "d.tar", "mine.tar"]
        assert opened.read() == TAR  # whoever has it open can read on
    cache.max_bytes = len(TAR)
    cache.fetch(f"{server.url}/plain/b.tar")
    assert kept(cache) == ["b.tar", "mine.tar"]


def test_fetch__what_was_just_fetched_is_spared_while_it_can_be(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_RECENT_SECONDS", 0.4)
    cache = ShardCache(tmp_path / "cache", max_bytes=len(TAR))
    started = time.time()
    cache.fetch(f"{server.url}/plain/a.tar")
    cache.fetch(f"{server.url}/plain/b.tar")
    assert 0.4 <= time.time() - started < 2.0
    monkeypatch.setattr(remote, "_RECENT_SECONDS", 1000.0)
    cache.timeout_seconds = 0.3
    cache.fetch(f"{server.url}/plain/c.tar")
    assert kept(cache) == ["c.tar"]


def test_fetch__refuses_what_is_larger_than_the_cache(server: BadServer, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", max_bytes=len(TAR), timeout_seconds=0.5)
    cache.fetch(f"{server.url}/plain/a.tar")
    server.files["x.tar"] = bytes(len(TAR) + 1)
    for manner, size in (("plain", None), ("plain", len(TAR) + 1), ("chunked", None)):
        with pytest.raises(
            InputError,
            match=r"x\.tar of \d+ bytes does not fit in the cache .*limited to 10240 bytes",
        ):
            cache.fetch(f"{server.url}/{manner}/x.tar", size)
    assert kept(cache) in (["a.tar"], [])


def test_fetch__a_cache_that_cannot_be_written_to(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"in the cache .*file/x: .*set WORLDMODEL_CACHE"):
        ShardCache(tmp_path / "file" / "x").fetch(f"{server.url}/plain/x.tar")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path / "cache"))
    cache = ShardCache()
    assert cache.folder == tmp_path / "cache"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device; set WORLDMODEL_CACHE"):
        cache.fetch(f"{server.url}/plain/x.tar")
    assert kept(cache) == []


def test_fetch__processes_and_threads_share_one_download(
    server: BadServer, cache: ShardCache
) -> None:
    url = f"{server.url}/slow/x.tar"
    cache.fetch(f"{server.url}/plain/a.tar")  # so that connections and their thread are there
    processes = [start(cache.fetch, url, len(TAR)) for _ in range(3)]
    threads = [threading.Thread(target=cache.fetch, args=(url, len(TAR))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for one in (*threads, *processes):
        one.join(10)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert server.requests["/slow/x.tar"] == 1
    assert kept(cache) == ["a.tar", "x.tar"]
    assert cache.fetch(url).read_bytes() == TAR


def test_fetch__threads_fetch_different_files_within_the_limit(
    server: BadServer, tmp_path: Path
) -> None:
    cache = ShardCache(tmp_path / "cache", max_bytes=2 * len(TAR))
    most = 0
    urls = [f"{server.url}/slow/{name}.tar" for name in "abcd"]
    threads = [threading.Thread(target=cache.fetch, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, sum(stat.st_size for _, stat in cache._files()))
        time.sleep(0.005)
    assert sum(server.requests.values()) == 4
    assert most == 2 * len(TAR)
    assert len(kept(cache)) == 2


def test_fetch__a_killed_process_leaves_nothing_that_hinders(
    server: BadServer, tmp_path: Path
) -> None:
    cache = ShardCache(tmp_path / "cache", max_bytes=2 * len(TAR), timeout_seconds=3.0)
    urls = [f"{server.url}/hiccup/{name}.tar" for name in "ab"]
    processes = [start(cache.fetch, url) for url in urls]
    wait_for(lambda: cache.folder.exists() and len(kept(cache)) == 2)
    for process in processes:
        process.kill()
        process.join()
    assert [name.rpartition(".")[2] for name in kept(cache)] == ["part", "part"]
    started = time.monotonic()
    assert cache.fetch(urls[0]).read_bytes() == TAR
    assert kept(cache) == ["a.tar"]  # making room has also removed what was left of the other
    assert time.monotonic() - started < 1.0


def test_fetch__a_stopped_process_is_named_in_the_end(server: BadServer, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", timeout_seconds=0.2, retries=0)
    patient = ShardCache(tmp_path / "cache", timeout_seconds=10.0)
    process = start(patient.fetch, f"{server.url}/stall/x.tar")
    try:
        wait_for(lambda: cache.folder.exists() and kept(cache))
        os.kill(process.pid or 0, signal.SIGSTOP)
        with pytest.raises(InputError, match=r"another process has been fetching .*end it"):
            cache.fetch(f"{server.url}/stall/x.tar")
    finally:
        process.kill()
        process.join()


@needs_s3
@pytest.mark.usefixtures("use_s3")
def test_list_remote__s3(cache: ShardCache) -> None:
    train = [f"s3://bucket/set/train/clips-00000{i}.tar" for i in range(2)]
    for pattern in ("set", "set/train", "set/train/*.tar", "set/t*/clips-00000?.tar"):
        assert list_remote(f"s3://bucket/{pattern}") == train
    assert list_remote("s3://bucket/plain") == ["s3://bucket/plain/0.tar"]
    assert len(list_remote("s3://bucket/plain/**/*.tar")) == 2
    for pattern in ("none-*.tar", "none", "set/test"):
        with pytest.raises(InputError, match="no shards match s3://bucket/"):
            list_remote(f"s3://bucket/{pattern}")


@needs_s3
@pytest.mark.usefixtures("use_s3")
def test_fetch__s3(cache: ShardCache, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "s3://bucket/set/train/clips-000000.tar"
    monkeypatch.setattr(stores, "_CHUNK_BYTES", 3000)
    assert cache.fetch(url, len(TAR), SHA256).read_bytes() == TAR
    process = start(cache.fetch, url)  # connections do not cross the fork
    process.join(10)
    assert process.exitcode == 0
    assert len(kept(cache)) == 2
    for missing in ("s3://bucket/no.tar", "s3://none/no.tar"):
        with pytest.raises(InputError, match=rf"{missing} cannot be read: it is not there \(1 try"):
            cache.fetch(missing)


@needs_s3
@pytest.mark.usefixtures("use_s3")
def test_fetch__s3_without_credentials(cache: ShardCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match=r"no credentials were found .*set AWS_ACCESS_KEY_ID"):
        cache.fetch("s3://bucket/plain/0.tar")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    stores._file_system.cache_clear()
    assert cache.fetch("s3://bucket/plain/0.tar").read_bytes() == TAR


@needs_s3
@pytest.mark.usefixtures("use_s3")
def test_fetch__s3_that_fails(
    server: BadServer, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["bucket/x.tar"] = TAR
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{server.url}/denied")
    with pytest.raises(InputError, match=r"access was denied .*AWS_ACCESS_KEY_ID"):
        cache.fetch("s3://bucket/x.tar")
    cache.timeout_seconds, cache.retries = 1.0, 1
    for endpoint in (f"{server.url}/silent", "http://127.0.0.1:1"):
        stores._file_system.cache_clear()
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(InputError, match=r"x\.tar cannot be read: .* \(2 tries"):
            cache.fetch("s3://bucket/x.tar")
