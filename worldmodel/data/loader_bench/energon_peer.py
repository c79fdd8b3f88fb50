"""Megatron-Energon's pipeline, as its documentation has it; imports only where it is installed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron import energon  # isort: skip  # first, since it may be missing
import torch

from worldmodel.data.loader_bench.pipelines import Load


@energon.edataclass
class Clips(energon.Sample):
    """Clips of one video: uint8 `(clips, T, 3, size, size)`."""

    frames: torch.Tensor


def make_pass(load: Load, batch_size: int) -> Callable[[], Iterator[int]]:
    """Its loader over the set: the number of clips of each batch of one pass."""
    _prepare(load)

    @energon.stateless
    def cook(sample: dict[str, Any]) -> Clips:
        return Clips(**energon.basic_sample_keys(sample), frames=_decode(sample["mp4"], load))

    class Encoder(energon.DefaultTaskEncoder):
        decoder = energon.SampleDecoder(av_decode="AVDecoder")
        cookers = [energon.Cooker(cook)]  # noqa: RUF012  # Energon's way to name them

    config = energon.WorkerConfig(rank=0, world_size=1, num_workers=load.num_workers)
    dataset = energon.get_val_dataset(
        load.folder, worker_config=config, batch_size=batch_size, task_encoder=Encoder()
    )
    loader = energon.get_loader(dataset)
    return lambda: (batch.frames.shape[0] * batch.frames.shape[1] for batch in loader)


def _decode(decoder: Any, load: Load) -> torch.Tensor:
    _, num_frames = decoder.get_video_duration(get_frame_count=True)
    clips = load.draw(num_frames)
    wanted = sorted({frame for clip in clips for frame in clip})
    # Ranges of one frame each: whole ranges also scale what lies between and take 3 times as long.
    found = decoder.get_clips(
        video_clip_ranges=[(frame, frame) for frame in wanted],
        video_unit="frames",
        video_out_frame_size=(load.size, load.size),
    )
    frames = torch.cat(found.video_clips)
    place = {frame: number for number, frame in enumerate(wanted)}
    picked = [place[frame] for clip in clips for frame in clip]
    return frames[picked].reshape(len(clips), load.clip_frames, *frames.shape[1:])


def _prepare(load: Load) -> None:
    if (load.folder / ".nv-meta").exists():
        return
    program = Path(sys.executable).with_name("energon")
    # Of several patterns only the last would count.
    pattern = f"val:set-{{000000..{len(load.shards) - 1:06d}}}.tar"
    options = ["--non-interactive", "--sample-type", "CrudeWebdataset", "--num-workers", "1"]
    command = [str(program), "prepare", *options, "--split-parts", pattern, str(load.folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
