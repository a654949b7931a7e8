"""Families of chat templates, written by us in each family's format, on tokenizers trained on the spot."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune.chat.sight import Sight
from finetune.chat.template import ChatTemplate

HERE = Path(__file__).parent


def words(line: str) -> list[str]:
    return line.split()


GLM = words("<|endoftext|> [MASK] [gMASK] <sop> <|system|> <|user|> <|assistant|> <|observation|>")
QWEN = words("<|endoftext|> <|im_start|> <|im_end|>")
LLAMA = words("<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>")
MISTRAL = words("<unk> <s> </s> [INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS]")
GEMMA = words("<pad> <eos> <bos> <start_of_turn> <end_of_turn>")
SPM_CHATML = words("<unk> <s> </s> <|im_start|> <|im_end|>")
PHI = words("<unk> <s> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|>")
PHI4 = words(
    "<|endoftext|> <|tool|> <|/tool|> <|tool_call|> <|/tool_call|> <|tool_response|> "
    "<|system|> <|user|> <|assistant|> <|end|>"
)
DEEPSEEK = words(
    "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> "
    "<｜tool▁calls▁end｜> <｜tool▁call▁begin｜> <｜tool▁call▁end｜> <｜tool▁sep｜>"
)
THINK = ("<think>", "</think>")
ANSWER = ("<answer>", "</answer>")
GLM_VISION = [*GLM, *words("<|begin_of_image|> <|end_of_image|> <|image|>")]
LLAMA2 = words("<unk> <s> </s>")
TOOL_WORDS = (*THINK, "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>")


@dataclass(frozen=True)
class Family:
    """A template file, a kind of tokenizer and its tokens; `added` are known to it, but not special."""

    file: str
    kind: str
    special: list[str]
    eos: str
    bos: str | None = None
    added: tuple[str, ...] = ()
    swallows: tuple[str, ...] = ()  # control tokens that take the white space after them


FAMILIES = {
    "glm4": Family("../../../configs/templates/glm4.jinja", "bytes", GLM, "<|endoftext|>"),
    "glm4-0414": Family("glm4_0414.jinja", "bytes", GLM, "<|endoftext|>"),
    "glm-z1": Family("glm_z1.jinja", "bytes", GLM, "<|endoftext|>", added=THINK),
    "glm4.5": Family("glm45.jinja", "bytes", GLM, "<|endoftext|>", added=TOOL_WORDS),
    "glm4.1v": Family("glm41v.jinja", "bytes", GLM_VISION, "<|endoftext|>", added=(*THINK, *ANSWER)),
    "glm4.6": Family("glm46.jinja", "bytes", [*GLM_VISION, "/nothink"], "<|endoftext|>", added=TOOL_WORDS),
    "glm4.7": Family("glm47.jinja", "bytes", [*GLM, "/nothink"], "<|endoftext|>", added=TOOL_WORDS),
    "chatml": Family("chatml.jinja", "bytes", QWEN, "<|im_end|>"),
    "chatml-spm": Family("chatml.jinja", "prepend", SPM_CHATML, "</s>", "<s>"),
    "chatml-unigram": Family("chatml.jinja", "unigram", SPM_CHATML, "</s>", "<s>"),
    "qwen3": Family("qwen3.jinja", "bytes", QWEN, "<|im_end|>", added=TOOL_WORDS),
    "qwen3-coder": Family("qwen3_coder.jinja", "bytes", QWEN, "<|im_end|>", added=TOOL_WORDS),
    "llama2": Family("llama2.jinja", "prepend", LLAMA2, "</s>", "<s>"),
    "llama3": Family("llama3.jinja", "bytes", LLAMA, "<|end_of_text|>", "<|begin_of_text|>"),
    "mistral": Family("mistral.jinja", "metaspace-first", MISTRAL, "</s>", "<s>"),
    "gemma": Family("gemma.jinja", "spm", GEMMA, "<eos>", "<bos>"),
    "phi": Family(
        "phi.jinja", "metaspace-first", PHI, "<|endoftext|>", swallows=("<unk>", "<|end|>", "<|user|>")
    ),
    "phi4": Family("phi4.jinja", "bytes", PHI4, "<|endoftext|>"),
    "deepseek-v3": Family("deepseek_v3.jinja", "bytes", DEEPSEEK, DEEPSEEK[1], DEEPSEEK[0]),
    "deepseek-r1": Family("deepseek_r1.jinja", "bytes", DEEPSEEK, DEEPSEEK[1], DEEPSEEK[0], added=THINK),
}

CORPUS = [
    "The quick brown fox jumps over the lazy dog, then it asks for the weather in Paris.",
    "你好，请问今天北京的天气怎么样？今天晴，气温二十度。",
    'get_weather {"city": "北京", "unit": "celsius"} I will look. \n\n def main():\n    return 0\n',
    "system user assistant model observation tool\n\n\nAnswer:\n\n - one\n - two\n",
] * 8

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(kind: str, special: list[str]) -> Tokenizer:
    """`bytes`: byte-level BPE as in GLM, Qwen, Llama 3; the others write `▁` for a space, each its own way."""
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE(ignore_merges=False))
        split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(CORPUS, trainer)
        return tokenizer
    return _train_with_prefix_space(kind, special)


def _train_with_prefix_space(kind: str, special: list[str]) -> Tokenizer:
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*special, *fallback]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=600, special_tokens=tokens, unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token=special[0]))
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=tokens, show_progress=False)
    _prefix_spaces(tokenizer, kind)
    tokenizer.train_from_iterator([line.replace("\n", "") for line in CORPUS], trainer)
    return _without_added(tokenizer, fallback)


def _prefix_spaces(tokenizer: Tokenizer, kind: str) -> None:
    space = normalizers.Replace(" ", "▁")
    strip = [decoders.Strip(" ", 1, 0)]
    if kind == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    elif kind == "spm":
        tokenizer.normalizer, strip = space, []
    else:
        scheme = "first" if kind == "metaspace-first" else "always"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    tokenizer.decoder = decoders.Sequence(undo)


def _without_added(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    """Bytes are pieces of the model, not added tokens; the trainers know no other way to put them in."""
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["content"] not in set(tokens)]
    description["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(description))


def make_family(name: str) -> ChatTemplate:
    family = FAMILIES[name]
    tokenizer = train_tokenizer(family.kind, family.special)
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in family.added])
    tokenizer.add_special_tokens([AddedToken(word, rstrip=True) for word in family.swallows])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos, pad_token=family.special[0]
    )
    source = (HERE / "templates" / family.file).read_text(encoding="utf-8")
    wrapped.chat_template = source
    return ChatTemplate(wrapped, source, name=family.file, sight=sight_of(wrapped))


def sight_of(tokenizer: PreTrainedTokenizerFast) -> Sight | None:
    """GLM-4.1V's, of a tokenizer that has its token for a picture."""
    if "<|image|>" not in tokenizer.get_vocab():
        return None
    token = int(tokenizer.convert_tokens_to_ids("<|image|>"))
    return Sight(token, side=14, merge=2, frames=2, least=112 * 112, most=28 * 28 * 15000, counts_frames=True)


@pytest.fixture(scope="session")
def family():
    """family(name) -> ChatTemplate, made once."""
    made: dict[str, ChatTemplate] = {}

    def get(name: str) -> ChatTemplate:
        if name not in made:
            made[name] = make_family(name)
        return made[name]

    return get
