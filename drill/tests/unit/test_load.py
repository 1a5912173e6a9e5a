"""The load is the same for the same seed, and contains what it says."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from drill.load import sequence


def take(seed: int, number: int = 2000) -> list[sequence.Batch]:
    return list(islice(sequence.batches("run1.p0", seed, sequence.MIX, sequence.WAYS), number))


def test_the_same_seed_gives_the_same_load() -> None:
    assert take(1) == take(1)
    assert take(1) != take(2)


def test_ids_are_unique_and_name_the_run() -> None:
    ids = [item.id for batch in take(1) for item in batch.items]
    assert len(ids) == len(set(ids))
    assert all(task_id.startswith("run1.p0.") for task_id in ids)


def test_every_kind_and_every_way_comes_in_its_share() -> None:
    batches = take(1)
    kinds = Counter(item.kind for batch in batches for item in batch.items)
    ways = Counter[str]()
    for batch in batches:
        ways[batch.way] += len(batch.items)
    assert kinds.keys() == sequence.MIX.keys()
    for name, weight in sequence.MIX.items():
        assert 0.7 < kinds[name] / kinds.total() / (weight / sum(sequence.MIX.values())) < 1.4
    for name, weight in sequence.WAYS.items():
        assert 0.8 < ways[name] / ways.total() / (weight / 100) < 1.2


def test_all_poison_is_marked_and_nothing_else() -> None:
    items = [item for batch in take(1) for item in batch.items]
    assert {item.kind for item in items if item.poison} == {"poison"}
    assert {item.args[0] for item in items if item.poison} == {"raise", "unknown", "garbage"}
