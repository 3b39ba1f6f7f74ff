"""The Beam coder of SampleBatch: its size is told without pickling it.

Beam samples the sizes of what passes between fused stages. Its default coder pickles the whole
batch, image bytes and all, to learn that size.
"""

from __future__ import annotations

import pickle

import apache_beam as beam

from facecap.schemas.sample import SampleBatch

BYTES_PER_SAMPLE = 500
"""A guess at what a sample holds besides its image: only progress estimates depend on it."""


class SampleBatchCoder(beam.coders.Coder):
    """Pickles a batch where a runner really moves it; estimates its size in O(samples)."""

    def encode(self, value: SampleBatch) -> bytes:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    def decode(self, encoded: bytes) -> SampleBatch:
        batch: SampleBatch = pickle.loads(encoded)
        return batch

    def estimate_size(self, value: SampleBatch) -> int:
        return value.nbytes + BYTES_PER_SAMPLE * len(value)

    def is_deterministic(self) -> bool:
        return False


beam.coders.registry.register_coder(SampleBatch, SampleBatchCoder)
