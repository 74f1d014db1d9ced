"""Which modules PEFT adapts and trains in full for a set of configurations, with ranks and scales."""

import json

import peft
from common import OUT
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from tiny_models import build

CASES = [
    ("llama", {}),
    ("llama", {"target_modules": "all-linear"}),
    ("llama3", {"target_modules": "ALL-LINEAR"}),
    ("llama", {"target_modules": ["q_proj", "mlp.up_proj", "lm_head", "embed_tokens"]}),
    ("llama3", {"target_modules": ["lm_head", "embed_tokens"]}),
    ("llama", {"target_modules": ["q_proj", "nonsense"]}),
    ("llama", {"target_modules": ["nonsense"]}),
    ("llama", {"target_modules": ["proj"]}),
    ("llama", {"target_modules": ["layers.1.self_attn.q_proj"]}),
    ("llama", {"target_modules": ["norm"]}),
    ("llama", {"target_modules": ["mlp"]}),
    ("llama", {"target_modules": r".*\.(q|v)_proj"}),
    ("llama", {"target_modules": r"q_proj"}),
    ("llama", {"target_modules": r"(?i).*LAYERS\.[01]\.self_attn\.O_proj|lm_head"}),
    ("llama", {"target_modules": r".*mlp.*"}),
    ("llama", {"target_modules": r".*attn\..*"}),
    ("llama", {"target_modules": r"model\.layers\.(?P<i>\d)\.mlp\.\w+_proj"}),
    ("qwen3", {"target_modules": r".*self_attn\..*_proj"}),
    ("qwen3", {"target_modules": r".*self_attn\..*"}),
    ("gemma2", {"target_modules": ["q_proj"], "layers_to_transform": [1, 3]}),
    ("gemma2", {"target_modules": ["q_proj"], "layers_to_transform": 2}),
    ("gemma2", {"target_modules": ["q_proj"], "layers_to_transform": []}),
    ("gemma2", {"target_modules": ["q_proj"], "layers_to_transform": [9]}),
    ("gemma2", {"target_modules": ["q_proj", "embed_tokens"], "layers_to_transform": [0]}),
    ("gemma2", {"target_modules": ["model.embed_tokens", "q_proj"], "layers_to_transform": [0]}),
    ("gemma2", {"target_modules": ["q_proj", "model.layers.3.self_attn.v_proj"], "layers_to_transform": [0]}),
    ("gemma2", {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"}),
    ("gemma2", {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["blocks", "lay.*"]}),
    ("gemma2", {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "blocks"}),
    ("llama", {"target_modules": "all-linear", "exclude_modules": ["down_proj", "self_attn.q_proj"]}),
    ("llama", {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*layers\.0.*"}),
    ("llama", {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]}),
    ("llama", {"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["layers.0.mlp"]}),
    ("llama", {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["v_proj"]}),
    ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["k_proj"]}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["nonsense"]}),
    ("llama3", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ("llama", {"target_modules": "all-linear", "rank_pattern": {"q_proj": 2, "self_attn.*": 6, "layers.1.mlp.up_proj": 8}}),
    ("llama", {"target_modules": "all-linear", "alpha_pattern": {"^model.layers.1.mlp.up_proj": 5, "mlp.up_proj": 7}}),
    ("llama", {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {r".*layers\.0\..*": 9}, "lora_alpha": 3}),
    ("llama", {"target_modules": ["q_proj"], "rank_pattern": {"nonsense": 3}}),
]  # fmt: skip


def describe(name: str, options: dict) -> dict:
    case = {"model": name, "config": options}
    try:
        tuned = get_peft_model(build(name), LoraConfig(task_type="CAUSAL_LM", **{"r": 4, **options}))
    except ValueError as error:
        return {**case, "error": type(error).__name__}
    base = tuned.base_model.model
    targets = {
        n: [m.r["default"], m.scaling["default"]] for n, m in base.named_modules() if isinstance(m, LoraLayer)
    }
    saved = [n for n, m in base.named_modules(remove_duplicate=False) if isinstance(m, ModulesToSaveWrapper)]
    return {**case, "targets": targets, "saved": saved, "counts": list(tuned.get_nb_trainable_parameters())}


def main() -> None:
    cases = [describe(name, options) for name, options in CASES]
    path = OUT.parent / "peft" / "targets.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(f"    {json.dumps(case)}" for case in cases)
    path.write_text(f'{{\n  "peft": "{peft.__version__}",\n  "cases": [\n{rows}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
