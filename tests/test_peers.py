"""The benchmarks' peers do the same work as our searches, on small random models."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from models import VOCAB, tiny_model

from tts_kernels import _ext

# Behind everything else: names of benchmarks must not hide those of tests.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from bench_beam import Setting, check, ours, peer
from peers.search_and_learn import add_tags, beam_search, step_scores

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)

SETTING = Setting(8, 4, 3, 5, good_id=20, bad_id=21, tag_id=3, prm_rows=3)


def make_models():
    models = tiny_model("llama"), tiny_model("qwen2", seed=5)
    for model in models:
        model.generation_config.eos_token_id = None
    return models


def make_prompt():
    return torch.randint(2, VOCAB, (9,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("run", [ours, peer])
def test_scores_are_those_of_a_plain_forward(run):
    """Each text alone, its path put together token by token."""
    policy, prm = make_models()
    prompt = make_prompt()
    stats = run(policy, prm, prompt, SETTING)
    check(prm, prompt, SETTING, stats)
    assert len(stats.solutions) == len(stats.scores) == SETTING.budget
    for solution, score in zip(stats.solutions, stats.scores, strict=True):
        assert len(solution) == SETTING.depth * SETTING.step_tokens
        path = list(prompt)
        for begin in range(0, len(solution), SETTING.step_tokens):
            path += [*solution[begin : begin + SETTING.step_tokens], SETTING.tag_id]
        with torch.inference_mode():
            logits = prm(input_ids=torch.tensor([path])).logits[0, -1, [SETTING.good_id, SETTING.bad_id]]
        assert abs(float(logits.softmax(-1)[0]) - score) <= 1e-4


def test_peer_scores_our_paths_as_we_do():
    policy, prm = make_models()
    prompt = make_prompt()
    stats = ours(policy, prm, prompt, SETTING)
    texts = torch.tensor([prompt + solution for solution in stats.solutions])
    tagged = add_tags(texts, len(prompt), SETTING.step_tokens, SETTING.tag_id)
    scores = step_scores(prm, tagged, len(prompt), SETTING.step_tokens, (SETTING.good_id, SETTING.bad_id), rows=3)
    assert scores.shape == (SETTING.budget, SETTING.depth)
    assert (scores[:, -1] - torch.tensor(stats.scores)).abs().max() <= 1e-4


def test_both_draw_the_same_number_of_tokens():
    policy, prm = make_models()
    prompt, s = make_prompt(), SETTING
    mine, theirs = (run(policy, prm, prompt, s) for run in (ours, peer))
    assert mine.generated_tokens == theirs.generated_tokens == s.budget * s.depth * s.step_tokens
    lengths = [len(prompt) + step * s.step_tokens for step in range(s.depth)]
    assert theirs.policy_tokens == sum(s.budget * (length + s.step_tokens - 1) for length in lengths)
    assert theirs.prm_tokens == sum(
        s.budget * (length + s.step_tokens + step + 1) for step, length in enumerate(lengths)
    )
    # The prompt once, less a token that goes in with the children, and every token of the tree once at most.
    assert mine.policy_tokens <= len(prompt) + mine.generated_tokens
    assert mine.prm_tokens <= len(prompt) + mine.generated_tokens + s.budget * s.depth


def test_peer_keeps_the_best_beams():
    """Every beam of the last round continues one that was among the best two of the round before."""
    policy, prm = make_models()
    prompt = make_prompt()
    before = peer(policy, prm, prompt, Setting(**(asdict(SETTING) | {"depth": 2})))
    after = peer(policy, prm, prompt, SETTING)
    best = sorted(range(8), key=lambda beam: -before.scores[beam])[:2]
    parents = [solution[: 2 * SETTING.step_tokens] for solution in after.solutions]
    assert parents == [before.solutions[beam] for beam in best] * 4


def test_bad_input():
    policy, prm = make_models()
    good = asdict(SETTING)
    cases: dict[str, dict[str, object]] = {
        "width must be at least 1, got 0": {"width": 0},
        "budget must be a multiple of width 4, got 6": {"budget": 6},
        "temperature must be positive, got 0.0": {"temperature": 0.0},
        "prompt_ids must hold at least one token": {"prompt_ids": []},
    }
    for message, change in cases.items():
        with pytest.raises(ValueError, match=f"beam_search: {message}"):
            beam_search(policy, prm, **{"prompt_ids": make_prompt(), **good, **change})
    with pytest.raises(ValueError, match="prm must be in eval mode"):
        beam_search(policy, prm.train(), make_prompt(), **good)
