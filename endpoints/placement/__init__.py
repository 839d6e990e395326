"""Where replicas run: which node, which GPUs, and why not yet.

    place(replica, now=…)   claims CPUs, memory and exact GPUs in one transaction, or says why not
    release(replica_id)     gives them back, inside the transaction that ends the replica
    room_for(size, region)  would there be room? Claims nothing
    refresh(runtime)        what the runtime says of its nodes and GPUs, for the sweep
    first_look(runtime)     the same where no node is known yet, before the first sweep

`fit` decides (pure), `reading` turns rows into its data, `claims` writes, `reasons` tells why not, `discovery` and
`ledger` compare what is promised with what is there.
"""

from endpoints.placement.answers import NoRoom, Placed
from endpoints.placement.claims import Rooms, place, release, release_dead, room_for, wake
from endpoints.placement.discovery import first_look, refresh

__all__ = [
    "NoRoom",
    "Placed",
    "Rooms",
    "first_look",
    "place",
    "refresh",
    "release",
    "release_dead",
    "room_for",
    "wake",
]
