"""HTML pages of one file: no script or style from elsewhere, all text escaped."""

import html

from autograder.text import printable

STYLE = """body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse } th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
th { position: sticky; top: 0; background: #f3f3f3; text-align: left } th[role=button] { cursor: pointer }
th[aria-sort=ascending]::after { content: " \\25B2" } th[aria-sort=descending]::after { content: " \\25BC" }
td.number { text-align: right; font-variant-numeric: tabular-nums } tr.open { background: #fff8e1 }
tr.missing, tr.failed { background: #fdecea } pre { white-space: pre-wrap; margin: 0; font-size: 13px }
details > div { max-width: 60rem } .note { color: #555 }"""
SORT = """for (const head of document.querySelectorAll("th")) {
  head.role = "button"; head.tabIndex = 0;
  const sort = () => {
    const body = head.closest("table").tBodies[0], down = head.ariaSort === "ascending" ? -1 : 1;
    const key = row => row.cells[head.cellIndex].textContent.trim();
    const compare = (a, b) => !key(a) - !key(b) || down * key(a).localeCompare(key(b), undefined, {numeric: true});
    const number = (a, b) => !key(a) - !key(b) || down * (key(a) - key(b));
    const rows = [...body.rows], numeric = rows.every(row => !isNaN(key(row)));
    for (const other of head.parentNode.cells) other.ariaSort = null;
    head.ariaSort = down > 0 ? "ascending" : "descending";
    body.append(...rows.sort(numeric ? number : compare));
  };
  head.onclick = sort;
  head.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } };
}"""  # empty cells stay at the end


def page(title: str, body: str) -> str:
    """A whole page whose tables are sorted by a click on a column's head. `body` is HTML, `title` is not."""
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
            f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n<script>\n{SORT}\n"
            "</script>\n</body>\n</html>\n")


def escape(text: str) -> str:
    """Text of anyone as HTML that shows it: control and bidirectional characters are written out, too."""
    return html.escape(printable(text))


def escape_source(text: str) -> str:
    """A program as HTML, line by line."""
    return "\n".join(escape(line.replace("\t", "    ")) for line in text.splitlines())


def table(columns: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """A table. Each row is its class and its cells, which are HTML; numbers stand at the right."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = [f"<tr{f' class={kind}' if kind else ''}>{''.join(map(cell, cells))}</tr>" for kind, cells in rows]
    return "\n".join([f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>", *lines, "</tbody>\n</table>"])


def cell(content: str) -> str:
    return f'<td{" class=number" if content.removeprefix("-").replace(".", "", 1).isdigit() else ""}>{content}</td>'
