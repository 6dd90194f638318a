"""Knockout and league, against closed forms."""

import math
from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np
import pytest

from tts_kernels.selection import Candidate
from tts_kernels.tournaments import Knockout, League, knockout, league
from tts_kernels.tree import Problem, SearchTree, child_key, root_key

SIZES = [1, 2, 3, 5, 8, 16]


def make_candidates(count, right=()):
    """Candidates that are told apart by their text; the right ones have the score 1."""
    return [Candidate([], str(index), str(index), float(index in right), 0.0, True) for index in range(count)]


def keys_of(count, seed=0):
    return [root_key(seed, str(index)) for index in range(count)]


class Record:
    """Batches of games: names of the pairs, keys. The larger name wins."""

    def __init__(self):
        self.batches = []

    def __call__(self, pairs, keys):
        self.batches.append(([(int(first.text), int(second.text)) for first, second in pairs], list(keys)))
        return [float(first > second) for first, second in self.batches[-1][0]]


def referee(chance):
    """The right one wins with a probability, between others a fair coin decides. The keys are uniform themselves."""

    def compare(pairs, keys):
        verdicts = []
        for (first, second), key in zip(pairs, keys, strict=True):
            bar = 0.5 if first.score == second.score else chance if first.score else 1 - chance
            verdicts.append(float(key * 2.0**-64 < bar))
        return verdicts

    return compare


def binomial(count, hits, chance):
    return math.comb(count, hits) * chance**hits * (1 - chance) ** (count - hits)


