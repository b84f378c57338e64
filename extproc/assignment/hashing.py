"""From a unit to a bucket.

The function is ``xxh64(seed + ":" + unit, seed=0) mod 10000``: the number that Envoy computes for a weighted cluster
with ``use_hash_policy`` and a header rewritten to ``SEED:value``, so an assignment can move between Envoy and Python
without moving a user. Holdouts, layers, shadows and policies hash under prefixes of their own, so that one draw says
nothing about another.
"""

from __future__ import annotations

from xxhash import xxh64_intdigest

BUCKETS = 10_000
"""The number of buckets: one hundredth of a percent each."""


def bucket_of(seed: bytes, unit: bytes) -> int:
    """The bucket, in [0, 10000), of ``unit`` (its bytes as received) under ``seed``."""
    return xxh64_intdigest(b"%b:%b" % (seed, unit), 0) % BUCKETS


def draw_of(seed: bytes, unit: bytes) -> tuple[int, int]:
    """What the bucket leaves of the hash of ``unit``, in [0, 2**64 / 10000), and its bucket.

    The first says nothing about the second: units are sampled and grouped by it.
    """
    return divmod(xxh64_intdigest(b"%b:%b" % (seed, unit), 0), BUCKETS)


def holdout_bucket(name: bytes, unit: bytes) -> int:
    """The bucket that says whether ``unit`` is kept out by the holdout ``name``."""
    return bucket_of(b"holdout:" + name, unit)


def layer_bucket(name: bytes, unit: bytes) -> int:
    """The bucket that says which experiment of the layer ``name`` may have ``unit``."""
    return bucket_of(b"layer:" + name, unit)


def policy_bucket(seed: bytes, unit: bytes) -> int:
    """The bucket that a policy sees as ``input.draw``: it says nothing about the arm of ``unit``."""
    return bucket_of(b"policy:" + seed, unit)


def shadow_bucket(seed: bytes, unit: bytes) -> int:
    """The bucket that says whether a request of ``unit`` is mirrored."""
    return bucket_of(b"shadow:" + seed, unit)
