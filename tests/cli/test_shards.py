"""explain shard=i/n and merge=[...] write together what one run writes; nothing is merged that is not whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from cfexplain.cli import main
from cfexplain.inspection.shards import Shard, as_shard
from cfexplain.errors import ConfigError
from tests.conftest import TINY, run_cfexplain

BATCH = "batch_size=8"  # of 40 test anomalies: five batches
SAME_FILES = ("samples.csv", "metrics.json", "report.html", "images/counterfactuals.png", "images/differences.png",
              "images/film-strip-0.png", "images/film-strip-3.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory, session_cache) -> Path:
    """A train run `t`, an unsharded explain run `whole`, and its shards `s1` to `s3`."""
    folder = tmp_path_factory.mktemp("shards")
    explain = ["explain", "run=t", BATCH, "second_detector=none", "num_cards=2"]
    for args in (["train", *TINY, "run_dir=t"], [*explain, "run_dir=whole"],
                 *([*explain, f"shard={index}/3", f"run_dir=s{index}"] for index in (1, 2, 3))):
        done = run_cfexplain(folder, session_cache, *args)
        assert done.code == 0, done.stderr
    return folder


def same_batches(one: Path, other: Path) -> int:
    """Every value of every saved batch equal, bit for bit; how many batches there were."""
    files = sorted(path.name for path in (one / "inspections").glob("*.pt"))
    assert files == sorted(path.name for path in (other / "inspections").glob("*.pt"))
    for name in files:
        first, second = (torch.load(path / "inspections" / name, weights_only=True) for path in (one, other))
        check_same(first, second, name)
    return sum(name[:-3].isdigit() for name in files)  # beside each lies what was measured


def check_same(first, second, where: str) -> None:
    if isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            check_same(first[key], second[key], f"{where} {key}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def edit_record(folder: Path, **shard) -> None:
    record = json.loads((folder / "run.json").read_text())
    record["shard"] |= shard
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("num_images", "batch_size", "num_shards"), [(40, 8, 3), (41, 8, 6), (7, 1, 7), (5, 256, 1)])
def test_the_parts_are_whole_batches_and_cover_all_images_in_order(num_images, batch_size, num_shards):
    parts = [Shard(index, num_shards).part(num_images, batch_size) for index in range(1, num_shards + 1)]
    assert [index for part in parts for index in part] == list(range(num_images))
    assert all(part and part.start % batch_size == 0 for part in parts)


def test_more_shards_than_batches_are_refused_with_the_batch_size_that_would_do():
    with pytest.raises(ConfigError, match="batch_size=13"):
        Shard(1, 4).part(40, 20)
    assert all(len(Shard(index, 4).part(40, 13)) > 0 for index in (1, 2, 3, 4))
    with pytest.raises(ConfigError, match="at most 3 shards"):
        Shard(1, 4).part(3, 1)


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "1/", "-1/3", "1/3/5", "1.0/3", "1/0", ""])
def test_a_malformed_shard_is_one_line_before_any_run_is_looked_for(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "run=t", f"shard='{text}'"]) == 2
    error = capsys.readouterr().err
    assert "shard must be i/n" in error and len(error.strip().splitlines()) == 1
    with pytest.raises(ValueError, match="like 2/8"):
        as_shard(text)


@pytest.mark.slow
def test_merged_shards_are_the_unsharded_run(inside, capsys):
    sizes = [json.loads((inside / f"s{index}" / "run.json").read_text())["shard"] for index in (1, 2, 3)]
    assert [(size["index"], size["num_shards"], size["num_images"]) for size in sizes] == [
        (1, 3, 8), (2, 3, 16), (3, 3, 16),
    ]
    assert main(["explain", "run=t", "merge=[s3,s1,s2]", "run_dir=merged"]) == 0
    assert same_batches(inside / "whole", inside / "merged") == 5
    for name in SAME_FILES:
        assert (inside / "merged" / name).read_bytes() == (inside / "whole" / name).read_bytes(), name
    assert "cfexplain evaluate run=merged" in capsys.readouterr().out
    assert main(["evaluate", "run=merged", "metric=[auroc,validity]", "run_dir=e"]) == 0


@pytest.mark.slow
def test_a_glob_takes_the_shards_and_leaves_other_runs(inside):
    record = json.loads(Path("s1/run.json").read_text())
    lacking = {key: value for key, value in record.items() if key not in ("warnings", "device", "argv", "weights")}
    Path("s1/run.json").write_text(json.dumps(lacking))  # what nothing depends on may be missing
    assert main(["explain", "run=t", "merge=[*]", "run_dir=by-glob"]) == 0
    assert same_batches(inside / "whole", inside / "by-glob") == 5
    Path("s1/run.json").write_text(json.dumps(record))


@pytest.mark.slow
def test_own_images_are_sharded_too(inside, tmp_path):
    for number in range(5):
        Image.new("RGB", (28, 28), (40 * number, 90, 200 - 30 * number)).save(tmp_path / f"{number}.png")
    images = f"images=[{tmp_path}/*.png]"
    for name, more in (("own", []), ("own-1", ["shard=1/2"]), ("own-2", ["shard=2/2"])):
        assert main(["explain", "run=t", images, "batch_size=2", f"run_dir={name}", *more]) == 0
    assert main(["explain", "run=t", "merge=[own-?]", "run_dir=own-merged"]) == 0
    assert same_batches(inside / "own", inside / "own-merged") == 3
    for name in ("samples.csv", "metrics.json", "report.html"):
        assert (inside / "own-merged" / name).read_bytes() == (inside / "own" / name).read_bytes(), name
    for name in ("own-1", "own-2"):
        shutil.rmtree(inside / name)  # test_a_glob merges all shards of the folder


@pytest.mark.slow
def test_a_shard_alone_is_not_evaluated(inside, capsys):
    assert main(["evaluate", "run=s2", "run_dir=refused"]) == 3
    error = capsys.readouterr().err
    assert "s2 is shard 2/3" in error and "cfexplain explain run=t 'merge=[" in error
    assert len(error.strip().splitlines()) == 1


def _refused(merge: str, capsys) -> str:
    assert main(["explain", "run=t", f"merge=[{merge}]", "dry_run=true"]) == 3
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    return error


@pytest.mark.slow
def test_what_is_not_whole_is_not_merged(inside, capsys):
    assert "1 of 3 shards missing: 2/3" in _refused("s1,s3", capsys)
    assert "whole is, or matches, no explain run with a shard" in _refused("s1,s2,whole", capsys)
    assert "nowhere" in _refused("nowhere", capsys)
    shutil.copytree("s2", "wrong/s2")
    assert "shard 2/3 is there twice, in s2 and wrong/s2" in _refused("s1,s2,s3,wrong/s2", capsys)
    # from here on the copy stands in for s2; one level deeper, its train run is another folder
    assert "wrong/s2 does not explain t" in _refused("s1,wrong/s2,s3", capsys)
    record = json.loads(Path("wrong/s2/run.json").read_text()) | {"parents": ["../../t"]}
    Path("wrong/s2/run.json").write_text(json.dumps(record))
    assert main(["explain", "run=t", "merge=[s1,wrong/s2,s3]", "dry_run=true"]) == 0
    assert "3 shards, 40 images" in capsys.readouterr().out
    for change, words in (
        ({"num_images_of_all": 44}, "differ in their number of images (40 and 44)"),
        ({"num_images_of_all": 40, "images_digest": "0"}, "differ in their images;"),
        ({"images_digest": record["shard"]["images_digest"], "weights_digest": "0"}, "trained weights"),
        ({"weights_digest": record["shard"]["weights_digest"], "first_image": 16}, "do not cover the 40 images"),
        ({"first_image": 8, "num_shards": 4}, "not of one total"),
    ):
        edit_record(Path("wrong/s2"), **change)
        assert words in _refused("s1,wrong/s2,s3", capsys)
    edit_record(Path("wrong/s2"), num_shards=3)
    config = Path("wrong/s2/config.yaml")
    config.write_text(config.read_text().replace("batch_size: 8", "batch_size: 4"))
    assert "s1 and wrong/s2 differ in batch_size" in _refused("s1,wrong/s2,s3", capsys)
    (Path("wrong/s2/run.json")).write_text(json.dumps(record | {"status": "failed"}))
    assert "2/3 (wrong/s2 is failed)" in _refused("s1,wrong/s2,s3", capsys)
    shutil.rmtree("wrong")


def test_shard_and_merge_exclude_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "run=t", "shard=1/2", "merge=[s1]"]) == 2
    assert "leave shard and images out" in capsys.readouterr().err
