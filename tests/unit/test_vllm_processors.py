"""The classes by which vLLM hands over its logits, driven as its two model runners drive them."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from rayworks.core.errors import ConfigError
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.hosted_rows import Hosted, tell
from rayworks.lm.rows import Row
from rayworks.lm.vllm_processors import BatchRows, SlotRows
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import RewardMixer, RowGuidance

VOCABULARY, COMMON, SLOTS = 6, 5, 3
BASE = torch.tensor([0.0, 1.0, 0.5, -torch.inf, 0.2, 9.0])
"""Forbids id 3; id 5 is beyond the common range."""


class CountingModel:
    """A guide that wants the id that equals a sequence's length, and remembers what it was asked and told to forget."""

    max_length = vocabulary_size = 100

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], int]] = []
        self.released: list[int] = []
        self.read_tokens = 0
        self._held: dict[int, list[int]] = {}

    def held(self, slot: int) -> int:
        return len(self._held.get(slot, []))

    def rewind(self, slot: int, length: int) -> None:
        del self._held.get(slot, [])[length:]

    def read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        assert list(slots) == sorted(set(slots))
        for slot, new in zip(slots, tokens, strict=True):
            assert new
            self.read_tokens += len(new)
            self._held.setdefault(slot, []).extend(new)
            self.asked.append((tuple(self._held[slot]), slot))
        lengths = torch.tensor([self.held(slot) % VOCABULARY for slot in slots])
        return 20.0 * torch.nn.functional.one_hot(lengths, VOCABULARY)

    def release(self, slot: int) -> None:
        self.released.append(slot)
        self._held.pop(slot, None)


GUIDE = CountingModel()


def host(options: Mapping[str, Any], device: str, slots: int) -> Hosted:
    assert (device, slots) == ("cpu", SLOTS)
    return Hosted(RewardMixer(["r"], COMMON), [GUIDE], lambda told: RowGuidance(Guidance(**told)))  # type: ignore[list-item]


@pytest.fixture(autouse=True)
def guide() -> CountingModel:
    GUIDE.__init__()  # type: ignore[misc]
    return GUIDE


def config(**settings: Any) -> Any:
    return SimpleNamespace(
        additional_config={"rayworks": {"hosts": f"{__name__}:host", "options": {}}},
        scheduler_config=SimpleNamespace(max_num_seqs=SLOTS, async_scheduling=settings.get("asynchronous", False)),
        parallel_config=SimpleNamespace(pipeline_parallel_size=settings.get("stages", 1)),
        model_config=SimpleNamespace(runner_type=settings.get("runner", "generate")),
        speculative_config=settings.get("speculative"),
    )


def params(name: str, weight: float = 1.0, prompts: tuple[tuple[int, ...], ...] = ((7,), (7,))) -> SamplingParams:
    request = GenerationRequest(prompt="", max_new_tokens=8, temperature=0.0)
    told = tell(Row(request, prompts), name, {"weights": {"r": weight}, "beta": 1.0})
    return SamplingParams(extra_args={"rayworks": told})


def update(removed: Any = (), added: Any = (), moved: Any = ()) -> BatchUpdate:
    return BatchUpdate(batch_size=SLOTS, removed=removed, added=added, moved=moved)


def drawn(processor: BatchRows, rows: int) -> list[int | None]:
    """The only id that each row is left with; none where it kept its logits."""
    found = processor.apply(BASE.repeat(rows, 1))
    assert ((found == -torch.inf) | torch.isfinite(found)).all()
    return [int(row.argmax()) if (row > -torch.inf).sum() == 1 else None for row in found]


@pytest.fixture
def batch() -> BatchRows:
    return BatchRows(config(), torch.device("cpu"), False)


def test_only_guided_rows_pay_and_others_keep_their_logits(batch: BatchRows, guide: CountingModel) -> None:
    added = [(0, params("a", 0.0), [7], []), (1, SamplingParams(), [7, 7], []), (2, params("b"), [7, 7], [])]
    batch.update_state(update(added=added))
    assert drawn(batch, 3) == [1, None, 2]
    assert [sequence for sequence, _ in guide.asked] == [(7, 7)]
    assert not batch.is_argmax_invariant()


