import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from worldmodel import export
from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.export import export_model, public_pattern
from worldmodel.model_card import model_card
from worldmodel.models.checkpoint import load_model, shipped_folder
from worldmodel.models.hierarchy import Hierarchy

FILES = ["README.md", "config.json", "model.safetensors"]
COMMAND = "worldmodel fit --config configs/tiny.yaml"


@pytest.fixture
def run(hierarchy, encoder_config, level_configs, tmp_path) -> Path:
    """A run's folder, as `fit` leaves it, beside the set that it learned from."""
    folder = tmp_path / "runs" / "tiny" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(1)
    hierarchy.reset_heads()
    weights = {f"hierarchy.{name}": value for name, value in hierarchy.state_dict().items()}
    torch.save(
        {
            "state_dict": weights | {"target.encoders.0.position": torch.ones(3)},
            "optimizer_states": [{"state": {0: torch.ones(5)}}],
            "global_step": 12,
            "worldmodel": {
                "version": "0.0.1",
                "encoder": asdict(encoder_config),
                "levels": [asdict(level) for level in level_configs],
                "clip": {"num_frames": 12, "fps": 8.0, "size": 32},
                "data": {"left_out": ["solidity"]},
            },
        },
        folder / "checkpoints" / "last.ckpt",
    )
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "index.json").write_text("{}\n")
    config = {
        "seed_everything": 7,
        "trainer": {"max_steps": 20, "precision": None},
        "model": {"levels": [1], "optim": {"lr": 0.001}, "moving": 0.5},
        "data": {"shards": str(tmp_path / "world" / "train" / "clips-*.tar"), "batch_size": 8},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def checkpoint(run) -> Path:
    return run / "checkpoints" / "last.ckpt"


@pytest.fixture
def report(checkpoint, tmp_path) -> Path:
    """The folder of a report with one measure and one level."""
    measure = {
        "name": "velocity",
        "metric": "r2",
        "score": 0.275,
        "interval": [0.187, 0.364],
        "chance": 0.0,
        "strongest_null": {"name": "untrained", "score": 0.114},
        "p_holm": {},
        "left_out": False,
        "verdict": "knows",
    }
    content = {
        "meta": {
            "version": "0.0.1",
            "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "data": {"split": "test", "index_sha256": "91add0d9" * 8, "num_clips": 200}
            | {"num_blocks": 180},
        },
        "card": {
            "rule": "- knows: above every null.",
            "concepts": [{"measures": [measure, {"name": "depth", "absent": "no depth"}]}],
        },
        "prediction": {
            "level0": {
                "h1": {"horizon_frames": 1, "skill_ratio": 0.5, "copy_ratio": 0.4},
                "h8": {"horizon_frames": 8, "skill_ratio": 0.906, "copy_ratio": 0.687},
            }
        },
        "collapse": {"level0": {"rank_fraction": 0.642}},
    }
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(content, indent=3))
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def change(checkpoint: Path, edit) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    edit(content)
    torch.save(content, checkpoint)
    return checkpoint


def test_export__computes_what_the_checkpoint_does_to_the_bit(checkpoint, clip, tmp_path):
    models = [load_model(checkpoint), load_model(export_model(checkpoint, tmp_path / "out"))]
    tokens = [model.network.encode(clip.frames) for model in models]
    predictions = [m.network.predict(t) for m, t in zip(models, tokens, strict=True)]
    for one, other in zip(*tokens, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(*predictions, strict=True):
        assert torch.equal(one.context, other.context)
        assert one.predicted.keys() == other.predicted.keys()
        assert all(torch.equal(one.predicted[h], other.predicted[h]) for h in one.predicted)
    assert not torch.equal(predictions[0][0].predicted[1], tokens[0][0])  # heads are not at zero
    stems = [model.network.levels[0].encoder.stem[0].weight for model in models]
    assert stems[0].stride() == stems[1].stride()  # the convolutions' own layout


def test_export__loads_as_the_same_model(checkpoint, clip, tmp_path):
    one, other = load_model(checkpoint), load_model(export_model(checkpoint, tmp_path / "out"))
    assert one.clip == other.clip and one.global_step == other.global_step == 12
    weights = tmp_path / "out" / "model.safetensors"
    assert other.file == weights
    assert other.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert load_model(weights).config == other.config  # the file itself will do
    assert other.config["data"]["left_out"] == ["solidity"]
    fresh = [model.untrained(3).encode(clip.frames)[0] for model in (one, other)]
    assert torch.equal(*fresh)
    assert not any(parameter.requires_grad for parameter in other.network.parameters())
    assert not other.network.training


def test_export__holds_the_weights_of_the_hierarchy_alone(checkpoint, hierarchy, tmp_path):
    out = export_model(checkpoint, tmp_path / "out")
    assert sorted(read(out)) == FILES
    weights = load_file(out / "model.safetensors")
    assert weights.keys() == hierarchy.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in hierarchy.state_dict().items())
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_export__same_checkpoint_same_bytes(checkpoint, report, tmp_path):
    given = {"report": report, "command": COMMAND, "licence": "apache-2.0"}
    once = read(export_model(checkpoint, tmp_path / "one", **given))
    assert once == read(export_model(checkpoint, tmp_path / "two", **given))
    code = (
        "import sys; from worldmodel.export import export_model; "
        "export_model(*sys.argv[1:3], sys.argv[3], sys.argv[4], sys.argv[5])"
    )
    arguments = [str(checkpoint), str(tmp_path / "three"), str(report), COMMAND, "apache-2.0"]
    elsewhere = {**os.environ, "PYTHONHASHSEED": "1234"}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=elsewhere)
    assert once == read(tmp_path / "three")


