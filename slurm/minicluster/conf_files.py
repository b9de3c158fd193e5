"""The text of a cluster's configuration files; nothing here touches the machine but ``write_files``."""

from __future__ import annotations

from pathlib import Path

from .errors import MiniClusterError
from .settings import HEAD, HEAD_ADDRESS, INSIDE, Settings, address_of

MUNGE_SOCKET = INSIDE / "run/munge.sock"
FAKE_GPU = f"{INSIDE}/dev/fakegpu"
DATABASE_PORT = 3306
DBD_PORT = 6819
CONTROLLER_PORT = 6817


def write_files(folder: Path, settings: Settings) -> None:
    """Write the configuration into ``FOLDER/etc``."""
    texts = {"hosts": hosts(settings), "slurm.conf": slurm_conf(settings), "gres.conf": gres_conf(settings)}
    if settings.accounting:
        texts["slurmdbd.conf"] = slurmdbd_conf(settings)
    for name, text in texts.items():
        path = folder / "etc" / name
        path.write_text(text)
        # slurmdbd refuses a file with a password in it that others may read, even if the password guards nothing.
        path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)


def hosts(settings: Settings) -> str:
    """The names of the head and the nodes, which is all the name service there is."""
    names = [("127.0.0.1", "localhost"), (HEAD_ADDRESS, HEAD)]
    names += [(address_of(node), node) for node in settings.node_names]
    return "".join(f"{address} {name}\n" for address, name in names)


def slurm_conf(settings: Settings) -> str:
    """Slurm's configuration: the plain keys, where the user's win, then nodes and partitions."""
    lines = [f"{key}={value}" for key, value in _plain_keys(settings).items()]
    return "\n".join([*lines, *_nodes(settings), *_partitions(settings)]) + "\n"


def _plain_keys(settings: Settings) -> dict[str, str]:
    keys = {
        **_places(settings),
        **_NO_REAL_HARDWARE,
        **_QUICK_REACTIONS,
        **_PREEMPTION,
        # Otherwise a job that names no memory takes a whole node's, and no two jobs ever share one.
        "DefMemPerCPU": str(max(1, settings.memory // settings.cpus)),
        **_accounting(settings),
    }
    if settings.gpus:
        keys["GresTypes"] = "gpu"
    own = {key.lower(): key for key in keys}
    for key, value in settings.conf.items():
        if key.lower() in ("nodename", "partitionname") or "\n" in f"{key}{value}":
            raise MiniClusterError(f"conf: {key} cannot be set so; nodes and partitions are the cluster's own")
        keys[own.get(key.lower(), key)] = value
    return keys


def _places(settings: Settings) -> dict[str, str]:
    return {
        "ClusterName": "mini",
        "SlurmctldHost": f"{HEAD}({HEAD_ADDRESS})",
        "SlurmUser": settings.user,
        "SlurmdUser": settings.user,
        "AuthType": "auth/munge",
        # cred_expire also is how long a requeued job waits before it may start again (Slurm's own: 120 s).
        "AuthInfo": f"socket={MUNGE_SOCKET},cred_expire=5",
        "StateSaveLocation": f"{INSIDE}/state",
        "SlurmdSpoolDir": f"{INSIDE}/nodes/%n",
        "SlurmctldPidFile": f"{INSIDE}/run/slurmctld.pid",
        "SlurmdPidFile": f"{INSIDE}/run/slurmd.%n.pid",
        "SlurmctldLogFile": f"{INSIDE}/log/slurmctld.log",
        "SlurmdLogFile": f"{INSIDE}/log/slurmd.%n.log",
        "SlurmctldDebug": "debug",
        "SlurmdDebug": "debug",
    }


_NO_REAL_HARDWARE = {
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "5",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "SlurmdParameters": "config_overrides",
    "MpiDefault": "none",
    "SwitchType": "switch/none",
    "MailProg": "/bin/true",
}
_QUICK_REACTIONS = {
    "SlurmdTimeout": "10",
    "SlurmctldTimeout": "10",
    "KillWait": "5",
    "UnkillableStepTimeout": "20",
    "BatchStartTimeout": "10",
    "MessageTimeout": "5",
    "TCPTimeout": "2",
    "CompleteWait": "0",
    "InactiveLimit": "0",
    "MinJobAge": "3600",
    # A node that was lost and registers again may work again; by itself Slurm waits for an administrator.
    "ReturnToService": "2",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2,max_rpc_cnt=0",
}
_PREEMPTION = {
    # Without the first, a preempted job is not sent the signal that it asked for with --signal.
    "SlurmctldParameters": "preempt_send_user_signal",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "JobRequeue": "1",
    # A job that no node could ever run is refused when it is submitted, and does not wait for ever.
    "EnforcePartLimits": "ALL",
}


def _accounting(settings: Settings) -> dict[str, str]:
    if not settings.accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    keys = {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": HEAD,
        # The socket once more: AuthInfo does not cover the connection to slurmdbd.
        "AccountingStoragePass": str(MUNGE_SOCKET),
        "AccountingStoreFlags": "job_comment,job_env,job_script",
    }
    if settings.gpus:
        keys["AccountingStorageTRES"] = "gres/gpu"
    if settings.enforce:
        keys["AccountingStorageEnforce"] = "associations,limits,qos"
    return keys


def _nodes(settings: Settings) -> list[str]:
    gres = f" Gres=gpu:{settings.gpus}" if settings.gpus else ""
    every = f"NodeName=DEFAULT CPUs={settings.cpus} RealMemory={settings.memory} State=UNKNOWN{gres}"
    fast = (settings.nodes + 1) // 2
    return [
        every,
        *(
            f"NodeName={node} NodeAddr={address_of(node)} Feature={'fast' if number < fast else 'slow'}"
            for number, node in enumerate(settings.node_names)
        ),
    ]


def _partitions(settings: Settings) -> list[str]:
    return [
        "PartitionName=main Nodes=ALL State=UP Default=YES MaxTime=1-00:00:00 PriorityTier=10 PreemptMode=OFF",
        "PartitionName=low Nodes=ALL State=UP MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20",
        "PartitionName=high Nodes=ALL State=UP MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF",
    ]


def gres_conf(settings: Settings) -> str:
    """The fake GPUs. Slurm counts only device files, so the holder mounts ``/dev/null`` on each of these."""
    if not settings.gpus:
        return ""
    which = f"[0-{settings.gpus - 1}]" if settings.gpus > 1 else "0"
    return f"AutoDetect=off\nName=gpu File={FAKE_GPU}{which}\n"


def slurmdbd_conf(settings: Settings) -> str:
    """The configuration of the daemon between Slurm and the database."""
    keys = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={MUNGE_SOCKET}",
        "DbdHost": HEAD,
        "DbdAddr": HEAD_ADDRESS,
        "DbdPort": str(DBD_PORT),
        "SlurmUser": settings.user,
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": str(DATABASE_PORT),
        "StorageUser": "slurm",
        "StoragePass": "slurm",
        "StorageLoc": "slurm_acct",
        "LogFile": f"{INSIDE}/log/slurmdbd.log",
        "PidFile": f"{INSIDE}/run/slurmdbd.pid",
        "DebugLevel": "info",
        "CommitDelay": "1",
    }
    return "".join(f"{key}={value}\n" for key, value in keys.items())
