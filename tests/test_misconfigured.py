"""What a person configured wrongly is one line, said before anything is trained."""

import sys
from pathlib import Path

import pytest
import torch

from worldmodel.cli import main
from worldmodel.errors import InputError
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import LevelConfig
from worldmodel.optim import OptimConfig
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
        ("trainer.devices", "0", "trainer: `Trainer(devices='0')` value is not a valid input"),
        ("trainer.strategy", "nosuch", "trainer: You selected an invalid strategy name"),
        ("trainer.gradient_clip_algorithm", "foo", "Allowed algorithms: ['value', 'norm']"),
        ("trainer.accumulate_grad_batches", "0", "accumulate_grad_batches must be at least 1"),
        ("checkpoint.every_n_train_steps", "-5", "every_n_train_steps must be at least 0"),
        ("model.optim.lr", "-1", "optim.lr must be at least 0, got -1"),
        ("model.encoder.num_heads", "3", "level 0's dim must be a multiple of twice encoder.num_h"),
    ],
)
def test_fit__one_line_says_what_is_wrong(tmp_path, capsys, setting, value, message):
    command = ("fit", "--config", SMALL, "--trainer.default_root_dir", str(tmp_path))
    assert main([*command, f"--{setting}", value]) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error:" in each]
    assert message in line
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fit__without_a_gpu_that_was_asked_for(tmp_path, capsys):
    command = ("fit", "--config", SMALL, "--trainer.default_root_dir", str(tmp_path))
    assert main([*command, "--trainer.accelerator", "gpu"]) == 2
    assert "error: trainer: No supported gpu backend found!" in capsys.readouterr().err


def test_fit__a_validation_that_never_comes(shards, tmp_path, capsys):
    command = ("fit", "--config", SMALL, "--trainer.default_root_dir", str(tmp_path))
    settings = ("--data.shards", f"{shards}/*.tar", "--trainer.val_check_interval", "1000")
    assert main([*command, *settings]) == 2
    assert "error: trainer: `val_check_interval` (1000) must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (OptimConfig, {"lr": float("nan")}, "lr must be at least 0, got nan"),
        (OptimConfig, {"lr": float("inf")}, "lr must be at least 0, got inf"),
        (OptimConfig, {"weight_decay": -1.0}, "weight_decay must be at least 0, got -1"),
        (OptimConfig, {"warmup_steps": -5}, "warmup_steps must be at least 0, got -5"),
        (OptimConfig, {"final_lr_share": 2.0}, "final_lr_share must be at least 0 and at most 1"),
        (OptimConfig, {"betas": (1.5, 0.9)}, r"betas must be at least 0 and below 1, got \[1.5"),
        (EncoderConfig, {"stem_channels": (6, 12)}, r"multiples of 8, .* got \[6, 12\]"),
        (EncoderConfig, {"depth": -1}, "depth must be at least 0"),
        (EncoderConfig, {"num_heads": 0}, "num_heads at least 1"),
        (LevelConfig, {"horizons": (1,), "depth": 0}, "depth must be at least 1, got 0"),
        (LevelConfig, {"horizons": (1,), "dim": 0}, "dim must be at least 1, got 0"),
        (LevelConfig, {"horizons": (1,), "width": 17}, "twice its num_heads, here 8, got 17"),
        (LevelConfig, {"horizons": (1,), "mlp_ratio": 0.0}, "mlp_ratio must be above 0"),
    ],
)
def test_configuration__numbers_out_of_range_are_named(kind, settings, message):
    with pytest.raises(InputError, match=message):
        kind(**settings)
