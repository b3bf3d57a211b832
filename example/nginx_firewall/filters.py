"""The same firewall in different hands. Each filter says what it needs, what nginx is told, and how its counters are read.

    none        no filter
    module      C, inside nginx
    observe     BPF at ngx_http_handler under bpftime: counts, and can do nothing else
    lua, njs    as scripts
    wasm        the C engine as wasm, made into C by wasm2c, inside a module
    extension   BPF that blocks, as its policy allows: needs `bpftime load --policy`
"""
import json
import os
import pathlib
import re
import signal
import subprocess

from nginx import HERE, Failure, Server, await_that, end_process, missing, require

TOO_LONG = 63
MODULES = "usr/lib/nginx/modules"


class Filter:
    name = ""
    blocks = True
    counts = True  # by rule
    edits = None  # rules can be changed while it serves: True by the same workers, False by new ones

    def __init__(self, out, peers=None, bpftime=None):
        """out: where the Makefile put things. peers: where the packages of Lua, njs and wabt are unpacked. bpftime: the command."""
        self.out, self.peers, self.bpftime = pathlib.Path(out).resolve(), peers and pathlib.Path(peers).resolve(), bpftime
        self.server = None

    def lacks(self):
        """What is missing to run this one, or None."""
        return missing("nginx", "curl", "wrk")

    def settings(self):
        """Keyword arguments of Server."""
        return {}

    def prepare(self, directory):
        """Before nginx starts."""

    def start(self, directory, **more):
        self.prepare(pathlib.Path(directory))
        try:
            self.server = Server(directory, **self.settings(), **more).start()
        except Failure:
            self.stop()
            raise
        return self.server

    def stop(self):
        if self.server is not None:
            self.server.stop()

    def verdicts(self):
        """Requests by number of rule, 0 for those that passed."""
        return {}

    def change_rules(self, table):
        """Makes the running server use another table."""

    def refuse_rules(self, table):
        """Offers the running server a table that is none; returns when it has been refused."""


class NoFilter(Filter):
    name = "none"
    blocks = counts = False


class Module(Filter):
    name = "module"
    object = "ngx_http_firewall_module.so"
    edits = False

    def lacks(self):
        return super().lacks() or (None if (self.out / self.object).exists() else str(self.out / self.object))

    def prepare(self, directory):
        self.table = directory / "rules.table"
        self.table.parent.mkdir(parents=True, exist_ok=True)
        self.table.write_bytes((self.out / "rules.table").read_bytes())

    def settings(self):
        return {"top": f"load_module {self.out / self.object};", "http": f"firewall_rules {self.table};",
                "server": "location = /firewall-status { firewall_status; }"}

    def verdicts(self):
        status, body = self.server.get("/firewall-status")
        require(status == 200, f"{self.name}: /firewall-status answers {status}")
        return {int(line.split()[0]): int(line.split()[1]) for line in body.splitlines()}

    def change_rules(self, table):
        """New workers: a module reads its table with the configuration, and its counters begin anew."""
        self.table.write_bytes(pathlib.Path(table).read_bytes())
        self.server.reload()

    def refuse_rules(self, table):
        self.table.write_bytes(pathlib.Path(table).read_bytes())
        done = subprocess.run(self.server.command() + ["-t"], stderr=subprocess.PIPE, check=False)
        require(done.returncode != 0 and b"is no table" in done.stderr, f"a broken table is taken: {done.stderr.decode()}")


class Wasm(Module):
    name = "wasm"
    object = "ngx_http_firewall_wasm_module.so"


class Observe(Filter):
    name = "observe"
    blocks = False
    edits = True
    program = "firewall"
    tool = runtime = None

    def lacks(self):
        if not self.bpftime or missing(self.bpftime):
            return self.bpftime or "the bpftime command: --bpftime, or on PATH"
        return super().lacks() or (None if (self.out / self.program).exists() else str(self.out / self.program))

    def bpftime_run(self, *arguments):
        return subprocess.run([self.bpftime, *arguments], env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)

    def load_options(self):
        """As scripts/demo.sh: where bpf(2) cannot be used, no kernel verifies."""
        doctor = re.sub(r"\s", "", self.bpftime_run("doctor", "--json").stdout.decode())
        if '"name":"bpf(2)","state":"ok"' in doctor:
            return []
        print("note: bpf(2) cannot be used here, so the kernel's verifier cannot check the program: --unsafe-unverified")
        return ["--unsafe-unverified"]

    def prepare(self, directory):
        self.runtime = directory / "run"
        self.runtime.mkdir(parents=True, mode=0o700)
        self.environment = {**os.environ, "BPFTIME_RUNTIME_DIR": str(self.runtime)}
        self.table = directory / "rules.table"
        self.table.write_bytes((self.out / "rules.table").read_bytes())
        self.said = directory / "firewall.err"
        with open(self.said, "wb") as error:
            self.tool = subprocess.Popen([self.bpftime, "load", *self.load_options(), str(self.out / self.program), "--table",
                                          str(self.table)], env=self.environment, stdout=subprocess.PIPE, stderr=error)
        try:
            await_that(lambda: self.tool.poll() is not None or "attached" in self.said.read_text(), "the tool", 60)
            require(self.tool.poll() is None, f"the tool ended: {self.said.read_text()}")
        except Failure:
            self.stop()
            raise

    def settings(self):
        return {"before": [self.bpftime, "start"], "environment": {"BPFTIME_RUNTIME_DIR": str(self.runtime)}}

    def verdicts(self):
        self.tool.send_signal(signal.SIGUSR1)
        said = json.loads(self.tool.stdout.readline())
        require(said["unreadable"] == 0, f"{said['unreadable']} requests could not be read")
        return {int(verdict): count for verdict, count in said["verdicts"].items()}

    def offer(self, table, answer):
        before = self.said.read_text().count(answer)
        self.table.write_bytes(pathlib.Path(table).read_bytes())
        self.tool.send_signal(signal.SIGHUP)
        await_that(lambda: self.said.read_text().count(answer) > before, f"the tool's \"{answer}\"")

    def change_rules(self, table):
        """Same workers, not one request unobserved: the tool writes the maps."""
        self.offer(table, " rules\n")

    def refuse_rules(self, table):
        self.offer(table, "not a table")

    def stop(self):
        super().stop()
        if self.tool is not None:
            end_process(self.tool)
            self.tool.stdout.close()
            self.tool = None
        if self.runtime is not None:
            self.bpftime_run("daemon", "stop")


