"""Peak memory of one step of TRL's PPOTrainer with four models: LoRA policy, reference, value and reward model, float32.

usage: python bench/trl_ppo_memory.py MODEL_FOLDER PROMPTS PROMPT_TOKENS RESPONSE_TOKENS
"""

import os
import resource
import sys
import tempfile

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer

path, count, prompt, response = sys.argv[1], *map(int, sys.argv[2:])
LORA = {"r": 16, "lora_alpha": 16, "target_modules": "all-linear"}


def scored():
    """A value or reward model; LoRA trains it as ours is trained."""
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = 0
    return get_peft_model(model, LoraConfig(**LORA, task_type="SEQ_CLS"))


load = lambda: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
words = {f"t{i}": i for i in range(load().config.vocab_size)}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t3")), pad_token="t0", eos_token="t2"
)
rows = [{"input_ids": [100 + (37 * i + 11 * t) % 1000 for t in range(prompt)]} for i in range(count)]
with tempfile.TemporaryDirectory() as folder:
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            per_device_train_batch_size=count,
            response_length=response,
            num_ppo_epochs=1,
            total_episodes=count,
            num_sample_generations=0,
            save_strategy="no",
        ),
        processing_class=tokenizer,
        model=get_peft_model(load(), LoraConfig(**LORA, task_type="CAUSAL_LM")),
        ref_model=load(),
        reward_model=scored(),
        value_model=scored(),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
    )
    trainer.train()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(f"TRL, four models: process {peak:.0f} MiB")
