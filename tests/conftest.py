"""What several rooms' tests share: a small hierarchy and its clips."""

import logging
import signal
from pathlib import Path

import bytecode  # noqa: F401  # before the first module of ours
import numpy as np
import pytest
import torch

from worldmodel.clips import ClipBatch
from worldmodel.data.encode import encode_video
from worldmodel.data.shards import write_shard
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig

# Lightning's log handler keeps the captured stderr of the first test that trained, which pytest has
# closed since; logging would print a traceback about that into the stderr of later tests.
logging.raiseExceptions = False
# A shell has what it runs in the background ignore Ctrl-C, and so would every process of ours.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def encoder_config() -> EncoderConfig:
    return EncoderConfig(size=32, stem_channels=(8, 8), depth=1, num_heads=2)


@pytest.fixture
def level_configs() -> list[LevelConfig]:
    small = {"dim": 16, "width": 16, "depth": 1, "num_heads": 2}
    return [
        LevelConfig(stride=1, horizons=(1, 2), **small),
        LevelConfig(stride=2, horizons=(1, 2), **small),
        LevelConfig(stride=2, horizons=(1,), **small),
    ]


@pytest.fixture
def hierarchy(encoder_config: EncoderConfig, level_configs: list[LevelConfig]) -> Hierarchy:
    torch.manual_seed(0)
    return Hierarchy(encoder_config, level_configs)


@pytest.fixture
def clip() -> ClipBatch:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 12, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ClipBatch(frames, torch.arange(12.0).expand(2, 12) / 8, ("a", "b"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two uneven shards of moving squares: 9 and 2 videos of 32 frames at 16 fps."""
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    number = 0
    for shard, count in enumerate((9, 2)):
        samples = []
        for _ in range(count):
            frames = np.full((32, 32, 32, 3), generator.integers(40, 120, 3), np.uint8)
            start = generator.integers(0, 20)
            for time in range(32):
                left = (start + time) % 24
                frames[time, 10:18, left : left + 8] = (220, 60, 40)
            samples.append((f"video-{number:03d}", {"mp4": encode_video(frames, fps=16.0)}))
            number += 1
        write_shard(folder / f"clips-{shard:06d}.tar", samples)
    return folder
