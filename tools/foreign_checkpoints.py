#!/usr/bin/env python3
"""Writes one tiny random model in every container that metala reads, with PyTorch itself.

    python3 -m venv /tmp/foreign && /tmp/foreign/bin/pip install torch safetensors numpy
    /tmp/foreign/bin/python tools/foreign_checkpoints.py tests/foreign

Every folder holds the same float32 values, so every one must load to the same bits. The norm scales
of the GPT-NeoX folders are powers of two, and the weights behind them are divided by them, so that
folding them back is exact.
"""

import argparse
import collections
import json
import pathlib

import numpy
import torch
from safetensors.torch import save_file

VOCAB, WIDTH, LAYERS, HEADS, GLU = 64, 16, 2, 2, 24

CONFIG = {
    "model_type": "metala",
    "architectures": ["MetaLAForCausalLM"],
    "vocab_size": VOCAB,
    "decoder_embed_dim": WIDTH,
    "decoder_layers": LAYERS,
    "decoder_attention_heads": HEADS,
    "glu_dim": GLU,
    "glu_act": "silu",
    "bias": False,
    "norm_type": "simplermsnorm",
    "no_scale_embedding": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}

NEOX_CONFIG = """\
# How the layers of this folder were trained.
{
  "pipe-parallel-size": 0,
  "model-parallel-size": %d,
  "num-layers": 2,
  "hidden-size": 16,
  "num-attention-heads": 2,
  "intermediate-size": 24,
  "seq-length": 2048,
  "norm": "%s",
  "rms-norm-epsilon": 1.0e-6,
  "no-weight-tying": true,
  "activation": "silu",
}
"""

# NeoX's name, Hugging Face's, and the dimension that tensor parallelism splits.
PAIRS = [
    ("attention.q_proj.weight", "token_mixer.q_proj.weight", 0),
    ("attention.k_gate.weight", "token_mixer.k_gate.weight", 0),
    ("attention.v_proj.weight", "token_mixer.v_proj.weight", 0),
    ("attention.g_proj.weight", "token_mixer.g_proj.weight", 0),
    ("attention.g_proj.bias", "token_mixer.g_proj.bias", 0),
    ("attention.out_proj.weight", "token_mixer.out_proj.weight", 1),
    ("attention.aug_balance", "token_mixer.aug_balance", None),
    ("attention.conv1d.weight", "token_mixer.conv1d.weight", None),
    ("mlp.w1.weight", "channel_mixer.l1.weight", 0),
    ("mlp.w3.weight", "channel_mixer.l2.weight", 0),
    ("mlp.w2.weight", "channel_mixer.l3.weight", 1),
]


