"""The report as text: every number beside what it must be compared with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROTOCOL = """\
- Probes are linear (ridge) on frozen features, fitted on training clips, event clips mirrored as
  well; strength and level are chosen on validation and reported on test. `mlp` is one hidden layer
  on the same rows.
- Depth: from the level-0 token of a single frame to 4 x 4 cells of its patch, one head for all
  places: it maps a token's change from its mean at that place to the depth's. The pixel at a cell's
  centre is the truth; metric, no alignment; surfaces beyond 10 m count as 10 m; cells that hit
  nothing do not count.
- Position and velocity: from the context state, of the tracked object, at the last frame of each
  step of the level. Visible: more than 30 % of it shows. Hidden: none of it shows. Both only with
  the centre inside the image and the object seen before.
- copy_last_seen and constant_velocity are given the true past places: every earlier frame where the
  object is hidden, the frames of earlier steps where it is visible. clock: frame index and screen
  boxes with their squares and products.
- Permanence: probe fitted on single worlds, tested where worlds with and without the object are
  equal to the bit.
- Prediction: mean squared error over clips, steps, tokens and dimensions; all predictors on the
  same steps, from the second step of the clip on. AR(1) is fitted per dimension on training clips.
- Surprise: mean squared prediction error over tokens, dimensions and steps, in float64. Relative
  accuracy of a block: 1 if S(AB) + S(BA) > S(AA) + S(BB), 1/2 if equal within 1e-9 of their sum,
  else 0. One level and horizon for all kinds, chosen on validation blocks of the hidden kinds: the
  best mean over kinds; of equals the one that looks farthest ahead, then the lowest level.
  Untrained networks are scored at the same place. Overall: all hidden kinds. Gravity, inertia and
  collision happen in open view, where a memory of three frames is enough: a tier of their own.
- Intervals: 95 %, percentiles over resampled blocks or clips.
- The model runs in chunks of 8 clips, sorted by key, the last one padded.
"""

Rows = Sequence[Sequence[str]]


def number(value: Any, digits: int = 2) -> str:
    """A number for people; `-` where there is none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.{digits}f}"


def interval(values: Sequence[float] | None) -> str:
    """An interval for people."""
    return "-" if values is None else f"{values[0]:.2f} to {values[1]:.2f}"


