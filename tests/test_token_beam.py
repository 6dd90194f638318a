from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import VOCAB, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tts_kernels import _ext, assets, hf
from tts_kernels.hf import TreeModel
from tts_kernels.problems import read_problems
from tts_kernels.token_beam import Hypothesis, token_beam_search

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)

PROMPT = [7, 3, 11, 40, 5, 9, 2]


@cache
def model_of(family, seed=0):
    if family == "shipped":
        return AutoModelForCausalLM.from_pretrained(assets.POLICY, dtype=torch.float32).eval()
    return tiny_model(family, seed=seed)


def shipped_prompts(limit):
    tokenizer = AutoTokenizer.from_pretrained(assets.POLICY)
    return [tokenizer.encode(problem.prompt) for problem in read_problems(assets.PROBLEMS, limit)]


@cache
def sharp_model():
    """Sure enough of some tokens that solutions of many lengths compete."""
    model = tiny_model("llama", seed=3)
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)
    return model


def generated(model, prompt, eos_ids, num_beams, num_return_sequences=1, **options):
    """What transformers has for one prompt."""
    # What the model's own configuration names would take the place of an eos_token_id of None.
    model.generation_config = GenerationConfig(eos_token_id=list(eos_ids) or None, pad_token_id=0)
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    lengths = (out.beam_indices >= 0).sum(-1).tolist()
    new = [row[:length] for row, length in zip(out.sequences[:, len(prompt) :].tolist(), lengths, strict=True)]
    return [Hypothesis(tokens, score) for tokens, score in zip(new, out.sequences_scores.tolist(), strict=True)]


def searched(model, prompts, num_pages=400, page_size=4, **options):
    """Ours, from pages full of NaN; all of them must come back."""
    tree_model = TreeModel(model, num_pages=num_pages, page_size=page_size)
    tree_model.pool.pages.fill_(torch.nan)
    try:
        return token_beam_search(tree_model, prompts, **options)
    finally:
        tree_model.forest.check()
        assert (tree_model.forest.used_pages, tree_model.forest.num_nodes) == (0, 0)


def assert_same(got, want):
    assert [hypothesis.tokens for hypothesis in got] == [hypothesis.tokens for hypothesis in want]
    scores = [[hypothesis.score for hypothesis in each] for each in (got, want)]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)


def assert_generates(model, prompt, **options):
    want = generated(model, prompt, **options)
    assert_same(searched(model, [prompt], **options)[0], want)
    return want


EOS = {
    "none": [],
    "one": [19],
    "often": list(range(0, VOCAB, 2)),
    "several": [9, 15, 17, 18, 22, 23, 31, 33, 43, 48, 49, 50],
    "never": [0],
}


@pytest.mark.parametrize("family", ["llama", "qwen2-window", "gpt2"])
@pytest.mark.parametrize("num_beams", [2, 3, 16])
def test_equals_generate(family, num_beams):
    options = {"eos_ids": [1, 8], "max_new_tokens": 24, "num_beams": num_beams, "num_return_sequences": num_beams}
    for prompt in (PROMPT, [5]):
        assert_generates(model_of(family), prompt, **options)


@pytest.mark.parametrize("num_beams", [2, 4, 16])
def test_the_shipped_policy_equals_generate(num_beams):
    options = {"eos_ids": [2], "max_new_tokens": 50, "num_beams": num_beams, "num_return_sequences": num_beams}
    for prompt in shipped_prompts(2):
        assert_generates(model_of("shipped"), prompt, **options)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("eos", ["often", "several"])
def test_equals_generate_under_every_rule(early_stopping, length_penalty, eos):
    rules = {"early_stopping": early_stopping, "length_penalty": length_penalty, "eos_ids": EOS[eos]}
    for prompt in (PROMPT, [30, 30, 30]):
        assert_generates(sharp_model(), prompt, num_beams=4, num_return_sequences=4, max_new_tokens=16, **rules)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("eos", ["none", "one", "never"])
def test_solutions_that_seldom_end(early_stopping, eos):
    rules = {"early_stopping": early_stopping, "length_penalty": 0.6, "eos_ids": EOS[eos]}
    assert_generates(sharp_model(), PROMPT, num_beams=4, num_return_sequences=4, max_new_tokens=16, **rules)


