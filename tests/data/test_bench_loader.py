import math
import sys
from pathlib import Path

import numpy as np
import pytest

from worldmodel.data.bench import PEERS, bench_loader, bench_table
from worldmodel.data.loader_bench.footage import encode_as_found, make_footage, read_stamps
from worldmodel.data.loader_bench.material import LoaderBench
from worldmodel.data.loader_bench.process import AbsentError, Subject, pythons
from worldmodel.data.video import open_video
from worldmodel.errors import InputError


def test_bench_loader__reports_every_figure_and_says_what_it_skips() -> None:
    settings = LoaderBench(
        sizes=((80, 64),),
        gops=(12,),
        num_videos=1,
        num_frames=242,
        rounds=1,
        seconds=0.001,
        size=64,
        num_samples=2,
    )
    report = bench_loader(settings, [sys.executable])
    patterns = [f"{source}-{way}" for source in ("80x64-g12", "packed") for way in WAYS]
    assert list(report["ratios"]) == patterns
    for pattern in patterns:
        assert report["clips_per_cpu_second"][pattern]["planned"] > 0
        for peer, ratio in report["ratios"][pattern].items():
            assert math.isfinite(ratio)
            low, high = report["spread"][pattern][peer]
            assert 0 < low <= ratio <= high
        missing = PEERS.keys() - report["ratios"][pattern].keys()
        assert all(report["skipped"][way] for peer in missing for way in PEERS[peer])
        assert "pyav_seek" in report["ratios"][pattern]
    assert {"planned", "pyav_raw"} <= report["sequential"]["80x64-g12"].keys()
    assert report["end_to_end"]["webdataset_pyav"] > 0
    assert {"80x64", "packed"} == report["stream"].keys()
    assert all(0 < found["efficiency"] < 100 for found in report["stream"].values())
    assert report["wrong_frames"] == {}
    assert report["versions"]["av"] and report["machine"]["cores"] >= 1
    table = bench_table(report)
    assert all(name in table for name in (*patterns, *report["skipped"]))


WAYS = ("w16s1", "w16s4", "ms")


def test_make_footage__bears_its_numbers_through_coding_and_scaling() -> None:
    frames = make_footage(80, 64, 40, seed=1)
    assert np.array_equal(frames, make_footage(80, 64, 40, seed=1))
    video = open_video(encode_as_found(frames, 12))
    assert read_stamps(video.get_frames([39, 3, 20], (64, 64))) == [39, 3, 20]
    apart = np.abs(frames[1:].astype(int) - frames[:-1]).mean()
    assert apart > 3  # there is something to decode


def test_subject__that_cannot_be_had_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = str(tmp_path / "python")
    with pytest.raises(AbsentError, match=r"python: No such file"):
        Subject("decode", "planned", str(tmp_path), [nowhere])
    with pytest.raises(AbsentError, match=r"FileNotFoundError: .*plan\.json"):
        Subject("decode", "planned", str(tmp_path), [sys.executable])
    monkeypatch.setenv("PEERS_PYTHON", nowhere)
    assert pythons() == [sys.executable]


def test_bench_loader__refuses_videos_too_short_for_its_clips() -> None:
    with pytest.raises(InputError, match="num_frames must be at least 241, got 100"):
        LoaderBench(num_frames=100)
