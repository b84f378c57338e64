"""Who is assigned what: a hash of the unit, buckets, and the ranges that own them. Shared by every loop."""

from extproc.assignment.hashing import (
    BUCKETS,
    bucket_of,
    draw_of,
    holdout_bucket,
    layer_bucket,
    policy_bucket,
    shadow_bucket,
)
from extproc.assignment.ranges import PROBE_PERCENT, BucketRange, canary_range, is_probe, parse_percent, variant_ranges

__all__ = [
    "BUCKETS",
    "PROBE_PERCENT",
    "BucketRange",
    "bucket_of",
    "canary_range",
    "draw_of",
    "holdout_bucket",
    "is_probe",
    "layer_bucket",
    "parse_percent",
    "policy_bucket",
    "shadow_bucket",
    "variant_ranges",
]
