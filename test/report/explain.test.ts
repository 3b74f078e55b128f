import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { topologicalOrder, type Graph } from '../../src/ir/graph.js';
import { parseGraph } from '../../src/ir/text/parse.js';
import { printType } from '../../src/ir/type.js';
import { programText, TRACE } from '../../src/package/paths.js';
import { openPackage, type Package } from '../../src/package/read.js';
import { traceSchema } from '../../src/package/trace.js';
import { explainNode } from '../../src/report/explain.js';
import { findName, mentions } from '../../src/report/names.js';
import { reportOfPackage } from '../../src/report/report.js';
import { ithaca, succeed } from '../cli/cli.js';
import { modelFolder } from '../support/oracle.js';

const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-explain-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const directory = path.join(folder, 'llama.ithaca');
let pkg: Package;
beforeAll(async () => {
  const options = { config: parseConfig({}, 'test'), weights: true, replace: false };
  await compileModel(path.join(modelFolder('llama'), 'model.onnx'), directory, options);
  pkg = await openPackage(directory);
});

const textOf = (file: string): string => Buffer.from(pkg.bytes(file)).toString('utf8');

describe('a node of the model', () => {
  test('attention: its exchanges and why, its gradients, where each runs, what was said', () => {
    const found = explainNode(pkg, 'node_Softmax_253');
    expect(found.onnx?.op).toBe('Softmax');
    expect(found.part).toBe('layer 0');
    expect(found.notes).toEqual([expect.stringMatching(/^attention at node_Softmax_253: recognised/)]);
    const train = found.programs.find(({ name }) => name === 'train')!;
    expect(train.nodes.map(({ op, phase }) => [op, phase])).toEqual([
      ['all_to_all', 'forward'],
      ['attention', 'forward'],
      ['all_to_all', 'forward'],
      ['all_to_all', 'backward'],
      ['attention_vjp', 'backward'],
      ['all_to_all', 'backward'],
    ]);
    expect(train.nodes[0]!.why).toContain('attention wants its tokens whole');
    const { labels } = pkg.program('train');
    for (const { op, instruction } of train.nodes)
      expect(labels[instruction!.index]).toMatch(new RegExp(`^${op} \\(node_Softmax_253`));
    expect(train.nodes[1]!.flops).toMatch(/^\d+\*A_causal$/);
    expect(found.programs.map(({ name }) => name)).toEqual(['train', 'eval']);
    const passes = found.history.map(({ pipeline, pass }) => `${pipeline} ${pass}`);
    expect(passes).toEqual(
      expect.arrayContaining(['front import', 'front recognize', 'train ulysses', 'train autodiff']),
    );
    const recognized = found.history.find(({ pass }) => pass === 'recognize')!;
    expect(
      [recognized.removed, recognized.added].map((list) => list.map((node) => node.split(' ')[0])),
    ).toEqual([['softmax'], ['attention']]);
  });

  test('the head: nodes in the body of the tiled loss', () => {
    const train = explainNode(pkg, 'node_linear_14').programs[0]!.nodes;
    expect(train[0]!.op).toBe('tiled');
    expect(train.slice(1).every(({ name }) => name.startsWith(`${train[0]!.name}/%`))).toBe(true);
    expect(train.map(({ op }) => op)).toContain('cross_entropy_vjp');
  });

  test('what the backward computes again is told from gradients', () => {
    const nodes = explainNode(pkg, 'node_linear').programs[0]!.nodes;
    expect(nodes.filter(({ phase }) => phase === 'recomputed')).toEqual([]);
    const again = explainNode(pkg, 'node_silu').programs[0]!.nodes;
    expect(again.map(({ op, phase }) => `${phase} ${op}`).sort()).toEqual(
      expect.arrayContaining(['forward silu', 'backward silu_vjp']),
    );
    expect(again.filter(({ op, phase }) => op === 'silu' && phase === 'backward')).toEqual([]);
  });

  test('absorbed by a pattern: what it computed is where', () => {
    const { programs, history, reaches } = explainNode(pkg, 'node_pow_1');
    expect(programs).toEqual([]);
    expect(history.at(-1)).toMatchObject({ pass: 'recognize', added: [] });
    expect(reaches).toEqual(['node_mul_100']);
  });

  test('evaluated at import, found by a value it gives', () => {
    const { node, history, programs, reaches, notes } = explainNode(pkg, 'val_250');
    expect(node).toBe('node_Where_250');
    expect([history, programs]).toEqual([[], []]);
    expect(reaches).toEqual(['node_Softmax_253', 'node_Softmax_423']);
    expect(notes).toEqual([expect.stringMatching(/^val_250 is a causal mask/)]);
  });
});

