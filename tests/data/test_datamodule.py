from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from patterns import clip_members, moving_pattern
from servers import serve

from worldmodel.data import catalog
from worldmodel.data.catalog import Catalog, Shard
from worldmodel.data.datamodule import ClipDataModule, hold_out
from worldmodel.data.encode import encode_video
from worldmodel.data.index import write_index
from worldmodel.data.shards import SampleRef, write_shard
from worldmodel.errors import InputError

Samples = list[tuple[str, dict[str, bytes]]]


def data(shards: Any, **settings: Any) -> ClipDataModule:
    module = ClipDataModule(
        str(shards), **{"batch_size": 4, "num_frames": 4, "size": 16, **settings}
    )
    module.setup()
    return module


def keys(refs: Sequence[SampleRef] | Catalog) -> list[str]:
    return [ref.key for ref in refs]


def test_split__five_per_cent_by_key_whatever_the_shards(
    samples: Samples, uneven_shards: Path, tmp_path: Path
) -> None:
    write_shard(tmp_path / "all.tar", samples[::-1])
    one, other = data(uneven_shards), data(tmp_path)
    assert set(keys(one.val_refs)) == set(keys(other.val_refs))
    assert set(keys(one.train_refs)) == set(keys(other.train_refs))
    assert not set(keys(one.train_refs)) & set(keys(one.val_refs))
    assert len(one.train_refs) + len(one.val_refs) == 28
    assert len(one.val_refs) >= 1
    assert keys(data(uneven_shards, seed=9).val_refs) == keys(one.val_refs)


def test_split__a_set_uses_its_own_validation_clips(samples: Samples, tmp_path: Path) -> None:
    write_shard(tmp_path / "train" / "clips-000000.tar", samples[:6])
    write_shard(tmp_path / "val" / "clips-000000.tar", [("val-0", samples[6][1])])
    write_shard(tmp_path / "val" / "blocks-000000.tar", [("b", {"a.mp4": b"", "b.mp4": b""})])
    module = data(tmp_path / "train" / "*.tar")
    assert keys(module.train_refs) == [f"train-{i:06d}" for i in range(6)]
    assert keys(module.val_refs) == ["val-0"]
    module = data(tmp_path / "train", val_shards=str(tmp_path / "train" / "*.tar"))
    assert keys(module.val_refs) == [f"train-{i:06d}" for i in range(6)]


