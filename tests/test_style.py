"""Rules of CONTRIBUTING.md that no linter knows."""

import ast

from crashchat.config import ROOT

FILES = sorted([*ROOT.glob("crashchat/**/*.py"), *ROOT.glob("tool/*.py")])
SIZES = {"permute", "reshape", "view"}  # one thing, spelled out


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def test_a_call_passes_at_most_four_things_by_their_place():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and name_of(node) not in SIZES and len(node.args) > 4
    ]
    assert FILES and not long, "use keywords"


def test_json_objects_are_typed_by_the_two_bases_of_json_files():
    with_base = [
        str(path.relative_to(ROOT))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and "BaseModel" in map(ast.unparse, node.bases)
    ]
    assert with_base == ["crashchat/json_files.py"] * 2, "derive from Exact or Lenient"
