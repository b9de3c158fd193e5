"""The compiled row passes of the native backend: how they round, share out work, and are built or done without."""

import logging
import os
from pathlib import Path

import pytest
import torch
from test_ops_cpu_backends import NAMES, error, needs_compiler, results, tensors
from torch import Tensor

from cait_dist.ops import available_backends, choose_backend, talking_heads_attention
from cait_dist.ops.talking_heads import native, native_rows, operator

pytestmark = needs_compiler


def attend(*args: Tensor, **options) -> Tensor:
    return operator.attend(*args, backend="native", **options)


def probabilities(logits: Tensor) -> Tensor:
    """What the forward pass makes of logits (rows, tokens), with one head and nothing mixed."""
    passes, maps = native_rows.row_passes(1, logits.dtype), logits.clone()[None]
    real = torch.promote_types(logits.dtype, torch.float32)
    passes.forward(maps, torch.ones(1, 1, dtype=real), torch.ones(1, 1, dtype=real), torch.zeros(1, dtype=real), 1.0)
    return maps[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [1, 5, 16, 33, 784])
def test_a_softmax_is_as_precise_as_its_numbers(dtype, tokens):
    logits = 12 * torch.randn(40, tokens, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = logits.to(dtype).double().softmax(-1)
    largest = (probabilities(logits.to(dtype)).double() / expected - 1)[expected > 1e-20].abs().max()
    assert largest < 100 * torch.finfo(dtype).eps  # a logit of 40 is itself known to 40 eps only


def test_the_largest_logit_counts_wherever_it_stands():
    logits = torch.zeros(40, 40).fill_diagonal_(300.0)
    torch.testing.assert_close(probabilities(logits), torch.eye(40), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_has_no_share_is_zero_and_nothing_is_denormal(dtype):
    logits = torch.linspace(-3000, 0, 200, dtype=torch.float64).to(dtype).expand(3, -1)
    p = probabilities(logits)
    assert p[:, 0].eq(0).all()
    assert p[:, -1].gt(0.9).all()
    assert p[p > 0].min() >= torch.finfo(torch.promote_types(dtype, torch.float32)).tiny


def test_narrow_results_are_rounded_to_the_nearest_and_to_even():
    """Over a single key every probability is one, so that an entry of the mixed map is a row sum of W_w."""
    bits = torch.randint(-(2**31), 2**31 - 1, (200, 8), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    ties = bits & ~0xFFFF | 0x8000
    special = torch.tensor([[0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, 3.4e38, -1e-40]])
    passes, ones = native_rows.row_passes(8, torch.bfloat16), torch.zeros(8, 8)
    for wanted in torch.cat((bits.view(torch.float32), ties.view(torch.float32), special)):
        maps = torch.zeros(8, 1, 1, dtype=torch.bfloat16)
        passes.forward(maps, ones, torch.zeros(8, 8), wanted.contiguous(), 1.0)
        ours, expected = maps.flatten(), wanted.bfloat16()
        denormal = expected.abs() < torch.finfo(torch.bfloat16).tiny  # zero where a processor narrows by itself
        ours = torch.where(denormal & (ours == 0), expected, ours)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_in_its_row_and_nowhere_else(dtype, bad):
    logits = torch.zeros(4, 37, dtype=dtype)
    logits[2, 5] = bad
    p = probabilities(logits)
    assert p[2].isnan().all()
    assert p[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_sample_has_the_same_bits_in_any_company(dtype):
    qkv, *mixing, cotangent = tensors(3, 4, 50, 16)
    together = results(attend, [qkv, *mixing, cotangent], dtype)
    for sample in range(3):
        alone = results(attend, [qkv[sample : sample + 1], *mixing, cotangent[sample : sample + 1]], dtype)
        assert torch.equal(alone[0][0], together[0][sample])
        assert torch.equal(alone[1][0], together[1][sample])


@pytest.mark.parametrize(
    ("workspace", "samples", "rows"),
    [(None, [7, 7, 6], [64]), (2 * 5 * 2**17, [5] * 4, [64]), (2**17, [1] * 20, [32] * 2), (1, [1] * 20, [1] * 64)],
)
def test_samples_are_worked_on_together_as_far_as_cache_and_workspace_hold_them(workspace, samples, rows):
    q = torch.empty(20, 16, 64, 8, dtype=torch.bfloat16)
    assert q.shape[1] * q.shape[2] ** 2 * q.element_size() == 2**17
    work = native.cut(q, 2, workspace)
    assert [part.stop - part.start for part in work.samples] == samples
    assert [part.stop - part.start for part in work.rows] == rows
    assert sum(flat.nbytes for flat in work.memory) == 2 * 2**17 * samples[0] * rows[0] // 64


def test_narrow_gradients_of_many_blocks_are_summed_as_precisely_as_one_is_made():
    inputs = tensors(1, 4, 100, 16)
    expected = results(attend, inputs, torch.float64)
    one, many = (results(attend, inputs, torch.bfloat16, workspace_bytes=size) for size in (None, 1))
    assert error(many[1], expected[1]) < 1.1 * error(one[1], expected[1])


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("workspace", [None, 2**16])
def test_threads_share_the_rows_and_add_up_to_the_same(threads, workspace):
    inputs, found = tensors(2, 6, 131, 16), {}
    for count in (1, 2, 3):
        threads(count)
        found[count] = results(attend, inputs, torch.float64, workspace_bytes=workspace)
        again = results(attend, inputs, torch.float64, workspace_bytes=workspace)
        assert all(torch.equal(a, b) for a, b in zip(found[count], again, strict=True))
    for count in (2, 3):
        for name, a, b in zip(NAMES, found[count], found[1], strict=True):
            assert error(a, b) < 1e-13, name


@pytest.fixture
def compiled_anew(tmp_path, monkeypatch):
    """Makes this process compile again, with temporary files in a folder of the test's."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("CC", raising=False)
    native_rows.row_passes.cache_clear()
    yield tmp_path
    native_rows.row_passes.cache_clear()


def compiler_that(folder: Path, does: str) -> str:
    program = folder / "compiler"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    return str(program)


def test_compiling_leaves_no_file_behind(compiled_anew):
    assert native_rows.row_passes(3, torch.float32) is not None
    assert list((compiled_anew / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("says", "because"),
    [
        ("exit 1", "refused: "),
        ("echo rows.c: error: no such processor >&2; exit 1", "refused: rows.c: error: no such processor"),
        ("exit 0", "cannot open shared object file"),
    ],
)
def test_without_a_compiler_that_works_attention_is_chunked_and_the_log_says_why(
    compiled_anew, monkeypatch, caplog, says, because
):
    monkeypatch.setenv("CC", compiler_that(compiled_anew, says))
    with caplog.at_level(logging.WARNING):
        assert choose_backend("cpu", torch.float32, heads=4, tokens=784) == "chunked"
        assert choose_backend("cpu", torch.float32, heads=4, tokens=784) == "chunked"
    (record,) = caplog.records
    assert "without its compiled row passes" in record.getMessage()
    assert because in record.getMessage()
    assert "native" not in available_backends()
    with pytest.raises(ValueError, match="native cannot run on cpu: it needs a CPU, a C compiler"):
        choose_backend("cpu", torch.float32, heads=4, tokens=784, backend="native")


def test_without_any_compiler_the_log_says_so(compiled_anew, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(compiled_anew))
    with caplog.at_level(logging.WARNING):
        assert choose_backend("cpu", torch.float32, heads=4, tokens=784) == "chunked"
        assert choose_backend("cpu", torch.float32, heads=4, tokens=195) == "eager"
    assert "there is no C compiler (cc, gcc, clang)" in caplog.text


def test_the_compiler_may_be_named_with_arguments(compiled_anew, monkeypatch):
    monkeypatch.setenv("CC", "env cc")
    assert choose_backend("cpu", torch.float32, heads=4, tokens=784) == "native"


def test_a_compiler_without_threads_makes_passes_for_one(compiled_anew, monkeypatch, threads):
    inputs = tensors(2, 3, 20, 8)
    expected = results(attend, inputs, torch.float64)
    native_rows.row_passes.cache_clear()
    refuses = compiler_that(
        compiled_anew, f'case "$*" in *-fopenmp*) exit 1;; esac; PATH={os.environ["PATH"]} exec cc "$@"'
    )
    monkeypatch.setenv("CC", refuses)
    threads(2)
    for name, a, b in zip(NAMES, results(attend, inputs, torch.float64), expected, strict=True):
        assert error(a, b) < 1e-13, name


def test_float16_on_a_cpu_is_chunked():
    qkv = torch.zeros(3, 1, 2, 200, 4, dtype=torch.float16)
    mixing = [torch.eye(2).half(), torch.zeros(2).half()] * 2
    assert choose_backend("cpu", torch.float16, heads=2, tokens=200) == "chunked"
    with pytest.raises(ValueError, match="maps of bfloat16, float32 or float64"):
        talking_heads_attention(qkv, *mixing, scale=1.0, backend="native")
    with torch.autocast("cpu", torch.float16):
        assert talking_heads_attention(qkv.float(), *mixing, scale=1.0).dtype == torch.float16
