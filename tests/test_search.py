"""Whole searches on small random models, against dense forwards."""

import numpy as np
import pytest
import torch
from models import VOCAB, dense_logits, tiny_model

from tts_kernels import _ext
from tts_kernels.decoder import Decoder
from tts_kernels.run import Run
from tts_kernels.scorers import Prm
from tts_kernels.search import Problem, RunStats, Sampling
from tts_kernels.strategies import DVTS, ETS, MCTS, Beam, BestOfN, Greedy, Lookahead, ParticleFilter, Rebase, Revisions
from tts_kernels.tree import State

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)

EOS = 1
SEPARATORS = [3, 7, 11, 19]
GOOD, BAD = 20, 21
SHORT = Sampling(temperature=1.0, max_step_tokens=6, max_tokens=18)


REWARD_MODEL = tiny_model("qwen2", seed=5)


def make_problems(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Problem(f"p{i}", rng.integers(2, VOCAB, rng.integers(1, 12)).tolist()) for i in range(count)]


def make_decoder(
    *,
    pages=400,
    prm_pages=None,
    page_size=4,
    backend=None,
    aggregate="last",
    family="llama",
    max_rows=64,
    shared=False,
    speculate=False,
):
    """shared: policy and reward model have ``pages`` frames together."""
    prm = Prm.inline(
        REWARD_MODEL,
        good_id=GOOD,
        bad_id=BAD,
        tag_id=SEPARATORS[0],
        aggregate=aggregate,
        page_size=page_size,
        backend=backend,
        **({} if shared else {"num_pages": prm_pages or pages}),
    )
    return Decoder(
        tiny_model(family),
        scorer=prm,
        separator=SEPARATORS,
        eos_ids=[EOS],
        max_rows=max_rows,
        num_pages=pages,
        page_size=page_size,
        backend=backend,
        speculate=speculate,
    )


def poison_free_pages(*pools):
    """NaN into every page that no held node's path runs through. pools: with the held nodes of each, in one memory."""
    free = torch.ones(pools[0][0].num_pages, dtype=torch.bool)
    for pool, held in pools:
        for node in held:
            free[torch.from_numpy(pool.forest.page_table(node)).long() // pool.forest.page_stride] = False
    pools[0][0].pages[free] = torch.nan


class CheckedRun(Run):
    """A run that compares the logits of every node it ever feeds with a dense forward of the node's path."""

    compared = 0

    def feed_last(self, *groups):
        rows = [row for group in groups for row in group]
        pools = [(self.policy.pool, [kv for search in self.active for kv in search.held])]
        if self.scorer.model.pool.memory is self.policy.pool.memory:
            entries = [entry for known in self.scorer._entries.values() for entry in known.values()]
            pools.append((self.scorer.model.pool, {entry.kv for entry in entries if entry.kv is not None}))
        poison_free_pages(*pools)
        logits = super().feed_last(*groups)
        self.policy.forest.check()
        lineages = [row.search.tree.lineage(row.node) for row in rows]
        paths = [[token for part in lineage for token in part.tokens] for lineage in lineages]
        self.policy.model.set_attn_implementation("eager")
        want = dense_logits(self.policy.model, paths)
        self.policy.model.set_attn_implementation("tts_kernels")
        assert (logits - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))
        CheckedRun.compared += len(rows)
        return logits

    def judge(self):
        ended = [row for row in [*self.ended, *self.adopted] if row.search.alive]
        super().judge()
        self.scorer.check()
        for row in ended:
            if row.search.alive:
                row.search.tree.check()
                self.check_scores(row.search.tree, row.node)

    def check_scores(self, tree, node):
        """The node's step scores by a dense forward of the reward model over the whole path."""
        path, judged = list(tree.root.tokens), []
        for part in tree.solution_nodes(node):
            judged = [len(path) + end for end in part.step_ends]
            path = path + part.tokens + ([SEPARATORS[0]] if part.cut else [])
            if part.cut:
                judged[-1] += 1
        model = REWARD_MODEL
        model.set_attn_implementation("eager")
        logits = torch.stack([dense_logits(model, [path[:end]])[0, [GOOD, BAD]] for end in judged])
        model.set_attn_implementation("tts_kernels")
        want = logits.softmax(-1)[:, 0]
        assert (torch.tensor(node.step_scores) - want).abs().max() <= 1e-5


