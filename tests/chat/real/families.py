"""Chat templates of others that an install brings, and the tokenizer and stop tokens that belong to each.

The stop tokens are written down by hand, from each family's own model card and generation_config.json: they are
what the rendering is judged against, so nothing here may be computed by the code under test.
"""

import re
from dataclasses import dataclass

_TABLE = """
llama.cpp/Apertus-8B-Instruct qwen3 <s> <|assistant_end|>
llama.cpp/Apriel-1.6-15b-Thinker-fixed qwen3 <s> <|end|>
llama.cpp/Bielik-11B-v3.0-Instruct qwen3 <s> <|im_end|>
llama.cpp/ByteDance-Seed-OSS qwen3 <seed:bos> <seed:eos>
llama.cpp/Cohere2MoE qwen3 <BOS_TOKEN> <|END_OF_TURN_TOKEN|>
llama.cpp/CohereForAI-c4ai-command-r7b-12-2024-tool_use qwen3 <BOS_TOKEN> <|END_OF_TURN_TOKEN|>
llama.cpp/GLM-4.6 qwen3 - <|endoftext|> <|user|> <|observation|>
llama.cpp/GLM-4.7-Flash qwen3 - <|endoftext|> <|user|> <|observation|>
llama.cpp/GigaChat3-10B-A1.8B qwen3 <s> </s> <|message_sep|>
llama.cpp/GigaChat3.1-10B-A1.8B qwen3 <s> </s> <|message_sep|>
llama.cpp/HuggingFaceTB-SmolLM3-3B qwen3 - <|im_end|>
llama.cpp/Kimi-K2-Instruct qwen3 [BOS] [EOS] <|im_end|>
llama.cpp/Kimi-K2-Thinking qwen3 [BOS] [EOS] <|im_end|>
llama.cpp/Kimi-K3 qwen3 [BOS] <|end_of_msg|>
llama.cpp/LFM2-8B-A1B qwen3 <|startoftext|> <|im_end|>
llama.cpp/LFM2.5-8B-A1B qwen3 <|startoftext|> <|im_end|>
llama.cpp/LFM2.5-Instruct qwen3 <|startoftext|> <|im_end|>
llama.cpp/MiMo-VL qwen3 - <|im_end|>
llama.cpp/MiniMax-M1 qwen3 - <end_of_sentence>
llama.cpp/MiniMax-M2 qwen3 ]~!b[ [e~[ + ]~b]
llama.cpp/MiniMax-M3 qwen3 ]~!b[ [e~[ + ]~b] ]<]minimax[>[
llama.cpp/Mistral-Small-3.2-24B-Instruct-2506 qwen3 <s> </s>
llama.cpp/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 qwen3 <s> <|im_end|>
llama.cpp/NVIDIA-Nemotron-Nano-v2 qwen3 <s> <SPECIAL_12> + <SPECIAL_10> <SPECIAL_11>
llama.cpp/NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use llama3 <|begin_of_text|> <|im_end|>
llama.cpp/Qwen-QwQ-32B qwen3 - <|im_end|>
llama.cpp/Qwen-Qwen2.5-7B-Instruct qwen3 - <|im_end|>
llama.cpp/Qwen-Qwen3-0.6B qwen3 - <|im_end|>
llama.cpp/Qwen3-Coder qwen3 - <|im_end|>
llama.cpp/Qwen3.5-4B qwen3 - <|im_end|>
llama.cpp/Reka-Edge qwen3 - <sep>
llama.cpp/Spark2.5 qwen3 - <｜end▁of▁sentence｜>
llama.cpp/StepFun3.5-Flash qwen3 <s> <|im_end|>
llama.cpp/deepseek-ai-DeepSeek-R1-Distill-Llama-8B llama3_1 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
llama.cpp/deepseek-ai-DeepSeek-R1-Distill-Qwen-32B qwen3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
llama.cpp/deepseek-ai-DeepSeek-V3.1 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
llama.cpp/deepseek-ai-DeepSeek-V3.2 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
llama.cpp/deepseek-ai-DeepSeek-V4 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
llama.cpp/deepseek-ai-DeepSeek-V4-Flash-0731 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
llama.cpp/fireworks-ai-llama-3-firefunction-v2 llama3 <|begin_of_text|> <|eot_id|>
llama.cpp/google-gemma-2-2b-it gemma2 <bos> <end_of_turn>
llama.cpp/google-gemma-4-31B-it gemma3 <bos> <turn|> <|tool_response>
llama.cpp/google-gemma-4-31B-it-interleaved gemma3 <bos> <turn|> <|tool_response>
llama.cpp/ibm-granite-granite-3.3-2B-Instruct qwen3 - <|end_of_text|>
llama.cpp/ibm-granite-granite-4.0 qwen3 - <|end_of_text|>
llama.cpp/ibm-granite-granite-4.1 qwen3 - <|end_of_text|>
llama.cpp/inclusionai-ling-3.0-flash qwen3 - <|role_end|> + <role> </role>
llama.cpp/llama-cpp-deepseek-r1 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
llama.cpp/llama-cpp-rwkv-world qwen3 - <|endoftext|>
llama.cpp/meetkai-functionary-medium-v3.1 llama3_1 <|begin_of_text|> <|eot_id|> <|eom_id|>
llama.cpp/meetkai-functionary-medium-v3.2 llama3_1 <|begin_of_text|> <|eot_id|> <|eom_id|>
llama.cpp/meta-llama-Llama-3.1-8B-Instruct llama3_1 <|begin_of_text|> <|eot_id|> <|eom_id|>
llama.cpp/meta-llama-Llama-3.2-3B-Instruct llama3_2 <|begin_of_text|> <|eot_id|> <|eom_id|>
llama.cpp/microsoft-Phi-3.5-mini-instruct llama2 <s> <|endoftext|> <|end|>
llama.cpp/mistralai-Ministral-3-14B-Reasoning-2512 qwen3 <s> </s>
llama.cpp/mistralai-Mistral-Nemo-Instruct-2407 qwen3 <s> </s>
llama.cpp/moonshotai-Kimi-K2 qwen3 [BOS] [EOS] <|im_end|>
llama.cpp/muse-glimmer qwen3 <|begin_of_text|> <|eot|> <|eom|>
llama.cpp/openai-gpt-oss-120b qwen3 - <|return|> <|call|>
llama.cpp/openbmb-MiniCPM5-1B qwen3 <s> <|im_end|>
llama.cpp/poolside-Laguna-S-2.1 qwen3 〈|EOS|〉 </assistant> + <assistant> <user> </user> <system> </system>
llama.cpp/poolside-Laguna-XS-2.1 qwen3 〈|EOS|〉 </assistant> + <assistant> <user> </user> <system> </system>
llama.cpp/poolside-Laguna-XS.2 qwen3 〈|EOS|〉 </assistant> + <assistant> <user> </user> <system> </system>
llama.cpp/tencent-Hy3 qwen3 - <｜hy_eos:opensource｜> +\
    <｜hy_begin_of_sentence:opensource｜> <｜hy_User:opensource｜> <｜hy_Assistant:opensource｜>\
    <｜reasoning_mode:opensource｜> <think:opensource> </think:opensource>
llama.cpp/unsloth-Apriel-1.5 qwen3 <s> <|end|>
llama.cpp/unsloth-mistral-Devstral-Small-2507 qwen3 <s> </s>
llama.cpp/upstage-Solar-Open-100B qwen3 - <|end|> <|calls|>
trl/cohere qwen3 <BOS_TOKEN> <|END_OF_TURN_TOKEN|>
trl/cohere2 qwen3 <BOS_TOKEN> <|END_OF_TURN_TOKEN|>
trl/deepseek_r1_distill qwen3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
trl/deepseekv3 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
trl/diffusion_gemma gemma3 <bos> <turn|> <|tool_response>
trl/gemma3 gemma3 <bos> <end_of_turn>
trl/gemma4 gemma3 <bos> <turn|> <|tool_response>
trl/gemma4_v2 gemma3 <bos> <turn|> <|tool_response>
trl/gemma4_v3 gemma3 <bos> <turn|> <|tool_response>
trl/gemma4_v4 gemma3 <bos> <turn|> <|tool_response>
trl/gemma4_v5 gemma3 <bos> <turn|> <|tool_response>
trl/glm4moe qwen3 - <|endoftext|> <|user|> <|observation|>
trl/idefics3 llama3 <|begin_of_text|> <end_of_utterance>
trl/lfm2 qwen3 <|startoftext|> <|im_end|>
trl/lfm2_2_5_v2 qwen3 <|startoftext|> <|im_end|>
trl/lfm2_2_5_vl qwen3 <|startoftext|> <|im_end|>
trl/lfm2_v2 qwen3 <|startoftext|> <|im_end|>
trl/llama3 llama3 <|begin_of_text|> <|eot_id|>
trl/nemotron_3_5_lightning qwen3 <s> <|im_end|>
trl/nemotron_3_super qwen3 <s> <|im_end|>
trl/nemotron_3_ultra qwen3 <s> <|im_end|>
trl/phi3 llama2 <s> <|endoftext|> <|end|>
trl/qwen2_5_vl qwen3 - <|im_end|>
trl/qwen3 qwen3 - <|im_end|>
trl/qwen3_5_nothink qwen3 - <|im_end|>
trl/qwen3_6 qwen3 - <|im_end|>
trl/qwen3_8 qwen3 - <|im_end|>
trl/qwen3_instruct_2507 qwen3 - <|im_end|>
trl/qwen3_vl qwen3 - <|im_end|>
trl/smolvlm qwen3 - <end_of_utterance>
vllm/chatml qwen3 - <|im_end|>
vllm/apertus qwen3 <s> <|assistant_end|>
vllm/deepseekr1 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
vllm/deepseekv3 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
vllm/deepseekv31 deepseek_v3 <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>
vllm/functiongemma gemma3 <bos> <end_of_turn> <start_function_response> +\
    <start_function_call> <end_function_call> <end_function_response>
vllm/gemma3_pythonic gemma3 <bos> <end_of_turn>
vllm/gemma4 gemma3 <bos> <turn|> <|tool_response>
vllm/granite qwen3 - <|end_of_text|>
vllm/granite_20b_fc qwen3 - <|endoftext|>
vllm/hermes qwen3 - <|im_end|>
vllm/hunyuan_a13b qwen3 <|startoftext|> <|eos|>
vllm/internlm2_tool qwen3 <s> <|im_end|>
vllm/llama3.1_json llama3_1 <|begin_of_text|> <|eot_id|>
vllm/llama3.2_json llama3_2 <|begin_of_text|> <|eot_id|>
vllm/llama3.2_pythonic llama3_2 <|begin_of_text|> <|eot_id|>
vllm/llama4_json llama3_1 <|begin_of_text|> <|eot|>
vllm/llama4_pythonic llama3_1 <|begin_of_text|> <|eot|> <|eom|>
vllm/mistral llama2 <s> </s>
vllm/mistral3 qwen3 <s> </s>
vllm/mistral_parallel llama2 <s> </s>
vllm/muse_glimmer qwen3 <|begin_of_text|> <|eot|> <|eom|>
vllm/phi4_mini qwen3 - <|end|>
vllm/qwen3coder qwen3 - <|im_end|>
vllm/toolace llama3_1 <|begin_of_text|> <|eot_id|>
vllm/xlam_llama llama3_1 <|begin_of_text|> <|eot_id|>
vllm/xlam_qwen qwen3 - <|im_end|>
"""
"""name, tokenizer, bos_token ("-": none), stop tokens (eos_token first), `+`, other tokens of its tokenizer."""

