#!/usr/bin/env python3
"""eim_tutorials.py BINARY_DIR SOURCE [--user UID]: the tutorials of docs/eim.md, as their reader has them: what `cmake --install`
installs, an empty folder, the commands one after the other in one shell. Each line of a `text` block must be in what the `sh` block
before it printed. --user: as that user. Exit code 77: skipped, with the reason."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

DEADLINE_S = 110


def blocks(text):
    """(command text, [what its output has], title of its tutorial) of each sh block of the tutorials."""
    text = text[text.index("\n## Tutorials\n"):]
    found, title = [], ""
    for match in re.finditer(r"^### ([^\n]*)$|^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1]:
            title = match[1]
        elif match[2] == "sh":
            found.append((match[3], [], title))
        elif match[2] == "text":
            found[-1][1].extend(match[3].splitlines())
    return found


def main():
    user = int(sys.argv[sys.argv.index("--user") + 1]) if "--user" in sys.argv else None
    binary, source = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    if user is not None and os.getuid() != 0:
        print("SKIPPED: only root can run it as somebody else")
        return 77
    base = pathlib.Path(tempfile.mkdtemp(prefix="bpftime-tutorial-", dir="/tmp"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("BPFTIME", "XDG_", "LD_"))}
    prefix, home = base / "prefix", base / "home"
    home.mkdir()
    environment.update(PREFIX=str(prefix), HOME=str(home), TMPDIR=str(home), CCACHE_DISABLE="1",
                       PATH=f"{environment['PATH']}:{prefix}/", BPFTIME_RUNTIME_DIR=str(home / "run"))
    as_user = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    try:
        subprocess.run(["cmake", "--install", str(binary), "--prefix", str(prefix)], check=True, stdout=subprocess.DEVNULL)
        (home / "run").mkdir(mode=0o700)
        (home / "work").mkdir()
        if user is not None:
            base.chmod(0o755)
            for path in (home, home / "run", home / "work"):
                os.chown(path, user, user)
        return run(base, environment, as_user, blocks((source / "docs/eim.md").read_text()))
    finally:
        subprocess.run([prefix / "bpftime", "daemon", "stop"], env=environment, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=False, **as_user)
        shutil.rmtree(base, ignore_errors=True)


def typed(text):
    """The commands of a block, without the text of the files they write."""
    return re.sub(r"(<<'END')([^\n]*\n).*?^END\n", r"\1 …\2", text, flags=re.MULTILINE | re.DOTALL).splitlines()


def run(base, environment, as_user, commands):
    marker = "==== after block "
    script = "set -eu\n" + "".join(f"{text}\necho '{marker}{number}'\n" for number, (text, _, _) in enumerate(commands))
    began = time.monotonic()
    print(f"==> tutorials: the commands of docs/eim.md, one after the other, with what is installed (at most {DEADLINE_S} s)", flush=True)
    try:
        done = subprocess.run(["bash", "-c", script], cwd=base / "home/work", env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=DEADLINE_S, check=False, **as_user)
        output, status = done.stdout.decode(errors="replace"), done.returncode
    except subprocess.TimeoutExpired as late:
        output, status = (late.stdout or b"").decode(errors="replace"), "none: too late"
    wrong, rest, last = 0, output, ""
    for number, (text, expected, title) in enumerate(commands):
        if title != last:
            print(f"==> {title or 'Before the first'}")
        last = title
        said, found, rest = rest.partition(f"{marker}{number}\n")
        missing = [line for line in expected if line not in said]
        wrong += len(missing)
        if missing and found:
            print(f"error: block {number} did not say {missing}:\n{text}---\n{said}")
        if not found:
            print(f"error: block {number} ended with status {status}:\n{text}---\n{said}")
            return 1
        if not missing:
            print("".join(f"      $ {line}\n" for line in typed(text)) +
                  "".join(f"        {line}\n" for line in expected), end="")
    print(f"==> done: {len(commands)} steps; of {sum(len(step[1]) for step in commands)} lines the tutorials show, {wrong} were not printed "
          f"({time.monotonic() - began:.0f} s)")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
