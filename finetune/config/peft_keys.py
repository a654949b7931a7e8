"""The keys of peft's configurations that we do not honour, with the values they have when nobody sets them."""

from collections.abc import Mapping

EVERY_KIND: Mapping[str, object] = {
    "auto_mapping": None,
    "peft_version": None,
    "base_model_name_or_path": None,
    "revision": None,
    "inference_mode": False,
}

_LORA: Mapping[str, object] = {
    "layer_replication": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "loftq_config": {},
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "velora_config": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "qalora_group_size": 16,
    "monteclora_config": None,
    "arrow_config": None,
    "kasa_config": None,
}

NOT_HONOURED: Mapping[str, Mapping[str, object]] = {
    "LORA": {**EVERY_KIND, **_LORA},
    "IA3": EVERY_KIND,
    "PREFIX_TUNING": EVERY_KIND,
    "P_TUNING": EVERY_KIND,
    "PROMPT_TUNING": EVERY_KIND,
}
"""By peft_type. LoRA's `runtime_config` is left out: it is an object, not something YAML can say."""

ADVICE: Mapping[str, str] = {
    "inference_mode": "training sets it",
    "base_model_name_or_path": "the base model is the second argument of finetune train",
    "loftq_config": "model_config.quantization: nf4 is the supported way",
    "eva_config": "it needs a pass over the data before training",
    "corda_config": "it needs a pass over the data before training",
    "lora_ga_config": "it needs a pass over the data before training",
    "velora_config": "its gradients depend on which conversations are computed together",
    "layer_replication": "a deeper model is another base, with which nothing can be compared or merged",
    "alora_invocation_tokens": "it looks for its tokens once per row, and a row holds many conversations",
    "use_qalora": "peft has it for GPTQ only",
    "monteclora_config": "its loss has a term that peft leaves to the training loop",
    "kasa_config": "it changes the base model's weights for good",
}
"""What to do instead, or why not."""
