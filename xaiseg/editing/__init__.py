"""Edits of an image that ask a model one question each, and the sham of each edit.

An edit changes what the question is about (the object, its background, its place) and, unavoidably, other things:
seams, smooth patches, lost texture. Its sham changes those other things alone. So a model's answer to the edit is
compared with its answer to the sham, and never with its answer to the image as it is.
"""
