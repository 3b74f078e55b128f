import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { invariant } from '../errors.js';
import type { ReportData } from './data.js';
import { STYLE } from './style.js';

/** The page's own script, in the order of its parts. */
const CLIENT = ['sizes', 'dom', 'model', 'memory', 'page'] as const;

/**
 * One self-contained page: nothing is fetched, and nothing runs but the script that ships with ithaca (the content
 * security policy names its hash). Everything from the model is data, in one JSON block.
 */
export function renderPage(data: ReportData, title: string): string {
  const script = clientScript();
  const policy = [
    "default-src 'none'",
    `script-src '${hashOf(script)}'`,
    `style-src '${hashOf(STYLE)}'`,
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
<style>${STYLE}</style>
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

let known: string | undefined;

/** The modules of `client/` as one classic script. */
function clientScript(): string {
  known ??= `"use strict";(()=>{\n${CLIENT.map(moduleText).join('\n')}\n})();`;
  invariant(!/<\/script|<!--/i.test(known), 'the script of the report would end its own element');
  return known;
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
