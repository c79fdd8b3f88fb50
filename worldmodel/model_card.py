"""The card of an exported model: what it is, how it was made, what it was measured to know.

Markdown with the front matter that the Hugging Face Hub reads. All numbers come from the export's
`config.json` and from the report; a card of equal content has equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.errors import InputError
from worldmodel.evaluation.card import unit
from worldmodel.evaluation.section_tables import chance_text, interval, number, table

TAGS = ("video", "world-model", "jepa", "self-supervised-learning")

USE = """\
```python
from worldmodel import WorldModel

model = WorldModel.from_pretrained("path/to/this/folder")  # or hf://org/name
tokens = model.encode(video, fps=30.0)  # uint8 (T, H, W, 3) -> per level (T_l, N_l, D_l)
ahead = model.predict(tokens)  # per level: context states, and tokens h steps ahead
surprise = model.surprise(video, fps=30.0)  # per (level, horizon): values, maps and seconds
```"""

LIMITS = """\
Meant for research on what video prediction teaches: as features for probes, for measuring surprise
over time, and as a small model to compare with.

- Surprise is an energy in each level's own units, no probability: compare it over time and with the
  copy predictor's, not between levels or models. Cuts and a jerking camera surprise every model.
- Scores hold for the set they were measured on. A probe's score says what can be read from the
  model, not that the model uses it; beside it stands what an untrained network of the same
  architecture has, and only what exceeds that was learned.
- It has seen what its training data shows and nothing else: not people, text or traffic unless they
  are in it. It must not be used to identify or to judge people, or where a mistake can do harm.
- It sees squares of {size} x {size} pixels, {num_frames} frames at a time, {fps:g} a second; not
  what is smaller, faster or takes longer."""

NO_REPORT = """\
No report came with this export. `worldmodel evaluate --checkpoint FOLDER --out report` measures the
model; a number without what an untrained network has says little."""


def model_card(
    config: Mapping[str, Any],
    num_weights: int,
    report: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> str:
    """The text of an export's `README.md`.

    Args:
        config: of the export.
        num_weights: how many numbers the model has learned.
        report: the content of `report.json`.
        licence: of the weights, as the Hub calls it.

    Raises:
        InputError: the report is none of ours.
    """
    clip, levels = config["clip"], config["levels"]
    parts = [
        front_matter(licence),
        f"# A video world model of {len(levels)} level{'s' if len(levels) > 1 else ''}",
        "A hierarchical joint-embedding predictive architecture: it learned from video alone, "
        "without actions, labels or pixels to reconstruct, by predicting what comes next in "
        f"representation space, at {len(levels)} time-scale{'s' if len(levels) > 1 else ''}. "
        f"{num_weights:,} weights, trained for {config['global_step']:,} steps; format version "
        f"{config['format_version']}, written by worldmodel {config.get('version', 'unknown')}.",
        levels_table(levels, clip["fps"]),
        "## Use",
        USE,
        "## How it was trained",
        training_text(config),
        "## What it knows",
        NO_REPORT if report is None else report_text(report),
        "## Intended use and limits",
        LIMITS.format(**clip),
        "## Files",
        f"`model.safetensors` has the SHA-256 `{config['weights_sha256']}`. It holds the weights "
        f"of the checkpoint with the SHA-256 `{config['checkpoint_sha256']}` that encode and "
        "predict, and no others. `config.json` says how pixels are scaled: (pixel * "
        "`rescale_factor` - `mean`) / `std`.",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(licence: str | None) -> str:
    """What the Hub reads at the top of a card."""
    lines = ["library_name: worldmodel", "pipeline_tag: feature-extraction", "tags:"]
    lines += [f"- {tag}" for tag in TAGS]
    if licence is not None:
        lines.insert(0, f"license: {licence}")
    return "\n".join(["---", *lines, "---"])


def levels_table(levels: Sequence[Mapping[str, Any]], fps: float) -> str:
    """One line per level: how slow it is and how far it looks ahead."""
    rows, span = [], 1
    for place, level in enumerate(levels):
        span *= level["stride"]
        ahead = [f"{horizon * span / fps:g}" for horizon in level["horizons"]]
        rows.append(
            [
                str(place),
                str(span),
                str(level["dim"]),
                ", ".join(str(horizon) for horizon in level["horizons"]),
                ", ".join(ahead),
            ]
        )
    head = ["level", "frames per step", "width of a token", "steps ahead", "seconds ahead"]
    return table(head, rows)


def _beginning(began_with: Mapping[str, Any] | None) -> list[list[str]]:
    if began_with is None:
        return []
    steps = _plain(began_with["global_step"])
    return [
        ["began with the weights of", f"`{began_with['source']}`, after {steps} steps"],
        ["SHA-256 of these", f"`{began_with['sha256']}`"],
    ]


def training_text(config: Mapping[str, Any]) -> str:
    """Command, seed, data and settings, as far as they are known."""
    training, data, clip = config["training"], config["data"], config["clip"]
    command = training.get("command")
    rows = [
        ["seed", _plain(training.get("seed"))],
        ["optimizer steps", _plain(config["global_step"])],
        *_beginning(config.get("began_with")),
        [
            "clips",
            f"{clip['num_frames']} frames at {clip['fps']:g} a second, "
            f"{clip['size']} x {clip['size']} pixels",
        ],
    ]
    for each in data["sets"]:
        index = each["index_sha256"]
        rows.append(["shards", f"`{each['shards']}`"])
        if index is not None:
            rows.append(["index of that set, SHA-256 at export", f"`{index}`"])
    left_out = data.get("left_out")
    if left_out:
        rows.append(["kinds of event left out of training", ", ".join(left_out)])
    settings = dict(training)
    for name in ("command", "seed"):
        settings.pop(name, None)
    if settings.get("max_steps") == config["global_step"]:
        settings.pop("max_steps")
    settings |= settings.pop("method", None) or {}
    rows += [
        [name.replace("_", " "), _plain(value)]
        for name, value in settings.items()
        if value is not None
    ]
    parts = [
        "The command was not recorded (`worldmodel export --trained_by` puts it here)."
        if command is None
        else f"    {command}",
        table(["what", "value"], rows),
    ]
    return "\n\n".join(parts)


def _plain(value: Any) -> str:
    """A setting for a table's cell."""
    if value is None:
        return "not recorded"
    if isinstance(value, str):
        return value.replace("|", "\\|")
    return f"`{json.dumps(value, default=str)}`" if isinstance(value, dict | list) else f"{value}"


