"""Where an interrupted stage goes on."""

from __future__ import annotations

from adapters.errors import AdapterFileError
from adapters.lineage import Stage
from adapters.stages.journal import Journal
from adapters.store import Store
from adapters.training.checkpoint import Checkpoint, read_checkpoint


def last_checkpoint(store: Store, stage: Stage, journal: Journal) -> Checkpoint | None:
    """The newest checkpoint that can be read; None where there never was one.

    A damaged one is told of and discarded where an older one can be read: the steps between are
    done once more. Raises AdapterFileError, and discards nothing, where none can.
    """
    damaged: list[tuple[int, AdapterFileError]] = []
    for step, file in store.checkpoints.newest_first(stage.id):
        try:
            found = read_checkpoint(file)
        except AdapterFileError as error:
            damaged.append((step, error))
            continue
        for bad, why in damaged:
            journal.warn(
                f"The checkpoint of step {bad} cannot be used. {why} The stage goes on from that "
                f"of step {step}, and what it learns is the same."
            )
            store.checkpoints.discard(stage.id, stage.fence, bad)
        return found
    if damaged:
        why = damaged[0][1]
        raise AdapterFileError(f"{why} Add the stage again, from its parent.") from why
    return None
