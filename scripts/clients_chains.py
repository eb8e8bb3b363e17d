"""Sessions of LangChain (an agent with tools, retrieval) and of litellm; a part of scripts/clients.py."""
import json
import os
import typing

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched

import litellm
import pydantic
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from clients_common import KEY, MODEL, URL, check, knows_tools

litellm.telemetry = False
litellm.suppress_debug_info = True
SAY = [{"role": "user", "content": "Name three colours."}]
SETTINGS = {"model": MODEL, "base_url": URL + "/v1", "api_key": KEY, "max_retries": 0, "seed": 5}


def model(**more):
    return ChatOpenAI(**{**SETTINGS, "max_tokens": 64, "temperature": 0, **more})


Digit = typing.Annotated[int, pydantic.Field(ge=0, le=9)]


class Colour(pydantic.BaseModel, extra="forbid"):
    name: str = pydantic.Field(pattern="^(red|green|blue)$")


@check
def langchain_invoke_stream_and_batch():
    whole = model().invoke("Name three colours.")
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    parts = list(model().stream("Name three colours."))
    assert "".join(part.content for part in parts) == whole.content and len(parts) > 3
    assert [one.content for one in model().batch(["Name three colours."] * 3)] == [whole.content] * 3


@check
def langchain_structured_output():
    for method in ("json_schema", "function_calling"):
        if method == "function_calling" and not knows_tools():
            continue
        found = model(temperature=3.0).with_structured_output(Colour, method=method).invoke("Which colour?")
        assert found.name in ("red", "green", "blue")


@check
def langchain_agent_with_tools():
    """The agent's loop: a forced call, the tool's result, and words. What a small model calls is held to the schema."""
    if not knows_tools():
        return
    called = []

    @tool
    def add(a: Digit, b: Digit) -> int:
        """Adds two whole numbers."""
        called.append((a, b))
        return a + b

    class Scripted(ChatOpenAI):
        """Forces the tool until it was called, and forbids it then: so any model walks the same path."""

        def bind_tools(self, tools, **more):
            bind = super().bind_tools
            forced, free = (bind(tools, **{**more, "strict": True, "tool_choice": choice}) for choice in ("add", "none"))
            return RunnableLambda(lambda said: (free if any(m.type == "tool" for m in said) else forced).invoke(said))

    agent = create_agent(Scripted(**SETTINGS, max_tokens=200, temperature=0.5, model_kwargs={"parallel_tool_calls": False}),
                         tools=[add], system_prompt="Use the tool.")
    said = agent.invoke({"messages": [{"role": "user", "content": "What is 2 + 3?"}]})["messages"]
    assert [message.type for message in said] == ["human", "ai", "tool", "ai"], said
    assert len(called) == 1, said
    (a, b), = called
    assert said[1].tool_calls[0]["args"] == {"a": a, "b": b} and said[2].content == str(a + b)
    assert said[2].tool_call_id == said[1].tool_calls[0]["id"] and not said[3].tool_calls


@check
def langchain_retrieval():
    """Embeddings, a store of vectors, and an answer with what was found in its prompt."""
    embeddings = OpenAIEmbeddings(model=MODEL, base_url=URL + "/v1", api_key=KEY, check_embedding_ctx_length=False)
    texts = ["A cat sleeps on the mat.", "Shares fell on Wall Street today.", "Rust is a language for programs."]
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(text) for text in texts])
    for text in texts:
        assert [one.page_content for one in store.similarity_search(text, k=1)] == [text]
    prompt = ChatPromptTemplate.from_template("Context: {context}\n\nQuestion: {question}")
    context = store.as_retriever(search_kwargs={"k": 1}) | (lambda docs: docs[0].page_content)
    chain = {"context": context, "question": RunnablePassthrough()} | prompt | model() | StrOutputParser()
    question = "Where does the cat sleep?"
    found = store.similarity_search(question, k=1)[0].page_content
    plain = model().invoke(f"Context: {found}\n\nQuestion: {question}")
    assert chain.invoke(question) == plain.content


def complete(provider, **more):
    base = {"openai": URL + "/v1", "text-completion-openai": URL + "/v1"}.get(provider, URL)
    ask = {"model": f"{provider}/{MODEL}", "api_base": base, "api_key": KEY, "max_tokens": 24, "temperature": 0}
    return litellm.completion(**{**ask, "messages": SAY, **more})


PROVIDERS = ("openai", "anthropic", "ollama_chat")


@check
def litellm_completion_is_the_same_by_every_provider():
    texts = [complete(provider).choices[0].message.content for provider in PROVIDERS]
    assert texts[0] and texts == [texts[0]] * len(texts), texts
    assert complete("ollama").choices[0].message.content  # its prompt is made by litellm
    assert complete("openai").usage.completion_tokens > 0


@check
def litellm_stream():
    for provider in PROVIDERS:
        whole = complete(provider).choices[0].message.content
        parts = [chunk.choices[0].delta.content or "" for chunk in complete(provider, stream=True)]
        assert "".join(parts) == whole and len(parts) > 3, (provider, parts)


@check
def litellm_tools():
    if not knows_tools():
        return
    tools = [{"type": "function", "function": {"name": "paint", "description": "paints", "parameters": {
        "type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"],
        "additionalProperties": False}}}]
    for provider in ("openai", "anthropic"):
        answer = complete(provider, tools=tools, tool_choice="required", max_tokens=200, parallel_tool_calls=False)
        call = answer.choices[0].message.tool_calls[0]
        assert call.function.name == "paint" and json.loads(call.function.arguments)["colour"] in ("red", "blue")
        assert answer.choices[0].finish_reason == "tool_calls"
        said = SAY + [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
        assert complete(provider, messages=said, tools=tools).usage.completion_tokens > 0


@check
def litellm_forms():
    for provider in ("openai", "ollama_chat"):
        said = complete(provider, response_format=Colour, max_tokens=64).choices[0].message.content
        assert Colour.model_validate_json(said)


@check
def litellm_embeddings():
    ask = {"input": ["A cat sleeps.", "Shares fell."], "api_key": KEY}
    found = [litellm.embedding(model=f"{provider}/{MODEL}", api_base=base, **ask).data
             for provider, base in (("openai", URL + "/v1"), ("ollama", URL))]
    for own, other in zip(*found):
        assert max(abs(a - b) for a, b in zip(own["embedding"], other["embedding"])) < 1e-6


@check
def litellm_errors_are_of_their_kind():
    try:
        complete("openai", top_p=3)
    except litellm.BadRequestError as error:
        assert "top_p is 3" in str(error)
    else:
        raise AssertionError("top_p 3 was taken")
