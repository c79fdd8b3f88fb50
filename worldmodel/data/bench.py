"""How fast clips are loaded, against the decoders and loaders of others in the same run.

clips per CPU-second    from videos in memory to uint8 RGB, one thread each, in processes of
their own that take turns, since only what runs at the same time on the
same machine can be compared
sequential              frames per CPU-second where all frames are wanted: the ceiling
end_to_end              whole pipelines from shards to batches, processor time of all processes
stream                  what workers keep of the bare decoder's speed, in wall time
"""

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worldmodel.data.loader_bench.material import (
    ACCESSES,
    MAX_JOBS,
    LoaderBench,
    make_plan,
    make_sets,
    make_videos,
)
from worldmodel.data.loader_bench.process import AbsentError, Subject, pythons
from worldmodel.environment import machine
from worldmodel.errors import InputError

OURS = "planned"
# peer -> its ways; its best one in each pattern counts
PEERS: dict[str, tuple[str, ...]] = {
    "pyav_seek": ("pyav_seek",),
    "decord": ("decord",),
    "torchcodec": ("torchcodec_full", "torchcodec_resize", "torchcodec_mapped"),
}
MIN_JOBS = 3
PIPELINE_PEERS = ("webdataset_pyav", "litdata_pyav", "energon_avdecoder")


def bench_loader(
    settings: LoaderBench | None = None, interpreters: Sequence[str] | None = None
) -> dict[str, Any]:
    """Measure ours and every peer that can be had.

    Args:
        settings: how much is measured.
        interpreters: tried in turn for each subject; this one and that of the peers by default.

    Returns:
        `ratios.{pattern}.{peer}`: ours over the peer's best way, in clips per CPU-second, and
        `spread` their least and largest over the rounds; `clips_per_cpu_second.{pattern}.{name}`;
        `sequential.{source}.{name}`: frames per CPU-second; `end_to_end.{pipeline}`: our stream of
        the packed set over a pipeline on the originals; `stream.{set}.efficiency`;
        `skipped.{name}`: why; `versions`, `machine`, `settings`.

    Raises:
        InputError: ours failed.
    """
    settings = settings or LoaderBench()
    bench = _Bench(settings, pythons() if interpreters is None else interpreters)
    with tempfile.TemporaryDirectory() as folder:
        bench.run(Path(folder))
    return bench.report


