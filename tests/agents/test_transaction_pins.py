"""What transactions touch below the documented surface of aiokafka, and why progress is not left to Faust."""

from __future__ import annotations

import inspect
from collections import Counter
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, ProducerFenced
from aiokafka.producer import sender
from aiokafka.producer.transaction_manager import TransactionManager, TransactionResult
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.record.default_records import DefaultRecordBase as Format
from faust.tables.recovery import Recovery
from faust.types import TP

from agents import transactions
from agents.record_batches import SealedBatch
from agents.transactions import EndOnce
from flowstream.byte_column import ByteColumn
from flowstream.record_kernel import Run, SectionWriter


def test_the_end_of_a_transaction_is_made_by_the_name_that_is_replaced() -> None:
    assert "EndTxnHandler(self, commit_result)" in inspect.getsource(sender.Sender._do_txn_commit)
    transactions.install()
    assert sender.EndTxnHandler is EndOnce


class BrokenClient:
    async def send(self, *_: object, **__: object) -> None:
        raise KafkaConnectionError("the connection broke")


class NotYetClient:
    async def send(self, *_: object, **__: object) -> object:
        return SimpleNamespace(error_code=51)  # CONCURRENT_TRANSACTIONS


def handler(client: object, kind: type) -> object:
    manager = TransactionManager("id", 1000)
    made = SimpleNamespace(client=client, _txn_manager=manager, _retry_backoff=0.0)
    return kind(made, TransactionResult.COMMIT)


@pytest.mark.parametrize("kind", [EndOnce, EndOnce.__mro__[1]], ids=["ours", "aiokafka's"])
async def test_an_end_without_an_answer_is_asked_for_again_by_aiokafka_and_never_by_us(kind: type) -> None:
    asking = handler(BrokenClient(), kind).do(0)  # type: ignore[attr-defined]
    if kind is EndOnce:
        with pytest.raises(ProducerFenced):
            await asking
    else:
        assert await asking is False, "which the sender takes for: try again"


async def test_an_end_that_is_answered_with_not_yet_is_asked_for_again() -> None:
    assert await handler(NotYetClient(), EndOnce).do(0) is False  # type: ignore[attr-defined]


def test_aiokafka_speaks_the_protocol_in_which_transactions_have_no_numbers() -> None:
    # KIP-890 raises the epoch with each transaction, from version 5 of this request on. Once a client speaks it, a
    # late request for an end can do no harm, and EndOnce can go.
    assert max(version.API_VERSION for version in EndTxnRequest._CLASSES) < 5


async def test_a_producer_knows_whether_it_is_in_a_transaction() -> None:
    assert "self._txn_manager" in inspect.getsource(AIOKafkaProducer.begin_transaction)
    manager = TransactionManager("id", 1000)
    manager.set_pid_and_epoch(1, 0)
    assert not manager.is_in_transaction()
    manager.begin_transaction()
    assert manager.is_in_transaction()


@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_batch_says_whether_it_is_in_a_transaction(in_transaction: bool) -> None:
    writer = SectionWriter(10_000)
    (section,) = [*writer.put(Run(None, ByteColumn.of([b"a" * 300] * 9))), *writer.rest()]
    for compression in ("none", "lz4"):
        batch = SealedBatch(section, compression, 0, 10_000, in_transaction=in_transaction)
        attributes = Format.HEADER_STRUCT.unpack_from(batch._build())[5]
        assert bool(attributes & Format.TRANSACTIONAL_MASK) == in_transaction
        assert bool(attributes & 7) == (compression == "lz4")


def test_faust_never_ends_the_recovery_of_a_changelog_that_ends_in_the_marker_of_a_transaction() -> None:
    # Therefore progress, which is written in transactions, is in no table of Faust's.
    assert "value - 1" in inspect.getsource(Recovery._build_highwaters)
    tp = TP("changelog", 0)
    high_watermark, last_record = 4, 2  # three records, and at offset 3 the marker that kept them
    recovery = SimpleNamespace(active_highwaters=Counter({tp: high_watermark - 1}), active_offsets=Counter({tp: 2}))
    recovery.active_remaining = lambda: Recovery.active_remaining(recovery)  # type: ignore[arg-type]
    assert recovery.active_offsets[tp] == last_record
    assert Recovery.need_recovery(recovery)  # type: ignore[arg-type]
