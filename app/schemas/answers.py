"""Questions and answers on the wire: ours, and OpenAI's."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from app.prompts import Message
from app.schemas.checkpoints import Version
from app.schemas.common import Input, Output, Said, clean_text, unify_newlines
from app.services.answers import MAX_QUESTION

MAX_TOKENS = Field(None, ge=1, description="Longest answer; the setting `max_tokens` is the limit")


def _check_size(text: str) -> str:
    if len(text.encode()) > MAX_QUESTION:
        raise ValueError(f"is larger than {MAX_QUESTION} bytes of UTF-8")
    return text


Text = Annotated[str, BeforeValidator(unify_newlines), AfterValidator(clean_text)]
Question = Annotated[Text, AfterValidator(_check_size)]


class QuestionIn(Input):
    """A question for the current version, or for a pinned one."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"question": "Who keeps the lighthouse of Brannoc Head?"}]}
    )

    question: Question
    version: Version | None = Field(None, description="Pins a version; left out: the current one")
    overlay: bool | None = Field(
        None, description="Give waiting facts in context; left out: yes, unless a version is pinned"
    )
    max_tokens: int | None = MAX_TOKENS


class SupportOut(Output):
    """A fact that the answer rests on."""

    id: str
    text: str
    status: Literal["pending", "training", "lapsed", "failed", "held", "learned", "superseded"]
    version: int | None = Field(description="The version that learned it; empty: given in context")


class AnswerOut(Output):
    """An answer and where it comes from."""

    id: str
    object: Literal["answer"] = "answer"
    answer: str
    version: int
    checkpoint: str = Field(description="The version's digest")
    source: Literal["weights", "overlay"] = Field(
        description="overlay: the facts listed were given in context; weights: they are learned"
    )
    facts: list[SupportOut]
    latency_ms: int


class TextPart(Input):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class ChatMessage(Input):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Said | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = Field(None, description="Accepted, without effect")
    # What an answer of ours brings along when it is sent back as a turn.
    refusal: None = None

    @model_validator(mode="after")
    def _check_user(self) -> Self:
        if self.role == "user" and not self.content:
            raise ValueError("a user's message has nothing to read in it")
        return self

    def message(self) -> Message:
        """Turn into what the engine takes."""
        parts = self.content
        text = parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Input):
    """How to stream."""

    include_usage: bool = False


class ChatIn(Input):
    """OpenAI's request, as far as it is kept; any other field is refused by name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "current", "messages": [{"role": "user", "content": "Who are you?"}]}
            ]
        }
    )

    model: str = Field(max_length=40, description="`current`, or a version such as `v7`")
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = MAX_TOKENS
    max_completion_tokens: int | None = MAX_TOKENS
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy, and the default")
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    top_p: float | None = Field(None, ge=1, le=1)
    user: str | None = Field(None, description="Accepted, without effect")


class ChoiceMessage(Output):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Output):
    """The only one."""

    index: Literal[0] = 0
    message: ChoiceMessage
    finish_reason: str
    logprobs: None = None


class UsageOut(Output):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatOut(Output):
    """OpenAI's answer; `model` is the version that answered."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str = Field(examples=["v7"])
    system_fingerprint: str = Field(description="The digest's first digits")
    choices: list[Choice]
    usage: UsageOut


class ModelOut(Output):
    """A name that `model` can have."""

    id: str = Field(examples=["current", "v7"])
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["almanac"] = "almanac"
    root: str = Field(description="The checkpoint's digest")
