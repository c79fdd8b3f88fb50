"""What could not be used: named once in log and file, counted, and replaced by nothing."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from worldmodel.errors import InputError

logger = logging.getLogger(__name__)

# Below this many broken samples the share says little: one of three videos is 33 %.
MIN_BROKEN = 10
_MAX_LINE = 1000


@dataclass(frozen=True)
class Broken:
    """Something that could not be used, and why.

    Attributes:
        shard: path or URL.
        key: the sample; None where the whole shard is meant.
        reason: one line.
    """

    shard: str
    key: str | None
    reason: str

    def __str__(self) -> str:
        place = self.shard if self.key is None else f"{self.shard}: {self.key}"
        return printable(f"{place}: {self.reason}")

    @classmethod
    def of(cls, shard: str, key: str | None, error: Exception) -> "Broken":
        """With the error's message as reason."""
        return cls(shard, key, " ".join(str(error).split()))


class Quarantine:
    """The broken samples of a run; stops it when there are too many.

    Args:
        path: a file of one JSON object per line, appended to; nothing is written by default. What
            it names already is not named again, so that it serves a run that is resumed, and all
            ranks of one.
        max_share: broken samples per sample seen above which to stop, once there are 10.
    """

    def __init__(self, path: Path | None = None, max_share: float = 0.05) -> None:
        self.path = path
        self.max_share = max_share
        self.broken: dict[tuple[str, str | None], Broken] = {}
        self.num_seen = 0
        self.num_broken = 0

    def add(self, items: tuple[Broken, ...], num_good: int = 0) -> None:
        """Take in what became of some samples.

        Raises:
            InputError: too many are broken.
        """
        new = [item for item in items if (item.shard, item.key) not in self.broken]
        for item in new:
            self.broken[item.shard, item.key] = item
            logger.warning("skipped %s", printable(f"{_name(item)}: {item.reason}"))
        if new and self.path is not None:
            self._write(new)
        self.num_broken += len(items)
        self.num_seen += len(items) + num_good
        if self.num_broken >= MIN_BROKEN and self.num_broken > self.max_share * self.num_seen:
            self.stop()

    def stop(self) -> NoReturn:
        """Raise the error that says what is broken."""
        shards = sorted({item.shard for item in self.broken.values()})
        last = list(self.broken.values())[-1]
        raise InputError(
            f"{self.num_broken} of {self.num_seen} samples are broken, in "
            f"{', '.join(shards[:5])}{' and others' if len(shards) > 5 else ''} "
            f"(the last: {_name(last)}: {last.reason}); make these shards again"
        )

    def _write(self, items: list[Broken]) -> None:
        assert self.path is not None
        known = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                known = set(self.path.read_text(encoding="utf-8").splitlines())
            lines = [json.dumps(asdict(item), sort_keys=True) for item in items]
            # Appended in one write, so that the lines of several ranks do not mix.
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines if line not in known))
        except OSError as error:
            logger.warning("cannot write %s: %s", self.path, error.strerror or error)


def _name(item: Broken) -> str:
    return f"shard {item.shard}" if item.key is None else f"{item.key} of {item.shard}"


def printable(text: str) -> str:
    """In one line, without anything by which a name could steer the terminal."""
    line = " ".join(text.split())
    line = line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
