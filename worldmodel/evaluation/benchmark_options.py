"""What only some benchmarks ask for; apart, for the command line need not load torch to know it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
