"""A language model of Hugging Face transformers in this process, asked in batches.

torch and transformers are of the extra [transformers], and are imported only when a model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facecap.schemas.captions import Fault, RewriteFault
from facecap.transforms.models import ModelError
from facecap.transforms.rewrite.backend import Answer, Prompt
from facecap.transforms.rewrite.chat_completion import Completion, read_answer
from facecap.transforms.rewrite.options import RewriteOptions

if TYPE_CHECKING:
    import torch


class LocalModelError(ModelError):
    """A model that cannot be loaded or run; one line that names the setting."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A prompt as tokens; `place` is where its answer goes."""

    place: int
    tokens: list[int]
    seed: int


class LocalModel:
    """A causal language model with a chat template, and its tokenizer, on one device.

    Nothing of the model's repository is run: weights are safetensors, never pickles, and code in
    it is not imported. Of its generation_config.json only the tokens that end an answer are used:
    the sampling is by the options alone.
    """

    def __init__(self, options: RewriteOptions) -> None:
        """Raises LocalModelError naming the setting to change, or the extra to install."""
        require_packages()
        self._options = options
        self.device = _device(options.device)
        self._tokenizer = _load_tokenizer(options)
        self._model = _load_model(options, self.device)
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self._ends = _ends(self._model, self._tokenizer)
        self._set_generation()
        self.batch_size = options.batch_size
        """Prompts generated at a time; halved whenever the device's memory does not suffice."""

    def ask(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """One answer per prompt, in their order.

        A prompt's answer depends on its messages and seed, not on the other prompts, but for the
        rounding of sums (padding and batch size change their order): exact in float32 as far as
        tested, in 16 bits a text may differ in places. Another kind of device, or another version
        of torch, samples otherwise. Raises LocalModelError when one prompt alone does not fit into
        the device's memory, when the numbers overflow, and when the chat template refuses.
        """
        answers: dict[int, Answer] = {}
        rows = []
        for place, prompt in enumerate(prompts):
            row = _Row(place, self._tokens(prompt), prompt.seed)
            fault = self._too_long(row)
            if fault is None:
                rows.append(row)
            else:
                answers[place] = Answer(None, fault, prompt_tokens=len(row.tokens))
        # Equal lengths side by side need little padding; the longest first, to run out of memory,
        # if at all, at once.
        rows.sort(key=lambda row: (-len(row.tokens), row.place))
        while rows:
            batch = rows[: self.batch_size]
            texts = self._generate(batch)
            if texts is None:
                self._halve(len(batch))
                continue
            rows = rows[len(batch) :]
            for row, text in zip(batch, texts, strict=True):
                answers[row.place] = self._answer(row, text)
        return [answers[place] for place in range(len(prompts))]

    def _set_generation(self) -> None:
        """Replace the model's own settings, which `generate` would mix with ours."""
        from transformers import GenerationConfig

        pad = self._tokenizer.pad_token_id
        self._pad = self._ends[0] if pad is None else pad  # masked: any token will do
        self._model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self._options.max_tokens,
            eos_token_id=self._ends,
            pad_token_id=self._pad,
        )

    def _tokens(self, prompt: Prompt) -> list[int]:
        from jinja2 import TemplateError

        turns = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
        try:
            encoded = self._tokenizer.apply_chat_template(
                turns,
                add_generation_prompt=True,
                return_dict=True,
                # Of Qwen3's template and others: thoughts cost more tokens than the caption.
                enable_thinking=False,
            )
        except TemplateError as error:
            raise LocalModelError(
                f"rewrite.model: {self._options.model}'s chat template refuses the prompt: "
                f"{_line(error)}"
            ) from None
        return list(encoded["input_ids"])

    def _too_long(self, row: _Row) -> Fault | None:
        """Beyond its context a model indexes past its tables: on CUDA that ends the process."""
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        needed = len(row.tokens) + self._options.max_tokens
        if not isinstance(context, int) or needed <= context:
            return None
        return Fault(
            RewriteFault.REFUSED,
            f"the prompt and rewrite.max_tokens are {needed} tokens, the model takes {context}",
        )

    def _generate(self, rows: list[_Row]) -> list[list[int]] | None:
        """What the model continues each row with; None when the device's memory did not suffice."""
        import torch
        from transformers import LogitsProcessorList

        width = max(len(row.tokens) for row in rows)
        # Padded on the left: a text is continued at its right end.
        padding = [width - len(row.tokens) for row in rows]
        tokens = [[self._pad] * n + row.tokens for n, row in zip(padding, rows, strict=True)]
        mask = [[0] * n + [1] * (width - n) for n in padding]
        sampler = Sampler([row.seed for row in rows], self._options, self.device)
        try:
            with torch.inference_mode():
                texts = self._model.generate(
                    input_ids=torch.tensor(tokens, device=self.device),
                    attention_mask=torch.tensor(mask, device=self.device),
                    logits_processor=LogitsProcessorList([sampler]),
                )
                broken = bool(sampler.broken)
                new = texts[:, width:].tolist()
        except torch.OutOfMemoryError:
            return None  # only outside of this block are the tensors of the failed call let go
        if broken:
            raise LocalModelError(
                f"rewrite.dtype: {self._options.model} overflows in {self.dtype}: "
                "set bfloat16 or float32"
            )
        return new

    def _halve(self, size: int) -> None:
        import torch

        if size == 1:
            raise LocalModelError(
                f"rewrite.device: {self.device} has not enough memory for one caption at a time: "
                "set a smaller rewrite.model or rewrite.max_tokens"
            )
        self.batch_size = size // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _answer(self, row: _Row, text: list[int]) -> Answer:
        """`text` is all that the row was continued with: behind its end stands padding."""
        end = next((k for k, token in enumerate(text) if token in self._ends), None)
        content = self._tokenizer.decode(text[:end], skip_special_tokens=True)
        return read_answer(
            Completion(
                content=content,
                finish_reason="length" if end is None else "stop",
                refused=False,
                prompt_tokens=len(row.tokens),
                completion_tokens=len(text) if end is None else end + 1,
            ),
            must_be_json=False,
        )


