"""Depth read from single frames, depth over time, and whether a moving camera teaches it.

Notebook 03. `readings` and `cameras` ask, `figures` draws.
"""

from worldmodel.evaluation.probes.depth import Case, Reading
from worldmodel.viewing.depth.cameras import (
    CAMERAS,
    MOVES,
    Learned,
    fit_command,
    learned,
    make_cameras,
    study_depths,
    train_beside,
    train_cameras,
)
from worldmodel.viewing.depth.figures import (
    COLOURS,
    FILM_COLUMNS,
    camera_frames,
    camera_learning,
    camera_scores,
    depth_by_frame,
    depth_film,
    depth_maps,
    depth_scores,
)
from worldmodel.viewing.depth.readings import (
    NUM_CLIPS,
    DepthFilm,
    DepthReadings,
    WatchDepth,
    farthest_camera,
    film_depth,
    read_depth,
    readers,
    travelled,
)

__all__ = [
    "CAMERAS",
    "COLOURS",
    "FILM_COLUMNS",
    "MOVES",
    "NUM_CLIPS",
    "Case",
    "DepthFilm",
    "DepthReadings",
    "Learned",
    "Reading",
    "WatchDepth",
    "camera_frames",
    "camera_learning",
    "camera_scores",
    "depth_by_frame",
    "depth_film",
    "depth_maps",
    "depth_scores",
    "farthest_camera",
    "film_depth",
    "fit_command",
    "learned",
    "make_cameras",
    "read_depth",
    "readers",
    "study_depths",
    "train_beside",
    "train_cameras",
    "travelled",
]