def match_chance(chance, times):
    """The better one of two has more wins, or half of the ties."""
    tie = binomial(times, times // 2, chance) if times % 2 == 0 else 0.0
    return sum(binomial(times, hits, chance) for hits in range(times // 2 + 1, times + 1)) + tie / 2


def knockout_chance(count, chance, times):
    """The only right one of ``count`` is left at the end."""
    if count == 1:
        return 1.0
    bye = 1 / count if count % 2 else 0.0
    return (bye + (1 - bye) * match_chance(chance, times)) * knockout_chance((count + 1) // 2, chance, times)


def league_chance(count, right, chance, opponents):
    """A right one is the first that has the most wins; everyone's games are its own."""
    others, good = count - 1, len(right)
    rates = [
        ((good - 1) * 0.5 + (count - good) * chance) / others
        if index in right
        else (good * (1 - chance) + (others - good) * 0.5) / others
        for index in range(count)
    ]
    exact = [[binomial(opponents, wins, rate) for wins in range(opponents + 1)] for rate in rates]
    total = 0.0
    for index in right:
        for wins in range(opponents + 1):
            before = math.prod(sum(row[:wins]) for row in exact[:index])
            behind = math.prod(sum(row[: wins + 1]) for row in exact[index + 1 :])
            total += exact[index][wins] * before * behind
    return total


def assert_share(hits, count, chance):
    """Within 4 standard deviations of what a binomial variable has."""
    assert abs(hits - count * chance) <= 4 * math.sqrt(count * chance * (1 - chance)), (hits / count, chance)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("count", SIZES)
def test_games_of_a_knockout(count, times):
    record, playing, games, seen = Record(), set(range(count)), 0, []
    assert knockout(make_candidates(count), record, times, key=5) == count - 1
    assert len(record.batches) == math.ceil(math.log2(count))
    for pairs, keys in record.batches:
        matches = [(pair, len(list(group))) for pair, group in groupby(pairs)]
        assert all(turns == times for _, turns in matches)
        names = [name for pair, _ in matches for name in pair]
        # Everybody who is still in has one match, but for the odd one out.
        assert len(names) == len(set(names)) == len(playing) // 2 * 2 and playing.issuperset(names)
        playing -= {min(pair) for pair, _ in matches}
        games += len(pairs)
        seen += keys
    assert playing == {count - 1} and games == times * (count - 1)
    assert len(set(seen)) == len(seen) and all(0 <= key < 2**64 for key in seen)


@pytest.mark.parametrize("opponents", [1, 4, 7])
@pytest.mark.parametrize("count", SIZES)
def test_games_of_a_league(count, opponents):
    record = Record()
    winner = league(make_candidates(count), opponents, record, key=5)
    if count == 1:
        assert winner == 0 and not record.batches
        return
    ((pairs, keys),) = record.batches
    assert len(pairs) == len(set(keys)) == count * opponents and all(0 <= key < 2**64 for key in keys)
    assert [first for first, _ in pairs] == [index for index in range(count) for _ in range(opponents)]
    assert all(first != second and 0 <= second < count for first, second in pairs)
    wins = [sum(first > second for first, second in pairs if first == index) for index in range(count)]
    assert winner == wins.index(max(wins))


def test_a_league_draws_opponents_with_replacement_and_evenly():
    record, count, opponents = Record(), 5, 4
    for key in keys_of(1000):
        league(make_candidates(count), opponents, record, key)
    games = [pair for pairs, _ in record.batches for pair in pairs]
    for pair in {(first, second) for first in range(count) for second in range(count) if first != second}:
        assert_share(games.count(pair), 1000 * opponents, 1 / (count - 1))
    twice = sum(games[place] == games[place + 1] for place in range(0, len(games), opponents))
    assert_share(twice, 1000 * count, 1 / (count - 1))


@pytest.mark.parametrize("play", [lambda *a: knockout(*a[:2], 2, a[2]), lambda *a: league(a[0], 3, *a[1:])])
def test_all_depends_on_the_key(play):
    first, again, other = Record(), Record(), Record()
    candidates = make_candidates(16)
    assert play(candidates, first, 7) == play(candidates, again, 7)
    play(candidates, other, 8)
    assert first.batches == again.batches
    (pairs, keys), (other_pairs, other_keys) = first.batches[0], other.batches[0]
    assert pairs != other_pairs and not {*keys} & {*other_keys}


@pytest.mark.parametrize("verdicts", [[0.5], [1.0, 0.0], [1.0], [0.0, 0.5]], ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_who_wins_a_knockout_without_differences_is_random(count, verdicts):
    wins = [0] * count
    for key in keys_of(1000):
        wins[knockout(make_candidates(count), lambda pairs, _: verdicts * (len(pairs) // len(verdicts)), 2, key)] += 1
    for won in wins:
        assert_share(won, 1000, 1 / count)


def test_who_wins_a_knockout_in_its_matches():
    for verdicts, place in (([1, 1, 0], 0), ([0, 1, 0], 1), ([0.5, 0.5, 0], 1), ([0.5, 1, 0.5], 0)):
        for key in keys_of(20):
            pairs = []
            winner = knockout(make_candidates(2), lambda *games: pairs.extend(games[0]) or verdicts, 3, key)  # noqa: B023
            assert str(winner) == pairs[0][place].text
    # Undecided where "0" comes first, lost for it elsewhere.
    verdict = {"0": [0.5], "1": [1.0]}
    wins = [knockout(make_candidates(2), lambda pairs, _: verdict[pairs[0][0].text], 1, key) for key in keys_of(1000)]
    assert_share(wins.count(0), 1000, 1 / 4)


def test_ties_of_a_league_go_to_the_first():
    for key in keys_of(20):
        assert league(make_candidates(5), 3, lambda pairs, _: [0.5] * len(pairs), key) == 0
        # One win and one defeat are as much as two draws, more than a draw and a defeat.
        verdicts = [0.5, 0.0, 0.5, 0.5, 1.0, 0.0, 0.5, 0.5, 0.0, 0.0]
        assert league(make_candidates(5), 2, lambda pairs, _: verdicts, key) == 1  # noqa: B023


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_chances_of_the_only_right_one_in_a_knockout(count, times):
    hits = 0
    for index, key in enumerate(keys_of(800, seed=times)):
        right = index % count
        hits += knockout(make_candidates(count, {right}), referee(0.7), times, key) == right
    assert_share(hits, 800, knockout_chance(count, 0.7, times))


@pytest.mark.parametrize("opponents", [1, 4, 12])
@pytest.mark.parametrize("count, right", [(2, {1}), (3, {0}), (8, {3}), (8, {0, 3, 7})])
def test_chances_of_the_right_ones_in_a_league(count, right, opponents):
    candidates = make_candidates(count, right)
    hits = sum(league(candidates, opponents, referee(0.7), key) in right for key in keys_of(800, seed=opponents))
    assert_share(hits, 800, league_chance(count, right, 0.7, opponents))


def test_failures_of_a_knockout_decay_with_candidates_and_times():
    failures = {}
    for rounds, times in ((0, 1), (1, 1), (2, 1), (3, 1), (5, 1), (3, 3), (3, 9)):
        # Every candidate is right with probability 0.4, and so a winner of each round with this one.
        share, better = 0.4, match_chance(0.7, times)
        for _ in range(rounds):
            share = share**2 + 2 * share * (1 - share) * better
        failed, runs = 0, 400
        for key in keys_of(runs, seed=10 * rounds + times):
            drawn = np.random.default_rng(child_key(key, 99)).random(2**rounds) < 0.4
            winner = knockout(make_candidates(len(drawn), {*np.flatnonzero(drawn)}), referee(0.7), times, key)
            failed += not drawn[winner]
        assert_share(failed, runs, 1 - share)
        failures[rounds, times] = failed
    for path in ([(0, 1), (1, 1), (2, 1), (3, 1), (5, 1)], [(3, 1), (3, 3), (3, 9)]):
        assert all(failures[one] > failures[other] for one, other in pairwise(path))


def test_failures_of_a_league_decay_with_candidates_and_opponents():
    failures = {}
    for count, opponents in ((4, 4), (8, 8), (16, 16), (8, 2), (8, 32)):
        right = set(range(1, count, 2))
        candidates = make_candidates(count, right)
        hits = sum(league(candidates, opponents, referee(0.7), key) in right for key in keys_of(400))
        assert_share(hits, 400, league_chance(count, right, 0.7, opponents))
        failures[count, opponents] = 400 - hits
    assert failures[4, 4] > failures[8, 8] > failures[16, 16] and failures[8, 2] > failures[8, 8] > failures[8, 32]


GAMES = [
    ("knockout", "times", lambda c, f, n: knockout(c, f, n, key=0)),
    ("league", "opponents", lambda c, f, n: league(c, n, f, key=0)),
]


@pytest.mark.parametrize("name, option, play", GAMES)
def test_bad_tournaments(name, option, play):
    two, record = make_candidates(2), Record()
    with pytest.raises(ValueError, match=f"{name}: candidates must be at least one, got none"):
        play([], record, 1)
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"{name}: {option} must be a positive int, got {bad}"):
            play(two, record, bad)
    with pytest.raises(ValueError, match=f"{name}: compare must be a function that gives .* verdicts, got 0"):
        play(two, lambda pairs, keys: [], 1)
    for bad in (math.nan, 2.0, 0.3):
        with pytest.raises(ValueError, match=f"{name}: verdicts of compare must be 0, 0.5 or 1, got .{bad}"):
            play(two, lambda pairs, keys: [bad] * len(pairs), 1)  # noqa: B023
    with pytest.raises(ValueError, match=f"{name.title()}: {option} must be a positive int, got 0"):
        {"knockout": Knockout, "league": League}[name](0)


class Oracle:
    """The larger answer wins. Keeps what it was asked."""

    def __init__(self):
        self.questions, self.names, self.keys = set(), set(), []

    def compare(self, question, pairs, keys):
        self.questions.add(question)
        self.names |= {candidate.text for pair in pairs for candidate in pair}
        self.keys += keys
        return [float(first.answer > second.answer) for first, second in pairs]


@pytest.mark.parametrize("kind", [Knockout, League])
def test_selectors(kind):
    tree = SearchTree(Problem("p", "prompt", question="the question"), [5], seed=3)
    candidates = make_candidates(6)
    candidates[5] = replace(candidates[5], finished=False)
    candidates[2] = replace(candidates[2], answer=None)
    candidates[0] = replace(candidates[0], copies=50)
    oracle = Oracle()
    assert kind(comparator=oracle)(tree, candidates) == "4"
    assert oracle.questions == {"the question"} and oracle.names == {"0", "1", "3", "4"}
    assert len(oracle.keys) == (2 * 3 if kind is Knockout else 4 * 4)
    assert kind(7, oracle)(tree, candidates) == "4" and len(oracle.keys) == {Knockout: 6 + 21, League: 16 + 28}[kind]
    assert kind()(tree, [candidates[1]]) == "1"
    assert kind()(tree, [candidates[2], candidates[5]]) is None and kind()(tree, []) is None


@pytest.mark.parametrize("kind", [Knockout, League])
def test_selectors_draw_by_the_tree_and_ask_what_the_problem_says(kind):
    def play(problem, seed):
        oracle = Oracle()
        kind(comparator=oracle)(SearchTree(problem, [5], seed), make_candidates(8))
        return oracle

    ids, text, asked = (
        play(each, 0) for each in (Problem("p", [5]), Problem("p", "text"), Problem("p", [5], None, "?"))
    )
    assert (ids.questions, text.questions, asked.questions) == ({""}, {"text"}, {"?"}) and ids.keys == text.keys
    for other in (play(Problem("q", [5]), 0), play(Problem("p", [5]), 1)):
        assert not {*ids.keys} & {*other.keys}


@pytest.mark.parametrize("kind", [Knockout, League])
def test_scores_decide_by_default(kind):
    # The best one comes first, as in a league others may win all their games too.
    candidates = [replace(each, score=0.999999 if each.answer == "7" else 1e-6) for each in make_candidates(8)[::-1]]
    for seed in range(10):
        assert kind()(SearchTree(Problem("p", [5]), [5], seed), candidates) == "7"
