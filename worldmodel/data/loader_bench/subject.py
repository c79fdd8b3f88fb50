"""One subject in a process of its own: reads a request a line, answers each with a line of JSON.

    python -m worldmodel.data.loader_bench.subject decode planned FOLDER
    python -m worldmodel.data.loader_bench.subject pipeline stream '{"folder": ...}'

The first answer, unasked, tells the versions of its packages; where it cannot run, the process ends
with the reason as the last line of its error output.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from worldmodel.data.loader_bench.decoders import DECODERS, versions
from worldmodel.data.loader_bench.footage import read_stamps
from worldmodel.data.loader_bench.pipelines import PIPELINES, Load, processor_seconds

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def decoder_subject(name: str, folder: Path) -> Answer:
    """Answers requests to decode `count` windows of a pattern from number `first` on."""
    decode = DECODERS[name][0]()
    plan = json.loads((folder / "plan.json").read_text())
    videos = {
        path.stem: (path.read_bytes(), path.with_suffix(".packets").read_bytes())
        for path in sorted(folder.glob("*.mp4"))
    }

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        pattern = plan[request["pattern"]]
        size = (pattern["size"][0], pattern["size"][1])
        jobs = [
            (*videos[video], indices)
            for video, indices in (
                pattern["jobs"][number % len(pattern["jobs"])]
                for number in range(request["first"], request["first"] + request["count"])
            )
        ]
        started, given = time.process_time(), 0
        for data, packets, indices in jobs:
            frames = decode(data, packets, indices, size)
            given += len(frames)
        seconds = time.process_time() - started
        found = {"seconds": seconds, "frames": given}
        if request.get("check"):
            found["is_right"] = (
                frames.shape == (len(indices), size[1], size[0], 3)
                and read_stamps(frames) == indices
            )
        return found

    return answer


def pipeline_subject(name: str, arguments: dict[str, Any]) -> Answer:
    """Answers requests to make some passes over the set."""
    load = Load(
        Path(arguments["folder"]),
        tuple(arguments["strides"]),
        arguments["clip_frames"],
        arguments["size"],
        arguments["num_workers"],
    )
    one_pass = PIPELINES[name][0](load)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        # Not counted: what workers have loaded ahead while others had their turn is used up, and
        # what they load ahead from here on is as much as at the end.
        sum(one_pass())
        started, wall = processor_seconds(), time.perf_counter()
        clips = sum(sum(one_pass()) for _ in range(request["passes"]))
        wall = time.perf_counter() - wall
        if not clips:
            raise RuntimeError("it gave no clip")
        return {"clips": clips, "wall": wall, "seconds": processor_seconds() - started}

    return answer


def serve(answer: Answer, packages: tuple[str, ...], output: TextIO) -> None:
    """Answer until there are no more requests."""
    print(json.dumps({"versions": versions(packages)}), file=output, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=output, flush=True)


def main(kind: str, name: str, argument: str) -> None:
    """Run one subject on this process's input and output."""
    # Answers have an output of their own: libraries print on the one they find.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if kind == "decode":
        serve(decoder_subject(name, Path(argument)), DECODERS[name][1], output)
    else:
        serve(pipeline_subject(name, json.loads(argument)), PIPELINES[name][1], output)


if __name__ == "__main__":
    main(*sys.argv[1:])
