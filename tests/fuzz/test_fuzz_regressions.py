"""What fuzzing has found, in the smallest input that showed it."""

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hostile_files import zipped
from image_folders import encode, picture, write_data_set
from safetensors.torch import save

from cait_dist.config import ConfigError, load_config
from cait_dist.data.decode import decode_rgb
from cait_dist.data.errors import CorruptImageError, DataError
from cait_dist.data.reader_webdataset import WebDatasetReader
from cait_dist.data.true_labels import read_real_labels
from cait_dist.errors import is_for_user
from cait_dist.models.weight_files import WeightsError, read_state_dict
from cait_dist.training.saving.checkpoint import read_weights
from cait_dist.training.saving.checkpoint_files import CheckpointError, list_checkpoints
from data_prep import manifest
from data_prep.errors import DataPrepError
from data_prep.foreign_tars import foreign_samples
from data_prep.manifest import ManifestError, load_manifest, read_source_names
from data_prep.manifest_checks import own_checksum


@contextmanager
def little_memory(megabytes: int = 64) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), {"train": 12}) / "train"


@pytest.fixture
def split(prepared: Path, tmp_path: Path) -> Path:
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def forge(folder: Path, **entries: object) -> None:
    content = {**json.loads((folder / "manifest.json").read_text()), **entries}
    (folder / "manifest.json").write_text(json.dumps({**content, "content_sha256": own_checksum(content)}))


def test_reading_a_small_manifest_takes_little_memory(split: Path) -> None:
    # It used to ask for as much as the largest may have.
    with little_memory():
        load_manifest(split)


