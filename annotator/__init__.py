"""Preprocessors: one file each, found by `annotator.registry.discover()`.

A detector turns a picture into a control map. This package stands alone: it imports nothing of the
extension's core, and every import inside it is relative, so it may be loaded from any folder.
"""
