// What part of the plan is in view, and how its values become places, colours and words.

import { data } from './dom.js';

/** All groups in the order of time, then rank, with where they begin. */
export const groups = [];
/** Begin and end of every micro-batch, its fixed cost first. */
export const spans = [];
let clock = 0;
data.microBatches.forEach((microBatch, m) => {
  spans.push({ from: clock, to: clock + microBatch.ms });
  for (const group of microBatch.groups)
    groups.push({ ...group, m, from: clock + data.fixedMs, number: groups.length });
  clock += microBatch.ms;
});

/** Right end of the picture: the step, with a little room for the bound's label. */
export const END = Math.max(data.stepMs, data.boundMs) * 1.005 || 1;

export const view = { left: 0, right: END, top: 0, bottom: data.ranks };
const WHOLE = { ...view };

export const degrees = [...new Set(groups.map((group) => group.degree))].sort((a, b) => a - b);

/** Blue for the smallest groups over violet to orange for the largest. */
export function colorOf(degree, dark) {
  const at = degrees.length < 2 ? 0 : degrees.indexOf(degree) / (degrees.length - 1);
  const hue = 205 + 190 * at;
  return `hsl(${hue} ${dark ? 48 : 58}% ${(dark ? 44 : 66) - 8 * at}%)`;
}

/** Shows the whole plan. */
export const showAll = () => Object.assign(view, WHOLE);

/** Zooms by a factor around a place (in ms and ranks) that stays where it is. */
export function zoom(factor, ms, rank) {
  const keep = (from, to, at) => [at - (at - from) * factor, at + (to - at) * factor];
  const [left, right] = keep(view.left, view.right, ms);
  const [top, bottom] = keep(view.top, view.bottom, rank);
  Object.assign(view, clamp(left, right, 0, END, END / 400, 'left', 'right'));
  Object.assign(view, clamp(top, bottom, 0, data.ranks, Math.min(data.ranks, 4), 'top', 'bottom'));
}

/** Moves the view by shares of itself. */
export function pan(across, down) {
  const [width, height] = [view.right - view.left, view.bottom - view.top];
  const left = Math.min(END - width, Math.max(0, view.left + across * width));
  const top = Math.min(data.ranks - height, Math.max(0, view.top + down * height));
  Object.assign(view, { left, right: left + width, top, bottom: top + height });
}

/** Moves the view so that a group is in it. */
export function reveal(group) {
  const [width, height] = [view.right - view.left, view.bottom - view.top];
  if (group.from + group.ms < view.left || group.from > view.right)
    pan((group.from - width / 4 - view.left) / width, 0);
  if (group.rank + group.degree <= view.top || group.rank >= view.bottom)
    pan(0, (group.rank - height / 4 - view.top) / height);
}

function clamp(from, to, least, most, width, first, second) {
  const size = Math.min(most - least, Math.max(width, to - from));
  const start = Math.min(most - size, Math.max(least, from + (to - from - size) / 2));
  return { [first]: start, [second]: start + size };
}

/** The group at a time and a rank. */
export const groupAt = (ms, rank) =>
  groups.find(
    (group) =>
      ms >= group.from &&
      ms < group.from + group.ms &&
      rank >= group.rank &&
      rank < group.rank + group.degree,
  );

export const msText = (ms) =>
  ms < 10_000
    ? `${ms.toLocaleString('en-US', { maximumFractionDigits: ms < 100 ? 2 : 1 })} ms`
    : `${(ms / 1000).toLocaleString('en-US', { maximumFractionDigits: 2 })} s`;

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** `rank 3`, `ranks 8–15`. */
export const ranksText = ({ rank, degree }) =>
  degree === 1 ? `rank ${rank}` : `ranks ${rank}–${rank + degree - 1}`;