_MARKERS = re.compile(
    r"<[|｜][^<>{}\"'\s]*[|｜]?>|<[a-z_]+\|>|\[/?[A-Z_]{3,}\]|</?(?:s|bos|eos|think|mm:think|seed:think|tool_call|"
    r"tool_response|arg_key|arg_value|start_of_turn|end_of_turn|end_of_utterance|beginning_of_sentence|sep|"
    r"end_of_sentence|start_function_\w+|end_function_\w+|escape|seed:tool_call|minimax:tool_call)>"
)


@dataclass(frozen=True)
class Pair:
    """A template and the tokenizer it is judged with. `stops`: what ends a turn, `eos_token` first."""

    name: str
    tokenizer: str
    bos: str | None
    stops: tuple[str, ...]
    others: tuple[str, ...]

    def markers(self, source: str) -> list[str]:
        """Every token that this family's tokenizer knows beyond those of `tokenizer`, as far as they show."""
        named = [self.bos or "", *self.stops, *self.others, *_MARKERS.findall(source)]
        return [token for token in dict.fromkeys(named) if token]


def _pair(line: str) -> Pair:
    told, _, others = line.partition(" + ")
    name, tokenizer, bos, *stops = told.split()
    return Pair(name, tokenizer, None if bos == "-" else bos, tuple(stops), tuple(others.split()))


PAIRS = tuple(_pair(line) for line in _TABLE.strip().splitlines())
