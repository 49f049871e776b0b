"""The stage: build, lint, install, look, run, upgrade, remove. Each step says what it found."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tools.rpm import build, sources
from tools.rpm.root import Root, overlay, repository
from tools.rpm.services import Service, ask, sockets
from tools.rpm.steps import Failed, Steps, run, tool
from tools.tinymodel.fleet import CHECKPOINT, make_models

NAMES = ("cortex", "helexa-neuron")
OURS = ("cortex", "neuron", "helexa")
SECURITY = {"cortex.service": 2.0, "neuron.service": 4.5}
MODES = {
    "/etc/cortex": "750 root:cortex",
    "/etc/cortex/cortex.toml": "640 root:cortex",
    "/etc/cortex/models.toml": "640 root:cortex",
    "/etc/neuron": "750 root:neuron",
    "/etc/neuron/neuron.toml": "640 root:neuron",
}
EDIT = 'kind = "sim"'
MODEL = "tiny-beast"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 16}


def prove(folder: Path, python: str, *, long: bool) -> int:
    steps = Steps()
    abi = run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    first: list[Path] = []
    second: list[Path] = []
    if not steps.take("build", lambda: _build(folder, python, first, 1)):
        return steps.end()
    steps.take("rpmlint", lambda: _rpmlint(first))
    steps.take("build again", lambda: _build(folder, python, second, 2))
    with ExitStack() as opened:
        root: list[Root] = []
        if not steps.take("root", lambda: _mount(opened, root)):
            return steps.end()
        (into,) = root
        steps.take("install", lambda: _install(into, folder / "repo-1", first, abi))
        steps.take("files", lambda: _files(into))
        steps.take("units", lambda: _units(into))
        steps.take("security", lambda: _security(into))
        steps.take("accounts", lambda: _accounts(into))
        steps.take("firewalld", lambda: _firewalld(into))
        steps.take("documents", lambda: _documents(into))
        steps.take("no engine", lambda: _without_engine(into))
        steps.take("simulated", lambda: _pair(into, EDIT))
        steps.take("activation", lambda: _activation(into))
        if long:
            steps.take("real engine", lambda: _engine(into, folder))
        steps.take("upgrade", lambda: _upgrade(into, folder / "repo-2", second, abi))
        steps.take("removal", lambda: _removal(into))
    return steps.end()


# --------------------------------------------------------------------------------------------------------- the packages


def _build(folder: Path, python: str, into: list[Path], release: int) -> str:
    tool("rpmbuild", "rpm")
    into += build.rpms(folder / "build", python, release)
    return ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in into)


def _rpmlint(rpms: list[Path]) -> str:
    tool("rpmlint")
    done = subprocess.run(
        ["rpmlint", "--config", sources.ROOT / "rpm/rpmlint.toml", *rpms], capture_output=True, text=True, check=False
    )
    found = [line for line in done.stdout.splitlines() if re.search(r": [EW]: ", line)]
    if found:
        raise Failed(f"{len(found)} findings that no filter knows:\n    " + "\n    ".join(found[:15]))
    filters = (sources.ROOT / "rpm/rpmlint.toml").read_text().count("\n    '")
    return f"nothing beyond {filters} filters"


@contextmanager
def _listening(addresses: list[str]) -> Iterator[list[int]]:
    with ExitStack() as opened:
        yield [
            opened.enter_context(socket.create_server((host, int(port)))).fileno()
            for host, _, port in (address.rpartition(":") for address in addresses)
        ]


def _mount(opened: ExitStack, into: list[Root]) -> str:
    into.append(opened.enter_context(overlay()))
    return "this machine's files through an overlay, a network and a package database of its own"


def _dnf(root: Root, repo: Path, *action: str) -> str:
    tool("dnf")
    options = ["-y", "--quiet", f"--installroot={root.path}", "--releasever=1", f"--repofrompath=ours,file://{repo}"]
    options += ["--repo=ours", "--nogpgcheck", f"--setopt=cachedir={repo}/cache", "--setopt=reposdir=/nowhere"]
    options += ["--setopt=varsdir=/nowhere", f"--setopt=logdir={repo}", "--noplugins"]
    return run(["dnf", *options, *action])


def _rpm(root: Root, *arguments: str) -> str:
    return run(["rpm", f"--root={root.path}", *arguments])


def _install(root: Root, repo: Path, rpms: list[Path], abi: str) -> str:
    repo.mkdir(parents=True)
    repository(repo, rpms, abi)
    _dnf(root, repo, "install", *NAMES)
    installed = _rpm(root, "-qa").split()
    if not all(any(one.startswith(name) for one in installed) for name in NAMES):
        raise Failed(f"dnf has not installed them: {installed}")
    size = sum(map(int, _rpm(root, "-q", "--queryformat", "%{SIZE} ", *NAMES).split()))
    return f"{', '.join(sorted(installed))}; scriptlets in a chroot; {size / 1e6:.0f} MB together"


def _files(root: Root) -> str:
    for path, wanted in MODES.items():
        found = root.run("stat", "-c", "%a %U:%G", path).strip()
        if found != wanted:
            raise Failed(f"{path} is {found}, not {wanted}")
    if changed := _rpm(root, "-V", *NAMES).strip():
        raise Failed(f"rpm -V: {changed}")
    version = root.run("/usr/bin/cortex", "version").strip()
    listed = _rpm(root, "-ql", *NAMES).split()
    built = [path for path in listed if path.endswith((".pyc", ".py"))]
    return f"{version}; {len(listed)} files ({len(built)} of Python), rpm -V is silent, /etc is 0750 and 0640"


def _upgrade(root: Root, repo: Path, rpms: list[Path], abi: str) -> str:
    config = root.path / "etc/cortex/cortex.toml"
    edited = config.read_text().replace("hold_s = 240.0", "hold_s = 200.0", 1)
    config.write_text(edited)
    repo.mkdir(parents=True)
    repository(repo, rpms, abi)
    _dnf(root, repo, "upgrade", *NAMES)
    releases = _rpm(root, "-q", "--queryformat", "%{RELEASE} ", *NAMES).split()
    if set(releases) != {"2"} or config.read_text() != edited:
        raise Failed(f"releases {releases}; the edited file {'stays' if config.read_text() == edited else 'is gone'}")
    changed = {line.split()[-1] for line in _lines_of_verify(root)}
    if changed != {"/etc/cortex/cortex.toml", "/etc/neuron/neuron.toml"}:
        raise Failed(f"rpm -V tells of {changed}")
    return "both at release 2, the edited files kept, rpm -V tells of them alone"


def _lines_of_verify(root: Root) -> list[str]:
    done = subprocess.run(
        ["rpm", f"--root={root.path}", "-V", *NAMES],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip().splitlines()


def _removal(root: Root) -> str:
    _rpm(root, "-e", *NAMES)
    kept = {"/etc/cortex", "/etc/cortex/cortex.toml.rpmsave", "/etc/neuron", "/etc/neuron/neuron.toml.rpmsave"}
    state = ("/var/lib/cortex", "/var/lib/neuron", "/run/")
    left = [path for path in root.written(OURS) if path not in kept and not path.startswith(state)]
    if left:
        raise Failed(f"{len(left)} left: {left[:10]}")
    return "nothing left but the edited files as .rpmsave, and state"


# ----------------------------------------------------------------------------------------------------------- the system


def _units(root: Root) -> str:
    tool("systemd-analyze", "systemd")
    units = ("cortex.service", "cortex.socket", "neuron.service")
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={root.path}", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    about_ours = [line for line in done.stderr.splitlines() if any(name in line for name in OURS)]
    if done.returncode or about_ours:
        raise Failed(f"systemd-analyze verify: {done.stderr.strip()}")
    return f"{', '.join(units)} verified by systemd"


def _security(root: Root) -> str:
    tool("systemd-analyze", "systemd")
    scores = []
    for unit, limit in SECURITY.items():
        said = run(["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--root={root.path}", unit])
        found = re.search(r"exposure level for \S+: ([\d.]+) (\w+)", said)
        if found is None or float(found[1]) > limit:
            raise Failed(f"{unit}: {found[0] if found else said}, more than {limit}")
        scores.append(f"{unit} {found[1]} {found[2]} (at most {limit})")
    return ", ".join(scores)


def _accounts(root: Root) -> str:
    for program in ("systemd-sysusers", "systemd-tmpfiles"):
        tool(program, "systemd")
    run(["systemd-sysusers", f"--root={root.path}", "cortex.conf", "neuron.conf"])
    run(["systemd-tmpfiles", f"--root={root.path}", "--create", "cortex.conf", "neuron.conf"])
    found = {}
    for user, home in (("cortex", "/var/lib/cortex"), ("neuron", "/var/lib/neuron")):
        entry = root.run("getent", "passwd", user).strip().split(":")
        if entry[5:] != [home, "/usr/sbin/nologin"]:
            raise Failed(f"{user}: {entry}")
        found[user] = root.run("id", "-nG", user).split()
    if not {"video", "render"} <= set(found["neuron"]):
        raise Failed(f"neuron is in {found['neuron']}")
    return f"cortex; neuron in {', '.join(found['neuron'])}; sysusers and tmpfiles agree"


def _firewalld(root: Root) -> str:
    tool("firewall-offline-cmd", "firewalld")
    said = []
    for service, ports in (("cortex", "31313/tcp 31314/tcp"), ("helexa-neuron", "13131/tcp")):
        info = root.run("firewall-offline-cmd", f"--info-service={service}")
        if f"ports: {ports}" not in info:
            raise Failed(info)
        said.append(f"{service} {ports}")
    return ", ".join(said)


def _documents(root: Root) -> str:
    tool("man", "man-db")
    pages = [path for path in _rpm(root, "-ql", *NAMES).split() if path.startswith("/usr/share/man/")]
    for page in pages:
        done = subprocess.run(
            ["man", "--warnings", "-l", f"{root.path}{page}"], capture_output=True, text=True, check=False
        )
        if done.stderr.strip() or ("SYNOPSIS" not in done.stdout and ".toml" not in page):
            raise Failed(f"{page}: {done.stderr.strip() or 'has no synopsis'}")
    script = "source /usr/share/bash-completion/completions/cortex; COMP_WORDS=(cortex st) COMP_CWORD=1; "
    completed = root.run("bash", "-c", script + "_cortex_completion cortex; echo ${COMPREPLY[@]}").split()
    if completed != ["status"]:
        raise Failed(f"`cortex st` completes to {completed}")
    return f"{len(pages)} manual pages without a warning; `cortex st` completes to `status`"


# --------------------------------------------------------------------------------------------------------- the programs


def _without_engine(root: Root) -> str:
    neuron = Service(root, "neuron")
    try:
        seconds = neuron.start()
        health = ask(13131, "/health")[1]
        problem = health["engines"][0]["problem"]
        if "run neuron-setup" not in problem:
            raise Failed(f"/health: {health}")
        setup = root.run("/usr/sbin/neuron-setup", "status").strip()
        code = neuron.stop()
    finally:
        neuron.kill()
    if code or "neuron-setup installs one" not in setup:
        raise Failed(f"ended with {code}; {setup}")
    return f"READY after {seconds:.1f} s, says: {problem[:42]}…"


def _pair(root: Root, engine: str, wait_s: float = 30.0) -> str:
    """A gateway and a neuron, started by their units' lines, and a request through both."""
    config = root.path / "etc/neuron/neuron.toml"
    text = re.sub(r'(?m)^kind = "\w+"', engine, config.read_text())
    config.write_text(re.sub(r"(?m)^# (?=\[\[devices|id = |memory_mb = )", "", text))
    if not (root.path / f"var/lib/neuron/models/{MODEL}").exists():
        _place_model(root)
    services = [Service(root, "neuron"), Service(root, "cortex")]
    try:
        starts = [service.start() for service in services]
        services[1].until("STATUS", "1 of 1 neurons up")
        status, answer = ask(31313, "/v1/chat/completions", CHAT, timeout_s=wait_s)
        if status != 200:
            raise Failed(f"{status}: {answer}")
        text = answer["choices"][0]["message"]["content"]
        told = services[0].until("STATUS", f"{MODEL} ready")
        shown = root.run("/usr/bin/cortex", "ps")
        codes = [service.stop() for service in reversed(services)]
    finally:
        for service in services:
            service.kill()
    if any(codes) or MODEL not in shown:
        raise Failed(f"ended with {codes}; cortex ps: {shown}")
    return f"READY after {starts[0]:.1f} and {starts[1]:.1f} s; answered {text!r}; STATUS={told}"


