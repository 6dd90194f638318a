"""A verifier that judges in words, against plain forwards over everything that it reads and writes."""

import numpy as np
import pytest
import torch
from models import dense_logits, tiny_model
from small_tokenizers import QWEN_CHAT, byte_level, mistral, qwen

from tts_kernels import _ext
from tts_kernels.decoder import Decoder
from tts_kernels.ops.sample_children import sample_children
from tts_kernels.scorers import PathTooLong, PolicySide
from tts_kernels.scorers.generative import GenerativeVerifier, Verification
from tts_kernels.search import Problem, RunStats, Sampling
from tts_kernels.strategies import Beam, BestOfN
from tts_kernels.tree import SearchTree, State, child_key

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)

CORPUS = ["Q: 3 + 4 = 7\nS: so it is 7\nIs the answer correct (Yes/No)? Yes\nRight? No\n"] * 20
TEMPLATE = "Q: {question}\nS: {solution}\n"
SHORT = Verification(chains=2, temperature=1.0, max_tokens=6, template=TEMPLATE)
SPECIALS = ["<|im_start|>", "<|im_end|>"]
PLAIN = byte_level(SPECIALS, None, 330, CORPUS, eos_token="<|im_end|>")
CHAT = byte_level(SPECIALS, QWEN_CHAT, 330, CORPUS, eos_token="<|im_end|>")
POLICY = byte_level(["<eos>"], None, 300, CORPUS, eos_token="<eos>")
MODEL = tiny_model("qwen2", seed=3, vocab_size=len(CHAT), max_position_embeddings=512)
# Many, so that some chains end early.
MODEL.generation_config.eos_token_id = list(range(40, 70))
EOS = {*range(40, 70), CHAT.eos_token_id}
# So that scores are far from each other.
with torch.no_grad():
    MODEL.get_output_embeddings().weight[CHAT.convert_tokens_to_ids(["ĠYes", "ĠNo"])] *= 8
SOLUTIONS = [
    ("p", "3 + 4", [" = 7\n"]),
    ("p", "3 + 4", [" = 8\n", "so it is 8\n"]),
    ("q", "4 + 4 {solution}", ["so it is 8\n" * 5]),
    ("q", "4 + 4 {solution}", ["\n"]),
    ("p", "3 + 4", ["it is {question} \\boxed{7}"]),
]


def make_verifier(how=SHORT, tokenizer=CHAT, pages=400, **options):
    verifier = GenerativeVerifier(MODEL, tokenizer, how, num_pages=pages, page_size=4, **options)
    verifier.bind(PolicySide(POLICY, "\n", frozenset({POLICY.eos_token_id})))
    return verifier


def make_batch(states=(State.FINISHED, State.TRUNCATED)):
    """One path per solution; steps are nodes, the last of them in the states by turns."""
    trees, batch = {}, []
    for index, (name, question, steps) in enumerate(SOLUTIONS):
        problem = Problem(name, POLICY.encode("a prompt"), question=question)
        tree = trees.setdefault(name, SearchTree(problem, POLICY.encode("a prompt"), seed=0))
        node = tree.root
        for text in steps:
            (node,) = tree.add_children(node, 1)
            node.tokens = POLICY.encode(text)
            node.step_ends = [len(node.tokens)]
        node.state = states[index % len(states)]
        if node.state is State.FINISHED:
            node.tokens.append(POLICY.eos_token_id)
        node.score = 0.25
        batch.append((tree, node))
    return batch


def scores_of(verifier, batch):
    with verifier.attached():
        scores = verifier.score(batch)
    forest = verifier.model.forest
    forest.check()
    assert forest.num_nodes == 0 and forest.used_pages == 0
    return scores


def oracle(how, tokenizer, question, solution, key):
    """The score and the lengths of the chains, one token and one chain at a time."""
    text = how.template.split("{question}")[0] + question
    text += how.template.split("{question}")[1].replace("{solution}", solution)
    if tokenizer.chat_template:
        text = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    ask = tokenizer.encode(how.ask.removesuffix(" "), add_special_tokens=False)
    words = tokenizer.convert_tokens_to_ids(["ĠYes", "ĠNo"])
    values, lengths = [], []
    for chain in range(max(1, how.chains)):
        path = tokenizer.encode(text)
        begin = len(path)
        keys = torch.from_numpy(np.array([child_key(key, -1 - chain)], np.uint64).view(np.int64))
        for _ in range(how.max_tokens if how.chains else 0):
            place = torch.tensor([len(path)], dtype=torch.int32)
            ones = torch.ones(1, dtype=torch.int32)
            logits = dense_logits(MODEL, [path])
            token = sample_children(logits, keys, place, ones, temperature=how.temperature, backend="reference")[0]
            if int(token) in EOS:
                break
            path.append(int(token))
        lengths.append(len(path) - begin)
        values.append(float(dense_logits(MODEL, [path + ask])[0, words].softmax(-1)[0]))
    return sum(values) / len(values), lengths


