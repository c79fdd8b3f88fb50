"""What only some benchmarks ask for; apart, for the command line need not load torch to know it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worldmodel.errors import InputError


@dataclass(frozen=True)
class BenchmarkOptions:
    """What only some benchmarks ask for."""

    split: str | None = None
    """Of a benchmark of violation of expectation; its first one by default."""
    train_list: Path | None = None
    """kitti: file of lines that name the pictures to fit on."""
    test_list: Path | None = None
    """kitti: file of lines that name the pictures to score (Eigen's split)."""
    crop: Literal["garg", "eigen"] = "garg"
    """kitti: the part of the picture that is scored."""
    num_clips: int = 1
    """ssv2, kinetics, list: clips per video."""
    max_skipped_share: float = 0.01
    """ssv2, kinetics, list: share of the videos of a split that may be missing or broken."""
    max_train: int | None = None
    """nyuv2, kitti, ssv2, kinetics, list: training items to use, taken evenly; as many as fit by
    default."""
    max_test: int | None = None
    """The same for test items; all by default, and with fewer it is no benchmark result."""
    num_untrained: int | None = None
    """Networks with fresh weights to compare with; 3, for videos with labels 1; 0 compares with
    none."""

    def __post_init__(self) -> None:
        least = {"num_clips": 1, "max_train": 1, "max_test": 1, "num_untrained": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InputError(f"options.{name} must be at least {lowest}, got {value}")
