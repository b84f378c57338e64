"""Decision ids: made for every decision, opened again for labels and outcomes that name one.

An id says when it was made, by which worker, in which epoch of which rollout, and for which arm and group of units.
The last three are masked: only who has the key can read them, so that an id tells a client neither which model judged
it nor that two requests came from one user. It ends in a code that only who has the key can make: an id that opens is
one of ours. That attributes a label; it authorises nobody to send one.
"""

from extproc.decision_id.codec import DecisionIds, IdFault, Nonce, Opened, id_of, open_id
from extproc.decision_id.codes import (
    EXCLUDED_CODE,
    MAX_VARIANTS,
    arm_and_stream,
    arm_codes,
    control_code,
    hashed_number,
    is_compared,
    random_number,
    sealed_code,
)
from extproc.decision_id.key_file import KeyFile
from extproc.decision_id.keys import IdKey, IdKeys

__all__ = [
    "EXCLUDED_CODE",
    "MAX_VARIANTS",
    "DecisionIds",
    "IdFault",
    "IdKey",
    "IdKeys",
    "KeyFile",
    "Nonce",
    "Opened",
    "arm_and_stream",
    "arm_codes",
    "control_code",
    "hashed_number",
    "id_of",
    "is_compared",
    "open_id",
    "random_number",
    "sealed_code",
]
