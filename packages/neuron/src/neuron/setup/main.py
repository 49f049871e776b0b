"""`neuron-setup`: install, status, rollback. What it does to the disk is in `build` and `environments`."""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from cortex_core.config import ConfigError, load_neuron
from neuron.hardware.probe import driver_present
from neuron.installed import CURRENT
from neuron.main import CONFIG_ERROR, DEFAULT_CONFIG
from neuron.setup.build import Failed, Recipe, build, recipe
from neuron.setup.environments import Environments
from neuron.setup.progress import Progress

DISK_GB = {"cpu": 6, "cuda": 16}
"""What has to be free: the archives and what they unpack to, side by side."""
NEXT = "the neuron uses it from its next start on: systemctl restart neuron"


def parser() -> argparse.ArgumentParser:
    """Also what the manual page is made from."""
    made = argparse.ArgumentParser(
        prog="neuron-setup",
        description="Give this neuron its engine, vLLM, in an environment of its own: every package at the version "
        "that was tested, its hash checked. It is built beside the one in use; once tried, a link is switched.",
        epilog="Run by root it works as the user that owns the state folder. pip's own settings (PIP_INDEX_URL, "
        "PIP_FIND_LINKS, PIP_NO_INDEX) say where packages come from, on a host without the internet too. "
        "Exit codes: 0 done, 1 failed, 3 configuration invalid, 130 interrupted.",
    )
    made.add_argument(
        "action", nargs="?", choices=["install", "status", "rollback"], default="install",
        help="install (the default), tell what is there, or put the one before in use again",
    )  # fmt: skip
    made.add_argument("--engine", choices=["cuda", "cpu"], help="default: cuda where there is an NVIDIA driver")
    made.add_argument("--config", type=Path, help=f"neuron.toml (default: {DEFAULT_CONFIG} if it is there)")
    made.add_argument("--yes", action="store_true", help="do not ask")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    path = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    try:
        state_dir = Path(load_neuron(path).neuron.state_dir)
    except ConfigError as error:
        _say(f"neuron-setup: {error}", sys.stderr)
        return CONFIG_ERROR
    try:
        become_owner(state_dir)
        environments = Environments((state_dir / CURRENT).parent)
        if options.action == "status":
            return status(environments)
        if options.action == "rollback":
            return roll_back(environments)
        return install(environments, recipe(options.engine or found()), ask=not options.yes)
    except (Failed, OSError) as error:
        _say(f"neuron-setup: {error}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("\nneuron-setup: interrupted; what was in use is in use", sys.stderr)
        return 130


def install(environments: Environments, wanted: Recipe, *, ask: bool) -> int:
    """Build what is wanted beside what is there, and switch. Raises Failed, with nothing changed."""
    folder = environments.folder / wanted.name
    if folder in environments.all():
        environments.switch(folder)
        _say(f"{wanted.name} is there already, and in use.")
        return 0
    environments.folder.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(environments.folder).free / 1e9
    count = sum(len(lock.names) for lock in wanted.locks)
    _say(f"vLLM {wanted.version} for {wanted.engine}: {count} packages into {folder} ({free_gb:.0f} GB free there)")
    if free_gb < DISK_GB[wanted.engine]:
        raise Failed(f"{DISK_GB[wanted.engine]} GB have to be free at {environments.folder}")
    if ask and input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        _say("Nothing was done.")
        return 1
    with Progress(sys.stdout) as progress:
        build(wanted, folder, progress.tell)
    environments.switch(folder)
    for path in environments.tidy():
        _say(f"{path.name}: removed")
    _say(f"{wanted.name} is in use; {NEXT}")
    return 0


def roll_back(environments: Environments) -> int:
    before = environments.roll_back()
    if before is None:
        raise Failed("there is no environment to go back to")
    _say(f"{before.name} is in use again; {NEXT}")
    return 0


def status(environments: Environments) -> int:
    every = environments.all()
    for path, stamp in every.items():
        use = "in use" if path == environments.current else "previous" if path == environments.previous else "unused"
        _say(f"{path.name}: vLLM {stamp.version} for {stamp.engine}, Python {stamp.python}, {use}")
    if not every:
        _say(f"no engine in {environments.folder}; neuron-setup installs one")
    return 0


def found() -> str:
    return "cuda" if driver_present() else "cpu"


def become_owner(state_dir: Path) -> None:
    """As root, go on as the service's own user: nothing that is downloaded runs as root."""
    if os.geteuid() != 0 or not state_dir.is_dir():
        return
    owner = state_dir.stat().st_uid
    if owner != 0:
        user = pwd.getpwuid(owner)
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(owner)
        os.environ["HOME"] = str(state_dir)
        os.umask(0o022)


def _say(text: str, to: TextIO | None = None) -> None:
    out = to or sys.stdout
    out.write(text + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
