"""What pip is configured with, in uv's words: uv reads neither pip.conf nor PIP_ variables."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOCATIONS = {"find-links", "extra-index-url"}
LINE = re.compile(r"^(?P<section>[\w.:-]+?)\.(?P<key>[\w-]+)=(?P<value>'.*'|\".*\")$")
# Later sections of pip's configuration go over earlier ones.
SECTIONS = ["global", "install", ":env:"]


def uv_environment(pip: list[str]) -> dict[str, str]:
    """Variables to add to uv's environment. What UV_ or SSL_CERT_FILE says already is left as it is."""
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    return {name: value for name, value in translated(settings(listed)).items() if name not in os.environ}


def settings(config_list: str) -> dict[str, str]:
    """The effective settings out of the text of `pip config list`."""
    sections: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in config_list.splitlines():
        if (found := LINE.match(line.strip())) and found["section"] in sections:
            sections[found["section"]][found["key"]] = str(ast.literal_eval(found["value"]))
    return {key: value for section in SECTIONS for key, value in sections[section].items()}


def translated(pip: dict[str, str]) -> dict[str, str]:
    """pip's settings as uv's variables. A folder that does not exist is dropped: pip warns of one, uv stops."""
    words = {key: [one for one in pip.get(key, "").split() if exists(one)] for key in LOCATIONS}
    uv = {
        "UV_FIND_LINKS": ",".join(words["find-links"]),
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        "UV_EXTRA_INDEX_URL": " ".join(words["extra-index-url"]),
        # pip takes the best match of all its indexes, uv by default only what the first one has.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if words["extra-index-url"] else "",
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "UV_HTTP_TIMEOUT": pip.get("timeout", "") or pip.get("default-timeout", ""),
        "SSL_CERT_FILE": pip.get("cert", ""),
        "SSL_CLIENT_CERT": pip.get("client-cert", ""),
        "ALL_PROXY": pip.get("proxy", ""),
    }
    return {name: value for name, value in uv.items() if value}


def exists(location: str) -> bool:
    """Whether a folder is there; what lies behind an address is not asked."""
    address = urlsplit(location)
    if address.scheme == "file":
        return Path(unquote(address.path)).exists()
    return bool(address.scheme) or Path(location).expanduser().exists()
