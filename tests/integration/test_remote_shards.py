"""Training from a server that fails: the same run as from a disk, or one clear line."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_watch import watching
from moody_server import MoodyServer, serving
from training_command import Training, evaluations, final_state, losses, start, train

from cait_dist.config.data import DataConfig
from cait_dist.data.cache_needs import needed_bytes
from cait_dist.data.shard_cache import ShardCache
from cait_dist.tracking.run_directory import RunDirectory
from data_prep.manifest import load_manifest
from data_prep.plan import make_plan
from data_prep.run import run as prepare
from data_prep.sources import open_source

pytestmark = pytest.mark.slow

BLOCKS = ("data.order=block", "data.block_shards=2", "data.workers=1")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in many small shards."""
    out = tmp_path_factory.mktemp("remote") / "digits"
    prepare(make_plan(open_source("digits", image_size=16), out, shard_size=40), workers=1, progress=False)
    return out


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, shared_config: Path, digits: Path, shards: Path) -> Path:
    """The tiny run on these shards, in a folder of its own."""
    path = tmp_path_factory.mktemp("runs") / "tiny.yaml"
    text = shared_config.read_text().replace(str(digits), str(shards))
    path.write_text(text.replace(str(shared_config.parent), str(path.parent)))
    return path


@pytest.fixture(scope="module")
def local(config: Path) -> RunDirectory:
    """The run as it should be: from the folder itself."""
    return train(config, *BLOCKS, "--processes", "2", name="local")


@pytest.fixture
def server(shards: Path) -> Iterator[MoodyServer]:
    with serving(shards, seed=7) as server:
        yield server


def bound_of(shards: Path) -> int:
    """The smallest cache that is accepted."""
    train_shards, val_shards = (load_manifest(shards / split).shards for split in ("train", "val"))
    everything = sum(shard.bytes for shard in (*train_shards, *val_shards))
    bound = needed_bytes(train_shards, val_shards, DataConfig(path="x", order="block", block_shards=2))
    assert bound < everything / 2
    return bound


def remote(server: MoodyServer, cache: Path, bound: int, retries: int = 12) -> list[str]:
    return [
        f"data.path={server.url}",
        f"data.remote.cache_dir={cache}",
        f"data.remote.cache_gb={bound / 1e9!r}",
        f"data.remote.retries={retries}",
        "data.remote.timeout=0.5",
    ]


def assert_same(run: RunDirectory, other: RunDirectory) -> None:
    assert losses(run) == losses(other)
    assert len(losses(run)) == 36
    assert evaluations(run) == evaluations(other)
    assert final_state(run) == final_state(other)


def test_a_bad_server_and_a_small_cache_change_nothing(
    config: Path, local: RunDirectory, server: MoodyServer, shards: Path, tmp_path: Path
) -> None:
    bound = bound_of(shards)
    server.trouble = 0.3
    with watching(cache_of(tmp_path)) as watch:
        run = train(config, *BLOCKS, *remote(server, tmp_path, bound), "--processes", "2", name="moody")
    assert_same(run, local)
    assert sum(server.seen[mood] for mood in server.moods) >= 10, server.seen
    assert 0 < watch.most <= bound
    assert watch.looks > 20
    assert not list(cache_of(tmp_path).glob("*.part"))
    fetched = {path for path in server.answered if path.startswith("/train/") and path.endswith(".tar")}
    assert len(fetched) >= 14  # 576 of 1437 samples, of 36 shards


def cache_of(folder: Path) -> Path:
    return ShardCache(folder, 1).folder


def test_a_killed_rank_resumes_from_another_place(
    config: Path, local: RunDirectory, server: MoodyServer, shards: Path, tmp_path: Path
) -> None:
    bound = bound_of(shards)
    server.trouble = 0.2
    training = start(config, *BLOCKS, *remote(server, tmp_path, bound), "--processes", "2", name="killed")
    training.wait_for_checkpoint(10)
    training.rank(1).kill()
    assert training.finish()[0] == 1
    # The bytes are the same, so the run goes on: by another protocol, from another place, with the same cache.
    other = [f"data.path=file://{shards}", f"data.remote.cache_dir={tmp_path}", f"data.remote.cache_gb={bound / 1e9!r}"]
    run = train(config, *BLOCKS, *other, "--processes", "2", name="killed")
    assert_same(run, local)


def test_when_attempts_are_used_up_one_line_says_why(
    config: Path, server: MoodyServer, shards: Path, tmp_path: Path
) -> None:
    # Without sets to evaluate on nothing but training asks, however late the server fails.
    settings = [*BLOCKS, *remote(server, tmp_path, bound_of(shards), retries=2), "evaluation.sets=[]"]
    training = start(config, *settings, name="broken")
    training.wait_for_step(4)
    server.trouble, server.moods = 1.0, ("refuse",)
    told(training, f"{server.url}/train/train-", "gave up after 3 attempts", "503", "data.remote.retries")


def test_what_is_known_before_is_told_before(config: Path, server: MoodyServer, shards: Path, tmp_path: Path) -> None:
    missing = tmp_path / "copy"
    shutil.copytree(shards, missing, ignore=shutil.ignore_patterns("manifest.json"))
    bound = bound_of(shards)
    nobody = [*remote(server, tmp_path, bound, retries=1), "data.path=http://127.0.0.1:1/a"]
    attempts = {
        "small": start(config, *BLOCKS, *remote(server, tmp_path, bound - 1), name="never"),
        "full": start(config, *remote(server, tmp_path, bound), name="never"),
        "nobody": start(config, *BLOCKS, *nobody, name="never"),
        "split": start(config, *BLOCKS, *remote(server, tmp_path, bound), "data.train_split=trian", name="never"),
    }
    told(attempts["small"], "'data.remote.cache_gb'", "two windows of 2 shards", f"{bound:,} bytes", "raise it")
    told(attempts["full"], "order 'full' needs all shards", "or set data.order=block")
    told(attempts["nobody"], "http://127.0.0.1:1/a/train/manifest.json", "gave up after 2 attempts", "refused")
    told(attempts["split"], f"{server.url}/trian/manifest.json", "404 Not Found", "data.path")
    assert not (config.parent / "runs" / "never").exists()
    assert not cache_of(tmp_path).exists()


def told(training: Training, *words: str) -> None:
    status, out, err = training.finish()
    assert status == 2, out + err
    for word in words:
        assert word in err, err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2, err
