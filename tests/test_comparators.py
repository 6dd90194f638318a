"""Comparisons of two solutions: by their scores, and by a model against plain forwards over all that it reads."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import dense_logits, tiny_model
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tts_kernels import _ext
from tts_kernels.decoder import Decoder
from tts_kernels.ops.sample_children import sample_children
from tts_kernels.rows import signed
from tts_kernels.scorers.generative import Comparison
from tts_kernels.search import Problem, Sampling
from tts_kernels.selection import Candidate
from tts_kernels.strategies import BestOfN
from tts_kernels.tournaments import GenerativeComparator, Knockout, League, ScoreComparator
from tts_kernels.tree import root_key

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)

LETTERS = "AB0123456789=+ ?\n{}abcdefghijklmnopqrstuvwxyz$"
EOS = {*range(20, 26), LETTERS.index("$")}


def letter_tokenizer():
    tokenizer = Tokenizer(WordLevel({letter: index for index, letter in enumerate(LETTERS)}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="$")


TOKENIZER = letter_tokenizer()
MODEL = tiny_model(seed=3, vocab_size=len(LETTERS), max_position_embeddings=128)
MODEL.generation_config.eos_token_id = sorted(EOS)
# So that verdicts depend on the solutions, not on the question's last letter alone.
with torch.no_grad():
    last = MODEL.base_model(torch.tensor([[LETTERS.index(letter) for letter in "q \na \nb \nwho?"]]))[0][0, -1]
    head = MODEL.get_output_embeddings().weight
    apart = head[0] - head[1]
    head[0] = head[1] + 10 * (apart - (apart @ last) / (last @ last) * last)
CHAINS = Comparison(1.0, 5, "q {question}\na {first}\nb {second}\n", "who?")
AT_ONCE = replace(CHAINS, max_tokens=0)
SOLUTIONS = [
    Candidate([], text, None, 0.5, 0.0, True) for text in ("3+4=7", "it is {second}8", "", "{question}", "7 7 7 7 7")
]
PAIRS = [(one, other) for one in SOLUTIONS for other in SOLUTIONS if one is not other]


def keys_of(count, seed=0):
    return [root_key(seed, str(index)) for index in range(count)]


def assert_share(hits, count, chance):
    """Within 4 standard deviations of what a binomial variable has."""
    assert abs(hits - count * chance) <= 4 * math.sqrt(count * chance * (1 - chance)), (hits / count, chance)


@pytest.mark.parametrize("scores", [(0.3, 0.6), (0.9, 0.5), (0.2, 0.2), (1.0, 1.0), (0.0, 1e-7), (1.0, 0.9999998)])
def test_chances_by_scores(scores):
    pair = tuple(replace(SOLUTIONS[0], score=score) for score in scores)
    one, other = (math.log(p / (1 - p)) for p in (min(max(score, 1e-7), 1 - 1e-7) for score in scores))
    chance = 1 / (1 + math.exp(other - one))
    keys = keys_of(3000)
    verdicts = ScoreComparator().compare("", [pair] * 3000, keys)
    assert set(verdicts) == {0.0, 1.0}
    assert_share(sum(verdicts), 3000, chance)
    assert ScoreComparator().compare("", [pair] * 10, keys[20:30]) == verdicts[20:30]


def test_extreme_and_bad_scores():
    low, high = (replace(SOLUTIONS[0], score=score) for score in (0.0, 1.0))
    compare = ScoreComparator().compare
    assert compare("", [(low, high), (high, low)] * 50, keys_of(100)) == [0.0, 1.0] * 50
    assert compare("", [], []) == []
    for score in (math.nan, -0.1, 1.5):
        with pytest.raises(ValueError, match=f"ScoreComparator: scores must be in .0, 1., got {score}"):
            compare("", [(low, replace(high, score=score))], [0])
    with pytest.raises(ValueError, match="ScoreComparator: keys must be one for each of 1 pairs, got 0"):
        compare("", [(low, high)], [])


def make_comparator(how=CHAINS, pages=2000, **options):
    return GenerativeComparator(MODEL, TOKENIZER, how, num_pages=pages, page_size=4, **options)


def verdicts_of(comparator, pairs, keys, question="3+4"):
    before = MODEL.config._attn_implementation
    verdicts = comparator.compare(question, pairs, keys)
    forest = comparator.model.forest
    forest.check()
    assert forest.num_nodes == 0 and forest.used_pages == 0
    assert MODEL.config._attn_implementation == before
    return verdicts


def share_of(how, question, first, second, key):
    """P(A) with the solutions in this order, one chain at a time, and the chain's length."""
    path = [LETTERS.index(letter) for letter in f"q {question}\na " + first.text + "\nb " + second.text + "\n"]
    begin = len(path)
    one = torch.ones(1, dtype=torch.int32)
    for _ in range(how.max_tokens):
        logits, place = dense_logits(MODEL, [path]), torch.tensor([len(path)], dtype=torch.int32)
        keys = torch.from_numpy(signed([key]))
        token = int(sample_children(logits, keys, place, one, temperature=how.temperature, backend="reference")[0])
        if token in EOS:
            break
        path.append(token)
    length = len(path) - begin
    path += [LETTERS.index(letter) for letter in "who?"]
    return float(dense_logits(MODEL, [path])[0, :2].softmax(-1)[0]), length


