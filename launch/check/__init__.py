"""What is looked at before a job trains: whether the nodes are whole, alike, and see the same run directory.

``node`` (what one node says of itself) → ``measure`` (one rank's arithmetic) → ``collective`` (what only all ranks
together can find out: ``shared_folder``, ``traffic``) → ``verdict`` (pure: from reports to findings) → ``cluster``
(all of it, at the start of a job). ``doctor`` asks the same of the machine a user sits at.
"""

from .cluster import check_cluster, check_program
from .finding import ClusterCheckError, Finding, Limits

__all__ = ["ClusterCheckError", "Finding", "Limits", "check_cluster", "check_program"]