def random_model():
    generator = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) / 4

    model = {"model.embed_tokens.weight": draw(VOCAB, WIDTH), "lm_head.weight": draw(VOCAB, WIDTH)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        mixer, channels = block + "token_mixer.", block + "channel_mixer."
        model[mixer + "conv1d.weight"] = draw(WIDTH, 1, 4)
        for name, rows in [("q_proj", WIDTH // 2), ("k_gate", WIDTH // 2), ("v_proj", WIDTH),
                           ("g_proj", WIDTH), ("out_proj", WIDTH)]:
            model[mixer + name + ".weight"] = draw(rows, WIDTH)
        model[mixer + "g_proj.bias"] = draw(WIDTH)
        model[mixer + "aug_balance"] = draw(WIDTH // 2)
        model[channels + "l1.weight"] = draw(GLU, WIDTH)
        model[channels + "l2.weight"] = draw(GLU, WIDTH)
        model[channels + "l3.weight"] = draw(WIDTH, GLU)
    return model


def folder(out, name):
    path = out / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_config(path):
    (path / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


def shards(model, pattern):
    names = sorted(model)
    half = len(names) // 2
    parts = [names[:half], names[half:]]
    files = [pattern % (i + 1, len(parts)) for i in range(len(parts))]
    total = sum(t.numel() * t.element_size() for t in model.values())
    where = {name: file for file, part in zip(files, parts) for name in part}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    return {f: {n: model[n] for n in p} for f, p in zip(files, parts)}, json.dumps(index, indent=2)


def write_hugging_face(out, model):
    path = folder(out, "safetensors")
    write_config(path)
    save_file(model, path / "model.safetensors", metadata={"format": "pt"})

    path = folder(out, "safetensors_sharded")
    write_config(path)
    parts, index = shards(model, "model-%05d-of-%05d.safetensors")
    for file, tensors in parts.items():
        save_file(tensors, path / file, metadata={"format": "pt"})
    (path / "model.safetensors.index.json").write_text(index)

    for name, new in [("torch_zip", True), ("torch_legacy", False)]:
        path = folder(out, name)
        write_config(path)
        ordered = collections.OrderedDict(model)
        torch.save(ordered, path / "pytorch_model.bin", _use_new_zipfile_serialization=new)

    path = folder(out, "torch_sharded")
    write_config(path)
    parts, index = shards(model, "pytorch_model-%05d-of-%05d.bin")
    for file, tensors in parts.items():
        torch.save(tensors, path / file)
    (path / "pytorch_model.bin.index.json").write_text(index)


def neox_layers(model, scaled):
    """The state dictionaries of the pipeline's layers, by index."""
    generator = torch.Generator().manual_seed(8)

    def scale():
        return 2.0 ** torch.randint(-2, 3, (WIDTH,), generator=generator)

    layers = {0: {"word_embeddings.weight": model["model.embed_tokens.weight"]}}
    for i in range(LAYERS):
        block = {theirs: model[f"model.layers.{i}.{ours}"] for theirs, ours, _ in PAIRS}
        if scaled:
            before, after = scale(), scale()
            block["input_layernorm.scale"] = before
            block["post_attention_layernorm.scale"] = after
            block["attention.conv1d.weight"] = block["attention.conv1d.weight"] / before[:, None, None]
            block["mlp.w1.weight"] = block["mlp.w1.weight"] / after
            block["mlp.w3.weight"] = block["mlp.w3.weight"] / after
        layers[i + 2] = block
    head = model["lm_head.weight"]
    if scaled:
        last = scale()
        layers[LAYERS + 3] = {"norm.scale": last}
        head = head / last
    layers[LAYERS + 4] = {"final_linear.weight": head}
    return layers


def part_of(name, tensor, rank, parts):
    split = {theirs: dimension for theirs, _, dimension in PAIRS}
    split.update({"word_embeddings.weight": 0, "final_linear.weight": 0})
    dimension = split.get(name)
    if dimension is None:
        return tensor
    return tensor.chunk(parts, dim=dimension)[rank].clone()


def write_neox(out, model):
    for name, parts in [("neox", 1), ("neox_tp2", 2)]:
        path = folder(out, name)
        (path / "metala.yml").write_text(NEOX_CONFIG % (parts, "rmsnorm"))
        for index, layer in neox_layers(model, scaled=True).items():
            for rank in range(parts):
                state = collections.OrderedDict(
                    (key, part_of(key, tensor, rank, parts)) for key, tensor in layer.items())
                torch.save(state, path / f"layer_{index:02d}-model_{rank:02d}-model_states.pt")

    path = folder(out, "neox_module")
    (path / "metala.yml").write_text(NEOX_CONFIG % (1, "simplermsnorm"))
    module = collections.OrderedDict()
    for index, layer in neox_layers(model, scaled=False).items():
        for key, tensor in layer.items():
            module[f"sequential.{index}.{key}"] = tensor
    trainer = {
        "module": module,
        "optimizer": {"loss_scaler": argparse.Namespace(scale=65536.0), "overflow": False},
        "np_rng_state": numpy.random.RandomState(3).get_state(),
        "random_rng_state": (3, tuple(range(8)), None),
        "data": {"iteration": 2**70, "ids": {1, 2}, "raw": b"bytes", "ratio": 0.5},
        "global_steps": 1000,
        "mp_world_size": 1,
    }
    torch.save(trainer, path / "mp_rank_00_model_states.pt")


def write_odd(out):
    """Tensors that a model file may hold in an odd way, and what they are."""
    path = folder(out, "odd")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8
    state = {
        "whole": base,
        "rows": base[1:3],
        "columns": base[:, 2:5],
        "transposed": base.t(),
        "parameter": torch.nn.Parameter(base[0] + 1),
        "bf16": base.bfloat16(),
        "f16": base.half(),
        "f64": base.double(),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "counts": torch.arange(5),
        "flags": torch.tensor([True, False, True]),
    }
    save_file({name: t.detach().clone().contiguous() for name, t in state.items()},
              path / "expected.safetensors")
    torch.save(state, path / "zip.pt")
    torch.save(state, path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(state, path / "protocol4.pt", pickle_protocol=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    out = parser.parse_args().out
    model = random_model()
    write_hugging_face(out, model)
    write_neox(out, model)
    write_odd(out)


if __name__ == "__main__":
    main()
