"""The families' formats written out by hand, as their documentation tells them: the oracle of the properties.

A conversation is a list of pieces: text, and the number of the message that a model writes there, or None.
"""

import json
from collections.abc import Callable
from dataclasses import replace

from finetune.chat.messages import Conversation, Message, Tool
from tests.properties.dialogues import settled

Pieces = list[tuple[str, int | None]]
Messages = tuple[Message, ...]

GLM4 = {"glm4", "glm4-0414", "glm-z1"}
GLM45 = {"glm4.5", "glm4.6", "glm4.7"}
# One text never holds two turns of these as the model writes them: their history is another.
NEVER_JOINT = {"glm-z1", "glm4.1v", "deepseek-r1"}
START = {
    "glm4": "[gMASK]<sop>", "glm4-0414": "[gMASK]<sop>", "glm-z1": "[gMASK]<sop>", "glm4.1v": "[gMASK]<sop>",
    "glm4.5": "[gMASK]<sop>", "glm4.6": "[gMASK]<sop>", "glm4.7": "[gMASK]<sop>",
    "llama3": "<|begin_of_text|>", "mistral": "<s>", "gemma": "<bos>",
    "deepseek-v3": "<｜begin▁of▁sentence｜>", "deepseek-r1": "<｜begin▁of▁sentence｜>",
}  # fmt: skip


def texts(family: str, conversation: Conversation, trained: list[int]) -> list[Pieces]:
    """What `render` must give where the turns `trained` are learnt: the pieces of each Rendered."""
    if not trained:
        return []
    conversation = replace(
        conversation, messages=tuple(settled(family, message) for message in conversation.messages)
    )
    through = conversation.messages[: trained[-1] + 1]
    if _is_one_text(family, through):
        return [_pieces(family, through, conversation.tools, alone=False)]
    return [_alone(family, conversation, i) for i in trained]


def _alone(family: str, conversation: Conversation, turn: int) -> Pieces:
    """A turn in a text of its own, after a history that the template has rewritten."""
    before = conversation.messages[:turn]
    history = _pieces(family, before, conversation.tools, alone=True)
    return [*[(text, None) for text, _ in history], *_last_turn(family, conversation.messages[: turn + 1])]


def _is_one_text(family: str, messages: Messages) -> bool:
    turns = [i for i, m in enumerate(messages) if m.role == "assistant"]
    if len(turns) == 1 and family not in NEVER_JOINT:
        return True
    if family in NEVER_JOINT:
        return False
    if family in {"qwen3", "glm4.7"}:  # nothing may follow a turn that would rewrite it
        return all(_last_user(messages) < i for i in turns) and all(messages[i].reasoning for i in turns[:-1])
    if family in GLM45:  # thoughts before the last question are dropped
        return not any(m.reasoning for m in messages[: _last_user(messages)])
    return True


def _last_user(messages: Messages) -> int:
    return max(i for i, m in enumerate(messages) if m.role == "user")


def _pieces(family: str, messages: Messages, tools: tuple[Tool, ...], *, alone: bool) -> Pieces:
    pieces: Pieces = [(START.get(family, "") + head(family, messages, tools), None)]
    for i in range(len(messages)):
        pieces += _one(family, messages, i, tools, rewritten=alone)
    return pieces


def spelt_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


# ---------------------------------------------------------------- tools and system text


def function_of(tool: Tool) -> dict:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "parameters": without_nulls(tool.parameters)}


def openai_tool(tool: Tool) -> dict:
    return {"type": "function", "function": function_of(tool)}


def without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _glm4_tools(tools: tuple[Tool, ...], system: str | None) -> str:
    return (
        "<|system|>\n"
        + GLM4_SYSTEM
        + "".join(f"\n\n## {tool.name}\n\n{spelt_json(function_of(tool), 4)}\n{GLM4_TOOL}" for tool in tools)
    )


def _glm4_0414_tools(tools: tuple[Tool, ...], system: str | None) -> str:
    return "<|system|>\n# 可用工具" + "".join(
        f"\n\n## {tool.name}\n\n{spelt_json(function_of(tool), 4)}\n{GLM4_TOOL}" for tool in tools
    )


def _z1_tools(tools: tuple[Tool, ...], system: str | None) -> str:
    return "<|system|>\n# 可用工具" + "".join(
        f"\n## {tool.name}\n\n{spelt_json(function_of(tool), 4)}" for tool in tools
    )


def _glm45_tools(tools: tuple[Tool, ...], system: str | None) -> str:
    listed = "".join(spelt_json(openai_tool(tool)) + "\n" for tool in tools)
    return (
        f"<|system|>\n# Tools\n\nFunctions you may call:\n<tools>\n{listed}</tools>\n"
        "Call one by its name, then <arg_key> and <arg_value> pairs within <tool_call></tool_call>."
    )


