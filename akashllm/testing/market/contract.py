"""Console's published contract: what each call takes and answers, as JSON schemas.

`console.json` holds the operations used here, from the OpenAPI document that Console's repository carries
(apps/api/swagger/openapi.json). Its patterns for numbers had lost a backslash, and are mended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from akashllm.errors import MissingExtra


class ContractBroken(AssertionError):
    """The testing market was about to answer what Console's contract does not allow."""


@cache
def operations() -> Mapping[str, Any]:
    """`POST /v1/leases` -> {request, responses, parameters}."""
    text = files("akashllm.testing.market").joinpath("console.json").read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)["operations"]
    return found


def check_reply(operation: str, status: int, body: Any) -> None:
    """Raise `ContractBroken` for a reply that the contract does not allow."""
    schema = operations().get(operation, {"responses": {}})["responses"].get(str(status))
    if schema is not None and (faults := _faults(schema, body)):
        raise ContractBroken(f"{operation} answers {status} with {faults[0]}")


def faults_of_request(operation: str, body: Any, *, optional: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with a request. `optional`: fields at its top that may be missing."""
    schema = operations().get(operation, {}).get("request")
    if schema is None:
        return []
    required = [name for name in schema.get("required", ()) if name not in optional]
    return _faults({**schema, "required": required}, body)


def example(operation: str, status: int = 200) -> Any:
    """The emptiest reply that the contract allows."""
    return _emptiest(operations()[operation]["responses"][str(status)])


def emptiest_item(operation: str, *path: str) -> Any:
    """The emptiest item of a list inside a reply: `path` names the properties that lead to it."""
    schema = operations()[operation]["responses"]["200"]
    for name in path:
        schema = schema["properties"][name]
    return _emptiest(schema["items"])


def _emptiest(schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        return None
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: _emptiest(properties[name]) for name in schema.get("required", ())}
        case "array":
            return []
        case "string":
            return "0" if "pattern" in schema else ""
        case "boolean":
            return False
        case "integer" | "number":
            return schema.get("minimum", 0)
    return None


def _faults(schema: Mapping[str, Any], body: Any) -> list[str]:
    try:
        from jsonschema import Draft7Validator
    except ImportError:
        raise MissingExtra(
            "the testing market needs jsonschema", hint="pip install 'akashllm[testing]'"
        ) from None
    return [
        f"{'/'.join(map(str, error.absolute_path)) or 'body'}: {error.message[:200]}"
        for error in Draft7Validator(schema).iter_errors(body)
    ]