def _activation(root: Root) -> str:
    """As systemd does for cortex.socket: the ports are open before the gateway is, and it finds them as 3 and 4."""
    addresses = sockets(root.path / "usr/lib/systemd/system/cortex.socket")
    with _listening(addresses) as fds:
        program = 'LISTEN_PID=$$ LISTEN_FDS=2 exec /usr/bin/cortex serve 3<&"$1" 4<&"$2"'
        for fd in fds:
            os.set_inheritable(fd, True)
        command = root.command(["bash", "-c", program, "bash", *fds], "cortex")
        with (root.path / "tmp/activation.log").open("wb") as log:
            gateway = subprocess.Popen(command, pass_fds=fds, stdout=log, stderr=log)
        try:
            status, answer = ask(31313, "/")  # in the backlog until it serves
            metrics, _ = 200, ask_text(31314, "/metrics")
        finally:
            gateway.terminate()
            code = gateway.wait(20)
    if status != 200 or metrics != 200 or code:
        raise Failed(f"{status} {answer}, ended with {code}")
    return f"a request that came before the gateway was answered by it, on {' and '.join(addresses)}"


def ask_text(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def _engine(root: Root, folder: Path) -> str:
    """neuron-setup as an operator runs it, then the same model on the real engine; then back and forth."""
    state = folder / "state"
    state.mkdir()
    run(["mount", "--bind", state, root.path / "var/lib/neuron"])  # on disk: an engine is too big for memory
    root.run("chown", "neuron:neuron", "/var/lib/neuron")
    _place_model(root)
    began = time.monotonic()
    outside = ["nsenter", f"--net=/proc/{os.environ['CORTEX_RPM_NAMESPACE']}/ns/net"]
    setup = root.command(["/usr/sbin/neuron-setup", "--engine=cpu", "--yes"])
    print(run([*outside, *setup], timeout_s=900), end="")
    built_s = time.monotonic() - began
    status = root.run("/usr/sbin/neuron-setup", "status").strip()
    owner = root.run("stat", "-Lc", "%U", "/var/lib/neuron/engines/current/bin").strip()
    if "in use" not in status or owner != "neuron":
        raise Failed(f"{status}; of {owner}")
    said = _pair(root, 'kind = "vllm"', wait_s=300)
    if "beast" not in said:
        raise Failed(f"the trained model answers otherwise: {said}")
    return f"neuron-setup took {built_s:.0f} s, {status}; {said}"


def _place_model(root: Root) -> None:
    (root.path / "var/lib/neuron/models").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        make_models(CHECKPOINT, Path(folder))
        run(["cp", "-rL", f"{folder}/{MODEL}", root.path / "var/lib/neuron/models/"])