@pytest.mark.parametrize("how", [CHAINS, AT_ONCE, replace(CHAINS, temperature=0.0), replace(AT_ONCE, temperature=0.0)])
def test_verdicts_are_those_of_plain_forwards(how):
    keys = keys_of(3 * len(PAIRS))
    want, shares, lengths = [], [], set()
    for (first, second), key in zip(PAIRS * 3, keys, strict=True):
        swap, bar = np.random.default_rng(key).random(2)
        order = (second, first) if swap < 0.5 else (first, second)
        share, length = share_of(how, "3+4", *order, key)
        wins = share > (bar if how.temperature else 0.5)
        want.append(float(wins != (swap < 0.5)))
        shares.append(share)
        lengths.add(length)
    assert verdicts_of(make_comparator(how), PAIRS * 3, keys) == want
    assert min(shares) < 0.3 and max(shares) > 0.7 and 0.2 < np.mean(want) < 0.8
    assert lengths == {0} if how is AT_ONCE else min(lengths) < 3 or not how.max_tokens


def test_both_orders_are_presented_and_verdicts_are_drawn():
    pair, keys = PAIRS[0], keys_of(1500)
    (one, _), (other, _) = share_of(AT_ONCE, "3+4", *pair, 0), share_of(AT_ONCE, "3+4", *pair[::-1], 0)
    assert abs(one + other - 1) > 0.1
    assert_share(sum(verdicts_of(make_comparator(AT_ONCE), [pair] * 1500, keys)), 1500, (one + 1 - other) / 2)


def test_a_model_that_prefers_a_place_prefers_nobody(monkeypatch):
    comparator = make_comparator(replace(AT_ONCE, temperature=0.0))
    for share, chance in ((1.0, 0.5), (0.0, 0.5)):
        monkeypatch.setattr(
            comparator, "_with_room", lambda jobs, s=share: torch.full((sum(len(j[1]) for j in jobs),), s)
        )
        verdicts = comparator.compare("?", [PAIRS[0]] * 1000, keys_of(1000))
        assert set(verdicts) == {0.0, 1.0}
        assert_share(sum(verdicts), 1000, chance)
    monkeypatch.setattr(comparator, "_with_room", lambda jobs: torch.full((len(jobs),), 0.5))
    assert comparator.compare("?", PAIRS[:4], keys_of(4)) == [0.5] * 4


def test_company_order_and_room_do_not_matter():
    keys = keys_of(len(PAIRS))
    pairs = [pair for pair in PAIRS[:10] for _ in range(2)]
    roomy, tight, few = make_comparator(), make_comparator(pages=60), make_comparator(max_rows=3)
    together = verdicts_of(roomy, pairs, keys)
    assert verdicts_of(make_comparator(), pairs[::-1], keys[::-1]) == together[::-1]
    alone = make_comparator()
    assert [verdicts_of(alone, [pair], [key])[0] for pair, key in zip(pairs, keys, strict=True)] == together
    assert verdicts_of(tight, pairs, keys) == together and roomy.counters()["peak_pages"] > 60
    assert verdicts_of(few, pairs, keys) == together and few.counters()["calls"] > roomy.counters()["calls"]
    # Comparisons of one prompt alone are more than there is room for.
    same = [PAIRS[0]] * 12
    want = verdicts_of(roomy, same, keys[:12])
    assert verdicts_of(make_comparator(pages=16), same, keys[:12]) == want
    assert verdicts_of(make_comparator(max_rows=1), same, keys[:12]) == want
    assert verdicts_of(roomy, [], []) == []


