"""Which file systems several machines share over a network: an SQLite file there breaks sooner or later.

Its locks are the file system's, which such systems grant late, wrongly or not at all.
"""

from pathlib import Path

NETWORK = frozenset((
    "afs", "beegfs", "beegfs_nodev", "ceph", "ceph-fuse", "cifs", "coda", "cvmfs2", "fhgfs", "gcsfuse", "glusterfs",
    "goofys", "gpfs", "juicefs", "lustre", "mfs", "mmfs", "moosefs", "ncpfs", "nfs", "nfs3", "nfs4", "orangefs",
    "panfs", "pvfs2", "quobyte", "rclone", "s3fs", "smb2", "smb3", "smbfs", "sshfs", "wekafs",
))  # fmt: skip
"""As the kernel calls them; with ``fuse.`` before it where a program serves them."""


def network_file_system(path: Path, mountinfo: str | None = None) -> str | None:
    """The name of the network file system that a path lies on, None for a disk of this machine.

    Args:
        path: need not exist yet
        mountinfo: what /proc/self/mountinfo says; None: read it, and know nothing where there is none
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return None
    kind = _file_system(str(path.resolve()), mountinfo)
    return kind if kind.removeprefix("fuse.") in NETWORK else None


def _file_system(path: str, mountinfo: str) -> str:
    found, longest = "", -1
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        place = _unescape(fields[4])
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        # Of two mounts on one place the later one is seen.
        if inside and len(place) >= longest:
            found, longest = right.split(" ")[0], len(place)
    return found


def _unescape(place: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        place = place.replace(code, character)
    return place