def test_export__says_how_it_was_trained(checkpoint, tmp_path):
    config = config_of(export_model(checkpoint, tmp_path / "out", command=f" {COMMAND}\n"))
    index = hashlib.sha256(b"{}\n").hexdigest()
    assert config["data"] == {
        "left_out": ["solidity"],
        "sets": [{"shards": "world/train/clips-*.tar", "index_sha256": index}],
    }
    assert config["training"] == {
        "command": COMMAND,
        "seed": 7,
        "max_steps": 20,
        "precision": None,
        "batch_size": 8,
        "method": {"optim": {"lr": 0.001}, "moving": 0.5},
    }
    assert config["clip"] == {"num_frames": 12, "fps": 8.0, "size": 32}
    assert (config["version"], config["global_step"], config["format_version"]) == ("0.0.1", 12, 1)
    assert config["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert config["weights_sha256"] == hashlib.sha256(weights).hexdigest()


def test_export__normalisation_is_what_the_network_does(checkpoint, tmp_path):
    normalisation = config_of(export_model(checkpoint, tmp_path / "out"))["normalisation"]
    pixels = np.arange(256)
    for channel in range(3):
        mean, std = normalisation["mean"][channel], normalisation["std"][channel]
        expected = (pixels * normalisation["rescale_factor"] - mean) / std
        found = Hierarchy.normalize(torch.arange(256, dtype=torch.uint8))
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-7)


def test_export__tells_nothing_of_the_disk(checkpoint, report, tmp_path):
    out = export_model(checkpoint, tmp_path / "out", report, COMMAND)
    for content in read(out).values():
        assert str(tmp_path).encode() not in content


@pytest.mark.parametrize(
    ("pattern", "public"),
    [
        ("/home/me/data/physics/train/clips-*.tar", "physics/train/clips-*.tar"),
        ("data/physics/train/*.tar", "physics/train/*.tar"),
        ("train/*.tar", "train/*.tar"),
        ("s3://bucket/physics/train/{0..9}.tar", "s3://bucket/physics/train/{0..9}.tar"),
        ("https://me:secret@host/a/train/*.tar?token=secret", "https://host/a/train/*.tar"),
    ],
)
def test_public_pattern__set_split_and_file(pattern, public):
    assert public_pattern(pattern) == public


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (None, []),
        (["a/train/*.tar", "b/train/*.tar"], ["a/train/*.tar", "b/train/*.tar"]),
        ({"one": "a/train/*.tar", "two": ["b/*.tar"]}, ["a/train/*.tar", "b/*.tar"]),
    ],
)
def test_training_sets__patterns_in_any_form(shards, expected):
    sets = export.training_sets({"data": {"shards": shards}})
    assert [each["shards"] for each in sets] == expected
    assert all(each["index_sha256"] is None for each in sets)  # not on this disk


def test_export__without_the_runs_configuration(checkpoint, tmp_path):
    moved = tmp_path / "alone.ckpt"
    checkpoint.rename(moved)
    config = config_of(export_model(moved, tmp_path / "out"))
    assert config["training"] == {"command": None}
    assert config["data"] == {"left_out": ["solidity"], "sets": []}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The command was not recorded" in card and re.search(r"seed +\| not recorded", card)
    assert "No report came with this export" in card


