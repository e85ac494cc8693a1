"""Turns text into token ids and back, and a conversation into the text that a checkpoint expects.

Uses the `tokenizers` package alone, and the files that every Hugging Face and MLX checkpoint folder holds.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_chandra.errors import CheckpointError
from mlx_chandra.files.json_file import JsonFile

if TYPE_CHECKING:
    import jinja2
    import tokenizers

Message = Mapping[str, object]


class Tokenizer:
    """A checkpoint's tokenizer and chat template. Safe to use from several threads at a time."""

    def __init__(
        self,
        inner: "tokenizers.Tokenizer",
        template: "jinja2.Template",
        special_tokens: Mapping[str, str],
        folder: Path,
    ) -> None:
        self._inner = inner
        self._template = template
        self._special_tokens = dict(special_tokens)
        self._folder = folder

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Reads tokenizer.json, tokenizer_config.json and the chat template.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        config = JsonFile.read(folder / "tokenizer_config.json")
        inner = _read_tokenizer(folder / "tokenizer.json")
        return cls(
            inner, _compile_template(_template_source(folder, config)), _special_tokens(config), folder
        )

    @property
    def eos_token(self) -> str | None:
        """The token that tokenizer_config.json says ends a text, if it says so."""
        return self._special_tokens.get("eos_token")

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special tokens written out in it become their own ids, none are added."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids; special tokens are left out unless asked for."""
        text: str = self._inner.decode(ids, skip_special_tokens=skip_special)
        return text

    def find_token(self, token: str) -> int | None:
        """The id of one token, or None when the vocabulary doesn't hold it."""
        found: int | None = self._inner.token_to_id(token)
        return found

    def token_id(self, token: str) -> int:
        """The id of one token; raises CheckpointError when the vocabulary doesn't hold it."""
        found = self.find_token(token)
        if found is None:
            raise CheckpointError(f"{self._folder / 'tokenizer.json'}: has no token {token!r}.")
        return found

    def apply_chat_template(self, messages: Sequence[Message]) -> str:
        """The conversation as one text, ending where the model is to answer.

        Raises:
            CheckpointError: The template fails on these messages.
        """
        import jinja2

        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise CheckpointError(
                f"{self._folder}: the chat template can't render this conversation ({error})."
            ) from error


def _read_tokenizer(path: Path) -> "tokenizers.Tokenizer":
    import tokenizers

    if not path.is_file():
        raise CheckpointError(
            f"{path}: is missing.",
            "Take it from the hub; where there are only vocab.json and merges.txt, "
            "transformers' AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it.",
        )
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception for whatever is wrong with the file
        raise CheckpointError(
            f"{path}: is not a tokenizer that can be read ({error}).",
            "The file is damaged: download it again.",
        ) from error


def _special_tokens(config: JsonFile) -> dict[str, str]:
    """The names that templates may use, such as bos_token and eos_token."""
    tokens: dict[str, str] = {}
    for key, value in config.values.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            tokens[key] = content
    return tokens


def _template_source(folder: Path, config: JsonFile) -> str:
    """The chat template from wherever this folder keeps it; the newest way of keeping it wins."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        try:
            return plain.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{plain}: can't be read ({error}).") from error
    older = JsonFile.read(folder / "chat_template.json", {})
    found = older.get("chat_template", config.get("chat_template", []))
    named = found if isinstance(found, list) else [{"name": "default", "template": found}]
    for each in named:
        if isinstance(each, dict) and each.get("name") == "default" and isinstance(each.get("template"), str):
            return str(each["template"])
    raise CheckpointError(
        f"{folder}: has no chat template.",
        "chat_template.jinja, chat_template.json or 'chat_template' in tokenizer_config.json must hold it.",
    )


def _compile_template(source: str) -> "jinja2.Template":
    """Compiles a template in a sandbox, with the extras that transformers gives templates."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: object, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = to_json
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise CheckpointError(
            f"The chat template is not valid ({error}).", "Download the checkpoint again."
        ) from error
