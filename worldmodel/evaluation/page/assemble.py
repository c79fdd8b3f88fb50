"""The page from a report's folder: what lies there is shown, what does not is said in words."""

import base64
import functools
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from worldmodel.errors import InputError
from worldmodel.evaluation.card import VERDICTS, card_table, report_card
from worldmodel.evaluation.card_figure import left_end
from worldmodel.evaluation.page import card_rows, curves
from worldmodel.evaluation.page.card_rows import MeasureRow, axis_percent, measure_rows, slug
from worldmodel.evaluation.page.clips import Watched, WatchedBlock, read_clips, still_jpeg
from worldmodel.evaluation.page.text import to_html
from worldmodel.evaluation.page.words import CAPTIONS, CARD_CAPTION, KINDS, Caption, warnings
from worldmodel.evaluation.protocol import PROTOCOL
from worldmodel.evaluation.section_tables import SECTIONS, beside_table, interval, number
from worldmodel.evaluation.tables import section_of, summary_table

PAGE_NAME = "report.html"
HERE = Path(__file__).parent
# What a table raises on a section that another version wrote, with other keys.
OTHER_LAYOUT = (KeyError, TypeError, AttributeError, ValueError, IndexError, StopIteration)


@dataclass(frozen=True)
class Picture:
    """A figure of the report; without `uri` the reason why it cannot be shown.

    Attributes:
        caption: what it shows.
        uri: the PNG itself.
        size: (width, height) in pixels.
        missing: why there is none.
    """

    caption: Caption
    uri: str = ""
    size: tuple[int, int] = (0, 0)
    missing: str = ""


@dataclass(frozen=True)
class PageSection:
    """A section of the report on the page.

    Attributes:
        anchor: of its heading.
        title: of its heading.
        html: its tables; empty where there are none.
        missing: why there are none.
        pictures: that belong to it.
    """

    anchor: str
    title: str
    html: Markup
    missing: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class ConceptRows:
    """A concept of the report card with its measures.

    Attributes:
        concept: of the card.
        rows: a line each; the first stands beside the concept's name.
    """

    concept: Mapping[str, Any]
    rows: tuple[MeasureRow, ...]


@dataclass(frozen=True)
class CardView:
    """The report card on the page.

    Attributes:
        concepts: youngest first.
        chance, perfect: where they are on the axis of all rows, in percent of its width.
        missing: why there are no rows.
    """

    concepts: tuple[ConceptRows, ...] = ()
    chance: float = 0.0
    perfect: float = 0.0
    missing: str = ""


@dataclass(frozen=True)
class BlockView:
    """A block to watch.

    Attributes:
        block: as read.
        chart: its curves, placed.
        video, still: data URIs.
        size: (width, height) of the video.
        asks, shows: what its kind is about, and what AB and BA show.
        verdict: what came out on this block.
        kind_score: the report's score of the whole kind with its nulls; empty where it has none.
        missing: why its video cannot be shown.
    """

    block: WatchedBlock
    chart: curves.Chart
    video: str
    still: str
    size: tuple[int, int]
    asks: str
    shows: str
    verdict: str
    kind_score: str
    missing: str = ""


def write_page(folder: Path) -> Path:
    """Make `report.html` of what lies in a report's folder; nothing is measured anew.

    Args:
        folder: with `report.json` and, as far as there are any, `figures/` and `clips/`.

    Returns:
        Where the page lies.

    Raises:
        InputError: the folder holds no report, or one that cannot be read.
    """
    page = page_html(read_report(folder), folder)
    path = folder / PAGE_NAME
    path.write_text(page, encoding="utf-8")
    return path


