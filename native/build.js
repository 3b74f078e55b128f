/** Builds the addon into build/native: `npm run native`. Needs a C++17 compiler, downloads nothing. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const source = dirname(fileURLToPath(import.meta.url));
const target = join(dirname(source), 'build', 'native', 'ithaca_ort.node');

const FLAGS = [
  '-std=c++17',
  '-O2',
  '-Wall',
  '-Wextra',
  '-fPIC',
  '-shared',
  '-fvisibility=hidden',
  '-pthread',
  '-DNAPI_VERSION=8',
  '-DNAPI_CPP_EXCEPTIONS',
  // A thread that is terminated in a call cannot be thrown at.
  '-DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
];

/** The first line a program prints, or undefined if it does not run. */
function firstLine(program, ...args) {
  try {
    return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split(
      '\n',
      1,
    )[0];
  } catch {
    return undefined;
  }
}

function findCompiler() {
  const candidates = process.env['CXX'] ? [process.env['CXX']] : ['g++', 'c++', 'clang++'];
  for (const program of candidates) {
    const version = firstLine(program, '--version');
    if (version !== undefined) return { program, version };
  }
  throw new Error(
    `no C++ compiler: ${candidates.join(', ')} did not run (set CXX, or install one such as g++)`,
  );
}

/** A folder of a package; `file` is one of the headers in it. */
function headers(name, folder, file) {
  const found = join(dirname(require.resolve(`${name}/package.json`)), folder);
  if (!existsSync(join(found, file))) throw new Error(`${found} has no ${file}: run npm install`);
  return found;
}

function build() {
  if (process.platform !== 'linux')
    throw new Error(`the addon is made for Linux, this is ${process.platform}`);
  const compiler = findCompiler();
  const include = [
    headers('node-addon-api', '', 'napi.h'),
    headers('node-api-headers', 'include', 'node_api.h'),
  ];
  console.log(`compiler  ${compiler.version}`);
  for (const folder of include) console.log(`headers   ${folder}`);

  mkdirSync(dirname(target), { recursive: true });
  // Renamed when it is whole: a process that runs meanwhile keeps what it has loaded.
  const part = target.replace(/node$/, `${process.pid}.node`);
  const args = [...FLAGS, ...include.flatMap((folder) => ['-isystem', folder])];
  try {
    execFileSync(compiler.program, [...args, join(source, 'ort.cc'), '-o', part, '-ldl'], {
      stdio: 'inherit',
    });
    // In a process of its own, so that an addon that crashes is reported like any other that does not load.
    execFileSync(process.execPath, ['-e', 'require(process.argv[1])', part], { stdio: 'inherit' });
    renameSync(part, target);
  } finally {
    rmSync(part, { force: true });
  }
  console.log(`addon     ${target}`);
}

try {
  build();
} catch (error) {
  console.error(`the addon was not built: ${error.message}`);
  console.error('ithaca works without it; onnxruntime-node then copies the results of every call.');
  process.exitCode = 1;
}
