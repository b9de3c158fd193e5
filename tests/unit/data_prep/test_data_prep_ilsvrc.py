"""Archives that are damaged, hostile, or do not fit together."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ilsvrc_tree import (
    COLOURS,
    DEVKIT_IDS,
    VAL_LABELS,
    WNIDS,
    Facts,
    class_tar,
    plain,
    tar_of,
    val_images,
    write_devkit,
    write_ilsvrc_tree,
    write_tar,
)
from image_folders import encode

from data_prep.errors import DataPrepError
from data_prep.ilsvrc import TRAIN_TAR, VAL_TAR, open_ilsvrc
from data_prep.plan import make_plan
from data_prep.run import run
from data_prep.sources import open_source

JPEG = encode(plain(COLOURS[0]))
TRUTH = tuple(DEVKIT_IDS[label] for label in VAL_LABELS)
DEVKIT = "ILSVRC2012_devkit_t12"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_ilsvrc_tree(tmp_path, devkit_packed=False)
    return tmp_path


def write_train(root: Path, *members: tuple[str, bytes]) -> None:
    """An archive of the five classes, in which the given members stand for those of the same name."""
    classes = {f"{wnid}.tar": class_tar(Facts(root), label) for label, wnid in enumerate(WNIDS)}
    write_tar(root / TRAIN_TAR, {**classes, **dict(members)}.items())


def write_val(root: Path, change: Callable[[list[tuple[str, bytes]]], object]) -> None:
    members = val_images(Facts(root))
    change(members)
    write_tar(root / VAL_TAR, members)


def with_member(kind: bytes, name: str = "a.JPEG", size: int = 0) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, "/etc/passwd", size
        tar.addfile(member)
    return buffer.getvalue()


def cut(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def drop_class(root: Path) -> None:
    kept = [(f"{wnid}.tar", class_tar(Facts(root), label)) for label, wnid in enumerate(WNIDS) if label != 3]
    write_tar(root / TRAIN_TAR, kept)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: cut(root / TRAIN_TAR, 20000), rf"{TRAIN_TAR}: not a whole, uncompressed tar"),
        (lambda root: cut(root / VAL_TAR, 20000), rf"{VAL_TAR}: not a whole, uncompressed tar"),
        (lambda root: (root / VAL_TAR).write_bytes(b""), rf"{VAL_TAR}: not a whole"),
        (lambda root: write_train(root, (f"{WNIDS[1]}.tar", b"")), rf"{TRAIN_TAR} \({WNIDS[1]}.tar\): not a whole"),
        (
            lambda root: write_train(root, (f"{WNIDS[1]}.tar", class_tar(Facts(root), 1)[:9000])),
            rf"{TRAIN_TAR} \({WNIDS[1]}.tar\): not a whole",
        ),
        # Cut off between two members: only the missing end mark tells. What follows belongs to the outer tar.
        (
            lambda root: write_train(
                root, (f"{WNIDS[1]}.tar", tar_of([("a.JPEG", JPEG)])[: 512 + -(-len(JPEG) // 512) * 512])
            ),
            r"ends without a tar's end mark",
        ),
        (lambda root: write_train(root, ("n00000099.tar", tar_of([]))), r"does not know: n00000099; fetch"),
        (lambda root: write_train(root, ("n00001740.tar", tar_of([]))), r"does not know: n00001740; fetch"),
        (lambda root: write_train(root, ("notes.txt", b"x")), r"holds 'notes.txt', which is no class's tar"),
        (
            lambda root: write_tar(root / TRAIN_TAR, [(f"{WNIDS[0]}.tar", class_tar(Facts(root), 0))] * 2),
            r"holds 'n01440764.tar', twice",
        ),
        (
            lambda root: write_train(root, (f"{WNIDS[0]}.tar", tar_of([("a.JPEG", JPEG), ("a.JPEG", JPEG)]))),
            r"holds 'train/n01440764/a.JPEG' twice",
        ),
        (drop_class, r"lacks classes that ILSVRC2012_img_val.tar has: n02747177"),
        (lambda root: write_val(root, lambda images: images.pop()), r"holds 15 images, .* states the classes of 16"),
        (lambda root: write_val(root, lambda images: images.append(images[0])), r"holds 17 images"),
        (
            lambda root: write_val(root, lambda images: images.__setitem__(3, images[4])),
            r"not numbered 1 to 16, each once",
        ),
        (
            lambda root: write_val(root, lambda images: images.append(("cat.JPEG", JPEG))),
            r"holds 'cat.JPEG', which is not named",
        ),
        (lambda root: write_devkit(root, False, truth=(*TRUTH[:-1], 6)), r"class numbers that meta.mat does not: 6"),
        (lambda root: write_devkit(root, False, truth=(*TRUTH[:-1], 0)), r"class numbers that meta.mat does not: 0"),
        (lambda root: write_devkit(root, False, ids=(3, 5, 1, 4, 4)), r"lists no classes, or a class twice"),
        (lambda root: (root / DEVKIT / "data/meta.mat").write_bytes(b"junk" * 99), r"meta.mat is no table of synsets"),
        (lambda root: (root / DEVKIT / "data/meta.mat").unlink(), r"lacks the file data/meta.mat"),
        (
            lambda root: (root / DEVKIT / "data/ILSVRC2012_validation_ground_truth.txt").write_text("1\ncat\n"),
            r"is not a list of numbers",
        ),
        (lambda root: (root / DEVKIT).rename(root / "elsewhere"), rf"stand in {DEVKIT}.tar.gz, which is not beside it"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(root: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(root)
    with pytest.raises(DataPrepError, match=message):
        open_source(root)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused_wherever_they_are(root: Path, kind: bytes) -> None:
    whole = (root / TRAIN_TAR).read_bytes()
    write_train(root, (f"{WNIDS[0]}.tar", with_member(kind)))
    with pytest.raises(DataPrepError, match=rf"\({WNIDS[0]}.tar\): the member 'a.JPEG' is a link"):
        open_ilsvrc(root)
    (root / TRAIN_TAR).write_bytes(with_member(kind, f"{WNIDS[0]}.tar"))
    with pytest.raises(DataPrepError, match="is a link"):
        open_ilsvrc(root)
    (root / TRAIN_TAR).write_bytes(whole)
    (root / VAL_TAR).write_bytes(with_member(kind, "ILSVRC2012_val_00000001.JPEG"))
    with pytest.raises(DataPrepError, match="is a link"):
        open_ilsvrc(root)


@pytest.mark.parametrize("name", ["/etc/passwd.JPEG", "../a.JPEG", "x/../../a.JPEG"])
def test_names_that_leave_the_archive_are_refused(root: Path, name: str) -> None:
    write_train(root, (f"{WNIDS[0]}.tar", tar_of([(name, JPEG)])))
    with pytest.raises(DataPrepError, match="points out of the archive"):
        open_ilsvrc(root)


def test_a_size_that_leads_backwards_is_refused(root: Path) -> None:
    header = bytearray(tar_of([("a.JPEG", b"")])[:512])
    header[124:136] = b"\xff" * 12  # -1 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (root / TRAIN_TAR).write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(DataPrepError, match=r"impossible size|not a whole"):
        open_ilsvrc(root)


def test_a_damaged_packed_kit_is_refused(root: Path) -> None:
    (root / DEVKIT).rename(root / "elsewhere")
    write_devkit(root)
    archive = root / f"{DEVKIT}.tar.gz"
    assert open_ilsvrc(root).splits
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 3], b"", b"junk"):
        archive.write_bytes(damaged)
        with pytest.raises(DataPrepError, match=r"tar\.gz"):
            open_ilsvrc(root)
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(f"{DEVKIT}/data/meta.mat")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DataPrepError, match=r"lacks the file data/meta\.mat"):
        open_ilsvrc(root)


def test_train_needs_no_kit_and_a_share_of_it_can_be_set_aside(root: Path) -> None:
    (root / VAL_TAR).unlink()
    (root / DEVKIT).rename(root / "elsewhere")
    source = open_source(root, val_share=0.25, seed=3)
    assert list(source.splits) == ["train", "val"]
    assert source.splits["val"].class_names == WNIDS
    assert source.kind == "ILSVRC archives, val share 0.25, seed 3"
    assert "1 files in n01440764.tar are ignored" in source.remarks[0]
    with pytest.raises(DataPrepError, match="leave out --split v2"):
        open_source(root, split="v2")


def test_an_archive_that_changes_meanwhile_gives_broken_images_and_no_others(root: Path) -> None:
    plan = make_plan(open_ilsvrc(root), root.parent / f"{root.name}-out", max_broken=0.5)
    cut(root / TRAIN_TAR, 60000)
    with pytest.raises(DataPrepError, match=r"cannot be read: .* ends early"):
        run(plan, workers=1, progress=False)
