"""The command line and nothing else: what a person types, and errors in one line."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from worldmodel import __version__
from worldmodel.errors import InputError, one_line
from worldmodel.signals import hear_early, hear_no_more

# Exit code of a command that was used wrongly, as argparse has it.
MISUSED = 2
FAILED = 1
LOST_PEER = (
    "worldmodel: error: another process of this training is gone, and this one ends with it; what "
    "happened there stands above or in its own log"
)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: what was typed after `worldmodel`; that of this process if not given.

    Returns:
        The exit code: 0 done, 2 something given cannot be used (one line on stderr says what), 128
        and more (or `WORLDMODEL_STOP_CODE`) if a signal ended a training, whose checkpoint is
        written then.
    """
    # Threads that wait for work fall asleep after some 10 µs. Awake for ever, which is the default,
    # two threads beside any other busy process made a training step on two cores 15 times slower;
    # asleep at once, a fifth slower on idle ones. Read when torch loads its OpenMP.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        if arguments and arguments[0] in ("fit", "validate"):
            return train(None if args is None else arguments)
        return run(arguments)
    except (InputError, ArgumentError) as error:
        print(f"worldmodel: error: {one_line(error)}", file=sys.stderr)
        return MISUSED
    except Exception as error:
        # jsonargparse and Lightning wrap what our constructors raise.
        cause = find_input_error(error)
        if cause is None:
            raise
        print(f"worldmodel: error: {one_line(cause)}", file=sys.stderr)
        return MISUSED


