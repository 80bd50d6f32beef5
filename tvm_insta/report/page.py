"""The look of all pages: one style, one script, and the parts they are made of.

A page is one file: no network access, no script or font from elsewhere.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:0;color:#1c2430;background:#f6f7f9}
main{max-width:1500px;margin:0 auto;padding:20px 24px 48px}
h1{font-size:22px;margin:0 0 4px}h2{font-size:16px;margin:28px 0 8px}
.sub{color:#5a6675;margin:0 0 14px}
.card{background:#fff;border:1px solid #dde2e8;border-radius:6px;padding:12px;overflow:auto}
.facts{display:flex;flex-wrap:wrap;gap:10px}.facts div{background:#fff;border:1px solid #dde2e8;
border-radius:6px;padding:8px 14px}.facts b{display:block;font-size:17px}.facts span{color:#5a6675;
font-size:12px}
table{border-collapse:collapse;width:100%;font-size:13px}
th,td{padding:4px 8px;text-align:left;border-bottom:1px solid #eceff3;white-space:nowrap}
th{background:#f0f2f5;position:sticky;top:0;font-weight:600}
table.sorts th{cursor:pointer}table.sorts th::after{content:" \\2195";color:#a5afbb}
th.up::after{content:" \\2191";color:#1c2430}th.down::after{content:" \\2193";color:#1c2430}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.w{white-space:normal;min-width:260px}th.w{width:1%}
.scroll{max-height:560px;overflow:auto}
input.filter{font:inherit;padding:5px 9px;width:280px;border:1px solid #c5ccd5;border-radius:5px;
margin:0 0 8px}
.tag{border-radius:9px;padding:1px 8px;font-size:12px}
.binary{background:#d8ecdf;color:#14532d}.float{background:#fbe6cf;color:#7a3d06}
.two{display:grid;grid-template-columns:1fr 1fr;gap:14px}
svg text{font:11px system-ui,sans-serif;fill:#1c2430}svg .quiet{fill:#5a6675}
.zoom{cursor:grab;display:block;width:100%;height:560px;background:#fff}
@media(max-width:900px){.two{grid-template-columns:1fr}}
"""

SCRIPT = """
document.querySelectorAll('table.sorts').forEach(function(table){
  var body=table.tBodies[0];
  table.querySelectorAll('th').forEach(function(head,at){
    head.addEventListener('click',function(){
      var up=!head.classList.contains('up');
      table.querySelectorAll('th').forEach(function(h){h.classList.remove('up','down')});
      head.classList.add(up?'up':'down');
      var key=function(row){return row.cells[at].dataset.v||row.cells[at].textContent};
      var rows=Array.from(body.rows);
      rows.sort(function(a,b){
        var x=key(a),y=key(b),p=parseFloat(x),q=parseFloat(y);
        var c=head.classList.contains('n')
          ?(isNaN(p)?-Infinity:p)-(isNaN(q)?-Infinity:q)||0:x.localeCompare(y);
        return up?c:-c});
      rows.forEach(function(row){body.appendChild(row)})})})});
document.querySelectorAll('input.filter').forEach(function(input){
  var table=document.getElementById(input.dataset.table);
  input.addEventListener('input',function(){
    var words=input.value.toLowerCase().split(/\\s+/);
    Array.from(table.tBodies[0].rows).forEach(function(row){
      var text=row.textContent.toLowerCase();
      row.hidden=!words.every(function(word){return text.indexOf(word)>=0})})})});
document.querySelectorAll('svg.zoom').forEach(function(svg){
  var view=svg.getAttribute('viewBox').split(' ').map(Number),from=null;
  var show=function(){svg.setAttribute('viewBox',view.join(' '))};
  var at=function(e){var p=svg.createSVGPoint();p.x=e.clientX;p.y=e.clientY;
    return p.matrixTransform(svg.getScreenCTM().inverse())};
  svg.addEventListener('wheel',function(e){
    e.preventDefault();var p=at(e),f=e.deltaY<0?0.8:1.25;
    view=[p.x-(p.x-view[0])*f,p.y-(p.y-view[1])*f,view[2]*f,view[3]*f];show()},{passive:false});
  svg.addEventListener('pointerdown',function(e){from=at(e);svg.setPointerCapture(e.pointerId)});
  svg.addEventListener('pointermove',function(e){
    if(!from)return;var p=at(e);view[0]+=from.x-p.x;view[1]+=from.y-p.y;show()});
  svg.addEventListener('pointerup',function(){from=null})});
"""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what is shown.
        value: what is sorted by, where that is not the text.
        kind: CSS class of a tag around the text, or "".
        wide: the text may break into lines.
    """

    text: str
    value: float | None = None
    kind: str = ""
    wide: bool = False


def document(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """A whole page; the title is escaped, the parts are HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="sub">{escape(subtitle)}</p>'
        f"{''.join(parts)}</main><script>{SCRIPT}</script></body></html>\n"
    )


def section(heading: str, content: str) -> str:
    """A heading and a box of HTML."""
    return f'<h2>{escape(heading)}</h2><div class="card">{content}</div>'


def facts(values: Mapping[str, str]) -> str:
    """Small boxes of one figure each."""
    boxes = (f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in values.items())
    return f'<div class="facts">{"".join(boxes)}</div>'


def table(
    name: str, header: Sequence[str], rows: Iterable[Sequence[Cell]], *, numbers: Sequence[int] = ()
) -> str:
    """A table that sorts by the column whose head is clicked, with a field that filters rows.

    Args:
        name: id of the table.
        header: of the columns.
        rows: as many cells in each.
        numbers: columns that hold numbers.
    """
    heads = "".join(
        f"<th{' class=n' if at in numbers else ''}>{escape(head)}</th>"
        for at, head in enumerate(header)
    )
    body = "".join(
        f"<tr>{''.join(_cell(cell, at in numbers) for at, cell in enumerate(row))}</tr>"
        for row in rows
    )
    return (
        f'<input class="filter" data-table="{name}" placeholder="filter rows, e.g. float stage3">'
        f'<div class="scroll"><table class="sorts" id="{name}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def plain_table(rows: Mapping[str, str]) -> str:
    """Two columns: names and texts."""
    return (
        "<table>"
        + "".join(
            f'<tr><th>{escape(k)}</th><td class="w">{escape(v)}</td></tr>' for k, v in rows.items()
        )
        + "</table>"
    )


def escape(text: str) -> str:
    """A text as HTML."""
    return html.escape(text)


def _cell(cell: Cell, number: bool) -> str:
    text = escape(cell.text)
    if cell.kind:
        text = f'<span class="tag {escape(cell.kind)}">{text}</span>'
    names = "n" if number else "w" if cell.wide else ""
    value = "" if cell.value is None else f' data-v="{cell.value:.9g}"'
    return f"<td{f' class={names}' if names else ''}{value}>{text}</td>"
