"""What a configuration may allow beyond reading the files it names: said now, by the person who starts the run.

A YAML named on the command line may say it, and so may an option. The record of an earlier run (run.json) may
not: whoever wrote it is not the one who starts this run.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

_OPTIONS: Mapping[tuple[str, str], str] = {
    ("model_config", "trust_remote_code"): "--trust-remote-code",
    ("data_config", "allow_remote_images"): "--allow-remote-images",
    ("data_config", "image_roots"): "--image-root",
}
"""The keys that are permissions, each with the option that gives it."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """The options of a command that goes by a record."""

    trust_remote_code: bool = False
    allow_remote_images: bool = False
    image_roots: Sequence[str] = ()

    def overrides(self) -> list[str]:
        """As `KEY=VALUE` for a configuration."""
        flags = {
            "model_config.trust_remote_code": self.trust_remote_code,
            "data_config.allow_remote_images": self.allow_remote_images,
        }
        given = [f"{key}=true" for key, allowed in flags.items() if allowed]
        return given + (
            [f"data_config.image_roots={json.dumps(list(self.image_roots))}"] if self.image_roots else []
        )

    def options(self) -> list[str]:
        """As they are typed."""
        flags = {
            "--trust-remote-code": self.trust_remote_code,
            "--allow-remote-images": self.allow_remote_images,
        }
        given = [option for option, allowed in flags.items() if allowed]
        return given + [word for root in self.image_roots for word in ("--image-root", root)]


def without_permissions(recorded: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A recorded configuration without what it allows, and a line for each permission that was taken out."""
    kept, lines = deepcopy(dict(recorded)), []
    for (section, key), option in _OPTIONS.items():
        values = kept.get(section)
        if isinstance(values, dict) and values.pop(key, None):
            lines.append(f"{section}.{key}: a record gives no permission; {option} does")
    return kept, lines
