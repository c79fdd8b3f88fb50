"""Benchmarks as people have them on disk; `docs/benchmarks.md` shows the layouts.

`open_benchmark` lists the movies of one of violation of expectation by its name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldmodel.data.benchmarks import grasp, inflevel, intphys, intphys2
from worldmodel.data.benchmarks.movies import MovieSet
from worldmodel.errors import InputError


@dataclass(frozen=True)
class Layout:
    """How one benchmark is read.

    Attributes:
        list_movies: gives the movies of a root and a split.
        splits: those there are, the default first.
    """

    list_movies: Callable[[Path, str], MovieSet]
    splits: tuple[str, ...]


BENCHMARKS = {
    "intphys": Layout(intphys.list_movies, intphys.SPLITS),
    "intphys2": Layout(intphys2.list_movies, intphys2.SPLITS),
    "grasp": Layout(grasp.list_movies, grasp.SPLITS),
    "inflevel": Layout(inflevel.list_movies, inflevel.SPLITS),
}


def open_benchmark(name: str, root: Path, split: str | None = None) -> MovieSet:
    """List the movies of a benchmark; none is opened.

    Args:
        name: one of `BENCHMARKS`.
        root: its folder.
        split: which part; the first of its splits by default.

    Raises:
        InputError: there is no such benchmark, split or folder, or a piece of it is missing.
    """
    layout = BENCHMARKS.get(name)
    if layout is None:
        raise InputError(f"there is no benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
    split = layout.splits[0] if split is None else split
    if split not in layout.splits:
        raise InputError(f"{name} has no split {split!r}; it has {', '.join(layout.splits)}")
    if not root.is_dir():
        raise InputError(
            f"there is no folder {root}; give the folder of {name}, docs/benchmarks.md shows its "
            "layout"
        )
    return layout.list_movies(root, split)
