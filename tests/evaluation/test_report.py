"""The whole report: complete, finite, and the same to the bit however it is read."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from square_world import write_squares

from worldmodel.errors import InputError
from worldmodel.evaluation import report as room
from worldmodel.evaluation.footage import find_samples
from worldmodel.evaluation.probes.stored import read_probes
from worldmodel.evaluation.report import evaluate, evenly, finite, write_report
from worldmodel.evaluation.tables import summary_table
from worldmodel.models.checkpoint import load_model
from worldmodel.models.hub_files import PROBES


@pytest.fixture(scope="module")
def written(squares: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    evaluate(checkpoint, out, squares)
    return out


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report whose numbers and words are asked for: drawing it takes as long as they do."""
    monkeypatch.setattr(room, "write_pictures", lambda *_: None)


def load(folder: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"the report holds {constant}")

    return json.loads((folder / "report.json").read_text(), parse_constant=refuse)


def test_report_has_every_section_and_key(written: Path) -> None:
    report = load(written)
    sections = {"meta", "card", "collapse", "prediction", "depth", "position", "position_ahead"}
    sections |= {"velocity", "camera_motion", "category", "animacy", "support", "contact"}
    sections |= {"permanence", "surprise", "surprise_by_level", "surprise_by_context"}
    assert sections | {"surprise_combined"} <= set(report)
    assert {"effective_rank", "rank_fraction", "min_std"} <= set(report["collapse"]["level1"])
    ratios = {"copy_ratio", "running_mean_ratio", "ar1_ratio", "skill_ratio", "horizon_frames"}
    assert ratios | {"error"} <= set(report["prediction"]["level1"]["h2"])
    assert report["prediction"]["level1"]["h2"]["horizon_frames"] == 4
    depth = {"rmse_m", "abs_rel", "sq_rel", "rmse_log", "log10", "silog", "delta1", "delta3"}
    assert depth | {"num_clips", "level", "objects", "conv", "by_level"} <= set(report["depth"])
    assert set(report["depth"]["null"]) == {"untrained", "pixels", "mean"}
    for part in ("visible", "hidden"):
        section = report["position"][part]
        assert {"r2", "mae_px", "num_frames", "level", "ci95_r2", "mlp"} <= set(section)
        nulls = {"untrained", "copy_last_seen", "constant_velocity", "clock"}
        assert set(section["null"]) == nulls
        assert all({"r2", "mae_px"} == set(null) for null in section["null"].values())
    # A square is seen whole or not at all.
    assert "absent" in report["position"]["partly"]
    assert {"r2", "level", "null"} <= set(report["velocity"])
    assert {"accuracy", "auroc", "level", "num_steps", "null"} <= set(report["permanence"])
    assert set(report["surprise"]) == {"reveal", "permanence", "overall"}
    for section in report["surprise"].values():
        keys = {"relative_accuracy", "ci95", "auroc", "num_blocks", "level", "horizon", "null"}
        assert keys | {"pair_accuracy", "p_value", "peak", "by_hiding"} <= set(section)
        assert set(section["null"]) == {"untrained", "copy", "pixels_short", "pixels_long"}
        assert section["null"]["untrained"]["num_networks"] == 10
        assert section["null"]["pixels_short"] == section["null"]["copy"] == 0.5
    meta = report["meta"]
    assert meta["data"]["split"] == "test"
    assert (meta["data"]["num_clips"], meta["data"]["num_blocks"]) == (11, 6)
    assert {"version", "git_commit", "packages", "checkpoint_sha256", "config"} <= set(meta)


def test_truth_of_the_squares_is_read_right(written: Path) -> None:
    """The square moves at constant velocity in a straight line: that null must be exact."""
    position = load(written)["position"]
    assert position["hidden"]["null"]["constant_velocity"]["r2"] == pytest.approx(1, abs=1e-6)
    assert position["visible"]["null"]["constant_velocity"]["mae_px"] < 0.2
    # Six test clips have a square; it is hidden for six frames, every second of which is asked.
    assert position["hidden"]["num_frames"] == 6 * 3


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("batch_size", "num_workers"), [(3, 1), (40, 0)])
def test_report_is_the_same_to_the_bit_with_another_batch_size_and_workers(
    squares: Path,
    checkpoint: Path,
    written: Path,
    tmp_path: Path,
    batch_size: int,
    num_workers: int,
) -> None:
    evaluate(checkpoint, tmp_path, squares, batch_size=batch_size, num_workers=num_workers)
    first, second = load(written), load(tmp_path)
    del first["meta"], second["meta"]
    assert first == second
    assert (written / PROBES).read_bytes() == (tmp_path / PROBES).read_bytes()


def test_the_probes_of_the_headlines_are_stored(
    written: Path, probed: Path, checkpoint: Path
) -> None:
    # However little else is measured.
    assert (written / PROBES).read_bytes() == (probed / PROBES).read_bytes()
    probes = read_probes(written / PROBES, load_model(checkpoint))
    report = load(written)
    assert probes.depth is not None and probes.depth.rmse_m == report["depth"]["rmse_m"]
    scored = {part: s["level"] for part, s in report["position"].items() if "r2" in s}
    assert {part: each.level for part, each in probes.position.items()} == scored