def read_report(folder: Path) -> dict[str, Any]:
    """The content of a folder's `report.json`.

    Raises:
        InputError: there is none, or it is no JSON object.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise InputError(
            f"no report.json in {folder}: `worldmodel evaluate --checkpoint FILE --out {folder}` "
            "makes one"
        )
    return read_object(path, "worldmodel evaluate")


def read_object(path: Path, command: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: of the file.
        command: that makes it, for errors.

    Raises:
        InputError: there is none, or something else.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read; `{command}` makes it") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); evaluate again") from error
    if not isinstance(report, dict):
        raise InputError(f"{path} holds a {type(report).__name__}, no report; evaluate again")
    return report


def page_html(report: Mapping[str, Any], folder: Path) -> str:
    """The whole page.

    Args:
        report: the content of `report.json`; any section may be missing or `absent`.
        folder: where `figures/` and `clips/` are looked for.
    """
    meta = report.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    script = (HERE / "page.js").read_text(encoding="utf-8")
    card = _card(report)
    watched, no_clips = _watched(folder, meta)
    config = meta.get("config")
    return template("page.html.j2").render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts=_facts(meta),
        warnings=list(warnings(report)),
        words=_words(card),
        card=_card_view(card),
        rule=_tried(lambda: to_html(card_table(card), "Report card")),
        card_picture=_picture(folder, CARD_CAPTION),
        summary=_tried(lambda: to_html(summary_table(report), "Model and best null")),
        beside=_beside(report),
        watched=watched,
        blocks=[_block_view(block, report) for block in watched.blocks] if watched else [],
        no_clips=no_clips,
        sections=[_section(*each, report, folder) for each in SECTIONS],
        more_pictures=list(_more_pictures(folder)),
        protocol=to_html(PROTOCOL, "Protocol"),
        config=_config_text(config) if config else "",
        provenance=provenance_rows(meta),
        row=card_rows,
        area=curves,
    )


@functools.cache
def template(name: str) -> Any:
    """A template of this folder; what it is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"slug": slug, "plain": lambda name: str(name).replace("_", " ")}
    return environment.get_template(name)


def _tried(write: Any) -> Markup:
    """What `write` gives, or in words why it cannot."""
    try:
        return write()
    except OTHER_LAYOUT as error:
        return Markup('<p class="missing">{}</p>').format(_other_layout(error))


def _other_layout(error: Exception) -> str:
    return (
        "The report lacks what a report of this version has here "
        f"({type(error).__name__}: {error})."
    )


# --- What stands at the top ----------------------------------------------------------------------


