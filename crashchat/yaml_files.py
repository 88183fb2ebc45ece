"""Reading YAML that people wrote: a key that is there twice is an error, and a problem has its line."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from crashchat.errors import CrashChatError, abbreviate


class _Loader(yaml.SafeLoader):
    """YAML as SafeLoader reads it, but a key that is there twice is an error instead of the last one's."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {abbreviate(twice[0])} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def parse_yaml(text: str | bytes, where: str, error: type[CrashChatError]) -> object:
    """A YAML value. Raises `error`, naming `where`, for what is no YAML."""
    try:
        return yaml.load(text, _Loader)
    # ValueError: what looks like a date or a number and is none, or isn't UTF-8.
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        said = "nested too deeply" if isinstance(cause, RecursionError) else " ".join(str(cause).split())
        raise error(f"{where}: not YAML: {said[:300]}") from cause


def read_yaml(path: Path, error: type[CrashChatError], hint: str = "") -> tuple[dict, bytes]:
    """The keys and values of a YAML file, and its bytes.

    hint: where such files are, for the message. Raises `error` for a file that cannot be read or holds
    something else.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as cause:  # ValueError: a path that cannot be one
        raise error(f"{path}: cannot be read ({getattr(cause, 'strerror', None) or cause}){hint}") from cause
    values = parse_yaml(data, str(path), error)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise error(f"{path}: found a {type(values).__name__}, expected `key: value` lines")
    return values, data


def line_of(data: bytes, keys: Sequence[str | int]) -> int:
    """The line, counted from 1, in which the value at `keys` begins; of the innermost that is there, where
    not all of them are.
    """
    node = yaml.compose(data, yaml.SafeLoader)
    line = 1
    for key in keys:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((name, value) for name, value in node.value if name.value == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            found = (node.value[key], node.value[key])
        if found is None:
            continue  # the name of a kind, which a problem's place has between two keys
        line, node = found[0].start_mark.line + 1, found[1]
    return line
