"""Renderers: a page to text. They know sections, tables, charts and sentences, and nothing of reports."""
