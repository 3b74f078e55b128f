/** The page's only style sheet: its hash stands in the content security policy. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --paper: #fafaf8; --card: #ffffff; --ink: #1c1e21; --soft: #62666d; --line: #e2e2dd; --tint: #f2f2ee;
  --blue: #1f5fbf; --blue-tint: #e3edfb; --orange: #a84b00; --orange-tint: #fdebd8; --violet: #6b3fb5;
  --violet-tint: #efe6fb; --red: #b3261e; --red-tint: #fbe4e2; --green: #1d7a46; --area: #9dbfed;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141619; --card: #1b1e22; --ink: #e4e5e2; --soft: #9a9ea6; --line: #2f3339; --tint: #23272c;
    --blue: #86b4ff; --blue-tint: #1c2f4d; --orange: #ffb070; --orange-tint: #45290f; --violet: #c4a3ff;
    --violet-tint: #32234f; --red: #ff9b92; --red-tint: #4a1f1c; --green: #6fd39a; --area: #35588c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 14px/1.5 system-ui, sans-serif; }
#page { max-width: 1180px; margin: 0 auto; padding: 28px 24px 80px; }
h1 { margin: 0; font-size: 28px; line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 36px 0 10px; font-size: 17px; }
h4 { margin: 14px 0 6px; font-size: 12px; color: var(--soft); text-transform: uppercase; letter-spacing: 0.06em; }
h4 small { margin-left: 8px; text-transform: none; letter-spacing: 0; font-weight: 400; }
p { margin: 6px 0; }
code { font: 12px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; unicode-bidi: isolate; }
button, input { font: inherit; color: inherit; }
button { padding: 2px 10px; border: 1px solid var(--line); border-radius: 6px; background: var(--card); cursor: pointer; }
button:hover { border-color: var(--soft); }
button[aria-pressed="true"] { background: var(--blue-tint); border-color: var(--blue); color: var(--blue); }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
input[type="number"], input[type="search"] { padding: 3px 8px; border: 1px solid var(--line); border-radius: 6px; background: var(--card); }
input[type="number"] { width: 110px; }
input[type="search"] { width: 260px; }
input[type="range"] { accent-color: var(--blue); }
em { font-style: normal; color: var(--soft); font-size: 12px; }
.number { font-variant-numeric: tabular-nums; text-align: right; }
.source, .hint, .passes, .legend, .rest { color: var(--soft); }
.passes { overflow-wrap: anywhere; }

.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 10px; margin: 18px 0 0; }
.facts div { padding: 10px 14px; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; font-size: 20px; font-weight: 600; }
.facts small { display: block; font-size: 12px; font-weight: 400; color: var(--soft); min-height: 18px; }

.controls {
  position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 10px 28px; align-items: end;
  margin: 14px -24px 0; padding: 12px 24px; background: var(--paper); border-bottom: 1px solid var(--line);
}
.controls label { display: grid; grid-template-columns: auto 150px; gap: 2px 10px; align-items: center; }
.controls label span { grid-column: 1 / -1; font-size: 12px; color: var(--soft); }
.result { min-width: 96px; }
.result span { display: block; font-size: 12px; color: var(--soft); }
.result b { font-size: 17px; font-variant-numeric: tabular-nums; }
.row-of { flex-basis: 100%; color: var(--soft); font-size: 12px; }

.chips { display: flex; flex-wrap: wrap; gap: 8px; }
.chip { padding: 2px 12px; border-radius: 99px; background: var(--tint); border: 1px solid var(--line); }
.chip b { margin-left: 6px; font-weight: 600; }
.notes { margin: 10px 0; padding-left: 18px; color: var(--soft); overflow-wrap: anywhere; }
.notes .near { color: var(--red); }
.notes summary { cursor: pointer; }

.legend { display: flex; flex-wrap: wrap; gap: 4px 6px; align-items: baseline; font-size: 13px; }
.legend .buttons { margin-left: auto; display: flex; gap: 6px; }
.split, .pending { padding: 0 4px; border-radius: 4px; font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 12px; }
.tokens { background: var(--blue-tint); color: var(--blue); }
.heads { background: var(--orange-tint); color: var(--orange); }
.world { background: var(--violet-tint); color: var(--violet); }
.pending { background: var(--red-tint); color: var(--red); margin-left: 2px; }
.type { white-space: nowrap; }

.row { display: grid; grid-template-columns: 16px minmax(0, 1fr) 84px 52px 92px 210px; gap: 12px; align-items: center; padding: 6px 12px; }
.row.head { color: var(--soft); font-size: 12px; padding-bottom: 2px; }
.row.head span:nth-child(n + 3) { text-align: right; }
.section { border: 1px solid var(--line); border-top-width: 0; background: var(--card); }
.row.head + .section { border-top-width: 1px; border-radius: 10px 10px 0 0; }
.section:last-child { border-radius: 0 0 10px 10px; }
.section summary { list-style: none; cursor: pointer; }
.section summary::-webkit-details-marker { display: none; }
.section summary:hover { background: var(--tint); }
.chevron::before { content: "›"; display: inline-block; color: var(--soft); font-size: 16px; line-height: 1; transition: transform 0.1s; }
.section[open] > summary .chevron::before { transform: rotate(90deg); }
.section[open] > summary { border-bottom: 1px solid var(--line); }
.name { display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; min-width: 0; }
.name b { white-space: nowrap; }
.name code { color: var(--soft); overflow-wrap: anywhere; }
.compute { display: grid; grid-template-columns: 1fr 92px; gap: 10px; align-items: center; }
.bar { height: 8px; border-radius: 4px; background: var(--tint); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--blue); border-radius: 4px; }

.phase { padding: 2px 16px 12px; }
.group { margin: 6px 0; border-left: 3px solid var(--line); padding-left: 10px; overflow-x: auto; }
.instruction { margin: 0 0 2px; font-size: 12px; color: var(--soft); }
.instruction b { color: var(--ink); }
.instruction em { margin-left: 8px; }
.collective { margin: 8px 0; padding: 8px 12px; border-left: 3px solid var(--orange); border-radius: 0 8px 8px 0; background: var(--tint); overflow-x: auto; }
.collective p { margin: 2px 0; }
.collective .sent { margin: 0 12px; font-weight: 600; }
.collective .loc { color: var(--soft); }
.moved > span:first-child { display: inline-block; min-width: 56px; color: var(--soft); font: 12px ui-monospace, Menlo, Consolas, monospace; }
table { border-collapse: collapse; }
th { text-align: left; font-weight: 500; font-size: 12px; color: var(--soft); padding: 2px 14px 4px 0; border-bottom: 1px solid var(--line); }
th.number { text-align: right; }
td { padding: 2px 14px 2px 0; vertical-align: top; }
.ops { width: 100%; min-width: 760px; font-size: 13px; }
.ops td { white-space: nowrap; }
.ops tr:hover > td { background: var(--tint); }
.ops tr.body:hover > td { background: none; }
.ops .value, .ops .operands, .ops .loc { font: 12px/1.7 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: var(--soft); }
.ops .value { width: 52px; }
.ops .op { width: 116px; }
.ops .types { width: 190px; white-space: normal; }
.ops .types .type { display: block; }
.ops .operands { white-space: normal; overflow-wrap: anywhere; }
.ops .attrs { opacity: 0.75; }
.ops .number { width: 100px; }
.ops .loc { text-align: right; width: 150px; max-width: 220px; white-space: normal; overflow-wrap: anywhere; padding-right: 0; }
.ops .body p { margin: 2px 0 2px 12px; color: var(--soft); font-size: 12px; }
.ops .body .ops { min-width: 0; margin-left: 12px; border-left: 2px dashed var(--line); padding-left: 8px; width: calc(100% - 12px); }
.scroll { overflow-x: auto; }
.scroll table, .detail table { width: 100%; }
.scroll td code { overflow-wrap: anywhere; }
.scroll tbody tr:nth-child(even) { background: var(--tint); }
.scroll th:first-child, .scroll td:first-child { padding-left: 6px; }
.yes { color: var(--green); }
.no { color: var(--orange); }

.tabs { display: flex; gap: 6px; }
.memory input[type="range"] { width: 92.6%; margin: 0 0 0 7.4%; }
.picture { padding: 8px 0 0; }
.picture svg { display: block; width: 100%; height: auto; cursor: crosshair; touch-action: none; }
.picture text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid line { stroke: var(--line); }
.area { fill: var(--area); stroke: var(--blue); stroke-width: 1; }
.turn line { stroke: var(--soft); stroke-dasharray: 3 3; }
.top { fill: var(--red); stroke: var(--card); stroke-width: 1.5; }
.mark { stroke: var(--ink); stroke-width: 1.5; }
.numbers .peak { color: var(--red); }
@media (max-width: 760px) {
  .row { grid-template-columns: 12px minmax(0, 1fr) 92px; }
  .row > span:nth-child(3), .row > span:nth-child(4), .row > span:nth-child(5), .bar { display: none; }
  .compute { grid-template-columns: 1fr; }
  .controls { position: static; }
}
@media print { .controls { position: static; } }
`;
