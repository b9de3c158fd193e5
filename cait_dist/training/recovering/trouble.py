"""What training may go back for: the loss has come to harm, and the steps since then had better not have been."""

from typing import Any


class TroubleError(ValueError):
    """Training goes wrong. Raised on all ranks at the same step; the message says what usually helps.

    Args:
        what: has happened, in a clause
        began: the first bad step, counted as in the metrics: the step that made it ``began``
        until: data up to this step's are given up
        sound: the last step whose checkpoint is above suspicion
        losses: of the bad steps, by step
    """

    advice = "lower optimizer.lr, lengthen schedule.warmup_epochs or set optimizer.clip_grad"

    def __init__(self, what: str, began: int, until: int, sound: int, losses: dict[int, Any]) -> None:
        super().__init__(f"{what}: {self.advice}")
        self.what, self.began, self.until, self.sound, self.losses = what, began, until, sound, losses
