"""Loads adapters that this library wrote with peft, and compares logits.

    python check_adapter.py            writes adapters of many configurations with the library, then checks each
    python check_adapter.py FOLDER     checks those already there (each with case.json and logits.safetensors)

Every warning peft gives about keys is an error. Prints the largest relative error of each; exits 1 above 1e-4.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from common import forward_logits
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent.parent
TOLERANCE = 1e-4
# Said of its own adapters too.
KNOWN_WARNINGS = (
    "ensure_weight_tying",
    "tie_word_embeddings",
    "save_embedding_layers",
    "is_gradient_checkpointing",
    # AdaLoRA's pattern is not LoRA's, whose check complains of it.
    ".lora_E",
)


def load(case: Path, base: str):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tuned = PeftModel.from_pretrained(model, case).eval()
    odd = [str(w.message) for w in caught if not any(known in str(w.message) for known in KNOWN_WARNINGS)]
    assert not odd, (case.name, odd)
    return tuned


def check(case: Path) -> float:
    facts = json.loads((case / "case.json").read_text())
    ours = load_file(case / "logits.safetensors")["logits"]
    tuned = load(case, facts["base"])
    with torch.no_grad():
        theirs = forward_logits(tuned, facts["ids"])
        with tuned.disable_adapter():
            effect = float((forward_logits(tuned, facts["ids"]) - theirs).abs().max() / theirs.abs().max())
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"{case.name}: relative error {error:.1e}, the adapter changes logits by {effect:.2f}")
    assert effect > 0.01, f"{case.name}: the adapter does nothing"
    with tempfile.TemporaryDirectory() as folder:
        tuned.save_pretrained(folder)
        written, again = load_file(case / "adapter_model.safetensors"), load_file(f"{folder}/adapter_model.safetensors")
        extra = {k for k in again if k.endswith((".original_module.bias", ".modules_to_save.bias"))}
        assert set(written) == set(again) - extra, (case.name, set(written) ^ set(again))
        assert all(torch.equal(v, again[k]) for k, v in written.items()), case.name
        ours, theirs = (json.loads(Path(p, "adapter_config.json").read_text()) for p in (case, folder))
        differing = {k for k in ours | theirs if normal(ours.get(k)) != normal(theirs.get(k))}
        # With tied weights peft adds the tied module's other name when it loads.
        assert differing <= ({"modules_to_save"} if ours["ensure_weight_tying"] else set()), (case.name, differing)
    return error


def normal(value):
    """Sets are saved as lists in any order."""
    return sorted(value, key=str) if isinstance(value, list) else value


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        if len(sys.argv) == 1:
            writer = "src/peft/check-adapters.test.support.ts"
            subprocess.run(["node", "--import", "tsx", writer, str(folder)], cwd=ROOT, check=True)
        cases = sorted(p.parent for p in folder.glob("*/case.json"))
        assert cases, f"nothing to check in {folder}"
        worst = max(check(case) for case in cases)
    print(f"{len(cases)} adapters, largest relative error {worst:.1e}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
