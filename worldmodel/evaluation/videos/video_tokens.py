"""Tokens and context states of anybody's videos, in files that explain themselves.

A video is read at the rate of the model's clips, as in training: every n-th frame, scaled by its
short side, the square in the middle. A step's tokens depend on its own frames alone, and are what
`WorldModel.encode` gives for the same frames, to the bit.

A context state depends on all that came before it, but a model never sees more frames at once than
its clips had. Windows of that length overlap by half, window k starting at frame k x hop, and each
step's state comes from the first window that holds it. So, but for the first window, a state has
seen between half a window and a whole one, its own step included; how many frames it has seen
stands beside it. Neither what comes later nor the length of the video changes a state.

Each video's file holds its own description. The index is made of these, so that a call which was
killed leaves nothing half done, and several calls may fill one folder.
"""

import contextlib
import glob
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodel.data.journal import Source
from worldmodel.data.sources import find_sources
from worldmodel.errors import InputError
from worldmodel.evaluation.network import CHUNK, chunked, levels_of
from worldmodel.evaluation.videos.long_video import StateWindows
from worldmodel.evaluation.videos.sampled_video import SampledVideo, read_video
from worldmodel.evaluation.videos.video_surprise import check_failed
from worldmodel.models.checkpoint import LoadedModel, load_model
from worldmodel.models.pretrained import encode_piece, piece_length

INDEX_NAME = "index.parquet"
ABOUT = "about"
"""The member of a video's file that describes it, as JSON."""
FORMAT_VERSION = 1
CENTRE, WHOLE = "centre", "whole"
"""What the model saw of each frame: the square in the middle, or all of it, squeezed."""


@dataclass(frozen=True)
class EncodedVideo:
    """What `worldmodel encode` wrote of one video; per level an entry in each list.

    Attributes:
        tokens: float32 `(T_l, N_l, D_l)`.
        context: float32 `(T_l, N_l, W_l)`, states.
        seconds: float64 `(T_l,)`, when the last frame of the step is shown.
        frames: int64 `(T_l,)`, which of the source's frames that is, from 0.
        past_frames: int64 `(T_l,)`, how many frames, at the model's rate and with the step's own,
            the state has seen.
        about: the video's row of the index.
    """

    tokens: list[np.ndarray]
    context: list[np.ndarray]
    seconds: list[np.ndarray]
    frames: list[np.ndarray]
    past_frames: list[np.ndarray]
    about: dict[str, Any]


def load_tokens(path: str | Path) -> EncodedVideo:
    """Read one file of `worldmodel encode`.

    Raises:
        InputError: it is none.
    """
    about = read_about(Path(path))
    if about is None:
        raise InputError(f"{path} is no file of `worldmodel encode`; such are named in its index")
    with np.load(path, allow_pickle=False) as file:
        lists = {
            name: [file[f"level{level}_{name}"] for level in range(len(about["steps"]))]
            for name in ("tokens", "context", "seconds", "frames", "past_frames")
        }
    return EncodedVideo(**lists, about=about)


