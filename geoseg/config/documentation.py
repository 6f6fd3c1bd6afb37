"""The configuration's JSON schema, for editors and for other programs: what each key means, and what it takes."""

import ast
import inspect
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from geoseg.config import heads, schema, sources

_MODULES = (heads, schema, sources)


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a configuration; descriptions are the keys' docstrings."""
    whole = schema.TrainConfig.model_json_schema()
    found = {"TrainConfig": whole, **whole["$defs"]}
    said = _docstrings()
    for name, model in _models().items():
        for key, field in model.model_fields.items():
            below = found[name]["properties"][field.alias or key] if name in found else {}
            about = next((said[one.__name__, key] for one in model.__mro__ if (one.__name__, key) in said), "")
            rule = below.get("description")
            below["description"] = f"{about} Expected {rule}." if rule else about
            if "patternProperties" in below:  # pydantic leaves it open what other keys mean
                below["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _models() -> dict[str, type[BaseModel]]:
    classes = [one for module in _MODULES for one in vars(module).values() if inspect.isclass(one)]
    return {one.__name__: one for one in classes if issubclass(one, BaseModel)}


def _docstrings() -> dict[tuple[str, str], str]:
    """(class, field) -> the text below the field."""
    found = {}
    for module in _MODULES:
        for one in ast.parse(inspect.getsource(module)).body:
            body = one.body if isinstance(one, ast.ClassDef) else []
            for field, text in pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(one, ast.ClassDef):
                    found[one.name, ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return found