def test_the_rules_make_a_difference():
    """Solutions of several lengths, and others where another rule holds: what the tests above compare is not void."""
    found = {}
    for early_stopping in (False, True, "never"):
        for length_penalty in (0.0, 2.0, -1.0):
            options = {"early_stopping": early_stopping, "length_penalty": length_penalty, "eos_ids": EOS["several"]}
            one = assert_generates(
                sharp_model(), PROMPT, num_beams=4, num_return_sequences=4, max_new_tokens=16, **options
            )
            found[early_stopping, length_penalty] = tuple(tuple(hypothesis.tokens) for hypothesis in one)
    assert len({len(tokens) for solutions in found.values() for tokens in solutions}) > 3
    assert found[False, 2.0] != found[True, 2.0]
    assert found[False, 2.0] != found["never", 2.0]
    assert len({found[False, penalty] for penalty in (0.0, 2.0, -1.0)}) == 3


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3])
@pytest.mark.parametrize("eos", EOS)
def test_few_tokens(max_new_tokens, eos):
    for num_beams in (2, 7):
        options = {"num_beams": num_beams, "num_return_sequences": num_beams, "eos_ids": EOS[eos]}
        assert_generates(sharp_model(), PROMPT, max_new_tokens=max_new_tokens, **options)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_one_beam_is_greedy(early_stopping):
    for model, prompt, eos_ids in (
        (model_of("shipped"), shipped_prompts(1)[0], [2]),
        (sharp_model(), PROMPT, EOS["several"]),
        (sharp_model(), [30, 30, 30], EOS["several"]),
    ):
        model.generation_config = GenerationConfig(eos_token_id=eos_ids, pad_token_id=0)
        ids = torch.tensor([prompt])
        want = model.generate(ids, do_sample=False, max_new_tokens=100)[0, len(prompt) :].tolist()
        options = {"num_beams": 1, "max_new_tokens": 100, "eos_ids": eos_ids, "length_penalty": 2.0}
        ((got,),) = searched(model, [prompt], early_stopping=early_stopping, **options)
        assert got.tokens == want
        assert [token in eos_ids for token in got.tokens].index(True) == len(got.tokens) - 1


def test_as_many_beams_as_tokens_go_on():
    options = {"eos_ids": [1, 3], "max_new_tokens": 4}
    assert_generates(
        sharp_model(), PROMPT, num_beams=VOCAB - 2, num_return_sequences=VOCAB - 2, early_stopping=False, **options
    )


def test_eos_ids_named_twice_count_once():
    options = {"num_beams": 3, "max_new_tokens": 12, "num_return_sequences": 3}
    once, twice = (searched(sharp_model(), [PROMPT], eos_ids=ids, **options) for ids in ({4, 9}, (9, 4, 9, 4)))
    assert once == twice
    assert_same(once[0], generated(sharp_model(), PROMPT, eos_ids=[9, 4, 9, 4], **options))


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_prompts_together_equal_each_alone(early_stopping):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, VOCAB, length).tolist() for length in (9, 1, 30, 2, 9, 17)]
    prompts.append(prompts[0])
    options = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 20, "eos_ids": EOS["several"]}
    options |= {"early_stopping": early_stopping}
    together = searched(sharp_model(), prompts, **options)
    assert len(together) == len(prompts)
    for prompt, got in zip(prompts, together, strict=True):
        assert_same(got, generated(sharp_model(), prompt, **options))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    num_beams=st.integers(2, 6),
    eos_ids=st.sets(st.integers(0, VOCAB - 1), max_size=6),
    max_new_tokens=st.integers(1, 12),
    length_penalty=st.sampled_from([-2.0, -0.5, 0.0, 0.3, 1.0, 3.0]),
    early_stopping=st.sampled_from([False, True, "never"]),
    page_size=st.sampled_from([1, 3, 16]),
)
def test_random_settings(lengths, seed, page_size, **options):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCAB, length).tolist() for length in lengths]
    options["num_return_sequences"] = options["num_beams"]
    together = searched(sharp_model(), prompts, page_size=page_size, num_pages=1000, **options)
    for prompt, got in zip(prompts, together, strict=True):
        assert_same(got, generated(sharp_model(), prompt, **options))


