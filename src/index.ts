export { UserError } from './errors.js';
export { defineConfig, loadConfig, type Config, type UserConfig } from './config.js';
export { compileModel, type CompileOptions, type CompileResult } from './compile/compile.js';
export { openPackage, type OpenOptions, type Package } from './package/read.js';
export { TrainingSession } from './runtime/session/session.js';
export { groupsOfDegree, type Lane, type MicroBatchPlan } from './runtime/session/plan.js';
