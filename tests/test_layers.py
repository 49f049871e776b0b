"""Who may import whom. The rules are what keeps the house easy to change, so they are read off the sources."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.support.imports import ROOT, SOURCES, Import, imports, modules, reached_from

# Besides cortex_core, which all may import.
SIBLINGS = {"cortex_cli.serve": {"cortex_gateway"}, "cortex_cli.simulate": {"cortex_gateway"}}

# Rules without a clock, a loop, a die or a voice: the same input gives the same output, so they can be replayed.
PURE = {
    "cortex_core.fleet",
    "cortex_core.translate",
    "cortex_gateway.policy",
    "neuron.hardware.inventory",
    "neuron.sizing.fit",
    "neuron.supervisor.lifecycle",
}
IMPURE_IMPORTS = {"asyncio", "aiohttp", "starlette", "time", "random", "logging"}

ENGINE_HOMES = ("neuron.engines.vllm", "neuron.zygote")
ENGINE_IMPORTS = {"vllm", "torch"}

# The two boundaries at which an unforeseen exception becomes an answer: the request's and the swap's.
CATCH_ALL_LIMIT = 2


def lies_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def where(module: str, one: Import) -> str:
    return f"{modules()[module].relative_to(ROOT)}:{one.line} imports {one.name}"


def test_each_package_imports_only_core_of_its_siblings() -> None:
    found = [
        where(module, one)
        for module, path in modules().items()
        for one in imports(path)
        if one.top in SOURCES.keys() - {module.partition(".")[0], *allowed_siblings(module, lazy=one.lazy)}
    ]
    assert found == []


def allowed_siblings(module: str, *, lazy: bool) -> set[str]:
    if lies_in(module, "cortex_core"):
        return set()
    return {"cortex_core"} | (SIBLINGS.get(module, set()) if lazy else set())


def test_pure_modules_import_nothing_that_acts_or_varies() -> None:
    pure = [module for module in modules() if any(lies_in(module, rule) for rule in PURE)]
    found = [where(m, one) for m in pure for one in imports(modules()[m]) if one.top in IMPURE_IMPORTS]
    assert found == []


def test_the_engine_is_imported_at_home_only() -> None:
    away = [module for module in modules() if not any(lies_in(module, home) for home in ENGINE_HOMES)]
    found = [where(m, one) for m in away for one in imports(modules()[m]) if one.top in ENGINE_IMPORTS]
    assert found == []


@pytest.mark.parametrize("daemon", ["neuron.main", "cortex_gateway.main"])
def test_a_daemon_never_imports_the_engine(daemon: str) -> None:
    assert daemon in modules()
    found = [
        where(module, one)
        for module in sorted(reached_from(daemon))
        for one in imports(modules()[module])
        if not one.lazy and one.top in ENGINE_IMPORTS
    ]
    assert found == []


def test_core_needs_msgspec_only_and_http_stays_in_its_extra() -> None:
    found = [
        where(module, one)
        for module, path in modules().items()
        if lies_in(module, "cortex_core") and not lies_in(module, "cortex_core.http")
        for one in imports(path)
        if one.top not in sys.stdlib_module_names | {"msgspec", "cortex_core"} or lies_in(one.name, "cortex_core.http")
    ]
    assert found == []


def test_the_command_line_starts_with_click_and_msgspec_alone() -> None:
    """Every other import costs each command its time, `cortex status` also that of the server."""
    found = [
        where(module, one)
        for module, path in modules().items()
        if lies_in(module, "cortex_cli")
        for one in imports(path)
        if not one.lazy
        and (
            one.top not in sys.stdlib_module_names | {"click", "msgspec", "cortex_core", "cortex_cli"}
            or one.top == "asyncio"
            or lies_in(one.name, "cortex_core.http")
        )
    ]
    assert found == []


def test_the_runner_needs_nothing_but_python() -> None:
    own = ["__init__.py", "run.py", "runner/*.py", "tinymodel/__init__.py", "tinymodel/fleet.py"]
    scripts = [script for pattern in own for script in sorted((ROOT / "tools").glob(pattern))]
    found = [
        f"{script.relative_to(ROOT)}:{one.line} imports {one.name}"
        for script in scripts
        for one in imports(script)
        if one.top not in sys.stdlib_module_names
        and not one.name.startswith(("tools.runner.", "tools.tinymodel.fleet."))
    ]
    assert found == []


def test_only_the_boundaries_catch_everything() -> None:
    caught = [place for path in modules().values() for place in catch_alls(path)]
    assert len(caught) <= CATCH_ALL_LIMIT, caught


def catch_alls(path: Path) -> list[str]:
    """Handlers of Exception or wider that do not raise it again."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.ExceptHandler):
            caught, again = node.type, any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"suppress", "contextlib.suppress"}:
            caught, again = ast.Tuple(node.args), False
        else:
            continue
        names = {"BaseException"} if caught is None else {n.id for n in ast.walk(caught) if isinstance(n, ast.Name)}
        if names & {"Exception", "BaseException"} and not again:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found