class Sampler:
    """Makes the largest score of a row a draw by temperature and top-p, from the row's own seed.

    By an exponential race, which is the Gumbel-max trick (Maddison et al., arXiv 1411.0030)
    without its logarithms: the token of largest p / e, e exponential, is token k with probability
    p[k]. One generator per row, so that no row's noise depends on the others. Top-p as in Holtzman
    et al., arXiv 1904.09751; tokens as likely as the last one kept are kept too.
    """

    def __init__(self, seeds: Sequence[int], options: RewriteOptions, device: torch.device) -> None:
        import torch

        self._temperature, self._top_p = options.temperature, options.top_p
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.broken = torch.zeros((), dtype=torch.bool, device=device)
        """Whether any score was not a number; a tensor, so that no step waits for the device."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores float32 [rows, tokens] to such scores."""
        import torch

        self.broken |= scores.isnan().any()
        if self._temperature == 0:
            return scores
        chances = torch.softmax(scores / self._temperature, -1)
        if self._top_p < 1:
            ranked = chances.sort(-1, descending=True).values
            beyond = ranked.cumsum(-1) - ranked >= self._top_p
            least = ranked.masked_fill(beyond, 1.0).amin(-1, keepdim=True)
            chances = chances.masked_fill(chances < least, 0.0)
        noise = torch.empty_like(chances)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return chances / noise.clamp_min_(torch.finfo(noise.dtype).tiny)


def require_packages() -> None:
    """Raises LocalModelError where torch or transformers is missing."""
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise LocalModelError(
            f"rewrite.backend: transformers needs packages that are not installed ({_line(error)}):"
            " pip install 'facecap[transformers]'"
        ) from None
    # Of the whole process, set once: what is wrong is our one-line error.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _device(name: str) -> torch.device:
    """`auto` is cuda where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LocalModelError(
            f"rewrite.device: {name} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices; set it to cpu or auto"
        )
    return device


def _source(options: RewriteOptions) -> dict[str, Any]:
    """Arguments common to all `from_pretrained`: where from, and that nothing there is run."""
    folder = Path(options.model)
    is_path = folder.is_absolute() or options.model.startswith((".", "~"))
    if is_path and not folder.is_dir():
        raise LocalModelError(f"rewrite.model: there is no folder {options.model}")
    return {
        "pretrained_model_name_or_path": options.model,
        "revision": options.revision or "main",
        "trust_remote_code": False,
    }


def _load_tokenizer(options: RewriteOptions) -> Any:
    from transformers import AutoTokenizer

    source = _source(options)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exceptions
        raise _cannot_load(options, "tokenizer", error) from None
    if not tokenizer.chat_template:
        raise LocalModelError(
            f"rewrite.model: {options.model} has no chat template: choose a model made to follow "
            "instructions (its name often ends in Instruct or Chat)"
        )
    return tokenizer


def _load_model(options: RewriteOptions, device: torch.device) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source = _source(options)
    dtype = "auto" if options.dtype == "auto" else getattr(torch, options.dtype)
    try:
        config = AutoConfig.from_pretrained(**source)
        # The file may name an attention kernel, which is code to be fetched.
        config._attn_implementation = None
        model, found = AutoModelForCausalLM.from_pretrained(
            **source, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # noqa: BLE001 - damaged files raise whatever comes of them
        raise _cannot_load(options, "model", error) from None
    # transformers puts random numbers in their place and goes on.
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise LocalModelError(
            f"rewrite.model: {options.model} lacks {len(lacking)} of its tensors, {lacking[0]} "
            "for one"
        )
    try:
        return model.to(device).eval()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        raise LocalModelError(
            f"rewrite.device: {options.model} cannot be put on {device}: {_line(error)}"
        ) from None


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those that the model names, and its tokenizer's."""
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    found = dict.fromkeys(end for end in (*ends, tokenizer.eos_token_id) if end is not None)
    if not found:
        raise LocalModelError("rewrite.model: neither the model nor its tokenizer names an end")
    size = model.get_input_embeddings().weight.shape[0]
    if max(*found, len(tokenizer) - 1) >= size:
        raise LocalModelError(
            f"rewrite.model: its tokenizer knows {len(tokenizer)} tokens, the model {size}: "
            "they are not of one model"
        )
    return list(found)


def _cannot_load(options: RewriteOptions, part: str, error: Exception) -> LocalModelError:
    remedy = ""
    if not Path(options.model).is_dir():
        remedy = "; without a network, set it to a folder that holds the model"
    return LocalModelError(
        f"rewrite.model: {options.model}: its {part} cannot be loaded: {_line(error)}{remedy}"
    )


def _line(error: Exception) -> str:
    """An error of a library as one short line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
