"""A subject in a process of its own, seen from the one that measures."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import worldmodel

ROOT = Path(worldmodel.__file__).resolve().parents[1]
_ERROR = re.compile(r"[\w.]*(Error|Exception): ")
TIMEOUT_SECONDS = 120.0  # a request takes seconds; decord is known to hang


class AbsentError(Exception):
    """A subject cannot be measured here; the message says why in one line."""


def pythons() -> list[str]:
    """Interpreters to try, in turn: this one, and one that has the peers."""
    given = os.environ.get("PEERS_PYTHON")
    peers = Path(given) if given else ROOT / ".venv-peers" / "bin" / "python"
    return [sys.executable, *([str(peers)] if peers.is_file() else [])]


class Subject:
    """Starts a subject with the first interpreter that can run it.

    Args:
        kind: `decode` or `pipeline`.
        name: of the decoder or pipeline.
        argument: what `worldmodel.data.loader_bench.subject` takes.
        interpreters: to try, in turn.

    Raises:
        AbsentError: none can.
    """

    def __init__(self, kind: str, name: str, argument: str, interpreters: Sequence[str]) -> None:
        self.name = name
        reasons = []
        for python in interpreters:
            try:
                self.versions: dict[str, str] = self._start(python, kind, argument)["versions"]
                return
            except AbsentError as error:
                reasons.append(str(error))
        raise AbsentError("; ".join(dict.fromkeys(reasons)) or "no interpreter")

    def _start(self, python: str, kind: str, argument: str) -> dict[str, Any]:
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # The code that is measured is this very copy of it, whatever is installed there.
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        try:
            self._process = subprocess.Popen(
                [python, "-m", "worldmodel.data.loader_bench.subject", kind, self.name, argument],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                cwd=tempfile.gettempdir(),
                env=os.environ | single | {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
            )
        except OSError as error:
            raise AbsentError(f"{python}: {error.strerror or error}") from error
        return self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            AbsentError: it has failed or hangs.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended; its last words are read with the answer
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(TIMEOUT_SECONDS, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if line:
            return json.loads(line)
        code = self._end()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or [f"ended with code {code}"]
        self._errors.close()
        # An error's message may have many lines; the first one says what happened.
        named = [line for line in lines if _ERROR.match(line)]
        raise AbsentError(" ".join((named or lines)[-1].split()))

    def close(self) -> None:
        """End it."""
        self._end()
        self._errors.close()

    def _end(self) -> int:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What could not be written any more does not matter.
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            return self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
