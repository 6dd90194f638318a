"""The tokenizer of the arithmetic models: one token a number, a step tag, an operator or a newline.

Run as a script to write the tokenizer and print its tokens.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from task import MAX_STEPS, MODULUS, OPERATORS
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, GOOD, BAD = SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<good>", "<bad>")
SEPARATOR = "\n"
NUMBERS = [str(value) for value in range(MODULUS)]
TAGS = [f"{i})" for i in range(1, MAX_STEPS + 1)]
TOKENS = [*SPECIAL_TOKENS, *NUMBERS, *TAGS, *OPERATORS, "=", "?", " ", SEPARATOR]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `TOKENS` whose decode(encode(text)) gives the text back."""
    ids = {token: i for i, token in enumerate(TOKENS)}
    core = Tokenizer(models.WordLevel(ids))
    # The tag comes first, so that "1)" is not cut into the number 1 and a bracket.
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[1-8]\)|[0-9]+|[-+*=? \n]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    core.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


@dataclass(frozen=True)
class TokenIds:
    """The ids that the training and search code names."""

    pad: int
    bos: int
    eos: int
    good: int
    bad: int
    newline: int

    @classmethod
    def of(cls, tokenizer) -> "TokenIds":
        return cls(*tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, SEPARATOR]))

    @property
    def step_ends(self) -> tuple[int, int]:
        return self.newline, self.eos


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tokenizer and print its tokens.")
    parser.add_argument("--out", type=Path, default=Path("tts_kernels/assets/policy"))
    args = parser.parse_args()
    build_tokenizer().save_pretrained(args.out)
    print(TOKENS)


if __name__ == "__main__":
    main()