def test_split__a_set_of_links_uses_the_validation_clips_beside_the_links(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs" / "train" / "clips-000000.tar"
    write_shard(theirs, samples[:3])
    write_shard(tmp_path / "theirs" / "val" / "clips-000000.tar", [("their-val", samples[3][1])])
    write_shard(tmp_path / "ours" / "val" / "clips-000000.tar", [("our-val", samples[4][1])])
    train = tmp_path / "ours" / "train"
    train.mkdir()
    (train / "clips-000000.tar").symlink_to(theirs)
    assert keys(data(train / "*.tar").val_refs) == ["our-val"]
    monkeypatch.chdir(train)
    assert keys(data("*.tar").val_refs) == ["our-val"]
    assert keys(data("../train/*.tar").val_refs) == ["our-val"]


def test_left_out__kinds_are_those_that_the_sets_index_names(
    samples: Samples, tmp_path: Path
) -> None:
    for name, arguments in (
        ("one", {"leave_out": ["reveal", "gravity"]}),
        ("two", {"leave_out": []}),
        ("three", {"leave_out": ["reveal", "support"]}),
        ("bare", None),
    ):
        write_shard(tmp_path / name / "train" / "clips-000000.tar", samples[:6])
        if arguments is not None:
            write_index(tmp_path / name, arguments)
    assert data(tmp_path / "one" / "train" / "*.tar").left_out == ["gravity", "reveal"]
    assert data(tmp_path / "two" / "train" / "*.tar").left_out == []
    assert data(tmp_path / "bare" / "train" / "*.tar").left_out == []
    # What one of several sets shows is seen.
    for names, left_out in (
        (("one", "three"), ["reveal"]),
        (("one", "two"), []),
        (("one", "bare"), []),
    ):
        sets = {name: str(tmp_path / name / "train" / "*.tar") for name in names}
        module = ClipDataModule(sets, batch_size=1, num_frames=8)
        module.setup()
        assert module.left_out == left_out


def test_split__one_sample_serves_both_with_a_warning(
    samples: Samples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "a.tar", samples[:1])
    module = data(tmp_path)
    assert keys(module.train_refs) == keys(module.val_refs) == ["train-000000"]
    assert "serves training and validation" in caplog.text
    assert len(next(iter(module.train_dataloader()))) == 4
    assert len(next(iter(module.val_dataloader()))) == 1


def test_hold_out__always_leaves_something_on_both_sides() -> None:
    for count in range(2, 60):
        refs = [SampleRef(f"v{count}-{i}", Path("x"), {}) for i in range(count)]
        train, val = hold_out(Catalog([Shard("x", count, (None,))], kept={0: refs}))
        assert train
        assert val
        assert sorted(keys(train) + keys(val)) == sorted(keys(refs))


def test_hold_out__clips_of_equal_keys_are_different_clips(
    samples: Samples, tmp_path: Path
) -> None:
    for number in range(20):
        members = samples[number][1] | {"txt": b"." * number}
        write_shard(tmp_path / f"{number:03d}.tar", [("video", members)])
    module = data(tmp_path)
    assert (len(module.train_refs), len(module.val_refs)) in [(20 - held, held) for held in (1, 2)]
    assert not {ref.shard for ref in module.train_refs} & {ref.shard for ref in module.val_refs}


def test_hold_out__copies_of_a_clip_stay_together(samples: Samples, tmp_path: Path) -> None:
    for name in ("one", "copy"):
        write_shard(tmp_path / f"{name}.tar", samples)
    module = data(tmp_path)
    assert len(module.train_refs) + len(module.val_refs) == 56
    assert not set(keys(module.train_refs)) & set(keys(module.val_refs))


def indexed_set(root: Path, samples: Samples) -> None:
    """14 shards of two samples each, and no validation."""
    for number in range(14):
        path = root / "train" / f"clips-{number:06d}.tar"
        write_shard(path, samples[2 * number : 2 * number + 2])
    write_index(root, {"command": "test"})


def test_hold_out__reads_headers_and_is_stopped_by_no_altered_shard(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed_set(tmp_path, samples)
    held = keys(data(tmp_path).val_refs)
    for number, at in ((3, 700), (5, 150)):  # in a video, and in a header
        path = tmp_path / "train" / f"clips-{number:06d}.tar"
        content = bytearray(path.read_bytes())
        content[at] ^= 255
        path.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "file_sha256", lambda path: pytest.fail(f"all of {path} is read"))
        module = data(tmp_path, batch_size=1)
    assert keys(module.val_refs) == held
    assert len(module.train_refs) + len(module.val_refs) == 28
    seen = {key for batch in module.train_dataloader() for key in batch.keys}
    lost = {f"train-{i:06d}" for i in (6, 7, 10, 11)}
    assert seen == {key for key, _ in samples} - lost - set(held)


def test_hold_out__where_no_shard_can_be_read_one_is_named(
    samples: Samples, tmp_path: Path
) -> None:
    indexed_set(tmp_path, samples)
    for path in tmp_path.glob("train/*.tar"):
        path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(InputError, match=r"clips-000000\.tar holds 0 samples, the index says 2"):
        data(tmp_path)


def test_hold_out__fetches_nothing(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path / "cache"))
    indexed_set(tmp_path / "set", samples)
    found = tmp_path.glob("set/**/*.*")
    files = {f"{path.relative_to(tmp_path)}": path.read_bytes() for path in found}
    with serve(files) as server:
        module = data(f"{server.url}/plain/set/train")
        assert not [path for path in server.requests if path.endswith(".tar")]
        again = data(f"{server.url}/plain/set/train", seed=9)
        held = keys(module.val_refs)
        assert len([path for path in server.requests if path.endswith(".tar")]) == 1
        assert len(held) == 1
        assert keys(again.val_refs) == held
        assert sorted(held + keys(module.train_refs)) == [key for key, _ in samples]


def test_loaders__validation_is_the_same_every_time_and_training_is_not(
    uneven_shards: Path,
) -> None:
    module = data(uneven_shards, val_shards=str(uneven_shards / "u-000.tar"))
    first, second = (list(module.val_dataloader()) for _ in range(2))
    assert [batch.keys for batch in first] == [batch.keys for batch in second]
    assert all((a.frames == b.frames).all() for a, b in zip(first, second, strict=True))
    # 10 clips in batches of at most 4: three nearly equal batches, not 4 + 4 + 2.
    assert [len(batch) for batch in first] == [4, 3, 3]
    train = module.train_dataloader()
    assert len(train) == 7
    assert [batch.keys for batch in train] != [batch.keys for batch in first]


