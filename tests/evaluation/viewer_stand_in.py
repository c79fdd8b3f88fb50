"""What of the package rerun is used, without it: keeps what would be written."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


class Stream:
    """Keeps, per name, when in the video something was shown and what (`logged`).

    Attributes:
        moments: per name, the values of all timelines at each time.
        opened: all streams there were.
    """

    opened: list["Stream"] = []  # noqa: RUF012

    def __init__(self, application: str, recording_id: str | None = None) -> None:
        self.logged: dict[str, list[tuple[float | None, Any]]] = {}
        self.moments: dict[str, list[dict[str, float]]] = {}
        self.path, self.id, self.closed = "", recording_id, False
        self.now: dict[str, float] = {}
        self.layout: Any = None
        Stream.last = self
        Stream.opened.append(self)

    def save(self, path: str) -> None:
        self.path = path

    def set_time(
        self, timeline: str, duration: float | None = None, sequence: int | None = None
    ) -> None:
        self.now[timeline] = sequence if duration is None else duration

    def reset_time(self) -> None:
        self.now = {}

    def log(self, name: str, what: Any, static: bool = False) -> None:
        assert not self.closed
        at = {} if static else dict(self.now)
        self.logged.setdefault(name, []).append((at.get("video"), what))
        self.moments.setdefault(name, []).append(at)

    def send_blueprint(self, layout: Any) -> None:
        self.layout = layout

    def flush(self) -> None:
        pass

    def disconnect(self) -> None:
        self.closed = True


class Picture(np.ndarray):
    def compress(self, jpeg_quality: int) -> "Picture":
        return self


def shape(name: str) -> Any:
    """Stands for a class of rerun: keeps what it was made of."""
    return lambda *given, **named: SimpleNamespace(kind=name, given=given, **named)


def stand_in() -> Any:
    """Stands for the package."""
    views = ("Spatial2DView", "TimeSeriesView", "TextDocumentView", "TimePanel")
    return SimpleNamespace(
        RecordingStream=Stream,
        Image=lambda pixels: np.asarray(pixels).view(Picture),
        Scalars=lambda value: value,
        **{name: shape(name) for name in ("DepthImage", "Points2D", "LineStrips2D")},
        TextDocument=lambda text, media_type: text,
        blueprint=SimpleNamespace(
            **{
                name: shape(name)
                for name in (*views, "Horizontal", "Vertical", "Tabs", "Blueprint")
            }
        ),
    )


def put_in_place(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> type[Stream]:
    """Have modules that import the package get this instead."""
    Stream.opened.clear()
    package = stand_in()
    for module in modules:
        monkeypatch.setattr(module, "import_rerun", lambda: package)
    return Stream
