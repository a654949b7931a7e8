"""Merging adds the adapter into the weights with one rounding, and touches nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.models.glm.configuration_glm import GlmConfig
from transformers.models.glm.modeling_glm import GlmForCausalLM

from finetune.data.encode import Prompt
from finetune.errors import ModelError
from finetune.export.proof import Answers, Logits, Proof, compare, logits_of
from finetune.export.weights import merge_weights, merged_dtypes
from tests.families import SHAPE

PROMPTS = [Prompt(list(range(3, 60))), Prompt(list(range(90, 20, -1)))]
ATTENTION = ["q_proj", "v_proj"]


def glm(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return GlmForCausalLM(GlmConfig(**SHAPE, attention_bias=True)).to(dtype).eval()


def tied_llama(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)).to(dtype).eval()


def adapted(base: PreTrainedModel, config: PeftConfig, size: float = 0.05) -> PeftModel:
    """`base` with an adapter whose weights all differ from their neutral start."""
    model = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data = parameter.data.float() + size * torch.randn(parameter.shape)
    return model


def merge_and_measure(
    base: PreTrainedModel, config: PeftConfig, target: torch.dtype, size: float = 0.05
) -> tuple[PreTrainedModel, Proof]:
    dtypes = merged_dtypes(base, target)
    before = logits_of(base, PROMPTS)
    model = adapted(base, config, size)
    tuned = logits_of(model, PROMPTS)
    merged = merge_weights(model, dtypes, target, Path("adapter"))
    return merged, compare(Answers(before, tuned, logits_of(merged, PROMPTS)), target)


KINDS = {
    "lora": lambda: LoraConfig(target_modules=ATTENTION),
    "lora on everything": lambda: LoraConfig(target_modules="all-linear", use_rslora=True),
    "dora": lambda: LoraConfig(target_modules=ATTENTION, use_dora=True),
    "lora with biases": lambda: LoraConfig(target_modules=ATTENTION, bias="all"),
    "lora with its own bias": lambda: LoraConfig(target_modules=ATTENTION, lora_bias=True),
    "lora and a whole head": lambda: LoraConfig(target_modules=ATTENTION, modules_to_save=["lm_head"]),
    "lora on the embeddings": lambda: LoraConfig(target_modules=["embed_tokens"]),
    "some tokens": lambda: LoraConfig(target_modules=ATTENTION, trainable_token_indices=[3, 5, 8]),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "adalora": lambda: AdaLoraConfig(target_modules=ATTENTION, total_step=10, tinit=1, tfinal=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_merged_says_what_base_and_adapter_say(kind: str) -> None:
    _, proof = merge_and_measure(glm(), KINDS[kind](), torch.float32)
    proof.require()
    assert proof.change > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_merged_stays_near(kind: str, dtype: torch.dtype) -> None:
    merged, proof = merge_and_measure(glm(dtype), KINDS[kind](), dtype, size=0.2)
    assert {p.dtype for p in merged.parameters()} == {dtype}
    assert proof.kl < 1e-3 and proof.error < proof.change


def test_a_bfloat16_base_merges_into_float32_without_rounding() -> None:
    merged, proof = merge_and_measure(glm(torch.bfloat16), KINDS["lora"](), torch.float32)
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    proof.require()


def test_the_sum_is_rounded_once() -> None:
    base = glm(torch.bfloat16)
    weight = base.model.layers[0].self_attn.q_proj.weight.detach().double()
    dtypes = merged_dtypes(base, torch.bfloat16)
    model = adapted(base, LoraConfig(target_modules=["q_proj"]))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    wanted = (weight + b @ a * layer.scaling["default"]).to(torch.bfloat16)
    merged = merge_weights(model, dtypes, torch.bfloat16, Path("adapter"))
    assert torch.equal(merged.model.layers[0].self_attn.q_proj.weight, wanted)


def test_weights_without_an_adapter_keep_their_bits() -> None:
    base = glm(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    merged, _ = merge_and_measure(base, LoraConfig(target_modules=["q_proj"]), torch.bfloat16)
    after = merged.state_dict()
    assert list(after) == list(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}


def test_a_weight_stored_in_float32_within_a_bfloat16_model_stays_so() -> None:
    base = glm(torch.bfloat16)
    base.model.norm.float()
    merged, _ = merge_and_measure(base, KINDS["lora"](), torch.bfloat16)
    assert merged.model.norm.weight.dtype == torch.float32


def test_tied_embeddings_stay_tied_when_the_adapter_is_elsewhere() -> None:
    merged, proof = merge_and_measure(tied_llama(), KINDS["lora"](), torch.float32)
    proof.require()
    assert merged.config.tie_word_embeddings
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # as it is meant here
def test_an_adapter_on_tied_input_embeddings_leaves_the_head_alone() -> None:
    base = tied_llama()
    head = base.lm_head.weight.detach().clone()
    merged, proof = merge_and_measure(base, KINDS["lora on the embeddings"](), torch.float32)
    proof.require()
    assert not merged.config.tie_word_embeddings
    assert torch.equal(merged.lm_head.weight, head)
    assert not torch.equal(merged.model.embed_tokens.weight, head)


def test_an_adapter_with_nan_is_refused() -> None:
    model = adapted(glm(), KINDS["lora"]())
    model.base_model.model.model.layers[1].self_attn.v_proj.lora_B["default"].weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="adapter: cannot be merged: NaN"):
        merge_weights(model, {}, torch.float32, Path("adapter"))


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")  # as it is meant here
def test_an_adapter_that_peft_cannot_merge_is_a_worded_error() -> None:
    config = LoraConfig(target_modules=["gate_up_proj"], lora_bias=True)
    model = adapted(glm(), config)  # GLM's gate_up_proj has no bias for the adapter's to go to
    with pytest.raises(ModelError, match=r"adapter: cannot be merged: .*no bias"):
        merge_weights(model, {}, torch.float32, Path("adapter"))


def spoilt(change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Logits, Logits, Logits]:
    torch.manual_seed(0)
    base, tuned = [torch.randn(64, 96)], [torch.randn(64, 96)]
    return base, tuned, [change(tuned[0])]


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (lambda logits: logits + 1e-3 * logits.flip(-1), torch.float32, "does not say what base"),
        (lambda logits: logits + 0.2 * logits.flip(-1), torch.bfloat16, "does not say what base"),
        (lambda logits: logits * torch.nan, torch.float32, "does not say what base"),
        (lambda logits: logits * torch.nan, torch.bfloat16, "does not say what base"),
    ],
)
def test_a_merge_that_went_wrong_fails_the_proof(
    change: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        compare(Answers(*spoilt(change)), dtype).require()


def test_an_adapter_without_effect_fails_the_proof() -> None:
    logits = [torch.randn(8, 96)]
    with pytest.raises(ModelError, match="changes nothing"):
        compare(Answers(logits, logits, logits), torch.float32).require()


def test_an_adapter_lost_in_rounding_fails_the_proof() -> None:
    base = [torch.randn(64, 96)]
    tuned = [base[0] + 1e-4 * torch.randn(64, 96)]
    with pytest.raises(ModelError, match=r"rounding to bfloat16 loses .* --dtype float32"):
        compare(Answers(base, tuned, base), torch.bfloat16).require()


def test_kl_divergence_is_that_of_the_textbook() -> None:
    one, other = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))
    proof = compare(Answers([other], [one], [other]), torch.bfloat16)
    assert proof.kl == pytest.approx(0.5108256, rel=1e-6)  # 0.5 ln(0.5/0.9) + 0.5 ln(0.5/0.1)
    assert proof.agreement == 1.0


def test_prompts_with_pictures_are_not_lost_in_the_mean_of_all() -> None:
    one, other = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))
    texts = [one] * 9
    answers = Answers([other] * 10, [*texts, one], [*texts, other], seeing=frozenset({9}))
    proof = compare(answers, torch.bfloat16)
    assert proof.kl == pytest.approx(0.5108256, rel=1e-6)
    assert (proof.prompts, proof.seeing) == (10, 1)


def test_prompts_of_different_lengths_do_not_disturb_each_other() -> None:
    model = glm()
    together = logits_of(model, PROMPTS)
    apart = [logits_of(model, [prompt])[0] for prompt in PROMPTS]
    assert [len(logits) for logits in together] == [57, 64]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(together, apart, strict=True))


def test_logits_of_a_bfloat16_model_are_those_of_its_float32_copy() -> None:
    model = glm(torch.bfloat16)
    ours = logits_of(model, PROMPTS)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    wide = logits_of(model.float(), PROMPTS)
    assert all(torch.equal(a, b) for a, b in zip(ours, wide, strict=True))
