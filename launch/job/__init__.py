"""What runs inside an allocation, in this order.

``begin`` (once, on the first node: claims the run directory, names the rendezvous) → ``task`` (once per GPU: starts the
rank and watches over it) → ``rank`` (checks the cluster, trains) → ``end`` (once: says what came first, and requeues or
stops). `cait launch` has submitit write this sequence; ``slurm/train.sbatch`` spells it out for those without submitit.
"""
