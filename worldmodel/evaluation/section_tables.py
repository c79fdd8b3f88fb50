"""Each section of the report as markdown: every number beside what it must be compared with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldmodel.evaluation.probes.depth_metrics import METRICS

Rows = Sequence[Sequence[str]]
Section = Mapping[str, Any]


def number(value: Any, digits: int = 2) -> str:
    """A number for people; `-` where there is none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:z.{digits}f}"  # z: never -0.00


def chance_text(p: float | None) -> str:
    """A p-value for people."""
    return "<0.001" if p is not None and p < 0.001 else number(p, 3)


def interval(values: Sequence[float] | None, digits: int = 2) -> str:
    """An interval for people."""
    return "-" if values is None else " to ".join(number(value, digits) for value in values)


def table(head: Sequence[str], rows: Rows) -> str:
    """A markdown table with aligned columns, readable as it stands."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join(padded) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def missing(section: Section) -> str | None:
    """Why a section could not be measured, in words; None where it was."""
    return f"Absent: {section['absent']}." if "absent" in section else None


def collapse_table(section: Section) -> str:
    """`collapse`."""
    rows = [
        [name, number(v["effective_rank"], 1), number(v["rank_fraction"]), number(v["min_std"], 3)]
        for name, v in section.items()
    ]
    return table(["level", "effective rank", "share of width", "smallest deviation"], rows)


def prediction_table(section: Section) -> str:
    """`prediction`."""
    names = ("error", "copy_ratio", "running_mean_ratio", "ar1_ratio", "skill_ratio")
    rows = [
        [level, horizon, str(values["horizon_frames"]), *(number(values[n], 3) for n in names)]
        for level, horizons in section.items()
        for horizon, values in horizons.items()
    ]
    head = ["level", "horizon", "frames", "error", "/ copy", "/ mean so far", "/ AR(1)", "/ best"]
    return table(head, rows)


def depth_table(section: Section) -> str:
    """`depth`."""
    cases = {"model, linear": section, "model, convolution": section["conv"]}
    if "null" in section["conv"]:
        cases["untrained, convolution"] = section["conv"]["null"]["untrained"]
    cases |= section["null"]
    rows = [
        [case, *(number(values[name], 3) for name in METRICS)] for case, values in cases.items()
    ]
    parts = [table(["all cells", *METRICS], rows)]
    objects = [
        [case, *(number(values["objects"][name], 3) for name in METRICS)]
        for case, values in cases.items()
        if "objects" in values
    ]
    if objects:
        parts.append(table(["objects", *METRICS], objects))
    counts = (
        f"{section['num_clips']} clips, {section['num_frames']} frames, tokens of level 0; 95 % "
        f"interval of the rmse {interval(section['ci95_rmse_m'], 3)} m"
    )
    if "objects" in section:
        counts += f" (objects {interval(section['objects'].get('ci95_rmse_m'), 3)} m)"
    gain = section.get("ci95_gain_over_untrained_m")
    if gain is not None:
        counts += f", of what it is below the untrained network's {interval(gain, 3)} m"
    parts.append(counts + ".")
    places = [
        [source, level, number(values["rmse_m"], 3), number(values["delta1"], 3)]
        for source, levels in section["by_level"].items()
        for level, values in levels.items()
    ]
    parts.append(table(["read from", "level", "rmse m", "delta1"], places))
    few = [
        [
            name.removeprefix("percent") + " %",
            str(values["num_clips"]),
            number(values["rmse_m"], 3),
            number(values.get("null", {}).get("untrained", {}).get("rmse_m"), 3),
        ]
        for name, values in section["data_efficiency"].items()
    ]
    parts.append(table(["labels", "clips", "rmse m", "untrained"], few))
    return "\n\n".join(parts)


def position_table(section: Section) -> str:
    """`position.visible`, `.partly` or `.hidden`."""
    cases = {"model": section, "model, MLP": section["mlp"], **section["null"]}
    rows = [[case, number(v["r2"]), number(v["mae_px"], 1)] for case, v in cases.items()]
    parts = [
        table(["from", "r2", "mean error px"], rows),
        f"{section['num_frames']} frames of {section['num_clips']} clips, level "
        f"{section['level']}; 95 % interval of r2 {interval(section['ci95_r2'])}.",
        by_level_table(section["by_level"], "r2"),
    ]
    few = [
        [name.removeprefix("percent") + " %", number(v["r2"]), number(v["untrained_r2"])]
        for name, v in section["data_efficiency"].items()
    ]
    parts.append(table(["labels", "r2", "untrained"], few))
    lengths = section.get("by_frames_hidden")
    if lengths:
        nulls = list(next(iter(lengths.values()))["null"])
        rows = [
            [
                name.removeprefix("frames").replace("to", " to ").replace("on", " on"),
                str(v["num_frames"]),
                number(v["mae_px"], 1),
                *(number(v["null"][each], 1) for each in nulls),
            ]
            for name, v in lengths.items()
        ]
        parts.append(table(["hidden for", "frames", "error px", *nulls], rows))
    return "\n\n".join(parts)


def by_level_table(section: Section, name: str) -> str:
    """One score from every level's tokens and context states, and the untrained network's."""
    levels = sorted({level for values in section.values() for level in values})
    rows = [
        [kind.replace("_", " "), *(number(values.get(level, {}).get(name)) for level in levels)]
        for kind, values in section.items()
    ]
    return table([f"{name} from", *levels], rows)


def motion_table(section: Section) -> str:
    """`velocity` or `camera_motion`."""
    unit = "mae_px_per_second"
    names = ["r2"] + ([unit] if unit in section else [])
    rows = [
        [case, *(number(values[name]) for name in names)]
        for case, values in {"model": section, **section["null"]}.items()
    ]
    parts = [
        table(["from", *(name.replace("_", " ") for name in names)], rows),
        f"{section['num_frames']} frames, level {section['level']}; 95 % interval of r2 "
        f"{interval(section['ci95_r2'])}.",
    ]
    for part in ("partly", "hidden"):
        some = section.get(part, {})
        if "r2" in some:
            null = some["null"]["untrained"]
            parts.append(
                f"{part.capitalize()}{' hidden' if part == 'partly' else ''}: r2 "
                f"{number(some['r2'])} ({interval(some['ci95_r2'])}), untrained "
                f"{number(null['r2'])}, {some['num_frames']} frames, level {some['level']}."
            )
    return "\n\n".join(parts)


def thing_table(section: Section) -> str:
    """`category`, `animacy`, `support` or `contact`."""
    names = [name for name in ("balanced_accuracy", "accuracy", "auroc") if name in section]
    cases = {"model": section, **section["null"]}
    rows = [[case, *(number(values[name]) for name in names)] for case, values in cases.items()]
    counted = "auroc" if "ci95_auroc" in section else "balanced_accuracy"
    more = f", {section['num_positive']} of them positive" if "num_positive" in section else ""
    return "\n\n".join(
        [
            table(["from", *(name.replace("_", " ") for name in names)], rows),
            f"{section['num_things']} things in {section['num_clips']} clips{more}; "
            f"{section['source']} of level {section['level']}; chance {section['chance']:.2f}, 95 "
            f"% interval of the {counted.replace('_', ' ')} "
            f"{interval(section[f'ci95_{counted}'])}.",
            by_level_table(section["by_level"], counted),
        ]
    )


def permanence_table(section: Section) -> str:
    """`permanence`."""
    rows = [
        [case, number(values["accuracy"]), number(values["auroc"])]
        for case, values in {"model": section, **section["null"]}.items()
    ]
    lengths = [
        [
            name.removeprefix("frames").replace("to", " to ").replace("on", " on"),
            str(values["num_steps"]),
            number(values["accuracy"]),
            number(values.get("untrained")),
        ]
        for name, values in section["by_frames_hidden"].items()
    ]
    return "\n\n".join(
        [
            table(["from", "accuracy", "AUROC"], rows),
            f"{section['num_steps']} steps of {section['num_blocks']} blocks, level "
            f"{section['level']}; 95 % interval of the accuracy "
            f"{interval(section['ci95_accuracy'])}.",
            by_level_table(section["by_level"], "accuracy"),
            table(["frames alike", "steps", "accuracy", "untrained"], lengths),
        ]
    )


def _untrained(null: Section) -> str:
    mark = ", biased" if null["biased"] else ""
    return f"{null['mean']:.2f} ({null['low']:.2f} to {null['high']:.2f}{mark})"


def surprise_table(section: Section) -> str:
    """`surprise` or `surprise_ood`."""
    rows, peaks, splits = [], [], []
    for kind, values in section.items():
        null, corrected = values["null"], values.get("p_holm", {})
        rows.append(
            [
                kind + (" (left out of training)" if values.get("left_out") else ""),
                number(values["relative_accuracy"]),
                interval(values["ci95"]),
                chance_text(corrected.get("chance")),
                chance_text(corrected.get("untrained")),
                number(values["relative_accuracy_max"]),
                number(values["pair_accuracy"]),
                number(values["auroc"]),
                str(values["num_blocks"]),
                _untrained(null["untrained"]),
                *(number(null[name]) for name in ("copy", "pixels_short", "pixels_long")),
            ]
        )
        peaks.append([kind, *_peak(values["peak"]), *_peak(values.get("peak_space", {}), "")])
        for title in ("by_hiding", "by_variant", "by_camera"):
            splits += [
                [
                    f"{kind}, {part}",
                    number(some["relative_accuracy"]),
                    str(some["num_blocks"]),
                    number(some.get("untrained")),
                ]
                for part, some in values.get(title, {}).items()
            ]
    first = next(iter(section.values()))
    networks = first["null"]["untrained"]["num_networks"]
    head = ["kind", "relative accuracy", "95 %", "p, chance", "p, untrained", "by maximum"]
    head += ["pairs", "AUROC", "blocks", f"{networks} untrained", "copy", "pixels, short"]
    stability = section.get("overall", {}).get("choice_stability")
    place = f"Read at {first['place']}"
    if stability is not None:
        place += f", which won on {100 * stability:.0f} % of resamples of the validation blocks"
    peak_head = ["peak within a step", "hits", "excess", "untrained", "excess", "chance"]
    return "\n\n".join(
        [
            table([*head, "pixels, long"], rows),
            f"{place}. Both p are corrected for the number of kinds (Holm).",
            table([*peak_head, "in place", "untrained", "chance"], peaks),
            table(["kind and part", "relative accuracy", "blocks", "untrained"], splits),
        ]
    )


def _peak(values: Section, excess: str = "excess_hit_rate") -> list[str]:
    untrained = values.get("null", {}).get("untrained", {})
    names = ["hit_rate"] + ([excess] if excess else [])
    cells = [number(values.get(name)) for name in names]
    return [*cells, *(number(untrained.get(name)) for name in names), number(values.get("chance"))]


def places_table(section: Section) -> str:
    """`surprise_by_level`, or `surprise_by_context` with one more step of nesting."""
    rows: list[list[str]] = []
    kinds: list[str] = []

    def walk(values: Section, path: list[str]) -> None:
        if all("relative_accuracy" in each for each in values.values()):
            kinds[:] = list(values)
            rows.append([" ".join(path), *(number(values[k]["relative_accuracy"]) for k in values)])
            return
        for name, inner in values.items():
            walk(inner, [*path, name])

    walk(section, [])
    return table(["", *kinds], rows)


def combined_table(section: Section) -> str:
    """`surprise_combined`."""
    levels = [name for name in next(iter(section.values())) if name.startswith("level")]
    rows = [
        [
            kind,
            number(values["relative_accuracy"]),
            *(number(values[level]["relative_accuracy"]) for level in levels),
        ]
        for kind, values in section.items()
    ]
    return table(["kind", "all levels", *levels], rows)


def ahead_table(section: Section) -> str:
    """`position_ahead`."""
    rows = [
        [
            f"{level} {horizon}",
            str(values["horizon_frames"]),
            number(values["r2"]),
            interval(values["ci95_r2"]),
            number(values["mae_px"], 1),
            number(values["null"]["copy"]["r2"]),
            number(values["null"]["copy"]["mae_px"], 1),
            number(values["real_tokens"]["r2"]),
            str(values["num_frames"]),
        ]
        for level, horizons in section.items()
        for horizon, values in horizons.items()
    ]
    head = ["predicted by", "frames ahead", "r2", "95 %", "error px", "copy r2", "copy px"]
    return table([*head, "r2 of real tokens", "frames"], rows)


ROUTES = {
    "fine_rollout": "level 0 step by step",
    "fine_direct": "level 0 in large steps",
    "coarse_direct": "the slowest level in large steps",
    "copy": "copy",
}


def rollout_table(section: Section) -> str:
    """`rollout`."""
    rows = []
    for gap, values in section.items():
        names = [name.removesuffix("_mflops") for name in values if name.endswith("_mflops")]
        for name in (*names, "copy"):
            saved = values.get(f"{name}_ci95_gain")
            rows.append(
                [
                    gap.removeprefix("gap"),
                    ROUTES.get(name, name.removesuffix("_direct").replace("level", "level ")),
                    number(values.get(name), 1),
                    number(values.get(f"{name}_gain")),
                    "" if saved is None else interval(saved),
                    number(values.get(f"{name}_mflops"), 0),
                    str(values.get(f"{name}_runs", "")),
                    str(values["num_frames"]),
                ]
            )
    head = ["frames ahead", "by", "error px", "saved of step by step's", "95 %", "MFLOP"]
    return table([*head, "runs of the predictor", "clips"], rows)


def beside_table(others: Section, report: Section) -> str:
    """`beside`: the headline numbers of other checkpoints on the same clips."""
    wanted: list[tuple[str, tuple[str, ...]]] = [
        ("depth, rmse m", ("depth", "rmse_m")),
        ("of how many cells a frame", ("depth", "cells_per_frame")),
        ("position, visible, r2", ("position", "visible", "r2")),
        ("position, hidden, r2", ("position", "hidden", "r2")),
        ("velocity, r2", ("velocity", "r2")),
        ("camera motion, r2", ("camera_motion", "r2")),
        ("category, balanced accuracy", ("category", "balanced_accuracy")),
        ("behind the screen, accuracy", ("permanence", "accuracy")),
        ("surprise, reveal", ("surprise", "reveal", "relative_accuracy")),
        ("surprise, overall", ("surprise", "overall", "relative_accuracy")),
    ]

    def find(whole: Section, path: tuple[str, ...]) -> str:
        value: Any = whole
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return number(value)

    rows = [
        [title, find(report, path), *(find(other, path) for other in others.values())]
        for title, path in wanted
    ]
    return table(["on the same clips", "this model", *others], rows)


SECTIONS: tuple[tuple[str, str, Callable[[Section], str]], ...] = (
    ("Collapse", "collapse", collapse_table),
    ("Prediction", "prediction", prediction_table),
    ("Depth", "depth", depth_table),
    ("Position, visible", "position.visible", position_table),
    ("Position, partly hidden", "position.partly", position_table),
    ("Position, hidden", "position.hidden", position_table),
    ("Position, read from predictions", "position_ahead", ahead_table),
    ("Velocity", "velocity", motion_table),
    ("Motion of the camera", "camera_motion", motion_table),
    ("What is it?", "category", thing_table),
    ("Does it move by itself?", "animacy", thing_table),
    ("Does something carry it?", "support", thing_table),
    ("Does it touch anything?", "contact", thing_table),
    ("Is it behind the screen?", "permanence", permanence_table),
    ("Violation of expectation", "surprise", surprise_table),
    ("The same with looks that no training showed", "surprise_ood", surprise_table),
    ("The same at every level and horizon", "surprise_by_level", places_table),
    ("The same with a limited past", "surprise_by_context", places_table),
    ("The same with levels combined", "surprise_combined", combined_table),
    ("Many small steps or one large one", "rollout", rollout_table),
)
"""Title, place in the report, and how it is written."""
