import type { CostModel } from './cost.js';
import type { StepPlan } from './plan.js';

/** One way in which a plan is wrong. */
export interface Finding {
  readonly rule: 'sequence' | 'partition' | 'degree' | 'memory' | 'topology' | 'empty';
  readonly message: string;
}

/** Findings beyond this many add nothing. */
const MOST = 100;

/**
 * Holds a plan to what any plan must satisfy. Shares no code with the solvers, nor with what places their groups:
 *
 * - sequence: every sequence of the batch in exactly one group, nothing else
 * - partition: every micro-batch uses every rank exactly once; a group's ranks ascend without gaps
 * - degree: a group has as many ranks as its degree, and with sequences an allowed degree
 * - memory: a group holds at most the tokens its degree allows, and the bytes of its fullest rank stay in the limit
 * - topology: a group of up to a node's ranks stays inside a node; a larger one starts or ends at a node's border
 * - empty: a micro-batch holds at least one sequence
 *
 * @returns nothing for a plan that may run
 */
export function checkPlan(plan: StepPlan, lengths: readonly number[], model: CostModel): readonly Finding[] {
  const findings: Finding[] = [];
  const report = (rule: Finding['rule'], message: string): void => {
    if (findings.length < MOST) findings.push({ rule, message });
  };
  const times = new Uint8Array(lengths.length);
  plan.microBatches.forEach(({ groups }, m) => {
    const taken = new Uint8Array(model.ranks);
    let sequences = 0;
    groups.forEach((group, g) => {
      const where = `micro-batch ${m}, group ${g}`;
      sequences += group.sequences.length;
      let tokens = 0;
      for (const index of group.sequences) {
        const length = lengths[index];
        if (length === undefined) report('sequence', `${where}: there is no sequence ${index}`);
        else {
          tokens += length;
          times[index] = Math.min(2, (times[index] ?? 0) + 1);
        }
      }
      checkRanks(group.ranks, where, taken, report);
      if (group.ranks.length !== group.degree)
        report('degree', `${where}: ${group.ranks.length} ranks, its degree is ${group.degree}`);
      const cost = model.degrees.find((one) => one.degree === group.degree);
      if (group.sequences.length > 0 && cost === undefined)
        report('degree', `${where}: degree ${group.degree} is not allowed`);
      if (cost !== undefined && tokens > cost.capacity)
        report('memory', `${where}: ${tokens} tokens, ${cost.capacity} fit at degree ${group.degree}`);
      const bytes = model.memoryBytes(group.degree, tokens);
      // Capacities are whole tokens: a byte more than the limit is rounding of the model's own constants.
      if (bytes > model.memoryLimitBytes + 1)
        report('memory', `${where}: ${bytes} bytes, the limit is ${model.memoryLimitBytes}`);
      const [first, last] = [group.ranks[0] ?? 0, group.ranks.at(-1) ?? 0];
      const size = model.ranksPerNode;
      const nodes = Math.floor(last / size) - Math.floor(first / size) + 1;
      if (nodes > Math.ceil(group.ranks.length / size))
        report('topology', `${where}: ranks ${first} to ${last} spread over ${nodes} nodes of ${size}`);
    });
    const idle = taken.indexOf(0);
    if (idle >= 0) report('partition', `micro-batch ${m}: rank ${idle} is in no group`);
    if (sequences === 0) report('empty', `micro-batch ${m} holds no sequence`);
  });
  times.forEach((n, index) => {
    if (n === 0) report('sequence', `sequence ${index} of ${lengths[index]} tokens is in no group`);
    if (n === 2) report('sequence', `sequence ${index} is in more than one group`);
  });
  return findings;
}

function checkRanks(
  ranks: readonly number[],
  where: string,
  taken: Uint8Array,
  report: (rule: Finding['rule'], message: string) => void,
): void {
  if (ranks.length === 0) report('partition', `${where} has no ranks`);
  ranks.forEach((rank, i) => {
    if (!Number.isInteger(rank) || rank < 0 || rank >= taken.length)
      report('partition', `${where}: there is no rank ${rank}`);
    else if (taken[rank] === 1) report('partition', `${where}: rank ${rank} is in two groups`);
    else taken[rank] = 1;
    if (i > 0 && rank !== (ranks[i - 1] ?? 0) + 1)
      report('partition', `${where}: rank ${rank} follows ${ranks[i - 1]}`);
  });
}