def test_one_call_per_token_and_no_copies_for_only_children(monkeypatch):
    tree_model = TreeModel(sharp_model(), num_pages=400, page_size=4)
    forest, logits, fork = tree_model.forest, tree_model.logits, tree_model.pool.fork
    # Rows of each call, and the widths of the forks behind it.
    rows, forks = [], []

    def count_logits(nodes, tokens):
        rows.append(len(nodes))
        forks.append([])
        assert forest.num_held == len(nodes)
        return logits(nodes, tokens)

    def count_fork(nodes, widths):
        forks[-1].append(widths.tolist())
        partial = (forest.length(nodes) % forest.page_size > 0) * (widths - 1)
        used = forest.used_pages
        children = fork(nodes, widths)
        assert forest.used_pages == used + partial.sum()
        return children

    monkeypatch.setattr(tree_model, "logits", count_logits)
    monkeypatch.setattr(tree_model.pool, "fork", count_fork)
    prompts = [PROMPT, [5], [30, 2] * 4]
    options = {"num_beams": 4, "max_new_tokens": 20, "eos_ids": EOS["several"], "length_penalty": 0.0}
    token_beam_search(tree_model, prompts, **options)
    assert rows[:2] == [3, 12]
    # A prompt that is done leaves the batch.
    assert rows[1:] == sorted(rows[1:], reverse=True)
    assert rows[-1] < 12
    assert max(map(len, forks)) == 1
    assert all(width > 1 for behind in forks for widths in behind for width in widths)
    # One call more for the prompts. The last token of a solution is never fed.
    counters = tree_model.counters()
    assert counters["calls"] == len(rows) + 1 <= 21
    assert counters["tokens"] == sum(rows) + sum(len(prompt) - 1 for prompt in prompts)


def test_a_beam_alone_keeps_its_node_and_plan(monkeypatch):
    plans = []
    make_plan = hf.make_plan
    monkeypatch.setattr(hf, "make_plan", lambda *args, **kwargs: plans.append(0) or make_plan(*args, **kwargs))
    searched(sharp_model(), [PROMPT], num_beams=1, max_new_tokens=30, eos_ids=[])
    # One for the prompt, one for all tokens.
    assert len(plans) == 2


@pytest.mark.parametrize("num_pages", [1, 4, 6, 9, 14])
def test_out_of_pages_leaves_nothing_behind(num_pages):
    """While prompts are fed, while beams fork, while they grow."""
    options = {"num_beams": 4, "max_new_tokens": 20, "eos_ids": []}
    model = sharp_model()
    before = model.config._attn_implementation
    with pytest.raises(_ext.host().OutOfPages, match="pages"):
        searched(model, [PROMPT, PROMPT[:3]], num_pages=num_pages, **options)
    assert model.config._attn_implementation == before


def test_out_of_pages_comes_from_forks_and_from_appends():
    options = {"num_beams": 4, "max_new_tokens": 20, "eos_ids": []}
    seen = set()
    for num_pages in (1, 5, 6, 7, 8, 9, 10):
        with pytest.raises(_ext.host().OutOfPages) as caught:
            searched(sharp_model(), [PROMPT, PROMPT[:3]], num_pages=num_pages, **options)
        seen.add(str(caught.value).split(":")[0])
    assert seen == {"append", "fork"}


def test_a_failing_model_leaves_nothing_behind(monkeypatch):
    tree_model = TreeModel(sharp_model(), num_pages=100, page_size=4)
    logits = tree_model.logits
    calls = []

    def fail(nodes, tokens):
        calls.append(0)
        if len(calls) == 4:
            raise RuntimeError("the fourth call")
        return logits(nodes, tokens)

    monkeypatch.setattr(tree_model, "logits", fail)
    with pytest.raises(RuntimeError, match="the fourth call"):
        token_beam_search(tree_model, [PROMPT], num_beams=3, max_new_tokens=9, eos_ids=[])
    tree_model.forest.check()
    assert tree_model.forest.num_nodes == 0


