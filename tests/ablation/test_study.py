"""A study's file: what variants resolve to, and what is said about a wrong one."""

import copy
from pathlib import Path
from typing import Any

import pytest
from made_up_results import BASE, STUDY, VICREG, study_in, write_study

from worldmodel.ablation.study import merge, read_study, refuse_misfits
from worldmodel.errors import InputError

ROOT = Path(__file__).parents[2]
MODULE = "worldmodel.losses.regularizers"
SIGREG = {"class_path": f"{MODULE}.SIGReg", "init_args": {"num_directions": 16}}


def changed(path: str, value: Any, content: dict[str, Any] = STUDY) -> dict[str, Any]:
    """The study with the value at a dotted path replaced; None removes it."""
    content = copy.deepcopy(content)
    *parents, last = path.split(".")
    found = content
    for name in parents:
        found = found[name]
    if value is None:
        del found[last]
    else:
        found[last] = value
    return content


def test_mappings_merge_and_lists_are_replaced() -> None:
    base = {"a": {"b": 1, "c": [1, 2], "d": {"e": 0}}, "f": 5}
    before = copy.deepcopy(base)
    merged = merge(base, {"a": {"c": [3], "d": {"g": 7}}, "f": {"h": 1}})
    assert merged == {"a": {"b": 1, "c": [3], "d": {"e": 0, "g": 7}}, "f": {"h": 1}}
    assert base == before


def test_another_class_drops_the_arguments_of_the_old_one() -> None:
    assert merge(SIGREG, {"class_path": f"{MODULE}.VICReg"}) == {"class_path": f"{MODULE}.VICReg"}
    other = {"class_path": "VICReg", "init_args": {"std": 2.0}}
    assert merge(SIGREG, other) == other


def test_the_same_class_keeps_its_arguments_by_whichever_name() -> None:
    more = {"init_args": {"covariance": 0}}
    both = {"num_directions": 16, "covariance": 0}
    assert merge(SIGREG, more)["init_args"] == both
    assert merge(SIGREG, {"class_path": "SIGReg", **more})["init_args"] == both


