"""From reports to findings. Pure: what is judged here can be tested without a cluster, and every rank judges alike."""

from collections.abc import Sequence

from . import verdict_nodes, verdict_ranks
from .finding import Finding, Limits
from .report import RankReport


def judge(reports: Sequence[RankReport], limits: Limits) -> list[Finding]:
    """Everything wrong with these ranks and their nodes, refusals first.

    Args:
        reports: of all ranks, by rank
        limits: from where on something is too little or too slow
    """
    findings = [*verdict_nodes.findings(reports, limits), *verdict_ranks.findings(reports, limits)]
    return sorted(findings, key=lambda finding: finding.severity != "refuse")
