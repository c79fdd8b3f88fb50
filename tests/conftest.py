"""What several rooms' tests share: a small hierarchy and its clips."""

import pytest
import torch

from worldmodel.clips import ClipBatch
from worldmodel.models.encoder import EncoderConfig
from worldmodel.models.hierarchy import Hierarchy, LevelConfig


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
