"""One input in a process of its own: what it may cost and touch, and what became of it.

Rules. *Time*: what the process takes for itself, that is wall time less the time its main thread
stood in the queue for a processor; at most LIMIT_S more than the sound input of its kind takes.
*Memory*: the peak of its resident memory less what it was born with; at most LIMIT_BYTES. *Words*:
a printable line on stderr with exit code 2, and before it at most one remark. *Places*: writes
inside its own folder (and the cache, unless the input is a bundle), for a bundle no reads outside
the archive, no process, no network, nothing left behind.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retnet_bench import base
from retnet_bench.cli import main as cli

LIMIT_S = 2.0
LIMIT_BYTES = 500_000_000
WORDS = 500
CODES = {"check": (0, 1, 2, 3, 4), "verify": (0, 1, 2)}
"""Exit codes a verb may end with; others 0 and 2."""
HARD_BYTES = 3_000_000_000
"""Above LIMIT_BYTES: the last resort against an allocation faster than the watch."""
GIVES_UP_S = 60.0
"""Wall time after which a child is ended, however little of it was its own."""
PACKAGE = Path(cli.__file__).parent
SECRET = "secret.txt"


@dataclass
class Outcome:
    """What became of one input; no `problem`: what it should."""

    name: str
    problem: str = ""
    where: str = ""
    """The exception and the innermost function of the project."""
    argv: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)
    code: int | None = None
    seconds: float = 0.0
    grown: int = 0
    err: str = ""

    @property
    def signature(self) -> str:
        return f"{self.problem}: {self.where}" if self.where else self.problem


# --- the child ---------------------------------------------------------------------------------


def child(folder: Path, make: Callable[[Path], tuple[list[str], list[str]]]) -> None:
    """Have `make` put an input into in/ and say the command line and what was done to the input;
    run it; write how it went to result.json."""
    os.setsid()
    os.chdir(folder)
    for name in ("tmp", "made"):
        os.mkdir(name)
    Path(SECRET).write_text("not yours\n" * 100)
    os.environ["TMPDIR"], tempfile.tempdir = str(folder / "tmp"), None
    stack = os.open("stack", os.O_CREAT | os.O_WRONLY)
    faulthandler.enable(stack)
    faulthandler.register(signal.SIGUSR1, stack)
    _redirect()
    argv, did = make(Path("in"))
    sys.stderr.flush()
    os.truncate("err", 0)  # what the making said is not the project's
    _limit()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    told: dict[str, Any] = {"argv": argv, "did": did, "broke": []}
    told["rss"], told["begun"] = _resident("self"), time.monotonic() - _queued("self")
    _tell("begun.json", told)
    sys.addaudithook(_watch(folder, argv[0] == "verify", told["broke"]))
    told["code"], told["where"] = call(argv)
    told["seconds"] = time.monotonic() - _queued("self") - told["begun"]
    sys.stdout.flush()
    sys.stderr.flush()
    _tell("result.json", told)
    os._exit(0)


def call(argv: list[str]) -> tuple[int, str]:
    """Exit code of the command line, and where the error came from that it ended in."""
    app, raised = cli.app, []

    def noting(**how: Any) -> Any:
        try:
            return app(**how)
        except Exception as error:
            raised.append(error)
            raise

    sys.argv = ["retnet-bench", *argv]
    cli.app = noting  # type: ignore[assignment]
    try:
        cli.main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        cli.app = app
    return code, _where(raised[0]) if raised else ""


def _where(error: BaseException) -> str:
    """`ValueError study.study.parse`: the exception and the innermost function of the project."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [(f.filename, f.name) for f in frames if Path(f.filename).is_relative_to(PACKAGE)]
    return f"{type(error).__name__} {_function(*inside[-1])}" if inside else type(error).__name__


def _function(file: str, name: str) -> str:
    module = Path(file).relative_to(PACKAGE).with_suffix("")
    return ".".join([*module.parts, name])


def _redirect() -> None:
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")


