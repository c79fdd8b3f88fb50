"""Verifying names whatever is wrong with a set, and nothing that is right."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from patterns import clip_members, moving_pattern

from worldmodel.cli import main
from worldmodel.clips import Truth
from worldmodel.data import verify
from worldmodel.data.encode import encode_video
from worldmodel.data.index import write_index
from worldmodel.data.packets import UNREFERENCED, PacketIndex, with_packets
from worldmodel.data.quarantine import Broken
from worldmodel.data.shards import scan_shard, write_shard
from worldmodel.data.truth import encode_truth
from worldmodel.data.verify import VerifyReport, verify_shards
from worldmodel.errors import InputError

Sample = tuple[str, dict[str, bytes]]


def truth_of(num_frames: int = 20, size: int = 32) -> dict[str, bytes]:
    depth = np.full((num_frames, size, size), 2.5, np.float32)
    state = {"camera_pose": np.zeros((num_frames, 3, 4), np.float32)}
    return encode_truth(Truth(depth, np.zeros(depth.shape, np.uint8), state))


def sample(key: str, **changes: bytes | None) -> Sample:
    """A clip with index and truth; `changes` replace members, dots written as underscores."""
    members = clip_members(phase=float(len(key)))
    members |= with_packets(members["mp4"]) | truth_of()
    for name, content in changes.items():
        members.pop(name.replace("_", "."), None)
        if content is not None:
            members[name.replace("_", ".")] = content
    return key, members


def block(key: str) -> Sample:
    worlds = {
        f"{world}.{name}": content
        for world in "ab"
        for name, content in {
            **with_packets(encode_video(moving_pattern(16), 16.0, lossless=True)),
            **truth_of(16),
        }.items()
    }
    return key, {**worlds, "json": b'{"kind": "reveal", "num_frames": 16, "width": 32}'}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A whole set of four samples and a block."""
    root = tmp_path / "set"
    write_shard(root / "train" / "clips-000000.tar", [sample("a"), sample("bb")])
    write_shard(root / "train" / "clips-000001.tar", [sample("ccc")])
    write_shard(root / "val" / "clips-000000.tar", [sample("d")])
    write_shard(root / "test" / "blocks-000000.tar", [block("e")])
    write_index(root, {"seed": 0})
    return root


def run(*shards: Path | str) -> VerifyReport:
    return verify_shards([str(each) for each in shards], processes=0, quiet=True)


def reasons(report: VerifyReport) -> list[tuple[str, str | None, str]]:
    return [(Path(item.shard).name, item.key, item.reason) for item in report.broken]


def test_verify__a_whole_set_is_good(root: Path) -> None:
    report = run(root)
    assert (report.broken, report.warnings) == ((), ())
    assert report.summary() == "5 samples in 4 shards: all good"
    assert report.num_bytes == sum(path.stat().st_size for path in root.rglob("*.tar"))
    assert run(root / "train").summary() == "3 samples in 2 shards: all good"
    assert (
        run(root / "train" / "*.tar", root / "val").summary() == "4 samples in 3 shards: all good"
    )
    assert run(f"{root}/train/clips-00000{{0..1}}.tar").num_shards == 2


def test_verify__holds_shards_against_their_index(root: Path) -> None:
    first, second = sorted((root / "train").iterdir())
    content = bytearray(first.read_bytes())
    content[scan_shard(first)[0].members["mp4"][0] + 30] ^= 1  # in the header of the video's file
    first.write_bytes(content)
    second.write_bytes(second.read_bytes() + bytes(512))
    (root / "val" / "clips-000000.tar").unlink()
    write_shard(root / "val" / "more.tar", [sample("x")])
    report = run(root)
    found = {name: reason for name, key, reason in reasons(report) if key is None}
    assert found.keys() == {first.name, second.name}
    assert "its SHA-256 is" in str(report.broken)
    assert "bytes but its index says" in found[second.name]
    assert "the index names it, but it is missing" in str(report.broken)
    assert report.warnings == (
        f"warning: {root / 'val' / 'more.tar'} is not in the index of its set",
    )
    assert "3 broken shards of" in report.summary()
    # A glob asks for what it would match.
    assert "is missing" in str(run(root / "val" / "*.tar").broken)
    assert run(root / "val" / "more.tar").broken == ()


def test_verify__says_where_there_is_no_index(root: Path) -> None:
    (root / "index.json").unlink()
    report = run(root)
    assert report.broken == ()
    assert report.warnings == (
        f"warning: {root} has no index.json: only the contents of its shards are verified",
    )