class _Bench:
    def __init__(self, settings: LoaderBench, interpreters: Sequence[str]) -> None:
        self.settings = settings
        self.interpreters = interpreters
        sections = ("ratios", "spread", "clips_per_cpu_second", "sequential", "end_to_end")
        self.report: dict[str, Any] = {name: {} for name in (*sections, "stream", "skipped")}
        self.report["versions"] = {}
        self.report["wrong_frames"] = {}
        self.report["machine"] = machine()
        self.report["settings"] = asdict(settings) | {
            "accesses": {name: list(strides) for name, strides in ACCESSES.items()},
            "end_to_end": f"ours: the packed set; the others: mean over {self.small_sources}",
            "stream": f"16-frame clips at stride 4, 2 workers; {self.small_sources[0]} and packed",
        }

    @property
    def small_sources(self) -> list[str]:
        """The sources that the packed set is made of."""
        width, height = self.settings.sizes[0]
        return [f"{width}x{height}-g{gop}" for gop in self.settings.gops]

    def run(self, folder: Path) -> None:
        videos = folder / "videos"
        videos.mkdir()
        make_videos(videos, self.settings)
        plan = make_plan(self.settings)
        (videos / "plan.json").write_text(json.dumps(plan))
        names = [OURS, "pyav_raw", *(way for ways in PEERS.values() for way in ways)]
        with self.subjects("decode", dict.fromkeys(names, str(videos))) as subjects:
            for pattern in plan:
                if pattern.endswith("-all"):
                    self.sequential(pattern, subjects, videos)
                else:
                    self.windowed(pattern, subjects)
        self.pipelines(folder / "sets", videos)

    @contextmanager
    def subjects(self, kind: str, arguments: dict[str, str]) -> Iterator[dict[str, Subject]]:
        """Those of some subjects that can be had; `skipped` says why the others cannot."""
        found: dict[str, Subject] = {}

        def start(name: str) -> Subject | AbsentError:
            try:
                return Subject(kind, name, arguments[name], self.interpreters)
            except AbsentError as error:
                return error

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            started = dict(zip(arguments, pool.map(start, arguments), strict=True))
        try:
            for name, subject in started.items():
                if isinstance(subject, Subject):
                    found[name] = subject
                    self.report["versions"].update(subject.versions)
            for name, subject in started.items():
                if isinstance(subject, AbsentError):
                    self.skip(name, subject)
            yield found
        finally:
            for subject in found.values():
                subject.close()

    def skip(self, name: str, error: AbsentError) -> None:
        """Note why a subject is left out; ours may not be."""
        if name in (OURS, "stream", "bare"):
            raise InputError(f"our own {name} failed: {error}")
        self.report["skipped"][name] = str(error)

    def ask(self, subjects: dict[str, Subject], name: str, **request: Any) -> dict[str, Any] | None:
        """An answer; None from one that has failed, which is then left out."""
        try:
            return subjects[name].ask(**request)
        except AbsentError as error:
            self.skip(name, error)
            subjects.pop(name).close()
            return None

    def windowed(self, pattern: str, subjects: dict[str, Subject]) -> None:
        """Windows of one pattern: each subject in turn, round after round."""
        names = [name for name in subjects if name != "pyav_raw"]
        count = self.warm_up(pattern, subjects, names)
        spent = self.rounds(pattern, subjects, names, count)
        clips = len(ACCESSES[pattern.rpartition("-")[2]]) * count
        self.report["clips_per_cpu_second"][pattern] = {
            name: clips / statistics.median(seconds) for name, seconds in spent.items()
        }
        self.report["ratios"][pattern], self.report["spread"][pattern] = {}, {}
        for peer, ways in PEERS.items():
            found = {way: _ratios(spent[way], spent[OURS]) for way in ways if way in spent}
            if found:
                best = min(found.values(), key=statistics.median)
                self.report["ratios"][pattern][peer] = statistics.median(best)
                self.report["spread"][pattern][peer] = [min(best), max(best)]

    def warm_up(self, pattern: str, subjects: dict[str, Subject], names: Sequence[str]) -> int:
        """Check that all give the frames that are wanted; how many windows make one turn."""
        for name in [name for name in names if name in subjects]:
            for first in range(self.settings.num_videos):
                answer = self.ask(subjects, name, pattern=pattern, first=first, count=1, check=True)
                if answer is None:
                    break
                if not answer["is_right"] and name == OURS:
                    raise InputError(f"our own decoder gives other frames in {pattern}")
                if not answer["is_right"]:
                    self.report["wrong_frames"].setdefault(name, []).append(pattern)
        found = subjects[OURS].ask(pattern=pattern, first=0, count=MIN_JOBS)
        wanted = round(self.settings.seconds * MIN_JOBS / max(found["seconds"], 1e-6))
        return max(MIN_JOBS, min(MAX_JOBS, wanted))

    def rounds(
        self,
        pattern: str,
        subjects: dict[str, Subject],
        names: Sequence[str],
        count: int,
    ) -> dict[str, list[float]]:
        """CPU-seconds of each turn of those that go through all rounds."""
        spent: dict[str, list[float]] = {name: [] for name in names if name in subjects}
        for turn in range(self.settings.rounds):
            for name in [name for name in spent if name in subjects]:
                first = turn * count
                answer = self.ask(subjects, name, pattern=pattern, first=first, count=count)
                if answer is not None:
                    spent[name].append(answer["seconds"])
        return {name: seconds for name, seconds in spent.items() if name in subjects}

    def sequential(self, pattern: str, subjects: dict[str, Subject], videos: Path) -> None:
        """All frames of a source: the decoder of PyAV, ffmpeg, and ours with what it makes."""
        source = pattern.removesuffix("-all")
        names = [OURS, "pyav_raw"]
        count = self.settings.num_videos
        spent = self.rounds(pattern, subjects, names, count)
        frames = count * self.settings.num_frames
        found = {name: frames / min(seconds) for name, seconds in spent.items()}
        for name, options in _ffmpeg_ways(self.settings.size).items():
            try:
                found[name] = _ffmpeg(videos / f"{source}-0.mp4", options, self.settings)
            except AbsentError as error:
                self.skip(name, error)
        self.report["sequential"][source] = found

    def pipelines(self, sets: Path, videos: Path) -> None:
        """Whole pipelines: multi-scale clips against others, windows against the bare decoder."""
        make_sets(sets, videos, self.settings, self.small_sources)
        ours = self.turns({"stream": "packed"}, sets, ACCESSES["ms"], passes=2)["stream"]
        rates: dict[str, list[float]] = {}
        for source in self.small_sources:
            plain = dict.fromkeys(PIPELINE_PEERS, f"plain-{source}")
            found = self.turns({"stream": source, **plain}, sets, ACCESSES["ms"], passes=1)
            for name, turns in found.items():
                rate = _rate(turns, "seconds")
                rates.setdefault(name, []).append(rate)
        self.report["end_to_end"] = self.compare(_rate(ours, "seconds"), rates)
        width, height = self.settings.sizes[0]
        for name, source in (
            (f"{width}x{height}", self.small_sources[0]),
            ("packed", "packed"),
        ):
            self.report["stream"][name] = self.efficiency(source, sets)

    def compare(self, ours: float, rates: dict[str, list[float]]) -> dict[str, Any]:
        """Our stream of the packed set over the others' mean over the originals."""
        means = {
            name: statistics.mean(each)
            for name, each in rates.items()
            if len(each) == len(self.small_sources)
        }
        same = means.pop("stream")
        found: dict[str, Any] = {name: ours / mean for name, mean in means.items()}
        found["same_bytes"] = {name: same / mean for name, mean in means.items()}
        found["clips_per_cpu_second"] = {"packed": ours, "stream": same, **means}
        return found

    def turns(
        self, sources: dict[str, str], sets: Path, strides: Sequence[int], passes: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Answers of some pipelines in turn, the first of each, which starts workers, left out."""
        arguments = {
            name: self.argument(sets / source, strides, 2) for name, source in sources.items()
        }
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments}
        with self.subjects("pipeline", arguments) as subjects:
            for turn in range(1 + _pipeline_rounds(self.settings)):
                for name in list(subjects):
                    answer = self.ask(subjects, name, passes=passes if turn else 1)
                    if answer is not None and turn:
                        found[name].append(answer)
            return {name: answers for name, answers in found.items() if name in subjects}

    def efficiency(self, source: str, sets: Path) -> dict[str, float]:
        """Clips per second of 2 workers over twice those of the bare decoder in one process."""
        found: dict[str, list[float]] = {"stream": [], "bare": []}
        arguments = {
            name: self.argument(sets / source, ACCESSES["w16s4"], workers)
            for name, workers in (("stream", 2), ("bare", 0))
        }
        with self.subjects("pipeline", arguments) as subjects:
            for turn in range(1 + _pipeline_rounds(self.settings)):
                for name in found:
                    answer = subjects[name].ask(passes=2)
                    if turn:
                        found[name].append(answer["clips"] / answer["wall"])
        shares = [a / (2 * b) for a, b in zip(found["stream"], found["bare"], strict=True)]
        return {
            "efficiency": statistics.median(shares),
            "efficiency_min": min(shares),
            "efficiency_max": max(shares),
            "clips_per_second": statistics.median(found["stream"]),
            "bare_clips_per_second": statistics.median(found["bare"]),
        }

    def argument(self, folder: Path, strides: Sequence[int], num_workers: int) -> str:
        """What a pipeline is to load, for the process that runs it."""
        return json.dumps(
            {
                "folder": str(folder),
                "strides": list(strides),
                "clip_frames": self.settings.clip_frames,
                "size": self.settings.size,
                "num_workers": num_workers,
            }
        )


def _pipeline_rounds(settings: LoaderBench) -> int:
    return min(3, settings.rounds)


def _ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def _rate(answers: Sequence[dict[str, Any]], unit: str) -> float:
    return statistics.median(answer["clips"] / answer[unit] for answer in answers)


def _ffmpeg_ways(size: int) -> dict[str, list[str]]:
    scaled = ["-filter_threads", "1", "-vf", f"scale={size}:{size}:flags=area"]
    return {
        "ffmpeg_raw": ["-f", "null", "-"],
        "ffmpeg_rgb": [*scaled, "-pix_fmt", "rgb24", "-f", "rawvideo", "-y", os.devnull],
    }


def _ffmpeg(video: Path, options: Sequence[str], settings: LoaderBench) -> float:
    """Frames per CPU-second of the ffmpeg that is installed, on one thread."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise AbsentError("no ffmpeg on the path")
    repeats = 4  # so that its start is some per cent
    command = [program, "-v", "error", "-nostdin", "-threads", "1"]
    command += ["-stream_loop", str(repeats - 1), "-i", str(video), *options]
    spent = []
    for _ in range(min(3, settings.rounds)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise AbsentError(f"ffmpeg ended with code {process.returncode}")
        spent.append(usage.ru_utime + usage.ru_stime)
    return repeats * settings.num_frames / min(spent)


def bench_table(report: dict[str, Any]) -> str:
    """The report as tables for people."""
    lines = _ratio_table(report)
    lines += ["", "| frames per CPU-second, all frames | " + " | ".join(_columns(report)) + " |"]
    lines.append("|---|" + "---|" * len(_columns(report)))
    for source, found in report["sequential"].items():
        cells = [f"{found[name]:.0f}" if name in found else "" for name in _columns(report)]
        lines.append(f"| {source} | " + " | ".join(cells) + " |")
    rates = report["end_to_end"]["clips_per_cpu_second"]
    lines += ["", "| whole pipeline, 3 clips a video | clips per CPU-second | ours over it |"]
    lines += ["|---|---|---|", f"| ours, packed | {rates['packed']:.1f} | |"]
    lines.append(f"| ours, originals | {rates['stream']:.1f} | |")
    for name in PIPELINE_PEERS:
        if name in rates:
            ratio, same = report["end_to_end"][name], report["end_to_end"]["same_bytes"][name]
            lines.append(f"| {name} | {rates[name]:.1f} | {ratio:.1f} (same bytes {same:.2f}) |")
    lines += ["", "| 2 workers over twice the bare decoder | share | clips per second |"]
    lines.append("|---|---|---|")
    for name, found in report["stream"].items():
        spread = f"{found['efficiency_min']:.2f} to {found['efficiency_max']:.2f}"
        share = f"{found['efficiency']:.2f} ({spread})"
        lines.append(f"| {name} | {share} | {found['clips_per_second']:.1f} |")
    lines += [f"{name} is not measured: {why}" for name, why in report["skipped"].items()]
    lines += [
        f"{name} gives other frames than those asked for in {', '.join(patterns)}"
        for name, patterns in report["wrong_frames"].items()
    ]
    return "\n".join(lines)


def _columns(report: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for found in report["sequential"].values() for name in found))


def _ratio_table(report: dict[str, Any]) -> list[str]:
    peers = [peer for peer in PEERS if any(peer in found for found in report["ratios"].values())]
    lines = ["| clips per CPU-second | ours | " + " | ".join(f"over {p}" for p in peers) + " |"]
    lines.append("|---|---|" + "---|" * len(peers))
    for pattern, ratios in report["ratios"].items():
        cells = []
        for peer in peers:
            low, high = report["spread"][pattern].get(peer, (0, 0))
            cells.append(f"{ratios[peer]:.2f} ({low:.2f} to {high:.2f})" if peer in ratios else "")
        ours = report["clips_per_cpu_second"][pattern][OURS]
        lines.append(f"| {pattern} | {ours:.1f} | " + " | ".join(cells) + " |")
    return lines