def report_text(report: Mapping[str, Any]) -> str:
    """The key numbers of a report, each beside chance and its strongest null.

    Raises:
        InputError: it lacks what every report has.
    """
    try:
        meta = report["meta"]
        data = meta["data"]
        parts = [
            f"Measured with worldmodel {meta['version']} on the {data['split']} split of the set "
            f"with the index {data['index_sha256'][:12]}: {data['num_clips']} clips, "
            f"{data['num_blocks']} blocks of possible and impossible events. Everything else "
            "stands in `report.json`.",
            prediction_text(report),
        ]
        card = report.get("card")
        if card is not None:
            parts += [concepts_table(card), card["rule"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"report.json lacks what a report of this version has ({type(error).__name__}: "
            f"{error}); evaluate the checkpoint again"
        ) from error
    return "\n\n".join(part for part in parts if part)


def prediction_text(report: Mapping[str, Any]) -> str:
    """Prediction error at every level's farthest horizon over that of trivial predictors."""
    section, collapse = report.get("prediction") or {}, report.get("collapse") or {}
    if "absent" in section or "absent" in collapse:
        return ""
    rows = []
    for level, horizons in section.items():
        name, values = list(horizons.items())[-1]
        rank = collapse.get(level, {}).get("rank_fraction")
        rows.append(
            [
                f"{level}, {name}",
                str(values["horizon_frames"]),
                number(values["skill_ratio"]),
                number(values["copy_ratio"]),
                number(rank),
            ]
        )
    head = ["level, horizon", "frames ahead", "error / best trivial", "error / copy", "rank share"]
    return table(head, rows) if rows else ""


def concepts_table(card: Mapping[str, Any]) -> str:
    """The report card's measures with their intervals, chance and strongest null."""
    rows = []
    for concept in card["concepts"]:
        for measure in concept["measures"]:
            if "absent" in measure:
                continue
            null = measure["strongest_null"]
            mark = " (left out of training)" if measure["left_out"] else ""
            rows.append(
                [
                    f"{measure['name']}, {unit(measure['metric'])}{mark}",
                    number(measure["score"]),
                    interval(measure["interval"]),
                    number(measure["chance"]),
                    f"{number(null['score'])} {null['name']}" if null else "-",
                    chance_text(measure["p_holm"].get("chance")),
                    measure["verdict"],
                ]
            )
    return table(["what", "model", "95 %", "chance", "strongest null", "p", "word"], rows)
