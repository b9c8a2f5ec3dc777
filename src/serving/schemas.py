"""The bodies of requests: the OpenAI API's keys, those that vLLM and llama.cpp added, and KnowLM's.

The limits here are those of the meaning; how much a server allows (`Settings`) is checked in `src.serving.asking`.
Keys that are not named are let through: `strict` refuses them there. Lists are read up to their first mistake, because
an error for each entry of a long list would take seconds and a gigabyte.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
T = TypeVar("T")
Items = Annotated[list[T], Field(fail_fast=True)]
MAX_BIASES = 1024
MAX_EXAMPLES = 32  # of extraction, in each of its prompts
MAX_PERMUTATIONS = 16


def _few_biases(given: Any) -> Any:
    """Before the entries are read, since a dictionary is read to its end."""
    if isinstance(given, dict) and len(given) > MAX_BIASES:
        raise ValueError(f"has {len(given)} entries: give at most {MAX_BIASES}")
    return given


class Body(BaseModel):
    """Types are taken as they are: the text "1" is no number."""

    model_config = ConfigDict(extra="allow", strict=True)


class Sampling(Body):
    """How the next tokens are chosen."""

    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = Field(None, description="0: the likeliest token")
    top_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(None, description="-1 or 0: all tokens")
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    num_beams: Annotated[int, Field(ge=1, le=16)] | None = Field(None, description="above 1: beam search")
    repetition_penalty: Annotated[Finite, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[
        dict[str, Annotated[Finite, Field(ge=-100, le=100)]] | None,
        BeforeValidator(_few_biases),
    ] = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | Items[str] | None = None
    ignore_eos: bool | None = None


class StreamOptions(Body):
    """What else a stream tells."""

    include_usage: bool | None = None


class JsonSchema(Body):
    """A JSON schema with a name."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class TextPart(Body):
    """A part of a message; pictures and sound are not taken."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Items[TextPart] | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """All of its parts as one."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class Asking(Sampling):
    """What both routes of the OpenAI API share."""

    model: str | None = Field(None, description="the first of /v1/models where it is not given")
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None


class ChatRequest(Asking):
    """POST /v1/chat/completions."""

    messages: Annotated[Items[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Any] | None = Field(None, description="not offered yet")
    tool_choice: Any = None
    functions: list[Any] | None = Field(None, description="not offered yet")


class CompletionRequest(Asking):
    """POST /v1/completions."""

    prompt: str | Items[str] | Items[TokenId] | Items[Items[TokenId]]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = Field(None, description="not offered")
    best_of: Annotated[int, Field(ge=1)] | None = None


class KnowLMParameters(Sampling):
    """``parameters`` of KnowLM's server, and further keys of ours."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None


class KnowLMRequest(Body):
    """POST /generate: the template is applied here."""

    instruction: str
    input: str
    parameters: KnowLMParameters
    stream: bool | None = None
    model: str | None = None


class ExtractDocument(Body):
    """A text with a name; the title goes before each part of a long one."""

    text: str
    id: Annotated[str, Field(max_length=1000)] | None = None
    title: Annotated[str, Field(max_length=1000)] | None = None


def _document(given: Any) -> Any:
    """A bare text as a document. Not a union of both: its errors would be those of a text."""
    if not isinstance(given, (str, dict, ExtractDocument)):
        raise ValueError("a document is a text, or an object with its text")
    return {"text": given} if isinstance(given, str) else given


class ExtractExample(Body):
    """A text with its answer, shown in each prompt. ``answer``: the JSON that the model is to write."""

    text: Annotated[str, Field(min_length=1)]
    answer: dict[str, Any]


TextOrDocument = Annotated[ExtractDocument, BeforeValidator(_document, json_schema_input_type=str | ExtractDocument)]


class ExtractRequest(Body):
    """POST /extract: a text, or several documents, and what to find in them."""

    text: str | None = None
    documents: Annotated[Items[TextOrDocument], Field(min_length=1)] | None = None
    task: Literal["ner", "re", "spo", "ee", "eet", "eea", "kg"]
    schema_: str | Items[str] | dict[str, Any] = Field(
        alias="schema",
        description="a name from GET /extract/schemas, a list of types, the content of a schema file, a JSON schema",
        examples=["person_org_place"],
    )
    model: str | None = Field(None, description="the first of /v1/models where it is not given")
    format: Literal["auto", "oneke", "knowlm", "zhixi"] | None = Field(None, description="auto: the model's own")
    constraint: Literal["auto", "free", "json", "extractive"] | None = Field(
        None, description="auto: as much as the engine can do"
    )
    language: Literal["en", "zh"] | None = Field(None, description="of the schema and the prompts")
    scores: bool | None = Field(None, description="give each item the model's probability of it")
    mentions: Literal["first", "all"] | None = Field(None, description="all: an item for each place of an entity")
    examples: Annotated[Items[ExtractExample], Field(max_length=MAX_EXAMPLES)] | None = Field(
        None, description="shown in each prompt (in-context learning)"
    )
    permutations: Annotated[int, Field(ge=1, le=MAX_PERMUTATIONS)] | None = Field(
        None, description="ask so often, each time with the schema in another order"
    )
    vote: Literal["union", "majority"] | None = Field(None, description="which items of all permutations are kept")
    split_num: Annotated[int, Field(ge=-1, le=1000)] | None = Field(None, description="types in one prompt; -1: all")
    max_chunk_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="of the text in one prompt")
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="of each of the model's answers")
    stream: bool | None = Field(None, description="tell how far it is; the last event has the result")


class TokenizeRequest(Body):
    """POST /tokenize: a text, or a conversation with the model's template."""

    prompt: str | None = None
    messages: Annotated[Items[ChatMessage], Field(min_length=1)] | None = None
    model: str | None = None


class DetokenizeRequest(Body):
    """POST /detokenize."""

    tokens: Items[TokenId]
    model: str | None = None
