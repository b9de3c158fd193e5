"""The archives of ILSVRC 2012 in small: same names and layout, a few classes, and every oddity in one place.

Each class has a colour of its own, and a brightness of its own for grey images. So whether a stored image has the right
label can be seen from its pixels, without believing anything that preparation says. The development kit numbers the
classes in an order that no sorting gives, between inner nodes that have no images.
"""

import io
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from image_folders import encode
from PIL import Image
from scipy.io import savemat

Colour = tuple[int, int, int]

WNIDS = ("n01440764", "n01443537", "n02105855", "n02747177", "n15075141")
COLOURS: tuple[Colour, ...] = ((230, 40, 40), (40, 200, 60), (50, 60, 220), (240, 230, 60), (20, 20, 20))
DEVKIT_IDS = (3, 5, 1, 4, 2)
"""Number in the development kit of the class at each place of WNIDS."""
VAL_LABELS = (2, 0, 4, 4, 1, 3, 0, 2, 1, 1, 3, 4, 0, 2, 3, 2)
INNER_NODES = ((6, "n00001740"), (7, "n04000000"), (8, "n99999999"))
PLAIN_PER_CLASS = 6


@dataclass
class Facts:
    """What is true of the tree; images go by the names that the source gives them.

    Attributes:
        root: the folder.
        labels: label of every image.
        kept: content of the images that must be stored byte for byte.
        changed: images that must be stored with other bytes, with a part of what the manifest must say.
        broken: images that must be put aside, with a part of the reason.
    """

    root: Path
    labels: dict[str, int] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def plain(colour: Colour, seed: int = 0, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """An image of one colour, with a corner that differs from image to image."""
    image = Image.new("RGB", size, colour)
    corner = np.random.RandomState(seed).randint(0, 256, 3)
    image.paste(tuple(int(value) for value in corner), (0, 0, min(4, size[0] // 2), min(4, size[1] // 2)))
    return image


def cmyk_jpeg(colour: Colour) -> bytes:
    """CMYK as Adobe writes it: what is stored is 255 minus the ink."""
    return encode(Image.new("CMYK", (48, 36), (*(255 - value for value in colour), 0)), quality=95)


def ycck_jpeg(colour: Colour) -> bytes:
    """The same after a transform of the three colours to luminance and chrominance, which a byte in the file states."""
    inks = Image.new("RGB", (1, 1), tuple(255 - value for value in colour)).convert("YCbCr").getpixel((0, 0))
    assert isinstance(inks, tuple)
    encoded = bytearray(encode(Image.new("CMYK", (48, 36), (*(255 - int(value) for value in inks), 0)), quality=95))
    encoded[encoded.index(b"Adobe") + 11] = 2
    return bytes(encoded)


def exif_segment(orientation: int = 1, cut: int = 0) -> bytes:
    """An APP1 segment with an orientation and a description, of which the last ``cut`` bytes are missing."""
    exif = Image.Exif()
    exif[0x010E] = "a description that does not fit into the entry itself"
    exif[0x0112] = orientation
    block = exif.tobytes()
    block = block[: len(block) - cut]
    return b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block


def with_exif(jpeg: bytes, orientation: int = 1, cut: int = 0) -> bytes:
    """A JPEG with EXIF right after its first segment, as JFIF wants it."""
    after_jfif = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:after_jfif] + exif_segment(orientation, cut) + jpeg[after_jfif:]


def _png(mode: str) -> Callable[[Colour], bytes]:
    def make(colour: Colour) -> bytes:
        image = plain(colour)
        if mode == "RGBA":
            image.putalpha(40)
        # A palette of the image's own colours: the standard one would mix the colour from dots of others.
        return encode(image.quantize(16) if mode == "P" else image.convert(mode), "PNG")

    return make


def _grey_16(colour: Colour) -> bytes:
    grey = np.asarray(plain(colour).convert("L")).astype(np.uint16) * 257
    return encode(Image.fromarray(grey), "PNG")


KEPT: Mapping[str, Callable[[Colour], bytes]] = {
    "grey": lambda colour: encode(plain(colour).convert("L")),
    "progressive": lambda colour: encode(plain(colour), progressive=True, subsampling=0),
    "one_pixel": lambda colour: encode(Image.new("RGB", (1, 1), colour)),
    "huge": lambda colour: encode(plain(colour, 1, (6000, 4000))),
    "exif": lambda colour: with_exif(encode(plain(colour))),
    "größe_猫": lambda colour: encode(plain(colour, 2)),
}
CHANGED: Mapping[str, tuple[Callable[[Colour], bytes], str]] = {
    "cmyk": (cmyk_jpeg, "JPEG CMYK encoded anew"),
    "ycck": (ycck_jpeg, "JPEG CMYK encoded anew"),
    "png": (_png("RGB"), "PNG RGB encoded anew"),
    "palette": (_png("P"), "PNG P encoded anew"),
    "transparent": (_png("RGBA"), "PNG RGBA encoded anew"),
    "grey_16": (_grey_16, "PNG I;16 encoded anew"),
    "turned": (lambda colour: with_exif(encode(plain(colour)), orientation=6), "EXIF cut out (orientation 6)"),
    "bad_exif": (lambda colour: with_exif(encode(plain(colour)), cut=20), "EXIF cut out (damaged)"),
}
BROKEN: Mapping[str, tuple[Callable[[Colour], bytes], str]] = {
    "cut_off": (lambda colour: encode(plain(colour, 3))[:-40], "truncated"),
    "empty": (lambda _: b"", "empty"),
    "text": (lambda _: b"<html>404</html>", "no image of a known format"),
}


def write_ilsvrc_tree(root: Path, devkit_packed: bool = True) -> Facts:
    """Write the three archives; the development kit as a folder if it is not to be packed."""
    root.mkdir(parents=True, exist_ok=True)
    facts = Facts(root)
    write_tar(
        root / "ILSVRC2012_img_train.tar", [(f"{wnid}.tar", class_tar(facts, i)) for i, wnid in enumerate(WNIDS)][::-1]
    )
    write_tar(root / "ILSVRC2012_img_val.tar", val_images(facts))
    write_devkit(root, devkit_packed)
    return facts


def class_tar(facts: Facts, label: int) -> bytes:
    """The tar of one class: some plain images, and its share of the oddities."""
    wnid, colour = WNIDS[label], COLOURS[label]
    members: list[tuple[str, bytes]] = [("readme.txt", b"no image")] if label == 0 else []
    for seed in range(PLAIN_PER_CLASS):
        members.append((f"{wnid}_{100 * seed}.JPEG", encode(plain(colour, seed))))
    facts.kept.update({f"train/{wnid}/{name}": content for name, content in members if name.endswith(".JPEG")})
    for number, (kind, make_kept) in enumerate(KEPT.items()):
        if number % len(WNIDS) == label:
            members.append((f"{wnid}_{kind}.JPEG", make_kept(colour)))
            facts.kept[f"train/{wnid}/{members[-1][0]}"] = members[-1][1]
    for oddities, noted in ((CHANGED, facts.changed), (BROKEN, facts.broken)):
        for number, (kind, (make, words)) in enumerate(oddities.items()):
            if number % len(WNIDS) == label:
                members.append((f"{wnid}_{kind}.JPEG", make(colour)))
                noted[f"train/{wnid}/{members[-1][0]}"] = words
    facts.labels.update({f"train/{wnid}/{name}": label for name, _ in members if name.endswith(".JPEG")})
    return tar_of(members)


def val_images(facts: Facts) -> list[tuple[str, bytes]]:
    """The validation images; the third is damaged and the fourth is CMYK."""
    members = []
    for i, label in enumerate(VAL_LABELS):
        name, content = f"ILSVRC2012_val_{i + 1:08d}.JPEG", encode(plain(COLOURS[label], 100 + i))
        facts.labels[f"val/{name}"] = label
        if i == 2:
            content = content[:300]
            facts.broken[f"val/{name}"] = "Truncated"
        elif i == 3:
            content = cmyk_jpeg(COLOURS[label])
            facts.changed[f"val/{name}"] = "JPEG CMYK encoded anew"
        else:
            facts.kept[f"val/{name}"] = content
        members.append((name, content))
    return members


def write_devkit(
    root: Path,
    packed: bool = True,
    wnids: Iterable[str] = WNIDS,
    ids: Iterable[int] = DEVKIT_IDS,
    truth: Iterable[int] = tuple(DEVKIT_IDS[label] for label in VAL_LABELS),
) -> None:
    """The development kit, with inner nodes among the classes."""
    leaves = [(number, wnid, 0) for number, wnid in zip(ids, wnids, strict=True)]
    entries = [*leaves[3:], *((number, wnid, 2) for number, wnid in INNER_NODES), *leaves[:3]]
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object)]
    kinds += [("num_children", object), ("children", object), ("wordnet_height", object), ("num_train_images", object)]
    synsets = np.empty((len(entries), 1), dtype=kinds)
    for row, (number, wnid, children) in enumerate(entries):
        below = np.arange(children, dtype=np.float64)
        synsets[row, 0] = (float(number), wnid, f"words of {wnid}", "gloss", float(children), below, 1.0, 1300.0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    files = {
        "meta.mat": meta.getvalue(),
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in truth).encode(),
    }
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    if packed:
        members = [(f"ILSVRC2012_devkit_t12/data/{name}", content) for name, content in files.items()]
        with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
            add_members(tar, [("ILSVRC2012_devkit_t12/readme.txt", b"hello"), *members])
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)


def add_members(tar: tarfile.TarFile, members: Iterable[tuple[str, bytes]]) -> None:
    """Plain files."""
    for name, content in members:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def tar_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """The bytes of a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add_members(tar, members)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar as a file."""
    path.write_bytes(tar_of(members))
    return path


def label_by_colour(pixels: np.ndarray) -> int:
    """The class whose colour the middle of an image has; of a grey image, whose brightness.

    Args:
        pixels: ``(height, width, 3)`` uint8.
    """
    middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int)
    found = np.asarray(COLOURS)
    if np.ptp(middle) < 6:
        found = np.rint(found @ [0.299, 0.587, 0.114]).astype(int)[:, None].repeat(3, axis=1)
    distance = np.abs(found - middle).max(axis=1)
    # Palettes and JPEG's chrominance move a colour a little; another class's is far away.
    assert distance.min() <= 12, f"the colour {middle} is no class's"
    return int(distance.argmin())