def _qwen3_tools(tools: tuple[Tool, ...], system: str | None) -> str:
    listed = "".join("\n" + spelt_json(openai_tool(tool)) for tool in tools)
    before = "" if system is None else system + "\n\n"
    return (
        f"<|im_start|>system\n{before}# Tools\n\n<tools>{listed}\n</tools>\n\n"
        'Answer with <tool_call>{"name": …, "arguments": …}</tool_call> to call one.<|im_end|>\n'
    )


def _coder_tools(tools: tuple[Tool, ...], system: str | None) -> str:
    listed = "".join(
        f"\n<function>\n<name>{tool.name}</name>"
        + (f"\n<description>{tool.description}</description>" if tool.description else "")
        + f"\n<parameters>{spelt_json(without_nulls(tool.parameters))}</parameters>\n</function>"
        for tool in tools
    )
    told = "You are Qwen." if system is None else system
    return (
        f"<|im_start|>system\n{told}\n\n# Tools\n\n<tools>{listed}\n</tools>\n\n"
        "Call one as <function=name> with <parameter=name> blocks, within <tool_call></tool_call>.<|im_end|>\n"
    )


def _llama3_head(tools: tuple[Tool, ...], system: str | None) -> str:
    listed = "".join(spelt_json(openai_tool(tool), 4) + "\n\n" for tool in tools)
    date = "<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
    return f"{date}{listed}{(system or '').strip()}<|eot_id|>"


GLM4_TOOL = "在调用上述函数时，请使用 Json 格式表示调用的参数。"
GLM4_SYSTEM = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
TOOLS: dict[str, Callable[[tuple[Tool, ...], str | None], str]] = {
    "glm4": _glm4_tools, "glm4-0414": _glm4_0414_tools, "glm-z1": _z1_tools, "glm4.5": _glm45_tools,
    "glm4.6": _glm45_tools, "glm4.7": _glm45_tools, "qwen3": _qwen3_tools, "qwen3-coder": _coder_tools,
}  # fmt: skip


def head(family: str, messages: Messages, tools: tuple[Tool, ...]) -> str:
    """What stands before the first message, beyond the start of text."""
    system = messages[0].content if messages and messages[0].role == "system" else None
    if family == "llama3":
        return _llama3_head(tools, system)
    if family == "deepseek-v3":
        return (system or "") + "".join("\n\n" + spelt_json(openai_tool(tool)) for tool in tools)
    return TOOLS[family](tools, system) if tools and family in TOOLS else ""


# ---------------------------------------------------------------- messages


def _one(family: str, messages: Messages, i: int, tools: tuple[Tool, ...], *, rewritten: bool) -> Pieces:
    message = messages[i]
    match family:
        case "glm4" | "glm4-0414" | "glm-z1" | "glm4.1v":
            return _glm4(family, messages, i, rewritten)
        case "glm4.5" | "glm4.6":
            return _glm45(messages, i, rewritten)
        case "glm4.7":
            return _glm47(messages, i, rewritten)
        case "mistral":
            return _mistral(messages, i, tools)
        case "llama2":
            return _llama2(messages, i)
        case "llama3":
            return _llama3(message, i)
        case "deepseek-v3" | "deepseek-r1":
            return _deepseek(family, message, i)
        case "gemma":
            return _gemma(messages, i)
        case "phi4":
            return _phi4(message, i, tools)
        case "phi":
            return _phi(message, i)
        case "qwen3":
            return _qwen3(messages, i, bool(tools))
        case "qwen3-coder":
            return _coder(messages, i, bool(tools))
    return _closed(f"<|im_start|>{message.role}\n", message, i, message.content, "<|im_end|>", "\n")


def _closed(opening: str, message: Message, i: int, body: str, stop: str, after: str) -> Pieces:
    return [(opening, None), (body + stop, i if message.role == "assistant" else None), (after, None)]


def _stop(message: Message) -> str:
    return "<|observation|>" if message.tool_calls else "<|user|>"


def _marker(role: str, messages: Messages, i: int, rewritten: bool) -> str:
    """A GLM role's marker; it is written already where it is the stop of the assistant's turn before."""
    already = i > 0 and messages[i - 1].role == "assistant" and not rewritten
    return "" if already else f"<|{role}|>"


def _glm4_body(message: Message) -> str:
    body = f"\n{message.content}" if message.content else ""
    for call in message.tool_calls:
        body += ("<|assistant|>" if body else "") + f"{call.name}\n{spelt_json(call.arguments)}"
    return body


def _glm4(family: str, messages: Messages, i: int, rewritten: bool) -> Pieces:
    message = messages[i]
    if message.role == "assistant" and not rewritten:
        return [("<|assistant|>", None), (_glm4_body(message) + _stop(message), i)]
    role = "observation" if message.role == "tool" else message.role
    if role == "system" and not message.content:
        return []
    return [(_marker(role, messages, i, rewritten) + _glm4_body(message), None)]


