"""The references and the packaged configurations are what the code says now."""

from __future__ import annotations

import re

import pytest

from tests.support.imports import ROOT
from tools.docs.completions import completions
from tools.docs.man import pages
from tools.docs.reference import files

FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_what_is_made_from_the_code_is_up_to_date(name: str) -> None:
    """`nox -s reference` writes it anew."""
    assert (ROOT / name).read_text() == FILES[name]


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".md")])
def test_no_row_of_a_reference_is_without_its_meaning(name: str) -> None:
    rows = [line for line in FILES[name].splitlines() if line.startswith("| ")]
    assert rows
    assert [row for row in rows if re.search(r"\|\s*\|", row)] == []


@pytest.mark.parametrize("of", ["cortex", "neuron"])
def test_every_manual_page_has_a_name_and_says_what_it_is_about(of: str) -> None:
    for path, page in pages(of).items():
        name = re.escape(path.rpartition("/")[2].rpartition(".")[0])
        assert re.search(rf'(?m)^\.TH "{name}" "\d"', page, re.IGNORECASE), path
        assert re.search(r"(?m)^\.SH NAME\n\S+ \\- \S", page), path


def test_every_shell_has_its_completion() -> None:
    assert set(completions()) == {
        "bash-completion/completions/cortex",
        "zsh/site-functions/_cortex",
        "fish/vendor_completions.d/cortex.fish",
    }
    assert all("_CORTEX_COMPLETE" in script for script in completions().values())
