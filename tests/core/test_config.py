"""The three files and the environment over them: what is accepted, and how each mistake is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from cortex_core.config import Catalogue, ConfigError, CortexConfig, NeuronConfig, load_cortex, load_models, load_neuron
from cortex_core.config.neuron import RUN_DIR_BYTES

ROOT = Path(__file__).parents[2]

ORIGINAL = """
[gateway]
listen = "0.0.0.0:31313"
metrics_listen = "0.0.0.0:31314"
[eviction]
strategy = "lru"
defrag_after_cycles = 50
[[neurons]]
name = "beast"
endpoint = "http://beast.internal:13131"
"""

RUN_DIR = '[neuron]\nrun_dir = "/run/neuron"\n'  # short, wherever the tests' folder is


@pytest.fixture
def cortex(tmp_path: Path) -> Callable[..., CortexConfig]:
    def load(text: str, **environ: str) -> CortexConfig:
        path = tmp_path / "cortex.toml"
        path.write_text(text)
        return load_cortex(path, environ)

    return load


@pytest.fixture
def models(tmp_path: Path) -> Callable[[str], tuple[Catalogue, tuple[str, ...]]]:
    def load(text: str) -> tuple[Catalogue, tuple[str, ...]]:
        path = tmp_path / "models.toml"
        path.write_text(text)
        return load_models(path)

    return load


@pytest.fixture
def neuron(short_path: Path) -> Callable[..., NeuronConfig]:
    def load(text: str, **environ: str) -> NeuronConfig:
        path = short_path / "neuron.toml"
        path.write_text(text)
        return load_neuron(path, environ)

    return load


def test_the_originals_example_is_accepted_word_for_word(cortex: Callable[..., CortexConfig]) -> None:
    config = cortex(ORIGINAL)
    assert (config.gateway.listen, config.gateway.metrics_listen) == ("0.0.0.0:31313", "0.0.0.0:31314")
    assert (config.eviction.strategy, config.eviction.defrag_after_cycles) == ("lru", 50)
    assert [(n.name, n.endpoint) for n in config.neurons] == [("beast", "http://beast.internal:13131")]


def test_the_originals_models_are_accepted_and_what_means_nothing_here_is_warned_of_once(
    models: Callable[[str], tuple[Catalogue, tuple[str, ...]]],
) -> None:
    catalogue, warnings = models("""
        [[models]]
        id = "Qwen/Qwen3-8B"
        harness = "candle"
        quant = "q4k"
        vram_mb = 9000
        min_devices = 2
        min_device_vram_mb = 8000
        pinned_on = ["beast"]
        limit = { context = 32768, input = 24576, output = 8192 }
        cost = { input = 0.1, output = 0.0 }
        capabilities = ["chat", "tools"]
        [[models]]
        id = "tiny"
        harness = "candle"
        """)
    big, tiny = catalogue.models
    assert (big.vram_mb, big.min_devices, big.min_device_vram_mb, big.pinned_on) == (9000, 2, 8000, ("beast",))
    assert (big.limit.context, big.limit.input, big.limit.output) == (32768, 24576, 8192)
    assert (big.cost.output, big.cost.cache_read) == (0.0, None), "a price of nothing is not an absent price"
    assert (big.priority, tiny.priority) == (1000, 100)
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "[[models]] harness: ignored, it is read from the checkpoint",
        "[[models]] quant: ignored, it is read from the checkpoint",
    ]


def test_the_originals_port_of_a_neuron_means_loopback(neuron: Callable[..., NeuronConfig]) -> None:
    assert neuron(f"port = 13132\n{RUN_DIR}").neuron.listen == "127.0.0.1:13132"


def test_without_a_file_a_gateway_looks_for_a_neuron_on_this_host() -> None:
    config = load_cortex(None, {})
    assert [n.endpoint for n in config.neurons] == ["http://127.0.0.1:13131"]
    assert (config.gateway.listen, config.gateway.metrics_listen) == ("127.0.0.1:31313", "127.0.0.1:31314")


@pytest.mark.parametrize("name", ["cortex.toml", "models.toml", "neuron.toml"])
def test_the_example_files_load(name: str) -> None:
    path = ROOT / "rpm" / name
    match name:
        case "cortex.toml":
            assert load_cortex(path, {}).neurons
        case "models.toml":
            assert load_models(path) == (Catalogue(models=load_models(path)[0].models), ())
        case "neuron.toml":
            assert load_neuron(path, {}).neuron.listen == "127.0.0.1:13131"


# ------------------------------------------------------------------------------------------------------ mistakes


class Mistake(NamedTuple):
    """A broken file, and what its error must name."""

    load: str
    text: str
    where: str
    says: str


MISTAKES = {
    # cortex.toml
    "unknown key": Mistake(
        "cortex", '[gateway]\nlisen = "127.0.0.1:1"', "[gateway] lisen", "unknown key; did you mean `listen`?"
    ),
    "unknown table": Mistake("cortex", "[gatewy]", "gatewy", "unknown key; did you mean `gateway`?"),
    "unknown key far from all": Mistake("cortex", "[fleet]\nzzz = 1", "[fleet] zzz", "known here: token_file"),
    "address": Mistake("cortex", '[gateway]\nlisten = "31313"', "[gateway] listen", "host:port"),
    "address with newline": Mistake("cortex", '[gateway]\nlisten = "a:1\\n"', "[gateway] listen", "host:port"),
    "number as text": Mistake("cortex", '[gateway]\nhold_s = "240"', "[gateway] hold_s", "expected `float`, got `str`"),
    "negative time": Mistake("cortex", "[gateway]\nhold_s = -1", "[gateway] hold_s", ">= 0"),
    "time without end": Mistake("cortex", "[gateway]\nhold_s = inf", "[gateway] hold_s", "<= 1000000"),
    "time that is none": Mistake("cortex", "[gateway]\ndrain_s = nan", "[gateway] drain_s", ""),
    "no waiters": Mistake("cortex", "[gateway]\nmax_waiters = 0", "[gateway] max_waiters", ">= 1"),
    "no body": Mistake("cortex", "[gateway]\nmax_body_mb = 0", "[gateway] max_body_mb", ">= 1"),
    "strategy": Mistake("cortex", '[eviction]\nstrategy = "random"', "[eviction] strategy", "invalid enum value"),
    "second neuron": Mistake(
        "cortex",
        '[[neurons]]\nname = "a"\nendpoint = "http://a:1"\n[[neurons]]\nname = "b"',
        "[[neurons]] #2 endpoint",
        "is required",
    ),
    "neuron name": Mistake(
        "cortex", '[[neurons]]\nname = "b/a"\nendpoint = "http://a:1"', "[[neurons]] #1 name", "a name of letters"
    ),
    "endpoint": Mistake(
        "cortex", '[[neurons]]\nname = "a"\nendpoint = "a:1"', "[[neurons]] #1 endpoint", "http://host:port"
    ),
    "endpoint with path": Mistake(
        "cortex", '[[neurons]]\nname = "a"\nendpoint = "http://a:1/v1"', "[[neurons]] #1 endpoint", "without a path"
    ),
    "one name twice": Mistake(
        "cortex",
        '[[neurons]]\nname = "a"\nendpoint = "http://a:1"\n[[neurons]]\nname = "a"\nendpoint = "http://a:2"',
        "[[neurons]] #2 name",
        "`a` is taken by an earlier neuron",
    ),
    "neurons as table": Mistake("cortex", '[neurons]\nname = "a"', "neurons", "expected `array`, got `object`"),
    "token file absent": Mistake("cortex", '[fleet]\ntoken_file = "none"', "[fleet] token_file", "cannot be read"),
    "token file of no name": Mistake(
        "cortex", '[fleet]\ntoken_file = "a\\u0000"', "[fleet] token_file", "cannot be read"
    ),
    "certificate without key": Mistake("cortex", '[tls]\ncertificate = "c.pem"', "[tls] key", "is missing"),
    "key without certificate": Mistake("cortex", '[tls]\nkey = "k.pem"', "[tls] certificate", "is missing"),
    "broken TOML": Mistake("cortex", "[gateway\n", "line 1", "is not TOML"),
    "key twice": Mistake("cortex", "[gateway]\nhold_s = 1\nhold_s = 2", "line 3 [gateway] hold_s", "is not TOML"),
    "port beyond all": Mistake("cortex", '[gateway]\nlisten = "a:65536"', "[gateway] listen", "host:port"),
    "host that is none": Mistake("cortex", '[gateway]\nlisten = "a..b:1"', "[gateway] listen", "host:port"),
    # models.toml
    "model without id": Mistake("models", "[[models]]\nvram_mb = 1", "[[models]] #1 id", "is required"),
    "model id with two slashes": Mistake("models", '[[models]]\nid = "a/b/c"', "[[models]] #1 id", "a model id"),
    "model id climbing": Mistake("models", '[[models]]\nid = "../etc"', "[[models]] #1 id", "a model id"),
    "model twice": Mistake(
        "models", '[[models]]\nid = "a"\n[[models]]\nid = "a"', "[[models]] #2 id", "`a` is taken by an earlier model"
    ),
    "model key": Mistake(
        "models", '[[models]]\nid = "a"\nvram = 1', "[[models]] #1 vram", "unknown key; did you mean `vram_mb`?"
    ),
    "nested model key": Mistake(
        "models",
        '[[models]]\nid = "a"\nlimit = { contxt = 1 }',
        "[[models]] #1 [limit] contxt",
        "unknown key; did you mean `context`?",
    ),
    "no devices": Mistake("models", '[[models]]\nid = "a"\nmin_devices = 0', "[[models]] #1 min_devices", ">= 1"),
    "startup": Mistake("models", '[[models]]\nid = "a"\nstartup = "slow"', "[[models]] #1 startup", "'slow'"),
    "adapter folder climbing": Mistake(
        "models", '[[models]]\nid = "a"\nadapters = { b = "../etc" }', "[[models]] #1 [adapters] ?", "regex"
    ),
    "models as table": Mistake("models", '[models]\nid = "a"', "models", "expected `array`, got `object`"),
    "models of numbers": Mistake("models", "models = [1]", "[[models]] #1", "expected `object`, got `int`"),
    # neuron.toml
    "neuron key": Mistake(
        "neuron", '[neuron]\nmodel_dir = "/m"', "[neuron] model_dir", "unknown key; did you mean `models_dir`?"
    ),
    "engine kind": Mistake("neuron", '[engine]\nkind = "candle"', "[engine] kind", "invalid enum value"),
    "sim key": Mistake("neuron", "[engine.sim]\nloads = 1", "[engine] [sim] loads", "did you mean `load_s`?"),
    "no tokens": Mistake("neuron", "[engine.sim]\ntokens_per_s = 0", "[engine] [sim] tokens_per_s", "> 0"),
    "device id": Mistake("neuron", '[[devices]]\nid = "gpu0"\nmemory_mb = 1', "[[devices]] #1 id", "cpu"),
    "device without memory": Mistake("neuron", '[[devices]]\nid = "cpu:0"', "[[devices]] #1 memory_mb", "is required"),
    "device twice": Mistake(
        "neuron",
        RUN_DIR + '[[devices]]\nid = "cpu:0"\nmemory_mb = 1\n[[devices]]\nid = "cpu:0"\nmemory_mb = 1',
        "[[devices]] #2 id",
        "`cpu:0` is taken by an earlier device",
    ),
    "run_dir too long": Mistake(
        "neuron", f'[neuron]\nrun_dir = "/{"r" * RUN_DIR_BYTES}"', "[neuron] run_dir", "longer than 60 bytes"
    ),
    "open without token": Mistake(
        "neuron",
        '[neuron]\nrun_dir = "/run/neuron"\nlisten = "0.0.0.0:13131"',
        "[neuron] listen",
        "open to others without a token; set token_file (or NEURON_TOKEN), or insecure = true",
    ),
    "port": Mistake("neuron", "port = 70000", "port", "<= 65535"),
}


def load_text(kind: str, folder: Path, text: str | bytes) -> Any:
    path = folder / f"{kind}.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    match kind:
        case "cortex":
            return load_cortex(path, {})
        case "models":
            return load_models(path)
        case _:
            return load_neuron(path, {})


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_file_table_key_and_hint(mistake: Mistake, short_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(mistake.load, short_path, mistake.text)
    error = caught.value
    assert error.source == str(short_path / f"{mistake.load}.toml")
    assert error.where == mistake.where
    assert mistake.says in str(error)
    assert error.hint
    assert str(error).startswith(f"{error.source}: {error.where}".rstrip(": "))
    assert "\n" not in str(error), "an error is one line"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff", "is not UTF-8 (byte 0)"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "is nested too deeply"),
        (b"a = 1\na = 2", "is not TOML"),
        (b"\x00", "is not TOML"),
    ],
)
@pytest.mark.parametrize("kind", ["cortex", "models", "neuron"])
def test_a_file_that_is_no_toml_is_told_as_such(kind: str, content: bytes, says: str, short_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(kind, short_path, content)
    assert says in str(caught.value)


@pytest.mark.parametrize("load", [lambda p: load_cortex(p, {}), load_models, lambda p: load_neuron(p, {})])
def test_a_file_that_cannot_be_read_is_named(load: Callable[[Path], object], tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path, tmp_path / "\0"):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.source == str(path)
        assert caught.value.problem.startswith("cannot be read: ")


# --------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("CORTEX_GATEWAY__LISTEN", "127.0.0.1:8080", lambda c: c.gateway.listen == "127.0.0.1:8080"),
        ("CORTEX_GATEWAY__HOLD_S", "12.5", lambda c: c.gateway.hold_s == 12.5),
        ("CORTEX_GATEWAY__MAX_BODY_MB", "64", lambda c: c.gateway.max_body_mb == 64),
        ("CORTEX_EVICTION__DEFRAG_AFTER_CYCLES", "0", lambda c: c.eviction.defrag_after_cycles == 0),
        ("CORTEX_FLEET__TOKEN", "s3cret", lambda c: c.fleet.token == "s3cret"),
        (
            "CORTEX_NEURONS",
            '[{name = "a", endpoint = "http://a:1"}, {name = "b", endpoint = "http://b:1"}]',
            lambda c: [n.name for n in c.neurons] == ["a", "b"],
        ),
    ],
)
def test_the_environment_goes_over_the_file(
    variable: str, value: str, read: Callable[[CortexConfig], bool], cortex: Callable[..., CortexConfig]
) -> None:
    assert not read(cortex(ORIGINAL))
    changed = cortex(ORIGINAL, **{variable: value})
    assert read(changed)
    assert changed.eviction.strategy == "lru", "the rest of the file stands"


def test_the_environment_alone_configures_a_gateway() -> None:
    assert load_cortex(None, {"CORTEX_GATEWAY__LISTEN": "[::1]:80"}).gateway.listen == "[::1]:80"


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"CORTEX_GATEWAY__LISEN": "a:1"}, ("CORTEX_GATEWAY__LISEN", "did you mean `listen`?")),
        ({"CORTEX_GATEWAI__LISTEN": "a:1"}, ("CORTEX_GATEWAI__LISTEN", "did you mean `gateway`?")),
        ({"CORTEX_GATEWAY__HOLD_S": "soon"}, ("CORTEX_GATEWAY__HOLD_S", "cannot be read as a TOML value")),
        ({"CORTEX_NEURONS": "[{"}, ("CORTEX_NEURONS", "cannot be read as a TOML value")),
        ({"CORTEX_GATEWAY__LISTEN__PORT": "1"}, ("CORTEX_GATEWAY__LISTEN__PORT", "unknown key `port`")),
        ({"CORTEX_GATEWAY__LISTEN": "31313"}, ("[gateway] listen", "host:port")),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(environ: Mapping[str, str], names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_cortex(None, environ)
    assert all(name in str(caught.value) for name in names)


def test_a_variable_that_is_somebody_elses_is_left_alone() -> None:
    assert load_cortex(None, {"CORTEX_URL": "http://h:1", "CORTEXES": "3", "NEURON_TOKEN": "x"}) == load_cortex(
        None, {}
    )


def test_numbers_and_lists_of_a_neuron_come_from_its_environment(neuron: Callable[..., NeuronConfig]) -> None:
    config = neuron(
        RUN_DIR,
        NEURON_ENGINE__PRELOAD='["a", "b"]',
        NEURON_ENGINE__SIM__LOAD_S="0.5",
        NEURON_NEURON__INSECURE="true",
        NEURON_DEVICES='[{id = "cpu:0", memory_mb = 100}]',
    )
    assert config.engine.preload == ("a", "b")
    assert config.engine.sim.load_s == 0.5
    assert config.neuron.insecure is True
    assert [(d.id, d.memory_mb) for d in config.devices] == [("cpu:0", 100)]


# ----------------------------------------------------------------------------------------- paths, tokens, openness


def test_relative_paths_start_at_the_file(cortex: Callable[..., CortexConfig], tmp_path: Path) -> None:
    assert cortex('models_config = "models.toml"').models_config == str(tmp_path / "models.toml")
    assert cortex('models_config = "/etc/m.toml"').models_config == "/etc/m.toml"


def test_certificate_and_key_are_found_from_the_file(cortex: Callable[..., CortexConfig], tmp_path: Path) -> None:
    tls = cortex('[tls]\ncertificate = "c.pem"\nkey = "/k.pem"').tls
    assert (tls.certificate, tls.key) == (str(tmp_path / "c.pem"), "/k.pem")
    assert cortex("").tls.certificate == ""


def test_relative_folders_of_a_neuron_start_at_its_file(neuron: Callable[..., NeuronConfig], short_path: Path) -> None:
    table = neuron('[neuron]\nrun_dir = "run"\nstate_dir = "state"\nmodels_dir = "/models"').neuron
    assert (table.run_dir, table.state_dir) == (str(short_path / "run"), str(short_path / "state"))
    assert table.models_dir == "/models"


def test_a_token_file_gives_its_first_word_and_the_environment_goes_over_it(
    cortex: Callable[..., CortexConfig], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    text = '[fleet]\ntoken_file = "token"'
    assert cortex(text).fleet.token == "s3cret"
    assert cortex(text, CORTEX_FLEET__TOKEN="other").fleet.token == "other"


def test_an_empty_token_file_is_a_mistake(cortex: Callable[..., CortexConfig], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match=r"\[fleet\] token_file: .* is empty"):
        cortex('[fleet]\ntoken_file = "token"')


def test_a_token_file_of_strange_bytes_is_a_mistake(cortex: Callable[..., CortexConfig], tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"\[fleet\] token_file: .* cannot be read"):
        cortex('[fleet]\ntoken_file = "token"')


LOOPBACK = ["127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1", "unix:/run/n.sock", "fd:3"]
OPEN = ["0.0.0.0:1", "[::]:1", "192.168.1.2:1", "beast:1", "localhost.example.org:1", "127.example.org:1"]


@pytest.mark.parametrize("listen", LOOPBACK)
def test_on_loopback_a_neuron_needs_no_token(listen: str, neuron: Callable[..., NeuronConfig]) -> None:
    assert neuron(f'{RUN_DIR}listen = "{listen}"').neuron.listen == listen


@pytest.mark.parametrize("listen", OPEN)
def test_beyond_loopback_a_neuron_wants_a_token_or_a_word(listen: str, neuron: Callable[..., NeuronConfig]) -> None:
    text = f'{RUN_DIR}listen = "{listen}"\n'
    with pytest.raises(ConfigError, match="open to others without a token"):
        neuron(text)
    assert neuron(text, NEURON_TOKEN="s3cret").neuron.token == "s3cret"
    assert neuron(f"{text}insecure = true").neuron.insecure


def test_a_run_dir_may_be_as_long_as_a_socket_allows(neuron: Callable[..., NeuronConfig]) -> None:
    longest = "/" + "r" * (RUN_DIR_BYTES - 1)
    assert neuron(f'[neuron]\nrun_dir = "{longest}"').neuron.run_dir == longest


def test_a_run_dir_is_measured_in_bytes(neuron: Callable[..., NeuronConfig]) -> None:
    with pytest.raises(ConfigError, match=r"\[neuron\] run_dir"):
        neuron(f'[neuron]\nrun_dir = "/{"ü" * 30}"')


def test_configurations_are_values() -> None:
    config = load_cortex(None, {})
    with pytest.raises(AttributeError):
        config.gateway.listen = "elsewhere:1"  # type: ignore[misc]
    assert structs.replace(config) == config
