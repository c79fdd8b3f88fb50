"""`worldmodel compare`: reports of several runs side by side."""

import json
from collections.abc import Sequence
from pathlib import Path

from worldmodel.compare.differences import Comparison, compare_groups
from worldmodel.compare.figure import comparison_figure
from worldmodel.compare.likeness import find_unlike
from worldmodel.compare.page import comparison_json, comparison_page
from worldmodel.compare.reports import as_written, group_seeds, read_reports
from worldmodel.errors import InputError

PAGE, NUMBERS, PICTURE = "compare.md", "compare.json", "compare.png"


def compare(sources: Sequence[str], out: Path | None = None) -> str:
    """Compare the reports of several runs with the first one's.

    Args:
        sources: folders of runs' versions, of reports or of exports, `report.json` files, or names
            of shipped models; runs of one configuration that differ by their seed are taken
            together.
        out: folder for `compare.md`, `compare.json` and `compare.png`; None writes nothing.

    Returns:
        The page in markdown.

    Raises:
        InputError: fewer than two reports, a file that is none, or a folder that cannot be written.
    """
    comparison = compare_reports(sources)
    with as_written(run.file for group in comparison.groups for run in group.runs):
        page = comparison_page(comparison)
        text = json.dumps(comparison_json(comparison), indent=2, allow_nan=False)
        figure = None if out is None else comparison_figure(comparison)
    if out is not None and figure is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / PAGE).write_text(page, encoding="utf-8")
            (out / NUMBERS).write_text(text + "\n", encoding="utf-8")
            figure.savefig(out / PICTURE, metadata={"Software": None})
        except OSError as error:
            raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    return page


def compare_reports(sources: Sequence[str]) -> Comparison:
    """What can be said of some reports.

    Raises:
        InputError: fewer than two reports, or one that is none of this program's.
    """
    reports, missing = read_reports(sources)
    for report in reports:  # alone first: who is odd is then known
        with as_written([report.file]):
            compare_groups(group_seeds([report]), find_unlike(group_seeds([report]))[0])
    with as_written(report.file for report in reports):
        groups = group_seeds(reports)
        unlike, notes = find_unlike(groups)
        return compare_groups(groups, unlike, [*(f"{each}." for each in missing), *notes])
