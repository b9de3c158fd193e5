"""The configuration of the small cluster, as text."""

from dataclasses import replace
from pathlib import Path

import pytest

from slurm.minicluster import MiniClusterError
from slurm.minicluster.conf_files import gres_conf, hosts, slurm_conf, slurmdbd_conf, write_files
from slurm.minicluster.settings import Settings

PLAIN = Settings(nodes=3, cpus=16, memory=64000, gpus=8, accounting=False, enforce=True, user="ada", uid=1000, gid=1000)


def keys_of(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith(("NodeName", "PartitionName"))]
    assert len({line.split("=")[0].lower() for line in lines}) == len(lines), "a key is there twice"
    return dict(line.split("=", 1) for line in lines)


def test_every_node_has_a_line_an_address_and_a_feature() -> None:
    lines = [line for line in slurm_conf(PLAIN).splitlines() if line.startswith("NodeName=n")]
    assert lines == [
        "NodeName=n1 NodeAddr=10.231.77.1 Feature=fast",
        "NodeName=n2 NodeAddr=10.231.77.2 Feature=fast",
        "NodeName=n3 NodeAddr=10.231.77.3 Feature=slow",
    ]
    assert "NodeName=DEFAULT CPUs=16 RealMemory=64000 State=UNKNOWN Gres=gpu:8\n" in slurm_conf(PLAIN)


def test_the_hosts_are_the_nodes_and_the_head() -> None:
    assert hosts(replace(PLAIN, nodes=1)) == "127.0.0.1 localhost\n10.231.77.254 head\n10.231.77.1 n1\n"


@pytest.mark.parametrize(("gpus", "files"), [(8, "fakegpu[0-7]"), (1, "fakegpu0")])
def test_gpus_are_device_files(gpus: int, files: str) -> None:
    assert gres_conf(replace(PLAIN, gpus=gpus)).endswith(f"/dev/{files}\n")


def test_without_gpus_nothing_speaks_of_them() -> None:
    none = replace(PLAIN, gpus=0, accounting=True)
    assert gres_conf(none) == ""
    assert "gpu" not in slurm_conf(none)


def test_the_users_lines_win_whatever_their_case() -> None:
    keys = keys_of(slurm_conf(replace(PLAIN, conf={"slurmdtimeout": "4", "PrologFlags": "X11"})))
    assert keys["SlurmdTimeout"] == "4"
    assert keys["PrologFlags"] == "X11"


@pytest.mark.parametrize("conf", [{"NodeName": "x"}, {"partitionname": "x"}, {"KillWait": "1\nNodeName=x"}])
def test_nodes_and_partitions_cannot_be_smuggled_in(conf: dict[str, str]) -> None:
    with pytest.raises(MiniClusterError, match="conf: "):
        slurm_conf(replace(PLAIN, conf=conf))


def test_accounts_are_enforced_only_where_they_are_kept() -> None:
    assert "Enforce" not in "".join(key for key in keys_of(slurm_conf(PLAIN)) if key.startswith("Accounting"))
    with_database = replace(PLAIN, accounting=True)
    assert keys_of(slurm_conf(with_database))["AccountingStorageEnforce"] == "associations,limits,qos"
    assert "AccountingStorageEnforce" not in keys_of(slurm_conf(replace(with_database, enforce=False)))


def test_nothing_depends_on_where_the_cluster_lies(tmp_path: Path) -> None:
    settings = replace(PLAIN, accounting=True)
    (tmp_path / "etc").mkdir()
    write_files(tmp_path, settings)
    texts = {path.name: path.read_text() for path in (tmp_path / "etc").iterdir()}
    assert set(texts) == {"slurm.conf", "gres.conf", "hosts", "slurmdbd.conf"}
    assert not any(str(tmp_path) in text for text in texts.values())
    assert (tmp_path / "etc/slurmdbd.conf").stat().st_mode & 0o077 == 0
    assert "SlurmUser=ada\n" in slurmdbd_conf(settings)


def test_settings_survive_their_file(tmp_path: Path) -> None:
    settings = replace(PLAIN, private=("/dev/shm", "/tmp"), conf={"KillWait": "7"})
    settings.save(tmp_path)
    assert Settings.load(tmp_path) == settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": 0}, "nodes: 0 is not between 1 and 200"),
        ({"nodes": 201}, "nodes: 201"),
        ({"gpus": -1}, "gpus: -1"),
        ({"cpus": 0}, "cpus: 0"),
        ({"memory": 1}, "memory: 1"),
        ({"private": ("tmp",)}, "private: tmp"),
        ({"private": ("/no/such",)}, "private: /no/such"),
    ],
)
def test_impossible_clusters_are_refused_by_name(change: dict[str, object], words: str) -> None:
    with pytest.raises(MiniClusterError, match=words):
        replace(PLAIN, **change)  # type: ignore[arg-type]