@pytest.mark.parametrize("tokenizer", [PLAIN, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("chains, temperature", [(0, 1.0), (1, 0.0), (2, 1.0), (3, 0.5)])
def test_scores_are_those_of_plain_forwards(tokenizer, chains, temperature):
    how = Verification(chains, temperature, 6, TEMPLATE)
    batch = make_batch()
    scores = scores_of(make_verifier(how, tokenizer), batch)
    wanted = [
        oracle(how, tokenizer, question, "".join(steps), node.key)
        for (_, question, steps), (_, node) in zip(SOLUTIONS, batch, strict=True)
    ]
    want = torch.tensor([value for value, _ in wanted])
    assert scores.paths.dtype == torch.float32
    assert (scores.paths - want).abs().max() <= 1e-5
    assert want.max() - want.min() > 0.1
    if chains > 1:
        lengths = {length for _, each in wanted for length in each}
        assert min(lengths) < 3 and max(lengths) == how.max_tokens
    scores.write()
    for (tree, node), value in zip(batch, scores.paths.tolist(), strict=True):
        assert node.score == value and node.step_scores == [value] and node.num_steps == 1
        tree.check()


def test_company_order_and_room_do_not_matter():
    batch = make_batch()
    roomy = make_verifier()
    together = scores_of(roomy, batch).paths
    backwards = scores_of(make_verifier(), batch[::-1]).paths.flip(0)
    alone = torch.cat([scores_of(make_verifier(), [pair]).paths for pair in batch])
    few_rows, tight = make_verifier(max_rows=4), make_verifier(pages=60)
    in_turns, in_halves = scores_of(few_rows, batch).paths, scores_of(tight, batch).paths
    for other in (backwards, alone, in_turns, in_halves):
        assert (other - together).abs().max() <= 1e-5
    assert few_rows.counters()["calls"] > roomy.counters()["calls"]
    assert roomy.counters()["peak_pages"] > 60
    assert scores_of(make_verifier(max_rows=1), batch).paths.allclose(together, atol=1e-5)


def test_the_prompt_is_read_once_for_all_its_chains(monkeypatch):
    verifier = make_verifier(Verification(3, 1.0, 5, TEMPLATE), pages=400)
    monkeypatch.setattr(verifier, "eos_ids", set())
    batch = make_batch()[:2]
    scores_of(verifier, batch)
    prompts = [len(prompt) - 1 for prompt, _ in (verifier._job(*pair) for pair in batch)]
    # The prompt's last token, five of its own and the question are what every chain reads for itself.
    assert verifier.counters()["tokens"] == sum(prompts) + 2 * 3 * (1 + 5 + len(verifier.ask))
    # All prompts in one call, one call per token, all questions in one.
    assert verifier.counters()["calls"] == 1 + 5 + 1


def test_open_solutions_are_judged_on_demand_only():
    batch = make_batch((State.OPEN, State.FINISHED))
    scores = scores_of(make_verifier(), batch)
    assert scores.paths[::2].tolist() == [0.25] * 3 and 0.25 not in scores.paths[1::2].tolist()
    scores.write()
    assert [(node.score, node.step_scores, node.num_steps) for _, node in batch[::2]] == [(0.25, [], 0)] * 3
    assert all(node.num_steps == 1 for _, node in batch[1::2])
    none = make_verifier()
    assert scores_of(none, batch[::2]).paths.tolist() == [0.25] * 3 and none.counters()["calls"] == 0
    batch = make_batch((State.OPEN,))
    partial = Verification(0, template=TEMPLATE, partial=True)
    want = [oracle(partial, CHAT, question, "".join(steps), 0)[0] for _, question, steps in SOLUTIONS]
    assert scores_of(make_verifier(partial), batch).paths.tolist() == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("strategy", [BestOfN(3), Beam(4, 2, max_depth=3)], ids=["best-of-3", "beam"])
@pytest.mark.parametrize("themselves", [False, True], ids=["other", "itself"])
def test_a_search_scores_its_candidates(strategy, themselves):
    verifier = GenerativeVerifier(MODEL, CHAT, SHORT, num_pages=300)
    policy = MODEL if themselves else tiny_model(seed=1, vocab_size=len(POLICY))
    tokenizer = CHAT if themselves else POLICY
    decoder = Decoder(policy, tokenizer, scorer=verifier, separator="7", eos_ids=range(5, 9), num_pages=200)
    problems, stats = [Problem("a", "3 + 4"), Problem("b", "so it is")], RunStats()
    sampling = Sampling(1.0, max_step_tokens=5, max_tokens=12)
    # All of them first: while a search runs, the model's attention is ours.
    for result in list(decoder.search(problems, strategy, sampling, stats=stats)):
        result.tree.check()
        judged = list(result.tree.in_state(State.FINISHED, State.TRUNCATED))
        assert result.error is None and len(judged) == strategy.budget
        for node in judged:
            tokens = [token for token in result.tree.solution(node) if token not in range(5, 9)]
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            want, _ = oracle(SHORT, CHAT, result.problem.prompt, text, node.key)
            assert node.score == pytest.approx(want, abs=1e-5)
    assert stats.scorer["tokens"] > 0 and verifier.model.forest.num_nodes == 0
    assert decoder.policy.forest.used_pages == 0


def test_nothing_is_left_when_it_cannot_be_done():
    batch = make_batch()
    none = make_verifier(pages=6)
    with none.attached(), pytest.raises(_ext.host().OutOfPages):
        none.score(batch)
    assert none.model.forest.num_nodes == 0 and none.model.forest.used_pages == 0
    long = make_verifier()
    tree, node = batch[2]
    node.tokens = POLICY.encode("so it is 8\n" * 100)
    need = len(long._prompt(SOLUTIONS[2][1], "so it is 8\n" * 100)) + 6 + len(long.ask)
    with long.attached(), pytest.raises(PathTooLong, match=f"is 512 tokens, the path may need {need} of") as caught:
        long.score(batch)
    assert caught.value.tree is tree and long.counters()["calls"] == 0


def test_a_path_as_long_as_the_context_is_scored():
    how = Verification(1, 1.0, 6, TEMPLATE)
    verifier = make_verifier(how, PLAIN)
    verifier.eos_ids = set()
    batch = make_batch()[:1]
    room = 512 - verifier.behind
    text = "7" * (room - len(verifier._prompt("3 + 4", "")))
    batch[0][1].tokens = POLICY.encode(text)
    assert len(verifier._job(*batch[0])[0]) == room
    scores_of(verifier, batch)


def test_loading(tmp_path):
    MODEL.save_pretrained(tmp_path)
    CHAT.save_pretrained(tmp_path)
    loaded = GenerativeVerifier.from_pretrained(tmp_path, SHORT, num_pages=400)
    loaded.bind(PolicySide(POLICY, "\n", frozenset({POLICY.eos_token_id})))
    assert loaded.eos_ids == EOS
    batch = make_batch()
    assert scores_of(loaded, batch).paths.allclose(scores_of(make_verifier(), batch).paths, atol=1e-5)


def test_the_space_before_a_word_belongs_to_whichever_token_has_it():
    for make in (mistral, qwen):
        tokenizer = make()
        model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512)
        for ask in ("\nIs it right? ", "\nIs it right?\n", "\nYes or No:"):
            verifier = GenerativeVerifier(model, tokenizer, Verification(0, ask=ask), num_pages=4)
            both = [tokenizer.encode(ask + word, add_special_tokens=False) for word in ("Yes", "No")]
            rows = model.get_output_embeddings().weight[[ids[-1] for ids in both]]
            assert both == [[*verifier.ask, ids[-1]] for ids in both] and torch.equal(verifier.head.weight, rows)


def test_bad_input():
    for options, match in (
        ({"chains": -1}, "chains must be at least 0, got -1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"template": "{question}"}, "template must have {question} and {solution}, got '{question}'"),
    ):
        with pytest.raises(ValueError, match=f"Verification: {match}"):
            Verification(**options)
    for options, match in (
        ({"words": ("Yes", "Nope")}, r"'Nope' of words must be one token behind .*, got \['ĠNo', 'p', 'e'\]"),
        ({"words": ("Yes", "Yes")}, "'Yes' of words must be one token"),
        ({"max_tokens": 500}, "template, max_tokens and ask must be < 512 tokens, got 5"),
    ):
        with pytest.raises(ValueError, match=f"GenerativeVerifier: {match}"):
            GenerativeVerifier(MODEL, CHAT, Verification(**options), num_pages=4)
    with pytest.raises(ValueError, match="the decoder must have the policy's tokenizer, got none"):
        make_verifier().bind(PolicySide())
    with pytest.raises(ValueError, match="genrm: no model can be read"):
        GenerativeVerifier.from_pretrained("nowhere/at/all")
