import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { ithaca, succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();
const COMMANDS = [
  'compile',
  'inspect',
  'explain',
  'verify',
  'plan',
  'train',
  'export',
  'eval',
  'grad',
  'opt',
];

test('--version prints the package’s version', async () => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  expect((await succeed(['--version'])).trim()).toBe(version);
});

test('help lists every command, and every command’s help has examples', async () => {
  const help = await succeed(['--help']);
  for (const command of COMMANDS) expect(help).toContain(`  ${command} `);
  for (const text of await Promise.all(COMMANDS.map((command) => succeed([command, '--help']))))
    expect(text).toMatch(/Examples:\n {2}\$ ithaca /);
});

test.each([
  [['compil', 'x.onnx'], "error: unknown command 'compil'\n  hint: did you mean compile?\n"],
  [
    ['compile', 'x.onnx', '--ouput', 'y'],
    "error: unknown option '--ouput'\n  hint: did you mean --output?\n",
  ],
  [
    ['compile', 'x.onnx'],
    "error: required option '-o, --output <package>' not specified\n  hint: see ithaca help compile\n",
  ],
  [
    ['train', 'x', '--data', 'a', '--out', 'y', '--ranks', '0'],
    /^error: option '--ranks <n>' argument '0' is invalid. Expected a whole number of 1 or more.\n/,
  ],
  [
    ['train', 'x', '--long', 'cut'],
    /^error: option '--long <policy>' argument 'cut' is invalid. Allowed choices are error, split, truncate.\n/,
  ],
  [['train', 'x'], /^error: give either '--out <folder>'/],
])('a wrong command line: %j', async (args, expected) => {
  const { code, stdout, stderr } = await ithaca(args, { cwd: folder });
  expect(stderr).toMatch(expected);
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
});

test('colours only where they are wanted', async () => {
  expect((await ithaca(['nope'])).stderr).not.toContain('\u001b');
  expect((await ithaca(['nope'], { env: { NO_COLOR: '', FORCE_COLOR: '1' } })).stderr).toContain('\u001b');
});

const ADDITION = `// RUN: simplify
graph @g mesh {} (%x: f32[S, 4] {role = "data"}) {
  %0 = add %x, %x : f32[S, 4]
  %1 = add %x, %x : f32[S, 4]
  %2 = mul %0, %1 : f32[S, 4]
  return "y" = %2
}
`;

test('opt runs passes on a file, or those of its RUN lines', async () => {
  const file = path.join(folder, 'add.ir');
  writeFileSync(file, ADDITION);
  const byRunLine = await succeed(['opt', file]);
  expect(byRunLine).toContain('%1 = mul %0, %0 : f32[S, 4]');
  expect(await succeed(['opt', '--passes', 'simplify', file])).toBe(byRunLine);
});

test('opt names line, pass or option of what is wrong', async () => {
  const file = path.join(folder, 'bad.ir');
  writeFileSync(file, ADDITION.replace('%1 = add', '%1 = ad'));
  const bad = await ithaca(['opt', file]);
  expect(bad.stderr).toMatch(/^error: .*bad\.ir: line 4 of the IR: there is no op 'ad'/);
  expect({ code: bad.code, stdout: bad.stdout }).toEqual({ code: 1, stdout: '' });
  const pass = await ithaca(['opt', '--passes', 'simplfy', file]);
  expect(pass.stderr).toMatch(/^error: there is no pass 'simplfy'\n {2}hint: did you mean 'simplify'\?/);
});

test('opt --list describes every pass', async () => {
  const passes = JSON.parse(await succeed(['opt', '--list', '--json'])) as { name: string; doc: string }[];
  expect(passes.map(({ name }) => name)).toEqual(
    expect.arrayContaining(['simplify', 'recognize', 'ulysses']),
  );
  expect(passes.every(({ doc }) => doc.length > 20)).toBe(true);
});
