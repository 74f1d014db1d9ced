"""Greedy generation from left-padded batches, and the probabilities left by transformers' sampling filters."""

import shutil

import torch
from common import OUT, generator, save_json, versions
from tiny_models import build
from transformers import GenerationConfig, LogitsProcessorList

WHERE = OUT / "generation"
NEW_TOKENS = 20
PROMPT_LENGTHS = (7, 3, 5)
MIN_MARGIN = 1e-3


def generate(model, prompts: list[list[int]], penalty: float) -> tuple[list[list[int]], float]:
    """New tokens of each row up to and including EOS, and the smallest gap between the best two scores."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS, repetition_penalty=penalty,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    rows, margin = [], float("inf")
    for i, row in enumerate(out.sequences[:, longest:].tolist()):
        if 2 in row:
            row = row[: row.index(2) + 1]
        for t in range(len(row)):
            best, second = out.scores[t][i].topk(2).values.tolist()
            margin = min(margin, best - second)
        rows.append(row)
    return rows, margin


def prompts_for(model, penalties: list[float]) -> tuple[list[list[int]], dict]:
    """The first seeded prompts whose result is clear (no near ties) and the same padded as alone."""
    for seed in range(800, 900):
        g = generator(seed)
        prompts = [[1] + torch.randint(3, 90, (n - 1,), generator=g).tolist() for n in PROMPT_LENGTHS]
        results = {}
        for penalty in penalties:
            rows, margin = generate(model, prompts, penalty)
            # The penalty also hits padding ids in a padded batch; each prompt alone has none.
            alone = [generate(model, [p], penalty)[0][0] for p in prompts]
            if margin < MIN_MARGIN or rows != alone:
                break
            results[penalty] = {"repetition_penalty": penalty, "new_tokens": rows, "smallest_margin": margin}
        if len(results) == len(penalties):
            return prompts, results
    raise AssertionError("no clear prompts found")


def greedy() -> list[dict]:
    cases = []
    for name in ("llama3", "qwen2", "gemma2", "mistral"):
        prompts, results = prompts_for(build(name), [1.0, 1.3])
        cases.append({"model": f"families/{name}/model", "prompts": prompts, "runs": list(results.values())})
        print(name, [r["new_tokens"] for r in results.values()])
    return cases


SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"top_k": 5},
    {"top_k": 1},
    {"top_k": 100},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"top_p": 0.001},
    {"min_p": 0.1},
    {"min_p": 0.9},
    {"temperature": 0.7, "top_k": 8, "top_p": 0.8},
    {"temperature": 1.5, "top_k": 12, "top_p": 0.95, "min_p": 0.05},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 1.3, "temperature": 0.8, "top_p": 0.9},
]
PREVIOUS = [3, 5, 5, 11, 0]


def filters() -> dict:
    """softmax of the logits after exactly the processors and warpers generate() would build, in its order."""
    g = generator(900)
    plain = torch.randn(24, generator=g) * 2
    flat = torch.zeros(24)
    tied = plain.clone()
    tied[[2, 7, 9]] = tied.max()
    vectors = {"random": plain, "flat": flat, "tied": tied, "peaked": plain * 8}
    model = build("qwen2")
    cases = []
    for name, logits in vectors.items():
        for setting in SETTINGS:
            config = GenerationConfig(do_sample=True, **{"top_k": 0, **setting})
            build_list = model._get_logits_processor
            processors: LogitsProcessorList = build_list(
                generation_config=config,
                input_ids_seq_length=len(PREVIOUS),
                device="cpu",
                logits_processor=LogitsProcessorList(),
            )
            scores = processors(torch.tensor([PREVIOUS]), logits.clone()[None].double())
            order = [type(p).__name__ for p in processors]
            probs = torch.softmax(scores, -1)[0].tolist()
            cases.append({"logits": name, "settings": setting, "order": order, "probabilities": probs})
    return {
        "previous_tokens": PREVIOUS,
        "notes": "computed in float64; ties at a top-k edge are all kept, at a top-p edge torch's sort order decides",
        "logits": {k: v.tolist() for k, v in vectors.items()},
        "cases": cases,
    }


def main() -> None:
    shutil.rmtree(WHERE, ignore_errors=True)
    notes = "new tokens up to and including EOS (id 2); pad id 0 on the left; rows equal each prompt run alone"
    save_json(
        WHERE / "greedy.json", {"max_new_tokens": NEW_TOKENS, "notes": notes, "cases": greedy(), "versions": versions()}
    )
    save_json(WHERE / "filters.json", {**filters(), "versions": versions()})


if __name__ == "__main__":
    main()
