"""A training as a file for the Rerun viewer: one clip again and again, as the model learns.

Three timelines. `training` has the clip from its beginning to its end once for each look, one after
another in seconds: it is the one to play. `video` is the time within the clip, where the last look
counts; `step` is the optimizer's, for the strips, which show the whole clip at once, and for the
scores.

The extra `rerun` has the package; nothing else here needs it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.evaluation.figures import GREEN
from worldmodel.evaluation.network import LevelShape
from worldmodel.evaluation.probes.depth import cell_pixels
from worldmodel.evaluation.videos.rerun_file import (
    POINT_PX,
    Recording,
    depth_image,
    put_belief,
    put_depth,
    put_surprise,
    put_tokens,
    rgba,
)
from worldmodel.evaluation.videos.training_record import Moment, Shown, Subject

STEP, TRAINING = "step", "training"
# Of the strips: so many frames of the clip, each so many pixels a side.
STRIP_FRAMES, TILE_PX = 8, 48


class TrainingRecording(Recording):
    """The file of a run, or of the part of it since it was resumed.

    Args:
        path: of the file.
        levels: of the model.
        subject: whose clip is shown.
        recording_id: of the run, the same in each of its files.

    Raises:
        InputError: rerun is not installed.
    """

    def __init__(
        self, path: Path, levels: Sequence[LevelShape], subject: Subject, recording_id: str
    ) -> None:
        shown = subject.shown
        super().__init__(path, shown.seconds, recording_id)
        self.levels, self.shown = levels, shown
        self.clip_seconds = len(shown.frames) / shown.fps
        self._pictures = [self.picture(each) for each in shown.frames.permute(0, 2, 3, 1).numpy()]
        self._step, self._begins = 0, 0.0
        self.tell(about_training(subject, levels))
        self.stream.send_blueprint(_layout(self.rerun, len(levels), bool(subject.lessons)))

    def put(self, name: str, frame: int | np.integer, what: Any) -> None:
        self.stream.set_time(STEP, sequence=self._step)
        self.stream.set_time(TRAINING, duration=self._begins + float(self.seconds[frame]))
        super().put(name, frame, what)

    def put_whole(self, name: str, what: Any) -> None:
        """Show something that is about all of the clip."""
        self.stream.reset_time()
        self.stream.set_time(STEP, sequence=self._step)
        self.stream.set_time(TRAINING, duration=self._begins)
        self.stream.log(name, what)

    def add(self, moment: Moment, number: int) -> None:
        """Write a look, whole, so that it is in the file whatever happens then.

        Args:
            moment: what there is to record.
            number: of looks before it in this run.
        """
        self._step, self._begins = moment.step, number * self.clip_seconds
        for frame, picture in enumerate(self._pictures):
            self.put("video", frame, picture)
        for level, colours in enumerate(moment.colours):
            put_tokens(self, level, colours, self.levels[level].span)
        put_surprise(self, moment.curves)
        self._put_truth()
        limits = depth_limits(self.shown)
        if moment.readouts is not None and moment.readouts.depth is not None:
            read = moment.readouts.depth
            put_depth(self, "depth/read", read.frames, read.metres, limits)
        if moment.readouts is not None:
            height, width = self.shown.frames.shape[2:]
            for part, belief in moment.readouts.beliefs.items():
                put_belief(self, part, belief, (width, height))
        self.put_whole("strips/tokens", self.rerun.Image(token_strip(self.shown, moment)))
        strip = depth_strip(self.shown, moment)
        if strip is not None:
            self.put_whole("strips/depth", depth_image(self, strip, limits))
        for name, value in moment.scores.items():
            self.put_whole(f"scores/{name}", self.rerun.Scalars(value))
        self.stream.flush()

    def _put_truth(self) -> None:
        """True depth, and where the object truly is."""
        shown, rerun = self.shown, self.rerun
        if shown.depth is not None:
            put_depth(self, "depth/true", range(len(shown.depth)), shown.depth, depth_limits(shown))
        if shown.places is None:
            return
        height, width = shown.frames.shape[2:]
        for frame, place in enumerate(shown.places):
            points = [place * (width, height)] if np.isfinite(place).all() else []
            dot = rerun.Points2D(
                points, radii=-POINT_PX, colors=rgba(GREEN), labels="truth", show_labels=False
            )
            self.put("video/truth", frame, dot)


def depth_limits(shown: Shown) -> tuple[float, float]:
    """Metres of the darkest and of the brightest colour, the same at every step."""
    known = None if shown.depth is None else shown.depth[shown.depth > 0]
    if known is None or not known.size:
        return 0.0, 1.0
    return float(known.min()), float(known.max())


def _tiles(maps: np.ndarray, num_frames: int) -> np.ndarray:
    """`STRIP_FRAMES` maps side by side, each `TILE_PX` a side.

    Args:
        maps: `(T_l, rows, columns)` or, of colours, `(T_l, rows, columns, 3)`; each holds for as
            many frames.
        num_frames: frames T of the clip.
    """
    chosen = np.linspace(0, num_frames - 1, STRIP_FRAMES).astype(int)
    steps = np.minimum(chosen // (num_frames // len(maps)), len(maps) - 1)
    rows, columns = (cell_pixels(side, TILE_PX) for side in maps.shape[1:3])
    return np.concatenate(maps[steps][:, rows[:, None], columns], axis=1)


def token_strip(shown: Shown, moment: Moment) -> np.ndarray:
    """Frames of the clip above the tokens of each level, uint8 `(rows, columns, 3)`.

    Args:
        shown: the clip.
        moment: of which look.
    """
    rows = [shown.frames.permute(0, 2, 3, 1).numpy(), *moment.colours]
    return np.concatenate([_tiles(each, len(shown.frames)) for each in rows])


def depth_strip(shown: Shown, moment: Moment) -> np.ndarray | None:
    """Metres `(rows, columns)`: what is true above what was read; None where there is not both.

    Args:
        shown: the clip.
        moment: of which look.
    """
    if shown.depth is None or moment.readouts is None or moment.readouts.depth is None:
        return None
    rows = (shown.depth, moment.readouts.depth.metres)
    return np.concatenate([_tiles(each, len(shown.frames)) for each in rows])


def about_training(subject: Subject, levels: Sequence[LevelShape]) -> str:
    """What a recording holds and how it is to be read, in Markdown.

    Args:
        subject: the clips.
        levels: of the model.
    """
    ahead = [
        f"level {number} {max(level.horizons) * level.span / subject.shown.fps:g} s"
        for number, level in enumerate(levels)
        if level.horizons
    ]
    lines = [
        f"# {subject.shown.key} while a model learns",
        "Validation clip, shown again at each look. Timeline **training**: look after look, to be "
        "played. **video**: time in the clip; the last look counts. **step**: of the optimizer, "
        "for the strips and the scores.",
        "- **tokens**: their three main directions as colours, turned to those of the look before.",
        "- **surprise**, **copy**: what the model and a predictor that copies erred by, in each "
        f"level's own units. *surprise_over_copy* is of the farthest horizon ({', '.join(ahead)}).",
    ]
    if not subject.lessons:
        lines.append(f"- **depth** and **belief** are not here: {subject.missing}.")
        return "\n".join(lines) + "\n"
    counts = {name: len(lesson.frames) for name, lesson in subject.lessons.items()}
    lines += [
        "- **depth**: metres; true, and read from single frames' level-0 tokens.",
        "- **belief**: where the object is, read from context states as if it were in full view "
        "(blue), partly (yellow) or wholly hidden (orange); in the ring it was half of the time. "
        "Green: where it is.",
        f"\nBoth are read by linear probes, fitted anew at each look on {counts['fit']} "
        f"training clips, chosen on {counts['choose']} and measured on {counts['measure']} "
        "validation clips, of which this one is none. *scores* has how well they did: "
        "*mean_depth_rmse_m* is what saying the mean depth map gets, and 0 what saying the mean "
        "place gets in *place_r2*. So few clips hardly teach where a hidden object is: the report "
        "does.",
    ]
    return "\n".join(lines) + "\n"


def _layout(rerun: Any, num_levels: int, has_truth: bool) -> Any:
    """How the viewer opens: the clip above, the whole of it at each step below."""
    view = rerun.blueprint
    pictures = [view.Spatial2DView(origin="video", name="video and belief")]
    strips = [view.Spatial2DView(origin="strips/tokens", name="frames, and tokens of each level")]
    if has_truth:
        pictures += [
            view.Spatial2DView(origin="depth/true", name="true depth"),
            view.Spatial2DView(origin="depth/read", name="depth read from tokens"),
        ]
        strips.append(view.Spatial2DView(origin="strips/depth", name="depth: true, read"))
    tokens = [
        view.Spatial2DView(origin=f"tokens/level{level}", name=f"tokens of level {level}")
        for level in range(num_levels)
    ]
    surprise = [
        view.TimeSeriesView(
            origin="/",
            contents=[f"surprise/level{level}/**", f"copy/level{level}/**"],
            name=f"surprise and copy, level {level}",
        )
        for level in range(num_levels)
    ]
    groups = ["surprise_over_copy"]
    if has_truth:
        groups += ["depth", "place_r2"]
    scores = [
        view.TimeSeriesView(
            origin="/",
            contents=["scores/depth_rmse_m", "scores/mean_depth_rmse_m"]
            if group == "depth"
            else [f"scores/{group}/**"],
            name=f"scores, {group}",
        )
        for group in groups
    ]
    about = view.TextDocumentView(origin="about", name="about")
    return view.Blueprint(
        view.Vertical(
            view.Horizontal(*pictures, about),
            view.Horizontal(view.Tabs(*tokens), view.Tabs(*surprise), column_shares=[1, 2]),
            view.Horizontal(*strips, view.Tabs(*scores)),
            row_shares=[3, 2, 2],
        ),
        view.TimePanel(timeline=TRAINING),
        collapse_panels=True,
    )
