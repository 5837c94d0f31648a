"""Records of any readable format as canonical JSON lines: what `ktodata convert` does.

    Input(s) ─▶ Line(s) ─▶ canonical lines, changes counted; findings; rejected rows

`spelling` writes one row anew and says what that changed, `loop` goes through the rows.
"""
