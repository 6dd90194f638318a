"""Options of strategies: what is refused says whose it is, what was wanted and what was given."""

import inspect
import math

import pytest

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
    make_strategy,
)  # fmt: skip

BAD = [
    (Greedy, 2, {}, "greedy: budget must be 1, got 2"),
    (Greedy, 0, {}, "greedy: budget must be at least 1, got 0"),
    (Beam, 8, {"width": 0}, "beam: width must be at least 1 or 'sqrt', got 0"),
    (Beam, 8, {"width": -4}, "beam: width must be at least 1 or 'sqrt', got -4"),
    (Beam, 8, {"width": "cbrt"}, "beam: width must be at least 1 or 'sqrt', got 'cbrt'"),
    (Beam, 8, {"width": 2.0}, "beam: width must be at least 1 or 'sqrt', got 2.0"),
    (Beam, 9, {}, "beam: budget must be a multiple of width 4, got 9"),
    (Beam, 6, {}, "beam: budget must be a multiple of width 4, got 6"),
    (Lookahead, 8, {"width": 3}, "lookahead: budget must be a multiple of width 3, got 8"),
    (Lookahead, 8, {"ahead": -1}, "lookahead: ahead must be at least 0, got -1"),
    (Lookahead, 8, {"ahead": 1.5}, "lookahead: ahead must be at least 0, got 1.5"),
    (DVTS, 8, {"width": 16}, "dvts: budget must be a multiple of width 16, got 8"),
    (Rebase, 8, {"temperature": 0.0}, "rebase: temperature must be positive and finite, got 0.0"),
    (Rebase, 8, {"temperature": math.nan}, "rebase: temperature must be positive and finite, got nan"),
    (Rebase, 8, {"temperature": math.inf}, "rebase: temperature must be positive and finite, got inf"),
    (ETS, 8, {"temperature": -1}, "ets: temperature must be positive and finite, got -1"),
    (ETS, 8, {"cost": -0.5}, "ets: cost must be at least 0 and finite, got -0.5"),
    (ETS, 8, {"cost": math.nan}, "ets: cost must be at least 0 and finite, got nan"),
    (ETS, 8, {"coverage": math.inf}, "ets: coverage must be at least 0 and finite, got inf"),
    (MCTS, 8, {"rule": "ucb"}, "mcts: rule must be uct or puct, got 'ucb'"),
    (MCTS, 8, {"exploration": -1.0}, "mcts: exploration must be at least 0 and finite, got -1.0"),
    (MCTS, 8, {"exploration": math.nan}, "mcts: exploration must be at least 0 and finite, got nan"),
    (MCTS, 8, {"root_width": 0}, "mcts: root_width must be at least 1, got 0"),
    (MCTS, 8, {"width": 0}, "mcts: width must be at least 1, got 0"),
    (MCTS, 8, {"width": 1.5}, "mcts: width must be at least 1, got 1.5"),
    (Revisions, 8, {"sequential": 3}, "revisions: sequential must divide the budget of 8, got 3"),
    (Revisions, 8, {"sequential": 0}, "revisions: sequential must divide the budget of 8, got 0"),
    (Revisions, 8, {"sequential": 2.0}, "revisions: sequential must divide the budget of 8, got 2.0"),
    (Revisions, 8, {"window": 0}, "revisions: window must be at least 1, got 0"),
    (Revisions, 8, {"window": 2.5}, "revisions: window must be at least 1, got 2.5"),
    (Revisions, 8, {"between": "no"}, "revisions: between must be token ids or 'question', got 'no'"),
    (Revisions, 8, {"between": [1, 2.0]}, "revisions: between must be token ids or 'question', got [1, 2.0]"),
]


