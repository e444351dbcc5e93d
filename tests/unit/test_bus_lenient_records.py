"""A header name that is not UTF-8 stops nobody."""

from __future__ import annotations

import gzip
import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from ruminate.shared import lenient_records
from ruminate.shared.lenient_records import _LenientRecords

_LENGTH_AT, _COUNTED_FROM, _CRC_AT, _ATTRIBUTES_AT, _RECORDS_AT = 8, 12, 17, 21, 61
_GZIP = 1


def _batch(*names: str, base_offset: int = 0, compressed: bool = False) -> bytearray:
    """A batch of one record a name; a name `zz` becomes two bytes that are no UTF-8."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=False, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=1 << 20
    )
    for offset, name in enumerate(names):
        builder.append(offset, timestamp=1000, key=b"k", value=b"value %d" % offset, headers=[("ce_id", b"1"), (name, b"v")])
    raw = bytearray(builder.build())
    raw[0:8] = base_offset.to_bytes(8, "big")
    raw = raw.replace(b"zz", b"\xff\xfe")
    if compressed:
        raw[_RECORDS_AT:] = gzip.compress(raw[_RECORDS_AT:])
        struct.pack_into(">i", raw, _LENGTH_AT, len(raw) - _COUNTED_FROM)
        struct.pack_into(">h", raw, _ATTRIBUTES_AT, _GZIP)
    raw[_CRC_AT : _CRC_AT + 4] = calc_crc32c(memoryview(raw)[_ATTRIBUTES_AT:]).to_bytes(4, "big")
    return raw


@pytest.mark.parametrize("compressed", [False, True])
def test_records_before_in_and_after_a_bad_name_all_arrive_once(compressed: bool) -> None:
    raw = bytes(_batch("a", "zz", "b", compressed=compressed) + _batch("c", base_offset=3))
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(raw).next_batch())
    records, found = _LenientRecords(raw), []
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc()
        assert not batch.is_control_batch
        found += [(record.offset, record.value, record.key, record.headers) for record in batch]
    assert [offset for offset, *_ in found] == [0, 1, 2, 3]
    assert [value for _, value, *_ in found] == [b"value 0", b"value 1", b"value 2", b"value 0"]
    assert found[1][3] == [("ce_id", b"1"), ("\\xff\\xfe", b"v")]
    assert found[2][2:] == (b"k", [("ce_id", b"1"), ("b", b"v")])


def test_good_names_are_read_by_the_fast_parser_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(lenient_records, "_SlowBatch")
    raw = bytes(_batch("a", "ü"))
    fast = [(record.offset, record.value, record.headers, record.timestamp) for record in MemoryRecords(raw).next_batch()]
    same = [(record.offset, record.value, record.headers, record.timestamp) for record in _LenientRecords(raw).next_batch()]
    assert same == fast
