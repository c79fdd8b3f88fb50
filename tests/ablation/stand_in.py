"""Stands in for training and measuring: quick, and it writes down that it was called.

python stand_in.py fit TEMPLATES ... --config FILE --ckpt_path unfinished
python stand_in.py score MEASURED CHECKPOINT --base SET --development SET --out FILE
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path


def note(folder: Path, line: str) -> None:
    with (folder / "calls.txt").open("a") as file:
        file.write(line + "\n")


def fit(templates: Path, config: Path, ckpt_path: str) -> int:
    """Leaves a checkpoint at step 3; of a run whose name the file `fail` holds it fails."""
    run, out = config.parent, config.parents[2]
    assert ckpt_path == "unfinished"
    note(out, f"fit {run.name} threads {os.environ['OMP_NUM_THREADS']}")
    print("some warning")
    unlucky = (out / "fail").read_text() if (out / "fail").is_file() else ""
    if unlucky and unlucky in run.name:
        print("worldmodel: error: no luck\nfarewell", file=sys.stderr)
        return 2
    folder = run / "version_0" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    if (out / "wait").is_file():
        shutil.copy(templates / "step1.ckpt", folder / "last.ckpt")
        signal.signal(signal.SIGINT, lambda *_: (note(out, f"stopped {run.name}"), sys.exit(1)))
        note(out, f"waiting {run.name}")
        time.sleep(60)
    shutil.copy(templates / "step3.ckpt", folder / "last.ckpt")
    return 0


def score(measured: Path, checkpoint: Path, base: Path, development: Path, file: Path) -> int:
    note(file.parents[2], f"score {file.parent.name} {base.name} {development.name}")
    if not checkpoint.is_file():
        return 1
    shutil.copy(measured, file)
    return 0


def main(arguments: list[str]) -> int:
    what, template, *rest = arguments
    if what == "fit":
        _, config, _, ckpt_path = rest
        return fit(Path(template), Path(config), ckpt_path)
    checkpoint, _, base, _, development, _, file = rest
    return score(*map(Path, (template, checkpoint, base, development, file)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