@pytest.mark.parametrize(("kind", "budget", "options", "message"), BAD, ids=[case[-1] for case in BAD])
def test_bad_options_are_refused(kind, budget, options, message):
    with pytest.raises(ValueError) as caught:
        kind(budget, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "kind", [each for each in STRATEGIES.values() if each is not Greedy], ids=lambda kind: kind.name
)
def test_budget_and_depth_are_at_least_one(kind):
    for budget in (0, -8):
        with pytest.raises(ValueError, match=f"{kind.name}: budget must be at least 1, got {budget}"):
            kind(budget)
    if "max_depth" in inspect.signature(kind).parameters:
        with pytest.raises(ValueError, match=f"{kind.name}: max_depth must be at least 1, got 0"):
            kind(8, max_depth=0)


SPECS = [
    ("greedy", 1, Greedy, {}),
    ("best-of-n", 5, BestOfN, {"max_depth": 40}),
    ("beam", 8, Beam, {"width": 4, "max_depth": 40}),
    ("beam:width=sqrt", 16, Beam, {"width": 4}),
    ("beam:width=2,max_depth=7", 8, Beam, {"width": 2, "max_depth": 7}),
    ("lookahead:ahead=3", 8, Lookahead, {"ahead": 3, "width": 4}),
    ("dvts:width=2", 8, DVTS, {"width": 2}),
    ("rebase:temperature=2e-1", 8, Rebase, {"temperature": 0.2, "max_depth": 25}),
    ("rebase:temperature=1", 8, Rebase, {"temperature": 1}),
    ("ets:cost=0,coverage=1.45", 8, ETS, {"cost": 0, "coverage": 1.45, "temperature": 0.2}),
    ("mcts:rule=puct,exploration=1.25,root_width=16,width=3", 8, MCTS, {"rule": "puct", "exploration": 1.25,
                                                                        "root_width": 16, "width": 3}),
    ("particles", 8, ParticleFilter, {"max_depth": 40}),
    ("revisions:sequential=4,window=2", 8, Revisions, {"sequential": 4, "window": 2}),
    ("revisions:between=question", 8, Revisions, {"between": "question"}),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "budget", "kind", "settings"), SPECS, ids=[spec for spec, *_ in SPECS])
def test_specs(spec, budget, kind, settings):
    strategy = make_strategy(spec, budget)
    assert type(strategy) is kind and strategy.budget == budget
    assert {name: getattr(strategy, name) for name in settings} == settings


BAD_SPECS = [
    ("greed", "strategy must be one of greedy, best-of-n, beam, lookahead, dvts, rebase, ets, mcts, particles, "),
    ("", "strategy must be one of greedy, best-of-n, "),
    ("beam:depth=3", "beam: options must be NAME=VALUE of width, max_depth, got 'depth=3'"),
    ("beam:width", "beam: options must be NAME=VALUE of width, max_depth, got 'width'"),
    ("beam:budget=4", "beam: options must be NAME=VALUE of width, max_depth, got 'budget=4'"),
    ("greedy:max_depth=3", "greedy: options must be NAME=VALUE of none, got 'max_depth=3'"),
    ("beam:width=3", "beam: budget must be a multiple of width 3, got 8"),
    ("beam:width=", "beam: width must be at least 1 or 'sqrt', got ''"),
    ("rebase:temperature=hot", "rebase: an option has a value of the wrong kind in 'rebase:temperature=hot': "),
    ("rebase:temperature=nan", "rebase: temperature must be positive and finite, got nan"),
    ("mcts:exploration=much", "mcts: an option has a value of the wrong kind in 'mcts:exploration=much': "),
    ("mcts:width=2.5", "mcts: width must be at least 1, got 2.5"),
    ("revisions:between=7", "revisions: an option has a value of the wrong kind in 'revisions:between=7': "),
    ("revisions:between=again", "revisions: between must be token ids or 'question', got 'again'"),
    ("greedy", "greedy: budget must be 1, got 8"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "message"), BAD_SPECS, ids=[repr(spec) for spec, _ in BAD_SPECS])
def test_bad_specs_are_refused(spec, message):
    with pytest.raises(ValueError) as caught:
        make_strategy(spec, 8)
    assert str(caught.value).startswith(message)


def test_every_strategy_has_its_name():
    assert all(STRATEGIES[name].name == name for name in STRATEGIES) and len(STRATEGIES) == 10
