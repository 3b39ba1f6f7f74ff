"""A model and a tokenizer made here, saved, and loaded and asked as any other would be."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facecap.schemas.captions import RewriteFault
from facecap.transforms.rewrite.backend import Answer, Message, Prompt
from facecap.transforms.rewrite.local_model import LocalModel, LocalModelError, Sampler
from facecap.transforms.rewrite.options import RewriteOptions

REASON = "needs the transformers extra"
END, TEXT_END = "<|im_end|>", "<|endoftext|>"
TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SAID = {
    "A man. Glasses.": "The man in this photo wears glasses.",
    "She smiles, she is young, and her hair is black.": "A young woman with black hair is smiling.",
    "Hat.": "The person wears a hat.",
    "Think of a beard. Then say it.": "<think>A beard.</think>\n\nThis man has a beard.",
}
"""What the model has learned by heart: asked, answered. Of many lengths, so that they need
padding."""
CAPTIONS = [text.split("</think>")[-1].strip() for text in SAID.values()]


def prompt(text: str, seed: int = 0) -> Prompt:
    return Prompt((Message("system", "Rewrite."), Message("user", text)), seed)


def options(folder: Path | str, **settings: Any) -> RewriteOptions:
    settings = {"temperature": 0, "max_tokens": 48, "device": "cpu", **settings}
    return RewriteOptions(backend="transformers", model=str(folder), **settings)


def ask(folder: Path, *prompts: Prompt, **settings: Any) -> list[Answer]:
    return LocalModel(options(folder, **settings)).ask(prompts)


def refusal(folder: Path | str, **settings: Any) -> str:
    with pytest.raises(LocalModelError) as raised:
        LocalModel(options(folder, **settings))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    pytest.importorskip("transformers", reason=REASON)
    torch = pytest.importorskip("torch", reason=REASON)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of so small a model threads only wait for each other
    yield torch
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Qwen2 of two layers that knows SAID by heart."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("trained")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    learn(torch, model, tokenizer)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.convert_tokens_to_ids([END, TEXT_END])
    )
    model.save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """Bytes, and pairs of them that are frequent in SAID."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", END, TEXT_END]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=sorted(alphabet), special_tokens=special
    )
    tokenizer.train_from_iterator([*SAID, *SAID.values()], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=TEXT_END)
    wrapped.chat_template = TEMPLATE
    return wrapped


