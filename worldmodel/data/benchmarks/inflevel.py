"""InfLevel-lab as it is handed out (https://github.com/allenai/inflevel), with its list of pairs.

    ROOT/{continuity,gravity,solidity}/CAMERA__EVENT__COVER__OBJECT__TYPE[__LR].mp4
    ROOT/{continuity,gravity,solidity}.csv

The pairs are those of https://github.com/facebookresearch/jepa-intuitive-physics (CC BY-NC): a row
names two videos, says which is possible, and where in each the two primings begin and end that
come before the event (0 and 0 where there is one priming only). Videos and lists may as well lie
in `ROOT/inflevel_lab`. The benchmark is for evaluation only.

What becomes of the priming, during which the covers are shown from below, is the split:

    unprimed   it is left out; the movie begins with the event (as V-JEPA is scored)
    primed     it is shown to the model, and only the event is scored
    whole      it is shown and scored
"""

from pathlib import Path

from worldmodel.data.benchmarks.movies import Movie, MovieSet, VideoPart, file_within, read_csv
from worldmodel.errors import InputError

SPLITS = ("unprimed", "primed", "whole")
CONCEPTS = ("continuity", "gravity", "solidity")
COLUMNS = tuple(
    f"vid{number}_{name}"
    for number in (1, 2)
    for name in (
        "path",
        "start_priming_1",
        "end_priming_1",
        "start_priming_2",
        "end_priming_2",
        "label",
    )
)
_WHERE = (
    "get continuity.csv, gravity.csv and solidity.csv from the folder inflevel of "
    "github.com/facebookresearch/jepa-intuitive-physics and lay them beside the videos' folders"
)


def list_movies(root: Path, split: str) -> MovieSet:
    """The pairs of all three concepts.

    Args:
        root: folder that holds the concepts' folders, or `inflevel_lab` with them.
        split: what becomes of the priming: unprimed, primed or whole.

    Raises:
        InputError: a csv, one of its columns or a video is missing, a row is not one possible and
            one impossible video, or its frame numbers are none.
    """
    inner = root / "inflevel_lab"
    folder = inner if inner.is_dir() else root
    movies: list[Movie] = []
    for concept in CONCEPTS:
        path = folder / f"{concept}.csv"
        path = path if path.is_file() else root / path.name
        for number, row in enumerate(read_csv(path, COLUMNS, _WHERE)):
            movies += _list_pair(folder, path, f"{concept}/{number:04d}", row, split)
    note = {
        "unprimed": "The priming is left out: a movie begins with the event.",
        "primed": "The priming is shown to the model; only steps of the event are scored.",
        "whole": "The priming is shown to the model and scored like the event.",
    }[split]
    aligned = (
        "Of a pair of unequal length the longer movie loses its first frames. No frame is repeated "
        "or made up at the end: only real frames are scored."
    )
    return MovieSet("inflevel", split, tuple(movies), notes=(note, aligned))


def _list_pair(
    folder: Path, path: Path, group: str, row: dict[str, str], split: str
) -> list[Movie]:
    concept = group.split("/")[0]
    labels = [row[f"vid{number}_label"].strip().lower() for number in (1, 2)]
    if sorted(labels) != ["impossible", "possible"]:
        raise InputError(
            f"{path}, pair {group}: a pair is one possible and one impossible video, found "
            f"{' and '.join(labels)}; {_WHERE}"
        )
    parts = []
    for number in (1, 2):
        file = file_within(folder, row[f"vid{number}_path"].strip(), path)
        end = _frame(row[f"vid{number}_end_priming_2"], path, group)
        event = end + 1
        shown, scored = {"unprimed": (event, event), "primed": (0, event), "whole": (0, 0)}[split]
        parts.append(VideoPart(file, shown, scored))
    return [
        Movie(
            key=f"{group}/{number}",
            group=group,
            concept=concept,
            possible=label == "possible",
            source=VideoPart(part.path, part.first_shown, part.first_scored, partner=other),
            tags=name_tags(part.path.stem),
            pair="1",
        )
        for number, label, part, other in zip((1, 2), labels, parts, parts[::-1], strict=True)
    ]


def _frame(text: str, path: Path, group: str) -> int:
    try:
        value = float(text)
        if value < 0 or value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(
            f"{path}, pair {group}: end_priming_2 is {text!r}, not a frame number; {_WHERE}"
        ) from None
    return int(value)


def name_tags(stem: str) -> dict[str, str]:
    """Camera and cover, from a file name such as `center__continuity__redcup__duck__vv__LR`."""
    words = stem.split("__")
    return {"camera": words[0], "cover": words[2]} if len(words) >= 5 else {}
