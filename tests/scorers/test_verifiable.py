"""Verifiable rewards as scores of a search."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tts_kernels import _ext, assets
from tts_kernels.answers import same_answer
from tts_kernels.decoder import Decoder
from tts_kernels.problems import read_problems
from tts_kernels.scorers.steps import PolicySide
from tts_kernels.scorers.verifiable import VerifiableScorer
from tts_kernels.search import Problem, Sampling
from tts_kernels.strategies import BestOfN
from tts_kernels.tree import SearchTree, State


class Letters:
    """A tokenizer of single characters; 0 is a special token."""

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(chr(token) if token else "" if skip_special_tokens else "<eos>" for token in tokens)


def grown(answer, steps, state):
    """A tree with one path of these texts, the last in ``state``."""
    tokenizer = Letters()
    tree = SearchTree(Problem("p", "Q", answer), tokenizer.encode("Q"), seed=0)
    node = tree.root
    for text in steps:
        (node,) = tree.add_children(node, 1)
        node.tokens = tokenizer.encode(text)
        node.step_ends = [len(node.tokens)]
    if state is State.FINISHED:
        node.tokens.append(0)
        node.step_ends = [len(node.tokens)]
    node.state = state
    return tree, node


def make_scorer(verifier):
    scorer = VerifiableScorer(verifier)
    scorer.bind(PolicySide(Letters(), "\n", frozenset({0})))
    return scorer


IFEVAL = json.dumps(
    {
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{}, None],
    }
)


@pytest.mark.parametrize(
    "verifier, answer, steps, want",
    [
        ("gsm8k", "18", ["9 a day\n", "makes 18"], 1.0),
        ("gsm8k", "18", ["18 a day\n", "makes 9"], 0.0),
        ("math", "\\frac{1}{2}", ["so it is ", "\\boxed{0.5}"], 1.0),
        ("ifeval", IFEVAL, ["<<A title>>\n", "and no pause"], 1.0),
        ("ifeval", IFEVAL, ["<<A title>>\n", "and, a pause"], 0.5),
    ],
)
def test_finished_solutions_get_what_the_verifier_says_of_their_text(verifier, answer, steps, want):
    scorer = make_scorer(verifier)
    tree, node = grown(answer, steps, State.FINISHED)
    scorer.add([tree])
    scores = scorer.score([(tree, node)])
    scores.write()
    assert scores.paths.tolist() == [want] == [node.score] == node.step_scores
    assert node.num_steps == 1


@pytest.mark.parametrize("state", [State.OPEN, State.TRUNCATED])
def test_others_score_nothing(state):
    scorer = make_scorer("gsm8k")
    tree, node = grown("18", ["it is 18"], state)
    assert scorer.score([(tree, node)]).paths.tolist() == [0.0]


def test_bad_input():
    with pytest.raises(ValueError, match="verifier must be one of gsm8k, math, ifeval, got 'sum'"):
        VerifiableScorer("sum")
    with pytest.raises(ValueError, match="VerifiableScorer: the decoder must have the policy's tokenizer, got none"):
        VerifiableScorer("gsm8k").bind(PolicySide())
    good, _ = grown("18", ["18"], State.OPEN)
    for verifier, answer, match in (
        ("gsm8k", None, "problem 'p' must have an answer, got none"),
        ("gsm8k", "  ", "problem 'p': gsm8k: label must not be empty"),
        ("ifeval", "no comma", "problem 'p': answer must be JSON for 'ifeval', got 'no comma'"),
        ("ifeval", "3", "problem 'p': ifeval: label must be a list of dicts, got 3"),
    ):
        bad, _ = grown(answer, ["18"], State.OPEN)
        with pytest.raises(ValueError, match=match):
            make_scorer(verifier).add([good, bad] if verifier == "gsm8k" else [bad])


@pytest.mark.skipif(bool(_ext.why_not_native()), reason="the native extension is not built")
def test_a_search_with_an_oracle_finds_the_right_answer_where_there_is_one():
    policy = AutoModelForCausalLM.from_pretrained(assets.POLICY)
    tokenizer = AutoTokenizer.from_pretrained(assets.POLICY)
    decoder = Decoder(policy, tokenizer, scorer=VerifiableScorer("gsm8k"), separator=assets.SEPARATOR, num_pages=400)
    problems = read_problems(assets.PROBLEMS, limit=3)
    seen = set()
    for result in decoder.search(problems, BestOfN(4), Sampling(temperature=1.0), select="best"):
        right = [same_answer(candidate.answer, result.problem.answer) for candidate in result.candidates]
        assert [candidate.score for candidate in result.candidates] == [float(each) for each in right]
        assert all(candidate.finished for candidate in result.candidates)
        assert result.correct == any(right)
        result.tree.check()
        seen.update(right)
    assert seen == {True, False}