def _arg_keys(message: Message, line: str) -> str:
    """GLM-4.5's calls; `line`: what ends the lines in them."""
    body = ""
    for call in message.tool_calls:
        spelt = {k: v if isinstance(v, str) else spelt_json(v) for k, v in call.arguments.items()}
        pairs = "".join(
            f"<arg_key>{k}</arg_key>{line}<arg_value>{v}</arg_value>{line}" for k, v in spelt.items()
        )
        body += f"{line}<tool_call>{call.name}{line}{pairs}</tool_call>"
    return body


def _glm45(messages: Messages, i: int, rewritten: bool) -> Pieces:
    message = messages[i]
    if message.role == "tool":
        marker = "" if messages[i - 1].role == "tool" else _marker("observation", messages, i, rewritten)
        return [(f"{marker}\n<tool_response>\n{message.content}\n</tool_response>", None)]
    if message.role != "assistant":
        return [(f"{_marker(message.role, messages, i, rewritten)}\n{message.content}", None)]
    thoughts = message.reasoning if i > _last_user(messages) else None
    body = f"\n<think>{thoughts or ''}</think>" + (f"\n{message.content}" if message.content else "")
    body += _arg_keys(message, "\n")
    if rewritten:
        return [("<|assistant|>" + body, None)]
    return [("<|assistant|>", None), (body + _stop(message), i)]


def _glm47(messages: Messages, i: int, rewritten: bool) -> Pieces:
    message = messages[i]
    if message.role == "tool":
        marker = "" if messages[i - 1].role == "tool" else _marker("observation", messages, i, rewritten)
        return [(f"{marker}<tool_response>{message.content}</tool_response>", None)]
    if message.role != "assistant":
        return [(f"{_marker(message.role, messages, i, rewritten)}{message.content}", None)]
    thoughts = (message.reasoning or "") if i > _last_user(messages) else ""
    body = f"</think>{message.content}{_arg_keys(message, '')}"
    if rewritten:
        return [("<|assistant|>" + (f"<think>{thoughts}" if thoughts else "") + body, None)]
    return [("<|assistant|><think>", None), (thoughts + body + _stop(message), i)]


def _hermes(message: Message) -> str:
    calls = "\n".join(
        f'<tool_call>\n{{"name": "{c.name}", "arguments": {spelt_json(c.arguments)}}}\n</tool_call>'
        for c in message.tool_calls
    )
    return message.content + ("\n" if message.content and calls else "") + calls


def _response(messages: Messages, i: int) -> Pieces:
    """Results in a row share one turn of the user."""
    first, final = messages[i - 1].role != "tool", i + 1 == len(messages) or messages[i + 1].role != "tool"
    inner = f"\n<tool_response>\n{messages[i].content}\n</tool_response>"
    return [(("<|im_start|>user" if first else "") + inner + ("<|im_end|>\n" if final else ""), None)]


