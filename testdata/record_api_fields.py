#!/usr/bin/env python3
"""Record the names of the fields of published request schemas, as the vendors' Python packages type them.

usage: testdata/record_api_fields.py        (needs: pip install openai==3.54.0 anthropic==2.12.0 ollama==0.6.3)
"""
import json
import typing
from importlib import metadata
from pathlib import Path

import anthropic
import openai
from anthropic.types import message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from ollama import _types as ollama_types
from openai.types.responses import response_create_params

SHAPES = {
    "/v1/chat/completions": chat_create_params.CompletionCreateParams,
    "/v1/completions": completion_create_params.CompletionCreateParams,
    "/v1/embeddings": embedding_create_params.EmbeddingCreateParams,
    "/v1/responses": response_create_params.ResponseCreateParams,
    "/v1/messages": message_create_params.MessageCreateParams,
}

OLLAMA = {
    "/api/chat": ollama_types.ChatRequest,
    "/api/generate": ollama_types.GenerateRequest,
    "/api/embed": ollama_types.EmbedRequest,
    "/api/embeddings": ollama_types.EmbeddingsRequest,
    "/api/show": ollama_types.ShowRequest,
    "options": ollama_types.Options,
}


def names(params):
    variants = typing.get_args(params) or [params]
    return sorted({name for variant in variants for name in typing.get_type_hints(variant, include_extras=True)})


record = {
    "openai": openai.__version__,
    "anthropic": anthropic.__version__,
    "ollama": metadata.version("ollama"),
    "shapes": {path: names(params) for path, params in SHAPES.items()}
    | {path: sorted(model.model_fields) for path, model in OLLAMA.items()},
}
path = Path(__file__).parent / "api_fields.json"
path.write_text(json.dumps(record, indent=1) + "\n")
print({name: len(fields) for name, fields in record["shapes"].items()})
