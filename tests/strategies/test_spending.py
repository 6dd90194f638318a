"""The meter: every strategy is charged for what it drew and read, whoever drew it."""

import random
from types import SimpleNamespace

import pytest

from tts_kernels.meter import Meter
from tts_kernels.scorers import Spent
from tts_kernels.search import SearchStats
from tts_kernels.strategies import Budget
from tts_kernels.tree import Node


def cost(tokens, attended):
    return 1000 * tokens + attended


def new_meter(spent=None):
    policy = SimpleNamespace(cost=cost, pool=SimpleNamespace(layout=SimpleNamespace(token_bytes=8)))
    return Meter(policy, SimpleNamespace(spent=lambda tree: spent or Spent()), SearchStats())


def node(tokens=0, start=0, **others):
    return Node(0, -1, (), 0, start, [7] * tokens, **others)


def draw(meter, counts, rollout=False):
    """A solution with so many tokens in each of its steps, one node a step."""
    for first_step, count in enumerate(counts):
        step = node(rollout=rollout, first_step=first_step)
        meter.drew(count, rollout * count)
        step.step_ends.append(count)
        meter.step(step)


def test_generations_are_the_steps_where_most_were_drawn():
    meter = new_meter()
    for counts in ([2, 3, 1], [4, 1], [1]):
        draw(meter, counts)
    assert (meter.stats.generations, meter.stats.tokens, meter.stats.rollout_tokens) == (3, 12, 0)
    # One more at a place where there were two does not make it more; a fourth first step does.
    step = node(first_step=1, step_ends=[1])
    meter.step(step)
    assert meter.stats.generations == 3
    draw(meter, [2, 2], rollout=True)
    assert (meter.stats.generations, meter.stats.tokens, meter.stats.rollout_tokens) == (4, 16, 4)


def test_a_whole_solution_counts_at_each_of_its_steps():
    meter = new_meter()
    for _ in range(3):
        whole = node(3)
        for end in (1, 2, 3):
            whole.step_ends.append(end)
            meter.step(whole)
    assert meter.stats.generations == 3


def test_flops_of_feeding_are_those_of_every_token_at_its_place():
    draws = random.Random(0)
    meter, flops = new_meter(), 0
    for _ in range(20):
        begin, count = draws.randrange(50), draws.randrange(1, 9)
        meter.fed(count, begin)
        # A token attends to all before it and itself.
        flops += sum(cost(1, place + 1) for place in range(begin, begin + count))
        assert meter.stats.policy_flops == flops


def test_what_the_scorer_read_is_taken_over():
    meter = new_meter(Spent(tokens=5, flops=70, kv_bytes=11))
    meter.fed(3, 0)
    meter.scored(None)
    assert (meter.stats.scorer_tokens, meter.stats.scorer_flops, meter.stats.kv_bytes) == (5, 70, 3 * 8 + 11)


def test_a_limit_in_tokens_is_never_passed():
    meter = new_meter()
    draw(meter, [3, 4])
    assert meter.allows(Budget(9, "tokens"), 2, 0)
    assert not meter.allows(Budget(9, "tokens"), 3, 0)
    assert meter.allows(Budget(1), 99, 0) and meter.allows(None, 99, 0)


def test_a_limit_in_flops_leaves_room_for_the_scoring():
    """A call for two tokens at places 5 and 9, and the scorer's reading of these and of three more."""
    meter = new_meter(Spent(tokens=4, flops=400))
    meter.fed(2, 0)
    meter.scored(None)
    draw(meter, [3])
    need = cost(2, 1 + 2) + 400 + cost(2, 5 + 9) + 100 * (3 + 2)
    assert meter.allows(Budget(need, "flops"), 2, 5 + 9)
    assert not meter.allows(Budget(need - 1, "flops"), 2, 5 + 9)
    # What it has read since is no longer owed.
    meter.scored(None)
    assert meter.allows(Budget(need - 300, "flops"), 2, 5 + 9)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [("16", 16, "generations"), (4, 4, "generations"), ("20000 tokens", 20000, "tokens"), ("3e12 flops", 3e12, "flops"),
     (" 1.5e3tokens ", 1500, "tokens")],
)  # fmt: skip
def test_budgets_are_read(text, amount, unit):
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize("text", ["", "many", "16 hours", "-3", "0", "0.5 tokens", "2.5", "1e999 flops", "3 4 tokens"])
def test_bad_budgets_are_refused(text):
    with pytest.raises(ValueError, match=r"^(B|b)udget"):
        Budget.parse(text)
