"""Were the runs measured alike? What stands in the way of comparing them, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.compare.differences import cells_of
from worldmodel.compare.reports import Group, RunReport
from worldmodel.evaluation.readings import report_measures, section_at

HASH_LETTERS = 12
COUNTS = ("num_train_clips", "num_val_clips", "num_clips", "num_blocks")


def find_unlike(groups: Sequence[Group]) -> tuple[dict[int, str], list[str]]:
    """Configurations that were measured otherwise than the first, and everything to be told.

    Args:
        groups: at least one; the first is what others are compared with.

    Returns:
        By number of the group why its differences are not judged, and notes, those reasons
        included.
    """
    base = groups[0].runs[0]
    unlike: dict[int, str] = {}
    notes: list[str] = []
    for number, group in enumerate(groups):
        for run in group.runs:
            reason = measured_otherwise(base, run)
            if reason is not None:
                unlike.setdefault(number, reason)
                notes.append(
                    f"{run.name}: {reason}; what it differs by is shown, and not called better or "
                    "worse."
                )
    # Of the first group any run may be the odd one, and then nothing can be judged.
    if 0 in unlike:
        unlike |= {number: unlike[0] for number in range(1, len(groups)) if number not in unlike}
    runs = [run for group in groups for run in group.runs]
    cells = cells_of(groups)
    if len(cells) > 1:
        notes.append(
            f"Depth was asked at {' and '.join(map(str, sorted(cells)))} places of a frame (16 for "
            "each token of level 0): its differences are shown, and not called better or worse."
        )
    return unlike, [*notes, *_told(runs), *_same_weights(groups), *_missing_sections(runs)]


def measured_otherwise(base: RunReport, run: RunReport) -> str | None:
    """Why two reports cannot be compared; None where they can."""
    one, two = base.meta["data"], run.meta["data"]
    if one.get("index_sha256") != two.get("index_sha256"):
        return (
            f"measured on another set than {base.name} (index {_short(two.get('index_sha256'))}, "
            f"not {_short(one.get('index_sha256'))})"
        )
    if one.get("split") != two.get("split"):
        return f"measured on the split {two.get('split')}, {base.name} on {one.get('split')}"
    for name in COUNTS:
        if one.get(name) != two.get(name):
            what = name.removeprefix("num_").replace("_", " ")
            return (
                f"measured with other numbers of samples than {base.name} "
                f"({two.get(name)} {what}, not {one.get(name)})"
            )
    protocols = [each.meta.get("protocol_sha256") for each in (base, run)]
    if None not in protocols and protocols[0] != protocols[1]:
        return (
            f"measured by another protocol than {base.name} (versions {_version(run)} and "
            f"{_version(base)}): evaluate both by one version"
        )
    return None


def _told(runs: Sequence[RunReport]) -> list[str]:
    """What is to be known of single runs, and of how they were measured."""
    notes = []
    for run in runs:
        if run.collapsed:
            notes.append(
                f"{run.name} has collapsed at {', '.join(run.collapsed)}: how well such a level "
                "predicts itself says nothing and is not judged."
            )
        left_out = (run.meta.get("config") or {}).get("data", {}).get("left_out")
        if left_out:
            notes.append(f"{run.name} was trained without events of {', '.join(left_out)}.")
        if run.settings is None:
            notes.append(
                f"How {run.name} was trained is not known: there is no config.yaml of its run "
                "beside the report; it is nobody's second seed."
            )
    unknown = [run for run in runs if "protocol_sha256" not in run.meta]
    commits = {run.meta.get("git_commit") for run in runs}
    if unknown and len(commits) > 1:
        names = ", ".join(run.name for run in unknown)
        notes.append(
            f"{names}: an older report, which does not say by which protocol it was measured, and "
            f"the versions differ ({', '.join(sorted({_version(run) for run in runs}))}). If how "
            "things are measured has changed between them, differences hold that too; evaluate "
            "all by one version."
        )
    clips = {str((run.meta.get("config") or {}).get("clip")): run.name for run in runs}
    if len(clips) > 1:
        notes.append(
            "The models see other clips: "
            + "; ".join(f"{name} {_clip(runs, name)}" for name in clips.values())
            + ". A number of frames is then not the same time."
        )
    return notes


def _clip(runs: Sequence[RunReport], name: str) -> str:
    clip = next(
        (run.meta.get("config") or {}).get("clip") or {} for run in runs if run.name == name
    )
    if not clip:
        return "unknown"
    return (
        f"{clip.get('num_frames')} frames of {clip.get('size')} pixels a side at "
        f"{clip.get('fps')} a second"
    )


def _same_weights(groups: Sequence[Group]) -> list[str]:
    """Runs that are one and the same model."""
    runs = [run for group in groups for run in group.runs]
    notes = []
    for number, run in enumerate(runs):
        for earlier in runs[:number]:
            if weights_of(run) & weights_of(earlier):
                notes.append(f"{run.name} and {earlier.name} are the same weights.")
                break
    return notes


def weights_of(run: RunReport) -> set[str]:
    """Hashes under which a run's weights are known: its checkpoint's, and its export's."""
    config = run.meta.get("config") or {}
    found = (run.meta.get("checkpoint_sha256"), config.get("checkpoint_sha256"))
    return {str(each) for each in (*found, config.get("weights_sha256")) if each}


def _missing_sections(runs: Sequence[RunReport]) -> list[str]:
    """Sections that some runs have and others lack, with the reason that a report gives."""
    notes = []
    measures = report_measures([run.content for run in runs])
    for run in runs:
        lacking: dict[str, list[str]] = {}
        for measure in (each for some in measures.values() for each in some):
            if measure.read(run.content) is not None:
                continue
            if any(measure.read(other.content) is not None for other in runs):
                reason = absence(run.content, measure.section)
                lacking.setdefault(reason, []).append(measure.name)
        notes += [
            f"{run.name} has no {'; '.join(names)}: {reason}." for reason, names in lacking.items()
        ]
    return notes


def absence(report: Mapping[str, Any], section: Sequence[str]) -> str:
    """Why a report lacks a number."""
    for depth in range(1, len(section) + 1):
        reason = section_at(report, section[:depth]).get("absent")
        if reason is not None:
            return str(reason)
    return "not in its report"


def _version(run: RunReport) -> str:
    return f"{run.meta.get('version')} {_short(run.meta.get('git_commit'))}"


def _short(digest: Any) -> str:
    return str(digest)[:HASH_LETTERS]
