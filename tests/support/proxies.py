"""nginx and haproxy as reverse proxies on loopback, each a process with a configuration of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.daemons import LOOPBACK
from tests.support.host import Host
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.until import until

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream gateway {{ server {target}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""
HAPROXY = """
global
  maxconn 1000
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend clients
  bind 127.0.0.1:{port}
  default_backend gateway
backend gateway
  http-reuse always
  server gateway {target}
"""
PROXIES = {"nginx": (NGINX, ["nginx", "-c"]), "haproxy": (HAPROXY, ["haproxy", "-db", "-f"])}


def installed(name: str) -> bool:
    return shutil.which(PROXIES[name][1][0]) is not None


def proxy(host: Host, name: str, target: str) -> str:
    """The address of a proxy that passes everything to `target`, over few connections that it keeps. `host` ends it."""
    text, command = PROXIES[name]
    folder, port = host.folder / name, free_port()
    folder.mkdir()
    config = folder / "config"
    config.write_text(text.format(folder=folder, target=target, port=port))
    process = Process(name, [*command, str(config)], Path(folder / "log"))
    host.processes.append(process)
    process.start()
    until(lambda: _listens(process, port), what=f"{name} listens")
    return f"{LOOPBACK}:{port}"


def _listens(process: Process, port: int) -> bool:
    assert process.running, process.log
    entry = f":{port:04X} 00000000:0000 0A"
    return entry in Path("/proc/net/tcp").read_text()
