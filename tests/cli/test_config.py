"""`cortex config`: check, show, schema and init, and that nothing that stands in a file gives a traceback."""

from __future__ import annotations

import json
import random
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w

from cortex_cli.failures import Exit
from tests.cli.conftest import Ran
from tests.core.test_config import MISTAKES
from tests.support.examples import in_full
from tests.support.host import fleet
from tests.support.imports import ROOT
from tests.support.process import entry_point, environment

Cortex = Callable[..., Ran]

CORTEX = (ROOT / "rpm/cortex.toml").read_text()
FILES = {name: in_full((ROOT / f"rpm/{name}.toml").read_text()) for name in ("cortex", "models", "neuron")}
MUTATIONS = 500


# --------------------------------------------------------------------------------------------------------------- check


def test_check_names_the_files_and_what_is_in_them(cortex: Cortex, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text('[[models]]\nid = "a"\nquant = "q4"\n')
    (tmp_path / "cortex.toml").write_text(CORTEX)
    ran = cortex("config", "check", "-c", str(tmp_path / "cortex.toml"))
    assert ran.code == Exit.OK
    assert ran.out == f"{tmp_path}/cortex.toml, {tmp_path}/models.toml: fine, 1 neuron and 1 model\n"
    assert "quant: ignored" in ran.err
    told = cortex("config", "check", "--json", "-c", str(tmp_path / "cortex.toml"))
    assert json.loads(told.out)["says"] == "1 neuron and 1 model"


def test_check_reads_the_catalogue_that_cortex_toml_names(cortex: Cortex, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[[models]]\nid = 1\n")
    (tmp_path / "cortex.toml").write_text(CORTEX)
    ran = cortex("config", "check", "-c", str(tmp_path / "cortex.toml"))
    assert (ran.code, ran.out) == (Exit.CONFIG, "")
    assert ran.err.startswith(f"cortex: {tmp_path}/models.toml: [[models]] #1 id: expected `str`, got `int`; ")


def test_check_reads_the_certificate_as_the_gateway_will(cortex: Cortex, tmp_path: Path) -> None:
    (tmp_path / "cortex.toml").write_text('[tls]\ncertificate = "c.pem"\nkey = "k.pem"\n')
    ran = cortex("config", "check", "-c", str(tmp_path / "cortex.toml"))
    assert ran.code == Exit.CONFIG
    assert "[tls] certificate: " in ran.err


def test_a_file_that_is_not_there_is_a_mistake_where_it_was_named(cortex: Cortex, tmp_path: Path) -> None:
    for what in ("cortex", "models", "neuron"):
        ran = cortex("config", "check", what, "-c", str(tmp_path / "none.toml"))
        assert (ran.code, ran.out) == (Exit.CONFIG, "")
        assert "none.toml: cannot be read: No such file or directory; `cortex config init` writes one" in ran.err


@pytest.mark.parametrize("name", MISTAKES)
def test_every_known_mistake_is_told_by_check(name: str, cortex: Cortex, short_path: Path) -> None:
    mistake = MISTAKES[name]
    path = short_path / f"{mistake.load}.toml"
    path.write_text(mistake.text)
    ran = cortex("config", "check", mistake.load, "-c", str(path))
    assert (ran.code, ran.out) == (Exit.CONFIG, "")
    assert ran.err.startswith(f"cortex: {path}: {mistake.where}")
    assert mistake.says in ran.err


class Mutation(NamedTuple):
    """One file with one thing changed in it: a key, or the text itself where `key` is empty."""

    text: str
    key: str


WRONG: list[Any] = [
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "a b",
    "\x00",
    "é",
    [],
    [1],
    [[]],
    {},
]
WRONG += [{"a": {}}, ["a", "a"], [{}], "0.0.0.0:1", "unix:/x", "fd:3", "127.0.0.1:65536", "http://a", "../x", "auto", 2]


def mutation(what: str, dice: random.Random) -> Mutation:
    """A value of another kind or size, a key misspelt, doubled, lost or out of place, or a byte where none belongs."""
    values = tomllib.loads(FILES[what])
    tables = [values, *(one for one in values.values() if isinstance(one, dict))]
    tables += [one for many in values.values() if isinstance(many, list) for one in many if isinstance(one, dict)]
    table = dice.choice([one for one in tables if one])
    key = dice.choice(list(table))
    match dice.choice("value value value name lost added byte line".split()):
        case "value":
            table[key] = dice.choice(WRONG)
        case "name":
            letter = dice.randrange(len(key))
            table[key[:letter] + dice.choice("xyz_") + key[letter + 1 :]] = table.pop(key)
        case "lost":
            del table[key]
        case "added":
            table[dice.choice(["listn", "x", "a-b", "ü", "token", "models_dir"])] = dice.choice(WRONG)
        case "byte":
            text, at = FILES[what], dice.randrange(len(FILES[what]))
            return Mutation(text[:at] + dice.choice("\"'=[]{}#\\\n\x00") + text[at + 1 :], "")
        case _:
            lines = FILES[what].splitlines()
            lines.insert(dice.randrange(len(lines)), dice.choice(lines))
            return Mutation("\n".join(lines), "")
    return Mutation(tomli_w.dumps(values), key)


def test_500_mutated_files_are_refused_with_file_key_and_hint_or_accepted(
    cortex: Cortex, short_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A traceback would fail this: the command runs in this process."""
    dice, refused = random.Random(1), 0
    for number in range(MUTATIONS):
        what = ("cortex", "models", "neuron")[number % 3]
        mutated = mutation(what, dice)
        path = short_path / f"{what}.toml"
        path.write_text(mutated.text)
        (short_path / "models.toml").touch()
        ran = cortex("config", "check", what, "-c", str(path))
        assert ran.code in (Exit.OK, Exit.CONFIG), mutated.text
        if ran.code == Exit.CONFIG:
            refused += 1
            assert ran.err.startswith(f"cortex: {short_path}/"), ran.err
            assert len(ran.err.splitlines()) == 1
            where, _, rest = ran.err.removeprefix(f"cortex: {short_path}/").partition(": ")[2].partition(": ")
            assert where, ran.err
            assert "; " in rest, f"no hint: {ran.err}"
    record_property("refused", refused)
    assert MUTATIONS / 3 < refused < MUTATIONS


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("cortex_cli.main", "serve"), "[gateway]\nlisten = 1"),
        (("cortex_cli.main", "config", "check"), "[gateway]\nlisten = 1"),
        (("neuron.main",), "[neuron]\nlisten = 1"),
        (("neuron.main", "--check"), "[neuron]\nlisten = 1"),
    ],
)
def test_as_a_process_a_mistake_is_one_line_and_exit_code_3(
    command: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.toml"
    path.write_text(text)
    started = entry_point(*command, "--config", str(path))
    ran = subprocess.run(started, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "listen: expected `str`, got `int`; text, in quotes; where " in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_the_neuron_checks_itself(tmp_path: Path) -> None:
    (tmp_path / "neuron.toml").write_text((ROOT / "rpm/neuron.toml").read_text())
    command = entry_point("neuron.main", "--check", "--config", str(tmp_path / "neuron.toml"))
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"{tmp_path}/neuron.toml: fine, vllm engines on 127.0.0.1:13131\n"


# ------------------------------------------------------------------------------------------------------- show, schema


def test_show_is_toml_of_what_holds_and_can_be_read_again(
    cortex: Cortex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORTEX_GATEWAY__HOLD_S", "33")
    monkeypatch.setenv("CORTEX_FLEET__TOKEN", "s3cret")
    ran = cortex("config", "show")
    assert ran.code == Exit.OK
    assert "s3cret" not in ran.out
    values = tomllib.loads(ran.out)
    assert (values["gateway"]["hold_s"], values["fleet"]["token"]) == (33.0, "(withheld)")
    (tmp_path / "again.toml").write_text(ran.out)
    assert cortex("config", "check", "-c", str(tmp_path / "again.toml")).code == Exit.OK
    assert json.loads(cortex("config", "show", "--json").out) == values


@pytest.mark.parametrize("what", ["models", "neuron"])
def test_the_other_files_are_shown_too(what: str, cortex: Cortex, tmp_path: Path) -> None:
    (tmp_path / "file.toml").write_text(FILES[what])
    ran = cortex("config", "show", what, "-c", str(tmp_path / "file.toml"))
    assert ran.code == Exit.OK
    assert tomllib.loads(ran.out)


@pytest.mark.parametrize("what", ["cortex", "models", "neuron"])
def test_the_schema_accepts_what_check_accepts_and_describes_every_key(what: str, cortex: Cortex) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(cortex("config", "schema", what).out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads(FILES[what]), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"lsten": 1}, schema)
    assert "\\\\Z" not in json.dumps(schema)
    for name, part in schema["$defs"].items():
        for key, one in part["properties"].items():
            table = "$ref" in one or "$ref" in one.get("items", {})
            assert table or one.get("description"), f"{name}.{key} says nothing"


# ---------------------------------------------------------------------------------------------------------------- init


def test_init_writes_what_it_finds_and_check_accepts_it(cortex: Cortex, tmp_path: Path) -> None:
    with fleet() as host:
        models = host.folder / "models"
        (models / "Owner/one").mkdir(parents=True)
        (models / "Owner/one/config.json").write_text("{}")
        neuron = host.neuron("beast", models_dir=models)
        ran = cortex(
            "config", "init", "--folder", str(tmp_path), "--neuron", neuron.url, "--neuron", "http://127.0.0.1:1"
        )
    assert ran.code == Exit.OK
    assert (
        "no neuron at http://127.0.0.1:1: Connection refused; it is written down as `neuron-2` all the same" in ran.err
    )
    said = tomllib.loads((tmp_path / "cortex.toml").read_text())
    assert [one["name"] for one in said["neurons"]] == ["beast", "neuron-2"]
    assert cortex("config", "check", "-c", str(tmp_path / "cortex.toml")).code == Exit.OK


def test_init_writes_over_nothing_without_being_told_to(cortex: Cortex, tmp_path: Path) -> None:
    (tmp_path / "neuron.toml").write_text("# mine\n")
    ran = cortex("config", "init", "neuron", "--folder", str(tmp_path))
    assert ran.code == Exit.REFUSED
    assert (tmp_path / "neuron.toml").read_text() == "# mine\n"
    assert cortex("config", "init", "neuron", "--folder", str(tmp_path), "--force").code == Exit.OK
    assert cortex("config", "check", "neuron", "-c", str(tmp_path / "neuron.toml")).code == Exit.OK


def test_init_says_where_it_may_not_write(cortex: Cortex, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = cortex("config", "init", "neuron", "--folder", str(tmp_path / "file/below"))
    assert ran.code == Exit.FAILED
    assert "Not a directory" in ran.err or "File exists" in ran.err
