"""Rows mended, and rows put aside: what `ktodata validate --fix` does to a copy of its input.

    Input(s) ─▶ validate ─▶ what can be mended ─▶ rounds ─▶ MendedFile(s) ─▶ outlet: files, rejects, a diff

`splice` replaces pieces of a JSON text, `edits` knows what to replace for each rule, `rounds` mends `copies` until
nothing is left to mend, `outlet` writes what became of them, `lines` tells how they differ.
"""
