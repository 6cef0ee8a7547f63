"""Features computed from other features at the moment of the request, by the user's own NumPy function.

A function is its source text: that is what is hashed, stored with the service and run, in the notebook, in every worker
and in serving alike. It may use its parameters and imported modules only, so the text and the imports are all there is.
"""

import __future__

import ast
import builtins
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from mlray.errors import DefinitionError
from mlray.features.naming import checked_name
from mlray.features.source import REQUEST_TYPES, RequestFields, RequestSource
from mlray.features.view import BoundView, FeatureView

AT = "at"
_ANNOTATIONS_AS_TEXT = __future__.annotations.compiler_flag  # they may name what the text does not import
Input = BoundView | RequestSource


@dataclass(frozen=True)
class OnDemand:
    """A named function of NumPy columns; `imports` are (alias, module) pairs, `returns` a type name of
    REQUEST_TYPES.
    """

    name: str
    inputs: tuple[Input, ...]
    parameters: tuple[str, ...]
    text: str
    imports: tuple[tuple[str, str], ...]
    returns: str = "float64"

    @property
    def digest(self) -> str:
        """SHA-256 of the source text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def compiled(self) -> Callable[..., Any]:
        """The function, made from its text and imports alone."""
        scope: dict[str, Any] = {alias: _module(name) for alias, name in self.imports}
        exec(compile(self.text, f"<on-demand {self.name}>", "exec", _ANNOTATIONS_AS_TEXT), scope)
        made: Callable[..., Any] = scope[self.name]
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the function directly, as in a notebook."""
        return self.compiled()(*args, **kwargs)


def on_demand(*inputs: FeatureView | RequestFields | Input) -> Callable[[Callable[..., Any]], OnDemand]:
    """Declares a function of the features (with their prefix) and request fields of `inputs`.

    Its parameter names are the inputs; the reserved `at` is q as datetime64[us]. Columns arrive as NumPy arrays:
    numbers and bool as float64 with NaN for null, text as objects with None for null, times as datetime64[us]. It
    returns one array; its type is the return annotation (float, int, str, bool, datetime), float where there is
    none; NaN is null.
    """
    bound = tuple(_input(i) for i in inputs)

    def declare(function: Callable[..., Any]) -> OnDemand:
        return _declare(function, bound)

    return declare


def _input(source: object) -> Input:
    if isinstance(source, FeatureView):
        return BoundView(source)
    if isinstance(source, RequestFields):
        return RequestSource(source.source.name, schema={c: source.source.schema[c] for c in source.columns})
    if isinstance(source, BoundView | RequestSource):
        return source
    raise DefinitionError(f"ml.on_demand({source!r}): an input is a feature view, a request source or fields of one")


def _declare(function: Callable[..., Any], inputs: tuple[Input, ...]) -> OnDemand:
    name = checked_name("on-demand feature", function.__name__)
    parameters = tuple(inspect.signature(function).parameters)
    node, text = _definition(function)
    known = input_names(inputs)
    for parameter in parameters:
        if parameter != AT and parameter not in known:
            raise DefinitionError(
                f"on-demand feature {name}: parameter '{parameter}' is no feature or field of its inputs "
                f"({', '.join(known)}), nor 'at'"
            )
    return OnDemand(name, inputs, parameters, text, _imports(function, node, parameters), _returns(function))


def input_names(inputs: tuple[Input, ...]) -> list[str]:
    """Every name that a function with these inputs may take, without `at`."""
    return [n for i in inputs for n in (i.names if isinstance(i, BoundView) else i.schema)]


def _definition(function: Callable[..., Any]) -> tuple[ast.FunctionDef, str]:
    """The function's syntax and its source text without decorators."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise DefinitionError(
            f"on-demand feature {function.__name__}: its source text cannot be read ({error}); define it with def in a "
            "file or a notebook cell"
        ) from error
    node = next((n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)), None)
    if node is None:
        raise DefinitionError(f"on-demand feature {function.__name__}: define it with def, not as a lambda or a class")
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    text = "\n".join(lines) + "\n"
    _check_same(function, text)
    return node, text


def _check_same(function: Callable[..., Any], text: str) -> None:
    """The text is read from the file as it is now; the function was made from the file as it was when imported."""
    made = next((c for c in compile(text, "", "exec", _ANNOTATIONS_AS_TEXT).co_consts if isinstance(c, CodeType)), None)
    if made is None or _uses(made) != _uses(function.__code__):
        raise DefinitionError(
            f"on-demand feature {function.__name__}: its file has changed since it was imported; import it again"
        )


def _uses(code: CodeType) -> tuple[object, ...]:
    """Names and constants; not the instructions, which differ with what the rest of the module imports."""
    constants = [repr(c) for c in code.co_consts if not isinstance(c, CodeType)]
    return sorted({*code.co_names, *code.co_freevars, *code.co_varnames, *code.co_cellvars}), constants


def _imports(
    function: Callable[..., Any], node: ast.FunctionDef, parameters: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    names = [n for part in node.body for n in ast.walk(part) if isinstance(n, ast.Name)]
    own = {n.id for n in names if isinstance(n.ctx, ast.Store)} | set(parameters)
    own |= {a.arg for part in node.body for n in ast.walk(part) if isinstance(n, ast.arguments) for a in n.args}
    outer: Mapping[str, Any] = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    found: dict[str, str] = {}
    for used in dict.fromkeys(n.id for n in names if n.id not in own):
        value = outer.get(used)
        if isinstance(value, ModuleType):
            found[used] = value.__name__
        elif used in outer or not hasattr(builtins, used):
            raise DefinitionError(
                f"on-demand feature {function.__name__} uses '{used}', which is not a parameter and not an imported "
                "module; a function is stored by its text, so pass it in or write it inside"
            )
    return tuple(sorted(found.items()))


def _returns(function: Callable[..., Any]) -> str:
    """The annotated type; float64 where there is none, or one that names arrays rather than their values."""
    annotation = function.__annotations__.get("return", float)
    kinds: dict[Any, str] = {**REQUEST_TYPES, **{k.__name__: v for k, v in REQUEST_TYPES.items()}}
    return kinds.get(annotation, "float64")


def _module(name: str) -> ModuleType:
    root = __import__(name)
    for part in name.split(".")[1:]:
        root = getattr(root, part)
    return root