def test_forbidden_ids_stay_forbidden_and_foreign_ids_become_so(batch: BatchRows) -> None:
    batch.update_state(update(added=[(0, params("a"), [7, 7, 7], []), (1, params("b"), [7] * 5, [])]))
    # The guides want the forbidden 3 and the foreign 5.
    assert drawn(batch, 2) == [1, 1]
    report = batch.rows.take_drawn()
    assert set(report) == {"a", "b"}
    assert all(entry.error is None and np.isfinite(list(entry.report.values())).all() for entry in report.values())
    assert batch.rows.take_drawn() == {}


def test_a_row_whose_guide_raises_or_gives_no_numbers_fails_alone(
    batch: BatchRows, guide: CountingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = guide.read

    def failing(slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        if any(9 in new for new in tokens):
            raise torch.OutOfMemoryError("out of memory")
        logits = read(slots, tokens)
        return torch.where(torch.tensor([[8 in new] for new in tokens]), torch.nan, logits)

    monkeypatch.setattr(guide, "read", failing)
    added = [(0, params("a"), [7, 7], []), (1, params("b"), [9], []), (2, params("c"), [8], [])]
    batch.update_state(update(added=added))
    assert drawn(batch, 3)[0] == 2
    found = batch.rows.take_drawn()
    assert found["a"].error is None
    assert isinstance(found["b"].error, torch.OutOfMemoryError)
    assert "not numbers" in str(found["c"].error)


def test_live_lists_of_tokens_are_followed(batch: BatchRows, guide: CountingModel) -> None:
    tokens: list[int] = []
    batch.update_state(update(added=[(0, params("a"), [7, 7], tokens)]))
    for expected in (2, 1, 4):
        assert drawn(batch, 1) == [expected]
        tokens.append(expected)
        batch.update_state(None)
    assert [sequence for sequence, _ in guide.asked] == [(7, 7), (7, 7, 2), (7, 7, 2, 1)]
    assert guide.read_tokens == 4


def test_rows_move_swap_and_replace_with_their_caches(batch: BatchRows, guide: CountingModel) -> None:
    added = [(place, params(name), [7] * (place + 1), []) for place, name in enumerate("abc")]
    batch.update_state(update(added=added))
    assert drawn(batch, 3) == [1, 2, 1]
    own_slot = {len(sequence): slot for sequence, slot in guide.asked}
    batch.update_state(update(moved=[(0, 2, MoveDirectionality.SWAP)]))
    guide.asked.clear()
    assert drawn(batch, 3) == [1, 2, 1]
    assert {len(sequence): slot for sequence, slot in guide.asked} == own_slot
    assert not guide.released
    # Place 1 leaves, c (in place 0) takes it, and a new row takes place 0: in this order, with the free slot.
    batch.update_state(update(removed=[1], moved=[(0, 1, MoveDirectionality.UNIDIRECTIONAL)]))
    assert guide.released == [own_slot[2]]
    batch.update_state(update(added=[(0, params("d"), [7] * 4, [])]))
    guide.asked.clear()
    assert drawn(batch, 3) == [4, 1, 1]
    assert {len(sequence): slot for sequence, slot in guide.asked} == {1: own_slot[1], 3: own_slot[3], 4: own_slot[2]}


def test_a_row_that_comes_back_is_read_anew(batch: BatchRows, guide: CountingModel) -> None:
    batch.update_state(update(added=[(0, params("a"), [7], [])]))
    assert drawn(batch, 1) == [1]
    batch.update_state(update(removed=[0]))
    batch.update_state(update(added=[(0, params("a"), [7], [1, 0, 0])]))
    assert drawn(batch, 1) == [4]
    assert guide.asked[-1][0] == (7, 1, 0, 0)
    assert guide.released == [0]


def test_weights_change_between_tokens(batch: BatchRows) -> None:
    batch.update_state(update(added=[(0, params("a", 0.0), [7, 7], []), (1, params("b", 0.0), [7, 7], [])]))
    assert drawn(batch, 2) == [1, 1]
    batch.rows.change("b", {"weights": {"r": 1.0}, "beta": 1.0})
    assert drawn(batch, 2) == [1, 2]


def test_a_guide_reads_its_own_prompt(batch: BatchRows, guide: CountingModel) -> None:
    batch.update_state(update(added=[(0, params("a", prompts=((7,), (8, 8))), [7], [])]))
    assert drawn(batch, 1) == [2]
    assert guide.asked[0][0] == (8, 8)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"speculative": object()}, "speculative decoding"),
        ({"runner": "pooling"}, "pooling"),
        ({"stages": 2}, "pipeline parallelism"),
        ({"asynchronous": True}, "asynchronous scheduling"),
    ],
)
def test_what_vllm_cannot_do_with_it_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        BatchRows(config(**settings), torch.device("cpu"), False)


