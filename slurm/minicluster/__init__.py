"""A small real Slurm cluster on one machine: try a launch here before it burns an allocation.

Nothing is imitated but the hardware. Slurm's own daemons run, one ``slurmd`` per node, and each node is a set of Linux
namespaces: its own address, host name, processes and ``/dev/shm``. So nodes can be killed, cut off and started again,
and what a job sees (host names, preemption, requeueing, lost nodes, fake GPUs) is what Slurm does.

Three processes matter::

    cluster.py   outside: starts the holder, enters its namespaces to run commands, ends it
    holder.py    process 1 of the cluster's namespaces; also the head, where one logs in and submits
    node.py      run inside the head: starts and kills nodes, each of which is a set of namespaces within the head's

All the rest follows from that: the kernel ends every process, network interface and mount of the cluster with its
process 1, so nothing can be left behind, and nothing is ever changed outside. Without root, a user namespace
(``unshare --user``) allows the same.

Made of the standard library alone: it needs no more than Python 3.10 and the packages of Slurm.
"""

from .cluster import MiniCluster
from .errors import MiniClusterError
from .programs import why_not

__all__ = ["MiniCluster", "MiniClusterError", "why_not"]
