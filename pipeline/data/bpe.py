"""Byte-level BPE (Sennrich, Haddow and Birch 2016, algorithm 1, over bytes): counting words, learning merges, merging a word.

Tokens 0..255 are the bytes, 256 is <|endoftext|>, then the merges in the order they were learnt.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from cuda_ops.errors import UserError
from pipeline.data.progress import counted

Pair = tuple[int, int]
FIRST = 257  # the token of the first merge

# Words with their leading space, numbers, punctuation, white space; bytes beyond ASCII count as letters.
WORDS = re.compile(rb" ?[A-Za-z\x80-\xff]+| ?[0-9]+| ?[^\sA-Za-z0-9\x80-\xff]+|\s+")
CHUNK = 1 << 20  # bytes of text that are cut into words at a time
LONG = 64  # bytes from which a word is merged by a heap
NONE = -1


def words_of(text: bytes) -> Iterator[list[bytes]]:
    """The words of a text, a list at a time.

    Where a chunk ends, its last word may go on: it begins the next chunk. The others end where the next one begins.
    """
    begin, size = 0, CHUNK
    while begin < len(text):
        words = WORDS.findall(text, begin, begin + size)
        if begin + size >= len(text):
            yield words
            return
        last = words.pop()
        yield words
        begin, size = min(begin + size, len(text)) - len(last), CHUNK if words else 2 * size


def count_words(texts: Iterable[str]) -> Counter[bytes]:
    """How often each word occurs."""
    counts: Counter[bytes] = Counter()
    for text in texts:
        for words in words_of(text.encode()):
            counts.update(words)
    return counts


PAIRS = np.dtype([("left", "u2"), ("right", "u2"), ("begin", "i8"), ("end", "i8")])


class Learner:
    """The words of a text as one row of tokens, linked where a pair may be merged.

    Every count is that of the definition: neighbours within a word, times how often the word occurs. A merge visits only the
    places where its pair stands, all at once, so a text without spaces costs what its bytes cost. A pair gets its number, count
    and places when the newer of its tokens is made; from then on its count can only fall. Takes about 35 bytes of memory per
    byte of distinct words.
    """

    def __init__(self, counts: Counter[bytes]) -> None:
        words = sorted(counts)
        lengths = np.array([len(word) for word in words], dtype=np.int64)
        size = int(lengths.sum())
        if size >= 2**31:
            raise UserError(f"the distinct words of the text have {size:,} bytes; a BPE is trained on less than 2^31")
        self.ids = np.frombuffer(b"".join(words), dtype=np.uint8).astype(np.uint16)
        weights = np.array([counts[word] for word in words], dtype=np.int64)
        self.weights = np.repeat(weights.astype(np.int32) if weights.max(initial=0) < 2**31 else weights, lengths)
        self.next, self.previous = np.full(size, NONE, dtype=np.int32), np.full(size, NONE, dtype=np.int32)
        self.pair_at = np.full(size, NONE, dtype=np.int32)  # the number of the pair that begins at a place
        joined = np.delete(np.arange(size, dtype=np.int32), np.cumsum(lengths) - 1)  # all but the last of a word
        self.next[joined], self.previous[joined + 1] = joined + 1, joined
        self.strings = [bytes([i]) for i in range(256)] + [b""]
        self.pairs, self.known = np.zeros(1 << 16, dtype=PAIRS), 0
        self.counts = np.zeros(1 << 16, dtype=np.int64)
        self.places, self.filled = np.zeros(1 << 16, dtype=np.int32), 0
        # The heap has the pairs whose count is at least `least`, each with a count that was true once and is never too low.
        self.heap: list[tuple[int, bytes, bytes, int, int, int]] = []
        self.least = 1 << 62
        self._add(joined, self.ids[joined] << np.uint16(8) | self.ids[joined + 1])

    def _add(self, places: NDArray[np.int32], keys: NDArray[np.uint16]) -> None:
        """Number and count new pairs, which begin at these places and are one where their keys are."""
        if len(places) == 0:
            return
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        first, self.known = self.known, self.known + len(begins)
        while len(self.pairs) < self.known:
            self.pairs = np.concatenate([self.pairs, np.zeros_like(self.pairs)])
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
        while len(self.places) < self.filled + len(places):
            self.places = np.concatenate([self.places, np.zeros_like(self.places)])
        self.places[self.filled : self.filled + len(places)] = places
        ends = np.concatenate([begins[1:], [len(places)]])
        made, counts = self.pairs[first : self.known], self.counts[first : self.known]
        made["left"], made["right"] = self.ids[places[begins]], self.ids[self.next[places[begins]]]
        counts[:] = np.add.reduceat(self.weights[places], begins, dtype=np.int64)
        made["begin"], made["end"] = self.filled + begins, self.filled + ends
        self.filled += len(places)
        self.pair_at[places] = np.repeat(np.arange(first, self.known, dtype=np.int32), ends - begins)
        self._push(first + np.flatnonzero(counts >= self.least))

    def _remove(self, places: NDArray[np.int32]) -> None:
        """Take the pairs that begin at these places, each named once, out of the counts."""
        np.subtract.at(self.counts, self.pair_at[places], self.weights[places].astype(np.int64))
        self.pair_at[places] = NONE

    def _push(self, numbers: NDArray[np.int64]) -> None:
        for number in numbers.tolist():
            left, right, _, _ = self.pairs[number].tolist()
            heapq.heappush(
                self.heap, (-int(self.counts[number]), self.strings[left], self.strings[right], left, right, number)
            )

    def best(self) -> int | None:
        """The number of the most frequent pair; of equally frequent ones the first by bytes."""
        while True:
            while self.heap:
                item = self.heap[0]
                count = int(self.counts[item[5]])
                if count == -item[0]:
                    return item[5]
                heapq.heappop(self.heap)
                if count >= self.least:
                    heapq.heappush(self.heap, (-count, *item[1:]))
            most = int(self.counts[: self.known].max(initial=0))
            if most == 0:
                return None
            self.least = most // 2 + 1
            self._push(np.flatnonzero(self.counts[: self.known] >= self.least))

    def merge(self, number: int) -> Pair:
        """Make every non-overlapping occurrence of a pair, from the left, one new token; returns the pair."""
        left, right, begin, end = self.pairs[number].tolist()
        places = self.places[begin:end]
        places = places[self.pair_at[places] == number]  # ascending, as they were found
        if left == right:
            places = self._alternate(places)
        after = self.next[places]
        before, beyond = self.previous[places], self.next[after]
        ahead, behind = beyond != NONE, before != NONE
        behind[1:] &= before[1:] != after[:-1]  # the pair between two occurrences is the first one's
        self._remove(np.concatenate([before[behind], after[ahead]]))
        self.pair_at[places], self.counts[number] = NONE, 0  # one that overlaps a merged one went with the neighbours
        token = len(self.strings)
        self.strings.append(self.strings[left] + self.strings[right])
        self.ids[places] = token
        self.next[places], self.next[after] = beyond, NONE
        self.previous[beyond[ahead]] = places[ahead]
        before = self.previous[places]
        behind = before != NONE
        behind[1:] &= before[1:] != places[:-1]
        self._add(before[behind], self.ids[before[behind]])
        self._add(places[ahead], self.ids[beyond[ahead]])
        return left, right

    def _alternate(self, places: NDArray[np.int32]) -> NDArray[np.int32]:
        """Of pairs of one token that overlap in a run, every other one from the left."""
        starts = np.concatenate([[True], self.next[places[:-1]] != places[1:]])
        index = np.arange(len(places))
        chosen: NDArray[np.int32] = places[(index - np.maximum.accumulate(np.where(starts, index, 0))) % 2 == 0]
        return chosen


def learn(counts: Counter[bytes], merges: int) -> list[Pair]:
    """The merges of so many most frequent pairs, in order."""
    learner, found = Learner(counts), []
    for i in counted(merges, "merges"):
        number = learner.best()
        if number is None:
            raise UserError(f"the text gives only {FIRST + i} tokens; vocab_size {FIRST + merges} is too large for it")
        found.append(learner.merge(number))
    return found


def merge_word(word: bytes, ranks: dict[Pair, int]) -> list[int]:
    """The tokens of a word: the pair of least rank is merged, from the left, until none has a rank."""
    return _merge_long(word, ranks) if len(word) >= LONG else _merge_short(word, ranks)


def _merge_short(word: bytes, ranks: dict[Pair, int]) -> list[int]:
    ids = list(word)
    while known := [(ranks[pair], pair) for pair in itertools.pairwise(ids) if pair in ranks]:
        rank, pair = min(known)
        ids = _merged(ids, pair, rank)
    return ids


def _merged(ids: list[int], pair: Pair, token: int) -> list[int]:
    """ids with each non-overlapping `pair`, from the left, replaced by `token`."""
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            out.append(token)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def _merge_long(word: bytes, ranks: dict[Pair, int]) -> list[int]:
    """The same by a heap of (rank, place): what a merge makes has a higher rank than the merge, so none is missed."""
    ids, size = list(word), len(word)
    following, preceding = [*range(1, size), NONE], list(range(-1, size - 1))
    heap = [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(ids)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        j = following[i]
        if j == NONE or ids[i] == NONE or ranks.get((ids[i], ids[j])) != rank:
            continue  # merged away since
        ids[i], ids[j] = rank, NONE
        following[i] = k = following[j]
        if k != NONE:
            preceding[k] = i
            if (pair := (rank, ids[k])) in ranks:
                heapq.heappush(heap, (ranks[pair], i))
        h = preceding[i]
        if h != NONE and (pair := (ids[h], rank)) in ranks:
            heapq.heappush(heap, (ranks[pair], h))
    return [token for token in ids if token != NONE]
