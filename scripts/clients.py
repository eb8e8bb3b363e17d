#!/usr/bin/env python3
"""Sessions of real clients with a running server; scripts/clients.sh installs them and runs this.

usage: scripts/clients.py URL KEY
"""
import json
import threading
import typing

import anthropic
import ollama
import openai
import pydantic

from clients_common import KEY, MODEL, URL, check, knows_tools, run

client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
claude = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
llama = ollama.Client(host=URL, headers={"Authorization": f"Bearer {KEY}"})
SAY = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Name three colours."}]
def chat(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": SAY, "max_tokens": 24, "seed": 5, **more})


def streamed(stream):
    text, last, chunks = "", None, 0
    for chunk in stream:
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            last = chunk.choices[0].finish_reason or last
        chunks += 1
    return text, last, chunks


@check
def openai_models():
    assert client.models.retrieve(MODEL).id == MODEL
    assert [model.id for model in client.models.list()] == [MODEL]


@check
def openai_chat():
    answer = chat()
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@check
def openai_chat_is_the_same_streamed():
    whole = chat(temperature=1.0).choices[0]
    text, finish, chunks = streamed(chat(temperature=1.0, stream=True))
    assert (text, finish) == (whole.message.content, whole.finish_reason) and chunks >= 2


@check
def openai_stream_helper_and_usage():
    with client.chat.completions.stream(model=MODEL, messages=SAY, max_tokens=400, seed=5,
                                        stream_options={"include_usage": True}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content and final.usage.completion_tokens > 0


@check
def openai_chat_log_probs():
    choice = chat(logprobs=True, top_logprobs=3, temperature=0).choices[0]
    said = choice.logprobs.content
    assert "".join(token.token for token in said) == choice.message.content
    assert all(token.top_logprobs[0].token == token.token for token in said)
    assert all(len(token.top_logprobs) == 3 for token in said)


@check
def openai_chat_n_seed_stop_bias():
    answers = chat(n=3, temperature=1.0)
    texts = [choice.message.content for choice in answers.choices]
    assert len(set(texts)) > 1
    assert [choice.message.content for choice in chat(n=3, temperature=1.0).choices] == texts
    assert texts[0] == chat(temperature=1.0).choices[0].message.content
    text = chat(temperature=0).choices[0].message.content
    stop = text[5:8]
    cut = chat(temperature=0, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == text[:text.index(stop)]
    first = chat(temperature=0, logprobs=True).choices[0].logprobs.content[0]
    ids = chat(temperature=0, extra_body={"return_token_ids": True}).choices[0].token_ids
    other = chat(temperature=0, logprobs=True, logit_bias={str(ids[0]): -100}).choices[0].logprobs.content[0]
    assert other.token != first.token


@check
def openai_completions_as_lm_eval_asks():
    """Log-likelihoods as lm-eval's local-completions reads them: echo, one token, top of one."""
    text = "The capital of France is Paris."
    one = client.completions.create(model=MODEL, prompt=text, max_tokens=1, temperature=0, logprobs=1, echo=True)
    said = one.choices[0].logprobs
    assert said.token_logprobs[0] is None and all(p <= 0 for p in said.token_logprobs[1:])
    assert one.choices[0].text.startswith(text)
    assert all(max(top, key=top.get) is not None for top in said.top_logprobs[1:])
    many = client.completions.create(model=MODEL, prompt=[text, "Once"], max_tokens=1, temperature=0, logprobs=1, echo=True)
    assert many.choices[0].logprobs == said and len(many.choices) == 2


@check
def openai_completions_stream():
    ask = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 16, "seed": 1, "temperature": 0.8}
    whole = client.completions.create(**ask).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True)) == whole


@check
def openai_errors_name_the_field():
    for body, field in [({"temprature": 1}, "temprature"), ({"top_p": 3}, "top_p")]:
        try:
            chat(extra_body=body)
        except openai.BadRequestError as error:
            assert error.param == field, error
        else:
            raise AssertionError(f"{body} was taken")
    try:
        client.chat.completions.create(model="no such model", messages=SAY)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("another model was taken")


@check
def openai_warnings():
    assert "user" in chat(user="me").warnings[0]


@check
def openai_many_at_once_get_what_one_alone_gets():
    alone = [chat(seed=i, temperature=1.0).choices[0].message.content for i in range(8)]
    heard = {}

    def ask(i):
        heard[i] = chat(seed=i % 8, temperature=1.0, stream=i % 2 == 0)
        heard[i] = streamed(heard[i])[0] if i % 2 == 0 else heard[i].choices[0].message.content

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(32)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [heard[i] for i in range(32)] == [alone[i % 8] for i in range(32)]


