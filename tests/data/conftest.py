"""Small sets made on the spot: moving patterns of 32 pixels a side and 20 frames."""

from pathlib import Path

import pytest
from patterns import clip_members

from worldmodel.data.shards import write_shard


@pytest.fixture(scope="session")
def samples() -> list[tuple[str, dict[str, bytes]]]:
    """28 clip samples, keys train-000000 to train-000027."""
    return [(f"train-{i:06d}", clip_members(phase=3.0 * i)) for i in range(28)]


@pytest.fixture(scope="session")
def uneven_shards(
    samples: list[tuple[str, dict[str, bytes]]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with shards of 10, 10, 7 and 1 samples."""
    folder = tmp_path_factory.mktemp("uneven")
    at = 0
    for number, count in enumerate((10, 10, 7, 1)):
        write_shard(folder / f"u-{number:03d}.tar", samples[at : at + count])
        at += count
    return folder