@pytest.mark.usefixtures("undrawn")
def test_another_checkpoint_is_measured_beside_on_the_same_clips(
    squares: Path, checkpoint: Path, written: Path, tmp_path: Path
) -> None:
    report = evaluate(checkpoint, tmp_path, squares, beside=[checkpoint])
    (other,) = report["beside"].values()
    alone = load(written)
    assert other["meta"]["checkpoint_sha256"] == alone["meta"]["checkpoint_sha256"]
    assert finite(other["position"]) == alone["position"]
    assert other["surprise"]["overall"]["auroc"] == alone["surprise"]["overall"]["auroc"]
    assert "Beside other models" in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_kinds_that_training_left_out_are_marked(
    squares: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = room.load_model(checkpoint)
    loaded.config["data"] = {"left_out": ["reveal"]}
    monkeypatch.setattr(room, "load_model", lambda path: loaded)
    surprise = evaluate(checkpoint, tmp_path, squares)["surprise"]
    assert surprise["reveal"]["left_out"] is True
    assert "left_out" not in surprise["permanence"]
    assert "reveal (left out of training)" in (tmp_path / "report.md").read_text()


def test_pictures_and_text_are_written(written: Path) -> None:
    pictures = {path.stem: path.stat().st_size for path in (written / "figures").glob("*.png")}
    assert set(pictures) == {
        "report_card",
        "loss_curves",
        "prediction_ratios",
        "depth_strip",
        "hidden_position",
        "surprise_block",
        "surprise_kinds",
        *(["position_ahead"] if load(written)["position_ahead"] else []),
    }
    assert min(pictures.values()) > 4096
    text = (written / "report.md").read_text()
    assert set(re.findall(r"\(figures/(\w+)\.png\)", text)) == set(pictures)
    for title in (
        "Prediction",
        "Depth",
        "Position, hidden",
        "Violation of expectation",
        "Protocol",
    ):
        assert f"## {title}" in text
    assert "surprise, overall" in summary_table(load(written))


def test_pictures_that_were_not_drawn_are_not_linked(written: Path, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "depth_strip.png").touch()
    write_report(tmp_path, load(written))
    text = (tmp_path / "report.md").read_text().split("## Pictures")[1]
    assert re.findall(r"figures/(\w+)", text) == ["depth_strip"]


def test_a_missing_checkpoint_is_named(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint at .*missing\.ckpt"):
        evaluate(tmp_path / "missing.ckpt", tmp_path / "out", squares)
    assert not (tmp_path / "out").exists()


def test_a_set_without_blocks_is_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    root = tmp_path / "plain"
    write_squares(root, {"train": 1, "val": 1, "test": 1}, {})
    with pytest.raises(InputError, match=r"plain has no val/blocks-\*\.tar"):
        evaluate(checkpoint, tmp_path / "out", root)


def test_a_folder_without_an_index_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"index\.json"):
        evaluate(checkpoint, tmp_path / "out", tmp_path)


def test_shards_that_the_index_does_not_describe_are_named(
    squares: Path, checkpoint: Path, tmp_path: Path
) -> None:
    root = tmp_path / "squares"
    shutil.copytree(squares, root)
    shard, other = root / "test" / "clips-000000.tar", root / "test" / "clips-000001.tar"
    content = shard.read_bytes()
    middle = find_samples(root, "test", "clips")[0].members["mp4"][0]
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for path, written, reason in (
        (shard, changed, r"test/clips-000000\.tar has the SHA-256 \w{12}…, not \w{12}…; make or"),
        (shard, content + bytes(10240), r"test/clips-000000\.tar has \d+ bytes, not \d+;"),
        (other, content, r"test/clips-000001\.tar is not in it;"),
    ):
        path.write_bytes(written)
        with pytest.raises(InputError, match=rf"is not the set that its index\.json .*: {reason}"):
            evaluate(checkpoint, tmp_path / "out", root)
        path.write_bytes(content)
    shard.rename(other)
    with pytest.raises(InputError, match=r"test/clips-000000\.tar is missing;"):
        evaluate(checkpoint, tmp_path / "out", root)


def test_videos_shorter_than_the_models_clips_are_refused(
    squares: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = room.load_model(checkpoint)
    longer = type(loaded.clip)(num_frames=32, fps=8.0, size=16)
    object.__setattr__(loaded, "clip", longer)
    monkeypatch.setattr(room, "load_model", lambda path: loaded)
    with pytest.raises(InputError, match=r"clips of 32 frames at 8 fps.*has 16"):
        evaluate(checkpoint, tmp_path, squares)


def test_what_would_fail_after_all_was_measured_fails_before(
    squares: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "measure", lambda *_: pytest.fail("it has been measured"))
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=rf"cannot write to {out}: "):
            evaluate(checkpoint, out, squares)
    loaded = room.load_model(checkpoint)
    longer = replace(loaded, clip=replace(loaded.clip, num_frames=32))
    monkeypatch.setattr(room, "load_model", lambda path: longer if path == "long" else loaded)
    with pytest.raises(InputError, match=r"long cannot be measured beside: .*32 frames .* has 16"):
        evaluate(checkpoint, tmp_path / "out", squares, beside=["long"])
    assert not (tmp_path / "out").exists()


def test_the_default_set_is_generated_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, squares: Path
) -> None:
    from worldmodel.world import generate

    made = []

    def fake(root: Path, **arguments: object) -> None:
        made.append(arguments)
        shutil.copytree(squares, root)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "generate", fake)
    assert room.find_set(None) == Path("data/physics")
    assert made == [{"num_clips": 2000, "num_blocks": 20, "size": 64, "seed": 0}]
    room.find_set(None)
    assert len(made) == 1


def test_a_number_that_is_not_finite_is_no_report() -> None:
    with pytest.raises(ValueError, match=r"report\.a\[1\]\.b is nan"):
        finite({"a": [0.0, {"b": math.nan}]})


def test_evenly_takes_what_there_is_or_spreads_over_it() -> None:
    assert evenly([1, 2, 3], 5) == [1, 2, 3]
    assert evenly(list(range(10)), 4) == [0, 2, 5, 7]
