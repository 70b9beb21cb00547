"""Five thousand rows from public question sets, every label checked."""

import itertools

import data

from hybridmem_plugins import augmentation
from hybridmem_plugins.augmentation.examples import read_rows
from hybridmem_plugins.augmentation.labels import check_row


def test_five_thousand_rows_pass_the_label_check():
    files = sorted(data.folder("qa", "train").glob("*.jsonl.gz"))
    examples = [row for path in files for row in itertools.islice(read_rows(path), 1400)]
    contexts = {row["context"]: {"text": row["context"], "title": row["title"]} for row in examples}
    dataset = augmentation.NoisyContextAugmenter(seed=0).build_dataset(examples, contexts.values())
    rows = list(itertools.islice(dataset, 5000))
    assert len(rows) == 5000
    assert [(row["id"], found) for row in rows if (found := check_row(row, dataset.lookup))] == []
