"""Texts that are handed in must become nodes in the order of the decision, whatever their parents."""

import sys
from pathlib import Path

import pytest
from models import tiny_model

sys.path.append(str(Path(__file__).parent / "strategies"))

from test_revisions import behind, chains_of, wanted

from tts_kernels import _ext
from tts_kernels.decoder import Decoder
from tts_kernels.search import Problem, Sampling
from tts_kernels.strategies import Revisions

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)


@pytest.mark.parametrize("window", [2, 4])
def test_chains_do_not_mix_when_some_of_them_are_read_again(window):
    model = tiny_model("llama", max_position_embeddings=40)
    decoder = Decoder(model, separator=[3, 7, 11, 19], eos_ids=[1, 2, 5, 6, 9], num_pages=800, page_size=4)
    strategy = Revisions(20, sequential=5, window=window, between=[8])
    problems = [Problem(f"p{i}", [2 + i, 3, 4]) for i in range(12)]
    wrong = 0
    for result in decoder.search(problems, strategy, Sampling(temperature=1.0, max_tokens=12)):
        assert result.error is None, result.error
        tree = result.tree
        for solutions in chains_of(tree).values():
            for n in range(1, len(solutions)):
                wrong += behind(tree, solutions[n]) != wanted(tree, solutions[:n], window, [8])
    assert wrong == 0
