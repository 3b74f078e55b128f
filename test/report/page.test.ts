import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { UserError } from '../../src/errors.js';
import { instructionsOf } from '../../src/report/align.js';
import { reportData } from '../../src/report/data.js';
import { phasesOf } from '../../src/report/layers.js';
import { escapeHtml, escapeJson } from '../../src/report/page.js';
import { reportPage } from '../../src/report/report.js';
import { lowered } from '../support/lowered.js';
import { modelFolder } from '../support/oracle.js';
import { layeredSource, sourceOfLowered } from './layered.js';

const deep = layeredSource(32);

const unicode = fc.string({ unit: 'binary', minLength: 1, maxLength: 1 });

test('escaped text has no markup and says the same', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.oneof(fc.constantFrom(...'<>&"\'/!-\u2028\u2029'), unicode) }),
      (text) => {
        expect(escapeHtml(text)).not.toMatch(/[<>"']/);
        const json = escapeJson({ text });
        expect(json).not.toMatch(/[<\u2028\u2029]/);
        expect(JSON.parse(json)).toEqual({ text });
      },
    ),
  );
});

const EVIL = '</script><script>pwned()</script><!--<script><img src=x onerror=pwned()>';

test('names from the model’s file stay text', () => {
  const page = reportPage(
    layeredSource(2, { rename: (name) => `${name}${EVIL}`, model: EVIL, notes: [EVIL, '__proto__'] }),
  );
  expect(page).not.toContain('<script>pwned');
  expect(page).not.toContain('<img');
  expect(page.match(/<script/g)).toHaveLength(2);
  expect(page.match(/<\/script/g)).toHaveLength(2);
});

test('the policy allows the page’s own script and style, and nothing else', () => {
  const page = reportPage(deep);
  const hashOf = (text: string): string => `sha256-${createHash('sha256').update(text).digest('base64')}`;
  const [, policy = ''] = /http-equiv="Content-Security-Policy" content="([^"]*)"/.exec(page)!;
  const [, script = ''] = /<script>([\s\S]*?)<\/script>/.exec(page)!;
  const [, style = ''] = /<style>([\s\S]*?)<\/style>/.exec(page)!;
  expect(policy.split('; ').sort()).toEqual(
    [
      "default-src 'none'",
      "base-uri 'none'",
      "form-action 'none'",
      'img-src data:',
      `script-src '${hashOf(script)}'`,
      `style-src '${hashOf(style)}'`,
    ].sort(),
  );
  const addresses = page.match(/\w+:\/\/[^\s"']+/g) ?? [];
  expect(addresses.filter((address) => address !== 'http://www.w3.org/2000/svg')).toEqual([]);
  expect(page).not.toMatch(/\ssrc=|\sstyle="|\son\w+=|@import|url\(/);
});

test('32 layers are 32 sections of one shape, in less than 2 MB, written the same twice', () => {
  const data = reportData(deep);
  expect(data.sections.map((s) => s.title)).toEqual([
    'embedding',
    ...Array.from({ length: 32 }, (_, i) => `layer ${i}`),
    'head and loss',
  ]);
  const layers = data.sections.slice(1, -1);
  expect(new Set(layers.map((s) => s.shape)).size).toBe(1);
  layers.forEach((s, i) => {
    expect(s.scope).toBe(`model.layers.${i}`);
    expect(s.elements).toBe(64 + 64 * (64 + 16 + 16 + 64) + 2 * 64 * 128);
    const locs = new Set([...s.forward, ...s.backward].map((node) => data.strings[node.loc]!));
    expect([...locs].every((loc) => loc.startsWith(`/model/layers.${i}/`))).toBe(true);
  });
  const page = reportPage(deep);
  expect(Buffer.byteLength(page)).toBeLessThan(2_000_000);
  expect(reportPage(layeredSource(32))).toBe(page);
});

test.each(['gpt2', 'gpt2-hf', 'gpt2-ts', 'llama', 'llama-ts', 'llama-opset23', 'llama-packed'])(
  '%s: every node once, in its layer and its instruction; every exchange has its reason',
  async (name) => {
    const source = sourceOfLowered(await lowered(modelFolder(name)));
    const data = reportData(source);
    const config = JSON.parse(readFileSync(path.join(modelFolder(name), 'config.json'), 'utf8')) as Record<
      string,
      number
    >;
    const layers = config['num_hidden_layers'] ?? config['n_layer'] ?? config['layers'];
    expect(data.sections.filter((s) => s.kind === 'layer')).toHaveLength(layers ?? 2);
    const { graph, program } = source.programs.get('train')!;
    const { forward, backward } = phasesOf(graph);
    const nodes = data.sections.flatMap((s) => [...s.forward, ...s.backward]);
    expect(new Set(nodes.map((node) => node.n)).size).toBe(forward.length + backward.length);
    const used = new Set(nodes.flatMap((node) => (node.i < 0 ? [] : [node.i])));
    expect(used.size).toBe(program.instructions.length);
    for (const section of data.sections.filter((s) => s.kind === 'layer')) {
      const whys = [...section.forward, ...section.backward].flatMap((n) =>
        n.why === undefined ? [] : [data.strings[n.why]!],
      );
      expect(whys).toEqual([
        expect.stringMatching(
          /^attention wants its tokens whole \(f32\[S, \d+@sp, \d+\]\), it got f32\[S@sp, \d+, \d+\]/,
        ),
        expect.stringContaining('goes back to split tokens'),
        expect.stringContaining('backward of the exchange after attention'),
        expect.stringContaining('backward of the exchange before attention'),
      ]);
    }
  },
);

test('FLOPs of the nodes add up to those of the program', () => {
  const data = reportData(deep);
  const symbols = /\d+(?=\*A_causal)|\d+(?=\*S\b)/g;
  const total = { pairs: 0, tokens: 0 };
  for (const node of data.sections.flatMap((s) => [...s.forward, ...s.backward])) {
    const text = node.flops === undefined ? '' : data.strings[node.flops]!;
    total.pairs += Number(/(\d+)\*A_causal/.exec(text)?.[1] ?? 0);
    total.tokens += Number(/(\d+)\*S\b/.exec(text)?.[1] ?? 0);
  }
  expect(deep.flops.get('train')!.match(symbols)!.map(Number)).toEqual([total.pairs, total.tokens]);
});

test('a text that does not belong to its instructions is refused', () => {
  const { graph } = deep.programs.get('train')!;
  const { program } = deep.programs.get('eval')!;
  expect(() => instructionsOf(graph, program)).toThrow(UserError);
});
