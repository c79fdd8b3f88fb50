import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import webdataset

from worldmodel.data import shards
from worldmodel.data.index import FORMAT_VERSION, index_sha256, read_index, write_index
from worldmodel.data.shards import (
    read_members,
    read_metadata,
    resolve_shards,
    scan_shard,
    write_shard,
)
from worldmodel.errors import InputError

SAMPLES = [
    (f"train-{i:06d}", {"mp4": bytes([i]) * 700 * i, "json": b'{"i": %d}' % i, "depth.png": b"d"})
    for i in range(5)
]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar as other people's tools write it."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_write_shard__what_is_written_is_read_by_range(tmp_path: Path) -> None:
    path = tmp_path / "train" / "clips-000000.tar"
    assert write_shard(path, SAMPLES) == 5
    refs = scan_shard(path)
    assert [(ref.key, read_members(ref)) for ref in refs] == SAMPLES
    assert read_members(refs[3], ["json"]) == {"json": b'{"i": 3}'}
    assert read_metadata(refs[3]) == {"i": 3}
    assert refs[3].video_extension == "mp4"
    assert os.listdir(path.parent) == ["clips-000000.tar"]


def test_write_shard__plain_webdataset_reads_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "clips-000000.tar", SAMPLES)
    reader = webdataset.WebDataset(str(tmp_path / "clips-000000.tar"), shardshuffle=False)
    found = [
        (sample["__key__"], {name: sample[name] for name in ("mp4", "json", "depth.png")})
        for sample in reader
    ]
    assert found == SAMPLES


def test_scan_shard__reads_what_plain_webdataset_writes(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "plain.tar")) as writer:
        for i in range(4):
            writer.write({"__key__": f"a/v{i:03d}", "mp4": b"m" * i, "cls": i})
    refs = scan_shard(tmp_path / "plain.tar")
    assert [ref.key for ref in refs] == [f"a/v{i:03d}" for i in range(4)]
    assert read_members(refs[3]) == {"mp4": b"mmm", "cls": b"3"}
    assert read_metadata(refs[3]) == {}


def test_write_shard__equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    backwards = [(key, dict(reversed(members.items()))) for key, members in SAMPLES]
    write_shard(tmp_path / "b.tar", iter(backwards))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_write_shard__leaves_nothing_where_it_fails(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES[:1])
    before = (tmp_path / "a.tar").read_bytes()
    with pytest.raises(ValueError, match="repeated"):
        write_shard(tmp_path / "a.tar", [SAMPLES[0], SAMPLES[0]])
    with pytest.raises(ValueError, match="has a dot"):
        write_shard(tmp_path / "a.tar", [("v.1", {"mp4": b""})])
    assert os.listdir(tmp_path) == ["a.tar"]
    assert (tmp_path / "a.tar").read_bytes() == before
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write shard .*file.x\.tar"):
        write_shard(tmp_path / "file" / "x.tar", SAMPLES)


def test_scan_shard__names_every_cut(tmp_path: Path) -> None:
    write_shard(tmp_path / "whole.tar", SAMPLES)
    whole = (tmp_path / "whole.tar").read_bytes()
    members = [member for ref in scan_shard(tmp_path / "whole.tar") for member in ref.members]
    end = max(
        at + size for ref in scan_shard(tmp_path / "whole.tar") for at, size in ref.members.values()
    )
    assert len(members) == 15
    for length in range(0, end, 256):  # within headers, within members and between them
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.tar (has been cut short|is no readable tar)"):
            scan_shard(tmp_path / "cut.tar")


def test_scan_shard__names_what_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tar does not exist"):
        scan_shard(tmp_path / "none.tar")
    (tmp_path / "text.tar").write_text("hello\n" * 1000)
    with pytest.raises(InputError, match=r"text\.tar is no readable tar"):
        scan_shard(tmp_path / "text.tar")
    with tarfile.open(tmp_path / "small.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.mp4"))
    with pytest.raises(InputError, match=r"small\.tar is compressed.*unpack"):
        scan_shard(tmp_path / "small.tar")
    write_tar(tmp_path / "twice.tar", [("a.mp4", b"1"), ("a.mp4", b"2")])
    with pytest.raises(InputError, match=r"twice\.tar holds 'a\.mp4' twice"):
        scan_shard(tmp_path / "twice.tar")


