"""Renderers of pages as text. They know sections, tables, charts and sentences, but not reports."""