@pytest.mark.parametrize(
    ("folder", "shards"),
    [
        (".", ["."]),
        ("train", ["."]),
        ("train", ["clips-000001.tar", "clips-000000.tar"]),
        ("train", ["*.tar"]),
        ("val", ["../train", "../train/clips-000000.tar"]),
    ],
)
def test_verify__finds_the_index_from_within_a_set(
    root: Path, folder: str, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "train" / "clips-000001.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    monkeypatch.chdir(root / folder)
    report = run(*shards)
    assert report.warnings == ()
    (broken,) = report.broken
    assert "bytes but its index says" in broken.reason
    assert broken.shard == os.path.relpath(path)
    assert report.num_shards == (4 if folder == "." else 2)


def test_verify__what_is_missing_is_noticed_from_within_a_set(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "train" / "clips-000000.tar").unlink()
    odd = root.rename(root.with_name("set [1]"))
    monkeypatch.chdir(odd / "train")
    for pattern in (".", "*.tar", "clips-00000{0,1}.tar"):
        (broken,) = run(pattern).broken
        assert str(broken) == "clips-000000.tar: the index names it, but it is missing"


def test_verify__a_file_whose_name_has_braces_is_that_file(tmp_path: Path) -> None:
    for name in ("a{b.tar", "a{b,c}.tar"):
        write_shard(tmp_path / name, [sample("a")])
        assert run(tmp_path / name).summary() == "1 samples in 1 shards: all good"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        (json.dumps({"format_version": 99, "shards": []}), "format version 99"),
        (json.dumps({"format_version": 1, "shards": [{"path": "../../x.tar"}]}), "no shard"),
        (json.dumps({"format_version": 1, "shards": [{"path": "/etc/x.tar"}]}), "no shard"),
        (json.dumps({"format_version": 1, "shards": [{"path": "../x.tar"}]}), "no shard"),
        (json.dumps({"format_version": 1, "shards": [{"path": "a/b\0.tar"}]}), "no shard"),
        (json.dumps({"format_version": 1, "shards": [7]}), "no shard"),
    ],
)
def test_verify__names_an_index_that_is_none(root: Path, text: str, message: str) -> None:
    (root / "index.json").write_text(text)
    report = run(root)
    assert [name for name, *_ in reasons(report)] == ["index.json"]
    assert message in report.broken[0].reason


def test_verify__names_numbers_of_samples_that_are_wrong(root: Path) -> None:
    index = json.loads((root / "index.json").read_text())
    index["shards"][0] |= {"num_samples": 9, "sha256": None, "bytes": "many"}
    (root / "index.json").write_text(json.dumps(index))
    found = [reason for *_, reason in reasons(run(root))]
    assert any("it has 2 samples but its index says 9" in reason for reason in found)
    assert any("bytes but its index says many" in reason for reason in found)


def test_verify__names_lengths_that_are_wrong(root: Path) -> None:
    index = json.loads((root / "index.json").read_text())
    index["shards"][0]["num_frames"] = 64
    (root / "index.json").write_text(json.dumps(index))
    (found,) = [reason for *_, reason in reasons(run(root))]
    assert "its samples have num_frames 20 but its index says 64" in found


def damaged(content: bytes, place: float) -> bytes:
    at = int(len(content) * place)
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


def wrong_flags(content: bytes) -> bytes:
    """An index that says of every picture but keyframes that no other needs it."""
    index = PacketIndex.from_bytes(content)
    return replace(index, flags=index.flags | UNREFERENCED * (index.flags == 0)).to_bytes()


GOOD = sample("good")[1]
OTHER = clip_members(phase=9.0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (sample("bad", json=b"{"), "json: .*is not JSON"),
        (sample("bad", json=b'{"num_frames": 21}'), "num_frames 20 but its json says 21"),
        (sample("bad", json=b'{"width": 64}'), "width 32 but its json says 64"),
        (sample("bad", mp4=None), "it has no video; it has depth.png"),
        (sample("bad", mp4=None), "it has mp4.packets but no mp4"),
        (sample("bad", mp4=b""), "mp4: .*is empty"),
        (sample("bad", mp4=GOOD["mp4"][:1500]), "mp4: .*cannot be decoded"),
        (sample("bad", mp4=damaged(GOOD["mp4"], 0.3)), "mp4: .*"),
        (sample("bad", mp4=OTHER["mp4"]), "altered|speaks of"),
        (sample("bad", mp4_packets=with_packets(OTHER["mp4"])["mp4.packets"]), "altered|speaks of"),
        (sample("bad", mp4_packets=damaged(GOOD["mp4.packets"], 0.5)), "index has been altered"),
        (sample("bad", mp4_packets=b""), "packet index is none"),
        (
            sample("bad", mp4_packets=wrong_flags(sample("bad")[1]["mp4.packets"])),
            "is damaged|gives another picture than sequential decoding",
        ),
        (sample("bad", ids_png=None), "no member ids.png"),
        (sample("bad", state_npz=b"x"), "state.npz is no archive"),
        (sample("bad", **{"state_npz": truth_of(19)["state.npz"]}), "19 frames but the video 20"),
        (sample("bad", depth_png=truth_of(20, 16)["depth.png"]), "claims 16 x 320 pixels"),
        (("bad", {**block("e")[1], "b.mp4": b"x"}), "b.mp4: "),
        (("bad", {"a.mp4": GOOD["mp4"]}), "lacks the video of one of its worlds"),
        (("bad", {"txt": b"hello"}), "it has no video; it has txt"),
    ],
)
def test_verify__names_what_is_broken_and_nothing_else(
    tmp_path: Path, broken: Sample, message: str
) -> None:
    write_shard(tmp_path / "s.tar", [sample("a"), broken, sample("z")])
    report = run(tmp_path / "s.tar")
    found = reasons(report)
    assert {key for _, key, _ in found} == {"bad"}
    text = "\n".join(reason for *_, reason in found)
    assert re.search(message, text), text
    assert report.summary() == ("1 broken sample of 3 samples in 1 shards; copy or make them again")