describe('names', () => {
  const names = new Set(['/a/MatMul', '/a/MatMul_1', '/b/Softmax', '__proto__']);

  test('whole, in part, by a value, without capitals', () => {
    expect(findName(names, '/a/MatMul')).toBe('/a/MatMul');
    expect(findName(names, 'Softmax')).toBe('/b/Softmax');
    expect(findName(names, 'softm')).toBe('/b/Softmax');
    expect(findName(names, '__proto__')).toBe('__proto__');
    expect(findName(names, 'y', new Map([['y', '/b/Softmax']]))).toBe('/b/Softmax');
  });

  test('several matches are listed, the nearest suggested', () => {
    expect(() => findName(names, 'MatMul')).toThrow('is a part of 2 node names: /a/MatMul, /a/MatMul_1');
    expect(() => findName(names, '/b/Sotfmax')).toThrow(
      expect.objectContaining({ hint: 'did you mean /b/Softmax?' }) as Error,
    );
    expect(() => findName(names, 'nothing like it')).toThrow('no ONNX node is called "nothing like it"');
    expect(() => findName(names, '')).toThrow('no ONNX node is called ""');
  });

  test('a remark names a node, not one that its name is a part of', () => {
    expect(mentions('gelu at /a/Mul_2: recognised', '/a/Mul_2')).toBe(true);
    expect(mentions('gelu at /a/Mul_2: recognised', '/a/Mul')).toBe(false);
    expect(mentions('silu at node_silu_1', 'node_silu')).toBe(false);
    expect(mentions('gelu at x.node: recognised', 'node')).toBe(false);
    expect(mentions('it is node.', 'node')).toBe(true);
  });
});

/** Nodes by name and kind, as `trace.json` counts them. */
function countNodes(graph: Graph, counts = new Map<string, number>()): Map<string, number> {
  for (const node of topologicalOrder(graph)) {
    if (node.region !== undefined) countNodes(node.region, counts);
    if (node.loc === undefined || node.op === 'input') continue;
    const key = `${node.loc}\n${node.op} : ${node.results.map((v) => printType(v.type)).join(', ')}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

test.each(['train', 'eval'])('the changes of all passes add up to the nodes of %s', (name) => {
  const { locs, nodes, pipelines } = traceSchema.parse(JSON.parse(textOf(TRACE)));
  const counts = new Map<string, number>();
  for (const pipeline of pipelines.filter((p) => p.name === 'front' || p.name === name))
    for (const [loc, node, delta] of pipeline.passes.flatMap((pass) => pass.changes)) {
      const key = `${locs[loc]}\n${nodes[node]}`;
      const count = (counts.get(key) ?? 0) + delta;
      expect(count).toBeGreaterThanOrEqual(0);
      if (count === 0) counts.delete(key);
      else counts.set(key, count);
    }
  expect([...counts].sort()).toEqual([...countNodes(parseGraph(textOf(programText(name))))].sort());
});

describe('the command line', () => {
  test('explains in words and in JSON', async () => {
    const text = await succeed([
      'explain',
      directory,
      'node_Softmax_253',
      '--tokens',
      '1000',
      '--degree',
      '2',
    ]);
    expect(text).toMatch(/^node_Softmax_253 {2}Softmax {2}in layer 0\n/);
    expect(text).toContain('In train (1,000 tokens, 2 ranks)');
    expect(text).toContain('heads are traded for tokens');
    expect(text).toMatch(
      /instruction \d+, attention \(node_Softmax_253\), segments\/\w+\.onnx; 128\.1 MFLOP = 256\*A_causal/,
    );
    const json = JSON.parse(await succeed(['explain', directory, 'node_Softmax_253', '--json'])) as unknown;
    expect(json).toEqual(JSON.parse(JSON.stringify(explainNode(pkg, 'node_Softmax_253'))));
  });

  test('mistakes are one line and a hint', async () => {
    const many = await ithaca(['explain', directory, 'node_lin']);
    expect(many.code).toBe(1);
    expect(many.stderr).toMatch(
      /^error: "node_lin" is a part of 15 node names: node_linear, .*, and 3 more\n {2}hint: .*\n$/,
    );
    const typo = await ithaca(['explain', directory, 'node_Softmx_253']);
    expect(typo.stderr).toContain('did you mean node_Softmax_253');
    const ranks = await ithaca(['explain', directory, 'node_linear', '--degree', '9']);
    expect(ranks.code).toBe(1);
    expect(ranks.stderr).toMatch(/^error: /);
  });

  test('inspect --html draws the page again: the one of the package', async () => {
    const file = path.join(folder, 'page.html');
    expect(await succeed(['inspect', directory, '--html', file])).toContain('page.html written');
    const dataIn = (page: string): string => page.split('id="data">')[1]!.split('</script>')[0]!;
    expect(dataIn(readFileSync(file, 'utf8'))).toBe(dataIn(textOf('report.html')));
    expect(dataIn(reportOfPackage(pkg))).toBe(dataIn(textOf('report.html')));
  });
});