def test_scan_shard__passes_over_links_folders_and_names_without_key(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name, kind, target in (
            ("folder", tarfile.DIRTYPE, ""),
            ("link.mp4", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.mp4", tarfile.LNKTYPE, "x.mp4"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        for name in (".DS_Store", "._v.mp4", "./in/v.MP4", "../../up.mp4", "/root.mp4", "noext"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"ok"))
    refs = scan_shard(tmp_path / "odd.tar")
    # Names that point elsewhere are only names: nothing is ever written to where they point.
    assert [ref.key for ref in refs] == ["./in/v", "../../up", "/root"]
    assert all(read_members(ref) == {"mp4": b"ok"} for ref in refs)


def test_scan_shard__a_size_beyond_the_file_is_a_cut(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.mp4")
    info.size = 1 << 50
    (tmp_path / "big.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(InputError, match=r"big\.tar (has been cut short|is no readable tar)"):
        scan_shard(tmp_path / "big.tar")


def test_read_members__names_what_is_missing(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    ref = scan_shard(tmp_path / "a.tar")[2]
    with pytest.raises(InputError, match=r"train-000002 of .*a\.tar has no member ids\.png"):
        read_members(ref, ["mp4", "ids.png"])
    os.truncate(tmp_path / "a.tar", ref.members["mp4"][0] + 5)
    with pytest.raises(InputError, match=r"a\.tar ends within train-000002\.mp4"):
        read_members(ref, ["mp4"])
    (tmp_path / "a.tar").unlink()
    with pytest.raises(InputError, match=r"a\.tar cannot be read"):
        read_members(ref, ["mp4"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "must be a JSON object, found list"),
        (b"\xff", "is not JSON"),
    ],
)
def test_read_metadata__names_what_is_malformed(
    tmp_path: Path, content: bytes, message: str
) -> None:
    write_shard(tmp_path / "a.tar", [("v", {"json": content})])
    with pytest.raises(InputError, match=rf"v\.json of .*a\.tar {message}"):
        read_metadata(scan_shard(tmp_path / "a.tar")[0])


def test_read_metadata__reads_no_member_too_large_to_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_MAX_JSON_BYTES", 10)
    write_shard(tmp_path / "a.tar", [("v", {"json": b'{"a": "0123456789"}'})])
    with pytest.raises(InputError, match="larger than 10 bytes"):
        read_metadata(scan_shard(tmp_path / "a.tar")[0])


def test_resolve_shards__knows_globs_braces_folders_and_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"train/clips-{i:06d}.tar" for i in range(4)]
    (tmp_path / "train").mkdir()
    for name in names:
        (tmp_path / name).touch()
    paths = [tmp_path / name for name in names]
    assert resolve_shards(f"{tmp_path}/train/*.tar") == paths
    assert resolve_shards(f"{tmp_path}/**/clips-*.tar") == paths
    assert resolve_shards(f"{tmp_path}/train/clips-{{000001..000002}}.tar") == paths[1:3]
    assert resolve_shards(str(tmp_path / "train")) == paths
    assert resolve_shards(str(tmp_path)) == paths
    assert resolve_shards([str(paths[2]), f"{tmp_path}/train/*2.tar", str(paths[0])]) == [
        paths[0],
        paths[2],
    ]
    monkeypatch.chdir(tmp_path)
    assert resolve_shards("train/*1.tar") == [Path(names[1])]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none-*.tar", r"no shards match 'none-\*\.tar'"),
        ("pipe:cat x.tar", "would run a command"),
        ("https://host/x.tar", "is a URL; copy the shards"),
        ("x-{000..999999999}.tar", "more than 100000 names"),
        ([], "no shards given"),
    ],
)
def test_resolve_shards__names_what_it_cannot_use(pattern: str | list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_shards(pattern)


def make_set(root: Path) -> None:
    write_shard(root / "train" / "clips-000000.tar", SAMPLES[:3])
    write_shard(root / "train" / "clips-000001.tar", SAMPLES[3:])
    write_shard(root / "test" / "blocks-000000.tar", [("b", {"a.mp4": b"1", "b.mp4": b"2"})])


def test_write_index__says_what_is_there_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_set(tmp_path / name)
        write_index(tmp_path / name, {"seed": 0, "num_clips": 5})
    index = read_index(tmp_path / "one")
    assert index["format_version"] == FORMAT_VERSION
    assert index["arguments"] == {"num_clips": 5, "seed": 0}
    assert [
        (item["path"], item["split"], item["kind"], item["num_samples"]) for item in index["shards"]
    ] == [
        ("train/clips-000000.tar", "train", "clips", 3),
        ("train/clips-000001.tar", "train", "clips", 2),
        ("test/blocks-000000.tar", "test", "blocks", 1),
    ]
    for item in index["shards"]:
        path = tmp_path / "one" / item["path"]
        assert item["bytes"] == path.stat().st_size
        assert item["sha256"] == shards.file_sha256(path)
    assert index_sha256(tmp_path / "one") == index_sha256(tmp_path / "two")
    assert str(tmp_path) not in (tmp_path / "one" / "index.json").read_text()


def test_index__changes_with_any_byte_of_the_set(tmp_path: Path) -> None:
    make_set(tmp_path)
    write_index(tmp_path, {})
    before = index_sha256(tmp_path)
    write_shard(tmp_path / "train" / "clips-000001.tar", [("v", {"mp4": b"x"})])
    write_index(tmp_path, {})
    assert index_sha256(tmp_path) != before


def test_read_index__names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"index\.json does not exist"):
        read_index(tmp_path)
    with pytest.raises(InputError, match=r"index\.json does not exist"):
        index_sha256(tmp_path)
    for text, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "is no index of a set"),
        ('{"shards": []}', "is no index of a set"),
        (json.dumps({"format_version": 99, "shards": []}), "version 99.*update the program"),
    ):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(InputError, match=message):
            read_index(tmp_path)
