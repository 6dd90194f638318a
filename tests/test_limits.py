"""Limits in tokens and FLOPs, and strategies that look at the problem before they choose."""

import pytest
from models import tiny_model
from test_search import EOS, SEPARATORS, SHORT, make_decoder, make_problems, outline

from tts_kernels import _ext
from tts_kernels.compute_optimal import SearchPolicy
from tts_kernels.decoder import Decoder
from tts_kernels.growth import Growth
from tts_kernels.scorers import HostScorer
from tts_kernels.strategies import Adaptive, Beam, BestOfN, Budget, ComputeOptimal, Lookahead, make_strategy
from tts_kernels.tree import State

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)


class Letters:
    """A tokenizer whose every text states an answer: the last token, modulo three."""

    def decode(self, tokens, skip_special_tokens=True):
        return f"#### {tokens[-2] % 3 if len(tokens) > 1 else 0}"

    def get_vocab(self):
        return {}


class Fixed(HostScorer):
    """Every node has this score."""

    def __init__(self, score):
        self.fixed = score

    def judge(self, tree, node):
        return self.fixed


@pytest.fixture
def answering():
    decoder = make_decoder(pages=800)
    decoder.tokenizer = Letters()
    return decoder


@pytest.mark.parametrize("spec", ["best-of-n", "beam:width=2", "rebase", "lookahead:width=2,ahead=2", "particles"])
@pytest.mark.parametrize("unit", ["tokens", "flops"])
def test_a_limit_is_never_exceeded_and_used(spec, unit):
    problems = make_problems(4, seed=2)
    small, large = {"tokens": (90, 400), "flops": (2e7, 8e7)}[unit]
    spent = {}
    for amount in (small, large):
        for result in make_decoder(pages=1500).search(problems, make_strategy(spec, Budget(amount, unit)), SHORT):
            stats = result.stats
            got = stats.tokens if unit == "tokens" else stats.policy_flops + stats.scorer_flops
            assert got <= amount and result.candidates and result.error is None
            spent[result.problem.id, amount] = got
    used = [spent[problem.id, large] / large for problem in problems]
    assert sum(used) / len(used) > 0.45


def test_a_limit_that_is_too_small_ends_the_search_at_once():
    for result in make_decoder().search(make_problems(2), make_strategy("beam", "3 tokens"), SHORT):
        assert result.stats.limited and result.stats.tokens <= 3 and result.answer is None
        result.tree.check()


def test_what_a_problem_is_charged_does_not_depend_on_the_others():
    problems = make_problems(4)
    strategy = make_strategy("rebase", "200 tokens")
    together = list(make_decoder().search(problems, strategy, SHORT))
    for problem in problems:
        (alone,) = make_decoder().search([problem], strategy, SHORT)
        other = next(result for result in together if result.problem is problem)
        assert outline([alone]) == outline([other])
        mine, theirs = vars(alone.stats) | {"seconds": 0}, vars(other.stats) | {"seconds": 0}
        assert mine == theirs


@pytest.mark.parametrize("text", ["x", "-3", "0", "1.5", "3 apples", "inf tokens", "nan", "1e400 flops", ""])
def test_budgets_that_are_none(text):
    with pytest.raises(ValueError, match=r"[Bb]udget"):
        make_strategy("beam", text)


def test_generations_are_what_best_of_n_draws():
    for strategy in (BestOfN(6), Beam(6, 3), Beam(6, 1)):
        for result in make_decoder().search(make_problems(3), strategy, SHORT):
            assert result.stats.generations == 6
    for ahead in (1, 2):
        for result in make_decoder().search(make_problems(3), Lookahead(6, 3, ahead), SHORT):
            assert 6 <= result.stats.generations <= 6 * (ahead + 1)
            assert result.stats.rollout_tokens > 0


@pytest.mark.parametrize("ahead", [1, 3])
def test_taking_over_rollouts_saves_tokens_and_changes_nothing(monkeypatch, ahead):
    strategy, problems = Lookahead(8, 4, ahead), make_problems(5)
    # A policy that is sure of itself draws what it would have drawn greedily.
    cold = SHORT.__class__(temperature=0.15, max_step_tokens=6, max_tokens=18)

    def run():
        results = list(make_decoder().search(problems, strategy, cold))
        real = {
            r.problem.id: [(n.path, n.tokens, n.state, n.score) for n in r.tree.nodes if not n.rollout] for r in results
        }
        return real, sum(r.stats.tokens for r in results), sum(r.stats.reused_tokens for r in results)

    reused, tokens, taken = run()
    monkeypatch.setattr(Growth, "first_followers", lambda *_: [])
    plain, more, none = run()
    assert none == 0 and taken > 0 and tokens + taken <= more + taken and tokens < more
    for key, nodes in plain.items():
        assert [node[:3] for node in nodes] == [node[:3] for node in reused[key]]
        assert [node[3] for node in nodes] == pytest.approx([node[3] for node in reused[key]], abs=1e-5)


