"""Same arguments, same bytes: whatever the processes, and whatever interrupted the run."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from worldmodel.data.index import read_index
from worldmodel.data.shards import read_members, read_metadata, scan_shard, write_shard
from worldmodel.data.truth import decode_truth
from worldmodel.data.video import open_video
from worldmodel.errors import InputError
from worldmodel.world.blocks import HIDDEN_KINDS
from worldmodel.world.generate import CLIPS_PER_SHARD, UNFINISHED_NAME, generate, plan_shards
from worldmodel.world.open_blocks import KINDS
from worldmodel.world.samples import Task, draw_kind, make_sample
from worldmodel.world.style import Mix

ARGUMENTS = {"num_clips": 5, "num_blocks": 1, "size": 16, "seed": 4}


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    generate(folder, **ARGUMENTS, processes=1)
    return folder


def test_layout(world):
    index = read_index(world)
    counts = {(s["split"], s["kind"]): s["num_samples"] for s in index["shards"]}
    assert counts == {
        ("train", "clips"): 5,
        ("val", "clips"): 1,
        ("test", "clips"): 1,
        ("val", "blocks"): len(KINDS),
        ("test", "blocks"): len(KINDS),
        ("ood", "blocks"): len(KINDS),
    }
    assert not (world / UNFINISHED_NAME).exists()
    assert index["arguments"]["num_clips"] == 5 and "processes" not in index["arguments"]


def test_clips_hold_what_they_promise(world):
    for shard in sorted(world.glob("*/clips-*.tar")):
        for ref in scan_shard(shard):
            metadata = read_metadata(ref)
            members = read_members(ref)
            truths = {"depth.png", "ids.png", "state.npz"}
            assert set(members) == {"mp4", "mp4.packets", "json"} | truths
            video, truth = open_video(members["mp4"]), decode_truth(members)
            assert (video.num_frames, video.width, video.height) == (64, 16, 16)
            assert video.fps == metadata["fps"] == 16
            assert truth.ids.shape == (64, 16, 16) and (truth.depth > 0).all()
            assert metadata["split"] == shard.parent.name
            assert ref.key.startswith(metadata["split"])
            if metadata["kind"] == "free":
                assert truth.state["tracked"] == -1
            else:
                assert metadata["kind"] in KINDS
                assert metadata["present"] == bool(truth.state["present"][0])
                start, stop = metadata["hidden_frames"]
                assert 0 <= start <= stop <= 64
                assert (truth.state["visible_fraction"][start:stop, 0] == 0).all()
            for name, array in truth.state.items():
                assert array.dtype == np.float32 and np.isfinite(array).all(), name


def test_other_processes_same_bytes(world, tmp_path):
    generate(tmp_path / "again", **ARGUMENTS, processes=3)
    assert hashes(tmp_path / "again") == hashes(world)


@pytest.mark.slow
def test_on_ray_the_same_bytes(world, tmp_path):
    pytest.importorskip("ray")
    generate(tmp_path / "ray", **ARGUMENTS, processes=2, engine="ray")
    assert hashes(tmp_path / "ray") == hashes(world)


def die(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_an_error_that_names_its_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.world.generate.make_sample", die)
    with pytest.raises(InputError, match=r"that made train-000000 died \(SIGKILL\); the shards"):
        generate(tmp_path / "out", **ARGUMENTS, processes=2)


def test_a_run_that_is_killed_goes_on_with_the_same_bytes(world, tmp_path):
    """Killed for good as soon as the first shard is there."""
    out = tmp_path / "killed"
    command = (
        "from pathlib import Path; from worldmodel.world.generate import generate; "
        f"generate(Path({str(out)!r}), **{ARGUMENTS!r}, processes=1)"
    )
    run = subprocess.Popen([sys.executable, "-c", command], start_new_session=True)
    while run.poll() is None and not list(out.glob("*/*.tar")):
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert (out / UNFINISHED_NAME).exists() and not (out / "index.json").exists()
    for left in ("train/clips-000000.tar.1.part", "index.json.1.part"):
        (out / left).write_bytes(b"left by a killed run")
    generate(out, **ARGUMENTS, processes=1)
    assert hashes(out) == hashes(world)


def test_nothing_is_done_the_second_time(world, capsys):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    generate(world, **ARGUMENTS)
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


def test_a_shard_that_was_lost_is_made_again(world, tmp_path):
    wanted = hashes(world)
    lost = world / "val" / "clips-000000.tar"
    lost.unlink()
    generate(world, **ARGUMENTS, processes=1)
    assert hashes(world) == wanted


def test_other_arguments_are_refused(world, tmp_path):
    with pytest.raises(InputError, match=r"made with seed 4, but now asked for with seed 5"):
        generate(world, **(ARGUMENTS | {"seed": 5}))
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / UNFINISHED_NAME).write_text(json.dumps({"num_clips": 7}))
    with pytest.raises(InputError, match="num_clips 7"):
        generate(unfinished, **ARGUMENTS)


def test_two_at_once_into_one_folder_are_refused(tmp_path, monkeypatch):
    from worldmodel.world import generate as module

    def twice(path, members):
        with pytest.raises(InputError, match=r"another process writes a set into .*out; wait for"):
            generate(tmp_path / "out", **ARGUMENTS, processes=1)
        return write_shard(path, members)

    monkeypatch.setattr(module, "make_sample", lambda task: {"json": b'{"rejected": {}}'})
    monkeypatch.setattr(module, "write_shard", twice)
    generate(tmp_path / "out", **ARGUMENTS, processes=1)
    generate(tmp_path / "out", **ARGUMENTS, processes=1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("index.json", "{", "index.json cannot be read as JSON: .*; copy it again, or remove"),
        ("index.json", "7", "index.json is no index of a set"),
        ("index.json", {"arguments": 7}, "made with source unknown, .*choose another folder"),
        ("index.json", {"shards": [7]}, "for a shard it has 7, with no path or no bytes; copy"),
        ("index.json", {"shards": [{"path": 7}]}, "for a shard it has {'path': 7}, with no path"),
        (UNFINISHED_NAME, "{", "unfinished.json, of an unfinished run, cannot be read .*; choose"),
        (UNFINISHED_NAME, "[]", "made with source unknown, .*choose another folder"),
    ],
)
def test_an_index_or_note_that_is_none_is_named(world, tmp_path, name, text, message):
    if isinstance(text, dict):
        text = json.dumps(read_index(world) | text)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        generate(tmp_path, **ARGUMENTS)


def test_shards_of_others_are_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "clips-000000.tar").write_bytes(b"mine")
    with pytest.raises(InputError, match="did not make"):
        generate(tmp_path, **ARGUMENTS)
    assert (tmp_path / "train" / "clips-000000.tar").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_clips", 0),
        ("num_clips", -3),
        ("num_blocks", -1),
        ("size", 15),
        ("size", 8),
        ("seed", -1),
        ("processes", 0),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, name, value):
    with pytest.raises(InputError, match=rf"{name} must be .*got {value}"):
        generate(tmp_path / "out", **(ARGUMENTS | {name: value}))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file/world"):
        generate(tmp_path / "file" / "world", **ARGUMENTS)


def test_splits_and_streams_share_no_chance():
    draws = {
        tuple(Task(0, split, stream, index, 64).generator(attempt).integers(0, 2**63, 2))
        for split in ("train", "val", "test", "ood")
        for stream in ("clip", *KINDS)
        for index in range(5)
        for attempt in range(3)
    }
    assert len(draws) == 4 * (1 + len(KINDS)) * 5 * 3


def test_a_sample_depends_on_its_task_alone():
    task = Task(9, "train", "clip", 3, 16)
    assert make_sample(task) == make_sample(task)
    assert make_sample(task) != make_sample(Task(9, "val", "clip", 3, 16))


def test_plan_counts(tmp_path):
    plans = plan_shards(tmp_path, num_clips=700, num_blocks=20, size=64, seed=0)
    tasks = [task for plan in plans for task in plan.tasks]
    assert len({task.key for task in tasks}) == len(tasks)
    clips = [task for task in tasks if task.stream == "clip"]
    assert len(clips) == 840 and len(tasks) - len(clips) == 360
    assert max(len(plan.tasks) for plan in plans) == CLIPS_PER_SHARD


def test_kinds_that_are_left_out_are_not_seen_in_training_and_nothing_else_changes():
    left_out = ("reveal", "support", "gravity")

    def kinds(split: str, **more: object) -> list[str]:
        tasks = [Task(3, split, "clip", index, 16, **more) for index in range(400)]
        return [draw_kind(task.generator(0), task) for task in tasks]

    assert set(kinds("train")) == {"free", *KINDS}
    for split in ("train", "val"):
        assert set(kinds(split, leave_out=left_out)) == {"free", *KINDS} - set(left_out)
    assert kinds("test", leave_out=left_out) == kinds("test"), "what is tested stays the same"
    assert set(kinds("train", leave_out=tuple(KINDS))) == {"free"}
    one = Task(3, "test", "reveal", 0, 16)
    assert make_sample(one) == make_sample(Task(3, "test", "reveal", 0, 16, leave_out=left_out))


def test_shares_of_events_are_those_of_the_mix():
    def share(mix: Mix, kinds: set[str]) -> float:
        tasks = [Task(3, "train", "clip", index, 16, mix) for index in range(1000)]
        return float(np.mean([draw_kind(task.generator(0), task) in kinds for task in tasks]))

    assert share(Mix(event=0.0), {"free"}) == 1
    assert abs(share(Mix(event=0.6, open_event=0.5), set(HIDDEN_KINDS)) - 0.3) < 0.05
    assert abs(share(Mix(), {"free"}) - (1 - Mix().event)) < 0.05


def test_an_unknown_kind_to_leave_out_is_named(tmp_path):
    with pytest.raises(InputError, match="no kind levitation; the kinds are reveal, permanence"):
        generate(tmp_path / "out", **ARGUMENTS, leave_out=["levitation"])


def test_rejected_scenes_are_counted(world):
    rejected = [read_metadata(ref)["rejected"] for shard in sorted(world.glob("*/blocks-*.tar"))
                for ref in scan_shard(shard)]  # fmt: skip
    assert all(isinstance(count, int) and count > 0 for each in rejected for count in each.values())
    assert len(rejected) == 3 * len(KINDS)


def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path):
    """A limit on the size of files stands for a full disk: the second shard does not fit."""
    out = tmp_path / "full"
    arguments = ARGUMENTS | {"num_clips": 1, "num_blocks": 1}
    command = (
        "import resource; from pathlib import Path; "
        "from worldmodel.errors import InputError; from worldmodel.world.generate import generate\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        f"try: generate(Path({str(out)!r}), **{arguments!r}, processes=1)\n"
        "except InputError as error: print('told:', error)"
    )
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert "told:" in run.stdout and "cannot write" in run.stdout, run.stderr[-500:]
    kept = list(out.glob("*/*.tar"))
    assert kept and not list(out.glob("*/blocks*.tar"))
    before = {path: path.read_bytes() for path in kept}
    generate(out, **arguments, processes=1)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert read_index(out)["shards"]
