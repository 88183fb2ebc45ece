"""Settings (settings.py) from a YAML file in configs/ and `key=value` overrides. Unknown keys are errors."""

import textwrap
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from crashchat.errors import CrashChatError, abbreviate
from crashchat.files import write_text_atomic
from crashchat.json_files import problems
from crashchat.settings import Settings, TrainConfig
from crashchat.tasks import TaskSet, read_task_set, use
from crashchat.yaml_files import parse_yaml, read_yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "configs"


WITH = "with"  # the override that lays a file of settings over the config's


class ConfigError(CrashChatError):
    """Settings that are unknown, of the wrong type or contradict each other;
    the message names file and key.
    """

    everywhere = True


Config = TypeVar("Config", bound=Settings)


def _read_values(path: Path, above: tuple[Path, ...] = ()) -> dict:
    """A file's values, those of its base below them; above: the files that it is the base of."""
    values, _ = read_yaml(path, ConfigError, hint=f"; configs are in {CONFIG_DIR}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str) or not base or "\0" in base:
        raise ConfigError(f"{path}: base: found {abbreviate(base)}, expected the name of a file beside it")
    above = (*above, path.resolve())
    if (path.parent / base).resolve() in above:
        raise ConfigError(f"{path}: base: {base!r} is based on this file itself; expected a file that is not")
    # A file says only what differs from its base, a file beside it.
    return {**_read_values(path.parent / base, above), **values}


def parse_overrides(overrides: list[str]) -> dict:
    """`key=value` words -> {key: value}, values read as YAML.

    Raises ConfigError for a word that is not one.
    """
    values = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{abbreviate(word)} is not key=value, e.g. epochs=2")
        values[key] = parse_yaml(text, abbreviate(word), ConfigError)
    return values


def given_values(path: str | Path | None, overrides: list[str] | None = None) -> dict:
    """What a YAML file and words say, before it is checked (see load_config). Raises ConfigError."""
    values = _read_values(Path(path)) if path else {}
    words = parse_overrides(overrides or [])
    if WITH in words:
        file = words.pop(WITH)
        if not isinstance(file, str) or not file or "\0" in file:
            raise ConfigError(f"{WITH}={abbreviate(file)}: expected a YAML file of settings")
        values |= _read_values(Path(file))
    return values | words


def load_config(kind: type[Config], path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """Settings of a YAML file (with its `base:` file below it) and `key=value` overrides on top; between
    them those of another file, where an override is `with=FILE`.

    The task set that they name is in use from then on. Raises ConfigError naming the file and every key that
    is unknown, of the wrong type, out of bounds, or contradicts another; TaskSetError for a task set that
    cannot be used.
    """
    values = given_values(path, overrides)
    task_set = _task_set_of(values, path or "overrides")
    use(task_set.without_context() if values.get("context") is False else task_set)
    unknown = [abbreviate(key) for key in values if key not in kind.model_fields]
    if unknown:
        known = ", ".join(sorted(kind.model_fields))
        raise ConfigError(f"{path or 'overrides'}: unknown key {', '.join(unknown)}; known are {known}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path or 'overrides'}: {'; '.join(problems(error))}") from error


def _task_set_of(values: dict, where: str | Path) -> TaskSet:
    """The task set that settings name, or a model that they name."""
    named = {key: values.get(key) for key in ("task_set", "adapter", "model", "base_model")}
    for key, value in named.items():
        if value is not None and (not isinstance(value, str | Path) or "\0" in str(value)):
            raise ConfigError(f"{where}: {key}: found {abbreviate(value)}, expected a path")
    file, *folders = (None if value is None else Path(value) for value in named.values())
    return read_task_set(file, *folders)


def save_config(config: Settings, path: str | Path) -> None:
    """Write the resolved settings as YAML that load_config reads again."""
    write_text_atomic(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def describe(kind: type[Settings]) -> str:
    """Every key with its default and its doc, for --help."""
    lines = []
    for name, field in kind.model_fields.items():
        default = (
            "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)}"
        )
        text = " ".join((field.description or "").split())
        indent = " " * 6
        doc = textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent)
        lines.append(f"  {name}  ({default})\n{doc}")
    return "\n".join(lines)


def check_share(config: TrainConfig, processes: int) -> None:
    """Raises ConfigError where a global batch has fewer questions than there are processes to share it."""
    if 0 < config.global_batch_size < processes:
        raise ConfigError(
            f"global_batch_size={config.global_batch_size}: {processes} processes cannot share so few "
            "questions; start fewer, or give a larger batch"
        )
