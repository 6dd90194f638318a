"""Selection of an answer from chains of revisions and from copies, against an oracle in fractions."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from tts_kernels.selection import Candidate, collect_candidates, select_answer
from tts_kernels.tree import Problem, SearchTree, State

HOWS = ["weighted", "majority", "best", "hierarchical"]


def candidate(answer, score, chain=None, copies=1, finished=True):
    return Candidate([], "", answer, score, 0.0, finished, copies, chain)


def vote(pairs):
    """The answer of most weight among (answer, weight), the first seen of equals."""
    totals = [(sum(weight for other, weight in pairs if other == answer), answer) for answer, _ in pairs]
    return next((answer for total, answer in totals if total == max(totals)[0]), None)


def weighted(candidates):
    return vote([(each.answer, each.copies * Fraction(each.score)) for each in candidates])


def oracle(candidates, how):
    able = [each for each in candidates if each.finished and each.answer is not None]
    if how == "majority":
        return vote([(each.answer, each.copies) for each in able])
    if how == "best":
        highest = {each.answer for each in able if each.score == max(other.score for other in able)}
        return next((each.answer for each in able if each.answer in highest), None)
    if how == "hierarchical":
        heads = []
        for chain in dict.fromkeys(each.chain for each in able):
            members = [each for each in able if each.chain == chain]
            backing = [each for each in members if each.answer == weighted(members)]
            heads.append(next(each for each in backing if each.score == max(other.score for other in backing)))
        able = heads
    return weighted(able)


# Few answers and scores of few bits: ties abound and sums are exact.
candidates = st.builds(
    candidate,
    st.sampled_from(["a", "b", "c", None]),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    st.sampled_from([0, 1, 2, None]),
    st.integers(1, 3),
    st.sampled_from([True, True, True, False]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(candidates, max_size=9), st.sampled_from(HOWS))
def test_every_vote(given_candidates, how):
    assert select_answer(given_candidates, how) == oracle(given_candidates, how)


def test_best_of_negative_scores():
    """Scores that are no probabilities."""
    assert select_answer([candidate("a", -3.0), candidate("b", -1.0), candidate("a", -2.0)], "best") == "b"


def test_a_chain_speaks_with_its_best_solution():
    """The winner of the first chain by 0.6 to 0.5 has a best solution of only 0.3, less than the second chain's."""
    chains = [candidate("a", 0.3, 0), candidate("b", 0.5, 0), candidate("a", 0.3, 0), candidate("b", 0.4, 1)]
    assert select_answer(chains, "hierarchical") == "b"
    assert select_answer(chains[:3], "hierarchical") == "a"
    # Flat, the same answer wins by another sum; and two chains together outweigh a better third.
    assert (
        select_answer([candidate("a", 0.4, 0), candidate("b", 0.5, 1), candidate("a", 0.2, 2)], "hierarchical") == "a"
    )
    # A long chain has no more to say than a short one.
    long = [candidate("a", 0.4, 0)] * 5 + [candidate("b", 0.5, 1)]
    assert select_answer(long, "weighted") == "a" and select_answer(long, "hierarchical") == "b"


def test_copies_count_in_votes_but_not_for_the_best():
    several = [candidate("a", 0.4, copies=3), candidate("b", 0.9, copies=1)]
    assert [select_answer(several, how) for how in ("weighted", "majority", "best")] == ["a", "a", "b"]


class Digits:
    """A tokenizer whose tokens are digits; 0 is special."""

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(str(token) for token in tokens if token or not skip_special_tokens)


def test_candidates_are_finished_and_truncated_solutions_with_all_that_was_said_of_them():
    tree = SearchTree(Problem("p", [9]), [9], seed=0)
    nodes = tree.add_children(tree.root, 4)
    states = [State.FINISHED, State.OPEN, State.TRUNCATED, State.PRUNED]
    for place, (node, state) in enumerate(zip(nodes, states, strict=True)):
        node.tokens, node.step_ends, node.state = [1 + place], [1], state
        node.score, node.log_prob = 0.1 * place, -1.0
    for node in tree.add_children(nodes[1], 1):
        node.tokens, node.step_ends, node.state = [5, 0], [2], State.FINISHED
        node.score, node.log_prob, node.copies, node.chain = 0.7, -0.5, 3, 2
    found = [
        (each.tokens, each.text, each.answer, each.score, each.log_prob, each.finished, each.copies, each.chain)
        for each in collect_candidates(tree, Digits())
    ]
    assert found == [
        ([1], "1", "1", 0.0, -1.0, True, 1, None),
        ([3], "3", "3", 0.2, -1.0, False, 1, None),
        ([2, 5, 0], "25", "25", 0.7, -1.5, True, 3, 2),
    ]
    assert [(each.text, each.answer) for each in collect_candidates(tree)] == [("", None)] * 3