def message(**more):
    fields = {"model": MODEL, "system": SAY[0]["content"], "messages": SAY[1:], "max_tokens": 24, "extra_body": {"seed": 5}}
    return {**fields, **more}


@check
def anthropic_messages():
    answer = claude.messages.create(**message())
    assert answer.content[0].text == chat().choices[0].message.content
    assert answer.stop_reason in ("end_turn", "max_tokens") and answer.usage.output_tokens > 0


@check
def anthropic_stream():
    with claude.messages.stream(**message()) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == claude.messages.create(**message()).content[0].text
    assert final.stop_reason and final.usage.output_tokens > 0


@check
def anthropic_count_tokens_and_stops():
    counted = claude.messages.count_tokens(model=MODEL, system=SAY[0]["content"], messages=SAY[1:])
    assert counted.input_tokens == chat().usage.prompt_tokens
    text = claude.messages.create(**message()).content[0].text
    stop = text[5:8]
    cut = claude.messages.create(**message(stop_sequences=[stop]))
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)
    assert cut.content[0].text == text[:text.index(stop)]


@check
def anthropic_errors():
    try:
        claude.messages.create(**message(extra_body={"temprature": 1}))
    except anthropic.BadRequestError as error:
        assert "did you mean temperature?" in str(error)
    else:
        raise AssertionError("temprature was taken")


class Colour(pydantic.BaseModel, extra="forbid"):
    name: typing.Literal["red", "green", "blue"]
    shade: int = pydantic.Field(ge=0, le=255)


@check
def openai_parse_gives_the_type():
    for seed in range(4):
        answer = client.chat.completions.parse(model=MODEL, messages=SAY, response_format=Colour, max_tokens=64,
                                               temperature=5.0, seed=seed)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.parsed.name in ("red", "green", "blue")


@check
def openai_structured_stream():
    with client.chat.completions.stream(model=MODEL, messages=SAY, response_format=Colour, max_tokens=64, seed=5) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Colour.model_validate_json(final.choices[0].message.content)
    whole = chat(max_tokens=64, response_format={"type": "json_schema", "json_schema": {
        "name": "Colour", "strict": True, "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                                                     "additionalProperties": False}}})
    assert json.loads(whole.choices[0].message.content)["a"] in (True, False)


@check
def openai_json_object_and_the_forms_of_other_servers():
    answer = chat(max_tokens=200, response_format={"type": "json_object"}).choices[0]
    assert answer.finish_reason == "length" or isinstance(json.loads(answer.message.content), dict)
    for body, texts in [({"guided_choice": ["red", "blue"]}, ["red", "blue"]), ({"guided_regex": "[ab]"}, ["a", "b"]),
                        ({"guided_json": {"enum": [1, 2]}}, ["1", "2"]), ({"json_schema": {"enum": [1, 2]}}, ["1", "2"]),
                        ({"structured_outputs": {"choice": ["red", "blue"]}}, ["red", "blue"]),
                        ({"grammar": 'start: "red" | "blue"'}, ["red", "blue"])]:
        assert chat(temperature=5.0, extra_body=body).choices[0].message.content in texts, body


@check
def openai_a_wrong_schema_is_refused():
    try:
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}}})
    except openai.BadRequestError as error:
        assert error.param == "response_format.json_schema.schema", error
    else:
        raise AssertionError("a wrong schema was taken")


@check
def openai_forced_calls():
    """A model whose chat format knows no tools says so; others call."""
    tools = [openai.pydantic_function_tool(Colour, name="paint")]
    for choice in ("required", {"type": "function", "function": {"name": "paint"}}):
        try:
            answer = client.chat.completions.parse(model=MODEL, messages=SAY, tools=tools, tool_choice=choice, max_tokens=300,
                                                   temperature=2.0, seed=5, parallel_tool_calls=False)
        except openai.BadRequestError as error:
            assert error.param == "tools", error
            print("      (the model's chat format knows no tools: refused, as it should be)")
            return
        message = answer.choices[0].message
        call = message.tool_calls[0]
        assert answer.choices[0].finish_reason == "tool_calls" and not message.content
        assert call.function.name == "paint" and isinstance(call.function.parsed_arguments, Colour)
        with client.chat.completions.stream(model=MODEL, messages=SAY, tools=tools, tool_choice=choice, max_tokens=300,
                                            temperature=2.0, seed=5) as stream:
            for _ in stream:
                pass
            streamed_call = stream.get_final_completion().choices[0].message.tool_calls[0]
        assert streamed_call.function.arguments == call.function.arguments
        # The conversation goes on with the call's result.
        said = SAY + [message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True),
                      {"role": "tool", "tool_call_id": call.id, "content": "done"}]
        for one in said[2]["tool_calls"]:
            one["function"].pop("parsed_arguments", None)
        assert chat(messages=said, tools=tools).usage.completion_tokens > 0