def test_export__another_programs_configuration_is_passed_over(run, checkpoint, tmp_path):
    (run / "config.yaml").write_text("- a\n- b\n")
    assert config_of(export_model(checkpoint, tmp_path / "one"))["training"] == {"command": None}
    (run / "config.yaml").write_text("key: [unclosed\n")
    with pytest.raises(InputError, match=r"config\.yaml cannot be read as YAML"):
        export_model(checkpoint, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_card__front_matter_is_yaml_that_the_hub_reads(checkpoint, tmp_path):
    out = export_model(checkpoint, tmp_path / "out", licence="cc-by-4.0")
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == "cc-by-4.0" and found["library_name"] == "worldmodel"
    assert found["pipeline_tag"] == "feature-extraction" and "jepa" in found["tags"]
    assert text.lstrip().startswith("# A video world model of 3 levels")
    assert "license" not in export_card(checkpoint, tmp_path).split("---\n", 2)[1]


def export_card(checkpoint: Path, tmp_path: Path, **given) -> str:
    return (export_model(checkpoint, tmp_path / "carded", **given) / "README.md").read_text()


def cells(text: str, first: str) -> list[str]:
    """The cells of the table's row that begins with `first`."""
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_card__how_slow_each_level_is_and_how_far_it_looks(checkpoint, tmp_path):
    card = export_card(checkpoint, tmp_path)
    assert cells(card, "0") == ["0", "1", "16", "1, 2", "0.125, 0.25"]
    assert cells(card, "1") == ["1", "2", "16", "1, 2", "0.25, 0.5"]
    assert cells(card, "2") == ["2", "4", "16", "1", "0.5"]


def test_card__command_seed_and_what_was_left_out(checkpoint, tmp_path, hierarchy):
    card = export_card(checkpoint, tmp_path, command=COMMAND)
    assert f"\n    {COMMAND}\n" in card
    assert cells(card, "seed")[1] == "7" and cells(card, "optimizer steps")[1] == "12"
    assert cells(card, "kinds of event left out of training")[1] == "solidity"
    assert cells(card, "max steps")[1] == "20"  # it was stopped before
    assert "| precision" not in card
    num_weights = sum(parameter.numel() for parameter in hierarchy.parameters())
    assert f"{num_weights:,} weights, trained for 12 steps" in card


def test_card__numbers_of_the_report_with_their_intervals_and_nulls(checkpoint, report, tmp_path):
    card = export_card(checkpoint, tmp_path, report=report)
    expected = ["velocity, r2", "0.28", "0.19 to 0.36", "0.00", "0.11 untrained", "-", "knows"]
    assert cells(card, "velocity, r2") == expected
    assert cells(card, "level0, h8") == ["level0, h8", "8", "0.91", "0.69", "0.64"]
    assert "level0, h1" not in card and "| depth" not in card
    assert "- knows: above every null." in card and "200 clips, 180 blocks" in card


def test_card__a_measure_whose_events_were_left_out_says_so(checkpoint, report, tmp_path):
    content = json.loads((report / "report.json").read_text())
    content["card"]["concepts"][0]["measures"][0]["left_out"] = True
    (report / "report.json").write_text(json.dumps(content))
    assert "velocity, r2 (left out of training)" in export_card(checkpoint, tmp_path, report=report)


def test_report__is_copied_as_it_is_and_may_be_named_itself(checkpoint, report, tmp_path):
    for number, given in enumerate((report, report / "report.json")):
        out = export_model(checkpoint, tmp_path / str(number), given)
        assert sorted(read(out)) == [*FILES, "report.json"]
        assert (out / "report.json").read_bytes() == (report / "report.json").read_bytes()


def test_report__of_the_export_itself(checkpoint, report, tmp_path):
    content = json.loads((report / "report.json").read_text())
    out = export_model(checkpoint, tmp_path / "out")
    content["meta"]["checkpoint_sha256"] = load_model(out).sha256
    (report / "report.json").write_text(json.dumps(content))
    export_model(checkpoint, out, report)
    assert (out / "report.json").is_file()


def test_export__of_an_export_is_the_same(checkpoint, report, tmp_path):
    first = export_model(checkpoint, tmp_path / "first", report, "make train", "mit")
    again = export_model(first, tmp_path / "again", licence="mit")
    assert read(again) == read(first)


def test_export__takes_what_evaluate_takes(run, checkpoint, tmp_path, capsys):
    """A run's folder, the folder of its versions, a shipped model by its name."""
    expected = read(export_model(checkpoint, tmp_path / "expected"))
    for source in (run, run.parent):
        assert read(export_model(source, tmp_path / "out")) == expected
    main(["export", "--checkpoint", "tiny", "--out", str(tmp_path / "tiny")])
    assert capsys.readouterr().out == f"{tmp_path / 'tiny'}\n"
    shipped = shipped_folder() / "tiny" / "model.safetensors"
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == shipped.read_bytes()


def test_export__a_folder_without_a_model(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "one.mp4").touch()
    with pytest.raises(InputError, match=r"videos holds no model of `worldmodel fit`; give a file"):
        export_model(tmp_path / "videos", tmp_path / "out")


def test_export__gets_a_report_and_a_command_later(checkpoint, report, tmp_path):
    at_once = export_model(checkpoint, tmp_path / "at-once", report, "make train", "mit")
    out = export_model(checkpoint, tmp_path / "out")
    export_model(out, out, report, "make\n  train", "mit")
    assert read(out) == read(at_once)


def test_export__of_a_damaged_export(checkpoint, tmp_path):
    first = export_model(checkpoint, tmp_path / "first")
    with (first / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="damaged"):
        export_model(first, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_report__errors(checkpoint, report, tmp_path):
    path, out = report / "report.json", tmp_path / "out"
    good = json.loads(path.read_text())
    with pytest.raises(InputError, match=r"there is no .*nothing; give the folder of"):
        export_model(checkpoint, out, tmp_path / "nothing")
    path.write_text(json.dumps({"meta": {"checkpoint_sha256": "ab" * 32}}))
    with pytest.raises(InputError, match="report on checkpoint abababababab, not on"):
        export_model(checkpoint, out, report)
    path.write_text(json.dumps({"meta": {"checkpoint_sha256": good["meta"]["checkpoint_sha256"]}}))
    with pytest.raises(InputError, match=r"report\.json lacks what a report .*'data'"):
        export_model(checkpoint, out, report)
    path.write_text("{")
    with pytest.raises(InputError, match=r"report\.json cannot be read as JSON"):
        export_model(checkpoint, out, report)
    assert not out.exists()


def test_report__without_prediction_or_card(checkpoint, report, tmp_path):
    content = json.loads((report / "report.json").read_text())
    content["prediction"] = {"absent": "no horizons"}
    del content["card"]
    card = model_card(config_of(export_model(checkpoint, tmp_path / "out")), 5, content)
    assert "200 clips" in card and "frames ahead" not in card and "strongest null" not in card


def test_out__an_export_is_replaced_and_nothing_else_is(checkpoint, report, tmp_path):
    out = export_model(checkpoint, tmp_path / "a" / "b", report)
    export_model(checkpoint, out)
    assert sorted(read(out)) == FILES
    assert [path.name for path in out.parent.iterdir()] == ["b"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is an export but also holds notes\.txt"):
        export_model(checkpoint, out)
    other = tmp_path / "other"
    other.mkdir()
    export_model(checkpoint, other)  # empty
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "vjepa2"}')
    with pytest.raises(InputError, match=r"holds config\.json and is no export"):
        export_model(checkpoint, foreign)
    with pytest.raises(InputError, match=r"config\.json is a file; give a folder"):
        export_model(checkpoint, foreign / "config.json")
    assert sorted(read(foreign)) == ["config.json"] and (out / "notes.txt").is_file()


def test_out__is_written_whole_or_not_at_all(checkpoint, tmp_path, monkeypatch):
    out = export_model(checkpoint, tmp_path / "x" / "out")
    before = read(out)
    write, written = export._write, []

    def fail(path: Path, content: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        write(path, content)

    monkeypatch.setattr(export, "_write", fail)
    for folder in (out, out.parent / "new"):
        written.clear()
        with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
            export_model(checkpoint, folder, command=COMMAND)
    assert read(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_out__what_was_there_comes_back_where_the_new_one_cannot_take_its_place(
    checkpoint, tmp_path, monkeypatch
):
    out = export_model(checkpoint, tmp_path / "x" / "out")
    before, rename = read(out), Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        export_model(checkpoint, out, command=COMMAND)
    assert read(out) == before and [path.name for path in out.parent.iterdir()] == ["out"]


def test_export__errors_about_the_checkpoint(checkpoint, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"no checkpoint at .*none\.ckpt"):
        export_model(tmp_path / "none.ckpt", out)
    with pytest.raises(InputError, match=r"licence is called such as apache-2\.0"):
        export_model(checkpoint, out, licence="mine: all")
    change(checkpoint, lambda content: content["worldmodel"]["clip"].update(fps=None))
    with pytest.raises(InputError, match=r"does not say what clips .* 12, None and 32"):
        export_model(checkpoint, out)
    change(checkpoint, lambda content: content["worldmodel"]["levels"][0].update(width=32))
    with pytest.raises(InputError, match=r"version 0\.0\.1 and does not fit .* of another shape"):
        export_model(checkpoint, out)
    change(checkpoint, lambda content: content.pop("state_dict"))
    with pytest.raises(InputError, match="it has no `state_dict` entry"):
        export_model(checkpoint, out)
    assert not out.exists()
