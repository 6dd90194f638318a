"""Bins of difficulty, the two-fold choice, and the policy's file."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_kernels.compute_optimal import SearchPolicy, best, difficulty_bins, fit, two_fold

CHANCES = st.floats(0, 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(CHANCES, min_size=5, max_size=40), st.integers(1, 5))
def test_bins_are_even_and_ordered(ease, count):
    bins = difficulty_bins(ease, count)
    sizes = np.bincount(bins, minlength=count)
    assert len(sizes) == count and sizes.max() - sizes.min() <= 1
    for easier in range(count - 1):
        assert min(np.array(ease)[bins == easier]) >= max(np.array(ease)[bins == easier + 1])


def test_equal_problems_are_binned_in_their_order():
    assert difficulty_bins([0.5] * 6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert difficulty_bins([0.1, 0.9, 0.5], 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize(("ease", "count"), [([], 1), ([0.5], 2), ([0.5, 0.5], 0), ([[0.5]], 1)])
def test_bins_of_nothing(ease, count):
    with pytest.raises(ValueError, match="ease must have at least count"):
        difficulty_bins(ease, count)
    with pytest.raises(ValueError, match="NaN for 1"):
        difficulty_bins([0.1, np.nan], 1)


def made_up(problems, seed):
    rng = np.random.default_rng(seed)
    outcomes = {name: rng.integers(0, 2, problems).astype(float) for name in "abc"}
    return outcomes, rng.integers(0, 3, problems)


@pytest.mark.parametrize("problems", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("seed", range(5))
def test_two_fold_choice(problems, seed):
    outcomes, bins = made_up(problems, seed)
    want = np.zeros(problems)
    for bin in range(3):
        members = [i for i in range(problems) if bins[i] == bin]
        for place, problem in enumerate(members):
            others = [member for other, member in enumerate(members) if other % 2 != place % 2] or range(problems)
            score = {name: sum(right[list(others)]) for name, right in outcomes.items()}
            chosen = next(name for name in "abc" if score[name] == max(score.values()))
            want[problem] = outcomes[chosen][problem]
    assert two_fold(outcomes, bins).tolist() == want.tolist()


def test_a_strategy_that_is_best_everywhere_is_always_chosen():
    outcomes, bins = made_up(40, 0)
    outcomes["top"] = np.ones(40)
    assert two_fold(outcomes, bins).all()
    assert best({"x": np.zeros(40), "top": outcomes["top"]}, bins == 0) == "top"


def test_the_policy_chooses_what_was_best_in_each_bin():
    probed = [0.9, 0.8, 0.5, 0.4, 0.2, 0.1]
    easy = np.array([1, 1, 0, 0, 0, 0.0])
    hard = np.array([0, 0, 0, 1, 1, 1.0])
    policy = fit({4: {"easy": easy, "hard": hard}, 16: {"hard": hard, "easy": easy}}, probed, probes=2, count=3)
    assert policy.edges == (0.8, 0.4) and policy.probes == 2
    assert policy.choices == {4: ("easy", "hard", "hard"), 16: ("easy", "hard", "hard")}
    assert [policy.bin_of(score) for score in (1.0, 0.8, 0.79, 0.4, 0.3, 0.0)] == [0, 0, 1, 1, 2, 2]
    assert [policy.spec(budget, 0) for budget in (1, 4, 15, 16, 999)] == ["easy"] * 5


def test_between_budgets_the_smaller_one_counts():
    policy = SearchPolicy((), 1, {4: ("four",), 16: ("sixteen",)})
    assert [policy.spec(budget, 0) for budget in (1, 4, 15, 16, 64)] == ["four"] * 3 + ["sixteen"] * 2


def test_a_policy_survives_its_file(tmp_path):
    policy = SearchPolicy((0.75, 0.25), 4, {4: ("a", "b", "c"), 16: ("d", "e:width=4", "f")})
    policy.save(tmp_path / "policy.json")
    assert SearchPolicy.load(tmp_path / "policy.json") == policy


@pytest.mark.parametrize("record", [[], {}, {"edges": [0.5]}, {"edges": [0.5], "probes": 1, "choices": []}, None])
def test_files_that_hold_no_policy(tmp_path, record):
    path = tmp_path / "policy.json"
    if record is not None:
        path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is no policy"):
        SearchPolicy.load(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (((0.2, 0.8), 4, {4: ("a",) * 3}), "edges must descend"),
        (((0.5,), 0, {4: ("a", "b")}), "probes must be at least 1"),
        (((0.5,), 4, {}), "at least one budget"),
        (((0.5,), 4, {4: ("a",)}), "2 strategies for budget 4"),
    ],
)
def test_policies_that_are_none(settings, message):
    with pytest.raises(ValueError, match=message):
        SearchPolicy(*settings)
