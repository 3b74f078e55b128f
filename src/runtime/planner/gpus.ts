import { execFileSync } from 'node:child_process';

/** GPUs of this machine, as nvidia-smi tells them. */
export interface Gpus {
  readonly names: readonly string[];
  /** Of the one that has least. */
  readonly memoryGib: number;
  /** Between the two GPUs that are connected worst; absent where there is one, or the matrix cannot be read. */
  readonly link?: GpuLink;
  /** 2³⁰ bytes a second, one way, by generation and lanes; absent where nvidia-smi does not say. */
  readonly pcieGibPerSecond?: number;
  /** Some GPU is divided (MIG): what its parts are, a person must say. */
  readonly isDivided: boolean;
}

/** NVLinks side by side, or a way over PCIe as nvidia-smi abbreviates it (PIX … SYS). */
export type GpuLink = { readonly nvlinks: number } | { readonly path: string };

export type GpuSearch =
  | { readonly kind: 'found'; readonly gpus: Gpus }
  | { readonly kind: 'none' }
  | { readonly kind: 'failed'; readonly reason: string };

const FIELDS = 'index,uuid,name,memory.total,mig.mode.current,pcie.link.gen.max,pcie.link.width.max';

/** Asks nvidia-smi, if it is on the path. Only GPUs that CUDA_VISIBLE_DEVICES leaves count. */
export function findGpus(env: NodeJS.ProcessEnv = process.env): GpuSearch {
  const ask = (...args: string[]): string =>
    execFileSync('nvidia-smi', args, {
      env,
      encoding: 'utf8',
      timeout: 20_000,
      maxBuffer: 2 ** 20,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  let csv: string;
  try {
    csv = ask(`--query-gpu=${FIELDS}`, '--format=csv,noheader,nounits');
  } catch (error) {
    return failure(error);
  }
  const rows = csv.split('\n').flatMap((line) => (line.trim() === '' ? [] : [readRow(line)]));
  if (rows.some((row) => row === undefined))
    return { kind: 'failed', reason: `nvidia-smi answered ${JSON.stringify(csv.slice(0, 80))}` };
  const all = rows as readonly Row[];
  const visible = visibleOf(all, env['CUDA_VISIBLE_DEVICES']);
  if (visible.length === 0) return { kind: 'none' };
  const link = visible.length === 1 ? undefined : worstLink(matrix(ask), visible);
  const pcie = visible[0]!.pcieGibPerSecond;
  return {
    kind: 'found',
    gpus: {
      names: visible.map(({ name }) => name),
      memoryGib: Math.min(...visible.map(({ memoryMib }) => memoryMib)) / 1024,
      isDivided: visible.some(({ isDivided }) => isDivided),
      ...(link === undefined ? {} : { link }),
      ...(pcie === undefined ? {} : { pcieGibPerSecond: pcie }),
    },
  };
}

function failure(error: unknown): GpuSearch {
  const { code, stderr, stdout, message } = error as NodeJS.ErrnoException & {
    stderr?: string;
    stdout?: string;
  };
  if (code === 'ENOENT') return { kind: 'none' };
  const said = `${stdout ?? ''}${stderr ?? ''}`.trim().split('\n')[0];
  if (said?.includes('No devices were found') === true) return { kind: 'none' };
  return { kind: 'failed', reason: said === undefined || said === '' ? message : said };
}

interface Row {
  readonly index: string;
  readonly uuid: string;
  readonly name: string;
  readonly memoryMib: number;
  readonly isDivided: boolean;
  readonly pcieGibPerSecond: number | undefined;
}

/** 10⁹ bytes a second of a lane, by generation. */
const LANE_GB = [0, 0.25, 0.5, 0.985, 1.969, 3.938, 7.563];

function readRow(line: string): Row | undefined {
  const [index, uuid, name, memory, mig, generation, width] = line.split(',').map((cell) => cell.trim());
  const memoryMib = Number(memory);
  if (index === undefined || uuid === undefined || name === undefined || !(memoryMib > 0)) return undefined;
  const rate = (LANE_GB[Number(generation)] ?? NaN) * Number(width) * 1e9;
  return {
    index,
    uuid,
    name,
    memoryMib,
    isDivided: mig === 'Enabled',
    pcieGibPerSecond: rate > 0 ? rate / 2 ** 30 : undefined,
  };
}

/** CUDA's rule: indices or (beginnings of) UUIDs, up to the first that is neither. */
function visibleOf(all: readonly Row[], list: string | undefined): readonly Row[] {
  if (list === undefined) return all;
  const found: Row[] = [];
  for (const wanted of list.split(',').map((part) => part.trim())) {
    const row = all.find(
      ({ index, uuid }) => index === wanted || (wanted.length > 4 && uuid.startsWith(wanted)),
    );
    if (row === undefined) break;
    found.push(row);
  }
  return found;
}

function matrix(ask: (...args: string[]) => string): string {
  try {
    return ask('topo', '-m');
  } catch {
    return '';
  }
}

/** From the closest to the farthest, as `nvidia-smi topo -m` explains. */
const PATHS = ['PIX', 'PXB', 'PHB', 'NODE', 'SYS'];

/** Headings are underlined where nvidia-smi thinks it has a terminal. */
// oxlint-disable-next-line no-control-regex
const UNDERLINES = /\u001b\[[0-9;]*m/g;

/** @param text of `nvidia-smi topo -m`: a row and a column each GPU, tabs between */
function worstLink(text: string, visible: readonly Row[]): GpuLink | undefined {
  const lines = text
    .replaceAll(UNDERLINES, '')
    .split('\n')
    .map((line) => line.split('\t').map((cell) => cell.trim()));
  const head = lines.find((cells) => cells.includes('GPU0'));
  if (head === undefined) return undefined;
  const names = visible.map(({ index }) => `GPU${index}`);
  let worst: { readonly rank: number; readonly link: GpuLink } | undefined;
  for (const from of names) {
    const row = lines.find((cells) => cells !== head && cells[0] === from);
    for (const to of names) {
      if (from === to) continue;
      const link = readLink(row?.[head.indexOf(to)]);
      if (link === undefined) return undefined;
      const rank = 'path' in link ? 1000 + PATHS.indexOf(link.path) : -link.nvlinks;
      if (worst === undefined || rank > worst.rank) worst = { rank, link };
    }
  }
  return worst?.link;
}

function readLink(cell = ''): GpuLink | undefined {
  const nvlinks = /^NV(\d+)$/.exec(cell)?.[1];
  if (nvlinks !== undefined) return { nvlinks: Number(nvlinks) };
  return PATHS.includes(cell) ? { path: cell } : undefined;
}
