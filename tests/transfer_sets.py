"""The transfer data sets in small, in the layouts in which they are published.

Every class that has images has a colour of its own, so a label can be read off the pixels that come out, without
believing anything that preparation says. Numbers in the files are those of the real ones where they matter: classes
from 1 in MATLAB files, a coarse label before the fine one in CIFAR-100, category ids that no sorting of names gives.
"""

import gzip
import io
import itertools
import json
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ilsvrc_tree import Colour, plain, tar_of
from image_folders import encode
from scipy.io import savemat

COLOURS: tuple[Colour, ...] = tuple(itertools.product((20, 128, 235), repeat=3))[::-1]
Members = list[tuple[str, bytes]]


@dataclass
class Facts:
    """What is true of a data set.

    Attributes:
        root: its folder.
        classes: names, in the order of labels.
        shown: labels that have images.
        labels: label of every image by name, for each split.
        content: bytes of the images that must be stored as they are.
        pixels: of the images that must be stored without loss.
    """

    root: Path
    classes: tuple[str, ...]
    shown: tuple[int, ...]
    labels: dict[str, dict[str, int]] = field(default_factory=lambda: {"train": {}, "val": {}})
    content: dict[str, bytes] = field(default_factory=dict)
    pixels: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def colour(self, label: int) -> Colour:
        """The colour of a class."""
        return COLOURS[self.shown.index(label)]

    def label_of(self, pixels: npt.NDArray[np.uint8]) -> int:
        """The class whose colour the middle of an image has."""
        middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int)
        distance = np.abs(np.asarray(COLOURS[: len(self.shown)]) - middle).max(axis=1)
        assert distance.min() <= 20, f"the colour {middle} is no class's"
        return self.shown[int(distance.argmin())]

    def jpeg(self, split: str, name: str, label: int) -> tuple[str, bytes]:
        """A new image of a class, and its note."""
        number = len(self.content)
        self.labels[split][name] = label
        self.content[name] = encode(plain(self.colour(label), number, (40 + number % 9, 48 - number % 7)))
        return name, self.content[name]


