"""Pages of the management API. Apart from config.api: DRF imports this while its own views are being defined."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from rest_framework.pagination import CursorPagination as BaseCursorPagination
from rest_framework.request import Request


class CursorPagination(BaseCursorPagination):
    """`results` and `next`; `?page_size=` up to 200. Newest first unless the resource says otherwise."""

    page_size = 50
    max_page_size = 200
    page_size_query_param = "page_size"
    ordering: str | tuple[str, ...] = "-created_at"

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        """The page. Its links carry the configured address, not the request's Host header."""
        page: list[Any] | None = super().paginate_queryset(queryset, request, view)
        link = urlsplit(str(self.base_url))
        self.base_url = settings.BERTH_PUBLIC_URL + link.path + (f"?{link.query}" if link.query else "")
        return page
