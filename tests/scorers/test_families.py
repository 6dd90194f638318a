"""Every family of reward models against its published recipe, at every node of random trees."""

import math

import pytest
import small_tokenizers
import torch
from growth import QUESTION, SEPARATOR, Growth, bind, score_rounds
from models import FAMILIES, dense_logits, tiny_model
from small_models import KINDS, save

from tts_kernels import _ext, load_scorer
from tts_kernels.scorers import PolicySide, Prm
from tts_kernels.tree import Problem, SearchTree

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Models by name, each made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = save(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.mark.parametrize("name", KINDS)
def test_text_of_any_policy(name, saved):
    """The policy has another tokenizer: every step's score is the published recipe's on the text."""
    made = saved(name)
    other = "mistral" if made.kind.tokenizer != "mistral" else "llama3"
    policy = getattr(small_tokenizers, other)()
    scorer = bind(load_scorer(f"{name}:{made.path}", kv_bytes=1 << 24, page_size=4, tokens="text"), policy)

    def check(growth, node):
        new = growth.texts[node.id]
        assert len(node.step_scores) == (any(text.strip() for text in new) if name == "orm" else len(new))
        if not node.step_scores:
            return
        want = made.scores(QUESTION, plain(name, growth.steps(node)))[-len(node.step_scores) :]
        tolerance = 1e-5 * max(1.0, *(abs(score) for score in want))
        assert node.step_scores == pytest.approx(want, abs=tolerance)

    with scorer.attached():
        score_rounds(scorer, [Growth(policy, seed, f"p{seed}") for seed in range(6)], check=check)
    assert scorer.counters()["recomputed_tokens"] == 0


def plain(name, steps):
    """Steps as the recipe's own users would hand them over."""
    if name == "rlhflow":
        return [step.strip() for step in steps]
    return [step.strip() for step in steps if step.strip()] if name == "orm" else steps


def as_ids(tokenizer, step, text):
    """The step's ids without its separator; where one token holds the end of both, only that is encoded anew."""
    if SEPARATOR not in tokenizer.decode(step):
        return step
    separator = tokenizer.encode(f"x{SEPARATOR}", add_special_tokens=False)[1:]
    if step[-len(separator) :] == separator:
        return step[: -len(separator)]
    kept = next(n for n in range(len(step), -1, -1) if text.startswith(tokenizer.decode(step[:n])))
    rest = text[len(tokenizer.decode(step[:kept])) :]
    return step[:kept] + (tokenizer.encode(rest, add_special_tokens=False) if rest else [])


# Family -> before, tag and between as texts, to be encoded one by one behind a letter.
IDS = {
    "math-shepherd": (f"{QUESTION} ", " ки", "\n"),
    "skywork": (f"{QUESTION}\n", "\n", ""),
    "qwen": (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
        "<extra_0>",
        "",
    ),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_of_the_same_tokenizer(name, saved):
    """Policy and reward model share their tokenizer: what the model reads are the policy's very tokens."""
    made = saved(name)
    tokenizer, (before, tag, between) = made.tokenizer, IDS[name]
    scorer = bind(load_scorer(f"{name}:{made.path}", kv_bytes=1 << 24, page_size=4), tokenizer)
    start = tokenizer.encode(before)
    tag_ids, between_ids = (tokenizer.encode(f"x{text}", add_special_tokens=False)[1:] for text in (tag, between))

    def check(growth, node):
        ids = list(start)
        for part in growth.tree.lineage(node)[1:]:
            for step, text in zip(growth.tree.steps(part), growth.texts[part.id], strict=False):
                step = [token for token in step if token != tokenizer.eos_token_id]
                ids += (between_ids if len(ids) > len(start) else []) + as_ids(tokenizer, step, text) + tag_ids
        assert scorer._entries[growth.tree.problem_id][node.id].stream.ids == ids
        hidden = made.model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
        head = scorer.head
        if head.first:
            hidden = torch.relu(torch.nn.functional.linear(hidden, *(part.double() for part in head.first)))
        logits = head.weight.double() @ hidden + (0.0 if head.bias is None else head.bias)
        want = logits.sigmoid() if head.activation == "sigmoid" else logits.softmax(-1)
        assert node.step_scores[-1] == pytest.approx(float(want[head.positive]), abs=1e-5)

    with scorer.attached(), torch.inference_mode():
        score_rounds(scorer, [Growth(tokenizer, seed, f"p{seed}") for seed in range(4)], check=check)
    assert scorer.counters()["recomputed_tokens"] == 0


@pytest.mark.parametrize("aggregate", ["last", "min", "prod", "mean"])
@pytest.mark.parametrize("name", ["qwen", "pqm"])
def test_paths_are_aggregated(name, aggregate, saved):
    made = saved(name)
    scorer = bind(load_scorer(f"{name}:{made.path}", aggregate=aggregate, num_pages=400), small_tokenizers.llama3())
    fold = {"last": lambda s: s[-1], "min": min, "prod": math.prod, "mean": lambda s: sum(s) / len(s)}[aggregate]

    def check(growth, node):
        scores = [score for part in growth.tree.lineage(node) for score in part.step_scores]
        assert node.score == pytest.approx(fold(scores), rel=1e-4)

    with scorer.attached():
        score_rounds(scorer, [Growth(small_tokenizers.llama3(), seed, f"p{seed}") for seed in range(3)], check=check)


@pytest.mark.parametrize("name", ["math-shepherd", "rlhflow"])
def test_model_aggregate_judges_the_partial_answer_once(name, saved):
    """One tag behind all steps, which are joined by the policy's separator; read once per node and taken away again."""
    made = saved(name)
    policy = small_tokenizers.qwen()
    scorer = bind(load_scorer(f"{name}:{made.path}", aggregate="model", kv_bytes=1 << 24), policy)

    def check(growth, node):
        steps = [step.strip() for step in growth.steps(node)] if name == "rlhflow" else growth.steps(node)
        if any(growth.texts[node.id]) and node.step_scores:
            (want,) = made.scores(QUESTION, [SEPARATOR.join(step for step in steps if step)])
            assert [node.score] == node.step_scores == pytest.approx([want], abs=1e-5)

    with scorer.attached():
        score_rounds(scorer, [Growth(policy, seed, f"p{seed}") for seed in range(4)], check=check)


def test_a_tag_that_later_text_swallows_is_judged_in_the_shorter_text(saved):
    """The tokenizer makes one token of the tag, the newline behind it and the next newline: in the longer text the tag
    is gone, in the text up to it it is there."""
    made = saved("math-psa")
    policy = small_tokenizers.llama3()
    scorer = bind(load_scorer(f"math-psa:{made.path}", kv_bytes=1 << 24), policy)
    steps = ["Add 3", "\nSo x = 3", "\n\nThe answer is 35", "(good)"]

    def check(growth, node):
        steps = growth.steps(node)
        begin = len(steps) - len(growth.texts[node.id])
        want = [made.scores(QUESTION, steps[: end + 1])[-1] for end in range(begin, len(steps))]
        assert node.step_scores == pytest.approx(want, abs=1e-5)

    with scorer.attached():
        score_rounds(scorer, [Growth(policy, seed, f"p{seed}", steps) for seed in range(6)], check=check)
    # Where a tag is swallowed the path is read again from where it still holds.
    assert scorer.counters()["recomputed_tokens"] > 0


def test_in_turns_where_pages_are_short(saved):
    """Room for a few problems at a time: scores, and their order, are the recipe's all the same."""
    made, policy = saved("qwen"), small_tokenizers.llama3()
    scorer = bind(load_scorer(f"qwen:{made.path}", num_pages=130, page_size=4), policy)

    def check(growth, node):
        if node.step_scores:
            want = made.scores(QUESTION, growth.steps(node))[-len(node.step_scores) :]
            assert node.step_scores == pytest.approx(want, abs=1e-5)

    with scorer.attached():
        score_rounds(scorer, [Growth(policy, seed, f"p{seed}") for seed in range(5)], check=check)
    assert scorer.counters()["spilled_pages"] > 0


def test_out_of_pages_changes_nothing(saved):
    """A small problem fits, a large one does not: the batch is refused as a whole, and each can be scored later."""
    made, policy = saved("qwen"), small_tokenizers.llama3()
    scorer = bind(load_scorer(f"qwen:{made.path}", num_pages=100, page_size=4), policy)
    small, large = Growth(policy, 0, "small", ["So x = 3"]), Growth(policy, 1, "large", [" 12" * 60])
    with scorer.attached():
        scorer.add([small.tree, large.tree])
        batch = [(g.tree, child) for g in (small, large) for child in g.grow(g.tree.root, 4)]
        one = min(batch[4:], key=lambda item: len(item[1].tokens))
        with pytest.raises(_ext.host().OutOfPages):
            scorer.score(batch)
        scorer.check()
        assert [list(known) for known in scorer._entries.values()] == [[0], [0]]
        scorer.score(batch[:4]).write()
        scorer.drop(small.tree)
        scorer.score([one]).write()
        for growth, (_, child) in ((small, batch[0]), (large, one)):
            want = made.scores(QUESTION, growth.steps(child))[-len(child.step_scores) :]
            assert child.step_scores == pytest.approx(want, abs=1e-5)
        scorer.check()


@pytest.mark.parametrize("backbone", [name for name in FAMILIES if name != "granite"])
def test_every_backbone(backbone):
    """Any causal LM may be a reward model; granite scales its logits and is refused (test_loading.py)."""
    model = tiny_model(backbone)
    scorer = Prm.inline(model, good_id=20, bad_id=21, tag_id=3, num_pages=64)
    scorer.bind(PolicySide())
    tree = SearchTree(Problem("p", [5, 6, 7]), [5, 6, 7], 0)
    with scorer.attached():
        scorer.add([tree])
        first = tree.add_children(tree.root, 2)
        for index, child in enumerate(first):
            child.tokens, child.step_ends = [8 + index, 9, 30, 3], [4]
        scorer.score([(tree, child) for child in first]).write()
        second = tree.add_children(first[0], 2)
        for index, child in enumerate(second):
            child.tokens, child.step_ends = [12 + index, *range(31, 40), 3], [11]
        scorer.score([(tree, child) for child in second]).write()
    for child in first + second:
        want = dense_logits(model, [[5, 6, 7, *tree.solution(child)]])[0, [20, 21]].softmax(-1)[0]
        assert child.score == pytest.approx(float(want), abs=1e-5)
