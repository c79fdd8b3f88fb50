"""What a person configured wrongly is one line, said before anything is trained."""

import sys
from pathlib import Path

import pytest

from worldmodel.cli import main
from worldmodel.runs import RUN_FOLDER

SMALL = str(Path(__file__).parent / "conf" / "small.yaml")


@pytest.fixture(autouse=True)
def fresh_process_state(monkeypatch):
    """Each run here stands for a process of its own."""
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["worldmodel"])


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("trainer.precision", "16-mixed", "16-mixed is not supported"),
    ],
)
def test_fit__one_line_says_what_is_wrong(tmp_path, capsys, setting, value, message):
    command = ("fit", "--config", SMALL, "--trainer.default_root_dir", str(tmp_path))
    assert main([*command, f"--{setting}", value]) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error:" in each]
    assert message in line
    assert not list(tmp_path.glob("runs/*/*"))
