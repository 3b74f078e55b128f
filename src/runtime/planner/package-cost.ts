import { trainProgramsOf } from '../../package/manifest.js';
import type { Package } from '../../package/read.js';
import type { Cluster } from './cluster.js';
import type { CostModel } from './cost.js';
import { mergeLevels } from './levels.js';
import { physicalCost, type Coefficients } from './physical-cost.js';
import { workOf } from './work.js';

/** What a package takes and needs on a cluster, under each of its checkpointing policies. */
export function packageCost(
  pkg: Package,
  cluster: Cluster,
  coefficients: Coefficients,
  options: {
    readonly ranks: number;
    readonly degrees?: readonly number[];
    /** False: memory is not looked at, which takes longer. */
    readonly memory?: boolean;
  },
): CostModel {
  const { memory = true, ...rest } = options;
  const models = trainProgramsOf(pkg.manifest).map((program) => {
    const work = workOf(pkg, options.ranks, program);
    const priced = physicalCost(memory ? work : { ...work, peakBytes: () => 0 }, cluster, coefficients, rest);
    return { program, model: priced };
  });
  return models.length === 1 ? models[0]!.model : mergeLevels(models);
}
