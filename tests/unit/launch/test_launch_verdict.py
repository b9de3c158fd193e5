"""Whether a job comes back: in good order always, after a failure once, never into the same wall twice."""

import pytest

from launch.job.verdict import Action, Ended, Verdict, decide

STOPPED = Ended("stopped", began=0, step=10)
CRASH = Ended("failed", began=0, step=12, signature="RuntimeError: boom")
LOST = Ended("lost", began=10, step=14)


def judge(*attempts: Ended, cancelled: bool = False, restarts: int = 0, max_restarts: int = 9) -> Verdict:
    return decide(attempts, cancelled=cancelled, restarts=restarts, max_restarts=max_restarts)


@pytest.mark.parametrize(
    "attempts",
    [
        [STOPPED],
        [STOPPED, STOPPED, STOPPED],
        [CRASH],
        [CRASH, STOPPED, CRASH],
        [CRASH, Ended("failed", began=10, step=13, signature=CRASH.signature)],
        [CRASH, Ended("failed", began=10, step=12, signature="RuntimeError: another")],
        [LOST, LOST],
        [Ended("failed", 10, 12), Ended("failed", 10, 12)],
    ],
    ids=[
        "saved", "saved thrice", "first crash", "crash after progress", "same error later", "other error",
        "lost nodes", "lost peers have no signature",
    ],
)  # fmt: skip
def test_it_comes_back(attempts: list[Ended]) -> None:
    assert judge(*attempts).action is Action.REQUEUE


def test_a_finished_run_is_done_whatever_was_asked_meanwhile() -> None:
    assert judge(Ended("finished", 10, 36), cancelled=True, restarts=99).action is Action.DONE


def test_the_same_error_at_the_same_step_ends_it() -> None:
    found = judge(CRASH, Ended("failed", began=10, step=12, signature=CRASH.signature))
    assert (found.action, found.reason) == (Action.STOP, "the same error twice at step 12: it would happen again")


def test_what_the_user_can_mend_ends_it_at_once() -> None:
    assert judge(Ended("failed", 0, 0, "DataError: x", explained=True)).action is Action.STOP


def test_cancelled_means_cancelled() -> None:
    assert judge(STOPPED, cancelled=True) == Verdict(Action.STOP, "cancelled at step 10")


def test_three_starts_without_a_step_end_it() -> None:
    futile = Ended("stopped", began=10, step=10)
    assert judge(futile, futile).action is Action.REQUEUE
    found = judge(futile, futile, futile)
    assert found.action is Action.STOP
    assert "is --time long enough" in found.reason


def test_the_profile_bounds_the_restarts() -> None:
    assert judge(STOPPED, restarts=8).action is Action.REQUEUE
    assert judge(STOPPED, restarts=9).action is Action.STOP