@check
def anthropic_forced_calls():
    schema = Colour.model_json_schema()
    tools = [{"name": "paint", "description": "paint it", "input_schema": schema}]
    for choice in ({"type": "any"}, {"type": "tool", "name": "paint"}):
        try:
            answer = claude.messages.create(**message(tools=tools, tool_choice=choice, max_tokens=300))
        except anthropic.BadRequestError as error:
            assert "paint" in str(error), error
            return
        assert answer.stop_reason == "tool_use" and answer.content[0].name == "paint"
        Colour.model_validate(answer.content[0].input)


def ollama_options(**more):
    return {"num_predict": 24, "seed": 5, **more}


@check
def ollama_models():
    assert [model.model for model in llama.list().models] == [MODEL]
    assert llama.ps().models[0].context_length > 0
    shown = llama.show(MODEL)
    assert "completion" in shown.capabilities and shown.details.quantization_level
    assert shown.modelinfo["general.parameter_count"] > 0


@check
def ollama_chat_and_stream():
    whole = llama.chat(MODEL, messages=SAY, options=ollama_options())
    assert whole.message.content == chat().choices[0].message.content
    assert whole.done and whole.done_reason in ("stop", "length")
    assert whole.eval_count > 0 and whole.total_duration >= whole.eval_duration > 0
    parts = list(llama.chat(MODEL, messages=SAY, options=ollama_options(), stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert parts[-1].done and parts[-1].eval_count == whole.eval_count and len(parts) > 5


@check
def ollama_generate_and_log_probs():
    ask = {"model": MODEL, "system": SAY[0]["content"], "prompt": SAY[1]["content"], "options": ollama_options()}
    whole = llama.generate(**ask, logprobs=True, top_logprobs=2)
    assert whole.response == chat().choices[0].message.content
    assert "".join(token.token for token in whole.logprobs) == whole.response
    assert "".join(part.response for part in llama.generate(**ask, stream=True)) == whole.response
    raw = llama.generate(MODEL, "Once upon a time", raw=True, options=ollama_options(num_predict=16, temperature=0))
    text = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=16, temperature=0)
    assert raw.response == text.choices[0].text


@check
def ollama_errors_name_the_field():
    for options, word in [({"temprature": 1}, "did you mean temperature?"), ({"top_p": 3}, "top_p is 3")]:
        try:
            llama.chat(MODEL, messages=SAY, options=options)
        except ollama.ResponseError as error:
            assert word in str(error), error
        else:
            raise AssertionError(f"{options} were taken")


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b))


@check
def openai_embeddings():
    texts = ["A cat sleeps on the mat.", "A kitten naps on the rug.", "Shares fell on Wall Street today."]
    data = client.embeddings.create(model=MODEL, input=texts).data
    cat, kitten, shares = (one.embedding for one in data)
    assert abs(cosine(cat, cat) - 1) < 1e-5 and cosine(cat, kitten) > cosine(cat, shares)
    plain = client.embeddings.create(model=MODEL, input=texts[0], encoding_format="float").data[0].embedding
    assert max(abs(a - b) for a, b in zip(plain, cat)) < 1e-6
    vectors = llama.embed(MODEL, input=texts).embeddings
    assert max(abs(a - b) for a, b in zip(vectors[2], shares)) < 1e-6


def respond(**more):
    ask = {"model": MODEL, "instructions": SAY[0]["content"], "input": SAY[1]["content"], "max_output_tokens": 24}
    return client.responses.create(**{**ask, "extra_body": {"seed": 5}, **more})


