"""What mlray uses of Ray beyond its plain public API is there, in the one file that may use it."""

import ast
from pathlib import Path

from mlray import _ray_compat

ROOT = Path(_ray_compat.__file__).parent


def test_every_symbol_of_ray_that_the_compatibility_file_names_can_be_imported() -> None:
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.context import _get_global_client

    assert issubclass(RayTaskError, RayError)
    assert callable(_get_global_client)


def test_no_other_file_imports_a_private_name_of_ray() -> None:
    private = [
        (path.name, name)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ray"
        for name in [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        if name.startswith("_")
    ]
    assert {file for file, _ in private} <= {"_ray_compat.py"}


def test_an_error_that_ray_data_wrapped_is_read_from_its_traceback() -> None:
    text = "Traceback ...\nmlray.errors.TransformationFailed: source s: boom\n\nThe above exception was the cause"
    found = _ray_compat.raised_in(text)
    assert (type(found).__name__, str(found)) == ("TransformationFailed", "source s: boom")
