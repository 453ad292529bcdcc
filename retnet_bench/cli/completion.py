"""What the shell completes: names that commands take, read from the source.

To import what declares them would import torch, two seconds for each press of a key; a test holds
these lists equal to the registries. Names that installed packages add are not completed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import typer

PACKAGE = Path(__file__).parents[1]
MIXERS = "models/mixers/__init__.py"
CALLED = {"retnet": "retention", "transformer": "attention"}
"""Arms of `compare` that are called otherwise than their mixer."""
LISTS = (
    *("studies", "models", "sizes", "kernels", "workloads", "settings", "protocol"),
    *("figures", "corpora", "devices"),
)


def _tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text("utf-8"))


def _keys(file: str, name: str) -> list[str]:
    """Keys of the mapping that a module calls `name`."""
    return list(_mapping(file, name))


def _mapping(file: str, name: str) -> dict[str, ast.expr]:
    for node in ast.walk(_tree(file)):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        named = any(getattr(target, "id", "") == name for target in targets)
        if named and isinstance(value := getattr(node, "value", None), ast.Dict):
            pairs = zip(value.keys, value.values)
            return {str(ast.literal_eval(key)): value for key, value in pairs if key is not None}
    return {}


def _registered(
    files: Iterable[Path], function: str, where: Mapping[str, str] = {}
) -> Iterator[str]:
    """First arguments, or those called `name`, of calls of a function in some modules; of the
    calls whose keywords hold `where`.
    """
    for path in files:
        tree = ast.parse(path.read_text("utf-8"))
        for node, values in [*((node, {}) for node in ast.walk(tree)), *_repeated(tree)]:
            if isinstance(node, ast.Call) and ast.unparse(node.func) == function:
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                said = [*node.args[:1], *(given[key] for key in given if key == "name")]
                # What a loop varies is a text of its turns, all else a constant.
                if all(_said(given.get(key), values) == value for key, value in where.items()):
                    yield from filter(None, (_text(one, values) for one in said))


def _repeated(tree: ast.Module) -> Iterator[tuple[ast.AST, dict[str, str]]]:
    """Statements of loops over constants, once for each turn, with what its variables hold."""
    for loop in (node for node in tree.body if isinstance(node, ast.For)):
        names = [getattr(name, "id", "") for name in getattr(loop.target, "elts", [loop.target])]
        for turn in getattr(loop.iter, "elts", ()):
            said = getattr(turn, "elts", [turn])
            values = {n: str(v.value) for n, v in zip(names, said) if isinstance(v, ast.Constant)}
            yield from ((node, values) for node in ast.walk(loop))


def _said(node: ast.expr | None, values: dict[str, str]) -> str:
    """What an argument is in one turn of a loop: a constant, a variable or an f-string."""
    match node:
        case ast.Constant(value=value):
            return str(value)
        case ast.Name(id=name):
            return values.get(name, "")
        case ast.JoinedStr():
            return _text(node, values)
    return ""


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
    return _keys(MIXERS, "FILES")


def kernel_names(family: str | None = None) -> list[str]:
    """All kernels, or those of one family of maths."""
    rows = PACKAGE / "kernels" / "rows.py"
    return list(_registered([rows], "_add", {} if family is None else {"mixer": family}))


def kernel_family(mixer: str) -> str:
    """What a mixer's class says its `kernels` are, or the class that it is made from; "" for an
    unknown mixer."""
    places = {name: ast.literal_eval(at) for name, at in _mapping(MIXERS, "FILES").items()}
    file, _, called = places.get(mixer, "").partition(".")
    if not file:
        return ""
    tree = _tree(f"models/mixers/{file}.py")
    (its,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == called)
    for node in its.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "kernels":
            return str(ast.literal_eval(node.value))
    bases = {ast.unparse(base) for base in its.bases}
    return next(kernel_family(n) for n, at in places.items() if at.partition(".")[2] in bases)


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


def arms(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of `compare`: arms and mixers, and after a colon the kernels of that mixer.

    bash takes `retnet:ch` for three words and replaces the last. Of `retnet:` alone it asks for
    what begins with a colon, which none does: it completes from the first letter on.
    """
    before: Sequence[str] = ctx.params.get("arms") or ()
    if before[1:] and before[-1] == ":":
        return [one for one in _kernels_of(before[-2]) if one.startswith(incomplete)]
    name, colon, kernel = incomplete.partition(":")
    if name and colon:
        return [f"{name}:{one}" for one in _kernels_of(name) if one.startswith(kernel)]
    return [one for one in (*CALLED, *mixer_names()) if one.startswith(incomplete)]


def _kernels_of(arm: str) -> list[str]:
    """Those of its mixer, and `auto`: the fastest that was timed."""
    family = kernel_family(CALLED.get(arm, arm))
    return [*kernel_names(family), "auto"] if family else []
