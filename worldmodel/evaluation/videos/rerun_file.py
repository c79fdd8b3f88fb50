"""What a model makes of a video as a file for the Rerun viewer, everything on one timeline.

Frames, tokens and surprise need the model alone; depth and where it believes the object to be, the
probes of its report (`probes.stored`). The recording says in words whose answers they are.

The extra `rerun` has the package; nothing else here needs it.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.errors import InputError
from worldmodel.evaluation.figures import BLUE, ORANGE, YELLOW, token_colours
from worldmodel.evaluation.network import Network, Place, levels_of
from worldmodel.evaluation.probes.stored import StoredProbes
from worldmodel.evaluation.videos.long_video import SurpriseCurve
from worldmodel.evaluation.videos.readouts import Belief, Readouts
from worldmodel.models.checkpoint import ClipSpec

RERUN_NAME = "surprise.rrd"
TIMELINE = "video"
# Of frames; they are pictures for people, and 4 to 8 times as many bytes uncompressed.
JPEG_QUALITY = 85
# Colour of a belief and what it takes for granted, by how much of the object showed where its probe
# was fitted.
BELIEFS = {
    "visible": (BLUE, "blue", "in full view"),
    "partly": (YELLOW, "yellow", "partly hidden"),
    "hidden": (ORANGE, "orange", "wholly hidden"),
}
TRAIL_SECONDS = 1.0
POINT_PX, LINE_PX = 5.0, 1.5
RING_CORNERS = 32
# A rate this much off the clips', or a side this much longer than the other, is worth a word.
TOLERANCE = 1.02


def import_rerun() -> Any:
    """The package `rerun`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        raise InputError(
            "a file for the Rerun viewer needs the package rerun-sdk (170 MB), which cannot be "
            f"imported ({error}): pip install 'worldmodel[rerun]'"
        ) from error


