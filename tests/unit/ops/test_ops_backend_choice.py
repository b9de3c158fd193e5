"""Which backend runs: the caller's wish, then the override, then the rule; and what cannot be wished for."""

import pytest
import torch
from test_ops_cpu_backends import needs_compiler
from torch import Tensor

from cait_dist.ops import available_backends, choose_backend, override_backend, talking_heads_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def attend(tokens: int = 4, **options) -> Tensor:
    qkv = torch.ones(3, 1, 2, tokens, 3, requires_grad=True)
    eye, zero = torch.eye(2), torch.zeros(2)
    return talking_heads_attention(qkv, eye, zero, eye, zero, scale=1.0, **options)


def ran(y: Tensor) -> str:
    """The backend that made this, as its backward pass tells."""
    nodes = [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if hasattr(node, "call"):
            return node.call[1]
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    return "eager"


@needs_compiler
def test_the_oracle_comes_first():
    assert available_backends() == ("eager", "chunked", "native")
    assert available_backends("cuda:0")[:2] == ("eager", "chunked")
    assert "native" not in available_backends("cuda:0")


@pytest.mark.parametrize(
    ("device", "expected"),
    [pytest.param("cpu", "native", marks=needs_compiler), ("cuda", "chunked"), (CUDA, "chunked")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resolution", [224, 384, 448])
def test_published_resolutions_keep_no_maps(device, expected, dtype, resolution):
    assert choose_backend(device, dtype, heads=4, tokens=(resolution // 16) ** 2) == expected


@needs_compiler
def test_on_a_cpu_compiled_passes_are_worth_it_sooner():
    assert [choose_backend(CPU, torch.float32, heads=4, tokens=n) for n in (99, 100)] == ["eager", "native"]
    assert choose_backend(CPU, torch.float16, heads=4, tokens=195) == "eager"


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 99), ("cuda", 195), ("cpu", 1), ("meta", 784), ("mps", 784)])
def test_few_tokens_and_other_devices_run_eagerly(device, tokens):
    assert choose_backend(device, torch.float32, heads=4, tokens=tokens) == "eager"


@pytest.mark.parametrize("tokens", [4, 100, 196])
def test_the_attention_runs_what_the_choice_says(tokens):
    assert ran(attend(tokens)) == choose_backend(CPU, torch.float32, heads=2, tokens=tokens)


@pytest.mark.parametrize("name", available_backends())
def test_an_argument_beats_an_override_and_an_override_the_rule(name):
    assert ran(attend(backend=name)) == name
    with override_backend(name):
        assert ran(attend(4)) == ran(attend(196)) == name
        for inner in available_backends():
            assert ran(attend(backend=inner)) == inner
            with override_backend(inner):
                assert choose_backend(CPU, torch.float32, heads=2, tokens=4) == inner
        assert choose_backend(CPU, torch.float32, heads=2, tokens=4) == name


def test_an_override_ends_with_its_context_even_by_an_error():
    with pytest.raises(ZeroDivisionError), override_backend("chunked"):
        _ = 1 / 0
    assert ran(attend()) == "eager"


def test_names_that_do_not_exist_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"called 'flash'; there are eager, chunked"):
        attend(backend="flash")
    with pytest.raises(ValueError, match=r"called 'flash'"), override_backend("flash"):
        pass


def test_dropout_has_no_say_in_it():
    assert ran(attend(196, dropout_p=0.1, training=True)) == ran(attend(196))
    assert ran(attend(dropout_p=0.1, training=True, backend="chunked")) == "chunked"
