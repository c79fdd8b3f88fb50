"""The report as text: `report.md`, and the summary that commands print."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldmodel.evaluation.card import card_table
from worldmodel.evaluation.protocol import PROTOCOL
from worldmodel.evaluation.readings import section_at
from worldmodel.evaluation.section_tables import (
    SECTIONS,
    beside_table,
    interval,
    missing,
    number,
    table,
)

PICTURES = (
    "loss_curves",
    "prediction_ratios",
    "depth_strip",
    "hidden_position",
    "position_ahead",
    "surprise_block",
    "surprise_kinds",
)


def section_of(report: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The section at a dotted path; None where the report has none."""
    return section_at(report, path.split(".")) or None


def present(report: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The section at a dotted path where it was measured; nothing where it was not."""
    section = section_of(report, path)
    return {} if section is None or "absent" in section else section


def markdown(report: Mapping[str, Any], figures: Path) -> str:
    """The whole report as `report.md`.

    Args:
        report: the content of `report.json`.
        figures: folder of its pictures, beside `report.md`; those that are not there (loss curves
            of a run without `metrics.csv`) are not shown.
    """
    meta = report["meta"]
    data = meta["data"]
    parts = [
        "# What the model knows",
        f"Checkpoint {meta['checkpoint_sha256'][:12]} at step {meta['global_step']}, worldmodel "
        f"{meta['version']} ({meta['git_commit'][:12]}), on {meta['device']} in "
        f"{meta['seconds']:.0f} s. Set {data['index_sha256'][:12]}, split {data['split']}: "
        f"{data['num_clips']} clips, {data['num_blocks']} blocks; reference set: "
        f"{'yes' if data['reference_hash_equal'] else 'no'}.",
        summary_table(report),
    ]
    if "beside" in report:
        parts += ["## Beside other models", beside_table(report["beside"], report)]
    if "card" in report:
        parts += ["## Report card", "![report card](figures/report_card.png)"]
        parts.append(card_table(report["card"]))
    for title, path, write in SECTIONS:
        section = section_of(report, path)
        if section is not None:
            parts += [f"## {title}", missing(section) or write(section)]
    parts += ["## Protocol", PROTOCOL.rstrip()]
    drawn = [name for name in PICTURES if (figures / f"{name}.png").is_file()]
    parts += ["## Pictures", "\n".join(f"![{name}](figures/{name}.png)" for name in drawn)]
    return "\n\n".join(parts) + "\n"


def summary_table(report: Mapping[str, Any]) -> str:
    """The headline numbers, each beside its strongest null; what `make train` prints at its end."""
    rows = [
        [
            f"prediction, {level}, {horizon}: error / best trivial",
            number(values["skill_ratio"]),
            "1.00",
            "below",
        ]
        for level, horizons in present(report, "prediction").items()
        for horizon, values in list(horizons.items())[-1:]
    ]
    collapse, depth = present(report, "collapse"), present(report, "depth")
    if collapse:
        rank = min(values["rank_fraction"] for values in collapse.values())
        rows.append(["smallest rank, share of width", number(rank), "0.15", "above"])
    if depth:
        best = min(null["rmse_m"] for null in depth["null"].values())
        rows.append(["depth, rmse m", number(depth["rmse_m"]), number(best), "below"])
    for title, path, name in (
        ("position, visible, r2", "position.visible", "r2"),
        ("position, hidden, r2", "position.hidden", "r2"),
        ("velocity, r2", "velocity", "r2"),
        ("camera motion, r2", "camera_motion", "r2"),
        ("category, balanced accuracy", "category", "balanced_accuracy"),
        ("animacy, AUROC", "animacy", "auroc"),
        ("support, AUROC", "support", "auroc"),
        ("contact, AUROC", "contact", "auroc"),
        ("behind the screen, accuracy", "permanence", "accuracy"),
    ):
        section = section_of(report, path)
        if section is not None and name in section:
            best = max(null[name] for null in section["null"].values())
            rows.append([title, number(section[name]), number(best), "above"])
    for kind, values in present(report, "surprise").items():
        rules = [null for null in values["null"].values() if not isinstance(null, Mapping)]
        null = max(values["null"]["untrained"]["mean"], *rules, 0.5)
        score = f"{values['relative_accuracy']:.2f} ({interval(values['ci95'])})"
        rows.append([f"surprise, {kind}", score, number(null), "above"])
    return table(["what", "model", "best null", "should be"], rows)