def table(head: Sequence[str], rows: Rows) -> str:
    """A markdown table with aligned columns, readable as it stands."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join(padded) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def _missing(section: Mapping[str, Any]) -> str | None:
    return f"Absent: {section['absent']}." if "absent" in section else None


def _collapse(section: Mapping[str, Any]) -> str:
    rows = [
        [name, number(v["effective_rank"], 1), number(v["rank_fraction"]), number(v["min_std"], 3)]
        for name, v in section.items()
    ]
    return table(["level", "effective rank", "share of width", "smallest deviation"], rows)


def _prediction(section: Mapping[str, Any]) -> str:
    names = ("error", "copy_ratio", "running_mean_ratio", "ar1_ratio", "skill_ratio")
    rows = [
        [level, horizon, str(values["horizon_frames"]), *(number(values[n], 3) for n in names)]
        for level, horizons in section.items()
        for horizon, values in horizons.items()
    ]
    head = ["level", "horizon", "frames", "error", "/ copy", "/ mean so far", "/ AR(1)", "/ best"]
    return table(head, rows)


def _depth(section: Mapping[str, Any]) -> str:
    cases = {"model": section, "model, MLP": section["mlp"], **section["null"]}
    names = ("rmse_m", "abs_rel", "delta1")
    rows = [
        [
            case,
            *(number(values[name], 3) for name in names),
            *(number(values.get("objects", {}).get(name), 3) for name in names),
        ]
        for case, values in cases.items()
    ]
    head = ["from", "rmse m", "abs rel", "delta1", "objects: rmse m", "abs rel", "delta1"]
    counts = f"{section['num_clips']} clips, {section['num_frames']} frames, level 0"
    spread = f"95 % interval of the rmse {interval(section['ci95_rmse_m'])} m"
    return f"{table(head, rows)}\n\n{counts}; {spread}."


def _position(section: Mapping[str, Any]) -> str:
    missing = _missing(section)
    if missing:
        return missing
    cases = {"model": section, "model, MLP": section["mlp"], **section["null"]}
    rows = [[case, number(v["r2"]), number(v["mae_px"], 1)] for case, v in cases.items()]
    counts = f"{section['num_frames']} frames of {section['num_clips']} clips"
    return (
        f"{table(['from', 'r2', 'mean error px'], rows)}\n\n{counts}, level {section['level']}; "
        f"95 % interval of r2 {interval(section['ci95_r2'])}."
    )


def _velocity(section: Mapping[str, Any]) -> str:
    missing = _missing(section)
    if missing:
        return missing
    rows = [
        [case, number(values["r2"]), number(values["mae_px_per_second"], 1)]
        for case, values in {"model": section, **section["null"]}.items()
    ]
    return (
        f"{table(['from', 'r2', 'mean error px/s'], rows)}\n\n{section['num_frames']} frames, "
        f"level {section['level']}; 95 % interval of r2 {interval(section['ci95_r2'])}."
    )


def _permanence(section: Mapping[str, Any]) -> str:
    missing = _missing(section)
    if missing:
        return missing
    rows = [
        [case, number(values["accuracy"]), number(values["auroc"])]
        for case, values in {"model": section, **section["null"]}.items()
    ]
    return (
        f"{table(['from', 'accuracy', 'AUROC'], rows)}\n\n{section['num_steps']} steps of "
        f"{section['num_blocks']} blocks, level {section['level']}; 95 % interval of the accuracy "
        f"{interval(section['ci95_accuracy'])}."
    )


def _surprise(section: Mapping[str, Any]) -> str:
    rows = []
    for kind, values in section.items():
        null = values["null"]
        untrained = null["untrained"]
        rows.append(
            [
                kind,
                number(values["relative_accuracy"]),
                interval(values["ci95"]),
                number(values["relative_accuracy_max"]),
                number(values["auroc"]),
                str(values["num_blocks"]),
                f"{untrained['mean']:.2f} ± {untrained['std']:.2f}",
                *(number(null[name]) for name in ("copy", "pixels_short", "pixels_long")),
            ]
        )
    first = section["overall"]
    networks = first["null"]["untrained"]["num_networks"]
    head = ["kind", "relative accuracy", "95 %", "by maximum", "AUROC", "blocks"]
    head += [f"{networks} untrained", "copy", "pixels, short", "pixels, long"]
    return f"{table(head, rows)}\n\nLevel {first['level']}, horizon {first['horizon']} steps."


def _by_level(section: Mapping[str, Any]) -> str:
    places = [(level, horizon) for level in section for horizon in section[level]]
    kinds = list(section[places[0][0]][places[0][1]])
    rows = [
        [f"{level} {horizon}"]
        + [number(section[level][horizon][kind]["relative_accuracy"]) for kind in kinds]
        for level, horizon in places
    ]
    return table(["", *kinds], rows)


def _rollout(section: Mapping[str, Any]) -> str:
    rows = [
        [
            gap.removeprefix("gap"),
            *(number(values[name], 1) for name in ("fine_rollout", "coarse_direct", "copy")),
            f"level {values['level']}, {values['horizon']} steps",
            str(values["num_frames"]),
        ]
        for gap, values in section.items()
    ]
    head = ["frames ahead", "level 0 step by step, px", "slow level at once, px", "copy, px"]
    return table([*head, "slow level", "frames"], rows)


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report as `report.md`."""
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
    sections = (
        ("Collapse", "collapse", _collapse),
        ("Prediction", "prediction", _prediction),
        ("Depth", "depth", _depth),
        ("Velocity", "velocity", _velocity),
        ("Is it behind the screen?", "permanence", _permanence),
        ("Violation of expectation", "surprise", _surprise),
        ("The same at every level and horizon", "surprise_by_level", _by_level),
        ("Many small steps or one large one", "rollout", _rollout),
    )
    for title, name, write in sections:
        if name == "velocity":
            for part in ("visible", "hidden"):
                parts += [f"## Position, {part}", _position(report["position"][part])]
        if name in report:
            parts += [f"## {title}", write(report[name])]
    parts += ["## Protocol", PROTOCOL.rstrip()]
    pictures = [
        "loss_curves",
        "prediction_ratios",
        "depth_strip",
        "hidden_position",
        "surprise_block",
        "surprise_kinds",
    ]
    parts += ["## Pictures", "\n".join(f"![{name}](figures/{name}.png)" for name in pictures)]
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
        for level, horizons in report["prediction"].items()
        for horizon, values in list(horizons.items())[-1:]
    ]
    rank = min(values["rank_fraction"] for values in report["collapse"].values())
    rows.append(["smallest rank, share of width", number(rank), "0.15", "above"])
    depth = report["depth"]
    best = min(null["rmse_m"] for null in depth["null"].values())
    rows.append(["depth, rmse m", number(depth["rmse_m"]), number(best), "below"])
    scores = [
        (f"position, {part}, r2", report["position"][part], "r2") for part in ("visible", "hidden")
    ]
    scores.append(("velocity, r2", report["velocity"], "r2"))
    scores.append(("behind the screen, accuracy", report["permanence"], "accuracy"))
    for title, section, name in scores:
        if "absent" not in section:
            best = max(null[name] for null in section["null"].values())
            rows.append([title, number(section[name]), number(best), "above"])
    for kind, values in report["surprise"].items():
        null = max(values["null"]["untrained"]["mean"], 0.5)
        score = f"{values['relative_accuracy']:.2f} ({interval(values['ci95'])})"
        rows.append([f"surprise, {kind}", score, number(null), "above"])
    return table(["what", "model", "best null", "should be"], rows)


def summary_of(folder: Path) -> str:
    """`summary_table` of the report in a folder, or how to make one where there is none."""
    path = folder / "report.json"
    if not path.is_file():
        return (
            f"No report in {folder}: `worldmodel evaluate --checkpoint FILE --out DIR` makes one."
        )
    return summary_table(json.loads(path.read_text(encoding="utf-8")))
