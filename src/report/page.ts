import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { invariant } from '../errors.js';
import type { ReportData } from './data.js';
import { STYLE } from './style.js';

/** The script of a model's page, in the order of its parts. */
const CLIENT = ['sizes', 'dom', 'model', 'memory', 'page'] as const;

/** The page of a model. */
export const renderPage = (data: ReportData, title: string): string =>
  renderDocument({ title, data, modules: CLIENT, style: STYLE });

export interface PageParts {
  readonly title: string;
  readonly data: object;
  /** Modules of `client/`, in the order of their imports. */
  readonly modules: readonly string[];
  readonly style: string;
}

/**
 * One self-contained page: nothing is fetched, and nothing runs but the script that ships with ithaca (the content
 * security policy names its hash). Everything from the model is data, in one JSON block.
 */
export function renderDocument({ title, data, modules, style }: PageParts): string {
  const script = clientScript(modules);
  const policy = [
    "default-src 'none'",
    `script-src '${hashOf(script)}'`,
    `style-src '${hashOf(style)}'`,
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>${escapeHtml(title)} – ithaca</title>
<style>${style}</style>
</head>
<body>
<main id="page"><h1>${escapeHtml(title)}</h1><noscript>This page draws itself: allow it to run its own script.</noscript></main>
<script type="application/json" id="data">${escapeJson(data)}</script>
<script>${script}</script>
</body>
</html>
`;
}

const ENTITIES: ReadonlyMap<string, string> = new Map([
  ['&', '&amp;'],
  ['<', '&lt;'],
  ['>', '&gt;'],
  ['"', '&quot;'],
  ["'", '&#39;'],
]);

export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (c) => ENTITIES.get(c)!);

/** JSON that cannot end the element it stands in: `<` never appears. */
export const escapeJson = (value: unknown): string =>
  JSON.stringify(value)
    .replace(/</g, '\\u003c')
    .replace(/\u2028/g, '\\u2028')
    .replace(/\u2029/g, '\\u2029');

const hashOf = (text: string): string => `sha256-${createHash('sha256').update(text).digest('base64')}`;

const known = new Map<string, string>();

/** Modules of `client/` as one classic script. */
function clientScript(modules: readonly string[]): string {
  const key = modules.join();
  const script = known.get(key) ?? `"use strict";(()=>{\n${modules.map(moduleText).join('\n')}\n})();`;
  invariant(!/<\/script|<!--/i.test(script), 'the script of the report would end its own element');
  known.set(key, script);
  return script;
}

/** A module without imports, exports, comments of its own line, and indentation. */
function moduleText(name: string): string {
  return readFileSync(new URL(`./client/${name}.js`, import.meta.url), 'utf8')
    .replace(/^import [^;]*;$/gm, '')
    .replace(/^export /gm, '')
    .replace(/^\s*\/\*\*[\s\S]*?\*\/$/gm, '')
    .replace(/^\s*\/\/.*$/gm, '')
    .replace(/^\s+/gm, '')
    .trim();
}