def find_input_error(error: BaseException | None) -> InputError | None:
    """The InputError that an exception was raised from, if any."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


def train(args: list[str] | None) -> int:
    """`fit` and `validate`: Lightning's command line over the task and the data module.

    Returns:
        The exit code: 128 + its number where a signal ended the run, as shells have it, or what
        `WORLDMODEL_STOP_CODE` says.
    """
    own_process = args is None and sys.argv[1:2] == ["fit"]
    if own_process:
        hear_early()
    # Imported here: torch and Lightning take seconds that `--help` and `generate` do not need.
    from worldmodel.callbacks import StopOnSignal, is_lost_peer
    from worldmodel.training import TrainCLI

    # The strings under the fields of the configuration classes are their help texts.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    quieten()
    try:
        callbacks = TrainCLI(args).trainer.callbacks  # type: ignore[attr-defined]
    except Exception as error:
        if find_input_error(error) is None and is_lost_peer(error):
            print(LOST_PEER, file=sys.stderr)
            return FAILED
        raise
    if own_process:
        hear_no_more()
    return max((each.exit_code for each in callbacks if isinstance(each, StopOnSignal)), default=0)


def quieten() -> None:
    """Leave out what Lightning says about choices made on purpose here."""
    for message in (
        ".*does not have many workers.*",
        ".*TorchScript.*",
        ".*Experiment logs directory.*exists and is not empty.*",
        ".*The number of training batches.*is smaller than the logging interval.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*You're resuming from a checkpoint that ended before the epoch ended.*",
        ".*The dirpath has changed.*",
        ".*could not find the monitored key.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        # Nothing changes tokens or states in place.
        ".*FSDP2-wrapped module .* returned a view tensor.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not record.getMessage().startswith(("TPU", "💡", "GPU available: False"))
    )


def run(args: list[str]) -> int:
    """The commands that are not training."""
    parser = ArgumentParser(
        prog="worldmodel",
        description="Video world models: make data, train, evaluate. "
        "`worldmodel COMMAND --help` explains one command.",
        version=__version__,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="command", required=True)
    for name, (describe, _) in COMMANDS.items():
        command = ArgumentParser(
            description=(describe.__doc__ or "").splitlines()[0], exit_on_error=False
        )
        describe(command)
        commands.add_subcommand(name, command, help=command.description)
    for name, text in (
        ("fit", "Train a model."),
        ("validate", "Score a model on validation clips."),
    ):
        commands.add_subcommand(name, ArgumentParser(description=text), help=text)
    if not args:
        parser.print_help()
        return MISUSED
    config = parser.parse_args(args)
    COMMANDS[config.command][1](config[config.command])
    return 0


def add_engine_arguments(parser: ArgumentParser) -> None:
    """Who does the work, for commands that make shards."""
    parser.add_argument("--processes", type=int, default=None, help="default: one per core")
    parser.add_argument(
        "--engine",
        type=Literal["processes", "ray"],
        default="processes",
        help="processes of this machine, or a Ray cluster (the extra `ray`): the one that is "
        "running, else one of this machine alone; all its nodes must see the same paths",
    )


def generate_arguments(parser: ArgumentParser) -> None:
    """Make a set of the physics world: videos whose truth is known, and matched blocks."""
    from worldmodel.world.style import Mix

    parser.add_argument("--out", type=str, required=True, help="folder of the set")
    parser.add_argument(
        "--num_clips", type=int, default=2000, help="training clips; a tenth each beside them"
    )
    parser.add_argument(
        "--num_blocks",
        type=int,
        default=20,
        help="test blocks per kind; half as many for validation and for unseen looks (ood)",
    )
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument(
        "--leave_out",
        type=str,
        nargs="*",
        default=[],
        help="kinds whose events are not shown in training and validation clips",
    )
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_class_arguments(Mix, "mix", help="shares of what scenes show, 0 to 1")
    add_engine_arguments(parser)


def generate(config: Namespace) -> None:
    """Run `generate`."""
    from worldmodel.data.engine import interruptible
    from worldmodel.world.generate import generate
    from worldmodel.world.style import Mix

    with interruptible():
        generate(
            Path(config.out),
            num_clips=config.num_clips,
            num_blocks=config.num_blocks,
            size=config.size,
            seed=config.seed,
            processes=config.processes,
            mix=Mix(**config.mix),
            leave_out=config.leave_out,
            engine=config.engine,
        )


def pack_arguments(parser: ArgumentParser) -> None:
    """Put real videos into shards; what cannot be decoded is named and skipped."""
    parser.add_argument("videos", type=str, nargs="+", help="folders, files or globs")
    parser.add_argument("--out", type=str, required=True, help="folder of the set")
    parser.add_argument("--size", type=int, default=128, help="short side in pixels")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="do not encode anew: the picture stream as it is, one sample per video, at its own "
        "size, which --size does not change",
    )
    parser.add_argument(
        "--cuts", type=bool, default=True, help="look for scene cuts, so that no clip straddles one"
    )
    add_engine_arguments(parser)


def pack(config: Namespace) -> None:
    """Run `pack`."""
    from worldmodel.data.engine import interruptible
    from worldmodel.data.pack import pack

    with interruptible():
        pack(
            config.videos,
            Path(config.out),
            size=config.size,
            processes=config.processes,
            engine=config.engine,
            keep=config.keep,
            scene_cuts=config.cuts,
        )


def inspect_arguments(parser: ArgumentParser) -> None:
    """Say what is in shards, and draw a contact sheet of it."""
    parser.add_argument("shards", type=str, nargs="+", help="tar files or globs")
    parser.add_argument(
        "--out", type=str, default="contact-sheet.png", help="where the picture goes"
    )
    parser.add_argument(
        "--blocks", type=str, default=None, help="folder for a picture of each kind of block"
    )


def inspect(config: Namespace) -> None:
    """Run `inspect`."""
    from worldmodel.data.inspect import inspect_shards

    blocks = None if config.blocks is None else Path(config.blocks)
    print(inspect_shards(config.shards, Path(config.out), blocks))


def verify_arguments(parser: ArgumentParser) -> None:
    """Check shards against their index, and that every sample in them can be used."""
    parser.add_argument("shards", type=str, nargs="+", help="tar files, globs or folders of sets")
    parser.add_argument("--processes", type=int, default=None, help="default: one per core")


def verify(config: Namespace) -> None:
    """Run `verify`."""
    from worldmodel.data.engine import interruptible

    with interruptible("what was found broken so far stands above"):
        from worldmodel.data.verify import verify_shards  # takes seconds

        report = verify_shards(config.shards, processes=config.processes)
    if report.broken:
        raise InputError(report.summary())
    print(report.summary())


def bench_arguments(parser: ArgumentParser) -> None:
    """Measure speed, as ratios against references in the same run."""
    parser.add_argument(
        "what", type=Literal["generate", "loader", "train", "plan"], help="what is measured"
    )
    parser.add_argument("--out", type=str, default=None, help="JSON file of all figures")
    parser.add_argument("--num_clips", type=int, default=48, help="generate: per size and version")
    parser.add_argument(
        "--rounds", type=int, default=5, help="loader, train: turns of each subject"
    )
    parser.add_argument("--config", type=str, default="configs/tiny.yaml", help="train: of what")
    parser.add_argument("--steps", type=int, default=60, help="train: timed steps of each turn")
    parser.add_argument("--shards", type=str, default=None, help="train: a small set by default")
    parser.add_argument("--compiled", type=bool, default=False, help="train: torch.compile as well")
    parser.add_argument(
        "--subjects",
        type=str,
        nargs="+",
        default=[],
        help="train: only these of bare, memory, stream, workers, ddp, compiled",
    )


def check_writable(path: Path) -> None:
    """Find out whether a file can be written, before minutes are spent on what goes into it.

    Raises:
        InputError: it cannot.
    """
    try:
        is_new = not path.exists()
        path.open("a").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; name a file in a folder that is there"
        ) from error


def bench(config: Namespace) -> None:
    """Run `bench`."""
    if config.out is not None:
        check_writable(Path(config.out))
    if config.what == "loader":
        from worldmodel.data.bench import LoaderBench, bench_loader, bench_table

        report = bench_loader(LoaderBench(rounds=config.rounds))
        table = bench_table(report)
    elif config.what == "train":
        from worldmodel import training_bench

        options = training_bench.TrainBench(
            config=config.config,
            steps=config.steps,
            rounds=config.rounds,
            shards=config.shards,
            compiled=config.compiled,
            subjects=config.subjects,
        )
        report = training_bench.bench_train(options)
        table = training_bench.bench_table(report)
    elif config.what == "plan":
        from worldmodel.data import plan_bench

        report = plan_bench.bench_plan(plan_bench.PlanBench())
        table = plan_bench.bench_table(report)
    else:
        from worldmodel.world import bench

        report = bench.bench_generate(config.num_clips)
        table = bench.bench_table(report)
    if config.out is not None:
        try:
            Path(config.out).write_text(json.dumps(report, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"cannot write {config.out}: {error.strerror or error}") from error
    print(table)


def evaluate_arguments(parser: ArgumentParser) -> None:
    """Measure what a checkpoint knows: a report with figures, every number beside its nulls."""
    from worldmodel.evaluation.benchmarks.options import BenchmarkOptions

    parser.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="for example last.ckpt; an exported folder or the name of shipped weights; or a "
        "folder or hf://org/name of an encoder on Hugging Face",
    )
    parser.add_argument("--out", type=str, required=True, help="folder of the report")
    parser.add_argument("--data", type=str, default=None, help="a generated set (data/physics)")
    parser.add_argument(
        "--beside", type=str, nargs="*", default=[], help="checkpoints to compare on the same clips"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="clips handed over at once")
    parser.add_argument(
        "--num_workers", type=int, default=None, help="processes; default: one per core"
    )
    parser.add_argument(
        "--benchmark", type=str, default=None, help="a published one instead (docs/benchmarks.md)"
    )
    parser.add_argument("--root", type=str, default=None, help="the benchmark's folder")
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_class_arguments(BenchmarkOptions, "options", help="what some benchmarks ask for")


def evaluate(config: Namespace) -> None:
    """Run `evaluate`."""
    out = Path(config.out)
    if config.benchmark is not None:
        evaluate_on_benchmark(config)
        return
    if config.root is not None:
        raise InputError("--root is a benchmark's folder: name the benchmark with --benchmark")
    from worldmodel.evaluation.report import evaluate
    from worldmodel.evaluation.tables import summary_table

    report = evaluate(
        config.checkpoint,
        out,
        data=None if config.data is None else Path(config.data),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        beside=config.beside,
    )
    print(summary_table(report))
    print(f"page:     {os.path.join(out, 'report.html')}")
    print(f"report:   {os.path.join(out, 'report.md')}")
    print(f"card:     {os.path.join(out, 'figures', 'report_card.png')}")
    print(f"pictures: {os.path.join(out, 'figures')}")


def evaluate_on_benchmark(config: Namespace) -> None:
    """Run `evaluate --benchmark`."""
    from worldmodel.evaluation.benchmarks.options import BenchmarkOptions
    from worldmodel.evaluation.benchmarks.run import run_benchmark
    from worldmodel.evaluation.page import write_benchmark_page

    if config.root is None:
        raise InputError(f"--benchmark {config.benchmark} needs --root, the benchmark's folder")
    out = Path(config.out)
    run_benchmark(
        config.benchmark,
        Path(config.root),
        config.checkpoint,
        out,
        BenchmarkOptions(**config.options),
        config.num_workers or 0,
    )
    print((out / f"{config.benchmark}.md").read_text(encoding="utf-8"))
    print(f"page:     {write_benchmark_page(out, config.benchmark)}")


def page_arguments(parser: ArgumentParser) -> None:
    """Make a report's page, report.html, again from its folder; nothing is measured anew.

    So are the pages of benchmarks that lie there.
    """
    parser.add_argument("report", type=str, help="folder of `worldmodel evaluate`")


def page(config: Namespace) -> None:
    """Run `page`."""
    from worldmodel.evaluation.page import benchmark_names, write_benchmark_page, write_page

    folder = Path(config.report)
    names = benchmark_names(folder)
    for name in names:
        print(write_benchmark_page(folder, name))
    if (folder / "report.json").is_file() or not names:
        print(write_page(folder))


def compare_arguments(parser: ArgumentParser) -> None:
    """Reports of several runs side by side, and which differences are more than chance."""
    parser.add_argument(
        "runs",
        type=str,
        nargs="+",
        help="runs' versions such as runs/tiny/version_0, folders of reports or exports, "
        "report.json files, names of shipped models; others are compared with the first, and "
        "seeds of one configuration are taken together",
    )
    parser.add_argument("--out", type=str, default=None, help="folder of page, numbers and picture")


def compare(config: Namespace) -> None:
    """Run `compare`."""
    from worldmodel.compare.run import PICTURE, compare

    print(compare(config.runs, None if config.out is None else Path(config.out)))
    if config.out is not None:
        print(f"picture: {os.path.join(config.out, PICTURE)}")


def ablate_arguments(parser: ArgumentParser) -> None:
    """Train variants of a configuration at equal budget, and compare what they have learned."""
    parser.add_argument(
        "--study", type=str, default="configs/ablation.yaml", help="questions and their variants"
    )
    parser.add_argument("--out", type=str, default="ablation", help="folder of results")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a core each")
    parser.add_argument("--only", type=str, nargs="*", default=[], help="ids of questions")


def ablate(config: Namespace) -> None:
    """Run `ablate`."""
    from worldmodel.ablation.run import ablate
    from worldmodel.data.engine import interruptible

    with interruptible():
        print(ablate(Path(config.study), Path(config.out), config.jobs, config.only))


def export_arguments(parser: ArgumentParser) -> None:
    """Write a checkpoint as weights to share: safetensors, config.json and a model card."""
    parser.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="for example last.ckpt or a run's folder; or an export, by its folder or the name of "
        "shipped weights, which gets a report or a licence later",
    )
    parser.add_argument("--out", type=str, required=True, help="folder of the export")
    parser.add_argument(
        "--report", type=str, default=None, help="folder of its report, for the card's numbers"
    )
    parser.add_argument("--trained_by", type=str, default=None, help="the command that made it")
    parser.add_argument("--licence", type=str, default=None, help="of the weights: apache-2.0")


def export(config: Namespace) -> None:
    """Run `export`."""
    from worldmodel.export import export_model

    report = None if config.report is None else Path(config.report)
    print(
        export_model(
            config.checkpoint,  # as text: a shipped name or an address is no path
            Path(config.out),
            report=report,
            command=config.trained_by,
            licence=config.licence,
        )
    )


def surprise_arguments(parser: ArgumentParser) -> None:
    """Surprise over time on any video: plot, table, and the video with a map of the surprise."""
    parser.add_argument("videos", type=str, nargs="+", help="folders, files or globs")
    parser.add_argument("--checkpoint", type=str, required=True, help="for example last.ckpt")
    parser.add_argument("--out", type=str, required=True, help="gets a folder for each video")
    parser.add_argument("--level", type=int, default=None, help="whose map is drawn (default: 0)")
    parser.add_argument(
        "--horizon", type=int, default=None, help="in its steps (default: the farthest)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling")
    parser.add_argument(
        "--rerun", action="store_true", help="also a file for the Rerun viewer (the extra `rerun`)"
    )
    parser.add_argument(
        "--probes",
        type=str,
        default=None,
        help="for its depth and belief: folder of the model's report, or probes.safetensors "
        "(default: those beside the model)",
    )


def surprise(config: Namespace) -> None:
    """Run `surprise`."""
    from worldmodel.evaluation.videos.video_surprise import surprise_videos

    if (config.level is None) != (config.horizon is None):
        raise InputError("give both --level and --horizon, or neither")
    place = None if config.level is None else (config.level, config.horizon)
    summaries = surprise_videos(
        config.checkpoint,
        config.videos,
        Path(config.out),
        place,
        seed=config.seed,
        rerun=config.rerun,
        probes=config.probes,
    )
    for summary in summaries:
        print(summary["folder"])


def encode_arguments(parser: ArgumentParser) -> None:
    """Tokens and context states of any videos, with their times: npz files and an index of them."""
    parser.add_argument("videos", type=str, nargs="+", help="folders, files or globs")
    parser.add_argument(
        "--checkpoint", type=str, required=True, help="for example last.ckpt, or a shipped model"
    )
    parser.add_argument(
        "--out", type=str, required=True, help="gets a file for each video, and index.parquet"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="squeeze whole frames into the square that the model sees, as `surprise` does; by "
        "default the square in the middle, as in training",
    )


def encode(config: Namespace) -> None:
    """Run `encode`."""
    from worldmodel.evaluation.videos.video_tokens import INDEX_NAME, encode_videos

    for row in encode_videos(config.checkpoint, config.videos, Path(config.out), config.whole):
        print(os.path.join(config.out, row["file"]))
    print(f"index: {os.path.join(config.out, INDEX_NAME)}")


COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], None]]] = {
    "generate": (generate_arguments, generate),
    "pack": (pack_arguments, pack),
    "inspect": (inspect_arguments, inspect),
    "verify": (verify_arguments, verify),
    "evaluate": (evaluate_arguments, evaluate),
    "page": (page_arguments, page),
    "compare": (compare_arguments, compare),
    "surprise": (surprise_arguments, surprise),
    "encode": (encode_arguments, encode),
    "export": (export_arguments, export),
    "ablate": (ablate_arguments, ablate),
    "bench": (bench_arguments, bench),
}
