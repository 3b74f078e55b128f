import { UserError } from '../../../errors.js';
import { createLengthList } from './list.js';
import { damaged, integersOf, type IntegerType, type Source } from './source.js';

/** `\x93NUMPY` */
export const NPY_MAGIC = Buffer.from('934e554d5059', 'hex');

/** What numpy itself accepts of a header without being asked. */
const MOST_HEADER_BYTES = 10_000;

/**
 * A one-dimensional array of whole numbers as `numpy.save` writes it, format versions 1 to 3
 * (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
 * @throws UserError for another array, or a file whose size is not what its header says
 */
export async function readNpyLengths(source: Source, most: number): Promise<readonly number[]> {
  const { file } = source;
  const preamble = await source.read(0, 12);
  const version = preamble[6]!;
  if (version < 1 || version > 3)
    throw new UserError(`${file}: .npy format version ${version} is not known`, 'save it with numpy.save');
  // Version 1 has two bytes for the header's length, later ones four.
  const headerAt = version === 1 ? 10 : 12;
  const headerBytes = version === 1 ? preamble.readUInt16LE(8) : preamble.readUInt32LE(8);
  if (headerBytes > MOST_HEADER_BYTES) throw damaged(file, `a header of ${headerBytes} bytes`);
  const header = (await source.read(headerAt, headerBytes)).toString('utf8');
  const { type, count } = parseHeader(header, file);
  const expected = headerAt + headerBytes + count * type.bytes;
  if (source.bytes !== expected)
    throw damaged(file, `${count} numbers make it ${expected} bytes, it has ${source.bytes}`);
  const list = createLengthList(file, most);
  const wanted = Math.min(count, most);
  for await (const numbers of integersOf(source, headerAt + headerBytes, wanted, type))
    for (const number of numbers) list.add(number);
  return list.lengths;
}

/** The header is a Python dictionary of three keys; nothing else may stand in it. */
function parseHeader(header: string, file: string): { type: IntegerType; count: number } {
  const inner = /^\{(.*)\}\s*$/s.exec(header)?.[1];
  const pairs = new Map<string, string>();
  const rest = inner?.replaceAll(
    /\s*'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([\d\s,]*\)|\[[^\]]*\])\s*(?:,|$)/g,
    (_, key: string, value: string) => {
      pairs.set(key, value);
      return '';
    },
  );
  if (rest === undefined || rest.trim() !== '' || pairs.size !== 3)
    throw damaged(file, 'its .npy header is not what numpy writes');
  const descr = pairs.get('descr')!.replaceAll("'", '');
  const [, order, kind, size] = /^([<>|=])([iu])([1248])$/.exec(descr) ?? [];
  if (order === undefined || (order === '>' && size !== '1'))
    throw new UserError(
      `${file}: elements are ${descr}, whole numbers of 1 to 8 bytes, lowest first, are expected`,
      'save lengths.astype("<i8")',
    );
  const shape = pairs.get('shape')!;
  const [, count] = /^\(\s*(\d+)\s*,\s*\)$/.exec(shape) ?? [];
  if (count === undefined)
    throw new UserError(
      `${file}: the array has shape ${shape}, one dimension is expected`,
      'save lengths.ravel()',
    );
  return {
    type: { bytes: Number(size) as IntegerType['bytes'], signed: kind === 'i' },
    count: Number(count),
  };
}
