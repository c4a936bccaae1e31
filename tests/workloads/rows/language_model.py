from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.language_model import LanguageModel

ROW = Row(
    LanguageModel(
        corpus="zipf_markov:vocab_size=16",
        width=16,
        depth=2,
        heads=2,
        context=8,
        batch_size=4,
        z_loss=1e-4,
        evaluation_sequences=10,
    ),
    LanguageModel(corpus="zipf_markov:vocab_size=256", width=512, depth=2, batch_size=4, context=64),
    "adamw",
    1e-2,
    {"tied": {"tied_embeddings": True}, "qk_norm": {"qk_norm": True}, "long": {"context": 48, "depth": 3}},
)
