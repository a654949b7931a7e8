"""Keys of GLM-4's finetune_demo and of older transformers: mapped to today's, or told to have no effect.

Every key that is not taken as it stands gives one line, never two, never none.
"""

from collections.abc import Mapping

from finetune.config import fsdp
from finetune.config.arguments import at_default
from finetune.config.draft import Draft, KeyPath, dotted
from finetune.config.fsdp_keys import NO_EFFECT as FSDP_NO_EFFECT
from finetune.config.mistakes import unexpected
from finetune.config.names import spelt
from finetune.config.section import is_same
from finetune.config.transformers_keys import NO_EFFECT

RENAMED: Mapping[KeyPath, KeyPath] = {
    ("training_args", "evaluation_strategy"): ("training_args", "eval_strategy"),
    ("training_args", "no_cuda"): ("training_args", "use_cpu"),
    ("training_args", "per_gpu_train_batch_size"): ("training_args", "per_device_train_batch_size"),
    ("training_args", "per_gpu_eval_batch_size"): ("training_args", "per_device_eval_batch_size"),
    ("training_args", "activation_checkpointing"): ("training_args", "gradient_checkpointing"),
    ("training_args", "activation_checkpointing_kwargs"): ("training_args", "gradient_checkpointing_kwargs"),
    ("training_args", "xpu_backend"): ("training_args", "ddp_backend"),
    ("training_args", "fsdp_transformer_layer_cls_to_wrap"): (
        "training_args",
        "fsdp_config",
        "transformer_layer_cls_to_wrap",
    ),
    ("training_args", "fsdp_config", "offload_params"): ("training_args", "fsdp_config", "cpu_offload"),
    ("training_args", "generation_num_beams"): ("training_args", "generation_config", "num_beams"),
    ("model_config", "torch_dtype"): ("model_config", "dtype"),
}


def translate(draft: Draft) -> None:
    """Bring a draft to today's keys; what was changed stands in its notices, what cannot be in its mistakes."""
    _drop_fsdp_prefixes(draft)
    for old, new in RENAMED.items():
        if draft.has(old):
            _rename(draft, old, new)
    _map_warmup_ratio(draft)
    _map_adafactor(draft)
    _map_combine(draft)
    _map_freeze_vision(draft)
    _drop_swanlab(draft)
    _drop_without_effect(draft)
    _drop_fsdp_without_effect(draft)


def _rename(draft: Draft, old: KeyPath, new: KeyPath) -> None:
    value = draft.get(old)
    if value is None and not draft.has(new):
        draft.drop(old)
    elif _move(draft, old, new, value):
        draft.notices.append(f"{dotted(old)} is called {_short(old, new)} here, and read as that")


def _move(draft: Draft, old: KeyPath, new: KeyPath, value: object) -> bool:
    """Put `value` at `new` in place of `old`. An override wins over the file; two in one file are a mistake."""
    place, other = draft.value_place(old), draft.key_place(new)
    draft.drop(old)
    if draft.has(new):
        if (place.line == 0) == (other.line == 0):
            draft.refuse(old, f"means {_short(old, new)}, which is given too; remove one of them")
            return False
        if other.line == 0:
            return False
    parent = draft.get(new[:-1])
    if parent is not None and not isinstance(parent, dict):
        return False
    draft.put(new, value, place)
    return True


def _short(old: KeyPath, new: KeyPath) -> str:
    """The new name, without the part both share."""
    same = 0
    while same < len(old) - 1 and old[same] == new[same]:
        same += 1
    return dotted(new[same:])


def _map_warmup_ratio(draft: Draft) -> None:
    old, new = ("training_args", "warmup_ratio"), ("training_args", "warmup_steps")
    ratio = draft.get(old)
    if not ratio:
        _drop_if_there(draft, old)
        return
    if draft.get(new) == 0:
        draft.drop(new)  # transformers: the ratio counts where warmup_steps is 0
    if isinstance(ratio, int | float) and not 0 < ratio < 1:
        what = f"expected a share below 1, found {spelt(ratio)}; a count of steps is warmup_steps"
        draft.refuse(old, what, value=True)
        draft.drop(old)
    elif _move(draft, old, new, ratio):
        draft.notices.append(
            f"training_args.warmup_ratio: {ratio} means warmup_steps: {ratio}, a share of all steps"
        )


