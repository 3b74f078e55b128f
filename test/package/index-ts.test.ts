import { Project, ts } from 'ts-morph';
import { describe, expect, test } from 'vitest';
import { generateIndex } from '../../src/package/index-ts.js';
import { makeContents, everyKind } from './fixture.js';

const root = new URL('../..', import.meta.url).pathname;
const programs = new Map([
  ['train', everyKind('train')],
  ['eval', everyKind('eval')],
]);

/** Errors of `use.ts`, which imports the generated file; `ithaca` is this project's own source. */
function errorsOf(index: string, use: string): string[] {
  const project = new Project({
    compilerOptions: {
      target: ts.ScriptTarget.ES2023,
      module: ts.ModuleKind.ESNext,
      moduleResolution: ts.ModuleResolutionKind.Bundler,
      strict: true,
      noEmit: true,
      skipLibCheck: true,
      types: ['node'],
      typeRoots: [`${root}node_modules/@types`],
      paths: { ithaca: [`${root}src/package/read.ts`] },
    },
  });
  const files = [
    project.createSourceFile(`${root}test/package/generated/index.ts`, index),
    project.createSourceFile(`${root}test/package/generated/use.ts`, use),
  ];
  return files
    .flatMap((file) => [
      ...project.getProgram().getSyntacticDiagnostics(file),
      ...project.getProgram().getSemanticDiagnostics(file),
    ])
    .map((diagnostic) => ts.flattenDiagnosticMessageText(diagnostic.compilerObject.messageText, ' '));
}

describe('index.ts of a package', () => {
  test('names programs, parameters, inputs and outputs', async () => {
    const { manifest } = makeContents();
    const parameters = [
      { ...manifest.parameters[0]!, name: 'wte', shape: [96, 64], trainable: true },
      { ...manifest.parameters[0]!, name: 'scale', shape: [], trainable: false },
    ];
    expect(await generateIndex({ ...manifest, parameters }, programs)).toMatchInlineSnapshot(`
      "// Compiled by ithaca '0.1.0' from 'llama.onnx'. Generated: do not edit.

      import { openPackage, type OpenOptions, type Package } from 'ithaca';

      /** Programs of this package. */
      export type ProgramName = 'train' | 'eval';
      /** ONNX initialisers that are parameters. */
      export type ParameterName = 'wte' | 'scale';
      /** Parameters that training changes. */
      export type TrainableParameterName = 'wte';

      /** Shape of every parameter. */
      export interface ParameterShapes {
        readonly 'wte': readonly [96, 64];
        readonly 'scale': readonly [];
      }

      /** What a run of a program is given, apart from parameters. */
      export interface ProgramInputs {
        readonly 'train': 'in0' | 'in3' | 'in8';
        readonly 'eval': 'in0' | 'in3' | 'in8';
      }

      /** What a run of a program returns. */
      export interface ProgramOutputs {
        readonly 'train': 'out7' | 'out9';
        readonly 'eval': 'out7' | 'out9';
      }

      /** Token ids are below this. */
      export const vocabulary = 96;
      /** Ranks that may share one sequence, at most. */
      export const maxDegree = 4;

      /** This package, opened. */
      export interface Model extends Omit<Package, 'program' | 'parameter' | 'readParameter' | 'readParameterInto'> {
        program(name: ProgramName): ReturnType<Package['program']>;
        parameter(name: ParameterName): ReturnType<Package['parameter']>;
        readParameter(name: ParameterName): Float32Array;
        readParameterInto(name: ParameterName, target: Float32Array, firstElement?: number): void;
      }

      /** Checks every file of the package this file lies in, and opens it. */
      export async function open(options?: OpenOptions): Promise<Model> {
        return openPackage(new URL('.', import.meta.url), options);
      }
      "
    `);
  });

  test('compiles, and holds its users to the names of the package', async () => {
    const { manifest } = makeContents();
    const evil = `it's "a" */ \u2028 \\ \${x} \n`;
    const parameters = ['wte', '__proto__', evil].map((name) => ({ ...manifest.parameters[0]!, name }));
    const source = { ...manifest.source, file: evil };
    const index = await generateIndex({ ...manifest, parameters, source }, programs);
    const use = `
      import { open, vocabulary, type ParameterName, type ProgramInputs } from './index.js';
      const model = await open({ checked: 'hash' });
      const labels: number = model.program('train').labels.length + vocabulary;
      const weights: Float32Array = model.readParameter('wte');
      model.readParameterInto('__proto__', weights, 4);
      const input: ProgramInputs['eval'] = 'in0';
      const name: ParameterName = ${JSON.stringify(evil)};
      const limit: 96 = vocabulary;
      export { labels, input, name, limit };
    `;
    expect(errorsOf(index, use)).toEqual([]);
    const wrong = `
      import { open, vocabulary, type ProgramOutputs } from './index.js';
      const model = await open();
      model.program('test');
      model.readParameter('wpe');
      export const output: ProgramOutputs['train'] = 'loss';
      export const limit: 97 = vocabulary;
    `;
    expect(errorsOf(index, wrong)).toHaveLength(4);
  });

  test('of a package without parameters compiles too', async () => {
    const index = await generateIndex({ ...makeContents().manifest, parameters: [] }, new Map());
    expect(errorsOf(index, `export * from './index.js';`)).toEqual([]);
  });
});
