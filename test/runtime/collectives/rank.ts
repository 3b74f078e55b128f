/** Worker entry of the collectives' tests: runs calls, returns what their destinations hold. */
import { serveRank, transferring } from '../../../src/runtime/ranks/worker.js';
import { execute, type Call, type Outcome } from './calls.js';

serveRank<readonly Call[], readonly Outcome[]>((calls, { collectives, setInstruction }) => {
  const outcomes = calls.map((call, step) => {
    setInstruction(step);
    const before = collectives.counters.bytesSent;
    execute(collectives, call);
    return {
      results: call.parts.map((part) => part.dst),
      bytesSent: collectives.counters.bytesSent - before,
    };
  });
  return transferring(outcomes, []);
});
