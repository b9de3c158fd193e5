"""What the log says of a precision that this machine is slow in."""

import time
from collections.abc import Callable, Iterator

import pytest
import torch

from cait_dist.config.training import TrainingConfig
from cait_dist.models import create_model
from cait_dist.training.parallel import _use_float8, warn_of_slow_precision
from cait_dist.training.starting.plan import CannotStartError

CPU = torch.device("cpu")


def seconds(run: Callable[[], object]) -> float:
    """At best, of the processor."""
    found = []
    for _ in range(5):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two that wait for each other on a busy machine take processor time, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_it_warns_of_bf16_exactly_where_products_in_it_are_slow() -> None:
    x = torch.randn(256, 256)
    narrow = x.bfloat16()
    slow = seconds(lambda: narrow @ narrow) > 3 * seconds(lambda: x @ x)
    assert bool(warn_of_slow_precision(TrainingConfig(precision="bf16", global_batch=8), CPU)) == slow


@pytest.mark.parametrize(("precision", "device"), [("fp32", "cpu"), ("bf16", "cuda")])
def test_it_says_nothing_of_others(precision: str, device: str) -> None:
    training = TrainingConfig.model_validate({"precision": precision, "global_batch": 8})
    assert warn_of_slow_precision(training, torch.device(device)) == []


def test_a_cpu_is_told_to_be_slow_with_8_bits_too() -> None:
    training = TrainingConfig(precision="bf16", float8=True, global_batch=8)
    assert "training.float8" in warn_of_slow_precision(training, CPU)[0]
    assert warn_of_slow_precision(training, torch.device("cuda")) == []


def test_a_device_without_8_bits_is_refused_by_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cait_dist.models.float8.float8_trouble", lambda device: "it cannot")
    with pytest.raises(CannotStartError, match=r"'training.float8': it cannot; set it to false"):
        _use_float8(create_model("cait_xxs24_224", depth=1), CPU)
