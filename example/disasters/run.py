#!/usr/bin/python3
"""See run.sh."""
import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "nginx_firewall"))
from nginx import Failure, Server, await_that, end_process, require  # noqa: E402

# Kind, what happened, what is asked, the rule that the extension is refused by.
DISASTERS = [
    ("loop", "an endless loop: a CDN's nginx stood still", "a*b", "CFG007"),
    ("overflow", "a buffer overflow: CVE-2021-44790, Apache httpd", "020-022", "MEM002"),
    ("stack", "a stack overflow: CVE-2024-31449, Redis", "-2147483648", "STK005"),
]
KINDS = [kind for kind, *_ in DISASTERS]
PEER_MODULES = "usr/lib/nginx/modules"


def say(text):
    print(f"      {text}", flush=True)


def check_outage(server, kind, target):
    """The request takes the server down: it stands still, or the worker dies and with it whatever it was serving."""
    require(server.get("/")[0] == 200, "nginx does not serve")
    worker = server.workers()[0]
    status, body = server.get(target, limit_s=1)
    require(status == 0, f"{target} was survived: {status} {body}")
    if kind == "loop":
        require(server.get("/", limit_s=2)[0] == 0, "nginx still serves others")
        require(server.workers() == [worker], "the worker is another")
        say(f"asked for {target}: no answer, and none to anybody else: the worker spins")
        os.kill(worker, signal.SIGKILL)  # ours; it hears nothing softer
        return
    log = server.directory / "error.log"
    died = re.compile(rf"worker process {worker} exited on signal (\d+)")
    await_that(lambda: died.search(log.read_text()), "the worker's end")
    say(f"asked for {target}: worker {worker} killed by signal {died.search(log.read_text()).group(1)}")


def run_native(kind, target, options, directory):
    module = options.out / "ngx_http_disaster_module.so"
    server = Server(directory, top=f"load_module {module};", server=f"location /disaster {{ disaster {kind}; }}")
    try:
        check_outage(server.start(), kind, f"/disaster?{target}")
    finally:
        server.stop()


def run_lua(kind, target, options, directory):
    modules = options.peers / PEER_MODULES if options.peers else None
    if modules is None or not (modules / "ngx_http_lua_module.so").exists():
        say("as Lua: SKIPPED: needs libnginx-mod-http-lua, unpacked (scripts/unpack-packages.sh disasters, which `make disasters` runs)")
        return
    server = Server(directory, top=f"load_module {modules}/ndk_http_module.so;\nload_module {modules}/ngx_http_lua_module.so;",
                    http=f'lua_package_path "{options.peers}/usr/share/lua/5.1/?.lua;;";',
                    server=f"location /disaster {{ content_by_lua_file {HERE}/{kind}.lua; }}",
                    environment={"LD_LIBRARY_PATH": str(options.peers / "usr/lib/x86_64-linux-gnu")})
    try:
        check_outage(server.start(), kind, f"/disaster?{target}")
    finally:
        server.stop()


