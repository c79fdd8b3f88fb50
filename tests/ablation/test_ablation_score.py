"""What is measured of a run: everything tables read, on a set nobody learned from."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from worldmodel.ablation.score import (
    EFFORT,
    TEST_EVENT_CLIPS,
    TEST_FREE_CLIPS,
    development_data,
    main,
    score,
    spectra,
)
from worldmodel.errors import InputError
from worldmodel.evaluation.footage import find_samples
from worldmodel.evaluation.measure import Effort, Run, choose_blocks, measure
from worldmodel.evaluation.passes import Pace
from worldmodel.evaluation.readings import all_measures
from worldmodel.models.checkpoint import load_model


@pytest.fixture(scope="module")
def found(square_checkpoint: Path, square_set: Path) -> dict[str, Any]:
    return score(square_checkpoint, square_set, square_set)


def test_everything_that_tables_read_is_measured(found: dict[str, Any]) -> None:
    missing = [each.name for each in all_measures(2) if each.read(found) is None]
    # A square is seen whole or not at all, and its set has blocks of two kinds.
    kinds = ("constancy", "continuity", "solidity", "support")
    others = [f"surprise, {kind}, relative accuracy" for kind in kinds]
    assert missing == ["position, partly, r2", *others]
    intervals = [each for each in all_measures(2)[6:] if each.name not in missing]
    readings = {each.name: each.read(found) for each in intervals}
    assert all(reading.low is not None for reading in readings.values())
    assert all(reading.null is not None for reading in readings.values())
    json.dumps(found, allow_nan=False)


def test_less_is_measured_than_in_a_report(found: dict[str, Any]) -> None:
    surprise = found["sections"]["surprise"]
    assert surprise["overall"]["null"]["untrained"]["num_networks"] == EFFORT.num_untrained
    assert surprise["overall"]["context_frames"] == 0
    assert "surprise_by_context" not in found["sections"]
    assert "surprise_ood" not in found["sections"]


def test_scores_are_those_of_the_development_sets_training_clips(
    found: dict[str, Any], square_set: Path
) -> None:
    # 24 training clips; 3 test clips would be what must stay unseen.
    assert found["sections"]["depth"]["num_clips"] == 24
    assert found["spectrum"]["level0"]["num_clips"] == 24
    data = development_data(square_set, square_set, EFFORT)
    keys = {split: {ref.key.split("-")[0] for ref in refs} for split, refs in data.clips.items()}
    assert keys == {"train": {"train"}, "val": {"val"}, "test": {"train"}}
    assert {split: len(refs) for split, refs in data.blocks.items()} == {"val": 4, "test": 6}


def test_so_few_clips_are_chosen_as_asked(square_set: Path) -> None:
    few = replace(EFFORT, event_clips=4, val_clips=3, kinds=("reveal",))
    data = development_data(square_set, square_set, few)
    assert [len(data.clips[split]) for split in ("train", "val", "test")] == [4, 3, 24]
    assert [len(data.blocks[split]) for split in ("val", "test")] == [2, 3]
    assert (TEST_EVENT_CLIPS, TEST_FREE_CLIPS) == (120, 20)
    blocks = find_samples(square_set, "test", "blocks")
    assert choose_blocks(blocks, Effort()) == blocks


def test_depth_can_be_left_out(square_checkpoint: Path, square_set: Path) -> None:
    effort = replace(EFFORT, event_clips=6, num_untrained=1, depth=False)
    data = development_data(square_set, square_set, effort)
    run = Run(torch.device("cpu"), Pace(0, quiet=True), effort=effort)
    sections, shown = measure(load_model(square_checkpoint), data, run)
    assert "depth" not in sections and "position" in sections
    assert len(shown.depth.frames) == 0


def test_spectra_say_how_long_a_step_is_and_are_the_same_in_any_process(
    square_checkpoint: Path, square_set: Path, found: dict[str, Any]
) -> None:
    model, clips = load_model(square_checkpoint), find_samples(square_set, "train", "clips")
    again = spectra(model, clips, Run(torch.device("cpu"), Pace(2, quiet=True)))
    assert again == found["spectrum"]
    assert [again[f"level{level}"]["step_seconds"] for level in range(2)] == [0.125, 0.25]
    assert [again[f"level{level}"]["num_steps"] for level in range(2)] == [16, 8]


def test_the_command_says_in_a_line_what_it_cannot_use(
    tmp_path: Path, square_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--base", str(square_set), "--development", str(square_set)]
    file = tmp_path / "found.json"
    assert main([str(tmp_path / "none.ckpt"), *sets, "--out", str(file)]) == 2
    assert "worldmodel: error: there is no checkpoint at" in capsys.readouterr().err
    assert not file.exists()


def test_a_set_without_blocks_is_refused(square_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no train/clips"):
        score(square_checkpoint, tmp_path, tmp_path)


@pytest.mark.slow
def test_the_command_writes_what_was_found(
    square_checkpoint: Path, square_set: Path, found: dict[str, Any], tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "worldmodel.ablation.score", str(square_checkpoint)),
        *("--base", str(square_set), "--development", str(square_set)),
        *("--out", str(tmp_path / "found.json")),
    ]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120)
    assert json.loads((tmp_path / "found.json").read_text()) == found