class SlotsOfVersion2:
    """The state of Model Runner V2, and what it does around a step."""

    def __init__(self) -> None:
        self.ids = torch.zeros((SLOTS, 16), dtype=torch.int32)
        self.prompts, self.prefills = np.zeros(SLOTS, dtype=np.int32), np.zeros(SLOTS, dtype=np.int32)
        state = SimpleNamespace(
            device="cpu",
            all_token_ids=SimpleNamespace(gpu=self.ids),
            prompt_len=SimpleNamespace(np=self.prompts),
            prefill_len=SimpleNamespace(np=self.prefills),
        )
        self.processor = SlotRows(config(), state)

    def add(self, slot: int, given: SamplingParams, prompt: list[int], tokens: list[int]) -> bool:
        ids = [*prompt, *tokens]
        taken = self.processor.add_request(slot, given)
        self.ids[slot, : len(ids)] = torch.tensor(ids)
        self.prompts[slot], self.prefills[slot] = len(prompt), len(ids)
        self.processor.apply_staged_writes()
        return taken

    def draw(self, lengths: dict[int, int]) -> list[int | None]:
        """One step over slots, each with as many ids computed; in the order of the dictionary."""
        slots = torch.tensor(list(lengths))
        positions = torch.tensor([length - 1 for length in lengths.values()])
        context = SimpleNamespace(expanded_idx_mapping=slots, pos=positions, input_ids=self.ids[slots, positions])
        found = self.processor.apply(BASE.repeat(len(slots), 1), context)  # type: ignore[arg-type]
        tokens = [int(row.argmax()) if (row > -torch.inf).sum() == 1 else None for row in found]
        for (slot, length), token in zip(lengths.items(), tokens, strict=True):
            if token is not None:
                self.ids[slot, length] = token
        return tokens


def test_version_2_reads_tokens_from_the_slots_in_any_order(guide: CountingModel) -> None:
    runner = SlotsOfVersion2()
    assert runner.add(0, params("a"), [7, 7], [])
    assert runner.add(2, params("b"), [7], [])
    assert not runner.add(1, SamplingParams(), [7], [])
    assert runner.draw({2: 1, 1: 1, 0: 2}) == [1, None, 2]
    assert runner.draw({0: 3, 2: 2}) == [1, 2]
    assert sorted(sequence for sequence, _ in guide.asked) == [(7,), (7, 1), (7, 7), (7, 7, 2)]


def test_version_2_leaves_a_row_alone_until_its_prefill_is_whole(guide: CountingModel) -> None:
    runner = SlotsOfVersion2()
    runner.add(0, params("a"), [7, 7, 7, 7], [])
    assert runner.draw({0: 2}) == [None]
    assert not guide.asked
    assert runner.draw({0: 4}) == [4]


def test_version_2_reads_a_slot_anew_when_it_is_filled_again(guide: CountingModel) -> None:
    runner = SlotsOfVersion2()
    runner.add(0, params("a"), [7, 7], [])
    assert runner.draw({0: 2}) == [2]
    # Preempted after its second token, which had been drawn elsewhere.
    runner.add(0, params("a"), [7, 7], [2, 0])
    assert runner.draw({0: 4}) == [4]
    assert guide.asked[-1][0] == (7, 7, 2, 0)
    runner.add(0, params("b"), [8], [])
    assert runner.draw({0: 1}) == [1]
    assert guide.asked[-1][0] == (8,)
    assert guide.released == [0, 0]
