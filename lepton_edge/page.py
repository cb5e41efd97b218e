"""Self-contained HTML pages: one file, no script, nothing fetched.

A page is made of parts. A part that is `Markup` is HTML already and goes in as it is; everything
else is text and is escaped, so a text from anywhere can be given to any function here. Plots are
in `lepton_edge.plots`. Light or dark as the reader's system is; readable on a phone, where tables
scroll inside their own frame.

    page("Report", section("Speed", table(["batch", "ms"], [["1", "2.5"]], numbers=[1])))
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

SERIES_COLOURS = 6
"""How many colours there are to tell series apart: classes ``s0`` to ``s5``."""


@dataclass(frozen=True)
class Markup:
    """HTML that is safe to put into a page as it is. Only this module and `plots` make it."""

    html: str


Part = Markup | str


def page(title: str, *parts: Part, subtitle: Part = "") -> str:
    """A whole document. ``title`` is its heading and the name of its tab."""
    below = f'<p class="subtitle">{markup(subtitle)}</p>' if subtitle else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # A browser would refuse whatever tried to load something, should a page ever hold it.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{text(title)}</h1>{below}</header>\n{_joined(parts)}\n"
        "</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: Part) -> Markup:
    """Parts under a heading."""
    return Markup(f"<section><h2>{text(heading)}</h2>\n{_joined(parts)}\n</section>")


def paragraph(*parts: Part) -> Markup:
    """Running text."""
    return Markup(f"<p>{_joined(parts, '')}</p>")


def small(*parts: Part) -> Markup:
    """A remark below what it is about."""
    return Markup(f'<p class="small">{_joined(parts, "")}</p>')


def strong(part: Part) -> Markup:
    """Text that stands out in its line."""
    return Markup(f"<strong>{markup(part)}</strong>")


def code(value: str) -> Markup:
    """A command, a path, a digest."""
    return Markup(f"<code>{text(value)}</code>")


def bullets(items: Iterable[Part]) -> Markup:
    """A list."""
    return Markup(f"<ul>{''.join(f'<li>{markup(item)}</li>' for item in items)}</ul>")


def notice(kind: Literal["good", "warning", "bad"], *parts: Part) -> Markup:
    """A framed remark that must be seen: what passed, what to be careful with, what failed."""
    return Markup(f'<div class="notice {kind}" role="note">{_joined(parts)}</div>')


def folded(summary: str, *parts: Part) -> Markup:
    """Parts that open with a click on their summary."""
    return Markup(f"<details><summary>{text(summary)}</summary>\n{_joined(parts)}\n</details>")


def side_by_side(*parts: Part) -> Markup:
    """Parts beside each other where there is room, else below each other."""
    cells = "".join(f"<div>{markup(part)}</div>" for part in parts)
    return Markup(f'<div class="grid">{cells}</div>')


def tiles(entries: Iterable[tuple[Part, Part, Part]]) -> Markup:
    """The few figures that matter most, large: each a label, a value and a remark."""
    cells = "".join(
        f'<div class="tile"><div class="label">{markup(label)}</div>'
        f'<div class="value">{markup(value)}</div><div class="small">{markup(remark)}</div></div>'
        for label, value, remark in entries
    )
    return Markup(f'<div class="tiles">{cells}</div>')


def facts(entries: Iterable[tuple[str, Part]]) -> Markup:
    """Names and what they are, a line each."""
    lines = "".join(f"<dt>{text(name)}</dt><dd>{markup(value)}</dd>" for name, value in entries)
    return Markup(f"<dl>{lines}</dl>")


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[Part]],
    *,
    numbers: Collection[int] = (),
    caption: str = "",
) -> Markup:
    """A table. The columns in ``numbers`` (from 0) are aligned to the right."""
    return Markup(
        '<div class="scroll"><table>'
        + (f"<caption>{text(caption)}</caption>" if caption else "")
        + f"<thead>{_row('th', header, numbers)}</thead>"
        + f"<tbody>{''.join(_row('td', row, numbers) for row in rows)}</tbody></table></div>"
    )


def figure(caption: str, *parts: Part, series: Sequence[str] = (), remark: str = "") -> Markup:
    """A plot with its caption, and a legend where it has more than one of ``series``."""
    legend = ""
    if len(series) > 1:
        keys = "".join(
            f'<li><span class="key s{place % SERIES_COLOURS}"></span>{text(name)}</li>'
            for place, name in enumerate(series)
        )
        legend = f'<ul class="legend">{keys}</ul>'
    below = f'<p class="small">{text(remark)}</p>' if remark else ""
    return Markup(
        f"<figure><figcaption>{text(caption)}</figcaption>{legend}{_joined(parts)}{below}</figure>"
    )


def markup(part: Part) -> str:
    """A part's HTML: escaped unless it is `Markup`."""
    return part.html if isinstance(part, Markup) else text(part)


def text(value: str) -> str:
    """Text as HTML: escaped, and without the characters that HTML does not allow."""
    return escape("".join(each if _allowed(each) else "\ufffd" for each in value), quote=True)


