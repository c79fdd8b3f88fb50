"""The reports that are compared: where they lie, and how what they measured was trained."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldmodel.errors import InputError
from worldmodel.evaluation.collapse import has_collapsed
from worldmodel.export import read_run_folder, training_sets, training_settings
from worldmodel.models.checkpoint import CONFIG_NAME, is_export, shipped_folder, shipped_names
from worldmodel.models.hub_files import REPORT_NAME, first_line, read_json

# Of a model's own description: what it is, and not where it came from.
ARCHITECTURE = ("encoder", "levels", "top_down", "clip")
# Which say nothing about what was learned.
NO_SETTINGS = ("seed", "command")


@dataclass(frozen=True)
class RunReport:
    """One report.

    Attributes:
        name: of its run, no two alike.
        file: `report.json`.
        content: what it holds.
        settings: what made the weights what they are, but for the seed; None where that is not
            known, and then the run is nobody's second seed.
        seed: of the training; None where it is not known.
    """

    name: str
    file: Path
    content: Mapping[str, Any]
    settings: Mapping[str, Any] | None
    seed: int | None

    @property
    def meta(self) -> Mapping[str, Any]:
        """Where the report comes from."""
        return self.content["meta"]

    @property
    def collapsed(self) -> list[str]:
        """Levels whose tokens use next to none of their directions, in words."""
        found = []
        for level, values in self.content.get("collapse", {}).items():
            rank, share = values.get("effective_rank"), values.get("rank_fraction")
            if rank and share and has_collapsed(rank, round(rank / share)):
                found.append(f"{level} ({rank:.1f} of {round(rank / share)} directions)")
        return found


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, which differ by their seeds alone; most often one.

    Attributes:
        name: of the first, and how many there are.
        runs: in the order given.
    """

    name: str
    runs: tuple[RunReport, ...]

    @property
    def reports(self) -> list[Mapping[str, Any]]:
        """What the runs' reports hold."""
        return [run.content for run in self.runs]


def read_reports(sources: Sequence[str]) -> tuple[list[RunReport], list[str]]:
    """The reports that are named, and those that are not there, in words.

    Args:
        sources: folders of runs' versions, of reports or of exports, `report.json` files, or names
            of shipped models.

    Raises:
        InputError: a path does not exist, a file is no report, or fewer than two reports are there.
    """
    found: list[RunReport] = []
    missing: list[str] = []
    for source in sources:
        file = find_report(source)
        if isinstance(file, str):
            missing.append(file)
        else:
            with as_written([file]):
                found.append(read_report(source, file))
    if len(found) < 2:
        lacking = f" ({'; '.join(missing)})" if missing else ""
        raise InputError(
            f"comparing needs at least two reports, got {len(found)}{lacking}; give folders such "
            "as runs/tiny/version_0, report.json files or names of shipped models"
        )
    return with_names(found), missing


def find_report(source: str) -> Path | str:
    """The `report.json` that is meant; where a run or an export has none, that in words.

    Raises:
        InputError: there is no such path.
    """
    path = Path(source)
    if path.is_file():
        return path
    for folder in (path, path / "report"):
        if (folder / REPORT_NAME).is_file():
            return folder / REPORT_NAME
    if source in shipped_names():
        file = shipped_folder() / source / REPORT_NAME
        return file if file.is_file() else f"the shipped model {source} comes without a report"
    if not path.is_dir():
        raise InputError(
            f"there is no report at {source}: give a run's version such as runs/tiny/version_0, a "
            f"folder with report.json or that file; shipped are {', '.join(shipped_names())}"
        )
    versions = sorted(each.parents[1].name for each in path.glob(f"*/report/{REPORT_NAME}"))
    if versions:
        raise InputError(f"{source} holds several runs: give {' or '.join(versions)} of it")
    last = path / "checkpoints" / "last.ckpt"
    if last.is_file():
        return (
            f"{source} has no report: worldmodel evaluate --checkpoint {last} "
            f"--out {path / 'report'} makes one"
        )
    return f"{source} has no report, and no checkpoint that one could be made of"


