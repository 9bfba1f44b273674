"""A worker of train_speed.py: a LoRA step of transformers + PEFT. It runs where torch is, without edgetune."""

import argparse

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, logging
from turns import serve

KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Loads the model and waits for turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True, help="an .npz file with ids and labels")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--adapter-float32", action="store_true", help="PEFT's default for a bfloat16 base; slower")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    config = LoraConfig(r=8, lora_alpha=16, target_modules=KINDS, task_type="CAUSAL_LM")
    model = get_peft_model(base, config, autocast_adapter_dtype=arguments.adapter_float32).train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    with np.load(arguments.rows, allow_pickle=False) as rows:
        ids, labels = torch.from_numpy(rows["ids"]), torch.from_numpy(rows["labels"])

    def step() -> dict[str, str]:
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"note": f"loss {loss.item():.5f}"}

    serve(step)


if __name__ == "__main__":
    main()
