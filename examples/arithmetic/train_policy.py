"""Train the policy: a small Llama that learns the noisy corpus, misconceptions and all."""

import argparse
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from models import SEARCH_TEMPERATURE, Trainer, build_llama, pad_right, parameter_count, save
from task import MAX_STEPS, MIN_STEPS, Fact, Noise, held_out, misconceptions, noisy_solution, training_problems
from torch import Tensor
from transformers import GenerationConfig
from vocabulary import TokenIds, build_tokenizer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("tts_kernels/assets/policy"))
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--misconception", type=float, default=Noise.misconception, help="how often they are stated")
    parser.add_argument("--slip", type=float, default=Noise.slip, help="wrong results among all other facts")
    parser.add_argument("--kept", type=float, default=Noise.kept, help="share of the misconceptions the corpus holds")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bf16; the weights stay in float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def corpus_batches(tokenizer, ids: TokenIds, noise: Noise, batch: int, seed: int) -> Iterator[tuple[Tensor, int]]:
    """Endless ([batch, T] token ids, prompt length). The problems of one batch have equally many steps: no padding."""
    rng = random.Random(f"corpus {seed}")
    streams = {steps: training_problems(seed, steps) for steps in range(MIN_STEPS, MAX_STEPS + 1)}
    while True:
        problems = list(islice(streams[rng.randint(MIN_STEPS, MAX_STEPS)], batch))
        prompt_length = len(tokenizer(problems[0].text)["input_ids"])
        texts = [problem.text + noisy_solution(problem, noise, rng) for problem in problems]
        rows = [[*tokens, ids.eos] for tokens in tokenizer(texts)["input_ids"]]
        yield torch.tensor(rows), prompt_length


def solution_loss(model, tokens: Tensor, prompt_length: int) -> Tensor:
    """Cross-entropy of the solution tokens; the random problem is given, not learned."""
    logits = model(tokens, use_cache=False).logits[:, prompt_length - 1 : -1]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, prompt_length:].flatten())


@torch.inference_mode()
def fact_report(model, tokenizer, ids: TokenIds, wrong: dict[Fact, int]) -> str:
    """How often the policy's first choice of a result is wrong, on the facts in `wrong` and on all others."""
    texts, facts, golds = [], [], []
    for problem in held_out("validation"):
        value = problem.start
        text = problem.text + problem.solution()
        texts.append(text)
        for line in problem.solution().splitlines():
            operand = line.split("=")[0].split(")")[1][len(str(value)) :]
            facts.append((value, operand[0], int(operand[1:])) in wrong)
            value = int(line.split("=")[1])
            golds.append(value)
    rows = tokenizer(texts)["input_ids"]
    equals = tokenizer.convert_tokens_to_ids("=")
    tokens = pad_right(rows, ids.pad)
    guesses = model(tokens, use_cache=False).logits[tokens == equals].argmax(-1)
    missed = guesses != torch.tensor(tokenizer.convert_tokens_to_ids([str(gold) for gold in golds]))
    hard = torch.tensor(facts)
    wrong_hard, wrong_easy = missed[hard].float().mean(), missed[~hard].float().mean()
    return f"wrong first choices: misconceptions {wrong_hard:.3f}, others {wrong_easy:.3f}"


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    ids = TokenIds.of(tokenizer)
    model = build_llama(ids, args.hidden, args.layers, args.heads, args.kv_heads)
    if args.bf16:
        # The fused attention's backward pass takes twice as long in bf16 on a CPU.
        model.set_attn_implementation("eager")
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=SEARCH_TEMPERATURE,
        top_k=0,
        max_new_tokens=64,
        bos_token_id=ids.bos,
        eos_token_id=ids.eos,
        pad_token_id=ids.pad,
    )
    print(f"{parameter_count(model):,} parameters", flush=True)
    trainer = Trainer(model, args.steps, args.lr)
    noise = Noise(args.misconception, args.slip, args.kept)
    batches = corpus_batches(tokenizer, ids, noise, args.batch, args.seed)
    start = time.perf_counter()
    for step, (tokens, prompt_length) in enumerate(islice(batches, args.steps), 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = solution_loss(model, tokens, prompt_length)
        value = trainer.step(loss)
        if step % 100 == 0 or step == args.steps:
            report = fact_report(model, tokenizer, ids, misconceptions(args.kept))
            print(f"step {step} loss {value:.4f} {report} {time.perf_counter() - start:.0f} s", flush=True)
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
