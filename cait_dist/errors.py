"""Which errors are told to the user in a line, and which are faults of the program and keep their traceback."""

OUR_PACKAGES = ("cait_dist", "data_prep", "launch", "slurm")


def is_for_user(error: BaseException) -> bool:
    """Whether the user can mend the cause.

    The rule: every class of ``ValueError`` that this project defines carries a message that names the place and the
    remedy; a bare ``ValueError`` is a fault.
    """
    return isinstance(error, ValueError) and type(error).__module__.partition(".")[0] in OUR_PACKAGES
