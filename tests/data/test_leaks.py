"""Nothing is left behind: memory stays flat, files are closed, workers end with the loader."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldmodel.data.datamodule import ClipDataModule

# A loader with workers whose training fails, or is interrupted, after its first batch.
ENDING = """
import os, sys, time
from worldmodel.data.datamodule import ClipDataModule
data = ClipDataModule(sys.argv[1], num_frames=4, size=16, batch_size=2, num_workers=2)
data.setup()
for number, batch in enumerate(data.train_dataloader()):
    if number == 1:
        children = open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read()
        print(children, flush=True)
        if sys.argv[2] == "error":
            raise RuntimeError("training failed")
        time.sleep(60)
"""

# Opens a video and says by how much the most memory held so far has grown.
OPENING = """
import sys
from pathlib import Path
from worldmodel.data.pyav_video import PyavVideo

def peak_mb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1e3

PyavVideo(Path(sys.argv[1])).close()
before = peak_mb()
video = PyavVideo(Path(sys.argv[2]))
print(video.num_frames, peak_mb() - before)
"""


def resident_mb() -> float:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def growth(shards: Path, warm_up: int, num_clips: int) -> tuple[float, int]:
    """How memory in MB and open files grow while clips are loaded, after so many to warm up."""
    data = ClipDataModule(f"{shards}/*.tar", num_frames=4, size=16, batch_size=9)
    data.setup()
    loader = data.train_dataloader()
    seen, before = 0, (0.0, 0)
    while seen < warm_up + num_clips:
        for batch in loader:
            if seen < warm_up <= seen + len(batch):
                before = (resident_mb(), num_open_files())
            seen += len(batch)
    return resident_mb() - before[0], num_open_files() - before[1]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_opening__holds_no_more_of_a_large_file_than_of_a_small_one(tmp_path: Path) -> None:
    for name, num_frames in (("small", 2), ("large", 100)):
        with (tmp_path / f"{name}.y4m").open("wb") as file:
            file.write(b"YUV4MPEG2 W640 H480 F25:1 Ip A1:1 C420jpeg\n")
            for _ in range(num_frames):
                file.write(b"FRAME\n" + bytes(640 * 480 * 3 // 2))
    paths = [str(tmp_path / f"{name}.y4m") for name in ("small", "large")]
    found = subprocess.run(
        [sys.executable, "-c", OPENING, *paths], capture_output=True, text=True, check=True
    )
    num_frames, megabytes = found.stdout.split()
    assert num_frames == "100"
    assert float(megabytes) < 15  # of 46


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_loading__leaves_no_file_open_and_little_memory(uneven_shards: Path) -> None:
    megabytes, files = growth(uneven_shards, 300, 600)
    assert files == 0
    assert megabytes < 20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_loading__memory_is_flat_over_20000_clips(uneven_shards: Path) -> None:
    megabytes, files = growth(uneven_shards, 1000, 20_000)
    print(f"memory grew by {megabytes:.2f} MB over 20,000 clips")
    assert files == 0
    assert megabytes < 5


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("ending", ["error", "ctrl-c", "kill"])
def test_workers__end_with_their_loader(uneven_shards: Path, ending: str) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", ENDING, f"{uneven_shards}/*.tar", ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    workers = [int(number) for number in run.stdout.readline().split()]
    assert len(workers) >= 2
    if ending == "ctrl-c":
        run.send_signal(signal.SIGINT)
    elif ending == "kill":
        run.kill()
    run.communicate(timeout=30)
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives its loader"
        time.sleep(0.1)
