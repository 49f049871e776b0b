"""For a machine with a card: `python3 -m pytest -c tests/gpu/pytest.ini tests/gpu`. Elsewhere all is skipped, aloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.card import REHEARSAL, Figures, cards
from tests.support.architectures import make
from tests.support.daemons import NeuronProcess
from tests.support.engines import INSTALLED
from tests.support.host import Host, fleet
from tools.tinymodel.fleet import CHECKPOINT, make_models

STALL_S = 5.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    why = ""
    if not INSTALLED:
        why = "vLLM is not installed"
    elif not cards() and not REHEARSAL:
        why = "no CUDA device here: nothing of this is proved by this run"
    for item in ours if why else []:
        item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    taken = Figures()
    yield taken
    taken.write()


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, and `large`: a billion random numbers (a small one in a rehearsal)."""
    folder = tmp_path_factory.mktemp("models")
    make_models(CHECKPOINT, folder)
    if REHEARSAL:
        make(folder, ["llama-deep"])
        (folder / "llama-deep").rename(folder / "large")
    else:
        make(folder, ["large"])
    return folder


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    with fleet() as one:
        yield one


@pytest.fixture(scope="session")
def neuron(host: Host, models_dir: Path) -> NeuronProcess:
    """One for all tests, with the cards that the driver lists."""
    devices = [{"id": "cpu:0", "memory_mb": 4096}] if REHEARSAL else []
    table = {"stall_s": STALL_S, "turn_guard_s": 0.0}
    started = host.neuron("beast", engine="vllm", models_dir=models_dir, devices=devices, engine_table=table)
    started.until_engine(300)
    return started
