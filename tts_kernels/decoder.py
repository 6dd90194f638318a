"""The decoder: a policy, a scorer and their pools, ready to search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel

from tts_kernels.backends import Backend
from tts_kernels.hf import TreeModel, kv_layout
from tts_kernels.kv_pool import KVMemory, fitting_page_sizes
from tts_kernels.run import Run
from tts_kernels.scorers import LogProbScorer, PolicySide, Scorer
from tts_kernels.search import Problem, RunStats, Sampling, SearchResult
from tts_kernels.selection import SELECTIONS, Selection, Selector
from tts_kernels.separator import StepDetector
from tts_kernels.strategies import Strategy
from tts_kernels.tournaments import Knockout, League, ScoreComparator


class Decoder:
    """Runs searches with a policy and a scorer over shared pages.

    model: an unmodified causal LM of transformers. tokenizer: needed for prompts given as text and for answers;
    without one, prompts are token ids and ``separator`` is a list of token ids. separator: what ends a step.
    eos_ids: what ends a solution, by default the model's own. max_rows: problems join while their budgets sum to no
    more. kv_bytes, or num_pages: memory for KV, shared with the scorer's model unless that has a pool of its own.
    page_size: tokens per page of the policy; by default 16, or 32 where that wastes less of what both share.
    speculate: rows that have ended their step make place for children of the likeliest nodes until the last one has:
    fewer and fuller model calls for some tokens drawn in vain, and the same results.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        *,
        scorer: Scorer | None = None,
        separator: str | Sequence[int] = "\n\n",
        eos_ids: Iterable[int] | None = None,
        max_rows: int = 1024,
        backend: Backend | None = None,
        kv_bytes: int = 1 << 30,
        num_pages: int | None = None,
        page_size: int | None = None,
        invariant: bool = False,
        speculate: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.scorer: Scorer = scorer or LogProbScorer()
        self.backend = backend
        layouts = [kv_layout(model, page_size or 16)]
        if self.scorer.kv_layout is not None:
            sizes = (16, 32) if page_size is None else (page_size,)
            layouts = fitting_page_sizes(layouts[0], self.scorer.kv_layout, sizes)
        memory = KVMemory(layouts, kv_bytes, model.device, num_pages)
        pools = [memory.pool(layout, backend) for layout in layouts]
        self.policy = TreeModel(model, pool=pools[0], backend=backend, invariant=invariant)
        self.max_rows = max_rows
        self.speculate = speculate
        vocab_size = model.get_output_embeddings().weight.shape[0]
        if isinstance(separator, str):
            if tokenizer is None:
                raise ValueError("Decoder: separator must be token ids when there is no tokenizer, got text")
            self.detector = StepDetector.from_tokenizer(tokenizer, separator, vocab_size)
        else:
            self.detector = StepDetector.from_ids(separator, vocab_size)
        self.eos_ids = frozenset(_default_eos(model) if eos_ids is None else eos_ids)
        shared = pools[1] if len(pools) > 1 else None
        self.scorer.bind(PolicySide(tokenizer, separator, self.eos_ids, shared))

    def search(
        self,
        problems: Iterable[Problem],
        strategy: Strategy,
        sampling: Sampling | None = None,
        *,
        select: Selection | Selector | str = "weighted",
        stats: RunStats | None = None,
    ) -> Iterator[SearchResult]:
        """Search all problems; yield each result as it is ready. The results do not depend on who shares the forest.

        select: how the answer is chosen among the solutions, by name (see ``select_answer``) or by a function of the
        tree and the solutions, such as Knockout and League.
        When the pool is full the problem that came last makes room and starts again later; one that does not fit even
        alone yields a result with ``error``. ``stats``, if given, is filled in as the run goes on.
        Raises ValueError for an empty prompt or one longer than the model's context.
        """
        chosen = _selector(select, self.scorer.bounded)
        if strategy.reads_answers and self.tokenizer is None:
            raise ValueError(f"Decoder.search: {strategy.name} reads answers and needs a tokenizer, got none")
        run = Run(self, strategy, sampling or Sampling(), chosen, stats or RunStats())
        tokenized = [(problem, run.tokenize(problem)) for problem in problems]
        ids = [problem.id for problem, _ in tokenized]
        if len(set(ids)) != len(ids):
            raise ValueError(f"Decoder.search: problem ids must be unique, got {max(ids, key=ids.count)!r} twice")
        return run.results(tokenized)


def _selector(select: Selection | Selector | str, bounded: bool) -> Selection | Selector:
    """The named way of choosing an answer. Raises ValueError where scores that are no probabilities do not allow it."""
    known: dict[str, Selection | Selector] = {name: name for name in SELECTIONS}
    known |= {"knockout": Knockout(), "league": League()}
    chosen = known.get(select) if isinstance(select, str) else select
    if chosen is None or not (callable(chosen) or isinstance(chosen, str)):
        raise ValueError(f"Decoder.search: select must be one of {', '.join(known)}, or callable, got {select!r}")
    by_score = isinstance(getattr(chosen, "comparator", None), ScoreComparator)
    if not bounded and (chosen in ("weighted", "hierarchical", "guarded") or by_score):
        raise ValueError(
            "Decoder.search: select must be majority or best for a scorer whose scores are no probabilities, got "
            f"{select!r}; or load it with activation='sigmoid'"
        )
    return chosen


def _default_eos(model: PreTrainedModel) -> list[int]:
    ids = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
