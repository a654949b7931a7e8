"""A small GLM-4 made from code and a seed: model, tokenizer and chat template, with nothing downloaded.

It has GLM-4's parts in GLM-4's proportions (grouped-query attention with 2 KV heads, biased q/k/v, partial
rotary embeddings, a fused gate/up projection), its special tokens and its chat format, so that what works on
it works on the real ones.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.glm.configuration_glm import GlmConfig
from transformers.models.glm.modeling_glm import GlmForCausalLM
from transformers.utils import logging as transformers_logging

from finetune.shipped import template_file

transformers_logging.disable_progress_bar()

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
STOP_TOKENS = ("<|endoftext|>", "<|user|>", "<|observation|>")
TEMPLATE = template_file("glm4")
_LONGEST_TOKEN = 12  # bytes; without a limit, a small corpus makes one token of a whole clause
_TEMPLATE_REPEATS = 100  # so that the words every conversation with tools begins with become few tokens

# GPT-4's splitting rule, which GLM-4's tokenizer shares: words with a leading space, digits by threes.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tiny(
    path: Path, corpus: Iterable[str] = (), *, seed: int = 0, vocab_size: int = 1536, **shape: Any
) -> Path:
    """Write a small random `GlmForCausalLM` with its tokenizer and template to `path`; returns `path`.

    `corpus` is what the byte-level BPE learns its merges from (none: the bytes alone); `vocab_size` is the
    most it may grow to; `shape` overrides fields of `GlmConfig` (`hidden_size=…`, `num_hidden_layers=…`).
    The same arguments give the same bytes.
    """
    tokenizer = train_tokenizer(corpus, vocab_size)
    model = random_glm(tokenizer, seed, shape)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with GLM-4's special tokens and template."""
    template = TEMPLATE.read_text(encoding="utf-8")
    texts = chain([template] * _TEMPLATE_REPEATS, corpus)
    return bpe_tokenizer(texts, vocab_size, SPECIAL_TOKENS, template)


def bpe_tokenizer(
    texts: Iterable[str], vocab_size: int, special: Sequence[str], template: str
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with `special` tokens, whose post-processor adds `[gMASK]<sop>` as GLM-4's does.

    `special` has these two and begins with the token that ends a text and pads.
    """
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        max_token_length=_LONGEST_TOKEN,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(list(special))
    prefix = [(token, bpe.token_to_id(token)) for token in ("[gMASK]", "<sop>")]
    bpe.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B", special_tokens=prefix
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=special[0],
        pad_token=special[0],
        additional_special_tokens=list(special[1:]),
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )


def random_glm(tokenizer: PreTrainedTokenizerFast, seed: int, shape: dict[str, Any]) -> GlmForCausalLM:
    """A randomly initialised model whose vocabulary is the tokenizer's, padded to a multiple of 64."""
    stop_ids = tokenizer.convert_tokens_to_ids(list(STOP_TOKENS))
    fields: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "attention_bias": True,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": stop_ids,
        "bos_token_id": None,
        "dtype": torch.float32,
    }
    config = GlmConfig(**(fields | shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GlmForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=stop_ids, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model
