"""`cortex serve`: one gateway, or several in processes of their own."""

from __future__ import annotations

import logging

from cortex_core.config import Catalogue, ConfigError, CortexConfig
from cortex_core.http import run
from cortex_core.logs import set_up_logs
from cortex_gateway.serving.life import Service
from cortex_gateway.serving.processes import serve_processes
from cortex_gateway.serving.server import serve

log = logging.getLogger(__name__)


def main(config: CortexConfig, catalogue: Catalogue) -> int:
    """Serve until a signal; the process's exit status."""
    set_up_logs()
    course = serve if config.gateway.processes == 1 else serve_processes
    try:
        run(course(config, catalogue, Service(config, catalogue)))
    except (OSError, ConfigError) as error:  # a port that is taken, an address that is not ours, a wrong certificate
        log.error("%s", error)
        return 1
    return 0
