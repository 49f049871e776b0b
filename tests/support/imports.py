"""What the sources import, read without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {
    "cortex_core": ROOT / "packages/cortex-core/src",
    "cortex_gateway": ROOT / "packages/cortex-gateway/src",
    "neuron": ROOT / "packages/neuron/src",
    "cortex_cli": ROOT / "packages/cortex-cli/src",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name. `from a import b` yields `a.b`: b may be a module, and then it is what counts."""

    name: str
    line: int
    lazy: bool  # inside a function, or for type checkers only: importing the module does not import this

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


@cache
def modules() -> dict[str, Path]:
    """Every module of the four packages by its dotted name."""
    found = {}
    for package, source in SOURCES.items():
        for path in sorted((source / package).rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(_walk(ast.parse(path.read_text(), str(path)), lazy=False))


def _walk(node: ast.AST, *, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, lazy)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield Import(f"{node.module}.{alias.name}", node.lineno, lazy)
    else:
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _for_types_only(node)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, lazy=inside)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def reached_from(start: str) -> set[str]:
    """The modules of ours that `import start` imports, itself and the packages above included."""
    known, seen, todo = modules(), set[str](), [start]
    while todo:
        name = todo.pop()
        if name in seen or name not in known:
            continue
        seen.add(name)
        todo.append(name.rpartition(".")[0])
        for one in imports(known[name]):
            if not one.lazy:
                todo += [one.name, one.name.rpartition(".")[0]]
    return seen
