"""Writes the files beside it: `python write.py`, with numpy and pyarrow. Lengths are 0 to 70 tokens, 23 documents."""

import pathlib
import struct

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

here = pathlib.Path(__file__).parent
lengths = [(37 * i * i + 11) % 71 for i in range(23)]
lengths[5] = 0
documents = [[(7 * i + j) % 50257 for j in range(n)] for i, n in enumerate(lengths)]

np.save(here / 'int64.npy', np.array(lengths, np.int64))
np.save(here / 'uint16.npy', np.array(lengths, np.uint16))
np.save(here / 'int8.npy', np.array(lengths, np.int8))
for version in (2, 3):
    with open(here / f'version{version}.npy', 'wb') as file:
        np.lib.format.write_array(file, np.array(lengths, np.uint32), version=(version, 0))
np.save(here / 'float.npy', np.array(lengths, np.float32))
np.save(here / 'big-endian.npy', np.array(lengths, '>i4'))
np.save(here / 'matrix.npy', np.array(lengths[:20], np.int64).reshape(4, 5))

lists = pa.table({
    'text': [f'document {i}' for i in range(23)],
    'input_ids': pa.array(documents, pa.list_(pa.int32())),
    'score': [0.5 * i for i in range(23)],
})
numbers = pa.table({
    'id': pa.array([f'd{i}' for i in range(23)]).dictionary_encode(),
    'tags': pa.array([{'a': i, 'b': [i, i]} for i in range(23)]),
    'length': pa.array(lengths, pa.int64()),
    'input_ids': pa.array(documents, pa.list_(pa.int32())),
    'bytes': pa.array(lengths, pa.uint8()),
    'when': pa.array(lengths, pa.timestamp('ms')),
})

pq.write_table(lists, here / 'lists.parquet', row_group_size=10, compression='snappy')
pq.write_table(lists, here / 'lists-v2.parquet', data_page_version='2.0', compression='zstd',
               data_page_size=64, write_batch_size=4)
pq.write_table(lists, here / 'lists-pages.parquet', data_page_size=64, write_batch_size=1, compression='none')
pq.write_table(numbers, here / 'numbers.parquet', compression='gzip', row_group_size=9)
pq.write_table(numbers, here / 'numbers-delta.parquet', compression='brotli', use_dictionary=False,
               column_encoding={'length': 'DELTA_BINARY_PACKED', 'bytes': 'DELTA_BINARY_PACKED'})
pq.write_table(numbers, here / 'numbers-plain.parquet', compression='lz4', use_dictionary=False, data_page_version='2.0')
required = pa.schema([pa.field('n_tokens', pa.int32(), nullable=False)])
pq.write_table(pa.table({'n_tokens': pa.array(lengths, pa.int32())}, schema=required), here / 'required.parquet')
nulls = pa.table({'length': pa.array([3, None, 4], pa.int32()), 'input_ids': pa.array([[1], None, []], pa.list_(pa.int32()))})
pq.write_table(nulls, here / 'nulls.parquet')

feather.write_feather(lists, here / 'lists.feather', compression='lz4', chunksize=10)
feather.write_feather(lists, here / 'lists-zstd.feather', compression='zstd')
feather.write_feather(numbers, here / 'numbers.feather', compression='uncompressed')
feather.write_feather(nulls, here / 'nulls.feather', compression='uncompressed')
views = pa.table({
    'text': pa.array([f'a string too long to be inline, number {i}' for i in range(23)], pa.string_view()),
    'either': pa.UnionArray.from_dense(pa.array([0] * 23, pa.int8()), pa.array(range(23), pa.int32()),
                                       [pa.array(range(23)), pa.array(['x'])]),
    'tokens': pa.array(documents, pa.large_list(pa.int64())),
})
for name, table in (('stream', lists), ('views', views)):
    with pa.OSFile(str(here / f'{name}.arrow'), 'wb') as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=6)
old = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4, use_legacy_format=True)
with pa.OSFile(str(here / 'legacy.arrow'), 'wb') as sink, pa.ipc.new_stream(sink, lists.schema, options=old) as writer:
    writer.write_table(lists)
blocks = pa.table({'input_ids': pa.array([[1, 2, 3, 4]] * 5, pa.list_(pa.int32(), 4))})
feather.write_feather(blocks, here / 'fixed.feather', compression='uncompressed')

# As Megatron-LM writes them: documents of one sentence, then of several, one empty.
sizes = [n for n in lengths if n > 0]
borders = [0, 1, 4, 4, 9, len(sizes)]
tokens = np.arange(sum(sizes), dtype=np.uint16)


def mapped(name: str, modes: bytes = b'') -> None:
    tokens.tofile(here / f'{name}.bin')
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]) * 2
    with open(here / f'{name}.idx', 'wb') as file:
        file.write(b'MMIDIDX\x00\x00' + struct.pack('<QBQQ', 1, 8, len(sizes), len(borders)))
        file.write(np.array(sizes, np.int32).tobytes() + offsets.astype(np.int64).tobytes())
        file.write(np.array(borders, np.int64).tobytes() + modes)


mapped('mapped')
mapped('modes', bytes(len(sizes)))
tokens.tofile(here / 'legacy.bin')
with open(here / 'legacy.idx', 'wb') as file:
    file.write(b'TNTIDX\x00\x00' + struct.pack('<QQQQQQ', 1, 8, 2, len(sizes), len(sizes), len(borders)))
    for numbers in (range(len(sizes) + 1), np.concatenate([[0], np.cumsum(sizes)]), sizes, borders):
        file.write(np.array(numbers, np.int64).tobytes())