class Extension(Observe):
    """The one that blocks: the same tool with the other program, under its policy."""
    name = "extension"
    program = "firewall_block"
    blocks = True

    def lacks(self):
        if self.bpftime and not missing(self.bpftime):
            help_ = subprocess.run([self.bpftime, "load", "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            if b"--policy" not in help_.stdout:
                return "`bpftime load --policy`, which this bpftime does not have yet"
        return super().lacks()

    def load_options(self):
        return ["--policy", str(self.out / "firewall.policy.yaml")]


class Classes(Extension):
    """All of the policy's extensions in a running nginx, put there by the command alone."""
    name = "classes"
    program = "classes.bpf.o"
    blocks = counts = False

    def policy(self):
        return str(self.out / "firewall.policy.yaml")

    def prepare(self, directory):
        self.runtime = directory / "run"
        self.runtime.mkdir(parents=True, mode=0o700)
        self.environment = {**os.environ, "BPFTIME_RUNTIME_DIR": str(self.runtime)}
        self.said = directory / "extend.out"

    def settings(self):
        return {}

    def extend(self):
        workers = [argument for pid in self.server.workers() for argument in ("--pid", str(pid))]
        with open(self.said, "wb") as said:
            self.tool = subprocess.Popen([self.bpftime, "extend", self.policy(), *workers], env=self.environment,
                                         stdout=said, stderr=said)
        everywhere = 2 * len(self.server.workers())  # two entries
        await_that(lambda: self.tool.poll() is not None or self.said.read_text().count("running in") == everywhere, "the extensions", 60)
        require(self.tool.poll() is None, f"extend ended: {self.said.read_text()}")

    def end_extend(self, last):
        """Ctrl-C; its last hits are to have this."""
        self.tool.send_signal(signal.SIGINT)
        status, self.tool = self.tool.wait(60), None
        require(status == 0 and last in self.said.read_text(), f"extend ended with {status}: {self.said.read_text()}")

    def stop(self):
        if self.tool is not None:
            self.tool.kill()
            self.tool.wait()
            self.tool = None
        super().stop()


class Lua(Filter):
    name = "lua"

    def lacks(self):
        if self.peers is None or not (self.peers / MODULES / "ngx_http_lua_module.so").exists():
            return "libnginx-mod-http-lua, unpacked"
        return super().lacks()

    def settings(self):
        # Beside wrk's LuaJIT, with which this one conflicts as a package: found by path.
        lua = self.peers / "usr/share/lua/5.1"
        return {"top": f"load_module {self.peers / MODULES}/ndk_http_module.so;\n"
                       f"load_module {self.peers / MODULES}/ngx_http_lua_module.so;",
                "http": f'lua_package_path "{HERE}/?.lua;{self.out}/?.lua;{lua}/?.lua;{self.peers}/usr/share/lua/5.1/?/init.lua;;";\n'
                        "  lua_shared_dict firewall 1m;\n  init_by_lua_block { firewall = require 'firewall' }\n"
                        "  access_by_lua_block { firewall.check() }",
                "server": "location = /firewall-status { content_by_lua_block { firewall.status() } }",
                "environment": {"LD_LIBRARY_PATH": str(self.peers / "usr/lib/x86_64-linux-gnu")}}

    def verdicts(self):
        """Those that passed are not counted."""
        status, body = self.server.get("/firewall-status")
        require(status == 200, f"lua: /firewall-status answers {status}")
        numbers = rule_numbers()
        return {numbers[line.split()[0]]: int(line.split()[1]) for line in body.splitlines()}


class Njs(Filter):
    name = "njs"
    counts = False

    def lacks(self):
        if self.peers is None or not (self.peers / MODULES / "ngx_http_js_module.so").exists():
            return "libnginx-mod-http-js, unpacked"
        return super().lacks()

    def settings(self):
        return {"top": f"load_module {self.peers / MODULES}/ngx_http_js_module.so;",
                "http": f"js_path {self.out};\n  js_import firewall from {HERE}/firewall.js;\n  js_set $refused firewall.check;",
                "server": "if ($refused) { return 403; }"}


FILTERS = {each.name: each for each in (NoFilter, Module, Observe, Extension, Classes, Lua, Njs, Wasm)}


def rule_numbers(rules=HERE / "rules.txt"):
    """Number by name."""
    text = subprocess.run(["/usr/bin/python3", HERE / "rules.py", "names", rules], check=True, stdout=subprocess.PIPE).stdout
    numbers = {line.split()[1]: int(line.split()[0]) for line in text.decode().splitlines()}
    numbers["too-long"] = TOO_LONG
    return numbers
