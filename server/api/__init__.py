"""HTTP only: routes, wire schemas, guards and SSE. Everything else is injected."""
