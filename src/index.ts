export { UserError } from './errors.js';
export { defineConfig, loadConfig, type Config, type UserConfig } from './config.js';