def _facts(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which model, code and set, in a few words each."""
    data = meta.get("data")
    data = data if isinstance(data, Mapping) else {}
    seconds = meta.get("seconds")
    given = [
        ("checkpoint", str(meta.get("checkpoint_sha256") or "")[:12]),
        ("step", str(meta.get("global_step", ""))),
        ("set", str(data.get("index_sha256") or "")[:12]),
        ("test clips", str(data.get("num_clips", ""))),
        ("test blocks", str(data.get("num_blocks", ""))),
        ("worldmodel", str(meta.get("version", ""))),
        ("commit", str(meta.get("git_commit") or "")[:12]),
        ("device", str(meta.get("device", ""))),
        ("evaluated in", f"{seconds:.0f} s" if isinstance(seconds, int | float) else ""),
    ]
    return [(name, value) for name, value in given if value]


def _card(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The report's own card, or one made of its sections where an older report has none."""
    card = report.get("card")
    if isinstance(card, Mapping):
        concepts = card.get("concepts")
        if isinstance(concepts, list) and all(isinstance(each, Mapping) for each in concepts):
            return card
    return report_card(report)


def _words(card: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Per verdict the concepts that have it, those without any left out."""
    found: dict[str, list[str]] = {word: [] for word in VERDICTS}
    for concept in card["concepts"]:
        found.setdefault(str(concept.get("verdict")), []).append(str(concept.get("concept")))
    return [(word, names) for word, names in found.items() if names]


def _card_view(card: Mapping[str, Any]) -> CardView:
    try:
        left = left_end(each for concept in card["concepts"] for each in concept["measures"])
        concepts = tuple(
            ConceptRows(concept, tuple(measure_rows(concept, left))) for concept in card["concepts"]
        )
        return CardView(concepts, *axis_percent(left))
    except OTHER_LAYOUT as error:
        return CardView(missing=_other_layout(error))


def _beside(report: Mapping[str, Any]) -> Markup:
    others = report.get("beside")
    if not isinstance(others, Mapping) or not others:
        return Markup("")
    return _tried(lambda: to_html(beside_table(others, report), "Beside other models"))


# --- Blocks --------------------------------------------------------------------------------------


def _watched(folder: Path, meta: Mapping[str, Any]) -> tuple[Watched | None, str]:
    try:
        return read_clips(folder, meta), ""
    except InputError as error:
        return None, str(error)


def _block_view(block: WatchedBlock, report: Mapping[str, Any]) -> BlockView:
    asks, shows = KINDS.get(block.kind, ("", ""))
    still, size, missing = "", (0, 0), ""
    try:
        jpeg, size = still_jpeg(block)
        still = data_uri("image/jpeg", jpeg)
    except InputError as error:
        missing = str(error)
    return BlockView(
        block=block,
        chart=curves.Chart.of(block),
        video="" if missing else data_uri("video/mp4", block.video),
        still=still,
        size=size,
        asks=asks,
        shows=shows,
        verdict=_verdict(block),
        kind_score=_kind_score(report, block.kind),
        missing=missing,
    )


def _verdict(block: WatchedBlock) -> str:
    impossible = block.scores["AB"] + block.scores["BA"]
    possible = block.scores["AA"] + block.scores["BB"]
    sums = (
        f"AB + BA = {impossible:.3f}, AA + BB = {possible:.3f}, difference "
        f"{impossible - possible:+.2g}"
    )
    if block.relative_accuracy == 1:
        return f"In this block the impossible clips surprise more: {sums}."
    if block.relative_accuracy == 0:
        return f"In this block the impossible clips do not surprise more: {sums}."
    return f"In this block the possible and the impossible clips surprise alike: {sums}."


def _kind_score(report: Mapping[str, Any], kind: str) -> str:
    """The whole kind's score beside its nulls, in a line."""
    try:
        values = report["surprise"][kind]
        null = values["null"]
        untrained = null["untrained"]
        return (
            f"All {values['num_blocks']} blocks: relative accuracy "
            f"{number(values['relative_accuracy'])} ({interval(values['ci95'])}); untrained "
            f"{number(untrained['mean'])} ({interval([untrained['low'], untrained['high']])}), "
            f"copy {number(null['copy'])}, pixels with a long memory {number(null['pixels_long'])}."
        )
    except OTHER_LAYOUT:
        return ""


# --- Sections and pictures -----------------------------------------------------------------------


def _section(
    title: str, path: str, write: Any, report: Mapping[str, Any], folder: Path
) -> PageSection:
    anchor, reason = "s-" + re.sub(r"\W", "-", path), _absent(report, path)
    if reason is not None:
        return PageSection(anchor, title, Markup(""), reason, ())
    html = _tried(lambda: to_html(write(section_of(report, path)), title))
    pictures = tuple(_picture(folder, each) for each in CAPTIONS if each.section == path)
    return PageSection(anchor, title, html, "", pictures)


def _absent(report: Mapping[str, Any], path: str) -> str | None:
    """Why there is no section at a path; None where there is one."""
    names = path.split(".")
    for depth in range(1, len(names) + 1):
        here = section_of(report, ".".join(names[:depth]))
        if here is None:
            return "This report has no such section."
        if "absent" in here:
            return f"Absent: {here['absent']}."
    return None


def _picture(folder: Path, caption: Caption) -> Picture:
    path = folder / "figures" / f"{caption.name}.png"
    if not path.is_file():
        return Picture(caption, missing=f"There is no figures/{path.name} in the report's folder.")
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            size = image.size
    except (UnidentifiedImageError, OSError, ValueError):
        return Picture(caption, missing=f"figures/{path.name} is no PNG that can be read.")
    return Picture(caption, data_uri("image/png", data), size)


def _more_pictures(folder: Path) -> Iterator[Picture]:
    """Figures that no section knows of."""
    known = {caption.name for caption in (*CAPTIONS, CARD_CAPTION)}
    for path in sorted((folder / "figures").glob("*.png")):
        if path.stem not in known:
            name = path.stem.replace("_", " ")
            yield _picture(folder, Caption(path.stem, "", name, f"Figure: {name}"))


def data_uri(media: str, data: bytes) -> str:
    """Bytes as an address that needs no file."""
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


# --- Where it comes from -------------------------------------------------------------------------


def _config_text(config: Any) -> str:
    """The configuration as YAML, what is innermost on one line."""
    return yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=88)


def provenance_rows(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything in `meta` but the configuration, nested names joined, numbers as they stand."""

    def walk(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
        for name, value in values.items():
            here = f"{path} {name}".strip().replace("_", " ")
            if isinstance(value, Mapping):
                yield from walk(value, here)
            elif isinstance(value, bool):
                yield here, "yes" if value else "no"
            else:
                yield here, str(value)

    return list(walk({name: value for name, value in meta.items() if name != "config"}, ""))
