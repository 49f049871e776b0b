"""Codes that the sources write out, read without importing them."""

from __future__ import annotations

import ast

from tests.support.imports import modules


def literals(package: str, function: str) -> set[str]:
    """The first arguments that are written out where `function` is called."""
    found = set()
    for name, path in modules().items():
        if name.partition(".")[0] != package:
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == function):
                continue
            if call.args and isinstance(call.args[0], ast.Constant):
                found.add(str(call.args[0].value))
    return found
