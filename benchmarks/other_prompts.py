"""Ask base and shipped adapter in a prompt that is none of the templates', as an existing chain might.

    python benchmarks/other_prompts.py --data DIR

Validation questions of Natural Questions, the gold passage alone and among hard negatives; an answer counts where a
gold one occurs in the reply.
"""

import argparse

from fast_llama import FastLocal
from hybridmem_plugins.finetuning.evaluate import load_items
from hybridmem_plugins.finetuning.metrics import bootstrap, score_answer
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.decoding import GenerationSettings

PROMPT = (
    "You help people with their questions. Use the context to answer in one or two sentences. If the context does not "
    "say it, say that you do not know.\n\nContext:\n{context}\n\nQuestion: {question}\nAnswer:"
)


def prompt(item):
    context = "\n\n".join(f"{one.get('title') or ''}\n{one['text']}".strip() for one in item.passages)
    return [{"role": "user", "content": PROMPT.format(context=context, question=item.question)}]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    items = [one for one in load_items(options.data, questions=1, unseen=1) if one.suite == "nq-val"]
    local, settings = FastLocal(adapter="smollm2-135m"), GenerationSettings(max_new_tokens=60)
    print("| | base | adapter, awake |\n|---|---|---|")
    for condition in ("clean", "hard"):
        asked = [one for one in items if one.condition == condition]
        ids = [local.tokens(render_chat(local.tokenizer, prompt(one))) for one in asked]
        cells = []
        for adapter in ("base", "smollm2-135m"):
            replies = local.generate_ids(ids, settings, adapter)
            told = zip(replies, asked, strict=True)
            cells.append(bootstrap([float(score_answer(reply.text, one.answers).contained) for reply, one in told]))
        print(f"| {condition} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