def test_seed__is_that_of_seed_everything(
    uneven_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert data(uneven_shards).seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert data(uneven_shards).seed == 7
    assert data(uneven_shards, seed=3).seed == 3
    same = [b.keys for b in data(uneven_shards).train_dataloader()]
    assert same == [b.keys for b in data(uneven_shards, seed=7).train_dataloader()]
    assert same != [b.keys for b in data(uneven_shards, seed=3).train_dataloader()]


@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv", "webm", "avi"])
def test_plain_shards__without_metadata_or_index_can_be_trained_on(
    tmp_path: Path, extension: str
) -> None:
    video = encode_video(moving_pattern(20), 16.0)
    write_shard(tmp_path / "plain-000.tar", [(f"v{i}", {extension: video}) for i in range(6)])
    module = data(tmp_path / "plain-*.tar")
    assert len(next(iter(module.train_dataloader()))) == 4


def test_short_videos__are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short, bare = clip_members(num_frames=6), {"mp4": clip_members(num_frames=5)["mp4"]}
    members = [clip_members(), short, clip_members(), bare, {"mp4": b"garbage"}, clip_members()]
    write_shard(tmp_path / "a.tar", [(f"v{i}", each) for i, each in enumerate(members)])
    module = data(tmp_path)
    assert sorted(keys([*module.train_refs, *module.val_refs])) == ["v0", "v2", "v5"]
    line, broken = [record.getMessage() for record in caplog.records]
    assert "skipped v4 of" in broken
    assert "left out 2 of 5 samples" in line
    assert "sample 1 of" in line
    assert "needs 7 frames" in line


def test_short_videos__that_nobody_has_measured_are_left_to_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MAX_PROBED", 2)
    bare = {"mp4": clip_members(num_frames=5)["mp4"]}
    write_shard(tmp_path / "a.tar", [(f"v{i}", bare) for i in range(4)])
    module = data(tmp_path)
    assert sorted(keys([*module.train_refs, *module.val_refs])) == ["v2", "v3"]


def test_setup__names_what_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no shards match '.*none-\*\.tar'"):
        data(tmp_path / "none-*.tar")
    write_shard(tmp_path / "short.tar", [("v", clip_members(num_frames=6))])
    with pytest.raises(InputError, match=r"none of the 1 samples of .*short\.tar.*needs 7 frames"):
        data(tmp_path / "short.tar")
    write_shard(tmp_path / "text.tar", [("v", {"txt": b"hello"})])
    with pytest.raises(InputError, match=r"no video in 1 shards such as .*text\.tar.*found txt"):
        data(tmp_path / "text.tar")
    write_shard(
        tmp_path / "blocks-000000.tar", [("b", {"a.mp4": b"", "b.mp4": b"", "json": b"{}"})]
    )
    with pytest.raises(InputError, match=r"blocks-000000\.tar holds blocks.*for evaluation only"):
        data(tmp_path / "blocks-000000.tar")


def test_setup__a_broken_shard_is_named_and_few_are_left_out(
    samples: Samples, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        write_shard(tmp_path / f"s-{number:03d}.tar", [(f"v{number}", samples[number][1])])
    (tmp_path / "s-007.tar").write_bytes((tmp_path / "s-007.tar").read_bytes()[:3000])
    module = data(tmp_path)
    assert len(module.train_refs) + len(module.val_refs) == 19
    assert "s-007.tar has been cut short" in caplog.text
    (tmp_path / "s-011.tar").write_text("hello")
    with pytest.raises(InputError, match=r"2 of 20 shards are broken: shard .*s-007\.tar"):
        data(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
        ({"num_frames": -3}, "data.num_frames must be at least 1, got -3"),
        ({"size": 0}, "data.size must be at least 1"),
        ({"zoom": 0.5}, "data.zoom must be 1 to 4.0, got 0.5"),
        ({"color_jitter": 1.5}, "data.color_jitter must be true, false or a share 0 to 1, got 1.5"),
        ({"num_workers": -1}, "data.num_workers must be at least 0"),
        ({"fps": 0.0}, "data.fps must be above 0"),
    ],
)
def test_settings__out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipDataModule("x.tar", **settings)
