"""What the shell completes: names that commands take, read from the source.

To import what declares them would import torch, two seconds for each press of a key; a test holds
these lists equal to the registries. Names that installed packages add are not completed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CALLED = ("retnet", "transformer")
"""Arms of `compare` that are called otherwise than their mixer."""
LISTS = (
    *("studies", "models", "sizes", "kernels", "workloads", "settings", "protocol"),
    *("figures", "corpora", "devices"),
)


def _tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text("utf-8"))


def _keys(file: str, name: str) -> list[str]:
    """Keys of the mapping that a module calls `name`."""
    for node in ast.walk(_tree(file)):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        named = any(getattr(target, "id", "") == name for target in targets)
        if named and isinstance(value := getattr(node, "value", None), ast.Dict):
            return [str(ast.literal_eval(key)) for key in value.keys if key is not None]
    return []


def _registered(files: Iterable[Path], function: str) -> Iterator[str]:
    """First arguments, or those called `name`, of calls of a function in some modules."""
    for path in files:
        tree = ast.parse(path.read_text("utf-8"))
        for node, values in [*((node, {}) for node in ast.walk(tree)), *_repeated(tree)]:
            if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
                said = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "name")]
                yield from filter(None, (_text(one, values) for one in said))


def _repeated(tree: ast.Module) -> Iterator[tuple[ast.AST, dict[str, str]]]:
    """Statements of loops over constants, once for each turn, with what its variables hold."""
    for loop in (node for node in tree.body if isinstance(node, ast.For)):
        names = [getattr(name, "id", "") for name in getattr(loop.target, "elts", [loop.target])]
        for turn in getattr(loop.iter, "elts", ()):
            said = getattr(turn, "elts", [turn])
            values = {n: str(v.value) for n, v in zip(names, said) if isinstance(v, ast.Constant)}
            yield from ((node, values) for node in ast.walk(loop))


def _text(node: ast.expr, values: dict[str, str]) -> str:
    """A constant, or an f-string of `values`; "" for what is neither."""
    if isinstance(node, ast.Constant):
        return "" if values else str(node.value)
    parts = [
        ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else None
        for part in getattr(node, "values", ())
    ]
    if not values or not all(part is None or part in values for part in parts):
        return ""
    return "".join(
        values[part] if part is not None else str(getattr(piece, "value", ""))
        for part, piece in zip(parts, getattr(node, "values", ()))
    )


def size_names() -> list[str]:
    return _keys("models/config.py", "SIZES")


def mixer_names() -> list[str]:
    return _keys("models/mixers/__init__.py", "FILES")


def kernel_names() -> list[str]:
    return list(_registered([PACKAGE / "kernels" / "rows.py"], "_add"))


def figure_names() -> list[str]:
    return sorted(_registered(sorted((PACKAGE / "figures").glob("*.py")), "figure"))


def timed_names() -> list[str]:
    return _keys("results/schema.py", "TIMES")


def study_names() -> list[str]:
    shipped = PACKAGE / "studies"
    folder = shipped if shipped.is_dir() else PACKAGE.parent / "studies"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _completer(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


sizes = _completer(size_names)
figures = _completer(figure_names)
timed_workloads = _completer(timed_names)
lists = _completer(lambda: LISTS)
reproductions = _completer(lambda: (*_keys("run/reproduce.py", "WHAT"), "headlines", "all"))


def studies(incomplete: str) -> list[str]:
    """Shipped studies, and YAML files: of a folder once it is begun."""
    begun, slash, _ = incomplete.rpartition("/")
    try:
        files = sorted(
            f"{begun}{slash}{path.name}{'/' * path.is_dir()}"
            for path in Path(begun + slash).iterdir()
            if path.suffix in (".yaml", ".yml") or (slash and path.is_dir())
        )
    except OSError:
        files = []
    return [name for name in (*study_names(), *files) if name.startswith(incomplete)]


def arms(incomplete: str) -> list[str]:
    """Of `compare`: arms and mixers, and after a colon kernels."""
    name, colon, kernel = incomplete.partition(":")
    if colon:
        return [f"{name}:{one}" for one in kernel_names() if one.startswith(kernel)]
    return [one for one in (*CALLED, *mixer_names()) if one.startswith(incomplete)]
