"""GRASP, level 2, as its archives unpack (https://github.com/i-machine-think/grasp).

    ROOT/level2/P_CONCEPT/000.mp4 ...    what could happen
               /IP_CONCEPT/000.mp4 ...   what could not

Two videos of one file name are a pair.
"""

from pathlib import Path

from worldmodel.data.benchmarks.movies import Movie, MovieSet, VideoPart, named, subfolders
from worldmodel.errors import InputError

SPLITS = ("level2",)
CONCEPTS = (
    "Collision",
    "Continuity",
    "Gravity",
    "GravityContinuity",
    "GravityInertia",
    "GravityInertia2",
    "GravitySupport",
    "Inertia",
    "Inertia2",
    "ObjectPermanence",
    "ObjectPermanence2",
    "ObjectPermanence3",
    "SolidityContinuity",
    "SolidityContinuity2",
    "Unchangeableness",
    "Unchangeableness2",
)
_POSSIBLE, _IMPOSSIBLE = "P_", "IP_"


def list_movies(root: Path, split: str) -> MovieSet:
    """The pairs of every concept that is there; those of the sixteen that are not are named.

    Args:
        root: folder that holds `level2`.
        split: level2.

    Raises:
        InputError: there is no concept, or of a pair only one video.
    """
    folder = root / split
    found = subfolders(folder)
    concepts = sorted(
        {
            name.removeprefix(prefix)
            for name in found
            for prefix in (_POSSIBLE, _IMPOSSIBLE)
            if name.startswith(prefix)
        }
    )
    if not concepts:
        raise InputError(
            f"{folder} has no folder such as P_Collision and IP_Collision; extract GRASP's level 2 "
            "there"
        )
    movies = [movie for concept in concepts for movie in _list_concept(folder, concept)]
    absent = tuple(concept for concept in CONCEPTS if concept not in concepts)
    return MovieSet("grasp", split, tuple(movies), absent=absent)


def _list_concept(folder: Path, concept: str) -> list[Movie]:
    files = {}
    for prefix in (_POSSIBLE, _IMPOSSIBLE):
        own = folder / f"{prefix}{concept}"
        if not own.is_dir():
            raise InputError(f"there is no folder {own} to compare the other half with")
        files[prefix] = {path.name for path in own.glob("*.mp4") if not path.name.startswith(".")}
    single = sorted(files[_POSSIBLE] ^ files[_IMPOSSIBLE])
    if single:
        raise InputError(
            f"of {named(single)} {folder} has a video in only one of {_POSSIBLE}{concept} and "
            f"{_IMPOSSIBLE}{concept}; extract both again"
        )
    if not files[_POSSIBLE]:
        raise InputError(f"{folder / (_POSSIBLE + concept)} has no mp4 file; extract it again")
    return [
        Movie(
            key=f"{prefix}{concept}/{Path(name).stem}",
            group=f"{concept}/{Path(name).stem}",
            concept=concept,
            possible=prefix == _POSSIBLE,
            source=VideoPart(folder / f"{prefix}{concept}" / name),
            pair="1",
        )
        for name in sorted(files[_POSSIBLE])
        for prefix in (_POSSIBLE, _IMPOSSIBLE)
    ]
