"""IntPhys 2 as its archive unpacks (https://github.com/facebookresearch/IntPhys2; CC BY-NC 4.0).

    ROOT/{Debug,Main,HeldOut}/metadata.csv
                             /Videos/NAME.mp4

`metadata.csv` has a row per video: `SceneIndex` (text: there are 124 and 124_0), `file_name`
(`Videos/NAME.mp4`; or `filename`, `NAME.mp4` alone), `type` (1_Possible, 1_Impossible, 2_Possible,
2_Impossible; the digit joins a pair), `condition`, `Difficulty`, `Camera`, `env`, `occluder`,
`game_name`. HeldOut has no `type`. The benchmark is for evaluation only.
"""

import re
from pathlib import Path

from worldmodel.data.benchmarks.movies import Movie, MovieSet, VideoPart, file_within, read_csv
from worldmodel.errors import InputError

SPLITS = ("Main", "Debug", "HeldOut")
TYPES = ("1_Possible", "1_Impossible", "2_Possible", "2_Impossible")
# Column of metadata.csv -> tag.
TAGS = {"Difficulty": "difficulty", "Camera": "camera"}
_WHERE = "get IntPhys2.zip anew and extract it, so that Main/metadata.csv lies in the root"


def list_movies(root: Path, split: str) -> MovieSet:
    """The videos of a split.

    Args:
        root: folder that holds `Main`.
        split: Main, Debug or HeldOut.

    Raises:
        InputError: the csv, one of its columns or a video is missing, or a scene does not have as
            many videos of each of the four types.
    """
    path = root / split / "metadata.csv"
    rows = read_csv(path, ["SceneIndex"], _WHERE)
    column = next((name for name in ("file_name", "filename") if name in rows[0]), None)
    if column is None:
        raise InputError(f"{path} has no column file_name; it has {', '.join(rows[0])}; {_WHERE}")
    if "type" not in rows[0] and split != "HeldOut":
        raise InputError(f"{path} has no column type; it has {', '.join(rows[0])}; {_WHERE}")
    scenes: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        row["path"] = row[column] if "/" in row[column] else f"Videos/{row[column]}"
        file_within(root / split, row["path"], path)
        scenes.setdefault(row["SceneIndex"].strip(), []).append(row)
    movies = [
        movie
        for scene, own in sorted(scenes.items(), key=lambda item: _scene_order(item[0]))
        for movie in _list_scene(root / split, scene, own, path)
    ]
    return MovieSet("intphys2", split, tuple(movies))


def _scene_order(scene: str) -> tuple[tuple[int, ...], str]:
    """2 before 10, and 124 before 124_0."""
    return tuple(int(number) for number in re.findall(r"\d+", scene)), scene


def _list_scene(folder: Path, scene: str, rows: list[dict[str, str]], path: Path) -> list[Movie]:
    """The videos of one scene; those of Debug come three times over, taken in the csv's order."""
    types = [row.get("type", "").strip() for row in rows]
    if not any(types):
        return [_movie(folder, row, f"{scene}/{number}", scene) for number, row in enumerate(rows)]
    counts = [types.count(kind) for kind in TYPES]
    if len(set(counts)) > 1 or sum(counts) != len(rows):
        raise InputError(
            f"{path}: scene {scene} has videos of the types {', '.join(sorted(types))}; each of "
            f"{', '.join(TYPES)} should be there equally often; {_WHERE}"
        )
    movies, seen = [], dict.fromkeys(TYPES, 0)
    for kind, row in zip(types, rows, strict=True):
        again = seen[kind]
        seen[kind] += 1
        group = scene if counts[0] == 1 else f"{scene}.{again}"
        movies.append(_movie(folder, row, f"{group}/{kind}", group, kind))
    return sorted(movies, key=lambda movie: movie.group)


def _movie(folder: Path, row: dict[str, str], key: str, group: str, kind: str = "") -> Movie:
    return Movie(
        key=key,
        group=group,
        concept=row.get("condition", "").strip().lower() or "unknown",
        possible=kind.endswith("_Possible") if kind else None,
        source=VideoPart(folder / row["path"]),
        tags={tag: row[column].strip().lower() for column, tag in TAGS.items() if row.get(column)},
        pair=kind[:1] or None,
    )