@contextmanager
def as_written(files: Iterable[Path]) -> Iterator[None]:
    """Says in one line that reports are not what this version writes, whatever goes wrong with one.

    Args:
        files: of the reports that are looked at.

    Raises:
        InputError: something in one is missing or of another kind.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        names = [str(file) for file in files]
        which = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
        raise InputError(
            f"{which} is not as this version writes reports ({type(error).__name__}: "
            f"{first_line(error)}); evaluate the checkpoint again"
        ) from error


def read_report(source: str, file: Path) -> RunReport:
    """One report with what is known of its training.

    Args:
        source: what a person gave.
        file: its `report.json`.

    Raises:
        InputError: the file cannot be read, or holds no report.
    """
    content = read_json(file)
    meta = content.get("meta")
    if not isinstance(meta, dict) or not isinstance(meta.get("data"), dict):
        raise InputError(
            f"{file} is no report of `worldmodel evaluate`: it has no `meta` that says on what data"
        )
    folder = file.resolve().parent
    run = folder.parent if folder.name == "report" else folder
    # An export's report may be older than the export, and not say how its checkpoint was trained.
    config = read_json(folder / CONFIG_NAME) if is_export(folder) else meta.get("config") or {}
    settings, seed = settings_of(config, read_run_folder(run))
    if settings is not None:
        settings = settings | {"steps": meta.get("global_step")}
    if source in shipped_names() and not Path(source).exists():
        name = source
    elif run.parent.parent.name == "runs":
        name = f"{run.parent.name}/{run.name}"
    else:
        name = run.name if folder.name == "report" or file.name == REPORT_NAME else file.stem
    return RunReport(name, file, content, settings, seed)


def settings_of(
    config: Mapping[str, Any], run: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, int | None]:
    """What made a model what it is, and the seed; None and None where it is not known.

    Args:
        config: the model's own description, as a report has it.
        run: the run's configuration; empty where there is none.
    """
    described = {name: config[name] for name in ARCHITECTURE if name in config}
    if isinstance(config.get("training"), dict) and "method" in config["training"]:
        training = config["training"]
        sets = (config.get("data") or {}).get("sets") or []
    elif run:
        training, sets = training_settings(run), training_sets(run)
    else:
        return None, None
    # The order of keys is that of whoever wrote the file.
    described |= {name: value for name, value in training.items() if name not in NO_SETTINGS}
    described["shards"] = [each["shards"] for each in sets]
    described["left_out"] = list((config.get("data") or {}).get("left_out") or [])
    seed = training.get("seed")
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    return described, seed if whole else None


def with_names(reports: Sequence[RunReport]) -> list[RunReport]:
    """The reports with short names, no two alike."""
    # Without its version where only one of a run is given.
    versions: dict[str, set[str]] = {}
    for report in reports:
        versions.setdefault(report.name.split("/")[0], set()).add(report.name)
    names = [
        short if len(versions[short := report.name.split("/")[0]]) == 1 else report.name
        for report in reports
    ]
    named = []
    for number, report in enumerate(reports):
        earlier = names[:number].count(names[number])
        name = names[number] + (f" ({earlier + 1})" if earlier else "")
        named.append(replace(report, name=name))
    return named


def group_seeds(reports: Sequence[RunReport]) -> list[Group]:
    """Runs of one configuration together, in the order in which each is first named.

    A run whose seed the group has already is no second sample of it and stands by itself.
    """
    groups: list[list[RunReport]] = []
    for report in reports:
        home = next((group for group in groups if _belongs(report, group)), None)
        if home is None:
            groups.append([report])
        else:
            home.append(report)
    return [
        Group(runs[0].name + (f", {len(runs)} seeds" if len(runs) > 1 else ""), tuple(runs))
        for runs in groups
    ]


def _belongs(report: RunReport, group: Sequence[RunReport]) -> bool:
    return (
        report.settings is not None
        and report.seed is not None
        and report.settings == group[0].settings
        and report.seed not in [each.seed for each in group]
    )


def setting_differences(one: Group, other: Group) -> dict[str, tuple[Any, Any]] | None:
    """Settings by their dotted names that differ; None where one of the two is not known."""
    mine, theirs = one.runs[0].settings, other.runs[0].settings
    if mine is None or theirs is None:
        return None
    flat, theirs_flat = flatten(mine), flatten(theirs)
    names = [*flat, *(name for name in theirs_flat if name not in flat)]
    return {
        name: (flat.get(name), theirs_flat.get(name))
        for name in names
        if flat.get(name) != theirs_flat.get(name)
    }


def flatten(settings: Any, name: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; lists of plain values stay whole."""
    if isinstance(settings, Mapping) and settings:
        items = list(settings.items())
    elif isinstance(settings, list) and any(isinstance(each, Mapping) for each in settings):
        items = list(enumerate(settings))
    else:
        return {name: settings}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{name}.{key}" if name else str(key))
    return flat
