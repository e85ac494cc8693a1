"""Turns text into token ids and back, and a conversation into the text that a checkpoint expects.

Uses the `tokenizers` package alone, and the files that every Hugging Face and MLX checkpoint folder holds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_chandra.errors import CheckpointError
from mlx_chandra.files.json_file import JsonFile

if TYPE_CHECKING:
    import jinja2
    import tokenizers

Message = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A checkpoint's tokenizer and chat template. Safe to use from several threads at a time."""

    _inner: "tokenizers.Tokenizer"
    _template: "jinja2.Template"
    _special_tokens: dict[str, str]  # the names that templates may use, such as bos_token and eos_token
    _folder: Path

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json, tokenizer_config.json and the chat template. Raises CheckpointError."""
        config = JsonFile.read(folder / "tokenizer_config.json")
        inner = _read_tokenizer(folder / "tokenizer.json")
        template = _compile_template(_template_source(folder, config))
        return cls(inner, template, _special_tokens(config), folder)

    @property
    def eos_token(self) -> str | None:
        """Return the token that tokenizer_config.json says ends a text, if it says so."""
        return self._special_tokens.get("eos_token")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; special tokens written out in it become their own ids, none are added."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return the text of ids; special tokens are left out unless asked for."""
        text: str = self._inner.decode(ids, skip_special_tokens=skip_special)
        return text

    def find_token(self, token: str) -> int | None:
        """Return the id of one token, or None when the vocabulary doesn't hold it."""
        found: int | None = self._inner.token_to_id(token)
        return found

    def token_id(self, token: str) -> int:
        """Return the id of one token. Raises CheckpointError when the vocabulary doesn't hold it."""
        found = self.find_token(token)
        if found is None:
            raise CheckpointError(f"{self._folder / 'tokenizer.json'}: has no token {token!r}.")
        return found

    def apply_chat_template(self, messages: Sequence[Message]) -> str:
        """Return the conversation as one text that ends where the model is to answer.

        Raises CheckpointError where the template fails on these messages.
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
    values = config.values.items()
    contents = {key: value.get("content") if isinstance(value, dict) else value for key, value in values}
    return {key: c for key, c in contents.items() if key.endswith("_token") and isinstance(c, str)}


def _template_source(folder: Path, config: JsonFile) -> str:
    """Return the chat template from wherever this folder keeps it; the newest way of keeping it wins."""
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
    """Compile a template in a sandbox, with the extras that transformers gives templates."""
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
