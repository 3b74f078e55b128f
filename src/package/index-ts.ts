import type {
  CodeBlockWriter,
  InterfaceDeclarationStructure,
  SourceFile,
  VariableDeclarationKind,
  WriterFunction,
} from 'ts-morph';
import type * as TsMorph from 'ts-morph';
import type { Manifest } from './manifest.js';
import type { Program } from './program.js';

/** Loading ts-morph takes longer than opening a package does; only compiling needs it. */
export const loadTsMorph = (): Promise<typeof TsMorph> => import('ts-morph');

/**
 * `index.ts` of a package: types that name its programs, inputs, outputs and parameters, and an `open` that
 * checks them at compile time. Depends on the contents alone, so that equal packages have equal entry points.
 */
export async function generateIndex(
  manifest: Omit<Manifest, 'files'>,
  programs: ReadonlyMap<string, Program>,
): Promise<string> {
  const { IndentationText, Project, QuoteKind, VariableDeclarationKind } = await loadTsMorph();
  const project = new Project({
    useInMemoryFileSystem: true,
    manipulationSettings: { indentationText: IndentationText.TwoSpaces, quoteKind: QuoteKind.Single },
  });
  const file = project.createSourceFile('index.ts');
  const names = [...programs.keys()];
  file.addImportDeclaration({
    moduleSpecifier: 'ithaca',
    namedImports: [
      'openPackage',
      { name: 'OpenOptions', isTypeOnly: true },
      { name: 'Package', isTypeOnly: true },
    ],
  });
  addUnion(file, 'ProgramName', 'Programs of this package.', names);
  const { parameters } = manifest;
  const trainable = parameters.filter((parameter) => parameter.trainable);
  addUnion(file, 'ParameterName', 'ONNX initialisers that are parameters.', parameters.map(nameOf));
  addUnion(file, 'TrainableParameterName', 'Parameters that training changes.', trainable.map(nameOf));
  addTable(file, 'ParameterShapes', 'Shape of every parameter.', parameters, (parameter) => [
    parameter.name,
    `readonly [${parameter.shape.join(', ')}]`,
  ]);
  addTable(
    file,
    'ProgramInputs',
    'What a run of a program is given, apart from parameters.',
    names,
    (name) => [name, union(programs.get(name)!.inputs.filter(isGiven).map(nameOf))],
  );
  addTable(file, 'ProgramOutputs', 'What a run of a program returns.', names, (name) => [
    name,
    union(programs.get(name)!.outputs.map(nameOf)),
  ]);
  addConstants(file, manifest, VariableDeclarationKind.Const);
  addModel(file);
  addOpen(file);
  const header = `// Compiled by ithaca ${quote(manifest.ithaca)} from ${quote(manifest.source.file)}. Generated: do not edit.`;
  return `${header}\n\n${file.getFullText().trim()}\n`;
}

const nameOf = ({ name }: { readonly name: string }): string => name;

const isGiven = ({ role }: Program['inputs'][number]): boolean => role !== 'parameter';

/** A string literal of printable ASCII: what a file is called can neither end it nor a comment. */
function quote(text: string): string {
  const escaped = JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'");
  const ascii = escaped.replaceAll(/[^ -~]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return `'${ascii}'`;
}

const union = (names: readonly string[]): WriterFunction => {
  const members = [...new Set(names)].map(quote);
  return (writer: CodeBlockWriter): void => {
    if (members.length <= 4) writer.write(members.join(' | ') || 'never');
    else for (const member of members) writer.newLineIfLastNot().write(`| ${member}`);
  };
};

function addUnion(file: SourceFile, name: string, doc: string, names: readonly string[]): void {
  file.addTypeAlias({ name, isExported: true, docs: [doc], type: union(names) });
}

function addTable<Item>(
  file: SourceFile,
  name: string,
  doc: string,
  items: readonly Item[],
  entry: (item: Item) => readonly [name: string, type: string | WriterFunction],
): void {
  const properties: InterfaceDeclarationStructure['properties'] = items.map((item) => {
    const [key, type] = entry(item);
    return { name: quote(key), type, isReadonly: true };
  });
  file.addInterface({ name, isExported: true, docs: [doc], properties });
}

function addConstants(
  file: SourceFile,
  { vocabulary, maxDegree }: Omit<Manifest, 'files'>,
  declarationKind: VariableDeclarationKind,
): void {
  const constants: readonly (readonly [name: string, value: number, doc: string])[] = [
    ['vocabulary', vocabulary, 'Token ids are below this.'],
    ['maxDegree', maxDegree, 'Ranks that may share one sequence, at most.'],
  ];
  for (const [name, value, doc] of constants)
    file.addVariableStatement({
      isExported: true,
      docs: [doc],
      declarationKind,
      declarations: [{ name, initializer: String(value) }],
    });
}

function addModel(file: SourceFile): void {
  const narrowed = ['program', 'parameter', 'readParameter', 'readParameterInto'];
  const of = (name: string, type: string) => ({ name, type });
  file.addInterface({
    name: 'Model',
    isExported: true,
    docs: ['This package, opened.'],
    extends: [`Omit<Package, ${narrowed.map(quote).join(' | ')}>`],
    methods: [
      {
        name: 'program',
        parameters: [of('name', 'ProgramName')],
        returnType: `ReturnType<Package['program']>`,
      },
      {
        name: 'parameter',
        parameters: [of('name', 'ParameterName')],
        returnType: `ReturnType<Package['parameter']>`,
      },
      { name: 'readParameter', parameters: [of('name', 'ParameterName')], returnType: 'Float32Array' },
      {
        name: 'readParameterInto',
        parameters: [
          of('name', 'ParameterName'),
          of('target', 'Float32Array'),
          { name: 'firstElement', type: 'number', hasQuestionToken: true },
        ],
        returnType: 'void',
      },
    ],
  });
}

function addOpen(file: SourceFile): void {
  file.addFunction({
    name: 'open',
    isExported: true,
    isAsync: true,
    docs: ['Checks every file of the package this file lies in, and opens it.'],
    parameters: [{ name: 'options', type: 'OpenOptions', hasQuestionToken: true }],
    returnType: 'Promise<Model>',
    statements: `return openPackage(new URL('.', import.meta.url), options);`,
  });
}
