"""The page `/`, and what a browser may do on the pages of this server."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi.responses import HTMLResponse

_INLINE = r"<{name}\b[^>]*>(.*?)</{name}>"


@cache
def read_start_page() -> str:
    """Search titles, build a history, and see what the arms make of it: `start.html`."""
    return Path(__file__).with_name("start.html").read_text(encoding="utf-8")


def respond_with(html: str) -> HTMLResponse:
    """A page that runs and shows what is in it alone, and asks nobody but this server."""
    return HTMLResponse(
        html,
        headers={
            "content-security-policy": make_policy(html),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        },
    )


def make_policy(html: str) -> str:
    """The Content-Security-Policy of a page: its own scripts and styles, by hash, and requests to its origin."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash_inline(html, 'script')}",
            f"style-src {_hash_inline(html, 'style')}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _hash_inline(html: str, name: str) -> str:
    found = re.findall(_INLINE.format(name=name), html, flags=re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
