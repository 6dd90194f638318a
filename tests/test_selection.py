import pytest

from tts_kernels.answers import canonical, extract_answer, same_answer
from tts_kernels.selection import Candidate, collect_candidates, select_answer
from tts_kernels.tree import Problem, SearchTree, State, child_key, root_key


def candidate(answer, score, finished=True):
    return Candidate([], "", answer, score, 0.0, finished)


def test_votes():
    candidates = [candidate("a", 0.3), candidate("b", 0.9), candidate("a", 0.4), candidate("a", 0.1)]
    assert select_answer(candidates, "majority") == "a"
    assert select_answer(candidates, "weighted") == "b"
    assert select_answer(candidates, "best") == "b"


def test_only_finished_answers_count_and_ties_go_to_the_first():
    candidates = [candidate(None, 1.0), candidate("x", 1.0, finished=False), candidate("b", 0.5), candidate("a", 0.5)]
    for how in ("majority", "weighted", "best"):
        assert select_answer(candidates, how) == "b"
    assert select_answer(candidates[:2]) is None
    with pytest.raises(ValueError, match="how must be one of"):
        select_answer(candidates, "loudest")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1} or \boxed{\frac{1}{2}} done", r"\frac{1}{2}"),
        (r"\boxed{broken", None),
        ("The answer is 1,234. Bye", "1234"),
        ("The final answer is: 42.\nThanks 7", "42"),
        ("work\n#### 1,000", "1000"),
        ("1+1=2\n2+3=5", "5"),
        ("I counted 3 and then 7.50 apples", "7.5"),
        ("no idea", None),
        ("", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def test_equality_of_answers():
    assert canonical(" $007$ ") == "7"
    assert same_answer("0.50", "0.5")
    assert same_answer(r"\frac{1}{2}", "0.5")
    assert not same_answer("3", "4")
    assert not same_answer(None, "4")


def test_keys_depend_on_seed_problem_and_path():
    keys = {root_key(seed, problem) for seed in range(3) for problem in ("a", "b")}
    keys |= {child_key(key, index) for key in list(keys) for index in range(50)}
    assert len(keys) == 6 * 51


def test_tree_check_sees_damage():
    tree = SearchTree(Problem("p", [5]), [5], seed=0)
    child, _ = tree.add_children(tree.root, 2)
    tree.check()
    child.start += 1
    with pytest.raises(RuntimeError, match="node 1 starts at 2, not 1"):
        tree.check()


def solution(answer, score, steps=4, repeats=False, copies=1):
    return Candidate([], "", answer, score, 0.0, True, copies, None, steps, repeats)


@pytest.mark.parametrize(
    ("candidates", "answer"),
    [
        ([solution("a", 0.9), solution("a", 0.1), solution("b", 0.8), solution("b", 0.8)], "a"),
        # Its answer stands alone.
        ([solution("a", 0.9), solution("b", 0.8), solution("b", 0.7)], "b"),
        ([solution("a", 0.9), solution("b", 0.3), solution("b", 0.4)], "a"),
        ([solution("a", 0.9, copies=2), solution("b", 0.8), solution("b", 0.8), solution("b", 0.8)], "a"),
        # It is too short, or says the same again.
        (
            [solution("a", 0.9, 1), solution("a", 0.9, 1), solution("b", 0.3), solution("b", 0.2), solution("c", 0.1)],
            "b",
        ),
        ([solution("a", 0.9, repeats=True), solution("a", 0.8, repeats=True), solution("b", 0.1)], "b"),
        # There is nothing else.
        ([solution("a", 0.9, repeats=True)], "a"),
        ([solution("a", 0.9, 2), solution("a", 0.9, 2), solution("b", 0.1, 4)], "a"),
        ([], None),
    ],
)
def test_guarded_against_solutions_that_please_the_scorer(candidates, answer):
    assert select_answer(candidates, "guarded") == answer


def test_what_a_solution_repeats():
    tree = SearchTree(Problem("p", [1]), [1], seed=0)
    for tokens, ends, repeats in (
        ([5, 3, 6, 3, 5, 2], [2, 4, 6], True),
        ([5, 3, 6, 3, 7, 2], [2, 4, 6], False),
        ([5, 3, 5, 3, 7, 2], [2, 4, 6], False),
        ([3, 3, 2], [1, 2, 3], False),
        ([2], [1], False),
    ):
        (node,) = tree.add_children(tree.root, 1)
        node.tokens, node.step_ends, node.state = tokens, ends, State.FINISHED
        found = collect_candidates(tree)[-1]
        assert found.repeats == repeats and found.num_steps == sum(token not in (2, 3) for token in tokens)