@check
def openai_responses():
    whole = respond()
    assert whole.output_text == chat().choices[0].message.content and whole.status in ("completed", "incomplete")
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    events = list(respond(stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == f"response.{whole.status}"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text


@check
def openai_responses_stream_helper():
    """The helper gives final responses of completed answers alone, so one is stopped by a text and one is cut."""
    text = respond().output_text
    stop = text[5:8]
    ask = {"model": MODEL, "instructions": SAY[0]["content"], "input": SAY[1]["content"]}
    with client.responses.stream(**ask, max_output_tokens=24, extra_body={"seed": 5, "stop": [stop]}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.status == "completed" and final.output_text == text[:text.index(stop)]
    with client.responses.stream(**ask, max_output_tokens=2, extra_body={"seed": 5}) as stream:
        last = list(stream)[-1]
    assert last.type == "response.incomplete" and last.response.incomplete_details.reason == "max_output_tokens"


@check
def openai_responses_go_on():
    first = respond()
    items = [{"role": "user", "content": SAY[1]["content"]}, *first.output, {"role": "user", "content": "And one more?"}]
    next_ = respond(previous_response_id=first.id, input="And one more?")
    assert next_.output_text == respond(input=items).output_text
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    try:
        respond(previous_response_id=first.id)
    except openai.BadRequestError as error:
        assert error.code == "previous_response_not_found"
    else:
        raise AssertionError("an answer that was dropped was gone on with")


@check
def openai_responses_parse_gives_the_type():
    ask = {"model": MODEL, "input": SAY[1]["content"], "text_format": Colour, "max_output_tokens": 64}
    for seed in range(4):
        answer = client.responses.parse(**ask, temperature=5.0, extra_body={"seed": seed})
        assert answer.output_parsed.name in ("red", "green", "blue"), answer
    with client.responses.stream(**ask, extra_body={"seed": 5}) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.output_parsed == client.responses.parse(**ask, extra_body={"seed": 5}).output_parsed
    assert respond(text={"format": {"type": "json_object"}}, max_output_tokens=8).text.format.type == "json_object"


@check
def openai_responses_forced_calls():
    tools = [openai.pydantic_function_tool(Colour, name="paint")["function"] | {"type": "function"}]
    for choice in ("required", {"type": "function", "name": "paint"}):
        ask = {"tools": tools, "tool_choice": choice, "max_output_tokens": 200, "parallel_tool_calls": False}
        if not knows_tools():
            return refused(lambda: respond(**ask), "tools")
        call = respond(**ask).output[0]
        assert call.type == "function_call" and Colour.model_validate_json(call.arguments)
        streamed = [event for event in respond(**ask, stream=True) if event.type == "response.output_item.done"]
        assert streamed[0].item.arguments == call.arguments
        items = [{"role": "user", "content": SAY[1]["content"]}, call,
                 {"type": "function_call_output", "call_id": call.call_id, "output": "done"}]
        assert respond(input=items, tools=tools).usage.output_tokens > 0


def refused(ask, field):
    try:
        ask()
    except openai.BadRequestError as error:
        assert error.param == field, error
    else:
        raise AssertionError(f"{field} was taken")


@check
def openai_several_forced_calls():
    """Where calls may be parallel, an answer makes one or more, and the conversation goes on behind all of them."""
    if not knows_tools():
        return
    tools = [openai.pydantic_function_tool(Colour, name="paint")]
    most = 0
    for seed in range(8):
        choice = chat(tools=tools, tool_choice="required", temperature=3.0, seed=seed, max_tokens=300).choices[0]
        if choice.finish_reason == "length":
            continue
        calls = choice.message.tool_calls
        most = max(most, len(calls))
        assert all(Colour.model_validate_json(call.function.arguments) for call in calls)
        results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in calls]
        said = SAY + [choice.message.model_dump(include={"role", "content", "tool_calls"}), *results]
        assert chat(messages=said, tools=tools).usage.completion_tokens > 0
    assert most >= 1


@check
def openai_calls_or_a_form():
    """A form beside tools that may be called: the answer is calls or of the form."""
    if not knows_tools():
        return
    tools = [openai.pydantic_function_tool(Colour, name="paint")]
    for seed in range(6):
        answer = client.chat.completions.parse(model=MODEL, messages=SAY, tools=tools, response_format=Colour,
                                               max_tokens=200, temperature=2.0, seed=seed)
        message = answer.choices[0].message
        assert message.tool_calls or isinstance(message.parsed, Colour)


@check
def anthropic_parse_gives_the_type():
    class Paint(pydantic.BaseModel, extra="forbid"):
        name: typing.Literal["red", "green", "blue"]  # the package sends no bounds of numbers

    answer = claude.messages.parse(**message(output_format=Paint, max_tokens=64))
    assert answer.parsed_output.name in ("red", "green", "blue"), answer


@check
def ollama_formats():
    ask = {"model": MODEL, "options": ollama_options(num_predict=200, temperature=3.0)}
    for seed in range(3):
        ask["options"]["seed"] = seed
        said = llama.chat(**ask, messages=SAY, format=Colour.model_json_schema())
        assert Colour.model_validate_json(said.message.content)
        said = llama.generate(**ask, prompt=SAY[1]["content"], format=Colour.model_json_schema())
        assert Colour.model_validate_json(said.response)
    said = llama.chat(MODEL, messages=SAY, format="json", options=ollama_options(num_predict=8))
    assert said.message.content.startswith("{")


if __name__ == "__main__":
    import clients_chains  # noqa: F401
    import clients_eval  # noqa: F401

    run()
