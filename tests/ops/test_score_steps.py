import itertools

import pytest
import torch

from tts_kernels.backends import why_not
from tts_kernels.ops.score_steps import AGGREGATES, score_steps
from tts_kernels.testing import POISON_INDEX, assert_matches_oracle, peaky

# Tokens, hidden size, classes, steps per path: one, odd, empty, one past every vector, one past the 64 paths of a task
# (CPU), more than one tile of classes and of hidden states (Triton).
SHAPES = [
    (1, 1, 1, [1]),
    (9, 17, 2, [2, 0, 3]),
    (5, 64, 3, [0, 0]),
    (7, 65, 2, []),
    (300, 129, 5, [1, 0, 4, 2] * 17),
    (4, 1030, 2, [3, 1]),
    (4, 1030, 20, [2, 0, 1]),
    (3, 0, 2, [1, 2]),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HEADS = [("softmax", 0), ("softmax", -1), ("sigmoid", 0), ("raw", -1)]


def make_case(shape, dtype, device, head="softmax", seed=0):
    """Arguments of score_steps; tokens that no step names are NaN, the prior of a path without earlier steps too."""
    tokens, size, classes, steps = shape
    classes = 1 if head == "sigmoid" else classes
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(tokens, (sum(steps),), generator=generator, dtype=torch.int32)
    hidden = peaky(tokens, size, generator=generator, dtype=dtype)
    unread = torch.ones(tokens, dtype=torch.bool)
    unread[rows.long()] = False
    hidden[unread] = torch.nan
    weight = (peaky(classes, size, generator=generator) / max(size, 1) ** 0.5).to(dtype)
    bias = peaky(classes, generator=generator)
    offsets = torch.tensor([0, *itertools.accumulate(steps)], dtype=torch.int32)
    prior_steps = torch.randint(0, 4, (len(steps),), generator=generator, dtype=torch.int32)
    prior = torch.rand(len(steps), generator=generator).masked_fill(prior_steps == 0, torch.nan)
    return [x.to(device) for x in (hidden, rows, offsets, weight, bias, prior, prior_steps)]


def check(backend, device, shape, dtype, head, positive, aggregate, with_prior):
    hidden, rows, offsets, weight, bias, prior, prior_steps = make_case(shape, dtype, device, head)
    options = {"head": head, "positive": positive % len(weight), "aggregate": aggregate}
    if with_prior:
        options |= {"prior": prior, "prior_steps": prior_steps}
    bias = bias if with_prior else None
    got = score_steps(hidden, rows, offsets, weight, bias, **options, backend=backend)
    oracle = score_steps(hidden.double(), rows, offsets, weight.double(), bias, **options, backend="reference")
    same = score_steps(hidden, rows, offsets, weight, bias, **options, backend="reference")
    for ours, wanted, theirs, name in zip(got, oracle, same, ("step_scores", "path_scores"), strict=True):
        assert ours.dtype == torch.float32
        assert_matches_oracle(ours, wanted, theirs, name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("head", "positive"), HEADS)
def test_matches_oracle(backend, device, shape, dtype, head, positive):
    # Triton's interpreter takes milliseconds per path.
    if backend == "triton" and device.type == "cpu":
        shape = (*shape[:3], shape[3][:6])
    for aggregate, with_prior in itertools.product(AGGREGATES, [False, True]):
        check(backend, device, shape, dtype, head, positive, aggregate, with_prior)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    for (head, positive), aggregate in itertools.product(HEADS, AGGREGATES):
        check("native", "cpu", (40, 203, 3, [2, 0, 5, 1]), dtype, head, positive, aggregate, True)


def test_written_out(backend, device):
    """Probabilities 0.5, 0.2, 0.8 of one path, from logits that are the hidden values themselves."""
    p = torch.tensor([0.5, 0.2, 0.8], device=device)
    hidden = torch.stack([p.log(), (1 - p).log()], 1)
    rows = torch.tensor([0, 1, 2], dtype=torch.int32, device=device)
    offsets = torch.tensor([0, 3, 3], dtype=torch.int32, device=device)
    weight = torch.eye(2, device=device)
    for aggregate, wanted in [("last", 0.8), ("min", 0.2), ("prod", 0.08), ("mean", 0.5)]:
        steps, paths = score_steps(hidden, rows, offsets, weight, aggregate=aggregate, backend=backend)
        torch.testing.assert_close(steps, p)
        torch.testing.assert_close(paths, torch.tensor([wanted, 0.0], device=device))
    other = score_steps(hidden, rows, offsets, weight, positive=1, backend=backend)[0]
    torch.testing.assert_close(other, 1 - p)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_prior_continues_a_path(backend, device, aggregate):
    """Scoring 5 steps in rounds of 2, 0, 1 and 2 is the same as scoring them at once."""
    hidden, rows, _, weight, bias, *_ = make_case((20, 33, 2, [5, 5]), torch.float32, device, seed=3)
    options = {"aggregate": aggregate, "backend": backend}
    ends = torch.tensor([0, 5, 10], dtype=torch.int32, device=device)
    whole = score_steps(hidden, rows, ends, weight, bias, **options)[1]
    paths, done = torch.full((2,), torch.nan, device=device), torch.zeros(2, dtype=torch.int32, device=device)
    for begin, end in [(0, 2), (2, 2), (2, 3), (3, 5)]:
        chosen = torch.cat([rows[begin:end], rows[5 + begin : 5 + end]])
        offsets = torch.tensor([0, 1, 2], dtype=torch.int32, device=device) * (end - begin)
        paths = score_steps(hidden, chosen, offsets, weight, bias, **options, prior=paths, prior_steps=done)[1]
        done = done + end - begin
    torch.testing.assert_close(paths, whole)


def test_paths_without_new_steps(backend, device):
    """Without a new step the prior stays to the bit; without any step the score is 0, whatever the prior says."""
    hidden = torch.full((2, 8), torch.nan, device=device)
    numbers = {"dtype": torch.int32, "device": device}
    rows, offsets, done = torch.tensor([], **numbers), torch.zeros(4, **numbers), torch.tensor([3, 0, 1], **numbers)
    prior = torch.tensor([0.3, torch.nan, 0.7], device=device)
    for aggregate in AGGREGATES:
        options = {"aggregate": aggregate, "prior": prior, "prior_steps": done, "backend": backend}
        paths = score_steps(hidden, rows, offsets, torch.ones(2, 8, device=device), **options)[1]
        assert paths.tolist() == [prior[0].item(), 0.0, prior[2].item()]


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_large_logits_do_not_overflow(backend, device, head):
    """Logits of 0, 1000 and -1000: an exponential of them is infinite in float32."""
    hidden = torch.tensor([[0.0], [1000.0], [-1000.0]], device=device)
    weight = torch.tensor([[1.0], [-1.0]] if head == "softmax" else [[1.0]], device=device)
    numbers = {"dtype": torch.int32, "device": device}
    rows, offsets = torch.tensor([0, 1, 2], **numbers), torch.tensor([0, 3], **numbers)
    assert score_steps(hidden, rows, offsets, weight, head=head, backend=backend)[0].tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_nan_stays_visible(backend, device, aggregate):
    """A NaN hidden row must not vanish in a minimum: select_children refuses it later."""
    hidden = torch.tensor([[0.3], [torch.nan], [0.1]], device=device)
    numbers = {"dtype": torch.int32, "device": device}
    rows, offsets = torch.tensor([0, 1, 2, 2, 0, 1], **numbers), torch.tensor([0, 3, 6], **numbers)
    weight = torch.ones(1, 1, device=device)
    paths = score_steps(hidden, rows, offsets, weight, head="raw", aggregate=aggregate, backend=backend)[1]
    assert paths.isnan().tolist() == [aggregate != "last", True]


def test_strided_arguments(backend, device):
    case = make_case((9, 40, 2, [2, 0, 3]), torch.bfloat16, device)
    options = {"aggregate": "mean", "backend": backend}
    want = score_steps(*case[:5], **options, prior=case[5], prior_steps=case[6])
    case = [x.T.contiguous().T if x.dim() > 1 else torch.stack([x, x * 0 + POISON_INDEX], 1)[:, 0] for x in case]
    got = score_steps(*case[:5], **options, prior=case[5], prior_steps=case[6])
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_does_not_depend_on_threads(backend, device):
    case = make_case((50, 129, 2, [2, 0, 3, 1] * 5), torch.float32, device)
    want = score_steps(*case[:5], aggregate="mean", backend=backend)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 3)
    try:
        got = score_steps(*case[:5], aggregate="mean", backend=backend)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_bad_input():
    hidden, rows, offsets, weight, bias, prior, done = make_case((9, 17, 2, [2, 0, 3]), torch.float32, "cpu")
    args = (hidden, rows, offsets, weight)
    with pytest.raises(ValueError, match=r"score_steps: weight must be \[C, H\], got \[2, 16\] \(H=17 from hidden\)"):
        score_steps(hidden, rows, offsets, weight[:, :16])
    with pytest.raises(ValueError, match=r"score_steps: bias must be \[2\], got \[1\]"):
        score_steps(*args, bias[:1])
    with pytest.raises(ValueError, match=r"score_steps: prior must be \[3\], got \[2\]"):
        score_steps(*args, prior=prior[:2], prior_steps=done)
    with pytest.raises(
        ValueError, match="score_steps: prior and prior_steps must be given together, got no prior_steps"
    ):
        score_steps(*args, prior=prior)
    with pytest.raises(TypeError, match="score_steps: prior_steps must be int32, got int64"):
        score_steps(*args, prior=prior, prior_steps=done.long())
    with pytest.raises(TypeError, match="score_steps: weight must have the dtype of hidden"):
        score_steps(hidden, rows, offsets, weight.half())
    with pytest.raises(ValueError, match=r"score_steps: weight must be \[1, H\] for head 'sigmoid', got \[2, 17\]"):
        score_steps(*args, head="sigmoid")
    with pytest.raises(ValueError, match=r"score_steps: positive must be in \[0, 2\), got 2"):
        score_steps(*args, positive=2)
    with pytest.raises(ValueError, match="score_steps: head must be softmax or sigmoid or raw, got 'mlp'"):
        score_steps(*args, head="mlp")
    with pytest.raises(ValueError, match=r"score_steps: aggregate must be last or .*, got 'max'"):
        score_steps(*args, aggregate="max")
    with pytest.raises(ValueError, match="score_steps: prior_steps must be at least 0"):
        score_steps(*args, prior=prior, prior_steps=done - 4)
    if why_not("score_steps", "triton", "cpu") is not None:
        with pytest.raises(RuntimeError, match="score_steps: backend 'triton' cannot run here"):
            score_steps(*args, backend="triton")
    for wrong in ([0, 2, 1, 5], [1, 2, 2, 5], [0, 2, 2, 4], [0, 2, 2, 6]):
        with pytest.raises(ValueError, match="score_steps: offsets must be ascending from 0 to 5"):
            score_steps(hidden, rows, torch.tensor(wrong, dtype=torch.int32), weight)
    for wrong in (-1, 9, POISON_INDEX):
        rows[2] = wrong
        with pytest.raises(ValueError, match=rf"score_steps: rows must be in \[0, 9\), got {wrong}"):
            score_steps(*args)
