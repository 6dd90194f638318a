"""What is no reward model, or not the one that was named, is refused with what was looked for."""

import json
import shutil

import pytest
import small_tokenizers
import torch
from models import tiny_model
from safetensors.torch import load_file, save_file
from small_models import save

from tts_kernels import _ext, load_scorer
from tts_kernels.scorers import PolicySide, Prm
from tts_kernels.tree import Problem, SearchTree

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Copies of saved models that a test may spoil: name -> path."""
    root = tmp_path_factory.mktemp("models")
    made = {}

    def get(name):
        if name not in made:
            made[name] = save(name, root / name)
        return shutil.copytree(made[name].path, root / f"{name}-{len(list(root.iterdir()))}")

    return get


def edit_config(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def side(tokenizer=None, separator="\n\n"):
    return PolicySide(tokenizer or small_tokenizers.llama3(), separator, frozenset())


def test_unknown_specs():
    for spec in ("prm", "qwen", "shepherd:/x", "qwen:"):
        with pytest.raises(
            ValueError, match=r"must be one of logprob, gsm8k, math, ifeval or FAMILY:PATH_OR_ID of prm, g"
        ):
            load_scorer(spec)
    with pytest.raises(ValueError, match="aggregate must be left out for logprob, got 'min'"):
        load_scorer("logprob", aggregate="min")
    with pytest.raises(ValueError, match="qwen: no model can be read from '/nowhere'"):
        load_scorer("qwen:/nowhere")


def test_the_config_tells_the_family(folder):
    for name in ("qwen", "trl", "orm", "skywork"):
        scorer = load_scorer(f"prm:{folder(name)}")
        assert (
            isinstance(scorer, Prm) and scorer.head.activation == load_scorer(f"{name}:{folder(name)}").head.activation
        )
    with pytest.raises(
        ValueError, match=r"must be named by its family, one of math-shepherd, .*'LlamaForCausalLM' does"
    ):
        load_scorer(f"prm:{folder('er-prm')}")


def test_scorer_json_may_name_the_family(folder):
    path = folder("er-prm")
    (path / "scorer.json").write_text(json.dumps({"kind": "er-prm", "aggregate": "min"}))
    assert load_scorer(f"prm:{path}").aggregate == "min"
    (path / "scorer.json").write_text(json.dumps({"kind": "shepherd"}))
    with pytest.raises(ValueError, match=r"kind in scorer.json must be one of step_softmax, math-shepherd"):
        load_scorer(f"prm:{path}")
    (path / "scorer.json").write_text(json.dumps({"kind": "step_softmax", "good_token": " +"}))
    with pytest.raises(ValueError, match=r"must name good_token, bad_token, separator; bad_token is missing"):
        load_scorer(f"prm:{path}")


def test_a_model_of_another_family(folder):
    with pytest.raises(ValueError, match=r"qwen: .* saved from Qwen2ForProcessRewardModel, got LlamaForCausalLM"):
        load_scorer(f"qwen:{folder('er-prm')}")
    with pytest.raises(ValueError, match=r"math-shepherd: .* saved from ForCausalLM, got Qwen2ForProcessReward"):
        load_scorer(f"math-shepherd:{folder('qwen')}")


def test_a_head_that_is_not_there(folder):
    path = folder("skywork")
    tensors = load_file(path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "v_head.summary.bias"}, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"hold v_head.summary.bias, besides the backbone it holds \['v_head.summ"):
        load_scorer(f"skywork:{path}")
    path = folder("orm")
    tensors = load_file(path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "score.weight"}, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights, score.weight is missing"):
        load_scorer(f"orm:{path}")


def test_a_head_of_another_shape(folder):
    path = folder("qwen")
    tensors = load_file(path / "model.safetensors")
    save_file(tensors | {"score.2.weight": torch.zeros(3, 48)}, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"qwen: score.2.weight must be \[2, 48\], got \[3, 48\]"):
        load_scorer(f"qwen:{path}")


def test_backbone_weights_that_are_not_there(folder):
    path = folder("pqm")
    tensors = load_file(path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "layers.1.mlp.up" not in k}, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"pqm: .* AutoModel's weights, layers.1.mlp.up_proj.weight is missing"):
        load_scorer(f"pqm:{path}")


def test_weights_behind_a_wrapper_and_in_bin_files(folder):
    """As TRL's wrapper leaves them, and as torch saves them."""
    path, plain = folder("skywork"), folder("skywork")
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    wrapped = {k if k.startswith("v_head") else f"pretrained_model.{k}": v for k, v in tensors.items()}
    torch.save(wrapped, path / "pytorch_model.bin")
    one, other = load_scorer(f"skywork:{path}"), load_scorer(f"skywork:{plain}")
    assert torch.equal(one.head.weight, other.head.weight)
    pairs = zip(one.backbone.parameters(), other.backbone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_tags_that_are_no_tokens(folder):
    """llama3's small tokenizer has no [PRM] token: it would split it."""
    path = folder("pqm")
    small_tokenizers.llama3().save_pretrained(path)
    edit_config(path, model_type="llama", architectures=["LlamaForCausalLM"])
    scorer = load_scorer(f"pqm:{path}")
    with pytest.raises(ValueError, match=r"pqm: the tag '\[PRM\]' must be one token of the reward model's token"):
        scorer.bind(side())


def test_words_that_are_no_tokens(folder):
    path = folder("er-prm")
    tokenizer = small_tokenizers.byte_level([], size=257)
    tokenizer.save_pretrained(path)
    with pytest.raises(ValueError, match=r"er-prm: ' \+' must be one token of the reward model's tokenizer"):
        load_scorer(f"er-prm:{path}")


def test_a_chat_model_without_a_template(folder):
    path = folder("rlhflow")
    tokenizer = small_tokenizers.llama3()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(path)
    (path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="tokenizer must have a chat template, found none"):
        load_scorer(f"rlhflow:{path}").bind(side())


def test_a_step_that_merges_with_the_tag(folder):
    """A tokenizer that makes one token of a step's last newline and the tag leaves no tag: no score rather than a wrong
    one."""
    path = folder("math-psa")
    merging = ["a \n\n\n\n\n", "b\n \n\n\n\n\nc", *small_tokenizers.CORPUS] * 50
    small_tokenizers.byte_level([], corpus=merging).save_pretrained(path)
    scorer = load_scorer(f"math-psa:{path}", num_pages=64, tokens="text")
    policy = small_tokenizers.mistral()
    scorer.bind(PolicySide(policy, "#", frozenset()))
    tree = SearchTree(Problem("p", "Q"), policy.encode("Q"), 0)
    with scorer.attached():
        scorer.add([tree])
        (child,) = tree.add_children(tree.root, 1)
        child.tokens = policy.encode("So x = 3\n", add_special_tokens=False)
        child.step_ends = [len(child.tokens)]
        with pytest.raises(ValueError, match=r"math-psa: the tag .* must stay token \d+ behind every step"):
            scorer.score([(tree, child)])
    scorer.check()


def test_models_whose_logits_are_not_their_heads():
    for family in ("granite",):
        with pytest.raises(
            TypeError, match="logits of GraniteForCausalLM are not its head times its last hidden state"
        ):
            Prm.inline(tiny_model(family), good_id=1, bad_id=2, tag_id=3)
    with pytest.raises(ValueError, match=r"good_id must be in \[0, 53\), got 53"):
        Prm.inline(tiny_model(), good_id=53, bad_id=2, tag_id=3)


def test_options_that_do_not_fit(folder):
    path = folder("qwen")
    with pytest.raises(ValueError, match="tokens must be auto, ids or text, got 'both'"):
        load_scorer(f"qwen:{path}", tokens="both")
    with pytest.raises(ValueError, match="activation must be left out, or 'raw' or 'sigmoid' for a head with one"):
        load_scorer(f"qwen:{path}", activation="sigmoid")
    with pytest.raises(ValueError, match="aggregate must be one of last, min, prod, mean, model, got 'sum'"):
        load_scorer(f"qwen:{path}", aggregate="sum")
    scorer = load_scorer(f"qwen:{path}", num_pages=8)
    with pytest.raises(ValueError, match="qwen: tokens must be 'ids' where the decoder has no tokenizer, got 'auto'"):
        scorer.bind(PolicySide())
    assert load_scorer(f"pqm:{folder('pqm')}", activation="sigmoid").bounded
    assert not load_scorer(f"pqm:{folder('pqm')}").bounded


def test_one_decoder_at_a_time(folder):
    scorer = load_scorer(f"qwen:{folder('qwen')}", num_pages=64)
    scorer.bind(side())
    with scorer.attached():
        scorer.add([SearchTree(Problem("p", "Q"), [1], 0)])
    with pytest.raises(RuntimeError, match="a scorer serves one decoder at a time"):
        scorer.bind(side())