@torch.no_grad()
def tokens_of(
    network: Network, frames: np.ndarray, window: int, device: torch.device
) -> list[Tensor]:
    """Tokens of a whole video, window by window.

    Args:
        network: a frozen model.
        frames: uint8 `(T, size, size, 3)`.
        window: frames that it sees at once.
        device: where it is.

    Returns:
        Per level `(T // span, N_l, D_l)` on the CPU; frames that fill no step of the slowest level
        have none.
    """
    longest = max(level.span for level in levels_of(network))
    parts: list[list[Tensor]] = []
    for start in range(0, len(frames) - longest + 1, window):
        piece = frames[start : start + window]
        piece = np.array(piece[: len(piece) - len(piece) % longest])
        clip = torch.from_numpy(piece).permute(0, 3, 1, 2)[None].to(device)
        parts.append([level[0].float().cpu() for level in network.encode(clip)])
    return [torch.cat(levels) for levels in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Recorded:
    """What is known of a video, all of it on the same frames.

    Attributes:
        seconds: `(T,)`, when its frames are shown.
        size: (width, height) of its pictures.
        tokens: per level `(T_l, N_l, D_l)`.
        curves: surprise of each place.
        combined: `(T,)`; NaN where there is none.
        readouts: depth and belief; None without probes.
        about: what all of it is, in Markdown.
    """

    seconds: np.ndarray
    size: tuple[int, int]
    tokens: Sequence[Tensor]
    curves: Mapping[Place, SurpriseCurve]
    combined: np.ndarray
    readouts: Readouts | None
    about: str


class Recording:
    """A file of the viewer, and the moment of which is told.

    Args:
        path: of the file.
        seconds: `(T,)`, when the frames of the video are shown.
        recording_id: files of one recording share it, and are opened as one; a new one by default.

    Raises:
        InputError: rerun is not installed.
    """

    def __init__(self, path: Path, seconds: np.ndarray, recording_id: str | None = None) -> None:
        self.rerun, self.seconds = import_rerun(), seconds
        self.stream = self.rerun.RecordingStream("worldmodel", recording_id=recording_id)
        self.stream.save(str(path))

    def tell(self, text: str) -> None:
        """Words in Markdown, at no time of their own."""
        document = self.rerun.TextDocument(text, media_type="text/markdown")
        self.stream.log("about", document, static=True)

    def put(self, name: str, frame: int | np.integer, what: Any) -> None:
        """Show something from a frame on."""
        self.stream.set_time(TIMELINE, duration=float(self.seconds[frame]))
        self.stream.log(name, what)

    def picture(self, pixels: np.ndarray) -> Any:
        """A picture for people, uint8 `(H, W, 3)`."""
        return self.rerun.Image(pixels).compress(jpeg_quality=JPEG_QUALITY)

    def close(self) -> None:
        """Nothing comes after this."""
        self.stream.flush()
        self.stream.disconnect()


def write_rerun(
    path: Path, pictures: Iterable[np.ndarray], network: Network, known: Recorded
) -> None:
    """Write all that is known of a video on the timeline `video`, in seconds.

    `video` has the frames, `video/belief/{part}` where the probes say that the object is, with the
    way it came (`trail`) and a ring in which it was half of the time (`half`), over the frames;
    `depth` metres; `tokens/level{l}` the tokens, their three main directions as colours, from the
    last frame of their step on; `surprise/level{l}/h{h}` and `copy/level{l}/h{h}` what the model
    and the copy predictor erred by; `surprise/combined` all places together; `about` words.

    Args:
        path: of the file.
        pictures: uint8 `(H, W, 3)`, T of them.
        network: whose tokens they are.
        known: everything else.

    Raises:
        InputError: rerun is not installed.
    """
    recording = Recording(path, known.seconds)
    recording.tell(known.about)
    for frame, picture in enumerate(pictures):
        recording.put("video", frame, recording.picture(picture))
    for number, (level, values) in enumerate(zip(levels_of(network), known.tokens, strict=True)):
        colours = np.round(255 * token_colours(values, level.grid)).astype(np.uint8)
        put_tokens(recording, number, colours, level.span)
    put_surprise(recording, known.curves)
    for known_at in np.flatnonzero(np.isfinite(known.combined)):
        value = recording.rerun.Scalars(float(known.combined[known_at]))
        recording.put("surprise/combined", known_at, value)
    if known.readouts is not None:
        if known.readouts.depth is not None:
            depth = known.readouts.depth
            limits = (float(depth.metres.min()), float(depth.metres.max()))
            put_depth(recording, "depth", depth.frames, depth.metres, limits)
        for part, belief in known.readouts.beliefs.items():
            put_belief(recording, part, belief, known.size)
    layout = _layout(recording.rerun, len(known.tokens), known.readouts)
    recording.stream.send_blueprint(layout)
    recording.close()


def put_tokens(recording: Recording, level: int, colours: np.ndarray, span: int) -> None:
    """Colours uint8 `(T_l, rows, columns, 3)` of a level's tokens, from the end of their step on.

    Args:
        recording: that takes them.
        level: whose.
        colours: of every step.
        span: frames of a step.
    """
    for step, picture in enumerate(colours):
        recording.put(f"tokens/level{level}", (step + 1) * span - 1, recording.rerun.Image(picture))


def put_surprise(recording: Recording, curves: Mapping[Place, SurpriseCurve]) -> None:
    """What the model and the copy predictor erred by at each place."""
    scalars = recording.rerun.Scalars
    for (place, horizon), curve in curves.items():
        name = f"level{place}/h{horizon}"
        for frame, value, copied in zip(curve.frames, curve.values, curve.copied, strict=True):
            recording.put(f"surprise/{name}", frame, scalars(float(value)))
            recording.put(f"copy/{name}", frame, scalars(float(copied)))


def put_depth(
    recording: Recording,
    name: str,
    frames: Sequence[int] | np.ndarray,
    metres: np.ndarray,
    limits: tuple[float, float],
) -> None:
    """Maps in metres, one colour scale for all of them.

    Args:
        recording: that takes them.
        name: of the entity.
        frames: `(S,)`.
        metres: `(S, rows, columns)`.
        limits: metres of the darkest and of the brightest colour.
    """
    for frame, each in zip(frames, metres, strict=True):
        recording.put(name, frame, depth_image(recording, each, limits))


def depth_image(recording: Recording, metres: np.ndarray, limits: tuple[float, float]) -> Any:
    """A map `(rows, columns)` of metres."""
    return recording.rerun.DepthImage(
        metres.astype(np.float32), meter=1.0, colormap="viridis", depth_range=limits
    )


def put_belief(recording: Recording, part: str, belief: Belief, size: tuple[int, int]) -> None:
    """A point, the way it came within `TRAIL_SECONDS`, and the ring of half of the true places.

    Args:
        recording: that takes them.
        part: of the object that showed where the probe was fitted.
        belief: its answers.
        size: (width, height) of the video's pictures in px.
    """
    rerun, seconds = recording.rerun, recording.seconds
    hue, _, shown = BELIEFS[part]
    opaque, faint = rgba(hue), rgba(hue, 160)
    pixels = belief.places * size
    angles = np.linspace(0, 2 * np.pi, RING_CORNERS + 1)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * belief.half * np.array(size)
    name = f"video/belief/{part}"
    for step, (frame, place) in enumerate(zip(belief.frames, pixels, strict=True)):
        # Radii below zero are of the screen, not of the picture.
        point = rerun.Points2D(
            [place], radii=-POINT_PX, colors=opaque, labels=f"if {shown}", show_labels=False
        )
        recording.put(name, frame, point)
        first = np.searchsorted(seconds[belief.frames], seconds[frame] - TRAIL_SECONDS)
        for kind, line in (("trail", pixels[first : step + 1]), ("half", ring + place)):
            drawn = rerun.LineStrips2D([line], radii=-LINE_PX, colors=faint)
            recording.put(f"{name}/{kind}", frame, drawn)


def rgba(hue: str, alpha: int = 255) -> list[int]:
    """A colour such as `#0072B2` in four bytes."""
    return [*(int(hue[start : start + 2], 16) for start in (1, 3, 5)), alpha]


def _layout(rerun: Any, num_levels: int, readouts: Readouts | None) -> Any:
    """How the viewer opens: pictures above, curves below, words beside them."""
    view = rerun.blueprint
    title = "video and belief" if readouts is not None and readouts.beliefs else "video"
    pictures = [view.Spatial2DView(origin="video", name=title)]
    if readouts is not None and readouts.depth is not None:
        metres = readouts.depth.metres
        title = f"depth, {metres.min():.1f} m (dark) to {metres.max():.1f} m (bright)"
        pictures.append(view.Spatial2DView(origin="depth", name=title))
    tokens = [
        view.Spatial2DView(origin=f"tokens/level{level}", name=f"tokens of level {level}")
        for level in range(num_levels)
    ]
    together = view.TimeSeriesView(origin="surprise/combined", name="surprise, all levels together")
    by_level = [
        view.TimeSeriesView(
            origin="/",
            contents=[f"surprise/level{level}/**", f"copy/level{level}/**"],
            name=f"surprise and copy, level {level}",
        )
        for level in range(num_levels)
    ]
    about = view.TextDocumentView(origin="about", name="about")
    return view.Blueprint(
        view.Vertical(
            view.Horizontal(*pictures, about),
            view.Horizontal(
                view.Tabs(*tokens),
                view.Vertical(together, view.Tabs(*by_level)),
                column_shares=[1, 2],
            ),
            row_shares=[3, 2],
        ),
        collapse_panels=True,
    )


def about_text(
    name: str,
    clip: ClipSpec,
    fps: float,
    size: tuple[int, int],
    probes: StoredProbes | None,
    missing: str = "",
) -> str:
    """What a recording holds and how it is to be read, in Markdown.

    Args:
        name: of the video.
        clip: what the model was trained on.
        fps: of the frames that it saw of this video.
        size: (width, height) of the video's pictures.
        probes: with which depth and belief were read.
        missing: why there are none, a sentence.
    """
    lines = [
        f"# {name}",
        "- **video**: the frames that the model saw.",
        "- **tokens**: their three main directions as colours, from the end of their step on.",
        "- **surprise**, **copy**: what the model and a predictor that copies erred by. An energy "
        "in each level's own units; 0 of *combined* is what is typical of this video.",
    ]
    if probes is None:
        lines.append(f"- **depth** and **belief** are not here: {missing}")
        return "\n".join(lines) + "\n"
    if probes.depth is not None:
        lines.append(
            f"- **depth**: metres, read from the level-{probes.depth.level} tokens of each single "
            f"step by a linear probe. On test clips it erred by {probes.depth.rmse_m:.2f} m (root "
            "of the mean square)."
        )
    if probes.position:
        lines.append(
            "- **belief**: where linear probes say from context states that the object is; the "
            f"line is its way within {TRAIL_SECONDS:g} s, and on test clips it was inside the ring "
            "half of the time. Each answers at every step as if the object were"
        )
        for part, place in probes.position.items():
            _, colour, shown = BELIEFS[part]
            lines.append(
                f"    - {shown} (**{colour}**): level {place.level}, half within "
                f"{place.half_px:.1f} px of a picture of {place.picture[0]}, r2 {place.r2:.2f};"
            )
        lines.append(
            "- Which of these holds, and whether there is an object at all, the probes do not say."
        )
    about = probes.about
    lines.append(
        f"\n**Fitted on the physics world alone** ({about['num_train_clips']} clips of the set "
        f"{about['index_sha256']:.12}), where one object takes part in an event. Of any other "
        "video depth and belief are what the probes would say if it showed that world: nobody has "
        "measured how far they are off there, and nothing here warns when they are."
    )
    rate, wide = fps / clip.fps, size[0] / size[1]
    if max(rate, 1 / rate) > TOLERANCE:
        lines.append(
            f"\nThis video was seen at {fps:.3g} frames a second, the probes were fitted at "
            f"{clip.fps:g}: things move {1 / rate:.3g} times as far from frame to frame."
        )
    if max(wide, 1 / wide) > TOLERANCE:
        lines.append(
            f"\nThis picture is {wide:.2f} times as wide as high and was squeezed into the square "
            "that the model sees; the probes know only squares."
        )
    return "\n".join(lines) + "\n"