def _allowed(character: str) -> bool:
    """Not a control character, a lone surrogate, or one that turns the direction of what
    follows: those would reach beyond the text that they are in."""
    number = ord(character)
    if number < 0x20:
        return character in "\t\n\r"
    return not (
        0x7F <= number < 0xA0
        or 0xD800 <= number < 0xE000
        or 0x202A <= number <= 0x202E
        or 0x2066 <= number <= 0x2069
        or number & 0xFFFE == 0xFFFE
    )


def _row(tag: str, cells: Sequence[Part], numbers: Collection[int]) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    return (
        "<tr>"
        + "".join(
            f"<{tag}{scope}"
            + (' class="n"' if place in numbers else ' dir="auto"')
            + f">{markup(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )
        + "</tr>"
    )


def _joined(parts: Iterable[Part], separator: str = "\n") -> str:
    return separator.join(markup(part) for part in parts)


# Each series' colour has a contrast of 3:1 or more with the background, in light and in dark.
_LIGHT = (
    "--paper:#fff;--panel:#f6f7f9;--ink:#1b1f24;--soft:#59626e;--rule:#dde1e6;"
    "--good:#1f7a45;--warning:#9a5b00;--bad:#b3261e;"
    "--s0:#1f6feb;--s1:#c2570c;--s2:#2f7d4f;--s3:#8b46a8;--s4:#b3261e;--s5:#67707d"
)
_DARK = (
    "--paper:#14171b;--panel:#1d2127;--ink:#e8eaed;--soft:#a3acb8;--rule:#343a43;"
    "--good:#6cc38e;--warning:#e6ac53;--bad:#f28b82;"
    "--s0:#69a7ff;--s1:#f0a05a;--s2:#6cc38e;--s3:#c793e0;--s4:#f28b82;--s5:#a5adba"
)
_STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    + "".join(f".s{n}{{--c:var(--s{n})}}" for n in range(SERIES_COLOURS))
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:66rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.5rem 0 .75rem;padding-top:1.25rem;border-top:1px solid var(--rule)}
p{margin:.5rem 0;max-width:46rem}
.subtitle{color:var(--soft);margin:.35rem 0 0;max-width:none}
.small{font-size:.85rem;color:var(--soft);line-height:1.4}
code{font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
ul{margin:.5rem 0;padding-left:1.2rem;max-width:46rem}
li{margin:.25rem 0}
.notice{border-left:4px solid var(--k);background:var(--panel);border-radius:4px;
padding:.6rem 1rem;margin:1rem 0;max-width:none}
.notice p,.notice ul{margin:.2rem 0;max-width:none}
.good{--k:var(--good)}.warning{--k:var(--warning)}.bad{--k:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(13.5rem,1fr));gap:.75rem;
margin:1.5rem 0}
.tile{background:var(--panel);border-radius:8px;padding:.8rem 1rem}
.tile .label{font-size:.85rem;color:var(--soft);line-height:1.3}
.tile .value{font-size:1.6rem;font-weight:650;letter-spacing:-.02em;line-height:1.3;
font-variant-numeric:tabular-nums}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));
gap:1rem 2rem;align-items:start}
.grid>div{min-width:0}
dl{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr;gap:.3rem 1.25rem;
margin:.75rem 0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;min-width:0}
.scroll{overflow-x:auto;margin:.75rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:100%}
caption{text-align:left;font-weight:600;padding:0 0 .4rem}
th,td{text-align:start;padding:.35rem 1.1rem .35rem 0;border-bottom:1px solid var(--rule);
vertical-align:top;white-space:pre-wrap}
th{color:var(--soft);font-weight:600;white-space:nowrap}
th.n,td.n{text-align:right;white-space:nowrap}
th:last-child,td:last-child{padding-right:0}
td:first-child:not(.n){min-width:8.5rem}
details{margin:.75rem 0}
summary{cursor:pointer;color:var(--soft)}
figure{margin:.75rem 0 1.25rem}
figcaption{font-weight:600;line-height:1.35;margin-bottom:.4rem}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;list-style:none;padding:0;margin:0 0 .4rem;
font-size:.85rem;color:var(--soft)}
.key{display:inline-block;width:.75rem;height:.75rem;border-radius:3px;background:var(--c);
margin-right:.4rem;vertical-align:-.08rem}
svg{display:block;width:100%;height:auto;overflow:visible;
font-size:13px;font-variant-numeric:tabular-nums}
svg text{fill:var(--soft)}
svg .mark{fill:var(--c)}
svg .line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}
svg .whisker{stroke:var(--c);stroke-width:1.5;fill:none}
svg .over{stroke:var(--ink);stroke-width:1.2;fill:none;opacity:.75}
svg .rule{stroke:var(--rule);stroke-width:1}
svg .axis{stroke:var(--soft);stroke-width:1}
svg .reference{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:4 3}
svg .value{fill:var(--ink)}
@media (max-width:32rem){main{padding:1.25rem 1rem 3rem}h1{font-size:1.4rem}
.tiles{grid-template-columns:1fr 1fr}.tile .value{font-size:1.3rem}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}}
@media print{main{max-width:none;padding:0}section,figure,.tile{break-inside:avoid}}
"""
)
