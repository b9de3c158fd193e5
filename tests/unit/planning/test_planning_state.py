"""State of a rank against DeepSpeed's own estimates, and against plain sums."""

import pytest

from cait_dist.models import architecture
from cait_dist.planning.counting.flops import count_params
from cait_dist.planning.counting.numerics import numerics
from cait_dist.planning.counting.state_memory import RankState, ZeroSetting, coming_up, count_state

PARAMS = count_params(architecture("cait_m48_448")).total


def state(stage: int, ranks: int = 8, precision: str = "bf16", **settings: object) -> RankState:
    zero = ZeroSetting(stage, ranks, bucket=200_000_000, **settings)  # type: ignore[arg-type]
    return count_state(PARAMS, numerics(precision, stage), zero)  # type: ignore[arg-type]


def test_without_partitioning_a_parameter_takes_sixteen_bytes_and_its_average_four() -> None:
    found = state(0)
    assert found.steady == PARAMS * (4 + 8 + 4)
    assert found.gradients == PARAMS * 4


@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_stage_2_is_what_deepspeed_estimates_and_what_it_leaves_out(ranks: int) -> None:
    """Its 18 bytes are 2 + 4 of gradients, 4 of master weights, 8 of moments. It has no average, buckets, flat copy."""
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs  # noqa: PLC0415

    _, estimate = estimate_zero2_model_states_mem_needs(PARAMS, ranks, 1, cpu_offload=False)
    found = state(2, ranks)
    comparable = found.parameters + found.master + found.moments + found.gradients + found.wide_gradients
    assert comparable == pytest.approx(estimate, abs=18)
    left_out = found.average + found.flat
    assert found.steady + found.for_update == comparable + left_out


@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_stage_3_is_what_deepspeed_estimates_but_for_the_gathered_weights(ranks: int) -> None:
    """For those it has the largest layer, twice; what DeepSpeed really keeps of a model this size is all of it."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs  # noqa: PLC0415

    largest = 4 * 768 * 768
    _, estimate, gathered = estimate_zero3_model_states_mem_needs(PARAMS, largest, ranks, 1, False, False, True)
    found = state(3, ranks)
    assert gathered == 4 * largest
    comparable = found.parameters + found.master + found.moments + found.gradients + found.wide_gradients
    # Its 18 bytes are of W-th parts of weights and gradients (2 + 2 + 4), where stage 2 has whole weights (2).
    assert comparable == pytest.approx(estimate - gathered + 2 * PARAMS / ranks, abs=20)
    assert found.gathered == 2 * PARAMS
    assert found.fetching == (0 if ranks == 1 else 2 * 50_000_000)


def test_more_stages_hold_less_between_steps() -> None:
    steady = [state(stage, 64).steady for stage in (0, 1, 2)]
    assert steady[0] > steady[1] == steady[2]
    assert state(3, 64).steady - state(3, 64).buckets < steady[2]


def test_stage_2_needs_less_than_stage_1_for_the_update_and_not_less_for_activations() -> None:
    one, two = state(1), state(2)
    assert one.for_update > two.for_update
    assert one.beside_activations == two.beside_activations


def test_alone_stage_1_leaves_no_bucket_to_the_update() -> None:
    assert state(1, ranks=1).for_update == state(2, ranks=1).for_update


def test_a_gpu_has_its_buckets_before_the_backward_pass_and_a_cpu_fills_them() -> None:
    assert state(2).buckets == 2 * 2 * 200_000_000  # two of them, as exchanges overlap
    assert state(2, device="cpu").buckets == 0
    width = numerics("bf16", 2)
    assert coming_up(width, ZeroSetting(2, 8, 1, device="cpu")) == 2
    assert coming_up(width, ZeroSetting(2, 8, 1, device="cuda")) == 0


def test_accumulated_gradients_stand_beside_activations() -> None:
    assert state(1, accumulation=4).beside_activations - state(1).beside_activations == 2 * PARAMS
    assert state(2, accumulation=4).beside_activations - state(2).beside_activations == 2 * -(-PARAMS // 8)


def test_the_peak_is_the_larger_of_activations_and_update() -> None:
    found = state(2, ranks=1)
    assert found.for_update > found.beside_activations
    assert found.peak(0) == found.steady + found.for_update
    assert found.peak(10**12) == found.steady + found.beside_activations + 10**12


def test_what_the_configuration_does_not_ask_for_takes_nothing() -> None:
    without = state(1, average=False, moments=1)
    assert without.average == 0
    assert without.moments == state(1).moments / 2
