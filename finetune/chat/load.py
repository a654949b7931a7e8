"""A checkpoint folder (or Hub id) to a ChatTemplate: the tokenizer's only door, and it does not load torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from finetune import log
from finetune.chat.own_templates import CHOICE, lacking, suggest, what_lacking_means
from finetune.chat.saving import CONFIG_FILE, TEMPLATE_FILE, TEXT_TOKENS
from finetune.chat.sight import PROCESSOR_FILES, Sight, read_sight, refuse_glm_4v_9b
from finetune.chat.template import ChatTemplate
from finetune.chat.thoughts import Thinking
from finetune.disk import is_utf8
from finetune.errors import ModelError, NoTemplateError, TemplateError, UntrustedContentError
from finetune.folder import is_hub_id
from finetune.plain_json import check_json_files, read_json

_VOCABULARIES = ("tokenizer.model", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")


def load_template(
    folder: str | Path,
    *,
    chat_template: Path | None = None,
    trust_remote_code: bool = False,
    options: Mapping[str, Any] | None = None,
    thinking: Thinking = "train",
    model: str | Path | None = None,
    max_image_tokens: int | None = None,
    special_tokens_in_text: Sequence[str] = (),
) -> ChatTemplate:
    """The tokenizer and chat template of a checkpoint. `chat_template`: a Jinja file to use instead of its own.

    `options`, `thinking`: as for ChatTemplate. `model`: the checkpoint that sees, where that is another folder
    (an adapter's has no config.json). `max_image_tokens`: larger images are scaled down.
    `special_tokens_in_text`: control tokens that texts may write; none: those of the checkpoint.

    Raises ModelError (no such folder, no or a damaged tokenizer), TemplateError (no or a broken template),
    UntrustedContentError (the tokenizer is Python code in the folder).
    """
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    local = Path(folder) if Path(folder).is_dir() else None
    source, name = _template_source(tokenizer, str(folder), local, chat_template)
    sight = _sight_of(model or folder, local)
    if sight is not None and max_image_tokens is not None:
        sight = sight.at_most(max_image_tokens)
    kept = _read_object(local / CONFIG_FILE).get(TEXT_TOKENS) if local else None
    template = ChatTemplate(
        tokenizer,
        source,
        name=name,
        folder=local,
        options=options,
        thinking=thinking,
        sight=sight,
        text_tokens=special_tokens_in_text or kept or (),
    )
    if chat_template is not None and (marks := lacking(tokenizer, source)):
        stop = tokenizer.convert_ids_to_tokens(template.stop_ids[0])
        log.warning(f"{name}: {what_lacking_means(tokenizer, marks, str(stop))}")
    return template


def _sight_of(model: str | Path, beside: Path | None) -> Sight | None:
    """`beside`: where an adapter's own files lie."""
    if Path(model).is_dir():
        return read_sight(Path(model), beside)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    folder = None
    for name in ("config.json", *PROCESSOR_FILES):
        try:
            folder = Path(hf_hub_download(str(model), name)).parent
        except (EntryNotFoundError, HfHubHTTPError, OSError):
            continue  # it has no such file, or nothing of it is at hand, which loading the model will tell
    return None if folder is None else read_sight(folder, beside)


def load_tokenizer(folder: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a checkpoint folder or Hub id."""
    path = Path(folder)
    if not is_utf8(path):
        raise ModelError(f"{str(path)!r}: not UTF-8; the tokenizers library opens no such path: rename it")
    if not path.is_dir():
        return _load_from_hub(str(folder), trust_remote_code)
    check_json_files(path)
    if (path / "tokenizer.json").is_file():
        return _load_fast(path)
    refuse_glm_4v_9b(path, _read_object(path / "config.json"))
    config = _read_object(path / CONFIG_FILE)
    if "auto_map" in config and not trust_remote_code:
        raise UntrustedContentError(
            f"{path}: its tokenizer {config.get('tokenizer_class', '')} is Python code in the checkpoint; "
            "set model_config.trust_remote_code if you trust it, or use a converted checkpoint "
            "with a tokenizer.json"
        )
    if not config and not any((path / name).is_file() for name in _VOCABULARIES):
        raise ModelError(_no_tokenizer(path))
    return _load_auto(str(path), trust_remote_code)


def _load_fast(path: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            str(path), local_files_only=True
        )
    except Exception as error:  # tokenizers raises bare Exception for whatever its JSON lacks
        raise ModelError(
            f"{path / 'tokenizer.json'}: damaged: {error}; copy it again from the base model"
        ) from error
    return tokenizer


def _load_from_hub(name: str, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    if not is_hub_id(name):
        raise ModelError(f"{name}: no such folder; give a model folder or a Hub id (owner/name)")
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(name)
    except (OSError, ValueError, TypeError):
        return _load_auto(name, trust_remote_code)
    return tokenizer


def _load_auto(name: str, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    """For vocabularies that transformers must convert first; this is the slow way, and loads torch."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UntrustedContentError(
                f"{name}: its tokenizer is Python code; set model_config.trust_remote_code"
            ) from error
        raise ModelError(f"{name}: no tokenizer could be loaded: {str(error).splitlines()[0]}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"{name}: {type(tokenizer).__name__} is not a fast tokenizer; "
            "use a converted checkpoint with a tokenizer.json"
        )
    return tokenizer


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON file; {} where there is none."""
    if not file.is_file():
        return {}
    try:
        config = read_json(file)
    except ValueError as error:
        raise ModelError(f"{file}: damaged: {error}; copy it again from the base model") from None
    if not isinstance(config, dict):
        raise ModelError(f"{file}: damaged: not a JSON object; copy it again from the base model")
    return config


def _no_tokenizer(path: Path) -> str:
    if (path / "adapter_config.json").is_file():
        return (
            f"{path}: an adapter without a tokenizer; give its base model's folder, or copy its tokenizer here"
        )
    if (path / "run.json").is_file():
        return f"{path}: a run folder; its tokenizer lies in its checkpoint-* folders"
    return f"{path}: no tokenizer.json, tokenizer_config.json or vocabulary file; is this a model folder?"


def _template_source(
    tokenizer: PreTrainedTokenizerFast, model: str, local: Path | None, override: Path | None
) -> tuple[str, str]:
    """The Jinja text and the file it came from."""
    if override:
        return _read(override), str(override)
    own = tokenizer.chat_template or _processor_template(local)
    if isinstance(own, dict):
        own = _joined(own)
    if not own:
        raise NoTemplateError(
            f"{model}: the checkpoint has no chat template (a base model?); "
            f"set model_config.chat_template: {suggest(tokenizer, tools=False)[0]} ({CHOICE})"
        )
    beside = local / TEMPLATE_FILE if local else None
    return str(own), str(beside if beside and beside.is_file() else f"{model}/{CONFIG_FILE}")


def _joined(named: Mapping[str, str]) -> str | None:
    """One template that does what transformers does with named ones: `tool_use` where there are tools.

    The line breaks and the empty outputs keep Jinja's white space control from reaching across the borders.
    """
    default, tool_use = named.get("default"), named.get("tool_use")
    if not (default and tool_use):
        return default or tool_use
    parts = [source.removesuffix("\n") + "{{ '' }}" for source in (tool_use, default)]
    return "{% if tools %}\n" + "{% else %}\n".join(parts) + "{% endif %}"


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise TemplateError(f"{path}: chat template cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path}: chat template is not UTF-8: byte {error.start}: {error.reason}") from None


def _processor_template(local: Path | None) -> str | None:
    """Vision checkpoints keep the template with the processor."""
    file = local / "chat_template.json" if local else None
    if not file or not file.is_file():
        return None
    try:
        template = read_json(file).get("chat_template")
    except (ValueError, AttributeError) as error:
        raise TemplateError(f"{file}: damaged: {error}") from None
    return template if isinstance(template, str) else None