def test_verify__leaves_other_peoples_samples_alone(tmp_path: Path) -> None:
    members = {**clip_members(), "depth.png": b"theirs", "txt": b"a dog", "cls": b"3"}
    write_shard(tmp_path / "s.tar", [("a", members), ("b", {"mp4": OTHER["mp4"]})])
    assert run(tmp_path / "s.tar").broken == ()


def test_verify__several_processes_find_the_same(root: Path) -> None:
    write_shard(root / "train" / "clips-000001.tar", [sample("ccc", mp4=b"x"), sample("f")])
    alone = run(root)
    assert len(alone.broken) == 3
    together = verify_shards([str(root)], processes=2, quiet=True)
    assert together == alone == run(root)


def crash_on_bad(job: verify._Job) -> list[Broken]:
    """Stands for a C library that takes its process down."""
    if any(ref.key == "bad" for ref in job.refs):
        os._exit(11)
    return verify._run(job)


def test_verify__a_crash_costs_one_sample(tmp_path: Path) -> None:
    samples = [sample("a"), sample("bad"), sample("c", mp4=b"x")]
    write_shard(tmp_path / "s.tar", samples)
    plan = verify._Plan([str(tmp_path / "s.tar")])
    found = [item for _, items in verify._results(plan.jobs, 1, crash_on_bad) for item in items]
    assert [item.key for item in found] == ["bad", "c"]
    assert "its decoder crashed" in found[0].reason


def test_verify__ctrl_c_ends_it_in_a_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(job: verify._Job) -> list[Broken]:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "_run", interrupt)
    with pytest.raises(SystemExit, match="130"):
        main(["verify", str(root), "--processes", "0"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "worldmodel: interrupted; what was found broken so far stands above"


def sleep_but_for_the_first(job: verify._Job) -> list[Broken]:
    time.sleep(60 * (job.shard != "0"))
    return []


def test_verify__interrupted_it_waits_for_no_process() -> None:
    jobs = [verify._Job(str(number)) for number in range(3)]
    began = time.monotonic()
    with contextlib.closing(verify._results(jobs, 1, sleep_but_for_the_first)) as results:
        next(results)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGINT)  # as Ctrl-C does; it does not hear it
        time.sleep(0.2)
        assert worker.is_alive()
    assert not worker.is_alive()
    assert time.monotonic() - began < 50


def test_verify__a_name_cannot_steer_the_terminal() -> None:
    text = str(Broken("s.tar", "\x1b[2J\nx\udcff", "no\r\nsuch"))
    assert text.isprintable() and "\\x1b[2J" in text
    assert len(str(Broken("s.tar", "k" * 10**6, ""))) < 2000


def test_verify__command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(root), "--processes", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 samples in 4 shards: all good"
    write_shard(root / "val" / "clips-000000.tar", [sample("d", mp4=b"x")])
    assert main(["verify", str(root), "--processes", "0"]) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("worldmodel: error: ")]
    assert errors == [
        "worldmodel: error: 1 broken sample and 1 broken shard of 5 samples in 4 shards; "
        "copy or make them again"
    ]
    lines = [line for line in printed.out.splitlines() if line.startswith("broken: ")]
    assert len(lines) == 2 and all("clips-000000.tar" in line for line in lines)
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("shards", "message"),
    [(["none.tar"], r"no shards match 'none\.tar'"), (["pipe:cat x.tar"], "would run a command")],
)
def test_verify__names_what_it_cannot_use(shards: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        verify_shards(shards, processes=0, quiet=True)
    with pytest.raises(InputError, match="at least 1, got -1"):
        verify_shards(shards, processes=-1, quiet=True)
