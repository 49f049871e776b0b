"""goal_R43: whatever a file holds, loading it gives a value or a ConfigError, never anything else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cortex_core.config import Catalogue, ConfigError, CortexConfig, NeuronConfig, load_cortex, load_models, load_neuron
from tests.support.examples import in_full

FILES = {path.stem: in_full(path.read_text()) for path in (Path(__file__).parents[2] / "rpm").glob("*.toml")}

TOKENS = st.sampled_from(
    """ [ ] [[ ]] { } = " ' \"\"\" . , # \\ \\u \\u0000 - 0x 1e999 inf nan true 1979-05-27 99999999999999999999 \0
    \ufeff ü [gateway] [[neurons]] [[models]] [neuron] [engine.sim] [[devices]] [a.b.c] a.b=1 id=1 x=[[]]
    neurons=[] models=[{}] """.split()
).map(lambda token: token + "\n" * token.startswith("["))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cx-", dir="/tmp") as name:
        yield Path(name)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """One of the example files with some stretches replaced, repeated or cut."""
    text = draw(st.sampled_from(sorted(FILES.values())))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        put = draw(st.one_of(TOKENS, st.text(max_size=5), st.just(text[start:end] * 2)))
        text = text[:start] + put + text[end:]
    return text


LOADERS: list[Callable[[Path], object]] = [
    lambda path: load_cortex(path, {}),
    lambda path: load_neuron(path, {}),
    lambda path: load_models(path)[0],
]
VALUES = CortexConfig | NeuronConfig | Catalogue


def outcome(load: Callable[[], object]) -> object:
    try:
        return load()
    except ConfigError as error:
        return error


def judge(result: object) -> None:
    """A value, or an error of one line that says where and what."""
    assert isinstance(result, VALUES | ConfigError)
    if isinstance(result, ConfigError):
        assert result.source
        assert result.problem
        assert len(str(result).splitlines()) == 1


@settings(max_examples=300)
@given(text=mutated())
@example(text="neurons = [[[]]]")
@example(text="models = [{id = {}}]")
@example(text='"a\\nb" = 1')
def test_a_mutated_file_gives_a_value_or_an_error(text: str, folder: Path) -> None:
    path = folder / "file.toml"
    path.write_text(text, encoding="utf-8")
    for load in LOADERS:
        judge(outcome(lambda load=load: load(path)))  # type: ignore[misc]


@given(content=st.binary(max_size=200))
def test_so_do_arbitrary_bytes(content: bytes, folder: Path) -> None:
    path = folder / "file.toml"
    path.write_bytes(content)
    for load in LOADERS:
        judge(outcome(lambda load=load: load(path)))  # type: ignore[misc]


NAMES = st.lists(st.sampled_from("gateway neurons eviction fleet listen hold_s 0 token".split()), max_size=4)


@given(environ=st.dictionaries(NAMES.map(lambda path: "CORTEX_" + "__".join(path).upper()), TOKENS, max_size=4))
def test_so_does_an_arbitrary_environment(environ: dict[str, str]) -> None:
    judge(outcome(lambda: load_cortex(None, environ)))
