"""Commands on bundles: export a model, combine variants, check a bundle again."""
