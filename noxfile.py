"""Everything that sets itself up: `pip install nox && nox -s quickstart` (or tests, lint, ...)."""

import shutil
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint"]
nox.options.reuse_existing_virtualenvs = True

PINNED = ("-c", "constraints.txt")
LINT = ("ruff", "mypy", "import-linter", "pandas-stubs", "types-PyYAML", "types-psutil")
TEST = ("-e", ".[report,slurm]", "pytest", "pytest-xdist", "pytest-timeout", "hypothesis")
PEERS = ("transformers", "einops", "fla-core")
PEERS_ALONE = ("torchscale", "fairscale")
"""Without what they ask for: torchscale names a fairscale and a timm that it doesn't need."""
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
"""Those that are tested; the oldest is what pyproject.toml admits."""
BROWSER = ("playwright", "axe-playwright-python")


def install(session: nox.Session, *extra: str) -> None:
    """This project and `extra`, in the versions it is tested with."""
    session.install("-q", *PINNED, "-e", ".", *extra)


@nox.session
def quickstart(session: nox.Session) -> None:
    """The main job: matched models measured on this machine, figures in runs/quickstart/figures."""
    install(session)
    session.run("retnet-bench", "run", "quickstart", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The fast tests: about ten minutes on two cores."""
    install(session, *TEST)
    run_tests(session)


def run_tests(session: nox.Session) -> None:
    # By files, so that what a file makes for all of its tests is made once. More processes than the
    # two cores of CI: a test of a whole run often waits. In the order of tests/conftest.py.
    spread = ("-n", "4", "--dist", "loadfile", "--no-loadscope-reorder")
    arguments = session.posargs or [*spread, "-m", "not gpu and not slow and not browser"]
    session.run("pytest", *arguments, env={"OMP_NUM_THREADS": "1"})


for _python in PYTHONS:  # names of their own, so that `-s tests` is one run
    nox.session(tests, python=_python, name=f"tests-{_python}")


@nox.session(name="tests-oldest", python=PYTHONS[0])
def tests_oldest(session: nox.Session) -> None:
    """The same on the oldest Python and the oldest torch that pyproject.toml admits."""
    needed = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    (floor,) = (n.removeprefix("torch>=") for n in needed if n.startswith("torch>="))
    pinned = Path("constraints.txt").read_text().splitlines()
    # Not in create_tmp: that is then the tests' TMPDIR, inside a checkout and too deep for sockets.
    others = session.cache_dir.resolve() / "constraints-oldest.txt"
    lines = [line for line in pinned if not line.startswith("torch==")]
    others.write_text("\n".join([*lines, f"torch=={floor}", ""]))
    session.install("-q", "-c", str(others), "-e", ".", *TEST)
    run_tests(session)


@nox.session
def downstream(session: nox.Session) -> None:
    """The tests that need lm-eval (extra eval, which takes a minute or more to install)."""
    install(session, "-e", ".[eval]", *TEST)
    run_downstream(session)


def run_downstream(session: nox.Session) -> None:
    files = ("tests/workloads/test_workloads_downstream.py", "tests/run/test_run_evaluate.py")
    session.run("pytest", *(session.posargs or files), env={"OMP_NUM_THREADS": "1"})


@nox.session
def slow(session: nox.Session) -> None:
    """The longest tests: compiled modes, runs that are killed, whole runs beside shorter ones."""
    install(session, *TEST)
    session.run("pytest", "-m", "slow and not gpu", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The report page of every reference run in Chromium; pictures of them in runs/browser."""
    if shutil.which("chromium") is None:
        session.error("there is no chromium on the path: apt-get install chromium (Debian, Ubuntu)")
    install(session, *TEST, *BROWSER)
    session.run("pytest", "-m", "browser", "tests/browser", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and the import law."""
    install(session, *LINT)
    run_lint(session)


def run_lint(session: nox.Session) -> None:
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports", "--no-cache")


@nox.session
def slurm(session: nox.Session) -> None:
    """A study on a real Slurm of two nodes on this machine, with jobs and nodes killed: minutes."""
    install(session, "-e", ".[slurm]")
    run_slurm(session, *(session.posargs or ("--times", "20")))


def run_slurm(session: nox.Session, *arguments: str) -> None:
    session.run("python", "tests/trials/slurm.py", *arguments, env={"PYTHONPATH": "tests"})


@nox.session
def gate(session: nox.Session) -> None:
    """The figures that must not change, against those in results/exact and exact_mixers."""
    install(session)
    run_gate(session)


def run_gate(session: nox.Session) -> None:
    for study in ("exact", "exact_mixers"):
        baseline = ("--baseline", f"results/{study}", "--exact")
        session.run("retnet-bench", "run", study, "--fresh", "--no-plot", silent=True)
        session.run("retnet-bench", "check", f"runs/{study}", *baseline)


@nox.session
def checks(session: nox.Session) -> None:
    """What CI runs beside the tests, in one environment: lint, gate, downstream, and where there is
    a Slurm the short form of its trial."""
    install(session, "-e", ".[eval]", *TEST, *LINT)
    run_lint(session)
    run_gate(session)
    run_downstream(session)
    run_slurm(session, "--if-there", "--brief")


@nox.session
def bench(session: nox.Session) -> None:
    """Are our arms any good: every mixer against the matmul rate and the bandwidth."""
    install(session)
    session.run("python", "tests/bench/bench.py", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Our arms beside other people's code, of the package index or checkouts (--nanogpt PATH).

    What can't be installed is told, and the rest measured.
    """
    install(session)
    for package in PEERS:
        session.install("-q", *PINNED, package, success_codes=(0, 1))
    session.install("-q", *PINNED, "--no-deps", *PEERS_ALONE, success_codes=(0, 1))
    tables = ("--tables", "peers", "peer_kernels", "--installed")
    session.run("python", "tests/bench/bench.py", *tables, *session.posargs)


@nox.session
def stats(session: nox.Session) -> None:
    """Coverage, false alarms and power of the statistics and the gate, by simulation: minutes."""
    install(session)
    session.run("python", "tests/stats/report.py", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """10,000 hostile studies, records, checkpoints, tokenizers, bundles and corpora: minutes."""
    install(session)
    session.run("python", "tests/fuzz/run.py", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and sdist: built, checked, installed in an empty environment, and the wheel's
    quickstart run from another folder."""
    session.install("-q", "build", "twine")
    root, work = Path.cwd(), Path(session.create_tmp()).resolve()
    dist, env = work / "dist", work / "env"
    for old in dist.glob("*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(dist))
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    session.run("python", "tests/packaging/archives.py", str(wheel), str(sdist))
    session.run("python", "-m", "venv", "--clear", str(env))
    pip = (str(env / "bin" / "pip"), "install", "-q", "-c", str(root / "constraints.txt"))
    command = str(env / "bin" / "retnet-bench")
    session.run(*pip, f"{wheel}[report]", external=True)
    elsewhere = work / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    session.chdir(elsewhere)
    session.run(command, "run", "quickstart", "--fresh", *session.posargs, external=True)
    session.run(command, "report", "runs/quickstart", "--out", "quickstart.html", external=True)
    session.run(*pip, "--force-reinstall", "--no-deps", str(sdist), external=True)
    session.run(command, "show", "runs/quickstart", external=True, silent=True)
    session.run(command, "list", "studies", external=True)


@nox.session
def gpu(session: nox.Session) -> None:
    """The tests and a short study that need a CUDA device. In a plain environment of one's own:
    torch is the CUDA build that pip picks."""
    session.install("-q", "-e", ".[fla]", *TEST)
    session.run("retnet-bench", "env")
    session.run("pytest", "-m", "gpu", *session.posargs)
    session.run("retnet-bench", "run", "gpu_check", "--out", "runs/gpu_check")
