"""What all pages are made with: one Jinja environment, addresses of files, pictures inside a page."""

import base64
import os
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, select_autoescape

TEMPLATES = Environment(
    loader=PackageLoader("crashchat"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
)


def data_uri(data: bytes, kind: str) -> str:
    """Data as an address that a page can show without asking anybody. kind: its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def link(path: str | os.PathLike) -> str:
    """A relative file path as an address: each part quoted, whatever bytes it is made of."""
    return "/".join(quote(os.fsencode(part)) for part in Path(path).parts).replace("//", "/")
