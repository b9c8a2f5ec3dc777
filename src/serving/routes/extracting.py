"""Extraction: POST /extract, and the schemas that it knows by name."""

import asyncio
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

from fastapi import APIRouter, Request

from src.extraction.readers.schemas import as_data, read_schema, schema_names
from src.serving.extracting import ExtractShape, extraction
from src.serving.gateway import Gateway
from src.serving.replies import Reply
from src.serving.routes.generating import ERRORS, StrictRoute, begun, charged
from src.serving.schemas import ExtractRequest


def routes(gateway: Gateway) -> APIRouter:
    """/extract and /extract/schemas."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/extract", responses=ERRORS, response_model=None)
    async def extract(body: ExtractRequest, request: Request) -> Reply:
        """Entities, relations, events or records of texts, with their places and how the answers could be read."""
        with charged(gateway, request):
            wanted = await asyncio.to_thread(extraction, body, gateway.models, gateway.settings)
            texts = [each.document.text for each in wanted.plans]
            return await begun(gateway, request, wanted.asked, ExtractShape(wanted, count), "documents", texts)

    @router.get("/extract/schemas", responses=ERRORS)
    async def schemas() -> dict[str, Any]:
        """The schemas that have a name, each with its content, which can be changed and sent in its place."""
        return {"object": "list", "data": await asyncio.to_thread(known_schemas)}

    def count(statuses: Counter[str]) -> None:
        for status, number in statuses.items():
            gateway.metrics.extracted.labels(status).inc(number)

    return router


@cache
def known_schemas() -> list[dict[str, Any]]:
    """The files of ``configs/schema`` as the data of their YAML; those in two languages once for each."""
    found = []
    for name in schema_names():
        first = read_schema(name)
        both = replace(read_schema(name, "en"), name=name), replace(read_schema(name, "zh"), name=name)
        is_translated = replace(both[0], language="zh") != both[1]
        for schema in both if is_translated else (first,):
            found.append({"id": name, "language": schema.language, "schema": as_data(replace(schema, name=name))})
    return found
