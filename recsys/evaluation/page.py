"""A page in one file: style, tables and figures, without any external resource."""

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #c9ced6; --band: #f4f6f8;
  --accent: #b4540f; --bar: #f0c9a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --soft: #a3acb8; --line: #3d444d;
  --band: #1d2127; --accent: #f0a366; --bar: #6b3f1c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p { max-width: 46rem; margin: .6rem 0; }
.lead { color: var(--soft); margin-top: 0; }
.note, figcaption, caption, .sub { color: var(--soft); font-size: .875rem; }
ul.findings { padding-left: 1.2rem; max-width: 46rem; }
ul.findings li { margin: .45rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { padding: .5rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { font-size: .875rem; font-weight: 600; color: var(--soft); vertical-align: bottom; }
th[scope=row], th.text, td.text { text-align: left; }
th[scope=row] { font-weight: 600; }
tr.strong th[scope=row], tr.strong .main { color: var(--accent); }
.sub { display: block; font-weight: 400; }
.bar { display: block; height: .3rem; margin-top: .3rem; border-radius: 2px; background: var(--line); }
tr.strong .bar { background: var(--bar); }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; }
figure svg { width: 100%; height: auto; display: block; }
.narrow { display: none; }
dl { display: grid; grid-template-columns: minmax(9rem, 14rem) 1fr; gap: .3rem 1rem; margin: .75rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .85em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
details summary { cursor: pointer; color: var(--soft); margin: .8rem 0; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 44rem) {
  main { padding: 1.25rem 1rem 3rem; }
  .wide { display: none; } .narrow { display: block; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  table.cards thead { position: absolute; clip-path: inset(50%); height: 1px; overflow: hidden; }
  table.cards, table.cards tbody, table.cards caption { display: block; }
  table.cards tr { display: grid; grid-template-columns: 1fr 1fr; gap: .1rem 1rem; padding: .7rem 0;
    border-bottom: 1px solid var(--line); }
  table.cards th, table.cards td { border: 0; padding: .1rem 0; text-align: left; }
  table.cards th[scope=row], table.cards td.whole { grid-column: 1 / -1; }
  table.cards td::before { content: attr(data-label) " "; color: var(--soft); font-size: .875rem; }
  table.cards td:empty { display: none; }
}
@media print { details > * { display: block; } }
"""


def page(title: str, body: Sequence[str]) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(content) + "\n</section>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def facts(entries: Sequence[tuple[str, str]]) -> str:
    """A list of terms and what they are."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries) + "</dl>"


def table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, strong: Sequence[bool] = (), kind: str = ""
) -> str:
    """A table whose first column names the rows.

    Args:
        rows: cells as HTML (escape what is not); a cell that begins with "<td" or "<th" is taken as it is.
        kind: `cards` becomes one card per row on a phone, otherwise the table scrolls sideways.
    """
    cards = kind == "cards"
    # A caption inside would scroll away with the table.
    lines = [f'<table class="cards"><caption>{escape(caption)}</caption>' if cards else "<table>"]
    texts = [n == 0 or bool(rows and rows[0][n].startswith('<td class="text')) for n in range(len(header))]
    head = [
        f'<th scope="col"{" class=text" if text else ""}>{escape(name)}</th>'
        for name, text in zip(header, texts, strict=True)
    ]
    lines.append(f"<thead><tr>{''.join(head)}</tr></thead><tbody>")
    for number, row in enumerate(rows):
        cells = [
            f'<th scope="row">{cell}</th>'
            if n == 0
            else cell
            if cell.startswith("<td")
            else f'<td data-label="{escape(name)}">{cell}</td>'
            for n, (name, cell) in enumerate(zip(header, row, strict=True))
        ]
        mark = ' class="strong"' if number < len(strong) and strong[number] else ""
        lines.append(f"<tr{mark}>{''.join(cells)}</tr>")
    lines.append("</tbody></table>")
    text = "\n".join(lines)
    scrolls = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">{text}</div>'
    return text if cards else f'<p class="note">{escape(caption)}</p>{scrolls}'


def figure(wide: str, narrow: str, description: str, caption: str) -> str:
    """A picture in two shapes, one for wide screens and one for phones (SVG elements).

    Args:
        description: what the picture shows, for those who do not see it.
    """
    label = f'role="img" aria-label="{escape(description)}"'
    pictures = "".join(
        f'<div class="{shape}" {label}>{svg}</div>' for shape, svg in (("wide", wide), ("narrow", narrow))
    )
    return f"<figure>{pictures}<figcaption>{escape(caption)}</figcaption></figure>"
