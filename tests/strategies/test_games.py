"""What holds for every strategy: the checked moves, budgets, and trees that depend on nothing but seed and problem."""

import pytest
from play import Game, always, complete, few, luck, never, outline, play, sometimes

from tts_kernels.strategies import (
    DVTS,
    ETS,
    MCTS,
    STRATEGIES,
    Beam,
    BestOfN,
    Greedy,
    Lookahead,
    ParticleFilter,
    Rebase,
    Revisions,
)  # fmt: skip
from tts_kernels.tree import State

KINDS = {
    "greedy": Greedy(),
    "best-of-n": BestOfN(6),
    "beam": Beam(8, 4, 6),
    "beam-2": Beam(6, 2, 6),
    "lookahead": Lookahead(6, 3, 2, 5),
    "dvts": DVTS(6, 3, 6),
    "rebase": Rebase(7, 0.1, 6),
    "ets": ETS(6, max_depth=4),
    "uct": MCTS(4, root_width=3, max_depth=5),
    "puct": MCTS(4, "puct", root_width=3, max_depth=5),
    "particles": ParticleFilter(6, 6),
    "revisions": Revisions(6, 3, 2),
    "revisions-asked": Revisions(6, 3, 1, [7]),
}
# Those that end with as many solutions as their budget says, all candidates.
EXACT = [name for name in KINDS if name not in ("uct", "puct", "particles")]
every_kind = pytest.mark.parametrize("name", KINDS)


def test_no_strategy_is_left_out():
    assert {type(strategy) for strategy in KINDS.values()} == set(STRATEGIES.values())


@every_kind
@pytest.mark.parametrize("score", [luck, few])
@pytest.mark.parametrize("ends", [sometimes, never, always])
def test_moves_are_legal_and_budgets_are_spent(name, score, ends):
    for seed in range(2):
        tree = play(KINDS[name], "p", score, ends, seed).tree
        solutions = complete(tree)
        assert solutions and all(node.depth >= 1 and node.copies >= 1 for node in solutions)
        if name in EXACT:
            assert len(solutions) == KINDS[name].budget and not list(tree.in_state(State.OPEN))
        if ends is never and name not in ("uct", "puct"):
            assert all(node.state is State.TRUNCATED for node in solutions)


@every_kind
def test_the_same_again_and_otherwise_for_other_seeds_and_problems(name):
    first = outline(play(KINDS[name], "a", seed=1).tree)
    assert outline(play(KINDS[name], "a", seed=1).tree) == first
    assert outline(play(KINDS[name], "a", seed=2).tree) != first
    assert outline(play(KINDS[name], "b", seed=1).tree) != first


@every_kind
def test_one_object_plays_two_games_at_once(name):
    strategy = KINDS[name]
    alone = [outline(play(strategy, problem, seed=4).tree) for problem in "ab"]
    settings = dict(vars(strategy))
    games = [Game(strategy, problem, seed=4) for problem in "ab"]
    running = list(games)
    while running:
        running = [game for game in running if game.move()]
    assert [outline(game.tree) for game in games] == alone
    assert vars(strategy) == settings


def test_early_solutions_are_not_paid_for_again():
    """Half of the first steps end their solutions: later levels are that much smaller."""
    for name in ("beam", "beam-2", "dvts", "rebase", "ets", "lookahead"):
        tree = play(KINDS[name], ends=lambda node: node.depth == 1 and node.path[0] % 2 == 0).tree
        second = sum(node.depth == 2 and not node.rollout for node in tree.nodes)
        assert second == KINDS[name].budget - (KINDS[name].budget + 1) // 2
