"""What pip is configured with reaches uv, which reads none of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.runner.pip_settings import settings, translated


def test_the_variables_of_pip_go_over_its_files_and_install_over_global() -> None:
    listed = (
        "global.cert='/etc/ssl/site.pem'\nglobal.index-url='https://global/simple'\ninstall.index-url='https://install/simple'\n"
        ":env:.cert='/etc/ssl/own.pem'\nfreeze.timeout='10'\nnot a setting\n"
    )
    assert settings(listed) == {"cert": "/etc/ssl/own.pem", "index-url": "https://install/simple"}


def test_a_list_over_several_lines_comes_through(tmp_path: Path) -> None:
    listed = f"global.find-links='\\n{tmp_path}\\nhttps://wheels.example/cpu/'\n"
    assert translated(settings(listed)) == {"UV_FIND_LINKS": f"{tmp_path},https://wheels.example/cpu/"}


@pytest.mark.parametrize(
    ("pip", "uv"),
    [
        ({}, {}),
        ({"index-url": "https://mirror/simple"}, {"UV_DEFAULT_INDEX": "https://mirror/simple"}),
        # pip takes the best of all indexes; uv would stop at the first that knows the name
        (
            {"extra-index-url": "https://a/simple https://b/simple"},
            {"UV_EXTRA_INDEX_URL": "https://a/simple https://b/simple", "UV_INDEX_STRATEGY": "unsafe-best-match"},
        ),
        ({"cert": "/ca.pem", "client-cert": "/me.pem"}, {"SSL_CERT_FILE": "/ca.pem", "SSL_CLIENT_CERT": "/me.pem"}),
        ({"proxy": "http://proxy:3128", "timeout": "60"}, {"ALL_PROXY": "http://proxy:3128", "UV_HTTP_TIMEOUT": "60"}),
        ({"default-timeout": "180"}, {"UV_HTTP_TIMEOUT": "180"}),
        ({"trusted-host": "a b"}, {"UV_INSECURE_HOST": "a b"}),
        # what pip only warns of would stop uv
        ({"find-links": "/nowhere", "extra-index-url": "file:///nowhere/simple"}, {}),
        ({"no-cache-dir": "1"}, {}),
    ],
)
def test_each_setting_has_its_word(pip: dict[str, str], uv: dict[str, str]) -> None:
    assert translated(pip) == uv


def test_a_local_index_is_kept_where_it_exists(tmp_path: Path) -> None:
    (tmp_path / "with space").mkdir()
    index = (tmp_path / "with space").as_uri()
    assert translated({"extra-index-url": index})["UV_EXTRA_INDEX_URL"] == index
