import contextlib
import gzip
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import write_data_set

from data_prep import manifest as module
from data_prep.manifest import SAMPLE_DTYPE, ManifestError, load_manifest, read_source_names
from data_prep.manifest_checks import own_checksum


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 20}, shard_size=8) / "train"


@pytest.fixture
def split(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "train"))


def change(folder: Path, **values: object) -> None:
    """A lie that is told on purpose, and so has the right checksum."""
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({**content, "content_sha256": own_checksum(content)}))


def change_shard(folder: Path, **values: object) -> None:
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    change(folder, shards=[{**shards[0], **values}, *shards[1:]])


def change_rows(split: Path, alter: Callable[[np.ndarray], Any], honest_checksum: bool = True) -> None:
    samples = np.load(split / "samples.npy")
    altered = alter(samples)
    buffer = io.BytesIO()
    np.save(buffer, samples if altered is None else altered, allow_pickle=True)
    (split / "samples.npy").write_bytes(buffer.getvalue())
    if honest_checksum:
        change(split, samples_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


def put(field: str, row: int, value: int) -> Callable[[np.ndarray], None]:
    def alter(samples: np.ndarray) -> None:
        samples[field][row] = value

    return alter


def test_what_was_written_is_read(split: Path) -> None:
    manifest = load_manifest(split)
    assert len(manifest.samples) == 20
    assert [shard.samples for shard in manifest.shards] == [6, 7, 7]
    assert manifest.class_names == tuple(f"class{i}" for i in range(5))
    assert len(read_source_names(split)) == 20
    stated = json.loads((split / "manifest.json").read_text())
    assert stated["digest"] == manifest.digest
    for shard in manifest.shards:
        assert hashlib.sha256((split / shard.name).read_bytes()).hexdigest() == shard.sha256
        assert sum(count for _, count in shard.class_counts) == shard.samples
    assert not manifest.samples.flags.writeable


def test_no_bit_that_flips_in_the_manifest_goes_unnoticed(split: Path) -> None:
    path = split / "manifest.json"
    raw, right = path.read_bytes(), load_manifest(split)
    for place in range(0, len(raw), 7):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        # Harmless: a space between entries, and a letter in the name of the checksum itself.
        with contextlib.suppress(ManifestError):
            assert load_manifest(split).shards == right.shards, raw[place - 20 : place + 20]
            assert load_manifest(split).class_names == right.class_names


def test_a_manifest_from_before_it_had_a_checksum_is_read(split: Path) -> None:
    content = json.loads((split / "manifest.json").read_text())
    del content["content_sha256"]
    (split / "manifest.json").write_text(json.dumps(content))
    assert len(load_manifest(split).samples) == 20


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (lambda s: change(s, format_version=2), "format version 2"),
        (lambda s: change(s, format_version=True), "format_version is missing or not a int"),
        (lambda s: change(s, class_names=[]), "0 classes"),
        (lambda s: change(s, class_names=[1]), "not text"),
        (lambda s: change(s, class_names=["a"]), "counts a label|outside the 1 classes"),
        (lambda s: change(s, shards=[]), "num_samples"),
        (lambda s: change(s, shards=[], num_samples=0), "has no samples"),
        (lambda s: change(s, shards=["x"]), "not an object"),
        (lambda s: change(s, num_samples=21), "num_samples"),
        (lambda s: change_shard(s, name="../secret.tar"), "plain file name"),
        (lambda s: change_shard(s, name="/etc/passwd"), "plain file name"),
        (lambda s: change_shard(s, name=".."), "plain file name"),
        (lambda s: change_shard(s, name="a\0b"), "plain file name"),
        (lambda s: change_shard(s, name="train-000001.tar"), "lists a shard twice"),
        (lambda s: change_shard(s, name="other.tar"), "other.tar: the manifest lists this shard, but it is missing"),
        (lambda s: change_shard(s, samples=-1), "impossible number"),
        (lambda s: change_shard(s, samples=2**31, bytes=2**62), "num_samples"),
        (lambda s: change_shard(s, bytes=10_000_000), "the manifest states 10,000,000"),
        (lambda s: change_shard(s, bytes=1000), "does not lie within its shard"),
        (lambda s: change_shard(s, class_counts=[[0]]), "not pairs"),
        (lambda s: change_shard(s, class_counts=[[77, 1]]), "counts a label 77"),
        (lambda s: change_rows(s, put("offset", 3, 2**64 - 1)), "sample 3 does not lie within"),
        (lambda s: change_rows(s, put("offset", 3, 10**7)), "sample 3 does not lie within"),
        (lambda s: change_rows(s, put("size", 19, 2**32 - 1)), "sample 19 does not lie within"),
        (lambda s: change_rows(s, put("size", 0, 0)), "sample 0 does not lie within"),
        (lambda s: change_rows(s, put("shard", 0, 1)), "does not follow the shards"),
        (lambda s: change_rows(s, put("shard", 19, 2**32 - 1)), "does not follow the shards"),
        (lambda s: change_rows(s, put("label", 5, 5)), "outside the 5 classes"),
        (lambda s: change_rows(s, put("label", 5, -1)), "outside the 5 classes"),
        (lambda s: change_rows(s, put("label", 5, 1), honest_checksum=False), "checksum"),
        (lambda s: change_rows(s, lambda rows: rows[:-1]), "not a table of 20"),
        (
            lambda s: change_rows(s, lambda rows: rows.astype([(n, "<f8") for n in rows.dtype.names])),
            "not a table of 20",
        ),
        (lambda s: change_rows(s, lambda _: np.array([object()])), "not a NumPy array|not a table"),
        (lambda s: (s / "samples.npy").write_bytes(bytes(10**6)), "more than the .* that such a file can need"),
        (lambda s: (s / "samples.npy").unlink(), "samples.npy: no such file"),
        (lambda s: (s / "manifest.json").unlink(), "manifest.json: no such file"),
        (lambda s: (s / "manifest.json").write_text("[" * 100_000), "is not JSON"),
        (lambda s: (s / "manifest.json").write_text("{"), "is not JSON"),
        (lambda s: (s / "manifest.json").write_text("[]"), "not a JSON object"),
        (lambda s: (s / "manifest.json").write_bytes(b"\xff\xfe\x00"), "is not JSON"),
        (lambda s: (s / "train-000001.tar").unlink(), "train-000001.tar: the manifest lists this shard"),
        (lambda s: (s / "train-000001.tar").write_bytes(b"short"), "train-000001.tar: has 5 bytes"),
    ],
)
def test_lies_are_found_out(split: Path, lie: Callable[[Path], None], message: str) -> None:
    lie(split)
    with pytest.raises(ManifestError, match=message) as caught:
        load_manifest(split)
    assert str(split) in str(caught.value)
    assert "prepare the data again" in str(caught.value)


