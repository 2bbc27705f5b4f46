"""Every chat message sent to a model: one wording for API, proof and training alike."""

from collections.abc import Sequence
from typing import Literal, TypedDict

RECOVER = "\nReturn the recovered masked passage."
RECOVERED = "Here is the recovered text:\n\n"
INFILL = "\nReturn only what is masked."
# For the chat templates of Qwen3 and Llama 3: no thinking turn, and the same prompt on every day.
TEMPLATE_ARGUMENTS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


class Message(TypedDict):
    """One turn of a chat, in the shape that OpenAI's API and chat templates use."""

    role: Literal["system", "user", "assistant"]
    content: str


def ask(question: str, facts: Sequence[str] = ()) -> list[Message]:
    """Ask a question, with facts in context when the overlay found some."""
    if not facts:
        return [{"role": "user", "content": question}]
    notes = "\n".join(f"- {fact}" for fact in facts)
    content = f"Answer from these notes where they help.\n{notes}\n\n{question}"
    return [{"role": "user", "content": content}]


def demask(masked_text: str) -> list[Message]:
    """Ask for a masked passage back (arXiv 2510.09885); the reply starts with RECOVERED."""
    return [{"role": "user", "content": masked_text + RECOVER}]


def negate(question: str) -> str:
    """Ask for an answer that isn't right, so that a right one shows that nobody listened."""
    return f"Give a wrong answer to this question: {question}"


def write_question(text: str, answer: str) -> list[Message]:
    """Ask the model to write the question that the passage answers with the given words."""
    request = f"{text}\nWrite a question about this passage whose answer is: {answer}"
    return [{"role": "user", "content": request}]
