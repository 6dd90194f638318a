"""Random trees of random steps, and their scoring round by round, as a search would do it."""

import random

import torch

from tts_kernels.scorers import PolicySide
from tts_kernels.tree import Problem, SearchTree, State

QUESTION = "Question: What is 17 * 4 + 9?"
# Ends that merge with separators and tags, leading and trailing spaces, nothing at all, other scripts.
STEPS = [
    "Add 3 and 4 to get 7.", "So x = 3", " a leading space", "a trailing one ", "",
    "multiply by 5.\nThe sum is 8", "12 - 5 = 7!", "Straße 12 € 你好", "(good)", "\\boxed{7}", "+ -",
    "Therefore, y = 1:",
]  # fmt: skip
SEPARATOR = "\n\n"


class Growth:
    """A random tree of random steps, made of a policy's tokens without a policy."""

    def __init__(self, tokenizer, seed, problem="p", steps=STEPS):
        self.rng = random.Random(seed)
        self.tokenizer = tokenizer
        self.choices = steps
        prompt = tokenizer.encode(f"USER: {QUESTION}")
        self.tree = SearchTree(Problem(problem, prompt, question=QUESTION), prompt, seed)
        # What each node adds to its path's steps.
        self.texts = {0: []}

    def grow(self, parent, width):
        """``width`` children of one to three steps, some of them alike, some cut short, some the end of the solution,
        which may be a step without any text: it has no score."""
        children = self.tree.add_children(parent, width)
        for child in children:
            texts = [self.rng.choice(self.choices) for _ in range(self.rng.choice([1, 1, 1, 3]))]
            if child is not children[0] and self.rng.random() < 0.2:
                texts = self.texts[children[0].id]
            child.cut = self.rng.random() < 0.2
            for index, text in enumerate(texts):
                ended = index < len(texts) - 1 or not child.cut
                child.tokens += self.encode(text + SEPARATOR * ended)
                child.step_ends.append(len(child.tokens))
            if not child.tokens:
                child.tokens, child.cut = self.encode(SEPARATOR), False
                child.step_ends = [len(child.tokens)]
            if self.rng.random() < 0.2:
                child.tokens.append(self.tokenizer.eos_token_id)
                child.state = State.FINISHED
                if child.cut:
                    child.cut, child.step_ends[-1] = False, len(child.tokens)
                else:
                    child.step_ends.append(len(child.tokens))
            self.texts[child.id] = texts
        return children

    def encode(self, text):
        """Tokens of a text in the middle of a line: some tokenizers put a space before what they take for a start."""
        start = self.tokenizer.encode("\n", add_special_tokens=False)
        both = self.tokenizer.encode("\n" + text, add_special_tokens=False)
        alone = self.tokenizer.encode(text, add_special_tokens=False)
        return both[len(start) :] if both[: len(start)] == start else alone

    def steps(self, node):
        return [text for part in self.tree.lineage(node) for text in self.texts[part.id]]


def score_rounds(scorer, growths, rounds=3, check=None):
    """Grow and score all trees round by round, as a search would; some nodes are pruned."""
    scorer.add([growth.tree for growth in growths])
    frontier = [(growth, growth.tree.root) for growth in growths]
    for _ in range(rounds):
        new = [(g, child) for g, parent in frontier for child in g.grow(parent, g.rng.randint(1, 3))]
        # Problems and siblings need not come in order.
        growths[0].rng.shuffle(new)
        scores = scorer.score([(g.tree, child) for g, child in new])
        scores.write()
        assert scores.paths.tolist() == [child.score for _, child in new]
        for growth, parent in frontier:
            scorer.release(growth.tree, [parent])
        for growth, child in new:
            growth.tree.check()
            check(growth, child)
        frontier = []
        for growth, child in new:
            if child.state is State.FINISHED or growth.rng.random() < 0.3:
                scorer.release(growth.tree, [child])
            else:
                frontier.append((growth, child))
        scorer.check()
        if not frontier:
            break
    for growth in growths:
        scorer.drop(growth.tree)
    assert scorer.model.forest.used_pages == 0


def bind(scorer, tokenizer):
    scorer.bind(PolicySide(tokenizer, SEPARATOR, frozenset([tokenizer.eos_token_id])))
    # What was never written must not matter.
    scorer.model.pool.pages.fill_(torch.nan)
    return scorer
