"""The page's style: one sheet, colours that follow the browser's light or dark setting, no font from elsewhere."""

from __future__ import annotations

from hybridmem_plugins.augmentation.preview import COLOURS as LEVEL_COLOURS
from hybridmem_plugins.retrieval.explain_html import COLOURS, PICTURE_STYLE

_LEVELS = "".join(f"mark.{level}{{background:{colour};color:#fff}}" for level, colour in LEVEL_COLOURS.items())

_STYLE = """
:root{--accent:#0b7285;--warn:#9a3412;--warn-bg:#fff1e6;--ok:#0f766e}
@media(prefers-color-scheme:dark){:root{--accent:#5fd0de;--warn:#fdba74;--warn-bg:#3a2412;--ok:#5eead4}}
body{background:var(--page)!important;color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Helvetica,Arial,sans-serif}
.nicegui-content{padding:0;display:block}
.desk{--q-primary:var(--accent);max-width:1120px;margin:0 auto;padding:28px 20px 56px;display:block}
.desk *{box-sizing:border-box}
.desk h1{font-size:24px;line-height:1.25;font-weight:700;margin:0;letter-spacing:-.01em}
.desk h2{font-size:12px;line-height:1.5;letter-spacing:.07em;text-transform:uppercase;color:var(--dim);font-weight:600;
margin:0 0 12px}
.desk h3{font-size:13px;line-height:1.5;font-weight:600;margin:0;color:var(--accent)}
.dim{color:var(--dim)}.small{font-size:13px}
.panel{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:0 0 16px;
min-width:0;overflow-wrap:anywhere}
.ask{display:grid;grid-template-columns:1fr 150px auto;gap:10px;align-items:stretch;margin:18px 0 10px}
.samples{display:flex;flex-wrap:wrap;gap:6px;margin:0 0 18px}
.samples .q-btn{font-size:13px;border:1px solid var(--line);border-radius:16px;padding:3px 12px;
min-height:0;text-align:left;font-weight:400;line-height:1.4;color:var(--ink)}
.samples .q-btn__content{justify-content:flex-start;text-align:left}
.ask .q-btn{font-weight:600;border-radius:8px;padding:0 26px;min-height:48px}
.ask .q-btn__content{color:var(--card)}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:14px}
.pair{margin:0 0 8px}
.reply{border:1px solid var(--line);border-radius:10px;padding:14px 16px;min-width:0;overflow-wrap:anywhere}
.reply .text{font-size:17px;line-height:1.45;margin:4px 0 6px}.reply .text.declined{color:var(--dim);font-style:italic}
.chips{display:flex;flex-wrap:wrap;gap:6px;margin:0 0 6px}
.chip{font-size:12.5px;background:var(--hit);border:1px solid var(--hit-line);border-radius:6px;padding:0 7px}
.chip.plain{background:var(--way);border-color:var(--line);color:var(--dim)}
.error{background:var(--warn-bg);color:var(--warn);border-radius:10px;padding:10px 14px;margin:0 0 16px;
overflow-wrap:anywhere}
.noise{display:grid;grid-template-columns:auto 1fr auto;gap:18px;align-items:center;margin:0 0 12px}
.level{min-width:74px;font-variant-numeric:tabular-nums;font-weight:600}
.walk{overflow-x:auto;margin:0 0 14px}.walk:empty{display:none}
.hop{display:flex;gap:10px;margin:0 0 10px}.hop q{color:var(--dim)}
.number{flex:none;min-width:20px;height:20px;border-radius:10px;background:var(--hop);color:var(--card);
font:600 11px/20px system-ui,sans-serif;text-align:center;padding:0 5px;margin-top:2px}
.hit{border-top:1px solid var(--line);padding:14px 0;display:grid;grid-template-columns:26px 1fr 92px;gap:4px 12px}
.hit:first-of-type{border-top:0;padding-top:0}.hit:last-child{padding-bottom:0}
.hit b,.broken b{font-weight:600}.hit .body{min-width:0}.hit p{margin:4px 0 6px}
.score{text-align:right;font-variant-numeric:tabular-nums}
.bar{height:4px;border-radius:2px;background:var(--line);margin-top:5px}
.bar div{height:4px;border-radius:2px;background:var(--bar)}
.broken{width:100%;border-top:1px solid var(--line);padding:10px 0}.broken:first-child{border-top:0}
.damage{white-space:pre-wrap;overflow-wrap:anywhere;font-size:14px}
.damage mark{border-radius:3px;padding:0 2px}
.legend{display:flex;flex-wrap:wrap;gap:6px;margin:0 0 6px}.legend mark{border-radius:3px;padding:0 6px;font-size:12px}
.q-expansion-item .q-item{padding:6px 0;min-height:0}.q-expansion-item__content{padding:0}
.desk .q-field--outlined .q-field__control{border-radius:8px;background:var(--card)}
@media(max-width:760px){.pair{grid-template-columns:1fr}.ask{grid-template-columns:1fr auto}
.ask>:first-child{grid-column:1/-1}.desk{padding:18px 12px 40px}.panel{padding:14px}
.noise{grid-template-columns:auto 1fr;gap:4px 14px}.noise .q-slider{grid-column:1/-1;grid-row:2}
.noise .q-btn{justify-self:end}.hit{grid-template-columns:20px 1fr}
.hit p{font-size:14px}.score{grid-column:2;display:flex;gap:10px;align-items:center}.score .bar{flex:1;margin:0}}
"""

SHEET = f"{COLOURS}{_STYLE}{_LEVELS}.walk{{{PICTURE_STYLE}}}"
"""The whole sheet; the picture's rules hold in `.walk` only."""