def test_compute_optimal_with_one_strategy_is_that_strategy():
    policy = SearchPolicy((0.5,), 4, {8: ("beam:width=4", "beam:width=4")})
    problems = make_problems(4)
    chosen = outline(make_decoder().search(problems, make_strategy("compute-optimal", 8, policy), SHORT))
    assert chosen == outline(make_decoder().search(problems, Beam(8, 4), SHORT))


def test_compute_optimal_goes_by_the_probes_and_counts_them():
    # Half of the problems lie on either side of the median of the probes' scores.
    problems = make_problems(8)
    means = {}
    for result in make_decoder().search(problems, BestOfN(3), SHORT):
        means[result.problem.id] = sum(c.score for c in result.candidates) / 3
    edge = sorted(means.values())[4]
    policy = SearchPolicy((edge,), 3, {8: ("best-of-n", "rebase")})
    for result in make_decoder().search(problems, make_strategy("compute-optimal", 8, policy), SHORT):
        root_children = [node for node in result.tree.nodes if node.depth == 1]
        assert len(root_children) == len(result.candidates) == 8 or result.tree.root.num_children == 8
        easy = means[result.problem.id] >= edge
        assert all(len(node.path) == 1 for node in result.tree.nodes[1:]) == easy


def test_adaptive_ends_early_where_solutions_agree_and_never_draws_more_than_its_budget(answering):
    make = lambda spec, budget: make_strategy(spec, budget)  # noqa: E731
    problems, sizes = make_problems(9, seed=3), set()
    strategy = Adaptive(12, make, agree=3, lead=0.6)
    for result in answering.search(problems, strategy, SHORT):
        result.tree.check()
        assert len(result.candidates) <= 12
        sizes.add(len(result.candidates))
        if len(result.candidates) < 12 and not any(n.state is State.OPEN for n in result.tree.nodes):
            votes = {}
            for candidate in result.candidates:
                votes.setdefault(candidate.answer, []).append(candidate.score)
            most = max(votes.values(), key=sum)
            assert len(most) >= 3 and sum(most) >= 0.6 * sum(c.score for c in result.candidates)
    assert min(sizes) < 12 == max(sizes)
    never = Adaptive(12, make, agree=99)
    assert all(len(result.candidates) == 12 for result in answering.search(problems[:4], never, SHORT))


def test_the_sequential_test_tells_easy_from_hard(monkeypatch):
    started = []
    monkeypatch.setattr(
        Beam, "start", lambda self, tree: started.append(self.width) or BestOfN.start(BestOfN(self.budget), tree)
    )
    make = lambda spec, budget: make_strategy(spec, budget)  # noqa: E731
    strategy = Adaptive(8, make, "beam:width=1", "beam:width=2", "beam:width=4", agree=99)
    for score, width in ((0.98, 1), (0.5, 2), (0.02, 4)):
        fixed = Decoder(
            tiny_model(),
            Letters(),
            scorer=Fixed(score),
            separator=SEPARATORS,
            eos_ids=[EOS],
            num_pages=400,
            page_size=4,
        )
        list(fixed.search(make_problems(1), strategy, SHORT))
        assert started.pop() == width and not started


def test_bad_settings():
    make = lambda spec, budget: make_strategy(spec, budget)  # noqa: E731
    with pytest.raises(ValueError, match="adaptive: 0 < hard_share < easy_share < 1 must hold"):
        Adaptive(8, make, easy_share=0.2, hard_share=0.5)
    with pytest.raises(ValueError, match="compute-optimal: probes must be at least 1, got 0"):
        ComputeOptimal(8, 0, lambda score: "beam", ("beam",), make)
    with pytest.raises(ValueError, match="compute-optimal: policy must be given"):
        make_strategy("compute-optimal", 8)
    with pytest.raises(ValueError, match="adaptive reads answers and needs a tokenizer, got none"):
        make_decoder().search(make_problems(1), make_strategy("adaptive", 8), SHORT)