def write_tgz(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A compressed tar with the folders' own entries, as tar writes them."""
    path.write_bytes(gzip.compress(tar_of(members), mtime=0))
    return path


def write_files(root: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """What unpacking would give."""
    for name, content in members:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _store(root: Path, archive: str, members: Members, packed: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if packed:
        write_tgz(root / archive, members)
    else:
        write_files(root, members)


# CIFAR ----------------------------------------------------------------------------------------------------------------

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUNDRED = tuple(f"fine_{number:02d}" for number in range(100))


def write_cifar(
    root: Path, hundred: bool = False, binary: bool = False, packed: bool = True, per_file: int = 8
) -> Facts:
    """CIFAR-10 or CIFAR-100 in the python or the binary version, packed or not."""
    files = cifar_files(facts := Facts(root, *_cifar_classes(hundred)), hundred, binary, per_file)
    folder = f"cifar-{100 if hundred else 10}-{'batches-bin' if binary else 'batches-py'}"
    folder = folder.replace("batches-bin", "binary").replace("batches-py", "python") if hundred else folder
    archive = f"cifar-{100 if hundred else 10}-{'binary' if binary else 'python'}.tar.gz"
    _store(root, archive, [(f"{folder}/{name}", content) for name, content in files.items()], packed)
    return facts


def _cifar_classes(hundred: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return (HUNDRED, (0, 7, 19, 42, 99)) if hundred else (TEN, tuple(range(10)))


def cifar_files(facts: Facts, hundred: bool, binary: bool, per_file: int) -> dict[str, bytes]:
    """The files of a version, with noise in every pixel that a lossy copy would change."""
    train = ("train",) if hundred else tuple(f"data_batch_{number}" for number in range(1, 6))
    files = {}
    for name in (*train, "test" if hundred else "test_batch"):
        rows, labels = _cifar_images(facts, name, "val" if name.startswith("test") else "train", per_file)
        if binary:
            coarse = [bytes([label % 20]) if hundred else b"" for label in labels]
            records = zip(coarse, labels, rows, strict=True)
            files[f"{name}.bin"] = b"".join(c + bytes([label]) + row.tobytes() for c, label, row in records)
        else:
            files[name] = python2_pickle(_cifar_batch(name, rows, labels, hundred))
    return files | _cifar_meta(hundred, binary)


def _cifar_images(facts: Facts, file: str, split: str, count: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    rows, labels = [], []
    for number in range(count):
        seed = len(facts.pixels)
        label = facts.shown[seed * 7 % len(facts.shown)]
        noise = np.random.RandomState(seed).randint(-9, 10, (32, 32, 3))
        pixels = np.clip(np.asarray(facts.colour(label)) + noise, 0, 255).astype(np.uint8)
        facts.labels[split][f"{file}/{number:05d}"] = label
        facts.pixels[f"{file}/{number:05d}"] = pixels
        rows.append(pixels.transpose(2, 0, 1).reshape(-1))
        labels.append(label)
    return np.stack(rows), labels


def _cifar_batch(name: str, rows: npt.NDArray[np.uint8], labels: list[int], hundred: bool) -> dict[str, Any]:
    files = [f"image_s_{number:06d}.png" for number in range(len(labels))]
    if hundred:
        coarse = [label % 20 for label in labels]
        return {"filenames": files, "batch_label": name, "fine_labels": labels, "coarse_labels": coarse, "data": rows}
    return {"batch_label": name, "labels": labels, "data": rows, "filenames": files}


def _cifar_meta(hundred: bool, binary: bool) -> dict[str, bytes]:
    coarse = [f"coarse_{number:02d}" for number in range(20)]
    if binary and hundred:
        listed = {"coarse_label_names.txt": coarse, "fine_label_names.txt": HUNDRED}
        return {name: "".join(f"{entry}\n" for entry in names).encode() for name, names in listed.items()}
    if binary:
        return {"batches.meta.txt": "".join(f"{name}\n" for name in (*TEN, "")).encode(), "readme.html": b"<html>"}
    if hundred:
        return {"meta": python2_pickle({"fine_label_names": list(HUNDRED), "coarse_label_names": coarse})}
    return {
        "batches.meta": python2_pickle({"num_cases_per_batch": 10000, "label_names": list(TEN), "num_vis": 3072}),
        "readme.html": b"<html>",
    }


def python2_pickle(value: object) -> bytes:
    """A pickle of protocol 2 with the texts of Python 2, which are bytes, as the published files have them."""
    return pickle.PROTO + b"\2" + _python2(value) + pickle.STOP


def _python2(value: object) -> bytes:
    if isinstance(value, dict):
        items = b"".join(_python2(key) + _python2(item) for key, item in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    if isinstance(value, list):
        return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_python2, value)) + pickle.APPENDS
    if isinstance(value, np.ndarray):
        start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
        shape = b"".join(map(_python2, value.shape)) + pickle.TUPLE2
        kind = b"cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        return start + b"(K\1" + shape + kind + pickle.NEWFALSE + _python2(value.tobytes()) + b"tb"
    if isinstance(value, int):
        return pickle.BININT + struct.pack("<i", value)
    raw = value.encode() if isinstance(value, str) else value
    assert isinstance(raw, bytes)
    return pickle.BINSTRING + struct.pack("<i", len(raw)) + raw


# Flowers --------------------------------------------------------------------------------------------------------------

FLOWER_LABELS = (50, 0, 101, 7, 50, 101, 0, 7) * 4
"""Label of each image; in the files they are one more."""


def write_flowers(root: Path, packed: bool = True) -> Facts:
    """Oxford Flowers-102: the archive or its folder, and both MATLAB files."""
    facts = Facts(root, tuple(str(number) for number in range(1, 103)), (0, 7, 50, 101))
    numbers = np.arange(1, len(FLOWER_LABELS) + 1)
    sets = {"tstid": numbers[numbers % 4 == 1], "trnid": numbers[numbers % 4 == 2], "valid": numbers[numbers % 4 == 3]}
    sets["trnid"] = np.concatenate([sets["trnid"][::-1], numbers[numbers % 4 == 0]])
    members = []
    for number, label in zip(numbers.tolist(), FLOWER_LABELS, strict=True):
        split = "val" if number in sets["tstid"] else "train"
        members.append(facts.jpeg(split, f"jpg/image_{number:05d}.jpg", label))
    _store(root, "102flowers.tgz", members[::-1], packed)
    write_flower_lists(root, sets=sets)
    return facts


def write_flower_lists(
    root: Path, labels: Sequence[float] = FLOWER_LABELS, sets: Mapping[str, npt.NDArray[np.integer]] | None = None
) -> None:
    """``imagelabels.mat`` and, if sets are given, ``setid.mat``."""
    savemat(root / "imagelabels.mat", {"labels": np.asarray([labels], dtype=np.float64) + 1})
    if sets is not None:
        savemat(root / "setid.mat", {name: numbers.astype(np.uint16)[None] for name, numbers in sets.items()})


# Cars -----------------------------------------------------------------------------------------------------------------

CAR_CLASSES = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van 2012", "smart fortwo 2012")
CAR_LABELS = (2, 0, 3, 1, 1, 2, 0, 3) * 4


def write_cars(root: Path, later: bool = True, packed: bool = True) -> Facts:
    """Stanford Cars in the later way of publishing or the earlier one."""
    facts = Facts(root, CAR_CLASSES, (0, 1, 2, 3))
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "val": []}
    members: dict[str, Members] = {"train": [], "val": []}
    for number, label in enumerate(CAR_LABELS, 1):
        split = "val" if number % 4 == 0 else "train"
        path = f"car_ims/{number:06d}.jpg" if later else f"{len(rows[split]) + 1:05d}.jpg"
        folder = "" if later else {"train": "cars_train/", "val": "cars_test/"}[split]
        members[split].append(facts.jpeg(split, f"{folder}{path}", label))
        rows[split].append((path, label))
    if later:
        _store(root, "car_ims.tgz", sorted(members["train"] + members["val"]), packed)
        (root / "cars_annos.mat").write_bytes(car_annotations(rows))
        return facts
    _store(root, "cars_train.tgz", members["train"], packed)
    _store(root, "cars_test.tgz", members["val"], packed)
    names = np.asarray([*CAR_CLASSES], dtype=object)[None]
    kit = [
        ("devkit/cars_meta.mat", mat({"class_names": names})),
        ("devkit/cars_train_annos.mat", mat({"annotations": _structs("fname", rows["train"], [])})),
        ("devkit/cars_test_annos.mat", mat({"annotations": _structs("fname", rows["val"], [], labelled=False)})),
        ("devkit/README.txt", b"about"),
    ]
    _store(root, "car_devkit.tgz", kit, packed)
    (root / "cars_test_annos_withlabels.mat").write_bytes(mat({"annotations": _structs("fname", rows["val"], [])}))
    return facts


def car_annotations(rows: Mapping[str, list[tuple[str, int]]], classes: Sequence[str] = CAR_CLASSES) -> bytes:
    """``cars_annos.mat``, from names and labels by split."""
    both = [*rows["train"], *rows["val"]]
    structs = _structs("relative_im_path", both, [0] * len(rows["train"]) + [1] * len(rows["val"]))
    return mat({"annotations": structs, "class_names": np.asarray([*classes], dtype=object)[None]})


def _structs(path: str, rows: list[tuple[str, int]], test: list[int], labelled: bool = True) -> npt.NDArray[Any]:
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", *(["class"] if labelled else [])]
    fields = [path, *fields, "test"] if test else [*fields, path]
    structs = np.empty((1, len(rows)), dtype=[(name, object) for name in fields])
    for number, (name, label) in enumerate(rows):
        structs[0, number]["class" if labelled else path] = np.uint8(label + 1)
        for side in fields:
            if side.startswith("bbox"):
                structs[0, number][side] = np.uint16(5)
        structs[0, number][path] = name
        if test:
            structs[0, number]["test"] = np.uint8(test[number])
    return structs


def mat(content: Mapping[str, object]) -> bytes:
    """The bytes of a MATLAB file."""
    buffer = io.BytesIO()
    savemat(buffer, dict(content))
    return buffer.getvalue()


# iNaturalist ----------------------------------------------------------------------------------------------------------

SPECIES = {2: "Plantae 2", 9: "Aves 9", 11: "Insecta 11", 10: "Fungi 10"}
"""Name by category id, in the order of the file."""


def write_inaturalist(root: Path, year: int = 2018, tar: bool = True, packed_lists: bool = True) -> Facts:
    """A year of iNaturalist: its images as a plain tar or unpacked, its lists as JSON, packed or not."""
    ids = sorted(SPECIES)
    facts = Facts(root, tuple(SPECIES[number] for number in ids), (0, 1, 2, 3))
    members, lists = [], {}
    for split, count in (("train", 24), ("val", 8)):
        images, annotations = [], []
        for number in range(count):
            label, image = number * 3 % 4, 1000 * (split == "val") + (number * 7) % count
            name = f"train_val{year}/{SPECIES[ids[label]].split()[0]}/{ids[label]}/{split}{number:04x}.jpg"
            members.append(facts.jpeg(split, name, label))
            images.append({"id": image, "file_name": name, "width": 40, "height": 48, "rights_holder": "somebody"})
            annotations.append({"id": number, "image_id": image, "category_id": ids[label]})
        lists[split] = coco(images, annotations[::-1])
    root.mkdir(parents=True, exist_ok=True)
    if tar:
        (root / f"train_val{year}.tar").write_bytes(tar_of(members))
    else:
        write_files(root, members)
    for split, content in lists.items():
        write_list(root, f"{split}{year}.json", content, packed_lists)
    return facts


def coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """A list in COCO's style."""
    categories = [{"id": number, "name": name, "supercategory": name.split()[0]} for number, name in SPECIES.items()]
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations, "licenses": []}


def write_list(root: Path, name: str, content: object, packed: bool) -> None:
    """A JSON file, plain or as ``.json.tar.gz``."""
    if packed:
        write_tgz(root / f"{name}.tar.gz", [(name, json.dumps(content).encode())])
    else:
        (root / name).write_text(json.dumps(content))


def change_list(root: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file that is not packed."""
    content = json.loads((root / name).read_text())
    change(content)
    (root / name).write_text(json.dumps(content))