def _limit() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HARD_BYTES, size + HARD_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _queued(process: str | int) -> float:
    """Seconds that the main thread was ready to run and had no processor."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9


def _resident(process: str | int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def _tell(name: str, told: dict[str, Any]) -> None:
    Path(f"{name}.part").write_text(json.dumps(told))
    os.replace(f"{name}.part", name)


CHANGES = (
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"),
    *("os.truncate", "os.utime"),
)
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")
FORBIDDEN = ("/etc", "/dev/zero", "/dev/stdin")
"""What a bundle may name but nobody may open for it, beside SECRET."""


def _watch(folder: Path, bundle: bool, broke: list[str]) -> Callable[[str, tuple], None]:
    """An audit hook that notes writes outside the folder and what must never happen."""
    home = os.path.realpath(folder)
    writable = [home, "/dev/null", "/proc/self"]
    writable += [] if bundle else [os.path.realpath(os.environ["RETNET_BENCH_CACHE"])]
    closed = [os.path.join(home, SECRET), *FORBIDDEN]

    def inside(path: object, places: list[str]) -> bool:
        real = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        return any(real == place or real.startswith(place + os.sep) for place in places)

    def hook(event: str, given: tuple) -> None:
        if event == "open" and isinstance(given[0], str | bytes | os.PathLike):
            writes = given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and not inside(given[0], writable):
                broke.append(f"wrote {_plain(given[0])}")
            elif bundle and inside(given[0], closed):
                broke.append(f"opened {_plain(given[0])}")
        elif event in CHANGES:
            paths = [path for path in given[:2] if isinstance(path, str | bytes | os.PathLike)]
            if any(not inside(path, writable) for path in paths):
                broke.append(f"{event} {_plain(paths[0])}")
        elif event in STARTS and given[0] != "git":  # of which a plan asks its revision
            broke.append(f"started a process {_plain(given[0])}")
        elif event in ("socket.connect", "socket.getaddrinfo"):
            broke.append("asked the network")

    return hook


def _plain(path: object) -> str:
    return base.quoted(os.fsdecode(path) if isinstance(path, bytes | os.PathLike) else path)


# --- the parent --------------------------------------------------------------------------------


@dataclass
class Child:
    """A running input, watched from outside."""

    name: str
    pid: int
    folder: Path
    usual_s: dict[str, float] | None
    """By verb: what sound inputs take; None while that is found out."""
    started: float = field(default_factory=time.monotonic)
    ended_for: str = ""
    begun: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ended = os.pidfd_open(self.pid)
        """A descriptor that is readable once the process has ended."""

    def watch(self) -> Outcome | None:
        """Its outcome, once it has ended; ends it where it takes too long or too much."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid:
            os.close(self.ended)
            return self._outcome(status, usage.ru_maxrss * 1024)
        if not self.begun and (self.folder / "begun.json").exists():
            self.begun = json.loads((self.folder / "begun.json").read_text())
        with suppress(OSError, IndexError):  # it may end while it is asked
            if time.monotonic() - self.started > GIVES_UP_S:
                self._end("hang")
            elif self.begun and not self.ended_for:
                if self._own_s() > self._allowed_s(self.begun["argv"]):
                    self._end("hang")
                elif _resident(self.pid) - self.begun["rss"] > LIMIT_BYTES:
                    self._end("memory")
        return None

    def _own_s(self) -> float:
        return time.monotonic() - _queued(self.pid) - self.begun["begun"]

    def _allowed_s(self, argv: list[str]) -> float:
        return GIVES_UP_S if self.usual_s is None else LIMIT_S + self.usual_s[argv[0]]

    def _end(self, why: str) -> None:
        """Have it write down where it is, then kill it."""
        if not self.ended_for:
            self.ended_for = why
            os.kill(self.pid, signal.SIGUSR1)
            time.sleep(0.1)
        os.killpg(self.pid, signal.SIGKILL)

    def _outcome(self, status: int, peak: int) -> Outcome:
        told = self._told()
        err = (self.folder / "err").read_bytes() if (self.folder / "err").exists() else b""
        found = Outcome(
            self.name,
            where=told.get("where", ""),
            argv=told.get("argv", []),
            did=told.get("did", []),
            code=told.get("code"),
            seconds=told.get("seconds", time.monotonic() - self.started),
            grown=max(0, peak - told.get("rss", peak)),
            err=err.decode("utf-8", "replace"),
        )
        left = self._left()
        found.problem = self._problem(found, status) or _broken(told) or left
        if found.code is None and found.problem:
            found.where = self._stack()
        return found

    def _told(self) -> dict[str, Any]:
        for name in ("result.json", "begun.json"):
            if (self.folder / name).exists():
                return json.loads((self.folder / name).read_text())
        return {}

    def _left(self) -> str:
        """What it left running or lying about."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
            return "" if self.ended_for else "left a process running"
        known = {"in", "made", "tmp", "out", "err", "stack", "begun.json", "result.json", SECRET}
        more = sorted({p.name for p in self.folder.iterdir()} - known)
        more += sorted(p.name for p in (self.folder / "tmp").iterdir())
        return f"left {base.quoted(more[0])} behind" if more and not self.ended_for else ""

    def _problem(self, found: Outcome, status: int) -> str:
        if self.ended_for:
            return self.ended_for
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        if found.code is None:
            return "the fuzzer itself failed"
        if found.grown > LIMIT_BYTES:
            return "memory"
        if found.seconds > self._allowed_s(found.argv):
            return "hang"
        out = (self.folder / "out").read_bytes().decode("utf-8", "replace")
        return words(found.argv[0], found.code, out, found.err)

    def _stack(self) -> str:
        """Where it was when it was ended: the project's innermost function, or any."""
        text = (self.folder / "stack").read_text() if (self.folder / "stack").exists() else ""
        frames = re.findall(r'File "(.*)", line \d+ in (.*)', text)
        for file, name in frames:
            if Path(file).is_relative_to(PACKAGE) and not name.startswith("<"):
                return _function(file, name)
        return f"{Path(frames[0][0]).stem}.{frames[0][1]}" if frames else ""


def words(verb: str, code: int, out: str, err: str) -> str:
    """What is wrong with an exit code and what was said with it."""
    unexpected = "Traceback" in err or err.startswith("retnet-bench: unexpected")
    if unexpected or code not in CODES.get(verb, (0, 2)):
        return f"exit {code}"
    lines = err.split("\n")[:-1]
    if code == 2 and not lines:
        return "exit 2 without a word"
    if len(lines) > 2 or (code == 2 and not lines[-1].startswith("retnet-bench: ")):
        return "several lines on stderr"
    if max(map(len, lines), default=0) > WORDS:
        return "a long line on stderr"
    if "File too large" in err:
        return "wrote a huge file"
    for name, text in (("stderr", err), ("stdout", out)):
        if base.printable(text, keep="\n") != text:
            return f"unprintable on {name}"
    return ""


def _broken(told: dict[str, Any]) -> str:
    return told["broke"][0] if told.get("broke") else ""
