"""Verifiable rewards as a scorer: a rule compares a finished solution with the problem's answer."""

from __future__ import annotations

import json
from typing import Any

from tts_kernels.scorers.base import HostScorer
from tts_kernels.scorers.steps import PolicySide
from tts_kernels.scorers.verifiers import VERIFIERS
from tts_kernels.tree import Node, SearchTree, State


class VerifiableScorer(HostScorer):
    """The reward of RLVR (Lambert et al. 2411.15124): one of VERIFIERS over a solution's text and the problem's answer.

    An oracle, because it sees the answer: what a search finds with it is the most that any reward model could give.
    Only State.FINISHED is verified; a solution that is open or was cut short scores 0.0. For "ifeval" the answer is
    JSON text.
    """

    def __init__(self, verifier: str) -> None:
        if verifier not in VERIFIERS:
            raise ValueError(f"VerifiableScorer: verifier must be one of {', '.join(VERIFIERS)}, got {verifier!r}")
        self.name = verifier
        self.verify = VERIFIERS[verifier]

    def bind(self, policy: PolicySide) -> None:
        if policy.tokenizer is None:
            raise ValueError("VerifiableScorer: the decoder must have the policy's tokenizer, got none")
        super().bind(policy)

    def add(self, trees: list[SearchTree]) -> None:
        """Raises ValueError for a problem without an answer, or with one that the verifier cannot use."""
        for tree in trees:
            label = self._label(tree)
            try:
                self.verify("", label)
            except (TypeError, ValueError) as error:
                raise ValueError(f"VerifiableScorer: problem {tree.problem_id!r}: {error}") from error

    def judge(self, tree: SearchTree, node: Node) -> float:
        if node.state is not State.FINISHED:
            return 0.0
        text = self.policy.tokenizer.decode(tree.solution(node), skip_special_tokens=True)
        return self.verify(text, self._label(tree))

    def _label(self, tree: SearchTree) -> Any:
        answer = tree.problem.answer
        if answer is None:
            raise ValueError(f"VerifiableScorer: problem {tree.problem_id!r} must have an answer, got none")
        if self.name != "ifeval":
            return answer
        try:
            return json.loads(answer)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"VerifiableScorer: problem {tree.problem_id!r}: answer must be JSON for 'ifeval', got {answer!r}"
            ) from error