def test_equal_prompts_are_read_once(monkeypatch):
    comparator, (first, second) = make_comparator(), PAIRS[3]
    monkeypatch.setattr(comparator, "eos_ids", set())
    verdicts_of(comparator, [(first, second)] * 6 + [(second, first)] * 6, keys_of(12))
    prompt = len("q 3+4\na \nb \n") + len(first.text) + len(second.text)
    # The prompt's last token, five of its own and the question are what every chain reads for itself.
    assert comparator.counters()["tokens"] == 2 * (prompt - 1) + 12 * (1 + 5 + len("who?"))
    # All prompts in one call, one call per token, all questions in one.
    assert comparator.counters()["calls"] == 1 + 5 + 1


def test_what_is_too_long_is_undecided():
    room = 128 - len("q 3+4\na \nb \n") - 5 - len("who?")
    short, fits, long = (replace(SOLUTIONS[0], text="7" * length) for length in (0, room, room + 1))
    comparator, keys = make_comparator(), keys_of(4)
    comparator.eos_ids = set()
    verdicts = verdicts_of(comparator, [(short, long), (fits, short), (long, fits), PAIRS[0]], keys)
    assert verdicts[0] == verdicts[2] == 0.5 and comparator.counters()["unread"] == 2
    assert verdicts[1::2] == verdicts_of(comparator, [(fits, short), PAIRS[0]], keys[1::2])
    assert set(verdicts[1::2]) <= {0.0, 1.0} and comparator.counters()["unread"] == 2
    assert verdicts_of(make_comparator(), [(long, short)], [1]) == [0.5]


def test_nothing_is_left_when_there_is_no_room():
    comparator = make_comparator(pages=4)
    with pytest.raises(_ext.host().OutOfPages):
        comparator.compare("3+4", PAIRS, keys_of(len(PAIRS)))
    assert comparator.model.forest.num_nodes == 0 and comparator.model.forest.used_pages == 0


def test_loading(tmp_path):
    MODEL.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded, keys = GenerativeComparator.from_pretrained(tmp_path, CHAINS, num_pages=2000), keys_of(len(PAIRS))
    assert verdicts_of(loaded, PAIRS, keys) == verdicts_of(make_comparator(), PAIRS, keys)
    with pytest.raises(ValueError, match="comparator: no model can be read"):
        GenerativeComparator.from_pretrained("nowhere/at/all")


def test_bad_comparisons():
    for options, match in (
        ({"max_tokens": -1}, "max_tokens must be at least 0, got -1"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"template": "{question} {first}"}, "template must have {question} and {first} and {second}, got '"),
    ):
        with pytest.raises(ValueError, match=f"Comparison: {match}"):
            Comparison(**options)
    for options, match in (
        ({"words": ("A", "BB")}, "'BB' of words must be one token behind"),
        ({"max_tokens": 120}, "template, max_tokens and ask must be < 128 tokens, got 1"),
    ):
        with pytest.raises(ValueError, match=f"GenerativeComparator: {match}"):
            make_comparator(replace(CHAINS, **options))
    with pytest.raises(ValueError, match="question must be given where prompts are token ids, got none"):
        make_comparator().compare("", PAIRS, keys_of(len(PAIRS)))
    with pytest.raises(ValueError, match="GenerativeComparator: keys must be one for each of 20 pairs, got 1"):
        make_comparator().compare("3+4", PAIRS, [1])


@pytest.mark.parametrize("kind", [Knockout, League])
def test_answers_of_a_search_do_not_depend_on_its_company(kind):
    decoder = Decoder(MODEL, TOKENIZER, separator="7", num_pages=200)
    select = kind(comparator=make_comparator(how=replace(CHAINS, max_tokens=3)))
    problems = [Problem(name, text) for name, text in (("a", "3+4"), ("b", "so it is"), ("c", "2"))]

    def answers(*problems):
        # While a search runs, the model's attention is changed already.
        return {
            result.problem.id: (select(result.tree, result.candidates), [each.answer for each in result.candidates])
            for result in decoder.search(problems, BestOfN(6), Sampling(1.0, max_step_tokens=5, max_tokens=12))
        }

    together = answers(*problems)
    assert together == {key: value for problem in problems for key, value in answers(problem).items()}
    assert any(len({*stated} - {None}) > 1 for _, stated in together.values())
    assert all(answer in stated for answer, stated in together.values())
    assert select.comparator.counters()["tokens"] > 0