def learn(torch: Any, model: Any, tokenizer: Any) -> None:
    """Until the loss is small; only answers count. Rows are padded on the right, behind what
    counts."""
    rows, targets = [], []
    for asked, answered in SAID.items():
        turns = [{"role": turn.role, "content": turn.content} for turn in prompt(asked).messages]
        start = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        answer = tokenizer(answered + END)["input_ids"]
        rows.append(torch.tensor(start + answer))
        targets.append(torch.tensor([-100] * len(start) + answer))
    pad = torch.nn.utils.rnn.pad_sequence
    tokens, target = pad(rows, True, 0), pad(targets, True, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(400):
        loss = model(input_ids=tokens, labels=target).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            return
    raise AssertionError(f"not learned: loss {loss.item():.3f}")


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained model's folder, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_likeliest_words_in_order(trained: Path, batch_size: int) -> None:
    answers = ask(trained, *map(prompt, SAID), batch_size=batch_size)
    assert [answer.text for answer in answers] == CAPTIONS
    assert all(answer.fault is None for answer in answers)


def test_tokens_are_counted_to_the_end_of_the_text(trained: Path) -> None:
    tokenizer = make_tokenizer()
    for asked, answer in zip(SAID, ask(trained, *map(prompt, SAID)), strict=True):
        text = f"<|im_start|>system\nRewrite.{END}\n<|im_start|>user\n{asked}{END}\n"
        whole = tokenizer(f"{text}<|im_start|>assistant\n")["input_ids"]
        assert answer.prompt_tokens == len(whole)
        assert answer.completion_tokens == len(tokenizer(SAID[asked] + END)["input_ids"])


def test_nothing_asked(trained: Path) -> None:
    assert ask(trained) == []


def test_a_text_does_not_depend_on_its_company(trained: Path) -> None:
    """So hot a model leaves what it has learned: each seed writes something else."""
    prompts = [prompt(text, seed) for seed in range(4) for text in SAID]
    settings = {"temperature": 1.4, "top_p": 0.95, "max_tokens": 64}
    alone = ask(trained, *prompts, batch_size=1, **settings)
    texts = [answer.text for answer in alone if answer.text is not None]
    assert len(texts) > len(prompts) / 2
    assert len(set(texts)) > len(SAID)
    for batch_size in (3, 8):
        assert ask(trained, *prompts, batch_size=batch_size, **settings) == alone
    order = np.random.default_rng(0).permutation(len(prompts))
    mixed = ask(trained, *(prompts[k] for k in order), batch_size=5, **settings)
    assert mixed == [alone[k] for k in order]


def test_the_sampling_is_that_of_transformers(torch: Any) -> None:
    """20,000 rows of equal scores, each with its own seed, against transformers' own temperature
    and top-p."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    scores = torch.from_numpy(np.random.default_rng(0).normal(0, 2, 12).astype(np.float32))[None]
    for temperature, top_p in [(0.7, 0.9), (1.5, 1.0), (1.0, 0.3)]:
        chances = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, scores))
        expected = torch.softmax(chances, -1)[0].numpy()
        sampling = RewriteOptions(temperature=temperature, top_p=top_p)
        n = 20_000
        sampler = Sampler(range(n), sampling, torch.device("cpu"))
        drawn = sampler(None, scores.repeat(n, 1)).argmax(-1).numpy()
        share = np.bincount(drawn, minlength=12) / n
        assert share[expected == 0].sum() == 0
        assert np.all(np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / n))


def test_an_answer_longer_than_max_tokens_is_truncated(trained: Path) -> None:
    short, long = ask(trained, prompt("Hat."), prompt("A man. Glasses."), max_tokens=16)
    assert short.text == SAID["Hat."]
    assert long.text is None
    assert long.fault is not None
    assert long.fault.kind is RewriteFault.TRUNCATED
    assert long.completion_tokens == 16


def test_no_text_is_a_fault(folder: Path) -> None:
    """A template that ends the answer where it should begin: the model has learned what follows."""
    template = TEMPLATE.replace("assistant\n{% endif", "assistant\nA man.<|im_end|>{% endif")
    (folder / "chat_template.jinja").write_text(template)
    edit(folder / "generation_config.json", eos_token_id=list(range(300)))  # whatever comes
    (answer,) = ask(folder, prompt("Hat."))
    assert answer.fault is not None
    assert answer.fault.kind is RewriteFault.MALFORMED
    assert (answer.text, answer.completion_tokens) == (None, 1)


def test_both_ends_are_ends(folder: Path) -> None:
    """A model whose file names another end than the one that its tokenizer was made with."""
    edit(folder / "generation_config.json", eos_token_id=2)
    assert [answer.text for answer in ask(folder, *map(prompt, SAID))] == CAPTIONS
    (folder / "generation_config.json").unlink()
    assert [answer.text for answer in ask(folder, *map(prompt, SAID))] == CAPTIONS


def test_the_sampling_of_the_model_s_file_is_not_used(folder: Path) -> None:
    edit(
        folder / "generation_config.json",
        do_sample=True,
        temperature=5.0,
        repetition_penalty=3.0,
        min_new_tokens=40,
        num_beams=2,
        max_length=20,
    )
    assert [answer.text for answer in ask(folder, *map(prompt, SAID))] == CAPTIONS


def test_a_tokenizer_without_a_padding_token(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"})
    )
    assert [answer.text for answer in ask(folder, *map(prompt, SAID))] == CAPTIONS


def test_templates_are_told_that_thoughts_are_not_wanted(folder: Path) -> None:
    guard = "{% if enable_thinking is not false %}{{ raise_exception('it thinks') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(guard + TEMPLATE)
    (answer,) = ask(folder, prompt("Hat."))
    assert answer.text == SAID["Hat."]


def test_a_template_that_refuses(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system turn') }}")
    with pytest.raises(LocalModelError, match=r"rewrite.model.*template refuses.*no system turn"):
        ask(folder, prompt("Hat."))


def test_a_prompt_longer_than_the_context(trained: Path) -> None:
    long, short = ask(trained, prompt("A man. " * 100), prompt("Hat."))
    assert long.fault is not None
    assert long.fault.kind is RewriteFault.REFUSED
    assert "the model takes 256" in long.fault.detail
    assert long.prompt_tokens > 256
    assert short.text == SAID["Hat."]


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_dtype(folder: Path, torch: Any, dtype: str) -> None:
    """`auto` is what the weights were saved in."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    model = LocalModel(options(folder, dtype=dtype))
    assert model.dtype == ("bfloat16" if dtype == "auto" else dtype)
    assert model.ask([prompt("Hat.")])[0].text == SAID["Hat."]


def test_numbers_that_overflow(folder: Path, torch: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(1e6)
    model.save_pretrained(folder)
    assert ask(folder, prompt("Hat."), dtype="float32")
    with pytest.raises(LocalModelError, match=r"^rewrite.dtype: .* overflows in float16"):
        ask(folder, prompt("Hat."), dtype="float16")


def test_memory_that_does_not_suffice(
    trained: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands for a GPU's memory: a limit on the rows of a step, with torch's own error."""
    from transformers import Qwen2ForCausalLM

    limit, sizes = 2, []
    forward = Qwen2ForCausalLM.forward

    def limited(self: Any, input_ids: Any, **more: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids, **more)

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", limited)
    model = LocalModel(options(trained, batch_size=8))
    prompts = [prompt(text) for text in (*SAID, *SAID)]
    assert [answer.text for answer in model.ask(prompts)] == [*CAPTIONS, *CAPTIONS]
    assert model.batch_size == 2
    assert sizes[:3] == [8, 4, 2]
    limit = 0
    with pytest.raises(LocalModelError, match=r"^rewrite.device: cpu has not enough memory"):
        model.ask(prompts)


def test_pickled_weights_are_refused(folder: Path, torch: Any) -> None:
    from safetensors.torch import load_file

    canary = folder / "canary"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (canary,)

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "rewrite.model" in refusal(folder)  # be it harmless
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    assert "rewrite.model" in refusal(folder)
    assert not canary.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert canary.exists()  # the trap was one


def set_trap(folder: Path) -> Path:
    """Code in a model's folder at all the places where transformers may look for some."""
    canary = folder / "canary"
    code = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"
    (folder / "custom_generate").mkdir()
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).write_text(code)
    evil = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit(folder / "config.json", auto_map=evil)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Slow", "evil.Fast"]})
    return canary


def test_code_in_a_known_model_s_folder_is_not_run(folder: Path) -> None:
    canary = set_trap(folder)
    (answer,) = ask(folder, prompt("Hat."))
    assert answer.text == SAID["Hat."]
    assert not canary.exists()


def test_a_model_that_needs_its_own_code_is_refused(folder: Path) -> None:
    canary = set_trap(folder)
    edit(folder / "config.json", model_type="evil", architectures=["Evil"])
    assert "rewrite.model" in refusal(folder)
    assert not canary.exists()
    exec((folder / "evil.py").read_text())
    assert canary.exists()  # the trap was one


def test_an_attention_kernel_of_the_file_is_not_fetched(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation="somebody/kernel")
    (answer,) = ask(folder, prompt("Hat."))
    assert answer.text == SAID["Hat."]


def test_no_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert refusal(folder).startswith(f"rewrite.model: {folder} has no chat template")


def test_weights_that_lack_a_tensor(folder: Path, torch: Any) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    assert "lacks 1 of its tensors, model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(folder)
    assert refusal(folder).endswith("they are not of one model")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_damaged_files(folder: Path, name: str) -> None:
    path = folder / name
    for data in (path.read_bytes()[: path.stat().st_size // 2], b"", b"[]"):
        path.write_bytes(data)
        assert refusal(folder).startswith(f"rewrite.model: {folder}: its ")


def test_no_such_folder(torch: Any, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"rewrite.model: there is no folder {tmp_path / 'none'}"
    assert refusal("./none") == "rewrite.model: there is no folder ./none"


def test_no_such_device(trained: Path) -> None:
    assert refusal(trained, device="cuda:99").startswith("rewrite.device: cuda:99 is not there")


def test_a_name_without_a_network(torch: Any, tmp_path: Path) -> None:
    code = (
        "from facecap.transforms.rewrite.local_model import LocalModel\n"
        "from facecap.transforms.rewrite.options import RewriteOptions\n"
        "LocalModel(RewriteOptions(backend='transformers', device='cpu'))"
    )
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=120
    )
    last = run.stderr.strip().splitlines()[-1]
    assert "LocalModelError: rewrite.model: Qwen/Qwen2.5-7B-Instruct" in last
    assert "set it to a folder" in last


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'facecap[transformers]'" in refusal("none")
