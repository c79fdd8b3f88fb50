"""The page of a published benchmark's result: the words and tables of `NAME.md`, as one file."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from worldmodel.errors import InputError
from worldmodel.evaluation.page.assemble import (
    HERE,
    PageSection,
    provenance_rows,
    read_object,
    template,
)
from worldmodel.evaluation.page.text import to_html

# Nested parts of a result that say how it was measured, and no score.
SETTINGS = ("clip", "probe")


def benchmark_names(folder: Path) -> list[str]:
    """The benchmarks whose results lie in a folder, as `NAME.json` beside `NAME.md`."""
    found = sorted(path for path in folder.glob("*.json") if path.with_suffix(".md").is_file())
    return [path.stem for path in found if path.name != "report.json"]


def write_benchmark_page(folder: Path, name: str) -> Path:
    """Make `NAME.html` of what `evaluate --benchmark NAME` left in a folder.

    Args:
        folder: with `NAME.json` and `NAME.md`.
        name: of the benchmark.

    Returns:
        Where the page lies.

    Raises:
        InputError: a file is missing, or is no such result.
    """
    report = read_object(folder / f"{name}.json", "worldmodel evaluate --benchmark")
    try:
        text = (folder / f"{name}.md").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / name}.md cannot be read ({error}); evaluate again") from error
    title, *lines = text.splitlines() or [""]
    if report.get("benchmark") != name or not title.startswith("# "):
        raise InputError(f"{folder / name}.json and .md are no result of the benchmark {name}")
    page = template("benchmark.html.j2").render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        title=title.removeprefix("# "),
        name=name,
        sections=list(_sections("\n".join(lines))),
        provenance=provenance_rows(_settings(report)),
    )
    path = folder / f"{name}.html"
    path.write_text(page, encoding="utf-8")
    return path


def _sections(markdown: str) -> Iterator[PageSection]:
    """Parts of the text by their headings; what stands before the first is the result."""
    first, *others = re.split(r"^## (.+)$", markdown, flags=re.MULTILINE)
    parts = [("Result", first), *zip(others[::2], others[1::2], strict=True)]
    for title, text in parts:
        anchor = "s-" + re.sub(r"\W", "-", title)
        yield PageSection(anchor, title, to_html(text, title), "", ())


def _settings(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says of how it came about: names, counts and settings, but no score."""
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in report.items()
        if name in SETTINGS or not isinstance(value, float | Mapping)
        if value != []
    }
