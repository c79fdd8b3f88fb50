"""Our own clips in the layouts of benchmarks of labelled videos; a clip's kind is its class."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from worldmodel.data.benchmarks.labelled import SSV2_FOLDERS, Split
from worldmodel.data.encode import encode_video
from worldmodel.evaluation.footage import Footage

# Folder or file of each split, as Kinetics and lists name them.
PARTS: dict[Split, str] = {"train": "train", "validation": "val"}
CLIP_SECONDS = 10


@dataclass(frozen=True)
class LabelledClip:
    """Frames and the name of what they show.

    Attributes:
        key: its name.
        frames: uint8 `(T, H, W, 3)`, sides even.
        fps: frames per second.
        name: of the class.
    """

    key: str
    frames: np.ndarray
    fps: float
    name: str


Clips = Mapping[Split, Iterable[LabelledClip]]


def clips_of(footage: Iterable[Footage]) -> Iterator[LabelledClip]:
    """Clips of the physics world with their kind as class."""
    for clip in footage:
        frames = np.ascontiguousarray(clip.frames.permute(0, 2, 3, 1).numpy())
        fps = float(clip.metadata["fps"]) / clip.frame_stride
        yield LabelledClip(clip.key, frames, fps, str(clip.metadata["kind"]))


def export_ssv2(root: Path, clips: Clips) -> None:
    """Something-Something v2: webm files (VP9) and JSON labels; the class is the template.

    Args:
        root: folder to write to.
        clips: of both splits; those of `train` say which classes there are.
    """
    folder = root / SSV2_FOLDERS[0]
    folder.mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    names: set[str] = set()
    number = 0
    for split, items in clips.items():
        entries = []
        for clip in items:
            number += 1
            (folder / f"{number}.webm").write_bytes(encode_webm(clip.frames, clip.fps))
            template = f"Showing [something] {clip.name}"
            names.add(template.replace("[", "").replace("]", ""))
            entries.append(
                {
                    "id": str(number),
                    "label": f"showing a square {clip.name}",
                    "template": template,
                    "placeholders": ["a square"],
                }
            )
        _write_json(root / "labels" / f"{split}.json", entries)
    classes = {name: str(index) for index, name in enumerate(sorted(names))}
    _write_json(root / "labels" / "labels.json", classes)


def export_kinetics(root: Path, clips: Clips, with_csv: bool = True) -> None:
    """Kinetics: a folder per class and, where asked for, a csv per split."""
    for split, items in clips.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("label", "youtube_id", "time_start", "time_end", "split"))
        for number, clip in enumerate(items):
            times = (number, number + CLIP_SECONDS)
            folder = root / PARTS[split] / clip.name
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{clip.key}_{times[0]:06d}_{times[1]:06d}.mp4"
            (folder / name).write_bytes(encode_video(clip.frames, clip.fps))
            writer.writerow((clip.name, clip.key, *times, split))
        if with_csv:
            (root / f"{PARTS[split]}.csv").write_text(text.getvalue(), encoding="utf-8")


def export_list(root: Path, clips: Clips) -> None:
    """Lossless videos in one folder and a list of `path label` per split."""
    (root / "videos").mkdir(parents=True, exist_ok=True)
    kept = {split: list(items) for split, items in clips.items()}
    names = sorted({clip.name for clip in kept["train"]})
    for split, items in kept.items():
        lines = []
        for clip in items:
            path = f"videos/{clip.key}.mp4"
            (root / path).write_bytes(encode_video(clip.frames, clip.fps, lossless=True))
            lines.append(f"{path} {names.index(clip.name)}\n")
        (root / f"{PARTS[split]}.csv").write_text("".join(lines), encoding="utf-8")


def encode_webm(frames: np.ndarray, fps: float) -> bytes:
    """VP9 in WebM, near lossless: uint8 `(T, H, W, 3)` with even sides."""
    buffer = io.BytesIO()
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream(
            "libvpx-vp9",
            rate,
            options={"crf": "4", "b": "0", "cpu-used": "8", "deadline": "realtime"},
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