def test_names_that_are_packed_a_thousandfold_are_not_unpacked(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_SOURCES_BYTES", 2**20)
    (split / "sources.txt.gz").write_bytes(gzip.compress(bytes(2**27)))
    with little_memory(), pytest.raises(ManifestError, match="more than 1,048,576 bytes of names"):
        read_source_names(split)


def test_fewer_names_than_samples_are_told(split: Path) -> None:
    (split / "sources.txt.gz").write_bytes(gzip.compress(b"one\n"))
    with pytest.raises(DataError, match="1 names for 12 samples"):
        WebDatasetReader(split).source_name(3)


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb"])
def test_half_characters_are_no_names(split: Path, name: str) -> None:
    forge(split, class_names=[name] * 5)
    with pytest.raises(ManifestError, match="class_names holds something that is not text"):
        load_manifest(split)


def test_a_manifest_as_deep_as_the_parser_goes_is_refused(split: Path) -> None:
    for depth in (500, 900, 960, 980, 990, 1000, 10_000):
        (split / "manifest.json").write_text('{"format_version": 1, "x": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(ManifestError):
            load_manifest(split)


def test_samples_in_the_same_bytes_are_refused(split: Path) -> None:
    raw = bytearray((split / "samples.npy").read_bytes())
    row = manifest.SAMPLE_DTYPE.itemsize
    raw[-row + 4 : -row + 12] = raw[-2 * row + 4 : -2 * row + 12]
    (split / "samples.npy").write_bytes(raw)
    forge(split, samples_sha256=hashlib.sha256(raw).hexdigest())
    with pytest.raises(ManifestError, match="sample 11 lies where the one before it does"):
        load_manifest(split)


@pytest.mark.parametrize("name", ["manifest.json", "samples.npy", "sources.txt.gz"])
@pytest.mark.timeout(20)
def test_pipes_are_not_waited_for(split: Path, name: str) -> None:
    (split / name).unlink()
    os.mkfifo(split / name)
    with pytest.raises(ManifestError, match="no plain file"):
        WebDatasetReader(split).source_name(0)


def test_labels_of_any_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for content in ("[[" + "9" * 5000 + "]]", "[" * 5000, "[[-1" + ", 1" * 9000 + "]]"):
        (tmp_path / "val" / "real.json").write_text(content)
        with pytest.raises(DataError) as refused:
            read_real_labels(tmp_path, "val", 1, 5)
        assert len(str(refused.value)) < 1000


def test_a_header_gets_no_more_memory_than_a_header_needs(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a")
    member.type, member.size = tarfile.XHDTYPE, 2**32
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with little_memory(), pytest.raises(DataPrepError, match="a header of 4,294,967,296 bytes, which no tar needs"):
        list(foreign_samples(tmp_path / "x.tar"))


def test_the_walk_through_a_tar_forgets_what_it_has_passed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(20_000):
            tar.addfile(tarfile.TarInfo(f"no-sample-{number}"))
    with little_memory(4):
        assert list(foreign_samples(tmp_path / "x.tar")) == []


def test_an_image_that_another_program_would_have_to_paint_is_none() -> None:
    eps = io.BytesIO()
    picture(0).save(eps, "EPS")
    with pytest.raises(CorruptImageError, match="UnidentifiedImageError"):
        decode_rgb(eps.getvalue())
    assert decode_rgb(encode(picture(0), "TIFF")).shape == (30, 40, 3)


WEIGHTS: dict[str, Callable[[Path], object]] = {
    "cut safetensors": lambda path: path.with_suffix(".safetensors").write_bytes(b"\0" * 8),
    "nothing": lambda path: path.write_bytes(b""),
    "a number": lambda path: torch.save(5, path),
    "numbers for names": lambda path: torch.save({1: torch.zeros(2)}, path),
    "no values": lambda path: torch.save({"a": torch.zeros(2, device="meta")}, path),
    "sparse": lambda path: torch.save({"a": torch.zeros(2, 2).to_sparse()}, path),
    "repeated": lambda path: torch.save({"a": torch.zeros(1).expand(10**9)}, path),
    "wrong arguments": lambda path: path.write_bytes(zipped(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.")),
    "attributes that hide a method": lambda path: path.write_bytes(
        zipped(b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x05sb.")
    ),
    "text of any length": lambda path: path.write_bytes(b"\x80\x02X\xff\xff\xff\x7f"),
    "an old pickle of a call": lambda path: path.write_bytes(pickle.dumps(os.system, 2)),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_are_none_are_told_in_a_line(what: str, tmp_path: Path) -> None:
    WEIGHTS[what](tmp_path / "w.pth")
    (path,) = tmp_path.iterdir()
    if what == "attributes that hide a method":
        assert read_state_dict(path) == {}, "it is an empty dictionary all the same"
        return
    with pytest.raises(WeightsError) as refused:
        read_state_dict(path)
    assert is_for_user(refused.value)
    assert str(refused.value).isprintable()


def write_checkpoint(folder: Path, pieces: dict[str, torch.Tensor] | bytes, **state: object) -> Path:
    place = folder / "step-00000010"
    place.mkdir()
    raw = pieces if isinstance(pieces, bytes) else save(pieces)
    (place / "rank-00000.safetensors").write_bytes(raw)
    files = {"rank-00000.safetensors": {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}}
    described = json.dumps({"format": 1, "step": 10, "files": files, "shapes": {"a": [2]}, **state}).encode()
    (place / "state.json").write_bytes(described)
    (place / "COMPLETE").write_text(hashlib.sha256(described).hexdigest())
    return folder


def test_a_checkpoint_whose_fragments_are_none_is_told(tmp_path: Path) -> None:
    for number, key in enumerate(("master/a@x", "master/a@", "master/a@-1", "a")):
        (tmp_path / f"{number}").mkdir()
        (found,) = list_checkpoints(write_checkpoint(tmp_path / f"{number}", {key: torch.zeros(2)}))
        with pytest.raises(CheckpointError, match="which is no fragment"):
            read_weights(found, "master")
    (found,) = list_checkpoints(write_checkpoint(tmp_path, {"master/a@0": torch.zeros(1, 2)}))
    with pytest.raises(CheckpointError, match="of another shape"):
        read_weights(found, "master")


def test_nothing_that_a_terminal_obeys_is_repeated_from_a_checkpoint(tmp_path: Path) -> None:
    # Clears the screen, in the name of a type and in that of a weight.
    clear = "\x1b[2J"
    header = json.dumps({"master/a@0": {"dtype": clear, "shape": [2], "data_offsets": [0, 8]}}, ensure_ascii=False)
    forged = len(header).to_bytes(8, "little") + header.encode() + bytes(8)
    for number, (pieces, shapes) in enumerate(((forged, {"a": [2]}), ({"master/a@0": torch.zeros(9)}, {clear: [2]}))):
        (tmp_path / f"{number}").mkdir()
        (found,) = list_checkpoints(write_checkpoint(tmp_path / f"{number}", pieces, shapes=shapes))
        with pytest.raises(CheckpointError, match="resume from an older step") as refused:
            read_weights(found, "master")
        assert str(refused.value).isprintable()


def test_a_checkpoint_that_describes_more_than_it_holds_gets_no_memory(tmp_path: Path) -> None:
    place = write_checkpoint(tmp_path, {"master/a@0": torch.zeros(2)}, shapes={"a": [2**40]})
    with pytest.raises(CheckpointError, match="describes more weights than its files hold"):
        read_weights(list_checkpoints(place)[0], "master")


@pytest.mark.parametrize(
    "state",
    [
        {"files": {"../w": {"bytes": 1, "sha256": ""}}},
        {"files": {"9" * 256: {"bytes": 1, "sha256": ""}}},
        {"step": "10"},
        {"shapes": 5},
        {"files": []},
        {"step": -1},
    ],
)
def test_a_description_that_is_none_is_no_checkpoint(tmp_path: Path, state: dict[str, object]) -> None:
    assert list_checkpoints(write_checkpoint(tmp_path, {"master/a@0": torch.zeros(2)}, **state)) == []


def test_the_description_of_a_configuration_s_faults_stays_short(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"name: a\ndata: {{{'9' * 5000}: b}}\n")
    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "x.yaml", ["9" * 5000])
    assert max(map(len, str(refused.value).splitlines())) < 2000


@pytest.mark.timeout(20)
def test_a_configuration_builds_on_few_plain_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for base in ("pipe.yaml", "/dev/zero", "[" + "b.yaml, " * 9000 + "]"):
        (tmp_path / "x.yaml").write_text(f"base: {base}\nname: a\n")
        with pytest.raises(ConfigError, match=r"is no plain file|names 9000 files, possible are 32"):
            load_config(tmp_path / "x.yaml")