def test_others_nodes_stay():
    tree_model = TreeModel(sharp_model(), num_pages=100, page_size=4)
    with tree_model.attached():
        roots = tree_model.forest.add_roots(1)
        tree_model.hidden(roots, np.arange(9), np.array([9], np.int32), np.array([8]))
        first = token_beam_search(tree_model, [PROMPT], num_beams=3, max_new_tokens=9, eos_ids=[])
        assert tree_model.model.config._attn_implementation == hf.ATTENTION_NAME
    assert (tree_model.forest.num_held, tree_model.forest.used_pages) == (1, 3)
    assert first == searched(sharp_model(), [PROMPT], num_beams=3, max_new_tokens=9, eos_ids=[])


def test_no_prompts():
    assert searched(sharp_model(), [], num_beams=3, max_new_tokens=9, eos_ids=[1]) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompts": [[1], []]}, ValueError, r"prompts\[1\] must be at least one token, got none"),
        ({"prompts": [[1, 53]]}, ValueError, r"prompts\[0\] must be token ids in \[0, 53\), got \[53\]"),
        ({"prompts": [[-1]]}, ValueError, r"prompts\[0\] must be token ids in \[0, 53\), got \[-1\]"),
        ({"prompts": 1}, TypeError, "prompts must be a list of lists of token ids, got 1"),
        ({"prompts": [1, 2]}, TypeError, r"prompts\[0\] must be a list of token ids, got 1"),
        ({"prompts": ["text"]}, TypeError, r"prompts\[0\] must be a list of token ids, got 'text'"),
        ({"prompts": [[1.5]]}, TypeError, r"prompts\[0\] must be a list of token ids, got \[1.5\]"),
        ({"prompts": [[[1], [2, 3]]]}, TypeError, r"prompts\[0\] must be a list of token ids, got \[\[1\], \[2, 3\]\]"),
        ({"prompts": [[0] * 248]}, ValueError, r"prompts\[0\] must be with max_new_tokens at most 256 .*, got 257"),
        ({"num_beams": 0}, ValueError, r"num_beams must be an int in \[1, 51\], .*, got 0"),
        ({"num_beams": 52}, ValueError, r"num_beams must be an int in \[1, 51\], .*, got 52"),
        ({"num_beams": 2.0}, ValueError, r"num_beams must be an int in \[1, 51\], .*, got 2.0"),
        ({"num_beams": True}, ValueError, r"num_beams must be an int in \[1, 51\], .*, got True"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be a positive int, got 0"),
        ({"num_return_sequences": 4}, ValueError, r"num_return_sequences must be an int in \[1, 3\], .*, got 4"),
        ({"num_return_sequences": 0}, ValueError, r"num_return_sequences must be an int in \[1, 3\], .*, got 0"),
        ({"eos_ids": 1}, TypeError, "eos_ids must be a list of token ids, got 1"),
        ({"eos_ids": ["</s>"]}, TypeError, "eos_ids must be a list of token ids, got"),
        ({"eos_ids": [1, 99]}, ValueError, r"eos_ids must be token ids in \[0, 53\), got \[99\]"),
        ({"length_penalty": "1"}, ValueError, r"length_penalty must be a number in \[-10.0, 10.0\], got '1'"),
        ({"length_penalty": float("nan")}, ValueError, "length_penalty must be a number in .*, got nan"),
        ({"length_penalty": -11}, ValueError, "length_penalty must be a number in .*, got -11"),
        ({"early_stopping": "always"}, ValueError, "early_stopping must be True, False or 'never', got 'always'"),
        ({"early_stopping": None}, ValueError, "early_stopping must be True, False or 'never', got None"),
        ({"model": None}, TypeError, "model must be a TreeModel, got NoneType"),
    ],
    ids=str,
)
def test_bad_input_is_named(changes, error, message):
    options = {"prompts": [[1]], "num_beams": 3, "max_new_tokens": 9, "eos_ids": [1, 2]}
    tree_model = TreeModel(sharp_model(), num_pages=8)
    with pytest.raises(error, match=f"^token_beam_search: {message}"):
        token_beam_search(**({"model": tree_model} | options | changes))
    assert tree_model.forest.num_nodes == 0