@pytest.fixture
def checked(monkeypatch):
    monkeypatch.setattr("tts_kernels.decoder.Run", CheckedRun)
    CheckedRun.compared = 0


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize(
    "strategy", [Beam(8, 4), Beam(6, 2, max_depth=3), BestOfN(5)], ids=["beam", "beam-3", "best-of-5"]
)
def test_every_logit_of_every_search_is_the_dense_one(checked, page_size, strategy):
    """16 searches for each of nine cases, in a pool small enough that pages are reused all the time."""
    decoder = make_decoder(page_size=page_size, pages=1200 // page_size, max_rows=32)
    results = list(decoder.search(make_problems(16, seed=page_size), strategy, SHORT))
    assert len(results) == 16 and all(result.error is None for result in results)
    assert CheckedRun.compared > 16 * strategy.budget
    assert decoder.policy.forest.free_pages == decoder.policy.forest.num_pages
    assert decoder.scorer.model.forest.free_pages == decoder.scorer.model.forest.num_pages


# One of every kind, with limits that bite on problems this small.
SEARCHES = {
    "lookahead": Lookahead(8, 4, ahead=1),
    "lookahead-3": Lookahead(6, 3, ahead=3, max_depth=5),
    "dvts": DVTS(9, 3),
    "rebase": Rebase(8, temperature=0.05),
    "ets": ETS(8, coverage=0.5),
    "uct": MCTS(6, root_width=4),
    "puct": MCTS(6, "puct", exploration=1.25, root_width=3, width=3, max_depth=4),
    "particles": ParticleFilter(6),
    "revisions": Revisions(6, sequential=3, window=1),
    "revisions-asked": Revisions(4, sequential=4, window=2, between=[5, 6]),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_every_logit_of_the_other_searches(checked, name):
    decoder = make_decoder(pages=300, max_rows=32, aggregate="prod")
    results = list(decoder.search(make_problems(5, seed=1), SEARCHES[name], SHORT))
    assert all(result.error is None and result.candidates for result in results)
    assert CheckedRun.compared > 5 * 4
    assert decoder.policy.forest.free_pages == decoder.policy.forest.num_pages
    assert decoder.scorer.model.forest.free_pages == decoder.scorer.model.forest.num_pages


@pytest.mark.parametrize("frames", [1000, 130])
def test_policy_and_reward_model_share_their_memory(checked, frames):
    """Roomy, and so tight that pages of the reward model are given up and computed again: the same dense values."""
    decoder, stats = make_decoder(shared=True, pages=frames, max_rows=512), RunStats()
    problems = make_problems(12, seed=9)
    results = list(decoder.search(problems, Beam(8, 4), SHORT, stats=stats))
    assert outline(results) == outline(make_decoder(pages=2000, max_rows=512).search(problems, Beam(8, 4), SHORT))
    assert CheckedRun.compared > 12 * 8
    assert decoder.policy.forest.free_pages == frames
    assert (stats.scorer["spilled_pages"] > 0) == (stats.scorer["recomputed_tokens"] > 0) == (frames == 130)
    # The policy makes room for itself only when the reward model has nothing left.
    assert frames == 130 or not any(result.stats.restarts for result in results)


def test_the_reward_model_gives_way_before_the_policy_starves():
    """Pages for the policy alone, and for one problem of the reward model: nothing is put off."""
    alone, stats = make_decoder(pages=400, max_rows=512), RunStats()
    problems = make_problems(4)
    expected = outline(alone.search(problems, Beam(8, 4), SHORT, stats=stats))
    needed = stats.policy["peak_pages"] + stats.scorer["peak_pages"] // 3
    tight, stats = make_decoder(shared=True, pages=needed, max_rows=512), RunStats()
    results = list(tight.search(problems, Beam(8, 4), SHORT, stats=stats))
    assert outline(results) == expected
    assert stats.scorer["spilled_pages"] > 0 and not any(result.stats.restarts for result in results)


def test_the_reward_models_prompts_make_room_for_the_policys_solutions():
    """Whole solutions: the policy is at its largest while the reward model has read nothing but the prompts."""
    problems = [Problem(p.id, [5] * 40 + list(p.prompt)) for p in make_problems(4)]
    stats = RunStats()
    expected = outline(make_decoder(pages=400).search(problems, BestOfN(8), SHORT, stats=stats))
    tight = make_decoder(shared=True, pages=stats.policy["peak_pages"] + 8)
    results = list(tight.search(problems, BestOfN(8), SHORT, stats=stats))
    assert outline(results) == expected
    assert stats.scorer["spilled_pages"] > 0 and not any(result.stats.restarts for result in results)


def outline(results):
    """Everything about the trees that must not depend on company or backend, by problem."""
    return {
        result.problem.id: [
            (node.path, node.tokens, node.state, node.step_ends, node.cut) for node in result.tree.nodes
        ]
        for result in results
    }


@pytest.mark.parametrize("strategy", [Beam(8, 4), BestOfN(4), *SEARCHES.values()], ids=["beam", "best-of-4", *SEARCHES])
def test_company_and_order_do_not_matter(strategy):
    problems = make_problems(5)
    together = outline(make_decoder().search(problems, strategy, SHORT))
    backwards = outline(make_decoder().search(problems[::-1], strategy, SHORT))
    assert backwards == together
    for problem in problems[:1]:
        assert outline(make_decoder().search([problem], strategy, SHORT))[problem.id] == together[problem.id]


def spent(results):
    return {
        r.problem.id: {k: v for k, v in vars(r.stats).items() if k not in ("seconds", "wasted_tokens")} for r in results
    }


@pytest.mark.parametrize("pages", [400, 60])
@pytest.mark.parametrize("name", ["beam", "lookahead-3", "dvts", "rebase", "uct", "particles", "revisions"])
def test_drawing_ahead_of_the_decision_changes_nothing(name, pages):
    """Not even what is charged, unless pages are so short that problems are put off."""
    if pages == 60 and name != "beam":
        pytest.skip("the shortage of pages is the same for all")
    strategy = SEARCHES.get(name, Beam(8, 4))
    problems = make_problems(3)
    plain = list(make_decoder(pages=pages).search(problems, strategy, SHORT))
    decoder = make_decoder(pages=pages, speculate=True)
    ahead, stats = [], RunStats()
    for result in decoder.search(problems, strategy, SHORT, stats=stats):
        result.tree.check()
        ahead.append(result)
    assert outline(ahead) == outline(plain)
    assert decoder.policy.forest.free_pages == decoder.policy.forest.num_pages
    if pages == 400:
        assert spent(ahead) == spent(plain)
        fed = sum(r.stats.fed_tokens for r in ahead)
        wasted = sum(r.stats.wasted_tokens for r in ahead)
        assert (wasted > 0) == (stats.policy["tokens"] > fed) == (strategy.name not in ("revisions",))


def test_native_and_reference_grow_the_same_tree():
    problems = make_problems(3)
    native, reference = (
        outline(make_decoder(backend=backend).search(problems, Beam(4, 2), SHORT))
        for backend in ("native", "reference")
    )
    assert native == reference


def test_seeds_differ():
    problems = make_problems(2)
    one, two = (
        outline(make_decoder().search(problems, BestOfN(4), Sampling(1.0, max_tokens=18, seed=seed))) for seed in (0, 1)
    )
    assert one != two


def test_out_of_pages_means_fewer_problems_at_once():
    problems = make_problems(6)
    roomy = make_decoder(pages=2000, max_rows=512)
    expected = outline(roomy.search(problems, Beam(8, 4), SHORT))
    tight = make_decoder(pages=62, prm_pages=400, max_rows=512)
    results = list(tight.search(problems, Beam(8, 4), SHORT))
    assert outline(results) == expected
    assert sum(result.stats.restarts for result in results) > 0
    assert tight.policy.forest.free_pages == 62
    tight, stats = make_decoder(pages=400, prm_pages=75, max_rows=512), RunStats()
    results = list(tight.search(problems, Beam(8, 4), SHORT, stats=stats))
    assert outline(results) == expected
    # The reward model scores a few problems at a time, and reads again what it gave up for that.
    assert stats.scorer["spilled_pages"] > 0 and stats.scorer["recomputed_tokens"] > 0
    tight.scorer.check()


def test_a_problem_that_never_fits_is_an_error_and_the_others_go_on():
    problems = make_problems(3)
    problems.insert(1, Problem("long", [5] * 200))
    results = {r.problem.id: r for r in make_decoder(pages=48, prm_pages=400).search(problems, Beam(4, 2), SHORT)}
    assert "pages" in results["long"].error
    assert [results[f"p{i}"].error for i in range(3)] == [None] * 3


def test_greedy_is_the_models_argmax():
    decoder = make_decoder()
    (problem,) = make_problems(1)
    sampling = Sampling(temperature=0.0, max_tokens=12)
    (result,) = decoder.search([problem], Greedy(), sampling)
    path = list(problem.prompt)
    for token in result.candidates[0].tokens:
        logits = dense_logits(decoder.policy.model, [path])[0]
        assert int(logits.argmax()) == token
        path.append(token)


def test_beam_spends_its_budget():
    for result in make_decoder(aggregate="prod").search(make_problems(5), Beam(8, 4), SHORT):
        result.tree.check()
        assert len(result.candidates) == 8
        open_nodes = list(result.tree.in_state(State.OPEN))
        assert not open_nodes
        assert all(0.0 <= candidate.score <= 1.0 for candidate in result.candidates)


def test_nothing_is_scored_twice():
    """The reward model reads every token of the tree once at most; equal siblings are read once together."""
    decoder, stats = make_decoder(), RunStats()
    (result,) = decoder.search(make_problems(1), Beam(8, 4), SHORT, stats=stats)
    nodes = result.tree.nodes[1:]
    most = len(result.tree.root.tokens) + sum(len(node.tokens) + node.cut for node in nodes)
    assert stats.scorer["tokens"] <= most
    assert stats.policy["tokens"] == result.stats.fed_tokens
    assert result.stats.tokens == sum(len(node.tokens) for node in nodes)
    assert (stats.policy["flops"], stats.scorer["flops"]) == (result.stats.policy_flops, result.stats.scorer_flops)


def test_a_search_that_is_given_up_leaves_nothing_behind():
    decoder = make_decoder()
    run = decoder.search(make_problems(8), Beam(8, 4), SHORT)
    next(run)
    assert len(decoder.scorer._entries) > 1
    run.close()
    assert decoder.policy.forest.used_pages == decoder.scorer.model.forest.used_pages == 0
    assert not decoder.scorer._entries


def test_bad_input():
    decoder = make_decoder()
    with pytest.raises(ValueError, match="'empty': the prompt must not be empty"):
        decoder.search([Problem("empty", [])], BestOfN(1))
    with pytest.raises(ValueError, match="shorter than the model's context of 256 tokens, got 256"):
        decoder.search([Problem("long", [2] * 256)], BestOfN(1))
    with pytest.raises(ValueError, match="must be token ids without a tokenizer"):
        decoder.search([Problem("text", "hello")], BestOfN(1))
    with pytest.raises(ValueError, match="ids must be unique, got 'p' twice"):
        decoder.search([Problem("p", [2]), Problem("p", [3])], BestOfN(1))
    with pytest.raises(ValueError, match=r"select must be one of weighted, .*, league, or callable, got 'mean'"):
        decoder.search(make_problems(1), BestOfN(1), select="mean")
    with pytest.raises(ValueError, match="separator must be token ids when there is no tokenizer"):
        Decoder(tiny_model(), separator="\n", num_pages=4)
