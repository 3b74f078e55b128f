import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../worker-url.js';
import type { Backend, OrtCall, Tensors } from './onnx.js';

/*
 * The addon of native/: ONNX Runtime on the memory of typed arrays, without copies. `npm run native` builds it;
 * everything works without it. It opens the library that onnxruntime-node ships, so both compute the same.
 */

/** What native/ort.cc exports. */
interface Addon {
  /** Raised with every change to what is exported. */
  readonly interface: number;
  /** Opens the library; once a process, later calls do nothing. @throws if it is not of this version */
  open(path: string, version: string): void;
  readonly Session: new (model: Uint8Array) => NativeSession;
  readonly Call: new (session: NativeSession, feeds: Tensors, fetches: Tensors) => OrtCall;
}

interface NativeSession {
  readonly outputs: readonly string[];
  run(feeds: Tensors, fetches: Tensors): void;
  dispose(): void;
}

const INTERFACE = 1;
/** The version of ONNX Runtime that the addon was tested with. */
const VERSION = '1.30.0';

/** Where `npm run native` puts the addon. */
export const addonPath = (): string =>
  join(packageRoot(fileURLToPath(import.meta.url)), 'build', 'native', 'ithaca_ort.node');

/** @returns why it cannot be used, where it cannot */
export function loadNative(): Backend | { readonly reason: string } {
  if (process.env['ITHACA_NATIVE'] === '0') return { reason: 'ITHACA_NATIVE is 0' };
  const path = addonPath();
  if (!existsSync(path)) return { reason: 'the addon is not built (npm run native)' };
  try {
    const require = createRequire(import.meta.url);
    const addon = require(path) as Addon;
    if (addon.interface !== INTERFACE)
      return { reason: 'the addon was built from another version of ithaca (npm run native)' };
    addon.open(libraryPath(require), VERSION);
    return backendOf(addon);
  } catch (error) {
    return { reason: `the addon does not load: ${error instanceof Error ? error.message : String(error)}` };
  }
}

function libraryPath(require: NodeJS.Require): string {
  const binding = require.resolve('onnxruntime-node/dist/binding.js');
  const { platform, arch } = process;
  return join(dirname(binding), '../bin/napi-v6', platform, arch, 'libonnxruntime.so.1');
}

const backendOf =
  ({ Session, Call }: Addon): Backend =>
  (model) => {
    const session = new Session(model);
    return {
      outputs: session.outputs,
      run: (feeds, fetches) => session.run(feeds, fetches),
      bind: (feeds, fetches) => new Call(session, feeds, fetches),
      dispose: () => session.dispose(),
    };
  };
