"""The keys of transformers' fsdp_config that we do not honour, with their values where nobody sets them.

No dataclass of transformers has them: they are what its TrainingArguments reads from the map, and documents.
"""

from collections.abc import Mapping

from finetune.config.transformers_keys import NoEffect

NOT_HONOURED: Mapping[str, object] = {
    "activation_checkpointing": False,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "min_num_params": 0,
    "version": 2,
    "xla": False,
    "xla_fsdp_grad_ckpt": False,
    "xla_fsdp_settings": None,
    "xla_fsdp_v2": False,
}
"""At that value accepted in silence, at any other refused by name."""

ADVICE: Mapping[str, str] = {
    "activation_checkpointing": "use training_args.gradient_checkpointing",
    "auto_wrap_policy": "the model's layers are sharded one by one",
    "min_num_params": "the model's layers are sharded one by one",
    "version": "FSDP2 is what finetune runs",
    "xla": "finetune does not run on TPUs",
    "xla_fsdp_grad_ckpt": "finetune does not run on TPUs",
    "xla_fsdp_settings": "finetune does not run on TPUs",
    "xla_fsdp_v2": "finetune does not run on TPUs",
}
"""What to do instead."""

_PREFETCH = "FSDP2 gathers the next layer while one is computed"

NO_EFFECT: Mapping[str, NoEffect] = {
    "backward_prefetch": NoEffect("NO_PREFETCH", _PREFETCH),
    "cpu_ram_efficient_loading": NoEffect(False, "finetune decides how processes load the weights"),
    "forward_prefetch": NoEffect(False, _PREFETCH),
    "limit_all_gathers": NoEffect(True, "FSDP2 always limits them"),
    "state_dict_type": NoEffect("FULL_STATE_DICT", "checkpoints have one form, however a model was sharded"),
    "sync_module_states": NoEffect(True, "all processes start from the same weights"),
    "use_orig_params": NoEffect(True, "FSDP2 always keeps the parameters as they are"),
}
"""Accepted at any value with a notice; most of them are options of FSDP1."""
