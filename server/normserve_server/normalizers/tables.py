"""The tables, the same in SQLite and PostgreSQL.

`answers` keeps what was answered under a request id, so that a retry is not carried out twice: the last `KEPT_ANSWERS` of the
whole database, because a number, unlike a time, bounds the disk and needs no clock that cannot jump.
"""

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, MetaData, String, Table

SCHEMA = 1
KEPT_ANSWERS = 2**18
MOST_ID = 63
MOST_REQUEST_ID = 128

metadata = MetaData()
_text = String().with_variant(String(collation="C"), "postgresql")  # by bytes, as SQLite compares

schema = Table("normserve_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

normalizers = Table(
    "normserve_normalizers",
    metadata,
    Column("id", _text, primary_key=True),
    Column("layer", LargeBinary, nullable=False),  # a Normalizer message that has nothing else
    Column("training", Boolean, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("uid", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

answers = Table(
    "normserve_answers",
    metadata,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("key", _text, nullable=False, unique=True),  # the normalizer's id, a slash, and the request's
    Column("method", String, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("answer", LargeBinary),  # the message, where the sequence does not say all
    sqlite_autoincrement=True,
)
