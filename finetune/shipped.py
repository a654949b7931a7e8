"""Files that come with the program: those of configs/, and the chat templates among them by their names."""

from collections.abc import Mapping
from pathlib import Path

_HERE = Path(__file__).parent
SHIPPED = (_HERE.parent / "configs", _HERE / "configs")
"""Where configs/ lies: in a checkout beside the package, in a wheel inside it."""

TEMPLATES: Mapping[str, str] = {
    "chatml": "turns between <|im_start|> and <|im_end|>; no tools",
    "chatml-tools": "ChatML with tools and calls in Hermes' form",
    "glm4": "GLM-4 (glm-4-9b-chat), with tools",
    "llama3": "Llama 3, with tools as in 3.1, one call a turn",
    "gemma": "Gemma 1 to 3; no system role, no tools",
}
"""Our own chat templates -> what they print."""


def find_shipped(name: str) -> Path | None:
    """A file of configs/ by its name, such as `lora.yaml` or `tiny/lora.yaml`; None when there is none."""
    return next((folder / name for folder in SHIPPED if (folder / name).is_file()), None)


def template_file(name: str) -> Path:
    """One of TEMPLATES as a file. Raises KeyError for a name that is none of them."""
    found = find_shipped(f"templates/{name}.jinja") if name in TEMPLATES else None
    if found is None:
        raise KeyError(f"no chat template is called {name}; there are {', '.join(TEMPLATES)}")
    return found