class Extensions:
    """A daemon of our own, and the policy's three extensions under it: one with its mistake, or all put right."""

    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        runtime = directory / "run"
        runtime.mkdir(mode=0o700)
        self.environment = {**os.environ, "BPFTIME_RUNTIME_DIR": str(runtime)}

    def policy(self, wrong):
        """The policy among its objects; `wrong`: the extension with its mistake, "" for none."""
        place = self.directory / (wrong or "right")
        place.mkdir()
        for name in ("disasters.policy.yaml", "nginx.eim.o"):
            shutil.copy(self.options.out / name, place / name)
        for kind in KINDS:
            shutil.copy(self.options.out / (f"{kind}.bpf.o" if kind == wrong else f"{kind}.fixed.bpf.o"), place / f"{kind}.bpf.o")
        return place / "disasters.policy.yaml"

    def run(self, *arguments):
        done = subprocess.run([self.options.bpftime, *map(str, arguments)], env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60, check=False)
        return done.returncode, done.stdout.decode()

    def stop(self):
        self.run("daemon", "stop")

    def refused(self, kind, rule, server):
        """None of the three runs, for this reason; its developer is told the line, the reason and what to do."""
        policy = self.policy(kind)
        status, said = self.run("extend", policy, "--pid", server.workers()[0])
        refusals = [line for line in said.splitlines() if "refused" in line]
        require(status == 4 and len(refusals) == 1 and f"refused {kind} " in refusals[0] and rule in refusals[0] and
                f"{kind}.bpf.c:" in refusals[0], f"not refused by {rule}: {status} {said}")
        status, said = self.run("eim", "check", policy.parent / f"{kind}.bpf.o", "--policy", policy)
        require(status == 4 and f"error[{rule}]" in said, f"not refused by {rule}: {said}")
        for needed in (f"{kind}.bpf.c:", "= help"):
            require(needed in said, f"the message has no {needed}: {said}")
        return [line for line in said.splitlines()[2:-1] if "= path" not in line and "= linux" not in line]

    def put_right(self, target, server):
        """The mistakes put right: taken, and the server lives through the request."""
        worker = server.workers()[0]
        said = self.directory / "extend.said"
        with open(said, "wb") as out:
            tool = subprocess.Popen([self.options.bpftime, "extend", str(self.policy("")), "--pid", str(worker)], env=self.environment,
                                    stdout=out, stderr=out)
        try:
            await_that(lambda: tool.poll() is not None or "running in" in said.read_text(), "the extensions", 60)
            require(tool.poll() is None, f"refused: {said.read_text()[-2000:]}")
            for asked in (target, "/"):
                require(server.get(asked)[0] == 200, f"{asked} is not served")
            require(server.workers() == [worker], "the worker died")
        finally:
            end_process(tool, signal.SIGINT)
        hits = "hits: " + ", ".join(f"{kind} 2" for kind in KINDS)
        require(hits in said.read_text(), f"not {hits}: {said.read_text()}")


def run_extension(kind, target, rule, options, directory):
    extensions = Extensions(options, directory)
    server = Server(directory / "nginx", before=[options.bpftime, "start"], environment=extensions.environment)
    try:
        server.start()
        for line in extensions.refused(kind, rule, server):
            say(f"  {line}")
        require(server.get(f"/?{target}")[0] == 200, "nginx does not serve")
        say("as an extension: refused with this, and nginx serves on")
        extensions.put_right(f"/?{target}", server)
        say("put right: taken, and nginx serves what was fatal before")
    finally:
        server.stop()
        extensions.stop()


def main():
    parser = argparse.ArgumentParser(usage="run.sh [--bpftime COMMAND] [--peers DIR]")
    parser.add_argument("--out", required=True, type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--peers", type=lambda text: pathlib.Path(text).resolve(), default=HERE.parent.parent / "build/packages")
    parser.add_argument("--bpftime", default=shutil.which("bpftime"))
    options = parser.parse_args()
    if not options.bpftime:
        print("SKIPPED: needs the bpftime command: --bpftime, or on PATH")
        return 77
    began = time.monotonic()
    for kind, what, target, rule in DISASTERS:
        print(f"==> {what}", flush=True)
        with tempfile.TemporaryDirectory(prefix=f"disaster-{kind}-") as name:
            directory = pathlib.Path(name)
            directory.chmod(0o755)
            for part in ("native", "lua", "extension"):
                (directory / part).mkdir(mode=0o755)
            try:
                print("    as a native module", flush=True)
                run_native(kind, target, options, directory / "native")
                if (HERE / f"{kind}.lua").exists():
                    print("    as a script", flush=True)
                    run_lua(kind, target, options, directory / "lua")
                print("    as an extension", flush=True)
                run_extension(kind, target, rule, options, directory / "extension")
            except Failure as failure:
                print(f"error: {kind}: {failure}", file=sys.stderr)
                return 1
    print(f"==> done: three disasters for the server, none with extensions ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
