"""Mistakes people make: one clear line, exit code 2, no traceback."""

import sys
from pathlib import Path

import pytest

import worldmodel
from worldmodel.cli import find_input_error, main
from worldmodel.errors import InputError

TINY = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["fit", "--config", TINY, "--data.shards", "nowhere/none-*.tar"], "none-*.tar"),
        (["fit", "--config", TINY, "--data.shardz", "x"], "shardz"),
        (["fit", "--config", TINY, "--model.weights.within_clp", "1"], "within_clp"),
        (["fit", "--config", TINY, "--model.weights.batch", "-1"], "weights.batch"),
        (["fit", "--config", TINY, "--model.encoder.size", "40"], "encoder.size"),
        (["fit", "--config", TINY, "--model.optim.lr", "fast"], "optim.lr"),
        (["fit", "--config", "nothing.yaml"], "nothing.yaml"),
        (["evaluate", "--checkpoint", "none.ckpt", "--out", "r"], "none.ckpt"),
        (["evaluate", "--checkpoint", "c", "--out", "r", "--benchmark", "grasp"], "--root"),
        (["evaluate", "--checkpoint", "c", "--out", "r", "--root", "d"], "--benchmark"),
        (
            ["evaluate", "--checkpoint", "c", "--out", "r", "--benchmark", "x", "--root", "d"],
            "no benchmark 'x'",
        ),
        (["surprise", "v.mp4", "--checkpoint", "none.ckpt", "--out", "r"], "none.ckpt"),
        (["surprise", "v.mp4", "--checkpoint", "c", "--out", "r", "--level", "1"], "--horizon"),
        (["generate", "--out", "g", "--num_clips", "-3"], "num_clips"),
        (["generate", "--out", "/proc/none", "--num_clips", "2"], "/proc/none"),
        (["generate", "--num_clips", "2"], "out"),
        (["inspect", "none.tar"], "none.tar"),
        (["pack", "nowhere", "--out", "p"], "nowhere"),
        (["evaluat"], "evaluat"),
    ],
)
def test_mistakes__one_line_that_names_the_culprit(args, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["worldmodel"])
    assert main(args) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("worldmodel: error: ")]
    assert len(errors) == 1 and named in errors[0]
    assert not any("Traceback" in line for line in lines), "\n".join(lines)


def test_pack__empty_folder_and_a_file_that_is_no_video(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.mp4").write_text("hello")
    for culprit in ("empty", "no.mp4"):
        assert main(["pack", str(tmp_path / culprit), "--out", str(tmp_path / "out")]) == 2
        assert culprit in capsys.readouterr().err


def test_evaluate__a_checkpoint_that_is_garbage(tmp_path, capsys):
    (tmp_path / "bad.ckpt").write_text("garbage")
    args = ["evaluate", "--checkpoint", str(tmp_path / "bad.ckpt"), "--out", str(tmp_path / "r")]
    assert main(args) == 2
    assert "bad.ckpt cannot be read" in capsys.readouterr().err


def test_defects__keep_their_traceback(monkeypatch):
    def broken(_):
        raise KeyError("ours")

    monkeypatch.setattr("worldmodel.cli.run", broken)
    with pytest.raises(KeyError, match="ours"):
        main(["generate"])


def test_find_input_error__looks_through_wrappers():
    try:
        try:
            raise InputError("culprit")
        except InputError as error:
            raise RuntimeError("wrapper") from error
    except RuntimeError as error:
        assert str(find_input_error(error)) == "culprit"
    assert find_input_error(KeyError("x")) is None


def test_help_and_version(capsys):
    assert main([]) == 2
    assert "generate" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0 and worldmodel.__version__ in capsys.readouterr().out