def _qwen3(messages: Messages, i: int, has_tools: bool) -> Pieces:
    message = messages[i]
    if message.role == "tool":
        return _response(messages, i)
    if message.role != "assistant":
        told = message.role == "system" and has_tools  # before the tools
        return [] if told else [(f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n", None)]
    body = _hermes(message)
    if i > _last_user(messages) and (i == len(messages) - 1 or message.reasoning):
        body = f"<think>\n{message.reasoning or ''}\n</think>\n\n{body}"
    return _closed("<|im_start|>assistant\n", message, i, body, "<|im_end|>", "\n")


def _coder(messages: Messages, i: int, has_tools: bool) -> Pieces:
    message = messages[i]
    if message.role == "tool":
        return _response(messages, i)
    if message.role == "system" and has_tools:
        return []
    body = message.content
    for number, call in enumerate(message.tool_calls):
        lines = ("\n\n" if body else "") if number == 0 else "\n"
        spelt = {k: spelt_json(v) if isinstance(v, list) else str(v) for k, v in call.arguments.items()}
        pairs = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in spelt.items())
        body += f"{lines}<tool_call>\n<function={call.name}>\n{pairs}</function>\n</tool_call>"
    return _closed(f"<|im_start|>{message.role}\n", message, i, body, "<|im_end|>", "\n")


def _llama3(message: Message, i: int) -> Pieces:
    if message.role == "system":
        return []
    role = "ipython" if message.role == "tool" else message.role
    body = message.content
    for call in message.tool_calls:
        body = f'{{"name": "{call.name}", "parameters": {spelt_json(call.arguments)}}}'
    return _closed(f"<|start_header_id|>{role}<|end_header_id|>\n\n", message, i, body, "<|eot_id|>", "")


def _llama2(messages: Messages, i: int) -> Pieces:
    message = messages[i]
    if message.role == "system":
        return []
    if message.role == "assistant":
        return [(f" {message.content} </s>", i)]
    system = f"<<SYS>>\n{messages[0].content}\n<</SYS>>\n\n" if i == 1 and messages[0].role == "system" else ""
    return [(f"<s>[INST] {system}{message.content} [/INST]", None)]


def _gemma(messages: Messages, i: int) -> Pieces:
    message = messages[i]
    if message.role == "system":
        return []
    moved = messages[0].content if i == 1 and messages[0].role == "system" else ""
    said = f"{moved}\n\n{message.content}" if moved else message.content
    role = "model" if message.role == "assistant" else message.role
    return _closed(f"<start_of_turn>{role}\n", message, i, said, "<end_of_turn>", "\n")


def _phi(message: Message, i: int) -> Pieces:
    if message.role == "system" and not message.content:
        return []
    return _closed(f"<|{message.role}|>\n", message, i, message.content, "<|end|>", "\n")


def _phi4(message: Message, i: int, tools: tuple[Tool, ...]) -> Pieces:
    said = spelt_json(message.content) if message.role == "tool" else message.content
    for tool in tools if i == 0 else ():
        said += f"<|tool|>{spelt_json(function_of(tool))}<|/tool|>"
    for call in message.tool_calls:
        function = {"name": call.name, "arguments": dict(call.arguments)}
        said += f"<|tool_call|>{spelt_json(function)}<|/tool_call|>"
    role = "tool_response" if message.role == "tool" else message.role
    return _closed(f"<|{role}|>", message, i, said, "<|end|>", "")


def _mistral(messages: Messages, i: int, tools: tuple[Tool, ...]) -> Pieces:
    message = messages[i]
    match message.role:
        case "system":
            return []
        case "user":
            first = not any(m.role == "user" for m in messages[:i])
            system = messages[0].content + "\n\n" if first and messages[0].role == "system" else ""
            listed = spelt_json([openai_tool(tool) for tool in tools])
            told = f"[AVAILABLE_TOOLS] {listed}[/AVAILABLE_TOOLS]" if tools and first else ""
            return [(f"{told}[INST] {system}{message.content}[/INST]", None)]
        case "tool":
            asked = max(k for k in range(i) if messages[k].tool_calls)
            spelt = spelt_json({"content": message.content})[:-1]
            called = call_id(asked, i - asked - 1)
            return [(f'[TOOL_RESULTS] {spelt}, "call_id": "{called}"}}[/TOOL_RESULTS]', None)]
    if not message.tool_calls:
        return [(f" {message.content}</s>", i)]
    spelt_calls = ", ".join(
        f'{{"name": "{c.name}", "arguments": {spelt_json(c.arguments)}, "id": "{call_id(i, k)}"}}'
        for k, c in enumerate(message.tool_calls)
    )
    return [(f"[TOOL_CALLS] [{spelt_calls}]</s>", i)]


def call_id(turn: int, place: int) -> str:
    return f"call{turn:03d}{place:02d}"


def _deepseek(family: str, message: Message, i: int) -> Pieces:
    match message.role:
        case "user":
            return [(f"<｜User｜>{message.content}", None)]
        case "tool":
            return [(f"<｜tool▁output▁begin｜>{message.content}<｜tool▁output▁end｜>", None)]
        case "system":
            return [(message.content, None)] if family == "deepseek-r1" else []
    body = message.content
    if message.tool_calls:
        spelt = "\n".join(
            f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{c.name}\n```json\n"
            f"{spelt_json(c.arguments)}\n```<｜tool▁call▁end｜>"
            for c in message.tool_calls
        )
        body += f"<｜tool▁calls▁begin｜>{spelt}<｜tool▁calls▁end｜>"
    return [("<｜Assistant｜>", None), (body + "<｜end▁of▁sentence｜>", i)]


def _last_turn(family: str, messages: Messages) -> Pieces:
    """A turn as the model writes it, where its history would be another."""
    message, thoughts, i = messages[-1], messages[-1].reasoning or "", len(messages) - 1
    match family:
        case "qwen3":
            return _qwen3(messages, i, False)[:2]
        case "glm4.5" | "glm4.6":
            return _glm45(messages, i, False)
        case "glm4.7":
            return _glm47(messages, i, False)
        case "glm4.1v":
            return [
                ("<|assistant|>\n", None),
                (f"<think>{thoughts}</think><answer>{message.content}</answer>", i),
            ]
        case "glm-z1":
            body = _glm4_body(message).removeprefix("\n")
            return [("<|assistant|>\n<think>", None), (f"\n{thoughts}\n</think>\n{body}{_stop(message)}", i)]
    body = f"{thoughts}\n</think>\n\n{message.content}<｜end▁of▁sentence｜>"
    return [("<｜Assistant｜><think>\n", None), (body, i)]