def _map_adafactor(draft: Draft) -> None:
    old = ("training_args", "adafactor")
    value = draft.get(old)
    if value is False:
        draft.drop(old)
    elif value is True and _move(draft, old, ("training_args", "optim"), "adafactor"):
        draft.notices.append("training_args.adafactor: true means optim: adafactor")


def _map_combine(draft: Draft) -> None:
    combine = _flag(draft, ("combine",))
    if combine is None:
        return
    train_on = "last" if combine else "all"
    if _move(draft, ("combine",), ("data_config", "train_on"), train_on):
        turns = "the last answer of a conversation is trained" if combine else "every answer is trained"
        draft.notices.append(f"combine: {spelt(combine)} means data_config.train_on: {train_on}: {turns}")


def _map_freeze_vision(draft: Draft) -> None:
    freeze = _flag(draft, ("freezeV",))
    if freeze is False and _move(draft, ("freezeV",), ("model_config", "freeze"), []):
        draft.notices.append("freezeV: false means model_config.freeze: []: a vision tower learns, too")
    elif freeze and _move(draft, ("freezeV",), ("model_config", "freeze"), ["vision"]):
        draft.notices.append("freezeV: true means model_config.freeze: [vision]: a vision tower is not trained")


def _flag(draft: Draft, path: KeyPath) -> bool | None:
    """The true or false at `path`; None where there is nothing, or something else, which is refused."""
    value = draft.get(path)
    if isinstance(value, bool):
        return value
    if draft.has(path):
        draft.refuse(path, unexpected(value, "true or false"), value=True)
        draft.drop(path)
    return None


def _drop_if_there(draft: Draft, path: KeyPath) -> None:
    if draft.has(path):
        draft.drop(path)


def _drop_swanlab(draft: Draft) -> None:
    if draft.has(("swanlab",)):
        draft.drop(("swanlab",))
        draft.notices.append("swanlab has no effect: to log there, set training_args.report_to: swanlab")


def _drop_without_effect(draft: Draft) -> None:
    args = _map_at(draft, ("training_args",))
    for key in [key for key in args if key in NO_EFFECT]:
        path = ("training_args", key)
        if key == "save_safetensors" and is_same(args[key], False):
            draft.refuse(path, "weights are always saved as safetensors; remove it", value=True)
        elif not at_default(key, args[key]):
            draft.notices.append(f"training_args.{key}: {spelt(args[key])} has no effect: {NO_EFFECT[key].why}")
        draft.drop(path)


_FSDP: KeyPath = ("training_args", "fsdp_config")


def _drop_fsdp_prefixes(draft: Draft) -> None:
    """accelerate writes fsdp_ before each key of fsdp_config. What has no effect is told as that, not here."""
    for key in [key for key in _map_at(draft, _FSDP) if key.startswith("fsdp_")]:
        old, short = (*_FSDP, key), (*_FSDP, key.removeprefix("fsdp_"))
        new = RENAMED.get(short, short)
        if new[-1] in fsdp.FsdpConfig.model_fields:
            _rename(draft, old, new)
        else:
            _move(draft, old, new, draft.get(old))


def _drop_fsdp_without_effect(draft: Draft) -> None:
    options = _map_at(draft, _FSDP)
    for key in [key for key in options if key in FSDP_NO_EFFECT]:
        path = (*_FSDP, key)
        if not fsdp.at_default(key, options[key]):
            draft.notices.append(
                f"{dotted(path)}: {spelt(options[key])} has no effect: {FSDP_NO_EFFECT[key].why}"
            )
        draft.drop(path)


def _map_at(draft: Draft, path: KeyPath) -> dict[str, object]:
    """The map at `path`; an empty one where there is none."""
    found = draft.get(path)
    return found if isinstance(found, dict) else {}
