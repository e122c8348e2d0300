"""The page `/docs`: what the OpenAPI schema says, as one file that loads nothing from elsewhere."""

from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .3rem .8rem
.3rem 0; border-bottom: 1px solid #ddd } code, pre, textarea { font: 14px/1.4 monospace }
textarea { width: 100%; box-sizing: border-box } pre { background: #f5f5f5; padding: .8rem; overflow: auto }
"""
_TRY = """
<form id="try"><p><textarea rows="3">{"history": ["50", "172"], "k": 5}</textarea></p><p><button>Ask</button></p></form>
<pre id="answer"></pre>
<script>
document.getElementById("try").onsubmit = async event => {
  event.preventDefault();
  const body = event.target.querySelector("textarea").value;
  const answer = await fetch("recommend", {method: "POST", headers: {"content-type": "application/json"}, body});
  const text = await answer.text();
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it came */ }
  document.getElementById("answer").textContent = answer.status + "\\n" + shown;
};
</script>
"""


def page(schema: dict[str, Any]) -> str:
    """HTML of an OpenAPI schema."""
    title = escape(schema["info"]["title"])
    parts = [f"<h1>{title}</h1><p>{escape(schema['info'].get('description', ''))}</p>"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('description', ''))}</p>")
            if "requestBody" in operation:
                parts += _fields(schema, operation["requestBody"])
                if path == "/recommend":
                    parts.append(_TRY)
            for status, response in operation["responses"].items():
                parts.append(f"<h3>{status}</h3><p>{escape(response['description'])}</p>")
                parts += _fields(schema, response)
    parts.append('<p>The same for programs: <a href="openapi.json">openapi.json</a></p>')
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>"
    )


def _fields(schema: dict[str, Any], holder: dict[str, Any]) -> Iterator[str]:
    """The table of a body's fields."""
    body = holder.get("content", {}).get("application/json", {}).get("schema", {})
    found = schema["components"]["schemas"].get(_name(body), {})
    if not found.get("properties"):
        return
    yield "<table><tr><th>field<th>type<th>meaning</tr>"
    for name, field in found["properties"].items():
        default = f"; default {escape(str(field['default']))}" if field.get("default") is not None else ""
        yield (
            f"<tr><td><code>{escape(name)}</code><td>{escape(_type(schema, field))}{default}"
            f"<td>{escape(field.get('description', ''))}</tr>"
        )
    yield "</table>"


def _name(field: dict[str, Any]) -> str:
    return str(field.get("$ref", "")).rpartition("/")[2]


def _type(schema: dict[str, Any], field: dict[str, Any]) -> str:
    if "$ref" in field:
        found = schema["components"]["schemas"][_name(field)]
        inner = ", ".join(f"{name}: {_type(schema, one)}" for name, one in found.get("properties", {}).items())
        return f"{{{inner}}}" if inner else _type(schema, found)
    if "anyOf" in field:
        return " or ".join(_type(schema, one) for one in field["anyOf"])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    bounds = "".join(
        f", {word} {field[key]}"
        for key, word in (
            ("minimum", "from"), ("maximum", "to"), ("minLength", "at least"), ("maxLength", "at most"),
            ("minItems", "at least"), ("maxItems", "at most"),
        )
        if key in field
    )  # fmt: skip
    if field.get("type") == "array":
        return f"list of ({_type(schema, field['items'])}){bounds}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"name → {_type(schema, field['additionalProperties'])}"
    return f"{field.get('type', 'any')}{bounds}"
