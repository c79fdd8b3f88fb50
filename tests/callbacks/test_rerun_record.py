"""A recording of a run: what is in it, that it is off by default, and that it changes nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from square_world import write_squares
from viewer_stand_in import Stream, put_in_place

from worldmodel.callbacks import RerunRecord, rerun_record
from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.evaluation.videos import rerun_file
from worldmodel.runs import RUN_FOLDER
from worldmodel.task import WorldModelTask

SMALL = str(Path(__file__).parents[1] / "conf" / "small.yaml")


@pytest.fixture(autouse=True)
def fresh_process_state(monkeypatch):
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["worldmodel"])


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("squares")
    write_squares(root, {"train": 8, "val": 20}, {})
    return f"{root}/train/*.tar"


@pytest.fixture
def viewer(monkeypatch) -> type[Stream]:
    return put_in_place(monkeypatch, rerun_file, rerun_record)


def fit(shards: str, root: Path, *more: str) -> int:
    args = ("--data.shards", shards, "--trainer.default_root_dir", str(root))
    often = ("--rerun.every_n_steps", "4", "--rerun.max_share", "1")
    return main(["fit", "--config", SMALL, *args, *often, "--pictures.every_n_steps", "0", *more])


def shown_at(stream: Stream, name: str, step: int) -> Any:
    """What was last shown under a name at a step."""
    pairs = zip(stream.moments[name], stream.logged[name], strict=True)
    return [what for at, (_, what) in pairs if at["step"] == step][-1]


@pytest.fixture
def whatever_it_costs(monkeypatch):
    monkeypatch.setattr(RerunRecord, "_in_time", lambda self: True)


def test_recording__from_the_first_step_to_the_last(squares, tmp_path, viewer, whatever_it_costs):
    assert fit(squares, tmp_path, "--rerun.record", "true") == 0
    (stream,) = viewer.opened
    assert Path(stream.path) == tmp_path / "runs" / "small" / "version_0" / "training.rrd"
    assert stream.closed
    expected = {"video", "video/truth", "depth/true", "depth/read", "video/belief/visible"}
    expected |= {f"tokens/level{level}" for level in range(3)}
    expected |= {"surprise/level1/h2", "copy/level1/h2", "strips/tokens", "strips/depth"}
    assert expected <= stream.logged.keys()
    video = stream.moments["video"]
    assert [each["step"] for each in video] == [0] * 12 + [4] * 12 + [6] * 12
    assert [each["video"] for each in video[:12]] == [frame / 8 for frame in range(12)]
    # Clip after clip on the timeline that is to be played.
    assert [each["training"] for each in video] == pytest.approx([n / 8 for n in range(36)])
    scores = stream.moments["scores/depth_rmse_m"]
    assert [(each["step"], each["training"]) for each in scores] == [(0, 0), (4, 1.5), (6, 3)]
    assert all("video" not in each for each in scores)
    assert len(stream.logged["about"]) == 1 and stream.moments["about"] == [{}]
    limits = {shown.depth_range for _, shown in stream.logged["depth/read"]}
    assert len(limits) == 1  # one scale at every step


def test_recording__the_training_is_the_same_to_the_bit(
    squares, tmp_path, viewer, whatever_it_costs
):
    assert fit(squares, tmp_path / "with", "--rerun.record", "true") == 0
    assert fit(squares, tmp_path / "without") == 0
    assert len(viewer.opened) == 1
    one, two = (
        torch.load(next((tmp_path / name).rglob("last.ckpt")), weights_only=True)
        for name in ("with", "without")
    )
    assert one["state_dict"].keys() == two["state_dict"].keys()
    assert all(torch.equal(one["state_dict"][k], two["state_dict"][k]) for k in two["state_dict"])
    assert torch.equal(one["rng_state"]["torch"], two["rng_state"]["torch"])
    states = one["optimizer_states"][0]["state"], two["optimizer_states"][0]["state"]
    assert all(torch.equal(states[0][k]["exp_avg"], states[1][k]["exp_avg"]) for k in states[1])


def test_recording__goes_on_in_a_new_file_of_the_same_recording(
    squares, tmp_path, viewer, whatever_it_costs, monkeypatch
):
    args = ("--rerun.record", "true", "--checkpoint.every_n_train_steps", "4")

    def power_cut(self, *_):
        if self.global_step == 5:
            raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(WorldModelTask, "on_train_batch_end", power_cut)
        with pytest.raises(OSError, match="power cut"):
            fit(squares, tmp_path, *args)
    monkeypatch.delenv(RUN_FOLDER)
    assert viewer.opened[0].closed
    assert fit(squares, tmp_path, *args, "--ckpt_path", "last") == 0
    first, second = viewer.opened
    assert [Path(each.path).name for each in (first, second)] == [
        "training.rrd",
        "training-000004.rrd",
    ]
    assert first.id == second.id
    starts = [[each for each in s.moments["video"] if each["video"] == 0] for s in (first, second)]
    assert [each["step"] for each in starts[0]] == [0, 4]
    assert [each["step"] for each in starts[1]] == [4, 6]
    # The checkpoint of step 4 was written with that step's look in it, or before it.
    assert starts[1][1]["training"] == starts[1][0]["training"] + 1.5 > starts[0][0]["training"]
    # Without a change of weights in between the colours are the same.
    last, again = (shown_at(each, "strips/tokens", 4) for each in (first, second))
    assert (last == again).all()


def test_recording__real_videos_have_no_depth_and_that_is_said_once(
    shards, tmp_path, viewer, whatever_it_costs, capsys
):
    assert fit(f"{shards}/*.tar", tmp_path, "--rerun.record", "true") == 0
    (stream,) = viewer.opened
    assert {"video", "tokens/level0", "surprise/level0/h1"} <= stream.logged.keys()
    assert not any(name.startswith(("depth", "video/")) for name in stream.logged)
    assert capsys.readouterr().out.count("without depth and belief: the first validation clip") == 1


def test_recording__what_goes_wrong_is_told_once_and_ends_nothing(
    shards, tmp_path, viewer, whatever_it_costs, monkeypatch
):
    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Stream, "flush", broken)
    with pytest.warns(UserWarning, match="no more recording of this run: OSError"):
        assert fit(f"{shards}/*.tar", tmp_path, "--rerun.record", "true") == 0
    assert next(tmp_path.rglob("last.ckpt")).is_file()


def test_recording__off_by_default_and_imports_nothing(tmp_path):
    program = (
        "import sys\nfrom worldmodel.callbacks import RerunRecord\n"
        "assert not RerunRecord().record and RerunRecord().state_dict() == {}\n"
        "sys.exit('rerun' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_recording__a_missing_package_is_said_in_one_line(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert fit(f"{shards}/*.tar", tmp_path, "--rerun.record", "true") == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error" in each]
    assert "pip install 'worldmodel[rerun]'" in line
    with pytest.raises(InputError, match=r"rerun\.every_n_steps"):
        RerunRecord(every_n_steps=-1)


def test_recording__no_file_is_written_over(tmp_path):
    for name in ("training.rrd", "training-000400.rrd", "training-000400_2.rrd"):
        (tmp_path / name).touch()
    assert rerun_record.free_path(tmp_path, 0).name == "training_2.rrd"
    assert rerun_record.free_path(tmp_path, 400).name == "training-000400_3.rrd"
    assert rerun_record.free_path(tmp_path, 500).name == "training-000500.rrd"


def test_recording__real_files_are_one_recording_where_the_package_is_there(
    squares, tmp_path, whatever_it_costs
):
    pytest.importorskip("rerun")
    from rerun.chunk import RrdReader

    assert fit(squares, tmp_path, "--rerun.record", "true") == 0
    more = ("--trainer.max_steps", "8", "--ckpt_path", "last")
    assert fit(squares, tmp_path, "--rerun.record", "true", *more) == 0
    rows: dict[str, list[dict[str, int]]] = {}
    ids = set()
    for path in sorted(tmp_path.rglob("*.rrd")):
        reader = RrdReader(path)
        ids |= {entry.recording_id for entry in reader.recordings()}
        assert len(reader.blueprints()) == 1
        count: dict[str, int] = {}
        for chunk in reader.stream():
            if not chunk.entity_path.startswith("/__"):
                count[chunk.entity_path] = count.get(chunk.entity_path, 0) + chunk.num_rows
                timelines = set(chunk.timeline_names)
                assert chunk.is_static or {"step", "training"} <= timelines
        rows[path.name] = [count]
    assert len(ids) == 1 and set(rows) == {"training.rrd", "training-000006.rrd"}
    for (count,), looks in ((rows["training.rrd"], 3), (rows["training-000006.rrd"], 2)):
        assert count["/video"] == count["/depth/true"] == count["/depth/read"] == 12 * looks
        assert count["/tokens/level2"] == 3 * looks and count["/about"] == 1
        assert count["/strips/tokens"] == count["/scores/depth_rmse_m"] == looks
        assert count["/surprise/level0/h2"] == count["/copy/level0/h2"] == 10 * looks
