"""One nginx in a directory of its own, for the examples and for the benchmark: Debian's binary, unmodified, workers as
www-data where we are root. Every wait has a deadline; nothing is left behind."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

BINARY = "/usr/sbin/nginx"
HERE = pathlib.Path(__file__).resolve().parent
DEADLINE_S = 20


class Failure(Exception):
    """A check that did not hold; its text says which."""


def require(holds, text):
    if not holds:
        raise Failure(text)


def await_that(holds, what, deadline_s=DEADLINE_S):
    """Until holds() is true."""
    end = time.monotonic() + deadline_s
    while not holds():
        require(time.monotonic() < end, f"{what}: not within {deadline_s} s")
        time.sleep(0.01)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_process(process, number=signal.SIGTERM):
    """Signals, waits, and takes harder means at the deadline. The exit status."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def title_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return b""


class Server:
    """main, top, http, server: lines for these parts of nginx.conf.in. before: what runs nginx, e.g. ["bpftime", "start"]."""

    def __init__(self, directory, main="", top="", http="", server="", workers=1, master=True, access_log=True, before=(), environment=None):
        self.directory = pathlib.Path(directory)
        self.port = free_port()
        self.before, self.environment = list(before), {**os.environ, **(environment or {})}
        self.process = None
        self.expected_workers = workers if master else 0
        for name in ("html", "temp"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "html/page.html").write_text("<p>hello</p>\n" * 80)
        values = {
            "USER": "user www-data;" if os.geteuid() == 0 else "",
            "MASTER": "on" if master else "off",
            "WORKERS": str(workers),
            "DIRECTORY": str(self.directory),
            "ACCESS_LOG": f"{self.directory}/access.log" if access_log else "off",
            "PORT": str(self.port), "TOP": f"{main}\n{top}", "HTTP": http, "SERVER": server,
        }
        text = (HERE / "nginx.conf.in").read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        self.config = self.directory / "nginx.conf"
        self.config.write_text(text)

    def command(self):
        return [BINARY, "-p", str(self.directory), "-c", str(self.config)]

    def start(self, deadline_s=DEADLINE_S):
        self.output = open(self.directory / "output", "wb")
        self.process = subprocess.Popen(self.before + self.command(), env=self.environment, stdin=subprocess.DEVNULL,
                                        stdout=self.output, stderr=subprocess.STDOUT)
        await_that(lambda: self.process.poll() is not None or self.listens(), "nginx", deadline_s)
        require(self.process.poll() is None, f"nginx ended: {self.last_words()}")
        await_that(lambda: len(self.workers()) == self.expected_workers, "nginx's workers")
        return self

    def last_words(self):
        said = ""
        for name in ("output", "error.log"):
            path = self.directory / name
            if path.exists():
                said += path.read_text(errors="replace")[-1500:]
        return said

    def listens(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def url(self, target="/"):
        return f"http://127.0.0.1:{self.port}{target}"

    def get(self, target, limit_s=10):
        """Status and body as curl has them; status 0: no answer."""
        done = subprocess.run(["curl", "-s", "-g", "--path-as-is", "-m", str(limit_s), "-w", "\n%{http_code}", self.url(target)],
                              stdout=subprocess.PIPE, check=False)
        body, _, status = done.stdout.decode(errors="replace").rpartition("\n")
        return int(status), body

    def statuses(self, targets):
        """The status of each target, asked one after the other by one curl."""
        config = "".join(f'url = "{self.url(target)}"\noutput = /dev/null\n' for target in targets)
        done = subprocess.run(["curl", "-s", "-g", "--path-as-is", "-m", "60", "-w", "%{http_code}\n", "-K", "-"],
                              input=config.encode(), stdout=subprocess.PIPE, check=False)
        return [int(line) for line in done.stdout.split()]

    def connections(self, targets, *options):
        """(status, connections made for it) of each target, asked one after the other by one curl."""
        command = ["curl", "-s", "-g", "--path-as-is", "-m", "60", "-w", "%{http_code} %{num_connects}\n", *options]
        for target in targets:
            command += ["-o", "/dev/null", self.url(target)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        return [tuple(int(word) for word in line.split()) for line in done.stdout.splitlines()]

    def wrk(self, target, duration_s=1, connections=8):
        """(requests wrk counted, those not answered with 2xx or 3xx). Any lost connection is a failure."""
        done = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", self.url(target)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        text = done.stdout.decode()
        require(done.returncode == 0 and "Socket errors" not in text, f"wrk: {text}")
        count = refused = 0
        for line in text.splitlines():
            if " requests in " in line:
                count = int(line.split()[0])
            if "Non-2xx" in line:
                refused = int(line.split(":")[1])
        return count, refused

    def workers(self):
        """Process ids of the workers that are not on their way out."""
        pid = self.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sorted(int(child) for child in children if title_of(child) == b"nginx: worker process")

    def log_lines(self):
        return (self.directory / "access.log").read_text().splitlines()

    def settled_lines(self):
        """The access log once it no longer lacks a request that has been answered: after a marker of our own."""
        marker = f"/settled-{time.monotonic_ns()}"
        self.get(marker)
        await_that(lambda: any(marker in line for line in self.log_lines()[-20:]), "the access log")
        return len(self.log_lines())

    def reload(self):
        before = set(self.workers())
        subprocess.run(self.command() + ["-s", "reload"], check=True, env=self.environment, stderr=subprocess.DEVNULL)
        await_that(lambda: not before & set(self.workers()) and len(self.workers()) == len(before), "the new workers")

    def stop(self):
        if self.process is None:
            return 0
        status = end_process(self.process, signal.SIGTERM)
        self.output.close()
        self.process = None
        return status


def missing(*programs):
    """The first of these programs that is not there, or None."""
    return next((program for program in programs if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin") is None), None)