def test_huge_manifests_are_not_read(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(ManifestError, match="more than the 100"):
        load_manifest(split)


def test_a_pickle_in_the_table_is_never_loaded(split: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("a pickle was loaded",)

    rows = np.empty(20, dtype=object)
    rows[:] = [Bomb()] * 20
    change_rows(split, lambda _: rows)
    with pytest.raises(ManifestError):
        load_manifest(split)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=200), where=st.integers(0, 3000), name=st.sampled_from(["manifest.json", "samples.npy"]))
def test_random_bytes_never_cause_anything_but_a_manifest_error(
    split: Path, original: Path, junk: bytes, where: int, name: str
) -> None:
    whole = (original / name).read_bytes()
    where %= len(whole)
    for content in (junk, whole[:where] + junk + whole[where + len(junk) :], whole[:where]):
        (split / name).write_bytes(content)
        if name == "samples.npy":
            change(split, samples_sha256=hashlib.sha256(content).hexdigest())
        try:
            manifest = load_manifest(split)
        except ManifestError:
            continue
        assert manifest.samples.dtype == SAMPLE_DTYPE
    shutil.copy(original / name, split / name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["format_version", "split", "source", "seed", "num_samples", "class_names", "shards"]
FIELDS += ["samples_sha256", "changes", "quarantined"]
SHARD_FIELDS = ["name", "samples", "bytes", "sha256", "class_counts", "mtime_ns"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values, field=st.sampled_from(FIELDS), shard_field=st.sampled_from([None, *SHARD_FIELDS]))
def test_wrong_values_never_cause_anything_but_a_manifest_error(
    split: Path, original: Path, value: object, field: str, shard_field: str | None
) -> None:
    shutil.copy(original / "manifest.json", split / "manifest.json")
    if shard_field is None:
        change(split, **{field: value})
    else:
        change_shard(split, **{shard_field: value})
    with contextlib.suppress(ManifestError):
        load_manifest(split)


def test_damaged_names_are_an_error(split: Path) -> None:
    for content in (b"junk", gzip.compress(b"\xff"), (split / "sources.txt.gz").read_bytes()[:-9]):
        (split / "sources.txt.gz").write_bytes(content)
        with pytest.raises(ManifestError, match=r"sources\.txt\.gz"):
            read_source_names(split)
