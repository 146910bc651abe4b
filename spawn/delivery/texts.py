"""What operators are told in more than one place, or in more than a few words. Pure."""

from __future__ import annotations

from spawn.nodes.node import Node, NodeRecord

OTHER_JOURNAL = (
    "this is not the journal that the nodes' positions are in: all nodes are out of sync; put the old journal back, or "
    'say for each node that it is complete (PUT /queues/HOST/PORT {"position": "head"})'
)
NO_STORED_NODES = (
    "%s is missing, but the journal beside it is at update %d and knows the positions of %s: which nodes these were is "
    "lost, so those of the configuration file count as new and are out of sync, and those that were added through the "
    "API are forgotten; either stop Spawn and put the file back from a backup, or add what is missing "
    "(PUT /nodes/HOST/PORT) and say for each node where its data stand "
    '(PUT /queues/HOST/PORT {"position": N or "head"})'
)


def counted(count: int, what: str = "update") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def updates(first: int, last: int) -> str:
    return f"update {first}" if first == last else f"updates {first} to {last}"


def queue_of(record: NodeRecord) -> str:
    """Where the API has what a node still gets."""
    return f"/queues/{record.host}/{record.port}"


def out_of_sync(record: NodeRecord) -> str:
    """To be put behind "the node is"."""
    return (
        "out of sync: it gets no updates and no reads until it is told its position "
        f'(PUT {queue_of(record)} {{"position": N or "head"}})'
    )


def retry_of(record: NodeRecord, sequence: int) -> str:
    """What an operator can do about an update that the node has not taken."""
    return f"when the cause is mended, POST {queue_of(record)}/{sequence}/retry gives it the update after all"


def what_a_move_means(node: Node, number: int, lacks: bool, peer: str) -> tuple[str, str]:
    """For the log ("" when there is nothing to say), and for the operator who asked; before the node is moved."""
    before = node.position
    if number == before:
        flags = {"held": node.held, "diverged": node.diverged, "out of sync": node.out_of_sync}
        ended = " or ".join(name for name, there in flags.items() if there)
        said = f"stands at position {number}, says {peer}: it is no longer {ended}" if ended else ""
        return said, "" if ended else f"the node was at position {number} already"
    said = f"is put from position {before} to {number} by {peer}"
    if not lacks:
        return said, ""
    why = f"it lacks {updates(before + 1, number)} and differs from the others from now on"
    remedy = f"where its data have them, say so: POST {queue_of(node.record)}/clear-diverged"
    return f"{said}: {why}; {remedy}", f"the node is diverged: {why}; {remedy}"
