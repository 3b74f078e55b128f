import { UserError } from '../errors.js';
import { loadCheckpoint } from '../runtime/checkpoint.js';
import { checkpointOf, exportOnnx, exportSafetensors } from '../train/export.js';
import { packageOf } from '../train/open.js';
import { readRecord, runOf } from '../train/run-directory.js';

export interface ExportRequest {
  readonly output?: string;
  readonly safetensors?: string;
  readonly step?: number;
  readonly package?: string;
  readonly model?: string;
}

export interface Exported {
  readonly step: number;
  readonly files: readonly string[];
  /** Parameters in the safetensors file whose torch name is not known. */
  readonly unnamed: readonly string[];
}

/** Writes the weights of a run's checkpoint. @throws UserError */
export async function runExport(target: string, request: ExportRequest): Promise<Exported> {
  const run = runOf(target);
  const recorded = readRecord(run);
  const pkg = await packageOf(recorded.package, request.package);
  const checkpoint = await loadCheckpoint(run === target ? checkpointOf(run, request.step) : target);
  try {
    if (checkpoint.state.packageHash !== pkg.hash)
      throw new UserError(
        `${checkpoint.directory} was made with another package`,
        'export with the package of the run',
      );
    const files: string[] = [];
    let unnamed: readonly string[] = [];
    if (request.output !== undefined) {
      await exportOnnx(pkg, checkpoint.weights, request.output, { model: request.model });
      files.push(request.output);
    }
    if (request.safetensors !== undefined) {
      unnamed = await exportSafetensors(pkg, checkpoint.weights, request.safetensors);
      files.push(request.safetensors);
    }
    return { step: checkpoint.state.step, files, unnamed };
  } finally {
    checkpoint.close();
  }
}
