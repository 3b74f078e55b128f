/** How a cost grows: fixed + slope · n^exponent, fitted to measurements with equal relative errors. */
export interface Growth {
  readonly fixed: number;
  readonly slope: number;
  readonly exponent: number;
}

export interface Measurement {
  readonly n: number;
  readonly cost: number;
}

/** Least squares of relative errors; the exponent is looked for in steps of a hundredth from 0.3 to 3. */
export function fitGrowth(points: readonly Measurement[]): Growth {
  let best: (Growth & { readonly error: number }) | undefined;
  for (let exponent = 0.3; exponent < 3.005; exponent += 0.01) {
    const line = fitLine(points.map(({ n, cost }) => ({ x: n ** exponent, cost })));
    if (best === undefined || line.error < best.error) best = { ...line, exponent };
  }
  return best!;
}

/** cost = fixed + slope · x, no fixed part below 0. */
function fitLine(points: readonly { readonly x: number; readonly cost: number }[]): {
  fixed: number;
  slope: number;
  error: number;
} {
  let [w, wx, wxx, wy, wxy] = [0, 0, 0, 0, 0];
  for (const { x, cost } of points) {
    const weight = 1 / cost ** 2;
    w += weight;
    wx += weight * x;
    wxx += weight * x * x;
    wy += weight * cost;
    wxy += weight * x * cost;
  }
  const free = (w * wxy - wx * wy) / (w * wxx - wx * wx);
  const fixed = Math.max(0, (wy - free * wx) / w);
  const slope = (wxy - fixed * wx) / wxx;
  const error = points.reduce((sum, { x, cost }) => sum + ((fixed + slope * x - cost) / cost) ** 2, 0);
  return { fixed, slope, error };
}
