// The picture: ranks from top to bottom, node by node, time from left to right.

import { data } from './dom.js';
import { colorOf, groupAt, groups, pan, reveal, spans, view, zoom } from './plan-view.js';

const LEFT = 64;
const BOTTOM = 26;
const TOP = 18;

const dark = matchMedia('(prefers-color-scheme: dark)');
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Stripes for time in which a rank waits. */
function stripes(context, color) {
  const tile = document.createElement('canvas');
  tile.width = tile.height = 8;
  const brush = tile.getContext('2d');
  brush.strokeStyle = color;
  brush.lineWidth = 0.8;
  brush.globalAlpha = 0.7;
  brush.beginPath();
  for (const shift of [-8, 0, 8]) {
    brush.moveTo(shift, 8);
    brush.lineTo(shift + 8, 0);
  }
  brush.stroke();
  return context.createPattern(tile, 'repeat');
}

/**
 * Draws into a canvas and lets a reader point, click, drag, zoom and step through groups.
 * @param on called with the group pointed at, and with the group chosen
 */
export function createPicture(canvas, on) {
  const context = canvas.getContext('2d');
  const size = { width: 0, height: 0 };
  let chosen;

  const x = (ms) => LEFT + ((ms - view.left) / (view.right - view.left)) * (size.width - LEFT);
  const y = (rank) => TOP + ((rank - view.top) / (view.bottom - view.top)) * (size.height - TOP - BOTTOM);
  const msAt = (px) => view.left + ((px - LEFT) / (size.width - LEFT)) * (view.right - view.left);
  const rankAt = (py) => view.top + ((py - TOP) / (size.height - TOP - BOTTOM)) * (view.bottom - view.top);

  function resize() {
    const scale = globalThis.devicePixelRatio || 1;
    size.width = canvas.clientWidth;
    size.height = Math.round(Math.min(720, Math.max(300, TOP + BOTTOM + 9 * data.ranks)));
    canvas.style.height = `${size.height}px`;
    canvas.width = Math.round(size.width * scale);
    canvas.height = Math.round(size.height * scale);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    draw();
  }

  function draw() {
    context.fillStyle = ink('card');
    context.fillRect(0, 0, size.width, size.height);
    context.save();
    context.beginPath();
    context.rect(LEFT, TOP, size.width - LEFT, size.height - TOP - BOTTOM);
    context.clip();
    drawWaiting();
    for (const group of groups) drawGroup(group);
    drawNodes();
    drawBound();
    context.restore();
    drawAxes();
  }

  /** Every micro-batch hatched, its fixed cost plain; groups are drawn over it. */
  function drawWaiting() {
    const hatch = stripes(context, ink('soft'));
    const bottom = y(data.ranks) - y(0);
    for (const { from, to } of spans) {
      context.fillStyle = hatch;
      context.fillRect(x(from), y(0), x(to) - x(from), bottom);
      context.fillStyle = ink('line');
      context.fillRect(x(from), y(0), x(from + data.fixedMs) - x(from), bottom);
      context.fillStyle = ink('soft');
      context.fillRect(x(to) - 0.5, y(0), 1, bottom);
    }
    if (data.onceMs > 0) {
      const { to } = spans.at(-1) ?? { to: 0 };
      context.fillStyle = ink('line');
      context.fillRect(x(to), y(0), x(to + data.onceMs) - x(to), bottom);
    }
  }

  function drawGroup(group) {
    const [left, right] = [x(group.from), x(group.from + group.ms)];
    const [top, bottom] = [y(group.rank), y(group.rank + group.degree)];
    if (right < LEFT || left > size.width || bottom < TOP || top > size.height) return;
    const [width, height] = [right - left, bottom - top];
    const gap = height > 4 ? 0.5 : 0;
    context.fillStyle = ink('card');
    context.fillRect(left, top, width, height);
    context.fillStyle = colorOf(group.degree, dark.matches);
    context.fillRect(left, top + gap, width, Math.max(height - 2 * gap, 0.6));
    if (width > 22 && height > 12) {
      context.fillStyle = dark.matches ? '#fff' : '#111';
      context.font = '11px system-ui, sans-serif';
      context.textAlign = 'left';
      context.textBaseline = 'middle';
      context.fillText(String(group.degree), Math.max(left, LEFT) + 5, (top + bottom) / 2);
    }
    if (group !== chosen) return;
    context.strokeStyle = ink('ink');
    context.lineWidth = 2;
    context.strokeRect(left + 1, top + 1, Math.max(width - 2, 1), Math.max(height - 2, 1));
  }

  function drawNodes() {
    if (data.ranks <= data.ranksPerNode) return;
    const apart = y(data.ranksPerNode) - y(0);
    if (apart < 6) return;
    context.fillStyle = ink('soft');
    for (let rank = data.ranksPerNode; rank < data.ranks; rank += data.ranksPerNode)
      context.fillRect(LEFT, y(rank) - 0.5, size.width - LEFT, 0.8);
  }

  function drawBound() {
    const at = x(data.boundMs);
    for (const [color, width] of [
      [ink('card'), 5],
      [ink('red'), 2],
    ]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.setLineDash(width === 2 ? [6, 4] : []);
      context.beginPath();
      context.moveTo(at, TOP);
      context.lineTo(at, size.height - BOTTOM);
      context.stroke();
    }
    context.setLineDash([]);
  }

  function drawAxes() {
    context.fillStyle = ink('soft');
    context.font = '11px system-ui, sans-serif';
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    const step = rankStep();
    for (let rank = Math.ceil(view.top / step) * step; rank < view.bottom; rank += step)
      context.fillText(`rank ${rank}`, LEFT - 8, Math.min(y(rank) + 7, size.height - BOTTOM - 6));
    context.textAlign = 'center';
    const every = timeStep();
    for (let ms = Math.ceil(view.left / every) * every; ms <= view.right; ms += every)
      if (x(ms) < size.width - 24) context.fillText(timeText(ms), x(ms), size.height - BOTTOM / 2);
    spans.forEach(({ from, to }, m) => {
      const [left, right] = [Math.max(LEFT, x(from)), Math.min(size.width, x(to))];
      if (right - left > 16) context.fillText(String(m), (left + right) / 2, TOP / 2);
    });
  }

  /** Ranks between labels: whole nodes where there are several. */
  function rankStep() {
    const least = ((view.bottom - view.top) * 22) / (size.height - TOP - BOTTOM);
    let step = 1;
    while (step < least) step = step < data.ranksPerNode ? Math.min(2 * step, data.ranksPerNode) : 2 * step;
    return step;
  }

  /** One unit along the axis. */
  const timeText = (ms) =>
    view.right >= 10_000 ? `${Number((ms / 1000).toFixed(3))} s` : `${Number(ms.toFixed(3))} ms`;

  function timeStep() {
    const least = ((view.right - view.left) * 90) / (size.width - LEFT);
    const power = 10 ** Math.floor(Math.log10(least));
    return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= least);
  }

  function choose(group) {
    chosen = group;
    if (group !== undefined) reveal(group);
    draw();
    on.choose(group);
  }

  let drag;
  canvas.addEventListener('pointerdown', (event) => {
    drag = { x: event.offsetX, y: event.offsetY, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (drag === undefined)
      return on.point(groupAt(msAt(event.offsetX), rankAt(event.offsetY)), event.offsetX, event.offsetY);
    const [across, down] = [drag.x - event.offsetX, drag.y - event.offsetY];
    if (!drag.moved && Math.hypot(across, down) < 5) return;
    pan(across / (size.width - LEFT), down / (size.height - TOP - BOTTOM));
    drag = { x: event.offsetX, y: event.offsetY, moved: true };
    draw();
  });
  canvas.addEventListener('pointerup', (event) => {
    if (drag?.moved === false) choose(groupAt(msAt(event.offsetX), rankAt(event.offsetY)));
    drag = undefined;
  });
  canvas.addEventListener('pointercancel', () => (drag = undefined));
  canvas.addEventListener('pointerleave', () => on.point(undefined));
  canvas.addEventListener(
    'wheel',
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(1.002 ** event.deltaY, msAt(event.offsetX), rankAt(event.offsetY));
      draw();
    },
    { passive: false },
  );
  canvas.addEventListener('keydown', (event) => {
    const next = stepOf(event.key);
    if (next === undefined) return;
    event.preventDefault();
    choose(next);
  });

  /** The group that a key leads to: its neighbours in rank, or those at the same rank before and after. */
  function stepOf(key) {
    if (key === 'Escape') return chosen;
    if (chosen === undefined) return key.startsWith('Arrow') ? groups[0] : undefined;
    const inside = groups.filter(({ m }) => m === chosen.m);
    const at = inside.indexOf(chosen);
    if (key === 'ArrowDown') return inside[Math.min(at + 1, inside.length - 1)];
    if (key === 'ArrowUp') return inside[Math.max(at - 1, 0)];
    if (key !== 'ArrowLeft' && key !== 'ArrowRight') return undefined;
    const m = chosen.m + (key === 'ArrowRight' ? 1 : -1);
    const other = groups.filter((group) => group.m === m);
    return other.find(({ rank, degree }) => rank + degree > chosen.rank) ?? other.at(-1) ?? chosen;
  }

  new ResizeObserver(resize).observe(canvas);
  dark.addEventListener('change', draw);
  resize();
  return { draw, choose };
}
