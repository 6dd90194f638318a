"""The published recipes as plain as they come: the whole text, one forward in float64, scores where the recipe says.

Each takes (model, head, tokenizer, question, steps) and returns a score per step. model: the float64 causal LM or
backbone; head: the tensors on top of it, by name.
"""

from __future__ import annotations

import torch


def _hidden(model, ids):
    return model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


def _words(model, tokenizer, good, bad):
    """Probability of the good word at every place, from the full logits."""

    def score(ids):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return logits[:, [good, bad]].softmax(-1)[:, 0]

    return score


def _tagged(score, tokenizer, text, tag_id):
    """Scores where the tag is, as in ``scores[input_ids == tag_id]``."""
    ids = tokenizer.encode(text)
    return [float(s) for s, token in zip(score(ids), ids, strict=True) if token == tag_id]


def math_shepherd(model, head, tokenizer, question, steps):
    good, bad = tokenizer.encode("+ -")[-2:]
    tag = tokenizer.encode("x ки")[-1]
    text = f"{question} " + "\n".join(f"{step} ки" for step in steps)
    # With "+" at the start of a text a byte-level tokenizer has another token than behind a space.
    good = tokenizer.encode("x +")[-1]
    return _tagged(_words(model, tokenizer, good, bad), tokenizer, text, tag)


def math_psa(model, head, tokenizer, question, steps):
    good, bad = tokenizer.encode("x +")[-1], tokenizer.encode("x -")[-1]
    tag = tokenizer.encode("x \n\n\n\n\n")[-1]
    text = f"{question} " + "".join(f"{step} \n\n\n\n\n" for step in steps)
    return _tagged(_words(model, tokenizer, good, bad), tokenizer, text, tag)


def rlhflow(model, head, tokenizer, question, steps):
    """One forward per step, as the reference does it: the answer "+" stands third from the end, with the header before
    and the end of the turn behind it, so the judged place is one before."""
    good, bad = tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]
    score = _words(model, tokenizer, good, bad)
    conversation, scores = [], []
    for index, step in enumerate(steps):
        content = f"{question} {step}" if index == 0 else step
        conversation += [{"role": "user", "content": content}, {"role": "assistant", "content": "+"}]
        ids = tokenizer.apply_chat_template(conversation, return_dict=False)
        assert ids[-2] == good
        scores.append(float(score(ids)[-3]))
    return scores


def skywork(model, head, tokenizer, question, steps):
    ids = tokenizer.encode(f"{tokenizer.bos_token or ''}{question}\n")
    newline, places = tokenizer.encode("\n")[-1], []
    for step in steps:
        ids = ids + (tokenizer.encode(step) if step else []) + [newline]
        places.append(len(ids) - 1)
    values = _hidden(model, ids) @ head["v_head.summary.weight"][0] + head["v_head.summary.bias"]
    return values.sigmoid()[places].tolist()


def trl(model, head, tokenizer, question, steps):
    ids = tokenizer.encode(f"{tokenizer.bos_token or ''}{question}", add_special_tokens=False)
    places = []
    for step in steps:
        ids = ids + tokenizer.encode(step, add_special_tokens=False) if step else ids
        ids = ids + tokenizer.encode("\n", add_special_tokens=False)
        places.append(len(ids) - 1)
    logits = _hidden(model, ids) @ head["score.weight"].T + head["score.bias"]
    return logits.softmax(-1)[places, 1].tolist()


def qwen(model, head, tokenizer, question, steps):
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    conversation = [
        {"role": "system", "content": system},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
    ]
    ids = tokenizer.encode(tokenizer.apply_chat_template(conversation, tokenize=False))
    logits = torch.relu(_hidden(model, ids) @ head["score.0.weight"].T + head["score.0.bias"])
    logits = logits @ head["score.2.weight"].T + head["score.2.bias"]
    tag = tokenizer.convert_tokens_to_ids("<extra_0>")
    return [float(p) for p, token in zip(logits.softmax(-1)[:, 1], ids, strict=True) if token == tag]


def pqm(model, head, tokenizer, question, steps):
    text = f"{question}\n" + "\n".join(f"{step} [PRM]" for step in steps)
    ids = tokenizer.encode(text, add_special_tokens=False)
    values = _hidden(model, ids) @ head["v_head.summary.weight"][0] + head["v_head.summary.bias"]
    tag = tokenizer.convert_tokens_to_ids("[PRM]")
    return [float(v) for v, token in zip(values, ids, strict=True) if token == tag]


def llemma(model, head, tokenizer, question, steps):
    def score(ids):
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].mean(-1).sigmoid()

    text = f"{question} " + "\n".join(f"{step} ки" for step in steps)
    return _tagged(score, tokenizer, text, tokenizer.encode("x ки")[-1])


def orm(model, head, tokenizer, question, steps):
    """One score for the whole conversation, at its last token."""
    conversation = [{"role": "user", "content": question}, {"role": "assistant", "content": "\n\n".join(steps)}]
    ids = tokenizer.encode(tokenizer.apply_chat_template(conversation, tokenize=False), add_special_tokens=False)
    return [float((_hidden(model, ids) @ head["score.weight"].T)[-1, 0])]
