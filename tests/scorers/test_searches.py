"""Whole searches with reward models that were loaded from disk: their scores against the published recipes."""

import pytest
import small_tokenizers
from models import tiny_model
from small_models import save

from tts_kernels import Beam, BestOfN, Decoder, Problem, RunStats, Sampling, _ext, load_scorer
from tts_kernels.scorers import PolicySide

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)

QUESTION = "How many apples are left?"
SHORT = Sampling(temperature=1.0, max_step_tokens=8, max_tokens=24)


def make_decoder(scorer, **pool):
    tokenizer = small_tokenizers.llama3()
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=1024)
    return Decoder(model, tokenizer, scorer=scorer, separator="e", eos_ids=[tokenizer.eos_token_id], **pool)


def problems(count):
    return [Problem(f"p{i}", f"USER: {QUESTION} {i}", question=QUESTION) for i in range(count)]


def texts(tree, node, decoder):
    """The steps from the root to the node, as the scorer was told them."""
    return [text for part in tree.lineage(node)[1:] for text in decoder.scorer.reader.policy.texts(tree, part, False)]


@pytest.mark.parametrize("frames", [3000, 260])
@pytest.mark.parametrize("strategy", [Beam(8, 4), BestOfN(4)], ids=["beam", "best-of-4"])
@pytest.mark.parametrize("name", ["qwen", "math-shepherd"])
def test_another_tokenizer(name, strategy, frames, tmp_path):
    """All scores of all trees, with memory for everybody and with so little that the reward model is put off."""
    made = save(name, tmp_path)
    decoder, stats = make_decoder(load_scorer(f"{name}:{made.path}"), num_pages=frames, page_size=4), RunStats()
    results = list(decoder.search(problems(6), strategy, SHORT, stats=stats))
    assert [result.error for result in results] == [None] * 6
    compared = 0
    for tree in (result.tree for result in results):
        tree.check()
        for node in tree.nodes[1:]:
            steps = texts(tree, node, decoder)
            # The recipes look for the tag wherever it is, also where the policy wrote it.
            if any(tag in step for step in steps for tag in ("ки", "<extra_0>")):
                continue
            want = made.scores(QUESTION, steps)[len(steps) - len(node.step_scores) :]
            assert node.step_scores == pytest.approx(want, abs=1e-5)
            compared += len(want)
    assert compared > 60
    if frames == 3000:
        assert stats.scorer["spilled_pages"] == stats.scorer["recomputed_tokens"] == 0
    elif isinstance(strategy, Beam):
        assert stats.scorer["spilled_pages"] > 0 and stats.scorer["recomputed_tokens"] > 0
    assert decoder.policy.forest.free_pages == frames


def test_reading_whole_paths_grows_with_the_square_of_the_depth(tmp_path):
    """Twice as deep: about twice the tokens here, about four times for who reads every path from its start."""
    made = save("qwen", tmp_path)
    read, whole = [], []
    for depth in (6, 12):
        decoder, stats = make_decoder(load_scorer(f"qwen:{made.path}"), num_pages=4000), RunStats()
        sampling = Sampling(temperature=1.0, max_step_tokens=20, max_tokens=20 * depth)
        list(decoder.search(problems(2), Beam(4, 2, max_depth=depth), sampling, stats=stats))
        prompt = 2 * len(
            decoder.scorer.reader.root(next(iter(decoder.search(problems(1), BestOfN(1), SHORT))).tree).ids
        )
        read.append(stats.scorer["tokens"] - prompt)
        whole.append(stats.scorer["whole_path_tokens"])
    assert 1.5 < read[1] / read[0] < 2.5
    assert whole[1] / whole[0] > 2.5 and whole[1] > 4 * read[1]


def test_raw_values_are_no_votes(tmp_path):
    made = save("pqm", tmp_path)
    decoder = make_decoder(load_scorer(f"pqm:{made.path}"))
    with pytest.raises(ValueError, match="select must be majority or best for a scorer whose scores are no probab"):
        decoder.search(problems(1), BestOfN(2), SHORT)
    (result,) = decoder.search(problems(1), BestOfN(2), SHORT, select="best")
    assert result.error is None
    decoder = make_decoder(load_scorer(f"pqm:{made.path}", activation="sigmoid"))
    (result,) = decoder.search(problems(1), BestOfN(2), SHORT)
    assert all(0.0 < candidate.score < 1.0 for candidate in result.candidates)


def test_a_path_too_long_for_the_reward_model_fails_its_problem_alone(tmp_path):
    made = save("qwen", tmp_path)
    scorer = load_scorer(f"qwen:{made.path}")
    scorer.backbone.config.max_position_embeddings = 200
    decoder = make_decoder(scorer)
    # The first fits into the context alone, but not with its steps.
    long = [Problem(name, "USER: Q", question=" 12" * count) for name, count in (("long", 45), ("longest", 90))]
    some = [*problems(2), *long]
    results = {r.problem.id: r for r in decoder.search(some, Beam(4, 2), SHORT)}
    assert results["p0"].error is None and results["p1"].error is None
    for name in ("long", "longest"):
        assert f"problem '{name}': the reward model's context is 200 tokens" in results[name].error
    assert scorer.model.forest.used_pages == 0


def test_problems_without_a_question(tmp_path):
    made = save("qwen", tmp_path)
    scorer = load_scorer(f"qwen:{made.path}", tokens="ids", num_pages=100)
    tokenizer = scorer._make_reader(PolicySide()).tokenizer
    model = tiny_model("llama", vocab_size=len(tokenizer))
    decoder = Decoder(model, scorer=scorer, separator=[5], eos_ids=[])
    with pytest.raises(ValueError, match="problem 'p': question must be given where the prompt is token ids, got none"):
        list(decoder.search([Problem("p", [7, 8])], BestOfN(1), SHORT))
    (result,) = decoder.search([Problem("p", [7, 8], question=QUESTION)], BestOfN(1), SHORT)
    assert result.error is None
