/** What the page of a plan adds to the style of all pages. */
export const PLAN_STYLE = `
.stage { position: relative; border: 1px solid var(--line); border-radius: 10px; background: var(--card); overflow: hidden; }
.stage canvas { display: block; width: 100%; touch-action: pan-y; cursor: crosshair; }
.stage canvas:focus-visible { outline-offset: -3px; }
.tip { position: absolute; z-index: 1; pointer-events: none; max-width: 320px; padding: 6px 10px; border: 1px solid var(--line); border-radius: 8px; background: var(--card); box-shadow: 0 2px 10px rgb(0 0 0 / 0.18); font-size: 12px; }
.tip b { display: block; }
.bar-of { display: flex; flex-wrap: wrap; gap: 6px 16px; align-items: center; margin: 10px 0; font-size: 13px; color: var(--soft); }
.bar-of .buttons { margin-left: auto; display: flex; gap: 6px; }
.key { display: inline-flex; gap: 6px; align-items: center; }
.swatch { width: 16px; height: 12px; border-radius: 3px; border: 1px solid var(--line); }
.swatch rect { stroke: none; }
.chosen { min-height: 92px; margin: 12px 0; padding: 10px 16px; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
.chosen h3 { margin: 0 0 4px; font-size: 14px; }
.chosen p { color: var(--soft); }
.chosen dl { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 6px 0; }
.chosen dt { font-size: 12px; color: var(--soft); }
.chosen dd { margin: 0; font-variant-numeric: tabular-nums; }
.chosen .lengths { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; max-height: 160px; overflow-y: auto; }
.micro { border: 1px solid var(--line); border-top-width: 0; background: var(--card); }
.micro:first-of-type { border-top-width: 1px; border-radius: 10px 10px 0 0; }
.micro:last-of-type { border-radius: 0 0 10px 10px; }
.micro summary { padding: 6px 14px; cursor: pointer; }
.micro summary em { margin-left: 10px; }
.micro .scroll { padding: 0 14px 10px; max-height: 420px; overflow: auto; }
.micro tbody tr { cursor: pointer; }
.micro tr.picked > td { background: var(--blue-tint); }
`;