def test_a_variant_is_the_whole_configuration_of_its_training(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    assert (study.root, study.development.path) == (Path("data/physics"), "data/dev")
    default, batch = study.questions[0].variants
    assert "name" not in default.config and "seed_everything" not in default.config
    assert default.config["trainer"] == {
        "accelerator": "cpu",
        "gradient_clip_val": 1.0,
        "max_steps": 3,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
    }
    assert default.config["model"] == BASE["model"]
    assert batch.config["model"]["weights"] == {"prediction": 1, "batch": 10, "within_clip": 0}
    assert (default.steps, default.frames_per_step) == (3, 24)
    assert batch.label(4) == "scope/batch-seed4"


def test_equal_configurations_share_their_runs_and_seeds(tmp_path: Path) -> None:
    scope, regularizer = study_in(tmp_path).questions
    assert scope.variants[0].digest == regularizer.variants[0].digest
    assert regularizer.variants[0].seeds == (0, 1, 2)
    assert scope.variants[1].seeds == (0,)
    digests = {variant.digest for variant in (*scope.variants, *regularizer.variants)}
    assert len(digests) == 3


def test_steps_seeds_data_and_a_set_are_a_variants_own(tmp_path: Path) -> None:
    own = {
        "steps": 7,
        "seeds": [3, 4],
        "data": {"batch_size": 4},
        "set": {"num_clips": 10, "mix": {"pan": 0}},
    }
    study = read_study(
        write_study(tmp_path, changed("questions.scope.variants", {"a": own, "b": own, "c": {}}))
    )
    first, second, plain = study.questions[0].variants
    assert (first.steps, first.seeds, first.frames_per_step) == (7, (3, 4), 48)
    world = first.training_set
    assert world is not None and plain.training_set is None
    assert (world.num_clips, world.num_blocks, world.size, world.mix) == (10, 0, 32, {"pan": 0.0})
    assert world.leave_out == ()
    assert first.config["data"]["shards"] == f"{world.path}/train/clips-*.tar"
    assert world.path.startswith("data/ablation-") and second.training_set == world


def test_a_set_may_leave_out_kinds_and_is_then_another_one(tmp_path: Path) -> None:
    variants = {"all": {"set": {"num_clips": 10}}, "few": {"set": {"num_clips": 10}}}
    variants["few"]["set"]["leave_out"] = ["reveal", "gravity"]
    file = write_study(tmp_path, changed("questions.scope.variants", variants))
    every, few = (each.training_set for each in read_study(file).questions[0].variants)
    assert every is not None and few is not None
    assert few.leave_out == ("reveal", "gravity") and few.path != every.path


def test_names_that_yaml_reads_as_numbers_are_names(tmp_path: Path) -> None:
    study = changed("questions.scope.variants", {4: {}, "8x8": {"steps": 5}})
    assert [v.name for v in read_study(write_study(tmp_path, study)).questions[0].variants] == [
        "4",
        "8x8",
    ]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("stepz", 3, "stepz is no known key; known are base, steps"),
        ("steps", None, "the study lacks the key steps"),
        ("steps", 0, "steps must be a whole number of at least 1, got 0"),
        ("steps", "many", "steps must be a whole number"),
        ("seeds", [], "seeds must be a list of seeds"),
        ("seeds", [1, 1], "seeds names a seed twice"),
        ("seeds", [-1], "seeds must be a whole number of at least 0, got -1"),
        ("development", "data/dev", "development must be a mapping, got 'data/dev'"),
        ("development.path", None, "development lacks the key path"),
        ("development.path", "data/physics", "the set that the base learns from"),
        ("development.clips", 3, "development.clips is no known key"),
        ("development.num_clips", 0, "development.num_clips must be a whole number of at least 1"),
        ("questions", {}, "questions must name at least one"),
        ("questions.scope.ask", "?", "questions.scope.ask is no known key; known are asks"),
        ("questions.scope.asks", 3, "questions.scope.asks must be a str, got 3"),
        ("questions.scope.variants", [], "questions.scope.variants must be a dict, got []"),
        ("questions.scope.variants.a/b", {}, "must be named with letters"),
        ("questions.scope.variants.batch", None, None),
        ("questions.scope.variants.batch.modle", {}, "scope.variants.batch.modle is no known key"),
        ("questions.scope.variants.batch.steps", -1, "scope.variants.batch.steps must be a whole"),
        ("questions.scope.variants.batch.seeds", 1, "scope.variants.batch.seeds must be a list"),
        ("questions.scope.variants.batch.trainer", {"max_steps": 9}, "trainer.max_steps is the"),
        ("questions.scope.variants.batch.set", {"clips": 9}, "batch.set.clips is no known key"),
        (
            "questions.scope.variants.batch.set",
            {"mix": {"pam": 1}},
            "batch.set.mix.pam is no known",
        ),
        ("questions.scope.variants.batch.set", {"mix": {"pan": "a"}}, "mix.pan must be a share"),
        ("questions.scope.variants.batch.set", {"mix": {"pan": 2}}, "batch.set.mix cannot be"),
        ("questions.scope.variants.batch.set", {"leave_out": ["magic"]}, "got ['magic']"),
        ("questions.scope.variants.batch.set", {"leave_out": "reveal"}, "must be a list of reveal"),
    ],
)
def test_a_wrong_key_is_named_by_its_path(
    tmp_path: Path, path: str, value: Any, said: str | None
) -> None:
    file = write_study(tmp_path, changed(path, value))
    if said is None:
        assert len(read_study(file).questions[0].variants) == 1
        return
    with pytest.raises(InputError) as caught:
        read_study(file)
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_a_name_that_yaml_reads_as_no_text_is_refused(tmp_path: Path) -> None:
    file = write_study(tmp_path)
    file.write_text(file.read_text().replace("batch:", "off:"))
    with pytest.raises(InputError, match=r"scope\.variants\.False is named False.*quote it"):
        read_study(file)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"batch_size": 2, "num_frames": 12}, "data.shards must be the training shards"),
        ({**BASE["data"], "shards": "videos/*.tar"}, "got videos/*.tar"),
        ({**BASE["data"], "shards": ["a/train/x.tar"]}, "data.shards must be the training shards"),
        ({"shards": "a/train/*.tar", "num_frames": 12}, "must say data.batch_size"),
    ],
)
def test_a_base_without_one_set_or_a_budget_is_refused(
    tmp_path: Path, data: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_study(write_study(tmp_path, base={**BASE, "data": data}))
    assert said in str(caught.value)


def test_files_that_are_missing_or_no_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.yaml: No such file"):
        read_study(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(InputError, match=r"broken\.yaml is no YAML"):
        read_study(broken)
    broken.write_text("- 1")
    with pytest.raises(InputError, match=r"must hold a mapping"):
        read_study(broken)
    file = write_study(tmp_path)
    file.write_text(file.read_text().replace("base.yaml", "gone.yaml"))
    with pytest.raises(InputError, match=r"cannot read .*gone\.yaml"):
        read_study(file)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"model": {"weights": {"within_clp": 1}}}, "within_clp"),
        ({"model": {"weights": {"batch": -1}}}, "weights.batch must be 0 or more, got -1"),
        ({"model": {"regularizer": {"class_path": "Nothing"}}}, "Nothing"),
        ({"model": {"levels": [{"stride": 1, "horizons": [2, 1]}]}}, "strictly increasing"),
        ({"model": {"levels": [{"stride": 1, "horizons": [30]}]}}, "need clips of 32 frames, got"),
        ({"data": {"batch_size": 0}}, "data.batch_size must be at least 1"),
        ({"trainer": {"presision": 16}}, "presision"),
    ],
)
def test_a_configuration_that_cannot_train_is_refused_before_anything_runs(
    tmp_path: Path, override: dict[str, Any], said: str
) -> None:
    file = write_study(tmp_path, changed("questions.scope.variants.wrong", override))
    study = read_study(file)
    before = [variant.digest for variant in study.variants()]
    with pytest.raises(InputError) as caught:
        refuse_misfits(study.variants(), file)
    assert said in str(caught.value)
    assert "questions.scope.variants.wrong: " in str(caught.value)
    assert [variant.digest for variant in study.variants()] == before


def test_a_sound_study_passes(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    refuse_misfits(study.variants(), study.file)
    assert VICREG["model"]["regularizer"]["class_path"] in str(study.questions[1])


def test_questions_are_chosen_by_name(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    assert [question.name for question in study.choose(())] == ["scope", "regularizer"]
    assert [question.name for question in study.choose(["regularizer"])] == ["regularizer"]
    with pytest.raises(InputError, match="asks no question colour; it asks scope, regularizer"):
        study.choose(["colour"])


def test_the_study_of_the_repository_begins_each_question_with_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    study = read_study(Path("configs/ablation.yaml"))
    defaults = [question.variants[0] for question in study.questions]
    assert {variant.name for variant in defaults} == {"default"}
    assert len({variant.digest for variant in defaults}) == 1
    assert study.root == Path("data/physics") and study.development.seed != 0
    names = [variant.label(0) for variant in study.variants()]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_every_variant_of_the_study_of_the_repository_can_train(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    study = read_study(Path("configs/ablation.yaml"))
    refuse_misfits(study.variants(), study.file)
