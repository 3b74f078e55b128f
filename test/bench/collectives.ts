/** Local all-to-all against a plain copy of the bytes it sends: `node dist/test/bench/collectives.js`. */
import { pathToFileURL } from 'node:url';
import { RankPool } from '../../src/runtime/ranks/pool.js';
import type { ExchangeOrder, ExchangeTimes } from './collectives-rank.js';

export interface CollectivesResult extends ExchangeTimes {
  readonly world: number;
}

export async function benchCollectives(
  print: (line: string) => void = console.log,
): Promise<CollectivesResult[]> {
  const results: CollectivesResult[] = [];
  print('all-to-all, local: ranks, MB sent a rank, GB/s a rank, GB/s of a plain copy, ratio');
  for (const world of [2, 4]) {
    for (const tokens of [16, 512, 8192]) {
      const order: ExchangeOrder = { tokens, heads: 12, headSize: 64, repeats: tokens < 100 ? 400 : 40 };
      const times = await measure(world, order);
      results.push({ world, ...times });
      const rate = times.bytesSent / times.allToAllMs / 1e6;
      const copyRate = times.bytesSent / times.copyMs / 1e6;
      const cells = [times.bytesSent / 1e6, rate, copyRate, rate / copyRate].map((cell) => cell.toFixed(2));
      print(`  ${[world, ...cells].join('  ')}  (${(1000 * times.allToAllMs).toFixed(0)} us)`);
    }
  }
  return results;
}

/** The slowest rank's times. */
async function measure(world: number, order: ExchangeOrder): Promise<ExchangeTimes> {
  const entry = new URL('./collectives-rank.js', import.meta.url);
  const pool = await RankPool.start<ExchangeOrder, ExchangeTimes>({ world, entry });
  try {
    const times = await pool.broadcast(order);
    return {
      bytesSent: Math.max(...times.map((time) => time.bytesSent)),
      allToAllMs: Math.max(...times.map((time) => time.allToAllMs)),
      copyMs: Math.max(...times.map((time) => time.copyMs)),
    };
  } finally {
    await pool.close();
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await benchCollectives();
