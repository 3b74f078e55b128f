import { createReadStream } from 'node:fs';
import { UserError } from '../../errors.js';
import { explainReadError } from '../../files/fs-errors.js';

/** A line is one document; beyond this it is not a JSONL file, and V8's longest string is near. */
const MAX_LINE_BYTES = 1 << 28;
const NEWLINE = 0x0a;

/**
 * The lines of a file with their numbers from 1, blank ones left out, without ever holding the file.
 * @throws UserError when the file cannot be read, a line is longer than 256 MiB or is not UTF-8
 */
export async function* readLines(
  file: string,
): AsyncGenerator<{ readonly line: number; readonly text: string }> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let line = 1;
  let parts: Buffer[] = [];
  let bytes = 0;

  function endOfLine(): { line: number; text: string } | undefined {
    const at = line++;
    const whole = parts.length === 1 ? parts[0] : Buffer.concat(parts);
    parts = [];
    bytes = 0;
    try {
      const text = decoder.decode(whole);
      return text.trim() === '' ? undefined : { line: at, text };
    } catch (error) {
      throw new UserError(`${file}:${at}: not UTF-8 text`, 'save the file as UTF-8', { cause: error });
    }
  }

  for await (const chunk of chunksOf(file)) {
    let from = 0;
    for (let to = chunk.indexOf(NEWLINE); to >= 0; to = chunk.indexOf(NEWLINE, from)) {
      parts.push(chunk.subarray(from, to));
      from = to + 1;
      const found = endOfLine();
      if (found !== undefined) yield found;
    }
    bytes += chunk.length - from;
    if (bytes > MAX_LINE_BYTES) {
      throw new UserError(
        `${file}:${line}: a line of more than ${MAX_LINE_BYTES} bytes`,
        'a JSONL file has one JSON object a line, each a document',
      );
    }
    parts.push(chunk.subarray(from));
  }
  const found = endOfLine();
  if (found !== undefined) yield found;
}

async function* chunksOf(file: string): AsyncGenerator<Buffer> {
  const stream = createReadStream(file, { highWaterMark: 1 << 20 });
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) yield chunk;
  } catch (error) {
    throw explainReadError(error, file);
  } finally {
    stream.destroy();
  }
}
