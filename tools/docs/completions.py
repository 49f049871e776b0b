"""The command line's completions, as click makes them."""

from __future__ import annotations

from click.shell_completion import get_completion_class

from cortex_cli.main import cortex

PLACES = {
    "bash": "bash-completion/completions/cortex",
    "zsh": "zsh/site-functions/_cortex",
    "fish": "fish/vendor_completions.d/cortex.fish",
}


def completions() -> dict[str, str]:
    """Path below a share folder → script."""
    found = {}
    for shell, place in PLACES.items():
        kind = get_completion_class(shell)
        assert kind is not None
        shell_class = kind(cortex, {}, "cortex", "_CORTEX_COMPLETE")
        found[place] = shell_class.source_template % shell_class.source_vars()
    return found