def read_about(path: Path) -> dict[str, Any] | None:
    """The description inside a video's file; None where it is no such file of ours."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file[ABOUT]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None
    is_ours = isinstance(about, dict) and about.get("format_version") == FORMAT_VERSION
    return about if is_ours else None


def paths_as_given(videos: Sequence[str], sources: Sequence[Source]) -> dict[Path, str]:
    """What a person would call each source: a path that starts as what was typed does.

    Args:
        videos: folders, files or globs, as typed.
        sources: what `find_sources` made of them.

    Returns:
        By absolute path.
    """
    found: dict[Path, str] = {}
    for given in videos:
        path = Path(given)
        if path.is_dir():
            paths = [path / source.name for source in sources]
        else:
            matches = [given] if path.is_file() else glob.glob(given, recursive=True)
            paths = [Path(match) for match in matches]
        for each in paths:
            found.setdefault(each.resolve(), str(each))
    return {source.path: found.get(source.path, str(source.path)) for source in sources}


class _Encoder:
    """One model on one video after another."""

    def __init__(
        self, model: LoadedModel, checkpoint: str, device: torch.device, picture: str
    ) -> None:
        self.model, self.checkpoint = model, checkpoint
        self.device, self.picture = device, picture
        self.levels = levels_of(model.network)
        self.windows = StateWindows.of(self.levels, model.clip.num_frames)

    def run(self, source: Source, given: str, path: Path, bar: Any) -> dict[str, Any]:
        """Write one video's file, whole or not at all; returns its row of the index."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        with contextlib.ExitStack() as stack:
            stores = [
                stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
                for _ in range(1 + 2 * len(self.levels))
            ]
            video = read_video(
                source.path,
                self.model.clip,
                stores[0],
                bar,
                passes=1,
                whole=self.picture == WHOLE,
            )
            num_frames = len(video.indices)
            self._check_length(num_frames)
            count = len(self.levels)
            tokens = self._write_tokens(video, stores[1 : 1 + count], bar)
            context = self._write_context(tokens, num_frames, stores[1 + count :])
            arrays: dict[str, np.ndarray] = {}
            for number, level in enumerate(self.levels):
                ends = (np.arange(num_frames // level.span) + 1) * level.span - 1
                arrays |= {
                    f"level{number}_tokens": tokens[number],
                    f"level{number}_context": context[number],
                    f"level{number}_seconds": video.seconds[ends],
                    f"level{number}_frames": video.indices[ends].astype(np.int64),
                    f"level{number}_past_frames": self.windows.past_frames(num_frames, level.span),
                }
            row = self.describe(source, given, path, video, arrays)
            arrays[ABOUT] = np.array(json.dumps(row))
            try:
                with partial.open("wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        return row

    def describe(
        self,
        source: Source,
        given: str,
        path: Path,
        video: SampledVideo,
        arrays: Mapping[str, np.ndarray],
    ) -> dict[str, Any]:
        """The row of one video in the index."""
        row: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "key": path.stem,
            "file": path.name,
            "source": given,
            "source_bytes": source.num_bytes,
            "source_mtime_ns": source.mtime_ns,
            "duration_seconds": float(video.num_source_frames / video.source_fps),
            "source_fps": float(video.source_fps),
            "source_frames": video.num_source_frames,
            "cut_seconds": [float(video.seconds[cut]) for cut in video.cut_frames()],
            "fps": float(video.fps),
            "model_fps": float(self.model.clip.fps),
            "num_frames": len(video.indices),
            "size": self.model.clip.size,
            "picture": self.picture,
            "checkpoint": self.checkpoint,
            "checkpoint_sha256": self.model.sha256,
            "window_frames": self.windows.window,
            "hop_frames": self.windows.hop,
            "steps": [len(arrays[f"level{n}_tokens"]) for n in range(len(self.levels))],
        }
        for number, level in enumerate(self.levels):
            row[f"level{number}_span"] = level.span
            row[f"level{number}_tokens"] = list(arrays[f"level{number}_tokens"].shape)
            row[f"level{number}_context"] = list(arrays[f"level{number}_context"].shape)
        return row

    def _check_length(self, num_frames: int) -> None:
        slowest = max(level.span for level in self.levels)
        if num_frames < slowest:
            raise InputError(
                f"the video has {num_frames} frames at the model's rate, but one step of the "
                f"slowest level spans {slowest}; give a longer one"
            )

    def _write_tokens(
        self, video: SampledVideo, stores: Sequence[IO[bytes]], bar: Any
    ) -> list[np.ndarray]:
        """Tokens of every level, on disk, `(T_l, N_l, D_l)`."""
        length = piece_length(self.levels, self.model.clip.num_frames)
        for piece in chunked(video.in_order(range(len(video.indices))), length):
            frames = torch.stack(piece)
            found = encode_piece(self.model.network, frames, length, self.device)
            for store, tokens in zip(stores, found, strict=True):
                store.write(tokens.float().cpu().numpy().tobytes())
            bar.update(len(piece))
        return [
            _on_disk(store, len(video.indices) // level.span, level.num_tokens, level.dim)
            for store, level in zip(stores, self.levels, strict=True)
        ]

    def _write_context(
        self, tokens: Sequence[np.ndarray], num_frames: int, stores: Sequence[IO[bytes]]
    ) -> list[np.ndarray]:
        """Context states of every level, on disk, `(T_l, N_l, W_l)`."""
        starts = self.windows.starts(num_frames)
        for some in chunked(starts, CHUNK):
            for start, states in zip(some, self._states(tokens, some), strict=True):
                for store, level, own, known in zip(
                    stores, self.levels, states, tokens, strict=True
                ):
                    overlap = (self.windows.window - self.windows.hop) if start else 0
                    stop = len(known) - start // level.span
                    new = own[overlap // level.span : stop]
                    store.write(np.ascontiguousarray(new).tobytes())
        return [
            _on_disk(store, num_frames // level.span, level.num_tokens, level.width)
            for store, level in zip(stores, self.levels, strict=True)
        ]

    @torch.no_grad()
    def _states(
        self, tokens: Sequence[np.ndarray], starts: Sequence[int]
    ) -> Iterator[list[np.ndarray]]:
        """Per window the states of every level, those of the steps that repeat the last included.

        Always `CHUNK` whole windows are run, so that a window's states are the same to the bit
        whichever windows are beside it.
        """
        padded = list(starts) + [starts[-1]] * (CHUNK - len(starts))
        given = [
            torch.stack([self._window(known, start, level.span) for start in padded])
            for known, level in zip(tokens, self.levels, strict=True)
        ]
        found = self.model.network.predict([level.to(self.device) for level in given])
        context = [level.context.float().cpu().numpy() for level in found]
        for number in range(len(starts)):
            yield [level[number] for level in context]

    def _window(self, tokens: np.ndarray, start: int, span: int) -> Tensor:
        """One window's steps of a level; the last is repeated where the video ends before it."""
        first, count = start // span, self.windows.window // span
        own = torch.from_numpy(np.array(tokens[first : first + count]))
        if not len(own):  # the video ends within the first step that this level has here
            own = torch.from_numpy(np.array(tokens[-1:]))
        return torch.cat([own, own[-1:].expand(count - len(own), *own.shape[1:])])


def _on_disk(store: IO[bytes], *shape: int) -> np.ndarray:
    store.flush()
    return np.memmap(store, np.float32, "r", shape=shape)


def encode_videos(
    checkpoint: str | Path,
    videos: Sequence[str],
    out: Path,
    whole: bool = False,
    device: torch.device | None = None,
) -> list[dict[str, Any]]:
    """Write tokens and context states of videos: a file for each, and an index of all in a folder.

    A video that is there already is left as it is: one given by the same path, of the same size
    and age, by the same model. One that has changed is encoded anew. Videos that cannot be used are
    named and passed over. What needs memory lies on disk, so that a video may be of any length.

    Args:
        checkpoint: a checkpoint of `worldmodel fit`, an export or the name of a shipped model.
        videos: folders (searched to the bottom), files or globs.
        out: gets `<name of the video>.npz` and `index.parquet`, which has a row for every video
            that lies there, from earlier calls too.
        whole: squeeze whole frames into the square that the model sees, as `surprise` does.
        device: where the model runs; a GPU where there is one by default.

    Returns:
        The rows of these videos, by name.

    Raises:
        InputError: no such checkpoint or video; one whose steps depend on other steps' frames;
            `out` cannot be written or holds what another model or picture gave; a file that was
            named by itself cannot be used, or none can. Results of the others are there.
    """
    model = load_model(checkpoint)
    if not model.network.steps_are_local:
        raise InputError(
            f"{checkpoint} is an encoder whose steps depend on what else a clip shows; encode "
            "needs one whose steps depend on their own frames alone, as `worldmodel fit` makes"
        )
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.network.to(device)
    sources, named = find_sources(videos)
    given = paths_as_given(videos, sources)
    out = Path(out)
    encoder = _Encoder(model, str(checkpoint), device, WHOLE if whole else CENTRE)
    kept: list[dict[str, Any]] = []
    failed: dict[Path, str] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        known = {path.stem: read_about(path) for path in sorted(out.glob("*.npz"))}
        _check_alike(out, known, model.sha256, encoder.picture)
        with _indexed(out):
            for source in sources:
                key, row = place_for(source, given[source.path], known)
                if row is None:
                    with tqdm(unit="frame", desc=source.key[-30:], dynamic_ncols=True) as bar:
                        try:
                            row = encoder.run(source, given[source.path], out / f"{key}.npz", bar)
                        except InputError as error:
                            failed[source.path] = str(error)
                            bar.write(f"skipped {source.name}: {error}")
                            continue
                known[key] = row
                kept.append(row)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}") from error
    check_failed(failed, named, len(sources))
    return kept


@contextlib.contextmanager
def _indexed(out: Path) -> Iterator[None]:
    """Write the index when all is done, and also where it ends before."""
    try:
        yield
    finally:
        write_index(out)


def _check_alike(
    out: Path, known: Mapping[str, dict[str, Any] | None], sha256: str, picture: str
) -> None:
    """Refuse a folder of another model's tokens: nobody could tell them apart by their names."""
    for row in known.values():
        if row is not None and row["checkpoint_sha256"] != sha256:
            raise InputError(
                f"{out} holds tokens of another model (SHA-256 {row['checkpoint_sha256'][:12]}…, "
                f"this one has {sha256[:12]}…); choose another folder"
            )
        if row is not None and row["picture"] != picture:
            remedy = "leave out" if picture == WHOLE else "add"
            raise InputError(
                f"{out} holds tokens of the {row['picture']} of each frame, and these would be of "
                f"the {picture}; choose another folder, or {remedy} --whole"
            )


def place_for(
    source: Source, given: str, known: Mapping[str, dict[str, Any] | None]
) -> tuple[str, dict[str, Any] | None]:
    """Where a video goes, never over another's file, and its row if it is there already.

    Args:
        source: the video.
        given: its path as it was typed.
        known: key -> row of each file of the folder; None for files of other makers.
    """
    key, number = source.key, 1
    while key in known:
        row = known[key]
        if row is not None and row["source"] == given:
            age = (source.num_bytes, source.mtime_ns)
            return key, row if (row["source_bytes"], row["source_mtime_ns"]) == age else None
        number += 1
        key = f"{source.key}_{number}"
    return key, None


def write_index(out: Path) -> Path | None:
    """Write `index.parquet`: a row for each video whose file lies in the folder, by key.

    Returns:
        Its path; None where there is none to write, as no video is there.
    """
    # Loaded here: 150 MB of libraries that no other command needs.
    import pyarrow
    from pyarrow import parquet

    rows = [row for path in sorted(out.glob("*.npz")) if (row := read_about(path)) is not None]
    path = out / INDEX_NAME
    if not rows:
        return None
    counts, shape = pyarrow.int64(), pyarrow.list_(pyarrow.int64())
    kinds = {str: pyarrow.string(), int: counts, float: pyarrow.float64()}
    columns = []
    for name, value in rows[0].items():
        kind = shape if isinstance(value, list) else kinds[type(value)]
        columns.append((name, pyarrow.list_(pyarrow.float64()) if name == "cut_seconds" else kind))
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(columns))
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        parquet.write_table(table, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
